//! `positions` in the state directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::Store;

/// `positions` in the state directory.
pub struct DiskStore {
    dir: PathBuf,
    path: PathBuf,
    file: Option<File>,
    len: u64,
}

impl DiskStore {
    /// In this directory, which exists.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join("positions"), file: None, len: 0 }
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Store for DiskStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        // Without NONBLOCK, reading a FIFO by that name would hold the start for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut file = match OpenOptions::new().read(true).append(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.len = bytes.len() as u64;
        self.file = Some(file);
        Ok(Some(bytes))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return self.replace(bytes);
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What is half there must not stand before the next frame; if even this fails, reading finds the magic.
            let _ = file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = self.dir.join("positions.new");
        let written = (|| {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()
        })();
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
        std::fs::rename(&new, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.len = bytes.len() as u64;
        self.sync_dir()
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        std::fs::copy(&self.path, self.dir.join(format!("positions.corrupt-{seconds}"))).map(drop)
    }
}
