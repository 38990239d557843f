//! One process a directory: an flock on `<dir>/lock`, which the kernel gives back however the holder ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use rustix::fs::{FlockOperation, flock};

/// The directory is ours as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    dir: PathBuf,
}

/// Why the directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The directory or the file in it cannot be made or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("{} is in use by {holder}", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as far as it can be known from here.
        holder: Holder,
    },
}

/// The process that holds a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id as it wrote it (in its own pid namespace); `None` = not written yet.
    pub pid: Option<u32>,
    /// Its program as it wrote it.
    pub program: String,
    /// Its command line by `/proc`; empty where it cannot be seen from here.
    pub command: String,
}

impl Lock {
    /// Creates `dir` (mode 0700) where it is missing and locks it for `program`.
    ///
    /// # Errors
    /// [`LockError::Held`] names the other process; [`LockError::Io`] when the directory cannot be used.
    pub fn take(dir: &Path, program: &str) -> Result<Self, LockError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail(dir))?;
        let path = dir.join("lock");
        // Not truncated here: until we hold the lock the content is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(fail(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held { dir: dir.to_owned(), holder: Holder::read(&mut file) });
            }
            Err(errno) => return Err(fail(&path)(errno.into())),
        }
        let text = format!("{} {program}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(fail(&path))?;
        Ok(Self { _file: file, dir: dir.to_owned() })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Holder {
    fn read(file: &mut File) -> Self {
        let mut text = String::new();
        // What is in the file serves the message only, so a failed read leaves it vague.
        let _ = file.rewind().and_then(|()| file.take(4096).read_to_string(&mut text));
        let (pid, program) = text.trim().split_once(' ').unwrap_or_default();
        let pid: Option<u32> = pid.parse().ok();
        let command = pid
            .and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|bytes| {
                String::from_utf8_lossy(&bytes).replace('\0', " ").trim().chars().take(300).collect()
            })
            .unwrap_or_default();
        Self { pid, program: program.chars().take(100).collect(), command }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.pid else { return f.write_str("another process") };
        write!(f, "{} with pid {pid}", self.program)?;
        if self.command.is_empty() {
            // Another pid namespace, most likely another pod on the same host path.
            return f.write_str(" (not visible from here)");
        }
        write!(f, " (`{}`)", self.command)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_second_holder_is_refused_and_told_who_the_first_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let first = Lock::take(&dir, "sonde-agent").unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let text = Lock::take(&dir, "sonde-agent").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(text.contains(&format!("in use by sonde-agent with pid {pid} (`")), "{text}");
        assert!(text.starts_with(&dir.display().to_string()), "{text}");
        drop(first);
        assert_eq!(Lock::take(&dir, "other").unwrap().dir(), dir);
        assert_eq!(fs::read_to_string(dir.join("lock")).unwrap(), format!("{pid} other\n"));
    }

    #[test]
    fn a_lock_file_with_garbage_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        for garbage in [&b""[..], b"\xff\xfe\0", b"99999999999999999999 x", b"4194304999 gone"] {
            fs::write(dir.path().join("lock"), garbage).unwrap();
            let held = File::options().read(true).write(true).open(dir.path().join("lock")).unwrap();
            flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
            let error = Lock::take(dir.path(), "x").unwrap_err();
            assert!(matches!(error, LockError::Held { .. }), "{error}");
            drop(held);
            Lock::take(dir.path(), "x").unwrap();
        }
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, dir.path().join("lock")).unwrap();
        assert!(matches!(Lock::take(dir.path(), "x"), Err(LockError::Io { .. })));
        assert!(!target.exists());
    }
}
