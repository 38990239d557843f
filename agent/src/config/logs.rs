//! The `logs` section.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sonde_daemon::units::{Interval, Size};

/// Container logs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// Whether container logs are read at all.
    pub enabled: bool,
    /// Containers to read; empty = all.
    pub include: Vec<LogRule>,
    /// Containers to leave out, after `include`.
    pub exclude: Vec<LogRule>,
    /// What of the files found at the first start is read.
    pub read_existing: ReadExisting,
    /// Longer lines are cut there, marked and counted.
    pub max_line: Size,
    /// Rules that join several lines into one record.
    pub multiline: Vec<MultilineRule>,
    /// Whether level, trace id and span id are taken out of bodies.
    pub parse: Parse,
    /// Bytes a second.
    pub limits: Limits,
    /// Bytes of deleted files that may be held open until they are shipped.
    pub pinned_deleted: Size,
    /// What is taken out of bodies before they leave the node.
    pub redact: Vec<RedactRule>,
    /// systemd's journal.
    pub journald: Journald,
    /// Plain files of the node that are read too.
    pub files: Vec<FileRule>,
}

/// systemd's journal.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journald {
    /// Whether it is read.
    pub enabled: bool,
    /// Directories in which journals lie, or in whose directories they lie; below `host.root`.
    pub paths: Vec<String>,
    /// Units to read, `*` globs; empty = everything.
    pub units: Vec<String>,
    /// Entries that are less urgent are left out.
    pub priority: Priority,
}

/// Syslog's priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// 0
    Emerg,
    /// 1
    Alert,
    /// 2
    Crit,
    /// 3
    Err,
    /// 4
    Warning,
    /// 5
    Notice,
    /// 6
    Info,
    /// 7: everything.
    Debug,
}

impl Priority {
    /// Syslog's number: the greater, the less urgent.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Plain log files, each line a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileRule {
    /// Absolute path on the host; `*` stands for any characters within a part.
    pub path: String,
    /// Files that are left out: by name, or by path where there is a `/`; `*` stands for any characters.
    pub exclude: Vec<String>,
    /// `service.name`; empty = the file's name.
    pub name: String,
    /// Further resource attributes.
    pub attributes: BTreeMap<String, String>,
}

/// A container by `*` globs; a field that is not given matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogRule {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
}

/// A rule that joins several lines into one record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultilineRule {
    /// Namespace glob.
    pub namespace: String,
    /// Pod name glob.
    pub pod: String,
    /// Container name glob.
    pub container: String,
    /// Regular expression that the first line of a record matches.
    pub start: String,
    /// A named rule: `java`, `python`, `go`, …
    pub preset: String,
    /// Most lines of a record.
    pub max_lines: u32,
    /// Most bytes of its body; 0 = `logs.max_line`.
    pub max_bytes: Size,
    /// How long a record waits for its next line.
    pub max_wait: Interval,
}

/// A rule that takes something out of bodies before they leave the node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedactRule {
    /// Namespace glob.
    pub namespace: String,
    /// Pod name glob.
    pub pod: String,
    /// Container name glob.
    pub container: String,
    /// Regular expression; with a group, only what the first group that takes part matches is replaced.
    pub pattern: String,
    /// A named rule: `email`, `card`, `bearer`, `key`.
    pub preset: String,
    /// What stands there instead.
    pub replace: String,
}

/// What of the files found at the first start is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadExisting {
    /// All of it.
    All,
    /// From the end of each file.
    None,
    /// Records whose runtime stamp is at most this old.
    Within(Interval),
}

/// Whether fields are taken out of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Parse {
    /// JSON and logfmt bodies.
    Auto,
    /// Never.
    Off,
}

/// Bytes a second; 0 = none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// For each container.
    pub per_container: Size,
    /// For each namespace on this node.
    pub per_namespace: Size,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            enabled: true,
            include: Vec::new(),
            exclude: Vec::new(),
            read_existing: ReadExisting::Within(Interval::secs(24 * 3600)),
            max_line: Size::mib(1),
            multiline: Vec::new(),
            parse: Parse::Auto,
            limits: Limits::default(),
            pinned_deleted: Size::gib(1),
            redact: Vec::new(),
            journald: Journald::default(),
            files: Vec::new(),
        }
    }
}

/// The two places in which journald keeps its journals; of a node's units, what else runs on it is not Kubernetes'.
impl Default for Journald {
    fn default() -> Self {
        let texts = |list: [&str; 2]| list.map(str::to_owned).to_vec();
        Self {
            enabled: false,
            paths: texts(["/var/log/journal", "/run/log/journal"]),
            units: texts(["kubelet.service", "containerd.service"]),
            priority: Priority::Debug,
        }
    }
}

impl Default for MultilineRule {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            pod: String::new(),
            container: String::new(),
            start: String::new(),
            preset: String::new(),
            max_lines: 1000,
            max_bytes: Size(0),
            max_wait: Interval::secs(2),
        }
    }
}

impl Default for RedactRule {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            pod: String::new(),
            container: String::new(),
            pattern: String::new(),
            preset: String::new(),
            replace: "[redacted]".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for ReadExisting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected true, false, or a duration such as `24h`")]
        enum Plain {
            Flag(bool),
            Text(String),
        }
        match Plain::deserialize(from)? {
            Plain::Flag(true) => Ok(Self::All),
            Plain::Flag(false) => Ok(Self::None),
            Plain::Text(text) => match text.as_str() {
                "true" => Ok(Self::All),
                "false" => Ok(Self::None),
                text => text.parse().map(Self::Within).map_err(|_| {
                    de::Error::custom(format!("`{text}` is not true, false, or a duration such as `24h`"))
                }),
            },
        }
    }
}

impl Serialize for ReadExisting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => to.serialize_bool(true),
            Self::None => to.serialize_bool(false),
            Self::Within(age) => age.serialize(to),
        }
    }
}
