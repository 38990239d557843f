//! Service accounts as senders: their tokens are reviewed by the Kubernetes API (`TokenReview` of
//! `authentication.k8s.io/v1`, which needs the right to create `tokenreviews`, as `system:auth-delegator` gives it).
//!
//! What is no JSON Web Token for our audience, or is past its `exp` (RFC 7519), is denied without asking. A good answer
//! holds for [`FRESH`]; then it is asked for again beside the requests, which go on, and while the API does not answer it
//! holds for [`GRACE`], but never beyond `exp`: logs go on through an outage of the control plane. A denial holds for
//! [`DENIED`]. Reviews of tokens that nothing is known of and those of known ones have turns of their own, and known ones are
//! forgotten for their age alone: whoever floods us with forged tokens keeps out newcomers, not those who are in. Kept are
//! [`TOKENS`] good answers (by a keyed hash, about 100 B each: 5 MiB) and [`DENIALS`] denials (about 200 B each: 2 MiB).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, Bytes};
use hyper::Request;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use sonde_daemon::client::dial::Dialer;
use sonde_daemon::client::endpoint::{Endpoint, EndpointError};
use sonde_daemon::client::names::System;
use sonde_daemon::client::pool::{Body, CallError, Pool, Version};
use sonde_daemon::log::RateLimit;
use sonde_daemon::secret::{SecretError, Token};
use sonde_daemon::tls;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a good answer holds.
pub const FRESH: Duration = Duration::from_secs(60);
/// How long it holds while the API gives no answer.
pub const GRACE: Duration = Duration::from_secs(60 * 60);
/// How long a denial holds.
pub const DENIED: Duration = Duration::from_secs(10);
/// How long the API is left alone about a token after it gave no answer.
pub const AGAIN: Duration = Duration::from_secs(10);
/// Reviews under way at most, of known tokens and of others each.
pub const REVIEWS: usize = 8;
/// Good tokens that are remembered.
pub const TOKENS: usize = 50_000;
/// Denials that are remembered.
pub const DENIALS: usize = 10_000;

const ANSWER: Duration = Duration::from_secs(5);
const ANSWER_BYTES: usize = 256 << 10;
/// The longest token that is looked at; the API's own are about 1 KiB.
const TOKEN_BYTES: usize = 16 << 10;
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Before an account's name in a review.
const PREFIX: &str = "system:serviceaccount:";

/// Where a pod finds the API, its authority and its own token (Kubernetes, "Accessing the Kubernetes API from a Pod").
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the API is and who may send.
#[derive(Clone, Debug)]
pub struct Options {
    /// URL of the API.
    pub api: String,
    /// Our own token.
    pub token_file: PathBuf,
    /// The API's authority.
    pub ca_file: PathBuf,
    /// The audience that a token must be for.
    pub audience: String,
    /// Accepted accounts as `namespace/name`; empty = any.
    pub accounts: Vec<String>,
}

/// Why tokens cannot be reviewed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// Not in a pod.
    #[error("KUBERNETES_SERVICE_HOST is not set: tokens can be reviewed in a pod only")]
    NoCluster,
    /// The API's URL.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The API's authority.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Our own token.
    #[error(transparent)]
    Token(#[from] SecretError),
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is good and of an accepted account.
    Accepted,
    /// It is not; why, for people.
    Denied(String),
    /// The API does not say.
    Unknown,
}

/// Reviews tokens. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Shared>);

struct Shared {
    options: Options,
    api: Endpoint,
    own: Token,
    pool: Arc<Pool>,
    hashes: [RandomState; 2],
    known: Mutex<Known>,
    newcomers: Semaphore,
    again: Semaphore,
    said: RateLimit,
}

/// What is known of tokens, by their hash.
#[derive(Default)]
struct Known {
    accepted: HashMap<u128, Accepted>,
    denied: HashMap<u128, (Instant, String)>,
}

struct Accepted {
    /// When the API said so.
    at: Instant,
    /// When it was asked last.
    asked: Instant,
}

/// What is to be done about a token.
enum Next {
    Say(Verdict),
    /// It is accepted, and it is time to ask again.
    AskBeside,
    Ask,
}

impl Known {
    fn next(&mut self, hash: u128, now: Instant) -> Next {
        if let Some(accepted) = self.accepted.get_mut(&hash).filter(|accepted| accepted.holds(now)) {
            let pause = if accepted.asked == accepted.at { FRESH } else { AGAIN };
            if now.duration_since(accepted.asked) < pause {
                return Next::Say(Verdict::Accepted);
            }
            accepted.asked = now;
            return Next::AskBeside;
        }
        match self.denied.get(&hash) {
            Some((at, reason)) if now.duration_since(*at) < DENIED => {
                Next::Say(Verdict::Denied(reason.clone()))
            }
            _ => Next::Ask,
        }
    }

    fn learn(&mut self, hash: u128, verdict: &Verdict, now: Instant) {
        match verdict {
            Verdict::Accepted => {
                if self.accepted.len() >= TOKENS {
                    self.accepted.retain(|_, accepted| accepted.holds(now));
                }
                if self.accepted.len() < TOKENS || self.accepted.contains_key(&hash) {
                    self.accepted.insert(hash, Accepted { at: now, asked: now });
                }
            }
            Verdict::Denied(reason) => {
                self.accepted.remove(&hash);
                if self.denied.len() >= DENIALS {
                    self.denied.clear();
                }
                self.denied.insert(hash, (now, reason.clone()));
            }
            Verdict::Unknown => {}
        }
    }
}

impl Accepted {
    fn holds(&self, now: Instant) -> bool {
        now.duration_since(self.at) < GRACE
    }
}

impl Options {
    /// As a pod finds it.
    ///
    /// # Errors
    /// This is no pod.
    pub fn of_pod(audience: &str, accounts: &[String]) -> Result<Self, AccountsError> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").map_err(|_| AccountsError::NoCluster)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        Ok(Self {
            api: format!("https://{host}:{port}"),
            token_file: format!("{MOUNT}/token").into(),
            ca_file: format!("{MOUNT}/ca.crt").into(),
            audience: audience.to_owned(),
            accounts: accounts.to_vec(),
        })
    }
}

impl Accounts {
    /// Reads our token and the authority; connects to nothing.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn new(options: Options) -> Result<Self, AccountsError> {
        let api = Endpoint::parse(&options.api, (80, 443))?;
        let tls = (api.scheme() == "https").then(|| {
            tls::Client::new(tls::ClientOptions {
                roots: tls::Roots::Files(vec![options.ca_file.clone()]),
                identity: None,
                server_name: String::new(),
                insecure_skip_verify: false,
                alpn: vec![tls::HTTP1.to_vec()],
            })
        });
        let dialer = Dialer::new(api.clone(), tls.transpose()?)?;
        Ok(Self(Arc::new(Shared {
            own: Token::open(&options.token_file)?,
            pool: Pool::new(dialer, Box::new(System), Version::Http1, 1, ANSWER_BYTES),
            options,
            api,
            hashes: [RandomState::new(), RandomState::new()],
            known: Mutex::default(),
            newcomers: Semaphore::new(REVIEWS),
            again: Semaphore::new(REVIEWS),
            said: RateLimit::new(Duration::from_secs(60)),
        })))
    }

    /// What is known of `token`; asks the API where that is not enough.
    pub async fn verdict(&self, token: &str) -> Verdict {
        self.verdict_at(token, Instant::now()).await
    }

    async fn verdict_at(&self, token: &str, now: Instant) -> Verdict {
        if let Err(reason) = plausible(token, &self.0.options.audience) {
            return Verdict::Denied(reason.to_owned());
        }
        let hash = self.0.hash(token);
        let next = self.0.known().next(hash, now);
        match next {
            Next::Say(verdict) => verdict,
            Next::Ask => self.0.ask(hash, token, &self.0.newcomers, now).await,
            Next::AskBeside => {
                let (shared, token) = (Arc::clone(&self.0), token.to_owned());
                // One for each known token at most, and over within `ANSWER`.
                tokio::spawn(async move { shared.ask(hash, &token, &shared.again, now).await });
                Verdict::Accepted
            }
        }
    }
}

impl Shared {
    fn hash(&self, token: &str) -> u128 {
        let [high, low] = self.hashes.each_ref().map(|hash| u128::from(hash.hash_one(token)));
        high << 64 | low
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the API, and keeps its answer.
    async fn ask(&self, hash: u128, token: &str, turns: &Semaphore, now: Instant) -> Verdict {
        match self.review(token, turns).await {
            Ok(verdict) => {
                self.known().learn(hash, &verdict, now);
                verdict
            }
            Err(reason) => {
                if let Some(suppressed) = self.said.allow() {
                    tracing::warn!(reason, suppressed, "the Kubernetes API does not review tokens");
                }
                Verdict::Unknown
            }
        }
    }

    async fn review(&self, token: &str, turns: &Semaphore) -> Result<Verdict, String> {
        let work = async {
            let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
            let request = self.request(token)?;
            let reply = match self.pool.call(&request, ANSWER).await {
                // To ask twice is to ask once.
                Err(CallError::Unknown { .. }) => self.pool.call(&request, ANSWER).await,
                reply => reply,
            };
            let (_, reply) = reply.map_err(|error| error.to_string())?;
            if !reply.status.is_success() {
                return Err(format!("it answers {}", reply.status));
            }
            let review: Review = serde_json::from_slice(&reply.body)
                .map_err(|error| format!("its answer is no TokenReview: {error}"))?;
            Ok(review.status.verdict(&self.options))
        };
        tokio::time::timeout(ANSWER, work).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    fn request(&self, token: &str) -> Result<Request<Question>, String> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.options.audience]},
        });
        let mut own = HeaderValue::from_str(&format!("Bearer {}", self.own.get()))
            .map_err(|error| error.to_string())?;
        own.set_sensitive(true);
        Request::post(format!("{}{PATH}", self.api.path))
            .header(HOST, self.api.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, own)
            .body(Question(body.to_string().into()))
            .map_err(|error| error.to_string())
    }
}

#[derive(Clone)]
struct Question(Bytes);

impl From<Question> for Body {
    fn from(question: Question) -> Self {
        Self::new(question.0.chain(Bytes::new()))
    }
}

/// The claims that we look at (RFC 7519 section 4.1).
#[derive(Deserialize)]
struct Claims {
    aud: Audience,
    exp: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Denies what no review could accept. The signature is the API's to check.
fn plausible(token: &str, audience: &str) -> Result<(), &'static str> {
    const NO_TOKEN: &str = "this is no service account's token";
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(NO_TOKEN);
    };
    if token.len() > TOKEN_BYTES {
        return Err("this token is too long");
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| NO_TOKEN)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| NO_TOKEN)?;
    let ours = match &claims.aud {
        Audience::One(one) => one == audience,
        Audience::Many(many) => many.iter().any(|one| one == audience),
    };
    if !ours {
        return Err("this token is for another audience");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if claims.exp.is_some_and(|exp| exp <= now) {
        return Err("this token has expired");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

impl Status {
    fn verdict(self, options: &Options) -> Verdict {
        if !self.authenticated {
            return Verdict::Denied("the Kubernetes API does not accept this token".to_owned());
        }
        // An API that knows no audiences names none, and has looked at none.
        if !self.audiences.contains(&options.audience) {
            return Verdict::Denied(
                "the Kubernetes API does not accept this token for our audience".to_owned(),
            );
        }
        let Some((namespace, name)) =
            self.user.username.strip_prefix(PREFIX).and_then(|name| name.split_once(':'))
        else {
            return Verdict::Denied("this token is no service account's".to_owned());
        };
        let is = |account: &String| account.split_once('/') == Some((namespace, name));
        if options.accounts.is_empty() || options.accounts.iter().any(is) {
            Verdict::Accepted
        } else {
            Verdict::Denied(format!("the service account {namespace}/{name} may not send here"))
        }
    }
}

#[cfg(test)]
mod tests;
