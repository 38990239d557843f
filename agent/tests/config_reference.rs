//! `CONFIG.md` names every key with its default, and no other: it cannot drift.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sonde_agent::config::{Config, FileRule, LogRule, MultilineRule, RedactRule};

/// Keys with their defaults as the page writes them; `None` = another key decides.
fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, Option<String>>) {
    let text = match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, into);
            }
            return;
        }
        Value::Null => None,
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        other => Some(other.to_string()),
    };
    into.insert(prefix.to_owned(), text);
}

fn keys_of(prefix: &str, value: impl Serialize, into: &mut BTreeMap<String, Option<String>>) {
    flatten(prefix, &serde_json::to_value(value).unwrap(), into);
}

#[test]
fn the_reference_names_every_key_with_its_default() {
    let mut keys = BTreeMap::new();
    keys_of("", Config::default(), &mut keys);
    keys_of("logs.include[]", LogRule::default(), &mut keys);
    keys_of("logs.multiline[]", MultilineRule::default(), &mut keys);
    keys_of("logs.redact[]", RedactRule::default(), &mut keys);
    keys_of("logs.files[]", FileRule::default(), &mut keys);

    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CONFIG.md")).unwrap();
    // The keys stand before the first section; those have tables of their own.
    let reference = page.split("\n## ").next().unwrap();
    for line in reference.lines().filter(|line| line.starts_with("| `")) {
        // A `|` inside a cell is written `\|`.
        let cells: Vec<String> =
            line.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        let [_, key, default, meaning, _] = &cells[..] else { panic!("not three cells: {line}") };
        let key = key.trim_matches('`');
        assert!(!meaning.is_empty(), "{key} has no meaning");
        match keys.remove(key) {
            None => panic!("{key} is no key, or is named twice"),
            Some(None) => assert!(default.starts_with("root + "), "{key}: {default}"),
            Some(Some(want)) => assert_eq!(default.trim_matches('`'), want, "{key}"),
        }
    }
    assert!(keys.is_empty(), "not in CONFIG.md: {:?}", keys.keys());
}
