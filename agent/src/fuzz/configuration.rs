//! The agent's configuration file.

use crate::config::Config;
use sonde_daemon::config::{load, print};

/// Problems are said at their line; what loads can be printed, and what is printed loads as the same in any environment.
pub fn agent(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').count();
    let env = |name: &str| (name != "NONE").then(|| format!("value of {name}"));
    match load::<Config>(&text, "agent.yaml", env) {
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
        "export:\n  endpoint: http://127.0.0.1:4317\n  headers:\n    a: ${B:-${C}}\nlogs:\n  read_existing: 1h\n  max_line: 64KiB\n",
        "logs:\n  include:\n    - namespace: 'a*'\n      pod: \"x\"\n  exclude: [{container: c}]\n  redact:\n    - preset: card\n    - {pattern: 'x(\\d+)', replace: '#'}\n",
        "metrics:\n  node:\n    disable: [time]\nhttp:\n  listen: '[::1]:0'\nkubelet: {endpoint: '', interval: 5s}\nbad: &a 1\nb: *a\n",
        "a: |\n  text\n? b\n: c\n--- # second\n!!str x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
