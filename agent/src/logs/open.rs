//! Open files: by name and inode, closed when there are many, read alike whether compressed or not.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::core::Core;
use super::fs::{LogFs, Stat};
use super::gz::GzPool;
use super::naming::Naming;
use super::tail::{CHECK_BYTES, FileId, Handle, TailFile};
use super::twins::hash;

/// Drained files that stay open.
const OPEN_DRAINED: usize = 512;

impl<F: LogFs> Core<F> {
    /// Opens a file by its name if it is not open.
    pub(super) fn ensure_open(&mut self, id: FileId) -> io::Result<()> {
        let Some(file) = self.files.get(&id) else { return Err(io::ErrorKind::NotFound.into()) };
        if file.handle.is_some() {
            return Ok(());
        }
        // Whatever has its last known name by now is another file.
        if !file.is_named() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let lineage = self.lineages.get(&file.lineage).ok_or(io::ErrorKind::NotFound)?;
        let gz = file.plain.is_none();
        let path = lineage.path(&lineage.file_name(file.suffix.as_deref(), gz));
        let node = if gz { file.gz } else { file.plain };
        let opened = self.fs.open(&path)?;
        if node.is_some_and(|node| super::fs::LogFile::stat(&opened).is_ok_and(|stat| stat.node != node)) {
            // Another file has its name by now; listing the directory again will say which.
            self.dirty_places.insert(lineage.place());
            return Err(io::ErrorKind::NotFound.into());
        }
        let opened = Arc::new(opened);
        if let Some(file) = self.files.get_mut(&id) {
            file.handle = Some(if gz { Handle::Gz(opened) } else { Handle::Plain(opened) });
        }
        Ok(())
    }

    /// Closes drained files beyond the cap, those first that grew longest ago.
    pub(super) fn close_drained(&mut self) {
        let mut drained: Vec<(Instant, FileId)> = self
            .files
            .iter()
            .filter(|(_, file)| {
                file.handle.is_some()
                    && file.is_drained()
                    && file.is_named()
                    && file.identity.is_some()
                    && file.pending() == 0
            })
            .map(|(id, file)| (file.grown, *id))
            .collect();
        if drained.len() <= OPEN_DRAINED {
            return;
        }
        drained.sort_unstable();
        let excess = drained.len() - OPEN_DRAINED;
        for (_, id) in &drained[..excess] {
            self.close(*id);
        }
    }

    /// Closes a file; it is known by its beginning then, not by its inode.
    pub(super) fn close(&mut self, id: FileId) {
        self.gz.forget(id);
        if let Some(file) = self.files.get_mut(&id) {
            file.handle = None;
        }
    }

    /// Whether an open file begins as it did when it was identified. A compressed one is not written to.
    pub(super) fn begins_as_before(&self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get(&id) else { return Ok(true) };
        let (Some(identity), Some(Handle::Plain(handle))) = (file.identity, &file.handle) else {
            return Ok(true);
        };
        let mut head = [0u8; CHECK_BYTES];
        let head = &mut head[..usize::from(identity.head_len).min(CHECK_BYTES)];
        let read = super::fs::LogFile::read_at(&**handle, head, 0)?;
        Ok(read == head.len() && crc32fast::hash(head) == identity.head)
    }

    /// Whether what lies at a path begins as a file did when it was identified; none = that cannot be told now.
    pub(super) fn is_alike_at(&mut self, id: FileId, path: &str, stat: Stat, gz: bool) -> Option<bool> {
        let file = self.files.get(&id)?;
        let (identity, seen, salt) = (file.identity?, file.seen, file.salt);
        let lineage = self.lineages.get(&file.lineage)?;
        let key = (lineage.pod.uid.clone(), lineage.container.clone(), lineage.restart);
        let format = lineage.format;
        let opened = Arc::new(self.fs.open(path).ok()?);
        if super::fs::LogFile::stat(&*opened).ok()?.node != stat.node {
            return None;
        }
        let len = usize::from(identity.head_len);
        let naming = if gz {
            let head = Self::head_of_gz(&opened, format).filter(|head| !head.is_empty())?;
            Naming::of(format, &head)
        } else {
            let mut read_at =
                |buffer: &mut [u8], offset| super::fs::LogFile::read_at(&*opened, buffer, offset);
            Naming::read(format, &mut read_at).ok()?
        };
        let head = naming.bytes().get(..len);
        let hash = head.map(|head| hash(format, &key.0, &key.1, key.2, salt, head));
        Some(hash == Some(identity.alike) && (gz || stat.size >= seen))
    }

    /// Whether a compressed copy can stand in for a file's handle.
    pub(super) fn reopen_compressed(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return false };
        if file.plain.is_some() || file.gz.is_none() || matches!(file.handle, Some(Handle::Gz(_))) {
            return false;
        }
        file.handle = None;
        self.ensure_open(id).is_ok()
    }
}

/// `pread` on the uncompressed bytes of an open file.
pub(super) fn read_file<F: LogFs>(
    files: &HashMap<FileId, TailFile<F::File>>,
    gz: &mut GzPool<F::File>,
    id: FileId,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    match files.get(&id).and_then(|file| file.handle.as_ref()) {
        Some(Handle::Plain(file)) => super::fs::LogFile::read_at(&**file, buffer, offset),
        Some(Handle::Gz(file)) => gz.read_at(id, file, buffer, offset),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}
