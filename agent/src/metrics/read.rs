//! Reading small kernel files: handles are kept and read again from the start, sizes are bounded, text is lossy.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};

/// No file that is read here is larger on a sane machine; `/proc/stat` of 1,024 CPUs has 120 KiB.
const LIMIT: usize = 16 << 20;

/// A file whose handle is kept: the kernel makes its text anew at each read from offset 0, so only the walk over
/// the path is saved.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    open: Mutex<Option<File>>,
}

impl Kept {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), open: Mutex::default() }
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
            && read_at_start(file, &mut bytes).is_ok()
        {
            return Ok(bytes);
        }
        *slot = None;
        let file = File::open(&self.path)?;
        read_at_start(&file, &mut bytes)?;
        *slot = Some(file);
        Ok(bytes)
    }
}

/// Reads a file from its start into `into`, which is cleared first.
pub(crate) fn read_at_start(file: &File, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    let mut filled = 0;
    loop {
        if into.len() - filled < 1024 {
            into.resize((into.len() * 2).max(4096), 0);
        }
        let got = file.read_at(&mut into[filled..], filled as u64)?;
        filled += got;
        if got == 0 {
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
    read_at_start(&File::open(path)?, &mut bytes)?;
    Ok(lossy(bytes))
}

/// A directory of sysfs, to read several of its attributes: of each only the last step of the path is walked.
#[derive(Debug)]
pub(crate) struct Attributes(OwnedFd);

impl Attributes {
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, directory, flags, Mode::empty())?))
    }

    /// An attribute without the white space around it; `None` where there is none, or no answer. The kernel answers one read
    /// with the whole of it (Documentation/filesystems/sysfs.rst), and none that is read here has more than 4 KiB.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = [0; 4096];
        let got = rustix::io::read(&file, &mut bytes).ok()?;
        Some(String::from_utf8_lossy(bytes.get(..got)?).trim().to_owned())
    }

    /// Whether there is such an entry.
    pub(crate) fn has(&self, name: &str) -> bool {
        accessat(&self.0, name, Access::EXISTS, AtFlags::empty()).is_ok()
    }
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
    fn attributes_are_what_the_directory_has() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mtu"), " 1500\n").unwrap();
        std::fs::write(dir.path().join("long"), "x".repeat(10_000)).unwrap();
        std::fs::create_dir(dir.path().join("device")).unwrap();
        let attributes = Attributes::of(dir.path()).unwrap();
        assert_eq!(attributes.get("mtu").as_deref(), Some("1500"));
        assert_eq!(attributes.get("long").map(|text| text.len()), Some(4096));
        assert_eq!(attributes.get("carrier"), None);
        assert_eq!(attributes.get("device"), None, "a directory has no text");
        assert!(attributes.has("device") && !attributes.has("carrier"));
        assert!(Attributes::of(&dir.path().join("mtu")).is_err());
    }
}
