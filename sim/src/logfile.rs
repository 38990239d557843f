//! One container instance's log on disk, seen by the writer (which appends) and by the kubelet (which rotates).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::SimError;

/// Shared between the two. The writer alone opens and appends; the kubelet alone renames, compresses and deletes.
#[derive(Debug)]
pub(crate) struct LogFile {
    /// `<pod_logs>/<pod>/<container>`.
    pub(crate) dir: PathBuf,
    pub(crate) restart: u32,
    /// Bytes in the file that the writer has open.
    pub(crate) bytes: AtomicU64,
    /// Asked of the writer by the kubelet: leave the renamed file, open a new one (CRI `ReopenContainerLog`).
    pub(crate) reopen: AtomicBool,
    /// The container has ended: nothing is written and nothing rotated any more.
    pub(crate) ended: AtomicBool,
    /// Lines and bytes over all its files, for the cgroup's counters.
    pub(crate) total_lines: AtomicU64,
    pub(crate) total_bytes: AtomicU64,
}

impl LogFile {
    pub(crate) fn new(dir: PathBuf, restart: u32) -> Self {
        Self {
            dir,
            restart,
            bytes: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            total_lines: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn live_path(&self) -> PathBuf {
        self.dir.join(self.live_name())
    }

    pub(crate) fn live_name(&self) -> String {
        format!("{}.log", self.restart)
    }

    /// As containerd does: created, appended to, mode 0640.
    pub(crate) fn open(&self) -> Result<File, SimError> {
        fs::create_dir_all(&self.dir).map_err(SimError::io(&self.dir))?;
        let path = self.live_path();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&path)
            .map_err(SimError::io(&path))?;
        self.bytes.store(0, Ordering::Release);
        Ok(file)
    }

    /// The rotated files of this instance, oldest first, without `.tmp`.
    pub(crate) fn rotated(&self) -> Result<Vec<PathBuf>, SimError> {
        let prefix = format!("{}.", self.live_name());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(SimError::io(&self.dir))? {
            let path = entry.map_err(SimError::io(&self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && !name.ends_with(".tmp") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Copies a file or a directory tree below `root` to the same relative place below `archive`.
pub(crate) fn archive(root: &Path, archive_root: &Path, path: &Path) -> Result<(), SimError> {
    let to = archive_root.join(path.strip_prefix(root).unwrap_or(path));
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(SimError::io(path))? {
            archive(root, archive_root, &entry.map_err(SimError::io(path))?.path())?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(SimError::io(parent))?;
    }
    fs::copy(path, &to).map_err(SimError::io(path))?;
    Ok(())
}
