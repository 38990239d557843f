//! TLS from files that may change: configurations are made again when a certificate, a key or an authority is
//! replaced; connections that are open keep what they have. One provider: ring.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::watched::Watched;

/// ALPN of HTTP/2.
pub const H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";

/// The authorities that a peer's certificate must come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The system's.
    System,
    /// Those in these PEM files.
    Files(Vec<PathBuf>),
    /// Those in the PEM files of these that exist; at least one certificate in all.
    AnyOf(Vec<PathBuf>),
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, which) = match self {
            Self::System => return f.write_str("the system's store"),
            Self::Files(files) => (files, ""),
            Self::AnyOf(files) => (files, "none of "),
        };
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        write!(f, "{which}{}", files.join(", "))
    }
}

/// What a client's TLS is made of.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Authorities that are trusted.
    pub roots: Roots,
    /// Our certificate chain and its key, PEM; `None` = we show none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must carry; empty = the host that is connected to.
    pub server_name: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Protocols to offer, best first: [`H2`], [`HTTP1`].
    pub alpn: Vec<Vec<u8>>,
}

/// What a server's TLS is made of.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// Authorities of client certificates, PEM; given = a client must show one of theirs.
    pub client_ca_file: Option<PathBuf>,
    /// Protocols to accept, best first.
    pub alpn: Vec<Vec<u8>>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{}: holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// None of the files exists, or the system has no authorities.
    #[error("no trusted authority: {0}")]
    NoRoots(String),
    /// The pieces do not fit: a key of another certificate, a certificate that is not one.
    #[error("{}: {source}", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// rustls refused the configuration as a whole.
    #[error("TLS: {0}")]
    Refused(String),
    /// Neither a host name nor an address.
    #[error("`{0}` is no name that a certificate could carry")]
    Name(String),
}

/// A client's TLS.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    config: Watched<Arc<ClientConfig>>,
}

/// A server's TLS.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    config: Watched<Arc<ServerConfig>>,
}

/// Makes ring the process's provider, for libraries that ask for the default. Call once in main.
pub fn install() {
    // Err = one is installed; ours never depend on it.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Client {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn new(options: ClientOptions) -> Result<Self, TlsError> {
        let mut paths = match &options.roots {
            Roots::System => Vec::new(),
            Roots::Files(files) | Roots::AnyOf(files) => files.clone(),
        };
        if let Some((cert, key)) = &options.identity {
            paths.extend([cert.clone(), key.clone()]);
        }
        if !options.server_name.is_empty() {
            name(&options.server_name)?;
        }
        let config = Watched::new(paths, || client_config(&options).map(Arc::new))?;
        Ok(Self { options, config })
    }

    /// The configuration for the next connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config.get(|| client_config(&self.options).map(Arc::new)))
    }

    /// The name to verify when connecting to `host` (a name, an address, or an address in brackets).
    ///
    /// # Errors
    /// When it is neither a name nor an address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        name(if self.options.server_name.is_empty() { host } else { &self.options.server_name })
    }
}

impl Server {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn new(options: ServerOptions) -> Result<Self, TlsError> {
        let mut paths = vec![options.cert_file.clone(), options.key_file.clone()];
        paths.extend(options.client_ca_file.clone());
        let config = Watched::new(paths, || server_config(&options).map(Arc::new))?;
        Ok(Self { options, config })
    }

    /// The configuration for the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.get(|| server_config(&self.options).map(Arc::new)))
    }
}

fn name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn refused(error: impl std::fmt::Display) -> TlsError {
    TlsError::Refused(error.to_string())
}

fn client_config(options: &ClientOptions) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = if options.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
    } else {
        let roots = Arc::new(roots(&options.roots)?);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(refused)?;
        builder.with_webpki_verifier(verifier)
    };
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|source| TlsError::Unfit { path: cert.clone(), source })?,
    };
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(config)
}

fn server_config(options: &ServerOptions) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match &options.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(roots(&Roots::Files(vec![file.clone()]))?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(refused)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(&options.cert_file)?, private_key(&options.key_file)?)
        .map_err(|source| TlsError::Unfit { path: options.cert_file.clone(), source })?;
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(config)
}

fn roots(from: &Roots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match from {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            // A single odd certificate in the system's bundle is not our business.
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsError::NoRoots(format!("the system's store is empty {}", errors.join(", "))));
            }
        }
        Roots::Files(files) => {
            for file in files {
                add(&mut store, file)?;
            }
        }
        Roots::AnyOf(files) => {
            for file in files.iter().filter(|file| file.exists()) {
                add(&mut store, file)?;
            }
        }
    }
    if store.is_empty() {
        return Err(TlsError::NoRoots(from.to_string()));
    }
    Ok(store)
}

fn add(store: &mut RootCertStore, file: &Path) -> Result<(), TlsError> {
    for certificate in certificates(file)? {
        store.add(certificate).map_err(|source| TlsError::Unfit { path: file.to_owned(), source })?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::Pem { path: path.to_owned(), source };
    let list: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    if list.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(list) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

/// `insecure_skip_verify`: takes any certificate, though the peer must still hold its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
