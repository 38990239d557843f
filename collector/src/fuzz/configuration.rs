//! The collector's configuration file.

use crate::config::Config;
use sonde_daemon::config::{load, print};

/// Problems are said at their line; what loads can be printed, and what is printed loads as the same in any environment.
pub fn collector(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').count();
    let env = |name: &str| (name != "NONE").then(|| format!("value of {name}"));
    match load::<Config>(&text, "collector.yaml", env) {
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.line <= lines + 1, "line {} of {lines}", problem.line);
            }
        }
        Ok(config) => {
            let printed = print(&config).unwrap();
            let again = load::<Config>(&printed, "printed", |_| None).unwrap();
            assert_eq!(print(&again).unwrap(), printed);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "",
        "receivers:\n  otlp:\n    grpc: {listen: '127.0.0.1:4317'}\nqueue:\n  max_bytes: 1GiB\n  min_free: 5%\nstore:\n  retention: 7d\n",
        "sinks:\n  es:\n    type: elasticsearch\n    endpoint: https://a:9200\n    when:\n      namespace: 'a*'\n  next:\n    type: otlp\n    endpoint: http://b:4317\n",
        "sinks: [{name: x, type: file}]\nhttp:\n  listen: ${HTTP:-0.0.0.0:8080}\n  auth: {token_file: /x}\nbad: &a 1\nb: *a\n",
        "a: |\n  text\n? b\n: c\n--- # second\n!!str x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
