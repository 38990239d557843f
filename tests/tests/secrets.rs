//! Secrets are in no log and in no output of `check`, also where they are wrong and somebody says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sonde_tests::stack::{Settings, Stack};
use sonde_tests::{corpus, daemon, wait_until};

/// Part of each secret.
const MARK: &str = "hunter2";

/// Answers every request with 401, as who does not like the credentials; and which ones came.
fn refusing() -> (u16, Arc<Mutex<HashSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let note = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
            let mut request = Vec::new();
            let _ = (&mut stream).take(1 << 20).read_to_end(&mut request);
            let request = String::from_utf8_lossy(&request).into_owned();
            let login = request.lines().find_map(|line| line.strip_prefix("authorization: "));
            note.lock().unwrap().extend(login.map(str::to_owned));
            let _ = stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 6\r\nconnection: close\r\n\r\nwrong\n",
            );
        }
    });
    (port, seen)
}

/// The exit code of `check`, or of a start, and all that it says.
fn said(name: &str, words: &[&str], config: &Path) -> (Option<i32>, String) {
    let out = Command::new(daemon::binary(name).unwrap())
        .args(words)
        .arg("--config")
        .arg(config)
        .env("SECRET", format!("{MARK}-env"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.code(), text)
}

fn checked(name: &str, config: &Path) -> String {
    let (code, text) = said(name, &["check"], config);
    assert_eq!(code, Some(0), "{text}");
    text
}

#[test]
fn an_endpoint_that_is_refused_is_said_without_the_secret_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    for url in [
        format!("http://127.0.0.1:9/push?token={MARK}"),
        format!("http://127.0.0.1:9/push#{MARK}"),
        format!("http://u:{MARK}@127.0.0.1:9/push"),
        format!("http://u:{MARK}@127.0.0.1:9/push?token={MARK}"),
        format!("http://127.0.0.1:9/push?mail=a@b&token={MARK}"),
    ] {
        let sink = |kind: &str| format!("- {{name: {kind}, type: {kind}, endpoint: \"{url}\"}}\n");
        let of_collector = format!(
            "sinks:\n{}{}{}- {{name: es, type: elasticsearch, endpoints: [\"{url}\"]}}\n",
            sink("otlp"),
            sink("loki"),
            sink("prometheus")
        );
        let of_agent = format!("export: {{endpoint: \"{url}\"}}\nkubelet: {{url: \"{url}\"}}\n");
        for (name, text, problems) in [("sonde-collector", of_collector, 4), ("sonde-agent", of_agent, 2)] {
            fs::write(&config, text).unwrap();
            for words in [&["check"][..], &[]] {
                let (code, text) = said(name, words, &config);
                assert_eq!(code, Some(2), "{name}: {text}");
                assert_eq!(text.matches("a part that is not used").count(), problems, "{name}: {text}");
                assert!(!text.contains(MARK), "{name}: {text}");
            }
        }
    }
}

#[test]
fn no_secret_is_in_the_logs_or_in_what_check_prints() {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("{MARK}-{name}\n")).unwrap();
        path.display().to_string()
    };
    let (port, seen) = refusing();
    let header = format!("headers: {{X-Api-Key: {MARK}-header}}");
    let (taken, token, password, key) = (secret("taken"), secret("token"), secret("password"), secret("key"));
    let settings = Settings {
        http: true,
        export: vec![format!("token_file: {token}"), header.clone()],
        collector: format!(
            "auth: {{otlp: {{token_file: {taken}}}}}\nsinks:\n\
             - {{name: store, type: store}}\n\
             - {{name: otlp, type: otlp, protocol: http, endpoint: \"http://127.0.0.1:{port}\", token_file: {token}, {header}}}\n\
             - {{name: loki, type: loki, endpoint: \"http://127.0.0.1:{port}\", username: u, password_file: {password}, {header}}}\n\
             - {{name: elastic, type: elasticsearch, endpoints: [\"http://127.0.0.1:{port}\"], api_key_file: {key}}}\n"
        ),
        ..Settings::default()
    };
    let mut stack = Stack::new(dir.path(), &settings).unwrap();
    corpus::write(&stack.pod_logs, 2, 50, 100).unwrap();
    // The agent's token is not among those that are taken.
    stack.start().unwrap();
    wait_until("the agent to be refused", Duration::from_secs(60), || {
        let text = fs::read_to_string(dir.path().join("agent.log")).unwrap();
        text.contains("401") || text.to_lowercase().contains("unauth")
    })
    .unwrap();
    // Now it is, and the sinks are refused in turn.
    fs::write(&taken, format!("{MARK}-token\n")).unwrap();
    stack.wait_drained(Duration::from_secs(120)).unwrap();
    // The third is `u:hunter2-password`.
    let all = [
        format!("Bearer {MARK}-token"),
        format!("ApiKey {MARK}-key"),
        "Basic dTpodW50ZXIyLXBhc3N3b3Jk".to_owned(),
    ];
    wait_until("each sink to be refused", Duration::from_secs(60), || {
        let seen = seen.lock().unwrap();
        all.iter().all(|login| seen.contains(login))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for log in ["agent.log", "collector.log"] {
        let text = fs::read_to_string(dir.path().join(log)).unwrap();
        assert!(text.contains("401"), "{log} says why: {text}");
        let line = text.lines().find(|line| line.contains(MARK));
        assert_eq!(line, None, "{log}");
    }
    for name in ["agent", "collector"] {
        let text = checked(&format!("sonde-{name}"), &dir.path().join(format!("{name}.yaml")));
        assert!(text.contains("X-Api-Key") && !text.contains(MARK), "{text}");
    }
    let config = dir.path().join("env.yaml");
    fs::write(&config, "export: {headers: {Authorization: 'Bearer ${SECRET}'}}\n").unwrap();
    let text = checked("sonde-agent", &config);
    assert!(text.contains("Authorization") && !text.contains(MARK), "{text}");
}
