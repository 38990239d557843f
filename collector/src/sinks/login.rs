//! Who we say we are to a destination, and whom we trust.

use std::path::Path;

use http::HeaderValue;
use sonde_daemon::secret::Token;
use sonde_daemon::tls::{ClientOptions, Roots};

use super::SinkError;
use crate::config::{ClientTls, Sink};
use crate::json;

/// A way to log in. Files are read again when they change.
pub enum Login {
    /// None.
    None,
    /// A user and the password.
    Basic(String, Token),
    /// Elasticsearch's API key.
    ApiKey(Token),
    /// A bearer token.
    Bearer(Token),
}

impl Login {
    /// Reads the files for the first time.
    pub fn build(sink: &Sink) -> Result<Self, SinkError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let open = |path: String| Token::open(Path::new(&path));
        Ok(match (given(&sink.username), given(&sink.api_key_file), given(&sink.token_file)) {
            (Some(name), _, _) => Self::Basic(name, open(given(&sink.password_file).unwrap_or_default())?),
            (_, Some(file), _) => Self::ApiKey(open(file)?),
            (_, _, Some(file)) => Self::Bearer(open(file)?),
            _ => Self::None,
        })
    }

    /// The value of `authorization`.
    pub fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::None => return None,
            Self::Basic(name, password) => {
                let mut base64 = Vec::new();
                json::write_base64(format!("{name}:{}", password.get()).as_bytes(), &mut base64);
                format!("Basic {}", String::from_utf8_lossy(&base64).trim_matches('"'))
            }
            Self::ApiKey(key) => format!("ApiKey {}", key.get()),
            Self::Bearer(token) => format!("Bearer {}", token.get()),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// `alpn` = the one protocol that is spoken.
pub fn tls_options(config: &ClientTls, alpn: &[u8]) -> ClientOptions {
    let roots = match config.ca_file.as_str() {
        "" => Roots::System,
        file => Roots::Files(vec![file.into()]),
    };
    let identity = (!config.cert_file.is_empty())
        .then(|| (config.cert_file.as_str().into(), config.key_file.as_str().into()));
    ClientOptions {
        roots,
        identity,
        server_name: config.server_name.clone(),
        insecure_skip_verify: config.insecure_skip_verify,
        alpn: vec![alpn.to_vec()],
    }
}
