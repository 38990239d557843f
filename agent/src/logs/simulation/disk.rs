//! A file system and a state store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::logs::checkpoint::Store;
use crate::logs::fs::{Changes, Kind, LogFile, LogFs, Place, Stat};
use crate::logs::layout::DOCKER;
use crate::logs::tail::FileId;

type Bytes = Arc<Mutex<Vec<u8>>>;
/// What is written, and into which files.
type Writes = Vec<(Bytes, Vec<u8>)>;

/// Files by path; an inode lives on in whoever has it open.
#[derive(Clone, Default)]
pub(in crate::logs) struct Disk {
    inner: Arc<Mutex<DiskInner>>,
}

#[derive(Default)]
struct DiskInner {
    files: BTreeMap<String, (u64, Bytes)>,
    next: u64,
    /// Inodes without a name, which are given again when nobody has them open.
    nameless: Vec<(u64, Bytes)>,
    taken: Arc<AtomicU64>,
    faults: Arc<Mutex<Faults>>,
    denied: BTreeSet<String>,
    /// Whether directories and files can be watched; nothing that happens is told, except by `overflow`.
    watched: bool,
    overflow: bool,
    /// What is told of at the next look.
    told: Vec<Place>,
    calls: u64,
}

/// What happens when files are read.
#[derive(Default)]
struct Faults {
    /// Inodes that the disk does not give.
    broken: BTreeSet<u64>,
    /// When the end of this inode is read next, others grow.
    at_end: Option<(u64, Writes)>,
}

#[derive(Clone)]
pub(in crate::logs) struct SimFile {
    inode: u64,
    bytes: Bytes,
    taken: Arc<AtomicU64>,
    faults: Arc<Mutex<Faults>>,
}

impl Disk {
    /// Bytes that were read, of all files.
    pub(in crate::logs) fn taken(&self) -> u64 {
        self.inner.lock().unwrap().taken.load(Ordering::Relaxed)
    }
    /// Whether nobody may open this file.
    pub(in crate::logs) fn deny(&self, path: &str, denied: bool) {
        let mut inner = self.inner.lock().unwrap();
        if denied {
            inner.denied.insert(path.to_owned());
        } else {
            inner.denied.remove(path);
        }
    }
    /// Whether the disk fails where this file lies.
    pub(in crate::logs) fn break_reads(&self, path: &str, broken: bool) {
        let inner = self.inner.lock().unwrap();
        let (inode, mut faults) = (inner.files[path].0, inner.faults.lock().unwrap());
        if broken {
            faults.broken.insert(inode);
        } else {
            faults.broken.remove(&inode);
        }
    }
    /// When `path` is next read to its end, these are written behind that.
    pub(in crate::logs) fn write_at_end_of(&self, path: &str, writes: &[(&str, String)]) {
        let inner = self.inner.lock().unwrap();
        let of = |(path, text): &(&str, String)| (inner.files[*path].1.clone(), text.clone().into_bytes());
        let writes = writes.iter().map(of).collect();
        inner.faults.lock().unwrap().at_end = Some((inner.files[path].0, writes));
    }
    /// From now on everything can be watched, and nothing happens.
    pub(in crate::logs) fn watch_all(&self) {
        let mut inner = self.inner.lock().unwrap();
        (inner.watched, inner.overflow) = (true, true);
    }
    /// Something happened there.
    pub(in crate::logs) fn tell(&self, place: Place) {
        self.inner.lock().unwrap().told.push(place);
    }
    /// Listings, looks and openings.
    pub(in crate::logs) fn calls(&self) -> u64 {
        self.inner.lock().unwrap().calls
    }
    pub(in crate::logs) fn append(&self, path: &str, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap();
        if !inner.files.contains_key(path) {
            let free = inner.nameless.iter().position(|(_, bytes)| Arc::strong_count(bytes) == 1);
            let inode = free.map(|at| inner.nameless.swap_remove(at).0);
            inner.next += u64::from(inode.is_none());
            let inode = inode.unwrap_or(inner.next);
            inner.files.insert(path.to_owned(), (inode, Bytes::default()));
        }
        let file = &inner.files[path];
        file.1.lock().unwrap().extend_from_slice(bytes);
    }
    pub(in crate::logs) fn rename(&self, from: &str, to: &str) {
        let mut inner = self.inner.lock().unwrap();
        if let Some(file) = inner.files.remove(from) {
            let before = inner.files.insert(to.to_owned(), file);
            inner.nameless.extend(before);
        }
    }
    pub(in crate::logs) fn remove(&self, path: &str) {
        let mut inner = self.inner.lock().unwrap();
        let file = inner.files.remove(path);
        inner.nameless.extend(file);
    }
    /// Another name of the same file.
    pub(in crate::logs) fn link(&self, from: &str, to: &str) {
        let mut inner = self.inner.lock().unwrap();
        let file = inner.files[from].clone();
        inner.files.insert(to.to_owned(), file);
    }
    pub(in crate::logs) fn read(&self, path: &str) -> Vec<u8> {
        self.inner.lock().unwrap().files[path].1.lock().unwrap().clone()
    }
    pub(in crate::logs) fn names(&self, prefix: &str) -> Vec<String> {
        self.inner.lock().unwrap().files.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }
    pub(in crate::logs) fn truncate(&self, path: &str) {
        self.inner.lock().unwrap().files[path].1.lock().unwrap().clear();
    }
    pub(in crate::logs) fn shrink(&self, path: &str, len: usize) {
        self.inner.lock().unwrap().files[path].1.lock().unwrap().truncate(len);
    }
    pub(in crate::logs) fn corrupt(&self, path: &str) {
        let inner = self.inner.lock().unwrap();
        let mut bytes = inner.files[path].1.lock().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8].fill(0xff);
    }
    pub(in crate::logs) fn gzip(&self, path: &str) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.read(path)).unwrap();
        self.append(&format!("{path}.gz"), &encoder.finish().unwrap());
    }
}

impl LogFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            node: (1, self.inode),
            size: self.bytes.lock().unwrap().len() as u64,
            mtime_nanos: u64::MAX,
            regular: true,
        })
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.faults.lock().unwrap().broken.contains(&self.inode) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = self.bytes.lock().unwrap();
        let is_trap = memchr::memmem::find(&bytes, b"TRAP").is_some();
        if is_trap {
            drop(bytes);
            panic!("an error of our own");
        }
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
        let is_end = len < buffer.len();
        drop(bytes);
        let at_end = self.faults.lock().unwrap().at_end.take_if(|(inode, _)| is_end && *inode == self.inode);
        for (bytes, text) in at_end.into_iter().flat_map(|(_, writes)| writes) {
            bytes.lock().unwrap().extend_from_slice(&text);
        }
        Ok(len)
    }
}

impl LogFs for Disk {
    type File = SimFile;
    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.lock().unwrap().calls += 1;
        let prefix = if dir.is_empty() { String::new() } else { format!("{}/", dir.trim_end_matches('/')) };
        let mut names: Vec<String> = self
            .names(&prefix)
            .iter()
            .map(|path| path[prefix.len()..].split('/').next().unwrap().to_owned())
            .filter(|name| !dir.is_empty() || (name != DOCKER && !name.is_empty()))
            .collect();
        names.dedup();
        if names.is_empty() && !dir.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }
    fn stat(&mut self, path: &str) -> io::Result<Stat> {
        match self.open(path) {
            Ok(file) => file.stat(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            // A directory: its time of change is not simulated, the regular listing finds what is new.
            Err(_) => Ok(Stat::default()),
        }
    }
    fn kind(&mut self, path: &str) -> Kind {
        self.inner.lock().unwrap().calls += 1;
        if path.contains("link") { Kind::Link } else { Kind::Own }
    }
    fn is_linked(&mut self, _: &str) -> bool {
        false
    }
    fn open(&mut self, path: &str) -> io::Result<SimFile> {
        let mut inner = self.inner.lock().unwrap();
        inner.calls += 1;
        if inner.denied.contains(path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (inode, bytes) = inner.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile {
            inode: *inode,
            bytes: bytes.clone(),
            taken: inner.taken.clone(),
            faults: inner.faults.clone(),
        })
    }
    fn watch(&mut self, _: &str, _: Place) -> bool {
        self.inner.lock().unwrap().watched
    }
    fn watch_growth(&mut self, _: &SimFile, _: FileId) -> bool {
        self.inner.lock().unwrap().watched
    }
    fn changes(&mut self) -> Changes {
        let mut inner = self.inner.lock().unwrap();
        let overflow = !inner.watched || std::mem::take(&mut inner.overflow);
        Changes { overflow, places: std::mem::take(&mut inner.told), ..Changes::default() }
    }
}

#[derive(Clone, Default)]
pub(in crate::logs) struct MemStore {
    pub(in crate::logs) bytes: Arc<Mutex<Option<Vec<u8>>>>,
    pub(in crate::logs) full: Arc<Mutex<bool>>,
}

impl Store for MemStore {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.bytes.lock().unwrap().clone())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap().get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        if *self.full.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *self.bytes.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }
    fn set_aside(&mut self) -> io::Result<()> {
        Ok(())
    }
}
