//! What the positions need of a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A directory of few files. Bytes are durable after [`Dir::sync`], names after [`Dir::sync_dir`]; before that a crash
/// may keep any part of them.
pub trait Dir: Send {
    /// A file's bytes; none if there is none.
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// A file of that name with these bytes and no others.
    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// More bytes at a file's end. After an error some of them may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file.
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Makes a file's bytes durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Another name for a file, in place of the file that has it.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file's name.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&mut self) -> io::Result<()>;
}

/// A directory of this machine. The file that was used last stays open: a failed write is reported where it was made.
pub struct HostDir {
    dir: PathBuf,
    open: Option<(String, File)>,
}

impl HostDir {
    /// This one, which exists.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let open = match self.open.take() {
            Some((known, file)) if known == name => (known, file),
            _ => (name.to_owned(), OpenOptions::new().append(true).open(self.dir.join(name))?),
        };
        Ok(&mut self.open.insert(open).1)
    }
}

impl Dir for HostDir {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // Without NONBLOCK, reading a FIFO by that name would hold the start for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let path = self.dir.join(name);
        let mut file = match OpenOptions::new().read(true).append(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.open = Some((name.to_owned(), file));
        Ok(Some(bytes))
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        self.open.insert((name.to_owned(), file)).1.write_all(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.file(name)?.set_len(len)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))?;
        self.open = self.open.take().and_then(|(name, file)| (name == from).then(|| (to.to_owned(), file)));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}
