//! What TLS from files promises.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, dir: &Path, file: &str, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
        fs::write(&cert_file, cert.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }
}

async fn talk(server: &Server, client: &Client, host: &str) -> std::io::Result<()> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let accept = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(server.config()).accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    };
    let connect = async {
        let name = client.server_name(host).map_err(std::io::Error::other)?;
        let mut stream = tokio_rustls::TlsConnector::from(client.config()).connect(name, near).await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await?;
        assert_eq!(got, b"hello");
        Ok(())
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    connected.and(accepted)
}

#[tokio::test]
async fn names_authorities_and_client_certificates_are_verified() {
    install();
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let ca_file = dir.path().join("ca.crt");
    let other_file = dir.path().join("other.crt");
    fs::write(&ca_file, &authority.pem).unwrap();
    fs::write(&other_file, &other.pem).unwrap();
    let (cert_file, key_file) = authority.issue(dir.path(), "server", "collector.sonde");
    let identity = authority.issue(dir.path(), "client", "agent");
    let stranger = other.issue(dir.path(), "stranger", "agent");
    let options = ServerOptions { cert_file, key_file, client_ca_file: None, alpn: vec![H2.to_vec()] };
    let open = Server::new(options.clone()).unwrap();
    let mutual = Server::new(ServerOptions { client_ca_file: Some(ca_file.clone()), ..options }).unwrap();
    let plain = ClientOptions {
        roots: Roots::Files(vec![ca_file.clone()]),
        identity: None,
        server_name: String::new(),
        insecure_skip_verify: false,
        alpn: vec![H2.to_vec()],
    };
    let client = |options: ClientOptions| Client::new(options).unwrap();
    talk(&open, &client(plain.clone()), "collector.sonde").await.unwrap();
    assert!(talk(&open, &client(plain.clone()), "127.0.0.1").await.is_err());
    let named = ClientOptions { server_name: "collector.sonde".to_owned(), ..plain.clone() };
    talk(&open, &client(named.clone()), "127.0.0.1").await.unwrap();
    let wrong = ClientOptions { roots: Roots::Files(vec![other_file.clone()]), ..named.clone() };
    assert!(talk(&open, &client(wrong.clone()), "x").await.is_err());
    let any = ClientOptions { insecure_skip_verify: true, ..wrong };
    talk(&open, &client(any), "[::1]").await.unwrap();
    let missing = dir.path().join("missing");
    let any_of = ClientOptions { roots: Roots::AnyOf(vec![missing, other_file, ca_file]), ..named.clone() };
    talk(&open, &client(any_of), "x").await.unwrap();
    assert!(talk(&mutual, &client(named.clone()), "x").await.is_err());
    let known = ClientOptions { identity: Some(identity), ..named.clone() };
    talk(&mutual, &client(known), "x").await.unwrap();
    let unknown = ClientOptions { identity: Some(stranger), ..named };
    assert!(talk(&mutual, &client(unknown), "x").await.is_err());
}

#[tokio::test]
async fn a_replaced_certificate_is_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca_file = dir.path().join("ca.crt");
    fs::write(&ca_file, &authority.pem).unwrap();
    let (cert_file, key_file) = authority.issue(dir.path(), "server", "old.name");
    let server =
        Server::new(ServerOptions { cert_file, key_file, client_ca_file: None, alpn: Vec::new() }).unwrap();
    let client = Client::new(ClientOptions {
        roots: Roots::Files(vec![ca_file]),
        identity: None,
        server_name: "new.name".to_owned(),
        insecure_skip_verify: false,
        alpn: Vec::new(),
    });
    let client = client.unwrap();
    assert!(talk(&server, &client, "x").await.is_err());
    authority.issue(dir.path(), "server", "new.name");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    talk(&server, &client, "x").await.unwrap();
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert_file, key_file) = authority.issue(dir.path(), "a", "a");
    let (_, other_key) = authority.issue(dir.path(), "b", "b");
    let (empty, garbage) = (dir.path().join("empty"), dir.path().join("garbage"));
    fs::write(&empty, "").unwrap();
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let server = |cert: &Path, key: &Path| {
        let (cert_file, key_file) = (cert.to_owned(), key.to_owned());
        Server::new(ServerOptions { cert_file, key_file, client_ca_file: None, alpn: Vec::new() }).map(drop)
    };
    server(&cert_file, &key_file).unwrap();
    let missing = dir.path().join("missing");
    for (cert, key, named) in [
        (&cert_file, &other_key, &cert_file),
        (&missing, &key_file, &missing),
        (&cert_file, &missing, &missing),
        (&empty, &key_file, &empty),
        (&garbage, &key_file, &garbage),
        (&cert_file, &empty, &empty),
        (&cert_file, &cert_file, &cert_file),
    ] {
        let error = server(cert, key).unwrap_err().to_string();
        assert!(error.starts_with(&named.display().to_string()), "{error}");
    }
}
