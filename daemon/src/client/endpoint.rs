//! An HTTP(S) URL taken apart: what a client dials, and what it asks for there.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

/// Where a client connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`.
    pub tls: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path prefix without a slash at the end; often empty.
    pub path: String,
}

/// Why a text is no URL that we can dial.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Not a URL.
    #[error("`{0}` is not a URL (expected one such as `http://collector:4317`)")]
    Form(String),
    /// A scheme other than http and https.
    #[error("`{0}` has no scheme that we speak (expected http:// or https://)")]
    Scheme(String),
    /// User information, a query or a fragment.
    #[error("`{0}` has a part that is not used (expected scheme, host, port and path only)")]
    Excess(String),
}

impl Endpoint {
    /// Reads a URL; `ports` are the defaults for http and https.
    pub fn parse(text: &str, ports: (u16, u16)) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(text.to_owned());
        if text.contains(['#', '?']) || text.contains('@') {
            return Err(EndpointError::Excess(without_secrets(text)));
        }
        let uri: Uri = in_brackets(text).parse().map_err(|_| form())?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(EndpointError::Scheme(text.to_owned())),
        };
        let authority = uri.authority().ok_or_else(form)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => [ports.0, ports.1][usize::from(tls)],
            _ => authority.port_u16().filter(|port| *port != 0).ok_or_else(form)?,
        };
        if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
            return Err(form());
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, path })
    }

    /// Host and port as a `Host` header and `:authority` carry them.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// A URL as it may be printed: what stands before the host may be a password, and what is asked for behind the path a token.
fn without_secrets(text: &str) -> String {
    let is_scheme = |end: &usize| text[..*end].bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (scheme, rest) = text.find("://").filter(is_scheme).map_or(("", text), |end| text.split_at(end + 3));
    let (before, behind) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    // An `@` behind it may end a user's name that has it, or be part of what is asked for: nothing tells.
    if behind.contains('@') {
        return format!("{scheme}…");
    }
    let user = before.rfind('@').map_or("", |_| "…@");
    let host = before.rsplit('@').next().unwrap_or_default();
    let mark = behind.get(..1).unwrap_or_default();
    format!("{scheme}{user}{host}{mark}{}", if mark.is_empty() { "" } else { "…" })
}

/// Puts an IPv6 address in brackets where they were left out, as in `https://${NODE_IP}:10250`. What stands after the
/// last colon is the port where an address is left without it.
fn in_brackets(text: &str) -> Cow<'_, str> {
    let bracketed = || {
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        match authority.rsplit_once(':')? {
            (host, port) if is_address(host) && port.parse::<u16>().is_ok() => {
                Some(format!("{scheme}://[{host}]:{port}{path}"))
            }
            _ if is_address(authority) => Some(format!("{scheme}://[{authority}]{path}")),
            _ => None,
        }
    };
    bracketed().map_or(Cow::Borrowed(text), Cow::Owned)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, shown) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://collector", "http://collector:4317"),
            ("https://collector.sonde.svc/", "https://collector.sonde.svc:4317"),
            ("https://[::1]:10250", "https://[::1]:10250"),
            ("https://[fe80::1]", "https://[fe80::1]:4317"),
            ("http://gw.example/otlp/", "http://gw.example:4317/otlp"),
            // A node's address put into a URL without knowing its family.
            ("https://fd00::1:10250", "https://[fd00::1]:10250"),
            ("https://2001:db8:1:2:3:4:5:6:10250/x", "https://[2001:db8:1:2:3:4:5:6]:10250/x"),
            ("http://2001:db8:1:2:3:4:5:6", "http://[2001:db8:1:2:3:4:5:6]:4317"),
        ] {
            assert_eq!(Endpoint::parse(text, (4317, 4317)).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_its_text() {
        for text in [
            "",
            "collector:4317",
            "ftp://x",
            "http://",
            "http://:80",
            "http://x:0",
            "http://x:99999",
            "http://x:",
            "http://x y",
            "http://[::1",
        ] {
            let error = Endpoint::parse(text, (80, 443)).unwrap_err();
            assert!(error.to_string().contains(text), "{text}: {error}");
        }
        for text in ["http://u:hunter2@x/y", "u:hunter2@x", "https://u:hunter2@3@x"] {
            let error = Endpoint::parse(text, (80, 443)).unwrap_err().to_string();
            assert!(error.contains("…@x") && !error.contains("hunter2"), "{error}");
        }
        for (text, shown) in [
            ("http://x/y?token=hunter2", "`http://x/y?…`"),
            ("http://x?token=hunter2#hunter2", "`http://x?…`"),
            ("http://x/#hunter2", "`http://x/#…`"),
            ("ftp://x/?hunter2", "`ftp://x/?…`"),
            ("x?hunter2", "`x?…`"),
            ("http://u:hunter2@x/?hunter2", "`http://…@x/?…`"),
            // What is before the host here, and what is behind it?
            ("http://u:hun?ter2@x/hunter2", "`http://…`"),
            ("http://x/?mail=a@hunter2", "`http://…`"),
            ("http://x/?mail=a@b?hunter2", "`http://…`"),
            ("u:hun?hunter2@x", "`…`"),
            ("u:hunter2@x://y", "`…@x://y`"),
        ] {
            let error = Endpoint::parse(text, (80, 443)).unwrap_err().to_string();
            assert!(error.starts_with(shown) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(text in "\\PC{0,40}") {
            for text in [text.clone(), format!("http://{text}"), format!("https://a:1/{text}")] {
                if let Ok(endpoint) = Endpoint::parse(&text, (80, 443)) {
                    prop_assert_eq!(Endpoint::parse(&endpoint.to_string(), (1, 2)).unwrap(), endpoint);
                }
            }
        }
    }
}
