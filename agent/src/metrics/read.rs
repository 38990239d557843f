//! Reading small kernel files: handles are kept and read again from the start, sizes are bounded, text is lossy.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// No file that is read here is larger on a sane machine; `/proc/stat` of 1,024 CPUs has 120 KiB.
const LIMIT: usize = 16 << 20;
/// The kernel answers a read with whole records, as many as fit into a page of this size; a file of one record is answered whole.
const PAGE: usize = 4096;
/// The longest record of a file that has [`Records::Short`] ones.
const SHORT: usize = 1024;

/// How long a file's records are, which is what the kernel never cuts: most often lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// There is but one, or each is so short that an answer which leaves room for one more was the last: the file
    /// is read without asking for its end, which costs as much as reading it where the kernel has to look for records.
    Short,
    /// Not known.
    Any,
}

/// A file whose handle is kept: the kernel makes its text anew at each read from offset 0, so only the walk over
/// the path is saved.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    records: Records,
    open: Mutex<Option<File>>,
}

impl Kept {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), records: Records::Any, open: Mutex::default() }
    }

    /// The same of a file with [`Records::Short`].
    pub(crate) fn short(self) -> Self {
        Self { records: Records::Short, ..self }
    }

    /// The first of these that is there now, or the last one.
    pub(crate) fn first_of(paths: [PathBuf; 2]) -> Self {
        let [first, second] = paths;
        Self::new(if first.exists() { first } else { second })
    }

    /// Its text; what is not UTF-8 is replaced. The path is in the error.
    pub(crate) fn read(&self) -> Result<String, String> {
        self.bytes().map(lossy).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// As [`Kept::read`]; `None` where there is no such file.
    pub(crate) fn read_if_there(&self) -> Result<Option<String>, String> {
        match self.bytes() {
            Ok(bytes) => Ok(Some(lossy(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        }
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        if let Some(file) = &*slot
            && read_at_start(file, self.records, &mut bytes).is_ok()
        {
            return Ok(bytes);
        }
        *slot = None;
        let file = File::open(&self.path)?;
        read_at_start(&file, self.records, &mut bytes)?;
        *slot = Some(file);
        Ok(bytes)
    }
}

/// Reads a file from its start into `into`, which is cleared first.
pub(crate) fn read_at_start(file: &File, records: Records, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    let mut filled = 0;
    loop {
        if into.len() - filled < 1024 {
            into.resize((into.len() * 2).max(PAGE), 0);
        }
        let room = into.len() - filled;
        let got = file.read_at(&mut into[filled..], filled as u64)?;
        filled += got;
        let last = records == Records::Short && got + SHORT <= PAGE.min(room);
        if got == 0 || last {
            into.truncate(filled);
            return Ok(());
        }
        if filled > LIMIT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any such file should be"));
        }
    }
}

/// Opens, reads, closes.
pub(crate) fn read_once(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    read_at_start(&File::open(path)?, Records::Any, &mut bytes)?;
    Ok(lossy(bytes))
}

/// The one number in a file such as `nr_conntrack_max`.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn lossy(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => match String::from_utf8_lossy(error.as_bytes()) {
            Cow::Owned(text) => text,
            Cow::Borrowed(text) => text.to_owned(),
        },
    }
}

/// Counts of the kernel as seconds and ratios: they stay far below 2^52.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_is_read_afresh_and_a_missing_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let kept = Kept::new(&path);
        assert!(kept.read().unwrap_err().contains("/x: "));
        assert_eq!(kept.read_if_there().unwrap(), None);
        let long = "a".repeat(10_000);
        std::fs::write(&path, &long).unwrap();
        assert_eq!(kept.read().unwrap(), long);
        std::fs::write(&path, b"b\xff").unwrap();
        assert_eq!(kept.read().unwrap(), "b\u{fffd}");
    }

    #[test]
    fn a_file_of_short_records_is_read_whole_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for lines in [0, 1, 2, 3, 4, 5, 100, 1000] {
            let text = format!("{}\n", "a".repeat(SHORT - 1)).repeat(lines);
            std::fs::write(&path, &text).unwrap();
            let file = File::open(&path).unwrap();
            let mut bytes = Vec::new();
            for records in [Records::Short, Records::Any] {
                read_at_start(&file, records, &mut bytes).unwrap();
                assert!(bytes == text.as_bytes(), "{lines} lines, {records:?}");
            }
        }
        // As the kernel says it, beside what is read to the end; nothing of it changes meanwhile.
        for name in ["/proc/net/snmp6", "/proc/sys/kernel/hostname", "/proc/filesystems", "/proc/version"] {
            let (short, any) = (Kept::new(name).short(), Kept::new(name));
            let keys = |text: String| {
                text.lines()
                    .filter_map(|line| Some(line.split('\t').next()?.split(' ').next()?.to_owned()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                short.read_if_there().unwrap().map(keys),
                any.read_if_there().unwrap().map(keys),
                "{name}"
            );
        }
    }
}
