//! `positions` in the state directory (the journals' are `journal-positions`): in what order bytes and names are written, so that a crash at any instant leaves
//! what was durable before.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Store;
use super::dir::{Dir, HostDir};

const NAME: &str = "positions";

/// `positions` in a directory.
pub struct DiskStore<D = HostDir> {
    dir: D,
    name: &'static str,
    /// Bytes that are whole frames; none = there is no file yet.
    len: Option<u64>,
}

impl DiskStore {
    /// In this directory, which exists.
    pub fn new(dir: &Path) -> Self {
        Self::over(HostDir::new(dir))
    }

    /// The same by another name.
    pub fn named(dir: &Path, name: &'static str) -> Self {
        Self { name, ..Self::new(dir) }
    }
}

impl<D: Dir> DiskStore<D> {
    /// In any directory.
    pub fn over(dir: D) -> Self {
        Self { dir, name: NAME, len: None }
    }
}

impl<D: Dir> Store for DiskStore<D> {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        let bytes = self.dir.read(self.name)?;
        self.len = bytes.as_ref().map(|bytes| bytes.len() as u64);
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(len) = self.len else { return self.replace(bytes) };
        let written = self.dir.append(self.name, bytes).and_then(|()| self.dir.sync(self.name));
        if let Err(error) = written {
            // What is half there must not stand before the next frame; if even this fails, reading finds the magic.
            let _ = self.dir.truncate(self.name, len);
            return Err(error);
        }
        self.len = Some(len + bytes.len() as u64);
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{}.new", self.name);
        if let Err(error) = self.dir.create(&new, bytes).and_then(|()| self.dir.sync(&new)) {
            let _ = self.dir.remove(&new);
            return Err(error);
        }
        self.dir.rename(&new, self.name)?;
        self.len = Some(bytes.len() as u64);
        self.dir.sync_dir()
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Some(bytes) = self.dir.read(self.name)? else { return Ok(()) };
        self.dir.create(&format!("{}.corrupt-{seconds}", self.name), &bytes)
    }
}
