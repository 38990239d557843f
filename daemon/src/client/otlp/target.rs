//! What a request says before its body: method, path and headers, made once.

use std::sync::Arc;

use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT,
};
use http::{HeaderMap, Method, Request, Uri};
use sonde_wire::grpc::{LOGS_EXPORT_PATH, METRICS_EXPORT_PATH, RESEND_HEADER, TRACES_EXPORT_PATH};

use super::packer::{Encoding, Packed};
use super::{Options, Protocol};
use crate::client::endpoint::Endpoint;
use crate::secret::Token;

/// Why no request can be made from the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A header that HTTP cannot carry.
    #[error("headers: `{0}` cannot be a header: {1}")]
    Header(String, http::Error),
    /// The path cannot be part of a request.
    #[error("endpoint: {0}")]
    Uri(#[from] http::uri::InvalidUri),
}

/// A service of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Logs.
    Logs,
    /// Metrics.
    Metrics,
    /// Traces.
    Traces,
}

impl Service {
    /// Path of the one call over gRPC, and of the request over HTTP.
    fn paths(self) -> (&'static str, &'static str) {
        match self {
            Self::Logs => (LOGS_EXPORT_PATH, "/v1/logs"),
            Self::Metrics => (METRICS_EXPORT_PATH, "/v1/metrics"),
            Self::Traces => (TRACES_EXPORT_PATH, "/v1/traces"),
        }
    }

    const ALL: [Self; 3] = [Self::Logs, Self::Metrics, Self::Traces];

    /// The service whose call over gRPC this is.
    pub fn of_grpc_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.paths().0 == path)
    }

    /// The service whose request over HTTP this is.
    pub fn of_http_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.paths().1 == path)
    }

    /// The label `signal`.
    pub fn signal(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

/// One of the receiver's services.
pub struct Target {
    endpoint: Endpoint,
    protocol: Protocol,
    uri: Uri,
    headers: HeaderMap,
    token: Option<Arc<Token>>,
}

impl Target {
    /// The deadline is told to a gRPC receiver, which may give up then too.
    pub fn new(options: &mut Options) -> Result<Self, TargetError> {
        let (endpoint, protocol) = (options.endpoint.clone(), options.protocol);
        let mut headers = HeaderMap::new();
        for (name, value) in options.headers.iter() {
            let failed = |error| TargetError::Header(name.clone(), error);
            let key: HeaderName =
                name.to_ascii_lowercase().parse().map_err(|error| failed(http::Error::from(error)))?;
            let value: HeaderValue = value.parse().map_err(|error| failed(http::Error::from(error)))?;
            headers.insert(key, value);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(options.user_agent));
        match protocol {
            Protocol::Grpc => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(TE, HeaderValue::from_static("trailers"));
                headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
                if let Ok(timeout) = HeaderValue::from_str(&format!("{}m", options.deadline.as_millis())) {
                    headers.insert("grpc-timeout", timeout);
                }
            }
            Protocol::Http => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                if let Ok(host) = HeaderValue::from_str(&endpoint.authority()) {
                    headers.insert(HOST, host);
                }
            }
        }
        let uri = uri(&endpoint, protocol, options.service)?;
        Ok(Self { endpoint, protocol, uri, headers, token: options.token.take().map(Arc::new) })
    }

    /// Another service of the same receiver.
    pub fn beside(&self, service: Service) -> Result<Self, TargetError> {
        Ok(Self {
            endpoint: self.endpoint.clone(),
            protocol: self.protocol,
            uri: uri(&self.endpoint, self.protocol, service)?,
            headers: self.headers.clone(),
            token: self.token.clone(),
        })
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A request; `resend` = it may hold records that were sent before.
    pub fn request(&self, packed: &Packed, resend: bool) -> Request<Packed> {
        let mut request = Request::new(packed.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if packed.encoding != Encoding::Identity {
            let value = HeaderValue::from_static(packed.encoding.name());
            match self.protocol {
                Protocol::Grpc => headers.insert("grpc-encoding", value),
                Protocol::Http => headers.insert(CONTENT_ENCODING, value),
            };
        }
        if resend {
            headers.insert(RESEND_HEADER, HeaderValue::from_static("1"));
        }
        if let Some(token) = &self.token
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.get()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        request
    }
}

/// What is asked for.
fn uri(endpoint: &Endpoint, protocol: Protocol, service: Service) -> Result<Uri, TargetError> {
    let (grpc_path, http_path) = service.paths();
    Ok(match protocol {
        Protocol::Grpc => {
            let (scheme, authority, path) = (endpoint.scheme(), endpoint.authority(), &endpoint.path);
            format!("{scheme}://{authority}{path}{grpc_path}").parse()?
        }
        Protocol::Http => {
            // Who gives the logs' whole path as the endpoint means the place that it is in.
            let path = endpoint.path.strip_suffix("/v1/logs").unwrap_or(&endpoint.path);
            format!("{path}{http_path}").parse()?
        }
    })
}
