//! Who may send: whoever has a token of a file, or a service account that the Kubernetes API knows. With neither, anyone.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sonde_daemon::receive::refusal::{Reason, Refusal};
use sonde_daemon::secret::Tokens;

use super::accounts::{Accounts, Verdict};

/// The ways in; both empty = anyone may send.
#[derive(Default)]
pub struct Senders {
    /// Accepted tokens.
    pub tokens: Option<Tokens>,
    /// Accepted service accounts.
    pub accounts: Option<Accounts>,
}

impl Senders {
    /// Whether the sender of a request with these headers may send.
    ///
    /// # Errors
    /// It may not, or that cannot be known now.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.tokens.is_none() && self.accounts.is_none() {
            return Ok(());
        }
        let header = headers.get(AUTHORIZATION);
        if self.tokens.as_ref().is_some_and(|tokens| tokens.accept_header(header)) {
            return Ok(());
        }
        let token = header.and_then(|value| value.to_str().ok()).and_then(|text| text.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (&self.accounts, token) {
            (Some(accounts), Some((_, token))) => match accounts.verdict(token.trim()).await {
                Verdict::Accepted => Ok(()),
                Verdict::Denied(reason) => Err(Refusal::new(Reason::Unauthenticated, reason)),
                Verdict::Unknown => Err(Refusal::new(
                    Reason::Unreviewed,
                    "the Kubernetes API does not say whether this token is good",
                )),
            },
            _ => {
                Err(Refusal::new(Reason::Unauthenticated, "a bearer token that is accepted here is missing"))
            }
        }
    }
}
