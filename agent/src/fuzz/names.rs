//! Names of plain log files.

use std::cmp::Ordering;

use crate::logs::plain_names::{PlainName, order, parse};

/// A pattern and three names, a line each: what is taken apart is put together again, and the order is one.
pub fn plain_names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let pattern = lines.next().unwrap_or_default();
    let mut stems: Vec<Option<String>> = Vec::new();
    for name in lines.take(3) {
        let Some(PlainName { base, suffix, gz }) = parse(pattern, name) else { continue };
        assert!(!base.is_empty() && base.len() <= name.len());
        let end = if gz { ".gz" } else { "" };
        assert_eq!(format!("{}{end}", suffix.as_ref().unwrap_or(&base)), name);
        stems.push(suffix);
    }
    let by = |left: usize, right: usize| order(stems[left].as_deref(), stems[right].as_deref());
    for left in 0..stems.len() {
        assert_eq!(by(left, left), Ordering::Equal);
        for right in 0..stems.len() {
            assert_eq!(by(left, right), by(right, left).reverse());
            for last in 0..stems.len() {
                if by(left, right) != Ordering::Greater && by(right, last) != Ordering::Greater {
                    assert_ne!(by(left, last), Ordering::Greater, "{stems:?}");
                }
            }
        }
    }
}

/// Names of logrotate's and lumberjack's.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "*.log\napp.log\napp.log.1\napp.log.12.gz",
        "app*\napp.log-20260101\napp.log-20260101-1718.gz\napp-2026-01-01T00-00-00.000.log.gz",
        "*\nmessages-1767225600.gz\nmessages.gz\nmessages.2026-01-01",
        "kern-*\nkern-20260101\n.hidden\nkern.log.5.xz",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}
