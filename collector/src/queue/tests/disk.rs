//! A disk in memory that loses, tears and reorders what was not synced, runs full, and fails when told to.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::queue::fs::{File, Filesystem, Listed, Space};

/// A disk; clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

struct Inner {
    files: BTreeMap<usize, Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    next_file: usize,
    capacity: u64,
    peak: u64,
    /// The operation, counted from here, that fails, and how.
    fault: Option<(u32, Fault)>,
    /// Reads that touch these offsets of any file fail.
    unreadable: std::ops::Range<u64>,
    /// How many did.
    failed_reads: u32,
    /// Syncs wait.
    slow: bool,
    /// From the crash to the restart nothing works.
    dead: bool,
    random: u64,
}

#[derive(Default)]
struct Content {
    /// As processes see it.
    live: Vec<u8>,
    /// As it is on the platter.
    durable: Vec<u8>,
    /// What the next sync would bring there.
    unsynced: Vec<Change>,
    /// Syncs that were begun.
    syncs: u32,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has no effect. A sync also drops what it was to write: the next one succeeds without it.
    Io,
    /// A write has an effect up to some byte.
    TornWrite,
    /// The machine dies here.
    Crash,
}

impl Disk {
    pub fn new(capacity: u64, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            next_file: 0,
            capacity,
            peak: 0,
            fault: None,
            unreadable: 0..0,
            failed_reads: 0,
            slow: false,
            dead: false,
            random: seed | 1,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn fail(&self, after: u32, fault: Fault) {
        self.inner().fault = Some((after, fault));
    }

    pub fn no_fault(&self) {
        self.inner().fault = None;
    }

    /// From now on these offsets cannot be read.
    pub fn make_unreadable(&self, offsets: std::ops::Range<u64>) {
        self.inner().unreadable = offsets;
    }

    pub fn failed_reads(&self) -> u32 {
        self.inner().failed_reads
    }

    /// Whether syncs that begin from now on, and those that wait already, have to wait.
    pub fn set_slow(&self, slow: bool) {
        self.inner().slow = slow;
    }

    /// How many syncs of a file were begun.
    pub fn syncs(&self, path: &Path) -> u32 {
        let inner = self.inner();
        inner.files[&inner.names[path]].syncs
    }

    /// Files whose name ends so are gone.
    pub fn lose(&self, suffix: &str) {
        let inner = &mut *self.inner();
        let kept = |path: &PathBuf, _: &mut usize| !path.to_str().unwrap().ends_with(suffix);
        inner.names.retain(kept);
        inner.durable_names.retain(kept);
        inner.name_changes.clear();
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    pub fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// The most that all files ever took together, bytes.
    pub fn peak(&self) -> u64 {
        self.inner().peak
    }

    /// Power fails and comes back: what was synced is there, of the rest any part.
    pub fn crash(&self) {
        let inner = &mut *self.inner();
        let changes = std::mem::take(&mut inner.name_changes);
        for change in changes {
            if inner.chance(2) {
                apply_name(&mut inner.durable_names, &change);
            }
        }
        inner.names = inner.durable_names.clone();
        let mut random = inner.random;
        for content in inner.files.values_mut() {
            for change in std::mem::take(&mut content.unsynced) {
                lose_some(&mut content.durable, change, &mut random);
            }
            content.live = content.durable.clone();
        }
        inner.random = random;
        inner.dead = false;
        inner.fault = None;
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.inner().names.keys().cloned().collect()
    }

    pub fn read(&self, path: &Path) -> Vec<u8> {
        let inner = self.inner();
        inner.files[&inner.names[path]].live.clone()
    }

    /// Changes a file behind everyone's back.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let inner = &mut *self.inner();
        let id = *inner.names.entry(path.to_owned()).or_insert(inner.next_file);
        inner.next_file += 1;
        inner.durable_names.insert(path.to_owned(), id);
        let content = Content { live: bytes.clone(), durable: bytes, ..Content::default() };
        inner.files.insert(id, content);
    }
}

impl Inner {
    fn random(&mut self) -> u64 {
        xorshift(&mut self.random)
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random().is_multiple_of(of)
    }

    /// Counts an operation; says how it fails, if it does.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(eio());
        }
        match &mut self.fault {
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                self.dead = fault == Fault::Crash;
                Ok(Some(fault))
            }
            Some((after, _)) => {
                *after -= 1;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Counts an operation that fails as a whole.
    fn whole(&mut self) -> io::Result<()> {
        self.step()?.map_or(Ok(()), |_| Err(eio()))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].live.len() as u64).sum()
    }

    fn grow(&mut self, id: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.files[&id].live.len()) as u64;
        let used = self.used() + more;
        if more > 0 && used > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.peak = self.peak.max(used);
        Ok(())
    }

    fn change(&mut self, id: usize, change: Change) {
        let content = self.files.get_mut(&id).unwrap();
        apply(&mut content.live, &change);
        content.unsynced.push(change);
    }

    fn rename(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.name_changes.push(change);
    }
}

impl Filesystem for Disk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let inner = self.inner();
        let files =
            inner.names.iter().filter(|(path, _)| path.parent() == Some(dir)).map(|(path, id)| Listed {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                bytes: inner.files[id].live.len() as u64,
            });
        Ok(files.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut inner = self.inner();
        inner.whole()?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(id, Content::default());
        inner.rename(NameChange::Create(path.to_owned(), id));
        Ok(Arc::new(DiskFile(self.clone(), id)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut inner = self.inner();
        inner.whole()?;
        let id = *inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(DiskFile(self.clone(), id)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.whole()?;
        if !inner.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.whole()?;
        if !inner.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let inner = &mut *self.inner();
        inner.whole()?;
        let (here, elsewhere) = std::mem::take(&mut inner.name_changes)
            .into_iter()
            .partition(|change: &NameChange| change.touches(dir));
        inner.name_changes = elsewhere;
        here.iter().for_each(|change| apply_name(&mut inner.durable_names, change));
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let mut inner = self.inner();
        inner.whole()?;
        let available = inner.capacity.saturating_sub(inner.used());
        Ok(Space { total: inner.capacity, available })
    }
}

struct DiskFile(Disk, usize);

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.0.inner();
        inner.whole()?;
        if offset < inner.unreadable.end && offset + buf.len() as u64 > inner.unreadable.start {
            inner.failed_reads += 1;
            return Err(eio());
        }
        let live = &inner.files[&self.1].live;
        let rest = live.get(usize::try_from(offset).unwrap()..).unwrap_or(&[]);
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut inner = self.0.inner();
        let fault = inner.step()?;
        let offset = usize::try_from(offset).unwrap();
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if fault.is_none() {
            inner.grow(self.1, offset + bytes.len())?;
        } else if fault != Some(Fault::Io) {
            let cut = usize::try_from(inner.random()).unwrap() % (bytes.len() + 1);
            bytes.truncate(cut);
        } else {
            return Err(eio());
        }
        inner.change(self.1, Change::Write(offset, bytes));
        fault.map_or(Ok(()), |_| Err(eio()))
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        let mut inner = self.0.inner();
        inner.whole()?;
        let len = usize::try_from(len).unwrap();
        inner.grow(self.1, len)?;
        inner.change(self.1, Change::Resize(len));
        Ok(true)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.whole()?;
        inner.change(self.1, Change::Resize(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.inner().files.get_mut(&self.1).unwrap().syncs += 1;
        while self.0.inner().slow {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let inner = &mut *self.0.inner();
        let fault = inner.step()?;
        let content = inner.files.get_mut(&self.1).unwrap();
        if fault == Some(Fault::Crash) {
            return Err(eio());
        }
        for change in std::mem::take(&mut content.unsynced) {
            match fault {
                None => apply(&mut content.durable, &change),
                Some(_) => lose_some(&mut content.durable, change, &mut inner.random),
            }
        }
        fault.map_or(Ok(()), |_| Err(eio()))
    }

    fn size(&self) -> io::Result<u64> {
        let mut inner = self.0.inner();
        inner.whole()?;
        Ok(inner.files[&self.1].live.len() as u64)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let inner = self.0.inner();
        if inner.dead { Err(eio()) } else { Ok(inner.names.get(path) == Some(&self.1)) }
    }
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            if content.len() < offset + bytes.len() {
                content.resize(offset + bytes.len(), 0);
            }
            content[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Change::Resize(len) => content.resize(*len, 0),
    }
}

/// A change that may reach the platter, or not, or in part.
fn lose_some(durable: &mut Vec<u8>, change: Change, random: &mut u64) {
    let change = match (xorshift(random) % 4, change) {
        (0, _) => return,
        (1, Change::Write(offset, mut bytes)) if !bytes.is_empty() => {
            let cut = usize::try_from(xorshift(random)).unwrap() % bytes.len();
            if xorshift(random).is_multiple_of(2) {
                bytes.truncate(cut);
                Change::Write(offset, bytes)
            } else {
                Change::Write(offset + cut, bytes.split_off(cut))
            }
        }
        (_, change) => change,
    };
    apply(durable, &change);
}

fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Create(path, id) => {
            names.insert(path.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}
