//! Redaction: what is sent holds nothing that is found, and is bounded.

use std::sync::{LazyLock, Mutex};

use crate::config::RedactRule;
use crate::logs::pod_path::pod_dir;
use crate::logs::redact::{Redactor, problems};

const MAX_LINE: usize = 4096;
const REPLACE: &str = "[redacted]";

fn preset(name: &str) -> RedactRule {
    RedactRule { preset: name.to_owned(), replace: REPLACE.to_owned(), ..RedactRule::default() }
}

static PRESETS: LazyLock<Mutex<Redactor>> = LazyLock::new(|| {
    Mutex::new(Redactor::new(&["email", "card", "bearer", "key"].map(preset), MAX_LINE).unwrap())
});

/// All presets together: a second time changes nothing, and a body grows to twice `max_line` at most.
pub fn presets(body: &[u8]) {
    let mut redactor = PRESETS.lock().unwrap();
    check(&mut redactor, &String::from_utf8_lossy(&body[..body.len().min(MAX_LINE)]));
}

/// Rules of somebody's own: a line with the replacement, up to three with patterns, an empty one, and the body.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(&data[..data.len().min(MAX_LINE)]);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let replace = lines.next().unwrap_or_default().to_owned();
    let rules: Vec<RedactRule> = lines
        .take(3)
        .map(|pattern| RedactRule {
            pattern: pattern.to_owned(),
            replace: replace.clone(),
            ..RedactRule::default()
        })
        .collect();
    let is_good = problems(&rules).is_empty();
    let made = Redactor::new(&rules, MAX_LINE);
    assert_eq!(made.is_ok(), is_good);
    if let Ok(mut redactor) = made {
        check(&mut redactor, body);
    }
}

fn check(redactor: &mut Redactor, body: &str) {
    let all = redactor.rules_for(&pod_dir("n_p_u").unwrap(), "c");
    if let Some(sent) = redactor.apply(all, body) {
        assert!(sent.len() <= 2 * MAX_LINE, "it grows to {}", sent.len());
        assert_ne!(sent, body);
        assert_eq!(redactor.apply(all, &sent), None, "there is more in {sent:?}");
    }
}

pub fn preset_seeds() -> Vec<Vec<u8>> {
    [
        "mail to ann.b+c@mail.example.org, or x@y.z",
        "card 4111-1111-1111-1111 and 378282246310005 but 4111111111111112",
        "Authorization: Bearer abc.def-ghi, map[Authorization:[Basic x Basic y] Host:[h]]",
        r#"{"authorization":["Basic a","Foo b"],"x":1,"password":["p","q"]}"#,
        r#"{\"authorization\":[\"a b\", \"c\"],\"secret\":\"a\\\"b\"}"#,
        "Authorization: Digest username=\"u\", response=\"66\" x; api_key=AKIA12345678ABCDEFGH",
        "postgres://user:pw@host/db token=ghp_abcdefghijklmnopqrstuvwxyz0123456789 AKIAABCDEFGHIJKLMNOP",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- eyJhbGciOi.eyJzdWIiOi.c2ln",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn rule_seeds() -> Vec<Vec<u8>> {
    [
        "[x]\nssn=(\\d+)|pin (\\d+)\n\nssn=12 pin 34",
        "#\n\\d{4}\n(?i)secret \\w+\n(a)(b)?\n\n1234 Secret x ab a",
        "***\npassword=(\\S+).* from \\S+\n\npassword=a from b password=c from d",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
