//! A value that is made from files and made again when they change: certificates, tokens.
//!
//! Files are looked at when the value is used, at most once a second: device, inode, size and modification time
//! through symlinks, so that Kubernetes' swap of the `..data` link is seen. No watch, no thread.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::RateLimit;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a file is by its metadata; `None` = it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A value made from files.
#[derive(Debug)]
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    state: Mutex<State<T>>,
    complaints: RateLimit,
}

#[derive(Debug)]
struct State<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl<T> Watched<T> {
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// What `make` says.
    pub fn new<E>(paths: Vec<PathBuf>, make: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        // Before the files are read: a change in between is then seen at the next look.
        let stamps = paths.iter().map(|path| stamp(path)).collect();
        let state = State { value: Arc::new(make()?), stamps, looked: Instant::now() };
        Ok(Self { paths, state: Mutex::new(state), complaints: RateLimit::new(Duration::from_secs(60)) })
    }

    /// The value, made again with `make` when one of the files has changed. When that fails the old value stays
    /// in use (a half-written file is the usual reason), the failure is logged and tried again a second later.
    pub fn get<E: std::fmt::Display>(&self, make: impl FnOnce() -> Result<T, E>) -> Arc<T> {
        self.get_at(Instant::now(), make)
    }

    fn get_at<E: std::fmt::Display>(&self, now: Instant, make: impl FnOnce() -> Result<T, E>) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) < LOOK_EVERY {
            return Arc::clone(&state.value);
        }
        state.looked = now;
        let stamps: Vec<Stamp> = self.paths.iter().map(|path| stamp(path)).collect();
        if stamps != state.stamps {
            match make() {
                Ok(value) => {
                    state.value = Arc::new(value);
                    state.stamps = stamps;
                    tracing::info!(files = ?self.paths, "files changed and were read again");
                }
                Err(error) => {
                    if let Some(suppressed) = self.complaints.allow() {
                        tracing::warn!(files = ?self.paths, %error, suppressed, "changed files cannot be used, the old content stays in use");
                    }
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_within_a_second_and_an_unreadable_one_keeps_the_old_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "one").unwrap();
        let watched = Watched::new(vec![path.clone()], || fs::read_to_string(&path)).unwrap();
        let start = Instant::now();
        let read = || fs::read_to_string(&path);
        fs::write(&path, "two!").unwrap();
        assert_eq!(*watched.get_at(start, read), "one");
        assert_eq!(*watched.get_at(start + Duration::from_secs(2), read), "two!");
        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.get_at(start + Duration::from_secs(4), read), "two!");
        fs::write(&path, "three").unwrap();
        assert_eq!(*watched.get_at(start + Duration::from_secs(6), read), "three");
        let unused = || -> Result<String, String> { panic!("nothing changed") };
        assert_eq!(*watched.get_at(start + Duration::from_secs(8), unused), "three");
    }

    #[test]
    fn the_swap_of_a_mounted_secrets_link_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("token"), text).unwrap();
        }
        let link = |to: &str| {
            std::os::unix::fs::symlink(to, dir.path().join("..tmp")).unwrap();
            fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        };
        link("..1");
        std::os::unix::fs::symlink("..data/token", dir.path().join("token")).unwrap();
        let path = dir.path().join("token");
        let watched = Watched::new(vec![path.clone()], || fs::read_to_string(&path)).unwrap();
        link("..2");
        assert_eq!(
            *watched.get_at(Instant::now() + Duration::from_secs(2), || fs::read_to_string(&path)),
            "new"
        );
    }
}
