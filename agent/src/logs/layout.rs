//! Where the files of a lineage lie, and what their names say: the kubelet's directories, Docker's, or a rule's.
//!
//! Paths are those of [`super::fs`]: the kubelet's are relative, Docker's begin with [`DOCKER`], plain files' with `/`, and their keys with [`FILE`]. No pod's directory is called like that,
//! so neither paths nor the keys of the state can be taken for one another.

use std::cmp::Ordering;
use std::sync::Arc;

use super::ledger::RowKey;
use super::pod_path::{self, PodDir};
use super::{plain_files, plain_names};
use crate::config::FileRule;

/// Begins the paths below Docker's container directory, and the key of a container that is known by its id alone.
pub const DOCKER: &str = "docker:";
/// Begins the key of a directory of plain files, and the container of their rows in the ledger.
pub const FILE: &str = "file:";
/// Longest id of a container.
const ID_LIMIT: usize = 128;

/// Where a lineage's files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `<pod>/<container>/<restart>.log[.<suffix>][.gz]`: see [`pod_path`].
    Pods,
    /// `docker:/<id>/<id>-json.log[.N][.gz]`; the greater N, the older (moby, `daemon/logger/loggerutils/logfile.go`).
    Docker(Arc<str>),
    /// `<dir>/<base>`, and what rotation makes of it: see [`plain_names`].
    Files {
        /// Absolute.
        dir: Arc<str>,
        /// Name of the file that is written to.
        base: Arc<str>,
        /// What was asked for.
        rule: Arc<FileRule>,
    },
}

impl Layout {
    /// Order of two files of one lineage by name alone: rotated ones by age, the one being written to last.
    pub fn order(&self, left: Option<&str>, right: Option<&str>) -> Ordering {
        match (self, left, right) {
            (Self::Docker(_), Some(left), Some(right)) => pod_path::order(Some(right), Some(left)),
            (Self::Files { .. }, left, right) => plain_names::order(left, right),
            _ => pod_path::order(left, right),
        }
    }
}

/// A file of a container in Docker's directory, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerName {
    /// Which rotation; none = the file that Docker writes to.
    pub suffix: Option<String>,
    /// Whether it is compressed.
    pub gz: bool,
}

/// Whether a directory name can be a container's id.
pub fn is_docker_id(name: &str) -> bool {
    (1..=ID_LIMIT).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Takes the name of a log file of this container apart; none if it is not one.
pub fn docker_name(id: &str, name: &str) -> Option<DockerName> {
    let rest = name.strip_prefix(id)?.strip_prefix("-json.log")?;
    let (rest, gz) = rest.strip_suffix(".gz").map_or((rest, false), |plain| (plain, true));
    if rest.is_empty() {
        return (!gz).then_some(DockerName { suffix: None, gz });
    }
    let number = rest.strip_prefix('.')?;
    let is_number = (1..=9).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && !number.starts_with('0');
    is_number.then(|| DockerName { suffix: Some(number.to_owned()), gz })
}

/// Whether a name that the state has is that of a file in Docker's directory.
pub fn is_dockers_name(name: &str) -> bool {
    name.split_once(".log").is_some_and(|(live, _)| live.ends_with("-json"))
}

/// Order of two files of one lineage by the names that the state has: [`Layout::order`].
pub fn order_of_names(left: &str, right: &str) -> Ordering {
    let suffix = |name| {
        let (_, rest) = str::split_once(name, ".log")?;
        let rest = rest.strip_suffix(".gz").unwrap_or(rest);
        rest.strip_prefix('.')
    };
    let layout = if is_dockers_name(left) { Layout::Docker("".into()) } else { Layout::Pods };
    layout.order(suffix(left), suffix(right))
}

/// The ledger row of what the state calls by this directory and container.
pub fn row_of(dir: &str, container: &str) -> Option<RowKey> {
    if let Some(id) = dir.strip_prefix(DOCKER) {
        return Some(RowKey { container: id.to_owned(), ..RowKey::default() });
    }
    if let Some(dir) = dir.strip_prefix(FILE) {
        let container = format!("{FILE}{}", plain_files::join(dir, container));
        return Some(RowKey { container, ..RowKey::default() });
    }
    let PodDir { namespace, pod, .. } = pod_path::pod_dir(dir)?;
    Some(RowKey { namespace, pod, container: container.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dockers_names_are_known_and_others_are_refused() {
        let name = |suffix: Option<&str>, gz| Some(DockerName { suffix: suffix.map(str::to_owned), gz });
        assert_eq!(docker_name("ab", "ab-json.log"), name(None, false));
        assert_eq!(docker_name("ab", "ab-json.log.1"), name(Some("1"), false));
        assert_eq!(docker_name("ab", "ab-json.log.12.gz"), name(Some("12"), true));
        for other in [
            "ab-json.log.gz",
            "ab-json.log.",
            "ab-json.log.0",
            "ab-json.log.01",
            "ab-json.log.1.tmp",
            "ab-json.log.x",
            "ab-json.log.1234567890",
            "ab-json.logx",
            "cd-json.log",
            "config.v2.json",
            "",
        ] {
            assert_eq!(docker_name("ab", other), None, "{other}");
        }
        for id in ["", ".", "..", "a/b", "a\n", "é", &"a".repeat(129)] {
            assert!(!is_docker_id(id), "{id}");
        }
    }

    #[test]
    fn of_dockers_files_the_greater_number_is_the_older_and_the_live_one_is_last() {
        let layout = Layout::Docker("ab".into());
        let mut names = [None, Some("2"), Some("10"), Some("1")];
        names.sort_by(|left, right| layout.order(*left, *right));
        assert_eq!(names, [Some("10"), Some("2"), Some("1"), None]);
    }

    #[test]
    fn names_that_the_state_has_are_in_the_order_of_their_rotation() {
        for names in [
            ["0.log.20261120-163501.gz", "0.log.20261120-163502", "0.log"],
            ["ab-json.log.10.gz", "ab-json.log.2", "ab-json.log"],
        ] {
            let mut sorted = [names[2], names[0], names[1]];
            sorted.sort_by(|left, right| order_of_names(left, right));
            assert_eq!(sorted, names);
        }
        assert!(is_dockers_name("ab-json.log.2") && is_dockers_name("ab-json.log"));
        assert!(!is_dockers_name("0.log") && !is_dockers_name("") && !is_dockers_name("0.log.-json"));
        assert_eq!(order_of_names("", ""), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn no_name_can_make_the_parsers_fail(id in "\\PC{0,5}", name in "\\PC{0,40}") {
            let _ = (docker_name(&id, &name), is_docker_id(&name), row_of(&name, &id), order_of_names(&id, &name));
            let _ = docker_name(&id, &format!("{id}-json.log{name}"));
        }
    }
}
