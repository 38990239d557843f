//! Names below the pod log directory that the kubelet would not make: not read, and said, however many there are, once an
//! hour for each kind.
//!
//! Memory: one entry a kind, and a path a broken link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::pod_path;

/// Time between two messages of a kind.
const AGAIN: Duration = Duration::from_secs(3600);
/// Characters of a name that are shown.
const SHOWN: usize = 80;
/// Broken links that are remembered.
const LINKS: usize = 1000;

/// What is odd about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// Not UTF-8.
    NotUtf8,
    /// Not `<namespace>_<pod>_<uid>`.
    NotAPod,
    /// Not a container's name.
    NotAContainer,
    /// Not `<restart>.log[.<suffix>][.gz]`.
    NotALog,
    /// Neither a regular file nor a link to one.
    NotAFile,
    /// Listed, but it leads nowhere inside the host's root.
    LeadsNowhere,
}

impl Oddity {
    fn text(self) -> &'static str {
        match self {
            Self::NotUtf8 => "it is not UTF-8",
            Self::NotAPod => "it is not <namespace>_<pod>_<uid>",
            Self::NotAContainer => "it is not a container's name",
            Self::NotALog => "it is not <restart>.log, with or without a rotation's suffix and .gz",
            Self::NotAFile => "it is not a regular file",
            Self::LeadsNowhere => "it leads nowhere inside the host's root",
        }
    }
}

/// What was odd, and when that was said.
#[derive(Debug, Default)]
pub struct OddNames {
    said: BTreeMap<Oddity, (Instant, u64)>,
    nowhere: BTreeSet<String>,
}

impl OddNames {
    /// Notes a name; says it if nothing of its kind was said for an hour.
    pub fn note(&mut self, oddity: Oddity, dir: &str, name: &str, now: Instant) {
        let entry = self.said.get(&oddity).copied();
        if entry.is_some_and(|(at, _)| now.saturating_duration_since(at) < AGAIN) {
            return;
        }
        self.said.insert(oddity, (now, entry.map_or(0, |(_, times)| times) + 1));
        let shown: String = name.chars().take(SHOWN).collect();
        tracing::warn!(
            dir,
            name = ?shown,
            "a name in a directory of log files is not read: {}; others like it are not said for an hour",
            oddity.text()
        );
    }

    /// Notes names of a listing that `is_known` does not know.
    pub fn note_unknown(
        &mut self,
        dir: &str,
        names: &[String],
        oddity: Oddity,
        is_known: fn(&str) -> bool,
        now: Instant,
    ) {
        if let Some(name) =
            names.iter().find(|name| !is_known(name) && !name.contains(char::REPLACEMENT_CHARACTER))
        {
            self.note(oddity, dir, name, now);
        }
        if let Some(name) = names.iter().find(|name| name.contains(char::REPLACEMENT_CHARACTER)) {
            self.note(Oddity::NotUtf8, dir, name, now);
        }
    }

    /// A name that was listed leads nowhere. Once is a file removed in between; twice is said.
    pub fn note_nowhere(&mut self, dir: &str, name: &str, now: Instant) {
        if self.nowhere.len() >= LINKS {
            self.nowhere.clear();
        }
        if !self.nowhere.insert(format!("{dir}/{name}")) {
            self.note(Oddity::LeadsNowhere, dir, name, now);
        }
    }

    /// It leads somewhere.
    pub fn leads_somewhere(&mut self, path: &str) {
        if !self.nowhere.is_empty() {
            self.nowhere.remove(path);
        }
    }

    /// How often each kind was said.
    #[cfg(test)]
    pub fn times(&self) -> Vec<(Oddity, u64)> {
        self.said.iter().map(|(oddity, (_, times))| (*oddity, *times)).collect()
    }
}

/// Whether a name can be a pod's directory.
pub fn is_pod(name: &str) -> bool {
    pod_path::pod_dir(name).is_some()
}

/// Whether a name is a log file's, or of a compression under way.
pub fn is_log(name: &str) -> bool {
    pod_path::log_name(name).is_some() || name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_said_when_it_is_seen_twice_and_not_if_it_leads_somewhere_again() {
        let now = Instant::now();
        let mut odd = OddNames::default();
        odd.note_nowhere("a_b_c/app", "0.log", now);
        odd.leads_somewhere("a_b_c/app/0.log");
        odd.note_nowhere("a_b_c/app", "0.log", now);
        assert_eq!(odd.times(), []);
        odd.note_nowhere("a_b_c/app", "0.log", now);
        assert_eq!(odd.times(), [(Oddity::LeadsNowhere, 1)]);
    }

    #[test]
    fn broken_links_without_end_take_no_memory_without_end() {
        let now = Instant::now();
        let mut odd = OddNames::default();
        for n in 0..10 * LINKS {
            odd.note_nowhere("a_b_c/app", &n.to_string(), now);
        }
        assert!(odd.nowhere.len() <= LINKS);
    }
}
