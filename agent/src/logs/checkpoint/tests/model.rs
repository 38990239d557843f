//! A directory in memory that loses power: of what was not made durable any part is kept, sector by sector, in any order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::logs::checkpoint::dir::Dir;

const SECTOR: usize = 16;

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

type Names = BTreeMap<String, usize>;

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    /// Names as they became, the durable ones first.
    names: Vec<Names>,
    /// Operations until the power goes; none = it stays.
    left: Option<u32>,
    /// Appends fail half-way.
    full: bool,
}

/// Shared by the processes that live one after another.
#[derive(Clone, Default)]
pub struct ModelDir {
    disk: Arc<Mutex<Disk>>,
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn names(&self) -> Names {
        self.names.last().cloned().unwrap_or_default()
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let at = *self.names().get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[at])
    }
}

impl ModelDir {
    /// The power goes after so many operations.
    pub fn cut_after(&self, operations: u32) {
        self.disk.lock().unwrap().left = Some(operations);
    }

    pub fn set_full(&self, full: bool) {
        self.disk.lock().unwrap().full = full;
    }

    /// The power comes back: what was not durable is there in parts.
    pub fn come_back(&self, random: &mut Random) {
        let mut disk = self.disk.lock().unwrap();
        let kept = random.below(disk.names.len());
        let names = disk.names.get(kept).cloned().unwrap_or_default();
        disk.names = vec![names];
        (disk.left, disk.full) = (None, false);
        for inode in &mut disk.inodes {
            let (shorter, longer) =
                (inode.bytes.len().min(inode.durable.len()), inode.bytes.len().max(inode.durable.len()));
            let mut bytes = inode.durable.clone();
            bytes.resize(shorter + random.below(longer - shorter + 1), 0);
            for start in (0..bytes.len()).step_by(SECTOR) {
                let end = (start + SECTOR).min(bytes.len()).min(inode.bytes.len());
                if start < end && random.below(2) == 0 {
                    bytes[start..end].copy_from_slice(&inode.bytes[start..end]);
                }
            }
            *inode = Inode { durable: bytes.clone(), bytes };
        }
    }
}

impl Dir for ModelDir {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut disk = self.disk.lock().unwrap();
        Ok(disk.inode(name).ok().map(|inode| inode.bytes.clone()))
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        let half = if disk.full { bytes.len() / 2 } else { bytes.len() };
        disk.inodes.push(Inode { bytes: bytes[..half].to_vec(), durable: vec![] });
        let mut names = disk.names();
        names.insert(name.to_owned(), disk.inodes.len() - 1);
        if disk.names.is_empty() {
            disk.names.push(Names::new());
        }
        disk.names.push(names);
        if disk.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        let full = disk.full;
        let half = if full { bytes.len() / 2 } else { bytes.len() };
        disk.inode(name)?.bytes.extend_from_slice(&bytes[..half]);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        disk.inode(name)?.bytes.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        let inode = disk.inode(name)?;
        inode.durable.clone_from(&inode.bytes);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        let mut names = disk.names();
        let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), inode);
        disk.names.push(names);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        let mut names = disk.names();
        names.remove(name);
        disk.names.push(names);
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.step()?;
        disk.names = vec![disk.names()];
        Ok(())
    }
}
