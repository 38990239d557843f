//! TCP and TLS connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::tls::{self, TlsError};
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;

/// An open connection.
pub type Stream = Box<dyn Io>;

/// What HTTP needs of a connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP or TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// HTTP's first words.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no connection in time")]
    Slow,
}

impl DialError {
    /// The certificate is trusted but carries another name.
    pub fn is_certificate_name(&self) -> bool {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Self::Io(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(
            inner,
            Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
        )
    }
}

/// Opens connections to an endpoint's addresses.
pub struct Dialer {
    endpoint: Endpoint,
    tls: Option<(tls::Client, ServerName<'static>)>,
}

impl Dialer {
    /// `tls` is there exactly when the endpoint is https.
    pub fn new(endpoint: Endpoint, tls: Option<tls::Client>) -> Result<Self, TlsError> {
        let name = tls.as_ref().map(|tls| tls.server_name(&endpoint.host)).transpose()?;
        Ok(Self { tls: tls.zip(name), endpoint })
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects, `limit` at most.
    pub async fn dial(&self, address: SocketAddr, limit: Duration) -> Result<Stream, DialError> {
        match &self.tls {
            Some((tls, name)) => dial_tls(address, tls, name.clone(), limit).await,
            None => dial_plain(address, limit).await,
        }
    }
}

/// A plain connection, `limit` at most.
pub async fn dial_plain(address: SocketAddr, limit: Duration) -> Result<Stream, DialError> {
    let connect = async { Ok::<Stream, DialError>(Box::new(tcp(address).await?)) };
    tokio::time::timeout(limit, connect).await.map_err(|_| DialError::Slow)?
}

/// A connection to a server whose certificate carries `name`, `limit` at most.
pub async fn dial_tls(
    address: SocketAddr,
    tls: &tls::Client,
    name: ServerName<'static>,
    limit: Duration,
) -> Result<Stream, DialError> {
    let connect = async {
        let stream = TlsConnector::from(tls.config()).connect(name, tcp(address).await?).await?;
        Ok::<Stream, DialError>(Box::new(stream))
    };
    tokio::time::timeout(limit, connect).await.map_err(|_| DialError::Slow)?
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
