//! Names of plain log files and of what rotation makes of them: logrotate's numbers and dates, and the stamp that lumberjack
//! puts before the extension.
//!
//! | name | is of |
//! |---|---|
//! | `app.log.1`, `app.log.2.gz` | `app.log`, the greater number the older |
//! | `app.log-20260101`, `app.log.2026-01-01`, `app.log-20260101-1718.gz`, `app.log-1767225600` | `app.log`, by date |
//! | `audit-2026-01-01T00-00-00.000.log.gz` | `audit.log`, by date |
//! | `app.log.gz` | `app.log`, older than all others |

use std::cmp::Ordering;

use super::filter::glob;
use super::pod_path;

/// Ends of names that are never read: other compressions, and files under way.
const NOT_READ: [&str; 11] =
    [".xz", ".bz2", ".zst", ".lz4", ".zip", ".tar", ".tgz", ".tmp", ".swp", ".part", "~"];
/// Longest name.
const NAME_LIMIT: usize = 255;
/// Digits of a number; more of them are a date.
const NUMBER: usize = 5;

/// A file's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainName {
    /// Name of the file that is written to.
    pub base: String,
    /// Its own name, without `.gz`; none = the file that is written to.
    pub suffix: Option<String>,
    /// Whether it is compressed.
    pub gz: bool,
}

/// What a rotation put into a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// Nothing: compressed, and no more.
    None,
    /// A date.
    Date,
    /// A number.
    Number,
}

/// Takes the name of a file apart that a pattern (a name with `*`) means, or that rotation made of one; none for any other.
pub fn parse(pattern: &str, name: &str) -> Option<PlainName> {
    let is_hidden = name.starts_with('.') && !pattern.starts_with('.');
    let is_name = (1..=NAME_LIMIT).contains(&name.len()) && !name.chars().any(char::is_control);
    if !is_name || is_hidden || name == "." || name == ".." || NOT_READ.iter().any(|end| name.ends_with(end))
    {
        return None;
    }
    let (stem, gz) = name.strip_suffix(".gz").map_or((name, false), |stem| (stem, true));
    if let Some((base, _)) = mark(stem)
        && glob(pattern, &base)
    {
        return Some(PlainName { base, suffix: Some(stem.to_owned()), gz });
    }
    if !stem.is_empty() && (glob(pattern, name) || glob(pattern, stem)) {
        return Some(PlainName { base: stem.to_owned(), suffix: gz.then(|| stem.to_owned()), gz });
    }
    None
}

/// Order of two files of one base, the oldest first, the one that is written to last.
pub fn order(left: Option<&str>, right: Option<&str>) -> Ordering {
    let (Some(left), Some(right)) = (left, right) else { return pod_path::order(left, right) };
    let of = |stem: &str| mark(stem).map_or(Mark::None, |(_, mark)| mark);
    let (of_left, of_right) = (of(left), of(right));
    of_left.cmp(&of_right).then_with(|| match of_left {
        Mark::Number => pod_path::order(Some(right), Some(left)),
        _ => pod_path::order(Some(left), Some(right)),
    })
}

/// The name without a rotation's mark, and which it is.
fn mark(stem: &str) -> Option<(String, Mark)> {
    for (at, byte) in stem.bytes().enumerate().skip(1) {
        if !matches!(byte, b'.' | b'-') {
            continue;
        }
        let (base, tag) = (&stem[..at], &stem[at + 1..]);
        let digits = tag.bytes().filter(u8::is_ascii_digit).count();
        if byte == b'.' && (1..=NUMBER).contains(&tag.len()) && digits == tag.len() {
            return Some((base.to_owned(), Mark::Number));
        }
        if is_date(tag) {
            return Some((base.to_owned(), Mark::Date));
        }
        if byte == b'-'
            && let Some(rest) = behind_stamp(tag)
        {
            return Some((format!("{base}{rest}"), Mark::Date));
        }
    }
    None
}

/// `20260101`, `2026-01-01`, with a time behind it; seconds since the epoch.
fn is_date(tag: &str) -> bool {
    let digits = tag.bytes().filter(u8::is_ascii_digit).count();
    let is_plain = tag
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'T' | b':' | b'.' | b'Z'));
    let begins = tag.bytes().take(4).filter(u8::is_ascii_digit).count() == 4;
    is_plain && begins && (8..=20).contains(&digits) && tag.len() <= digits + 8
}

/// What stands behind `2026-01-01T00-00-00.000` (gopkg.in/natefinch/lumberjack.v2, `backupTimeFormat`): an extension or nothing.
fn behind_stamp(tag: &str) -> Option<&str> {
    let stamp = b"dddd-dd-ddTdd-dd-dd.ddd";
    let (head, rest) = tag.split_at_checked(stamp.len())?;
    let is_stamp = head.bytes().zip(stamp).all(|(byte, form)| match form {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    });
    (is_stamp && (rest.is_empty() || rest.starts_with('.'))).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(pattern: &str, name: &str) -> Option<(String, Option<String>, bool)> {
        parse(pattern, name).map(|name| (name.base, name.suffix, name.gz))
    }

    #[test]
    fn rotated_names_belong_to_the_file_that_is_written_to() {
        for (name, base) in [
            ("app.log", "app.log"),
            ("app.log.1", "app.log"),
            ("app.log.12.gz", "app.log"),
            ("app.log-20260101", "app.log"),
            ("app.log-20260101.gz", "app.log"),
            ("app.log-20260101-1718", "app.log"),
            ("app.log.2026-01-01", "app.log"),
            ("app.log-1767225600.gz", "app.log"),
            ("app-2026-01-01T00-00-00.000.log.gz", "app.log"),
            ("app.log.gz", "app.log"),
            // A day's own file, which is not renamed.
            ("app-20260101.log", "app-20260101.log"),
        ] {
            for pattern in ["*.log", "*"] {
                let (found, suffix, gz) = parsed(pattern, name).unwrap();
                assert_eq!((found.as_str(), gz), (base, name.ends_with(".gz")), "{name}");
                assert_eq!(suffix.is_none(), name == base, "{name}");
            }
        }
        assert_eq!(
            parsed("messages", "messages-20260101"),
            Some(("messages".into(), Some("messages-20260101".into()), false))
        );
    }

    #[test]
    fn what_a_pattern_does_not_mean_and_what_cannot_be_read_is_left() {
        for (pattern, name) in [
            ("app.log", "app.log.old"),
            ("app.log", "app.log.1.tmp"),
            ("app.log", "app.log.2.xz"),
            ("app.log", "myapp.log"),
            ("app.log", "app.log.1x"),
            ("app.log", "app.log-abcd"),
            ("*", ".hidden"),
            ("*", "a\nb"),
            ("*", ""),
            ("*", ".."),
            ("*", ".gz"),
            ("*.log", "other.txt.1"),
        ] {
            assert_eq!(parsed(pattern, name), None, "{pattern} {name:?}");
        }
        // A name that looks rotated, of a file that the pattern does not mean.
        assert_eq!(parsed("kern-*", "kern-20260101"), Some(("kern-20260101".into(), None, false)));
        assert_eq!(parsed("node.1", "node.1"), Some(("node.1".into(), None, false)));
    }

    #[test]
    fn the_greater_number_is_the_older_and_a_date_the_younger_the_later_it_is() {
        let mut names = vec![None, Some("a.log.2"), Some("a.log.10"), Some("a.log.1")];
        names.sort_by(|left, right| order(*left, *right));
        assert_eq!(names, [Some("a.log.10"), Some("a.log.2"), Some("a.log.1"), None]);
        let mut names = vec![None, Some("a.log-20260201"), Some("a.log"), Some("a.log-20260102")];
        names.sort_by(|left, right| order(*left, *right));
        assert_eq!(names, [Some("a.log"), Some("a.log-20260102"), Some("a.log-20260201"), None]);
    }

    proptest! {
        #[test]
        fn no_name_makes_it_fail_and_each_leads_back_to_itself(pattern in "[*a.]{1,4}", name in "\\PC{0,12}", tag in "[-.T0-9a]{0,24}") {
            for name in [name.clone(), format!("a.log{tag}"), format!("{name}{tag}.gz")] {
                if let Some(PlainName { base, suffix, gz }) = parse(&pattern, &name) {
                    prop_assert_eq!(format!("{}{}", suffix.as_ref().unwrap_or(&base), if gz { ".gz" } else { "" }), name);
                }
            }
        }

        #[test]
        fn the_order_is_total(names in proptest::collection::vec("a([.-][0-9]{1,9}|-2026[-0-9T.]{0,20}|[-.0-9a]{0,8})", 3)) {
            let by = |left: usize, right: usize| order(Some(&names[left]), Some(&names[right]));
            prop_assert_eq!(by(0, 1), by(1, 0).reverse());
            if by(0, 1) != Ordering::Greater && by(1, 2) != Ordering::Greater {
                prop_assert_ne!(by(0, 2), Ordering::Greater);
            }
        }
    }
}
