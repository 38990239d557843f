//! CONFIG.md says what the program does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use sonde_collector::config::{
    ClientTls, Compression, Config, DataStream, LabelNames, Layout, Protocol, Signal, Sink,
};
use sonde_collector::sinks::file::{DEFAULT_AGE, DEFAULT_FILES};
use sonde_collector::store::StoreOptions;
use sonde_daemon::config::Headers;
use sonde_daemon::units::{Interval, Size};

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, out);
            }
        }
        Value::String(text) if !text.is_empty() => drop(out.insert(path.to_owned(), text.clone())),
        other => drop(out.insert(path.to_owned(), other.to_string())),
    }
}

#[test]
fn the_table_of_keys_and_defaults_is_the_programs() {
    let mut program = BTreeMap::new();
    flatten("", &serde_json::to_value(Config::default()).unwrap(), &mut program);
    // The keys of a sink, with what the store takes where they are not given.
    let store = StoreOptions::default();
    let sink = Sink {
        retention: Some(Interval(store.retention)),
        max_bytes: Some(Size(store.max_bytes)),
        max_lag_bytes: Some(Size(Config::default().queue.max_bytes.0 / 2)),
        endpoint: Some(String::new()),
        protocol: Some(Protocol::default()),
        compression: Some(Compression::default()),
        signals: Some(vec![Signal::Logs]),
        resource_labels: Some(Vec::new()),
        headers: Some(Headers::default()),
        tenant: Some(String::new()),
        label_names: Some(LabelNames::default()),
        path: Some(PathBuf::new()),
        max_age: Some(Interval(DEFAULT_AGE)),
        max_files: Some(DEFAULT_FILES),
        endpoints: Some(Vec::new()),
        layout: Some(Layout::default()),
        data_stream: Some(DataStream::default()),
        templates: Some(true),
        username: Some(String::new()),
        password_file: Some(String::new()),
        api_key_file: Some(String::new()),
        token_file: Some(String::new()),
        tls: Some(ClientTls::default()),
        ..Sink::default()
    };
    let mut keys = BTreeMap::new();
    flatten("sinks[]", &serde_json::to_value(sink).unwrap(), &mut keys);
    for (key, value) in keys {
        program.insert(key.clone(), if key == "sinks[].name" { "none".to_owned() } else { value });
    }
    let text = include_str!("../CONFIG.md");
    // The first table: those below the headings are of other things.
    let keys = text.lines().take_while(|line| !line.starts_with("## "));
    let rows = keys.filter_map(|line| line.strip_prefix("| `"));
    let table: BTreeMap<String, String> = rows
        .map(|row| {
            let mut cells = row.split(" | ");
            let (key, default) = (cells.next().unwrap(), cells.next().unwrap());
            assert!(cells.next().is_some_and(|meaning| meaning.len() > 10), "{key} has no meaning");
            (key.trim_end_matches('`').to_owned(), default.trim_matches('`').to_owned())
        })
        .collect();
    assert_eq!(table, program);
}
