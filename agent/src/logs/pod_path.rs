//! What a log file's place says: `<namespace>_<pod>_<uid>/<container>/<restart>.log[.<suffix>][.gz]` (kubelet,
//! pkg/kubelet/kuberuntime: `BuildContainerLogsDirectory`, `BuildLogFilename`).
//!
//! Names come from whoever can write below the directory: anything that the kubelet would not make is refused, so
//! that a name can never carry a path, a control character or an unbounded length into labels and messages.

use std::cmp::Ordering;

/// A pod's directory, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodDir {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod uid; of a static pod the kubelet's configuration hash.
    pub uid: String,
}

/// A log file's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogName {
    /// The container's restart count.
    pub restart: u32,
    /// What a rotation appended, without `.gz`; none = the file the runtime writes to.
    pub suffix: Option<String>,
    /// Whether it is compressed.
    pub gz: bool,
}

const NAME_LIMIT: usize = 253;

/// Takes a pod's directory name apart; none if it is not one.
pub fn pod_dir(name: &str) -> Option<PodDir> {
    let (namespace, rest) = name.split_once('_')?;
    let (pod, uid) = rest.rsplit_once('_')?;
    let valid = is_name(namespace) && is_name(pod) && is_name(uid);
    valid.then(|| PodDir { namespace: namespace.to_owned(), pod: pod.to_owned(), uid: uid.to_owned() })
}

/// Whether a directory name can be a container's.
pub fn is_container(name: &str) -> bool {
    is_name(name)
}

/// Takes a log file's name apart; none if it is not one (`.tmp` is a compression under way).
pub fn log_name(name: &str) -> Option<LogName> {
    let (restart, rest) = name.split_once(".log")?;
    let canonical = restart == "0" || !restart.starts_with('0');
    if !canonical || !restart.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let restart = restart.parse().ok()?;
    let (rest, gz) = rest.strip_suffix(".gz").map_or((rest, false), |plain| (plain, true));
    if rest.is_empty() {
        return Some(LogName { restart, suffix: None, gz });
    }
    let suffix = rest.strip_prefix('.')?;
    if suffix.ends_with(".tmp") || suffix == "tmp" || !is_suffix(suffix) {
        return None;
    }
    Some(LogName { restart, suffix: Some(suffix.to_owned()), gz })
}

/// Order of two files of one lineage by name alone: rotated ones by suffix, the one being written to last. Runs of
/// digits compare as numbers, so `.9` comes before `.10`.
pub fn order(left: Option<&str>, right: Option<&str>) -> Ordering {
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => natural(left.as_bytes(), right.as_bytes()),
    }
}

fn natural(mut left: &[u8], mut right: &[u8]) -> Ordering {
    loop {
        let (Some(&l), Some(&r)) = (left.first(), right.first()) else {
            return left.len().cmp(&right.len());
        };
        if l.is_ascii_digit() && r.is_ascii_digit() {
            let (left_run, left_rest) = digits(left);
            let (right_run, right_rest) = digits(right);
            let by_value = left_run.len().cmp(&right_run.len()).then_with(|| left_run.cmp(right_run));
            if by_value != Ordering::Equal {
                return by_value;
            }
            (left, right) = (left_rest, right_rest);
        } else if l == r {
            (left, right) = (&left[1..], &right[1..]);
        } else {
            return l.cmp(&r);
        }
    }
}

/// The leading run of digits without its zeros, and what follows.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let zeros = text[..end].iter().take_while(|&&byte| byte == b'0').count();
    (&text[zeros..end], &text[end..])
}

fn is_name(text: &str) -> bool {
    (1..=NAME_LIMIT).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':'))
}

fn is_suffix(text: &str) -> bool {
    (1..=NAME_LIMIT).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pod_directory_gives_namespace_name_and_uid() {
        let dir = pod_dir("shop_web-69b97f555c-4vw48_e4f37aa0-6b56-465d-a479-166c04b7428e").unwrap();
        assert_eq!(dir.namespace, "shop");
        assert_eq!(dir.pod, "web-69b97f555c-4vw48");
        assert_eq!(dir.uid, "e4f37aa0-6b56-465d-a479-166c04b7428e");
        let fixed = pod_dir("kube-system_static-web-lab-node-1_0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(fixed.uid.len(), 32);
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in
            ["", "_", "__", "a_b", "a__c", "../x_b_c", "a_b_..", "a_b_c/d", "a_b_\n", "a_\u{fe}_c", ".a_b_c"]
        {
            assert_eq!(pod_dir(name), None, "{name:?}");
        }
        assert_eq!(pod_dir(&format!("a_{}_c", "x".repeat(300))), None);
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(!is_container(name), "{name:?}");
        }
        for name in [
            "log",
            ".log",
            "x.log",
            "-1.log",
            "+1.log",
            "00.log",
            "1.log.",
            "1.logx",
            "99999999999.log",
            "1.log./",
        ] {
            assert_eq!(log_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn rotated_and_compressed_names_are_known_and_a_compression_under_way_is_ignored() {
        let name = |restart, suffix: Option<&str>, gz| {
            Some(LogName { restart, suffix: suffix.map(str::to_owned), gz })
        };
        assert_eq!(log_name("0.log"), name(0, None, false));
        assert_eq!(log_name("12.log.20261120-164205"), name(12, Some("20261120-164205"), false));
        assert_eq!(log_name("12.log.20261120-164205.gz"), name(12, Some("20261120-164205"), true));
        assert_eq!(log_name("0.log.20261120-164205.tmp"), None);
    }

    #[test]
    fn files_of_a_lineage_are_ordered_by_rotation_and_the_live_one_is_last() {
        let mut names = vec![
            None,
            Some("20261120-164205"),
            Some("20261120-164205.10"),
            Some("20261120-164205.9"),
            Some("20261119-235959"),
        ];
        names.sort_by(|left, right| order(*left, *right));
        assert_eq!(
            names,
            [
                Some("20261119-235959"),
                Some("20261120-164205"),
                Some("20261120-164205.9"),
                Some("20261120-164205.10"),
                None
            ]
        );
    }

    proptest! {
        #[test]
        fn no_name_can_make_the_parsers_fail(name in "\\PC{0,40}") {
            let _ = (pod_dir(&name), log_name(&name), is_container(&name));
        }

        #[test]
        fn the_order_is_total(names in proptest::collection::vec("[0-9a-b.]{1,6}", 3)) {
            let by = |left: usize, right: usize| order(Some(&names[left]), Some(&names[right]));
            prop_assert_eq!(by(0, 1), by(1, 0).reverse());
            if by(0, 1) != Ordering::Greater && by(1, 2) != Ordering::Greater {
                prop_assert_ne!(by(0, 2), Ordering::Greater);
            }
        }
    }
}
