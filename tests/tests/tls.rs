//! TLS, client certificates and tokens between the real agent and the real collector, all replaced while they run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, http, verify, wait_until};

/// An authority whose certificates are not yet, or no longer, those in use.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A new certificate for 127.0.0.1, its key, and the authority's own, in the files of `side`.
    fn put(&self, dir: &Path, side: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        replace(&dir.join(format!("{side}.key")), &key.serialize_pem());
        replace(&dir.join(format!("{side}.crt")), &cert.pem());
        replace(&dir.join(format!("{side}.ca")), &self.pem);
    }
}

/// As Kubernetes replaces a secret's files: a new one in place of the old.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// A stack whose files of `collector` and `agent` (`.key`, `.crt`, `.ca`, `.token`) lie in `dir`.
fn secured(dir: &Path, http: bool) -> Stack {
    let file = |name: &str| dir.join(name).display().to_string();
    let settings = Settings {
        http,
        tls: true,
        export: vec![
            format!("token_file: {}", file("agent.token")),
            format!(
                "tls: {{ca_file: {}, cert_file: {}, key_file: {}}}",
                file("agent.ca"),
                file("agent.crt"),
                file("agent.key")
            ),
        ],
        collector: format!(
            "tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}\nauth: {{otlp: {{token_file: {}}}}}",
            file("collector.crt"),
            file("collector.key"),
            file("collector.ca"),
            file("collector.token")
        ),
        ..Settings::default()
    };
    Stack::new(dir, &settings).unwrap()
}

fn write_lines(stack: &Stack, round: usize) {
    let fresh = stack.dir.join(format!("round-{round}"));
    corpus::write(&fresh, 2, 500, 200).unwrap();
    for entry in fs::read_dir(&fresh).unwrap() {
        let from = entry.unwrap().path();
        let name = from
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace("_pod-", &format!("_round-{round}-"))
            .replace("-0000-", &format!("-{round:04x}-"));
        fs::rename(&from, stack.pod_logs.join(name)).unwrap();
    }
}

fn wait_stored(stack: &Stack, count: u64) {
    wait_until(&format!("{count} records"), Duration::from_secs(60), || {
        stack.stored().is_ok_and(|n| n >= count)
    })
    .unwrap_or_else(|error| {
        panic!("{error}: {}", stack.agent.as_ref().map_or_else(String::new, |a| a.log_tail()))
    });
}

fn replaced_while_running(http: bool) {
    let dir = tempfile::tempdir().unwrap();
    let install = |authority: &Authority, token: &str| {
        for side in ["agent", "collector"] {
            authority.put(dir.path(), side);
            replace(&dir.path().join(format!("{side}.token")), token);
        }
    };
    install(&Authority::new("first"), "first");
    let mut stack = secured(dir.path(), http);
    stack.start().unwrap();
    write_lines(&stack, 0);
    wait_stored(&stack, 1000);

    // The collector comes back with other authorities, certificates and tokens: the agent must have read its own again.
    install(&Authority::new("second"), "second");
    stack.kill_collector().unwrap();
    stack.start_collector().unwrap();
    write_lines(&stack, 1);
    wait_stored(&stack, 2000);

    // And the other way round.
    install(&Authority::new("third"), "third");
    stack.kill_agent().unwrap();
    stack.start_agent().unwrap();
    write_lines(&stack, 2);
    wait_stored(&stack, 3000);
    stack.wait_drained(Duration::from_secs(30)).unwrap();
    verify::verify(std::slice::from_ref(&stack.pod_logs), stack.collector_http).unwrap();
}

#[test]
fn certificates_authorities_and_tokens_are_replaced_while_both_run_over_grpc() {
    replaced_while_running(false);
}

#[test]
fn certificates_authorities_and_tokens_are_replaced_while_both_run_over_http() {
    replaced_while_running(true);
}

fn log_of(stack: &Stack) -> String {
    fs::read_to_string(stack.dir.join("agent.log")).unwrap_or_default()
}

#[test]
fn a_collector_of_another_authority_is_named_as_the_reason_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    for side in ["agent", "collector"] {
        ours.put(dir.path(), side);
        replace(&dir.path().join(format!("{side}.token")), "token");
    }
    let trusted: PathBuf = dir.path().join("agent.ca");
    replace(&trusted, &other.pem);
    let mut stack = secured(dir.path(), false);
    stack.start().unwrap();
    write_lines(&stack, 0);
    wait_until("the reason", Duration::from_secs(30), || log_of(&stack).contains("UnknownIssuer"))
        .unwrap_or_else(|error| panic!("{error}: {}", log_of(&stack)));
    assert!(stack.agent.as_mut().unwrap().alive());
    assert_eq!(stack.stored().unwrap(), 0);
    replace(&trusted, &ours.pem);
    wait_stored(&stack, 1000);
    verify::verify(std::slice::from_ref(&stack.pod_logs), stack.collector_http).unwrap();
}

#[test]
fn a_token_that_is_refused_holds_the_agent_which_says_so_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    for side in ["agent", "collector"] {
        authority.put(dir.path(), side);
        replace(&dir.path().join(format!("{side}.token")), side);
    }
    let mut stack = secured(dir.path(), false);
    stack.start().unwrap();
    write_lines(&stack, 0);
    let blocked = || {
        let name = "sonde_agent_export_blocked";
        http::metric(stack.agent_http, "/metrics/self", name, "UNAUTHENTICATED")
            .is_ok_and(|value| value == 1.0)
    };
    wait_until("the hold", Duration::from_secs(30), blocked).unwrap();
    assert!(log_of(&stack).contains("UNAUTHENTICATED"), "{}", log_of(&stack));
    replace(&dir.path().join("agent.token"), "collector");
    // A probe a minute would find out too; a start does at once.
    stack.kill_agent().unwrap();
    stack.start_agent().unwrap();
    wait_stored(&stack, 1000);
    verify::verify(std::slice::from_ref(&stack.pod_logs), stack.collector_http).unwrap();
}

#[test]
fn a_client_without_a_certificate_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    authority.put(dir.path(), "collector");
    authority.put(dir.path(), "agent");
    for side in ["agent", "collector"] {
        replace(&dir.path().join(format!("{side}.token")), "token");
    }
    let mut stack = secured(dir.path(), false);
    let config = fs::read_to_string(dir.path().join("agent.yaml")).unwrap();
    let (from, to) =
        (config.find(", cert_file").unwrap(), config.find("agent.key").unwrap() + "agent.key".len());
    fs::write(dir.path().join("agent.yaml"), [&config[..from], &config[to..]].concat()).unwrap();
    stack.start().unwrap();
    write_lines(&stack, 0);
    wait_until("the reason", Duration::from_secs(30), || log_of(&stack).contains("CertificateRequired"))
        .unwrap();
    assert_eq!(stack.stored().unwrap(), 0);
}
