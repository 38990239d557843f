//! What the loader promises, with structs of the daemons' shapes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::units::{Interval, Size};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    cluster: String,
    node: Node,
    listen: String,
    state_dir: PathBuf,
    root: Option<PathBuf>,
    shutdown_grace: Interval,
    ratio: f64,
    export: Export,
    sinks: Vec<Sink>,
    labels: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Node {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Export {
    endpoint: String,
    protocol: Protocol,
    batch: Batch,
    in_flight: u16,
    enabled: bool,
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Batch {
    bytes: Size,
    age: Interval,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sink {
    name: String,
    #[serde(rename = "type")]
    kind: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Interval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Grpc,
    Http,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            node: Node::default(),
            listen: "[::]:9464".to_owned(),
            state_dir: "/var/lib/x".into(),
            root: None,
            shutdown_grace: Interval::secs(20),
            ratio: 0.5,
            export: Export::default(),
            sinks: Vec::new(),
            labels: vec!["app".to_owned(), "app.kubernetes.io/*".to_owned()],
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "${NODE_NAME:-}".to_owned() }
    }
}

impl Default for Export {
    fn default() -> Self {
        Self {
            endpoint: "https://${NODE_IP:-127.0.0.1}:4317".to_owned(),
            protocol: Protocol::Grpc,
            batch: Batch { bytes: Size::mib(1), age: Interval::secs(1) },
            in_flight: 4,
            enabled: true,
            headers: BTreeMap::new(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        if self.export.in_flight == 0 {
            problems.add("export.in_flight", "`0` sends nothing", "1 or more");
        }
        if self.export.in_flight > 0 && self.export.batch.age.0.is_zero() {
            problems.add_between(
                "export.batch.age",
                &["export.in_flight"],
                "is not possible",
                "more, or 0 in flight",
            );
        }
        for (index, sink) in self.sinks.iter().enumerate() {
            if sink.name.is_empty() {
                problems.add(format!("sinks[{index}].name"), "is empty", "a name");
            }
        }
    }
}

fn env(name: &str) -> Option<String> {
    match name {
        "NODE_NAME" => Some("node-1".to_owned()),
        "COUNT" => Some("7".to_owned()),
        "OFF" => Some("false".to_owned()),
        _ => None,
    }
}

fn good(text: &str) -> Config {
    load(text, "f.yaml", env).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn bad(text: &str) -> Vec<String> {
    let problems = load::<Config>(text, "f.yaml", env).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_gives_the_defaults_with_the_environment_filled_in() {
    for text in
        ["", "\n\n", "# nothing\n", "---\n", "~", "{}", "\u{feff}", "export:\n", "export: {}\nsinks:\n"]
    {
        let config = good(text);
        assert_eq!(config.node.name, "node-1", "{text:?}");
        assert_eq!(config.export.endpoint, "https://127.0.0.1:4317");
        assert_eq!(config.export.batch.bytes, Size::mib(1));
        assert_eq!(config.labels.len(), 2);
    }
}

#[test]
fn what_the_file_says_is_laid_over_the_defaults() {
    let config = good(
        "cluster: 12\nexport:\n  batch: {age: 5s}\n  in_flight: ${COUNT}\n  enabled: \"${OFF}\"\n  protocol: http\n  \
         headers: {X-Scope-OrgID: 7}\nlabels: [a]\nroot: /host\nratio: 1\nsinks:\n- {name: a, type: http, retention: 7d}\n- name: b\n",
    );
    assert_eq!(config.cluster, "12");
    assert_eq!(config.export.batch, Batch { bytes: Size::mib(1), age: Interval::secs(5) });
    assert_eq!((config.export.in_flight, config.export.enabled), (7, false));
    assert_eq!(config.export.headers["X-Scope-OrgID"], "7");
    assert_eq!(config.labels, ["a"]);
    assert_eq!(config.root, Some("/host".into()));
    assert_eq!(config.sinks[0].retention, Some(Interval::secs(7 * 86_400)));
    assert_eq!(config.sinks[1], Sink { name: "b".to_owned(), ..Sink::default() });
}

#[test]
fn every_problem_is_reported_with_its_line_in_peoples_words() {
    let text = "\
clutser: x
listen: [a, b]
shutdown_grace: 10
export:
  protocol: grcp
  in_flight: many
  enabled: yes
  batch:
    bytes: 1 parsec
    agee: 1s
  headers:
    a: [1]
sinks:
- name: one
  tpye: grpc
- type: kafka
- 5
- name:
labels: app
node:
  name: ${NOPE}
zzzzzzzzzz: 1
in_flight: 3
";
    let wanted = [
        "f.yaml:1: clutser: unknown key, the nearest known one is `cluster` (expected one of cluster, node, listen, state_dir, root, shutdown_grace, ratio, export, sinks, labels)",
        "f.yaml:2: listen: a list is given (expected text)",
        "f.yaml:3: shutdown_grace: `10` is not a duration (expected a number with ms, s, m, h or d, such as `10s`)",
        "f.yaml:5: export.protocol: `grcp` is not known (expected one of grpc, http)",
        "f.yaml:6: export.in_flight: `many` does not fit (expected a whole number from 0 to 65535)",
        "f.yaml:7: export.enabled: `yes` does not fit (expected true or false)",
        "f.yaml:9: export.batch.bytes: `1 parsec` is not a size (expected bytes, or a number with KiB, MiB or GiB, such as `64KiB`)",
        "f.yaml:10: export.batch.agee: unknown key, the nearest known one is `age` (expected one of bytes, age)",
        "f.yaml:12: export.headers.a: a list is given (expected text)",
        "f.yaml:15: sinks[0].tpye: unknown key, the nearest known one is `type` (expected one of name, type, retention)",
        "f.yaml:16: sinks[1].type: `kafka` is not known (expected one of grpc, http)",
        "f.yaml:16: sinks[1].name: is empty (expected a name)",
        "f.yaml:17: sinks[2]: `5` does not fit (expected `key: value` lines)",
        "f.yaml:18: sinks[3].name: is empty (expected a name)",
        "f.yaml:19: labels: `app` does not fit (expected a list)",
        "f.yaml:21: node.name: the environment variable NOPE is not set (expected it to be set, or a default as in ${NOPE:-default})",
        "f.yaml:22: zzzzzzzzzz: unknown key, the nearest known one is `cluster` (expected one of cluster, node, listen, state_dir, root, shutdown_grace, ratio, export, sinks, labels)",
        "f.yaml:23: in_flight: unknown key here, but there is `export.in_flight` (expected one of cluster, node, listen, state_dir, root, shutdown_grace, ratio, export, sinks, labels)",
    ];
    let got = bad(text);
    for (got, wanted) in got.iter().zip(wanted) {
        assert_eq!(got, wanted);
    }
    assert_eq!(got.len(), wanted.len(), "{got:#?}");
}

#[test]
fn a_callers_own_checks_get_the_lines_of_their_keys() {
    let text = "export:\n  in_flight: 0\nsinks:\n- name: a\n- type: http\n\n- {name: ''}\n";
    let wanted = [
        "f.yaml:2: export.in_flight: `0` sends nothing (expected 1 or more)",
        "f.yaml:5: sinks[1].name: is empty (expected a name)",
        "f.yaml:7: sinks[2].name: is empty (expected a name)",
    ];
    assert_eq!(bad(text), wanted);
}

#[test]
fn a_check_of_what_could_not_be_read_is_not_believed_and_its_neighbours_are_still_checked() {
    assert_eq!(bad("sinks:\n- name: [x]\n").len(), 1);
    assert_eq!(bad("sinks:\n- name: ${NOPE}\n").len(), 1);
    assert_eq!(bad("export: {in_flight: many, batch: {age: 0s}}").len(), 1, "a rule between the two");
    assert_eq!(
        bad("export: {in_flight: 0, batch: {age: never}}").len(),
        2,
        "its own rule holds all the same"
    );
    assert_eq!(bad("export: {in_flight: 0, enabled: 5}").len(), 2);
    assert_eq!(bad("export: {in_flight: 0}\ncluster: []").len(), 2);
}

#[test]
fn a_check_names_the_element_of_the_file_also_when_one_before_it_could_not_be_read() {
    let wanted = [
        "f.yaml:2: sinks[0]: `5` does not fit (expected `key: value` lines)",
        "f.yaml:4: sinks[2].name: is empty (expected a name)",
    ];
    assert_eq!(bad("sinks:\n- 5\n- {name: a}\n- {name: ''}\n"), wanted);
}

#[test]
fn what_stands_before_a_mistake_in_the_yaml_is_checked_too() {
    let text = "\
clutser: x
shutdown_grace: never
sinks:
- name: ''
export:
  in_flight: 0
  batch:
    agee: 1s
    @bytes: 1MiB
node: {name: [x]}
";
    let got = bad(text);
    let starts = [
        "f.yaml:1: clutser: unknown key",
        "f.yaml:2: shutdown_grace: `never` is not a duration",
        "f.yaml:4: sinks[0].name: is empty",
        "f.yaml:6: export.in_flight: `0` sends nothing",
        "f.yaml:8: export.batch.agee: unknown key",
        "f.yaml:9: export.batch: is not YAML: ",
    ];
    for (line, start) in got.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
    assert_eq!(got.len(), starts.len(), "{got:#?}");
    // What may come after the mistake is not missed.
    assert_eq!(bad("sinks:\n- type: grpc\n  \"name").len(), 1);
    assert_eq!(
        bad("export:\n  in_flight: 3\n  batch: {age: 0s}\n---\n{").len(),
        2,
        "the section was complete"
    );
}

#[test]
fn what_yaml_offers_beyond_plain_values_is_refused_by_name() {
    for (text, wanted) in [
        ("cluster: a\ncluster: b\n", "f.yaml:2: cluster: is given twice, first in line 1 (expected once)"),
        (
            "export:\n  batch:\n    age: 1s\n    age: 2s\n",
            "f.yaml:4: export.batch.age: is given twice, first in line 3 (expected once)",
        ),
        ("export:\n\tbatch: 1\n", "f.yaml:2: export: is indented with a tab (expected spaces)"),
        (
            "cluster: &a x\n",
            "f.yaml:1: cluster: anchors (`&name`) are not supported (expected the value in each place)",
        ),
        (
            "cluster: !!str x\n",
            "f.yaml:1: cluster: tags (`!name`) are not supported (expected the value alone)",
        ),
        ("cluster: a\n---\ncluster: b\n", "f.yaml:2: starts a second document (expected one document)"),
        ("- a\n", "f.yaml:1: holds no keys (expected `key: value` lines)"),
        ("hello\n", "f.yaml:1: holds no keys (expected `key: value` lines)"),
        (
            "export:\n  <<: {a: 1}\n",
            "f.yaml:2: export: merge keys (`<<`) are not supported (expected the keys themselves)",
        ),
        ("? [a]\n: b\n", "f.yaml:1: a list or map is used as a key (expected text)"),
    ] {
        let got = bad(text);
        assert_eq!(got.first().map(String::as_str), Some(wanted), "{got:#?}");
    }
}

#[test]
fn an_alias_bomb_costs_nothing() {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f"), ("h", "g")] {
        text += &format!("{name}: &{name} [*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of}]\n");
    }
    assert!(bad(&text).iter().any(|line| line.contains("aliases")));
}

#[test]
fn broken_and_hostile_files_are_reported_not_survived_by_luck() {
    let deep = "[".repeat(100_000);
    let deep_map = (0..200).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n");
    let wide = "x: 1\n".repeat(50_000);
    let many: String = (0..20_000).map(|key| format!("k{key}: 1\n")).collect();
    // As many keys as a file can have: the work must not grow with their square.
    let crowd: String = (0..120_000).map(|key| format!("k{key}:\n")).collect();
    let wrong: String = (0..20_000).map(|_| "- 5\n").collect();
    let wrong = format!("sinks:\n{wrong}");
    for text in [
        "a: b: c",
        "{",
        "[",
        "\"",
        "'",
        "a: \"\\q\"",
        "%YAML 9.9\n---\n",
        "\0",
        "a\0b: c",
        "cluster: *nope",
        "key: |\n x\n\ty",
        "!",
        "&",
        "*",
        "? ",
        ": ",
        "- - - -",
        "{a: {b: {c:",
        "\u{85}",
        &deep,
        &deep_map,
        &wide,
        &many,
        &crowd,
        &wrong,
    ] {
        let problems = load::<Config>(text, "f.yaml", env).err();
        for problem in problems.into_iter().flatten() {
            assert!(problem.line >= 1 && problem.line <= text.lines().count().max(1));
        }
    }
    assert_eq!(bad(&many).len(), MOST);
    assert_eq!(bad(&crowd).len(), MOST);
    assert_eq!(bad(&wrong).len(), MOST);
    assert_eq!(bad(&"#".repeat(LONGEST + 1)), ["f.yaml:1: is too long (expected at most 1 MiB)"]);
}

#[test]
fn a_file_that_cannot_be_read_or_is_not_text_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let problems = |path: &Path| {
        let list = load_file::<Config>(Some(path), env).unwrap_err();
        list.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(problems(&path)[0].contains("c.yaml:1: cannot be read: "));
    assert!(problems(dir.path())[0].contains("cannot be read: "));
    assert!(problems(dir.path())[0].contains("it is a directory"));
    std::fs::write(&path, b"cluster: a\nlisten: \xff\n").unwrap();
    assert!(problems(&path)[0].contains("c.yaml:2: is not UTF-8 text"));
    std::fs::write(&path, b"cluster: a\r\nlisten: b\r\n").unwrap();
    let config: Config = load_file(Some(&path), env).unwrap();
    assert_eq!((config.cluster.as_str(), config.listen.as_str()), ("a", "b"));
    assert_eq!(load_file::<Config>(None, env).unwrap(), good(""));
    assert_eq!(problems(Path::new("/dev/zero")), ["/dev/zero:1: is too long (expected at most 1 MiB)"]);
}

#[test]
fn a_pipe_is_read_to_its_end_and_one_that_nobody_writes_to_is_a_problem_not_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let list = load_file::<Config>(Some(&path), env).unwrap_err();
    assert!(list[0].to_string().contains("cannot be read: it is a pipe, and was not written"), "{list:?}");
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, format!("cluster: a\n#{}\n", "x".repeat(200_000))).unwrap()
    });
    assert_eq!(load_file::<Config>(Some(&path), env).unwrap().cluster, "a");
    writer.join().unwrap();
}

#[test]
fn the_printed_configuration_keeps_the_order_and_escapes_dollars() {
    let config = good("cluster: $${A} $$$$\nlabels: ['true', '7', '', '~', 'a: b', '# c']");
    let text = print(&config).unwrap();
    assert!(text.starts_with("cluster: "), "{text}");
    assert!(text.find("listen:").unwrap() < text.find("state_dir:").unwrap());
    assert_eq!(load::<Config>(&text, "p", |_| Some("wrong".to_owned())).unwrap(), config);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,100}",
        "(\\$|\\{|\\}|:|-|#|'|\"|\\\\|\n|\t| |a|1|~|é|\u{feff}|\u{2028}){0,12}",
        "(true|null|~|1e5|0x1f|-|\\.inf|yes|<<|\\? |- |\\|)",
    ]
}

fn any_config() -> impl Strategy<Value = Config> {
    let sink =
        (any_text(), any::<bool>(), prop::option::of(0u32..100_000)).prop_map(|(name, http, secs)| Sink {
            name: name + "x",
            kind: if http { Protocol::Http } else { Protocol::Grpc },
            retention: secs.map(|secs| Interval::secs(secs.into())),
        });
    let headers = prop::collection::btree_map(any_text(), any_text(), 0..3);
    (
        any_text(),
        any_text(),
        prop::option::of(any_text()),
        any::<u64>(),
        -1e9..1e9f64,
        headers,
        prop::collection::vec(sink, 0..3),
    )
        .prop_map(|(cluster, name, root, bytes, ratio, headers, sinks)| Config {
            cluster,
            node: Node { name },
            root: root.map(PathBuf::from),
            ratio,
            export: Export {
                batch: Batch { bytes: Size(bytes), age: Interval::millis(1 + bytes % 1000) },
                headers,
                ..Export::default()
            },
            sinks,
            ..good("")
        })
}

#[test]
fn a_problem_is_one_line_whatever_it_quotes() {
    let text = "sinks:\n- true\n- {\u{2028}\n\n1}\n";
    for problem in load::<Config>(text, "f", |_| None).unwrap_err() {
        assert!(!problem.to_string().contains(['\n', '\u{2028}']), "{problem}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic_and_every_reported_line_exists(text in any_text(), other in any_text()) {
        for text in [text.clone(), format!("cluster: {text}\nexport:\n  {other}\n"), format!("sinks:\n- {text}\n- {{{other}}}\n{other}: {text}")] {
            if let Err(problems) = load::<Config>(&text, "f", |_| None) {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.line >= 1 && problem.line <= text.lines().count().max(1));
                    prop_assert!(!problem.to_string().contains('\n'));
                }
            }
        }
    }

    #[test]
    fn a_printed_configuration_loads_back_equal(config in any_config()) {
        let text = print(&config).unwrap();
        let again = load::<Config>(&text, "f", |_| None);
        prop_assert_eq!(again.as_ref(), Ok(&Config { export: Export { endpoint: config.export.endpoint.clone(), ..config.export.clone() }, ..config.clone() }), "{}", text);
    }
}
