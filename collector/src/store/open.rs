//! Opening a store: what is whole is used, what is not is set aside, what was left half done is cleaned up.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::pending::Pending;
use super::rebuild::rebuild;
use super::slice::{self, Commit, Slice};
use super::status::Counters;
use super::writer::{reached, remove, set_aside};
use super::{Shared, State, Store, StoreError, StoreOptions, Writer};

/// Tries to open a slice that the system does not let us read, and what lies between them.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Opens the store in `dir`, or makes one. The caller holds the lock of the data directory. A slice that is
    /// damaged is set aside, also one that the disk cannot read time after time although it takes what is written: the
    /// rest answers. One that cannot be read for now (no descriptor left, no permission, a volume that does not
    /// answer) is tried some times and then is an error: without it the store would take its records twice.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Self, Writer), StoreError> {
        let io_error = |e| StoreError::io(dir, e);
        fs::create_dir_all(dir).map_err(io_error)?;
        slice::sync_dir(dir).map_err(io_error)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("new-") || name.starts_with("drop-") {
                fs::remove_dir_all(entry.path()).map_err(io_error)?;
            } else if let Some(id) = name.strip_prefix("slice-").and_then(|id| id.parse::<u64>().ok()) {
                found.push((id, entry.path()));
            }
        }
        found.sort_unstable();
        let counters = Counters::default();
        let mut slices = Vec::new();
        for (id, path) in &found {
            match open_slice(*id, path) {
                Ok(Ok(Some(slice))) => slices.push(Arc::new(slice)),
                // Begun and never committed to.
                Ok(Ok(None)) => drop(remove(dir, path)),
                Ok(Err(error)) if error.is_unreadable() && is_writable(dir) => {
                    slices.extend(mend(dir, *id, path, &error.to_string(), &counters));
                }
                Ok(Err(error)) if !error.is_damage() => return Err(error),
                // Begun, and the process died while it was deleted.
                _ if was_never_committed_to(path) => drop(remove(dir, path)),
                Ok(Err(error)) => slices.extend(mend(dir, *id, path, &error.to_string(), &counters)),
                Err(_) => slices.extend(mend(dir, *id, path, "its index cannot be read", &counters)),
            }
        }
        let state = State { slices: slices.into(), pending: Pending::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), counters, tail: Arc::default() });
        let newest = found.last().map_or(0, |(id, _)| *id);
        let writer = Writer::new(Arc::clone(&shared), dir.to_owned(), options, newest)?;
        Ok((Self { shared }, writer))
    }
}

/// Makes the index of a slice anew that cannot be used as it is; where its blocks are not whole either, the slice is
/// set aside.
pub fn mend(store: &Path, id: u64, dir: &Path, what: &str, counters: &Counters) -> Option<Arc<Slice>> {
    tracing::warn!(slice = %dir.display(), what, "damaged slice: making its index anew from its blocks");
    let rebuilt = catch_unwind(AssertUnwindSafe(|| rebuild(id, dir)));
    match rebuilt {
        Ok(Ok(slice)) => {
            let Commit { records, lost_bytes, .. } = slice.commit;
            tracing::warn!(slice = %dir.display(), records, lost_bytes, "the index was made anew");
            counters.rebuilt.fetch_add(1, Ordering::Relaxed);
            counters.lost_bytes.fetch_add(lost_bytes, Ordering::Relaxed);
            Some(Arc::new(slice))
        }
        failed => {
            let why =
                failed.ok().and_then(Result::err).map_or_else(String::new, |error| format!(" ({error})"));
            set_aside(store, dir, &format!("{what}{why}"));
            counters.damaged.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Whether nothing was ever committed to a slice, by what is left of it.
fn was_never_committed_to(dir: &Path) -> bool {
    let blocks = fs::metadata(dir.join("blocks"));
    let empty = slice::is_missing(&dir.join("blocks")) || blocks.is_ok_and(|meta| meta.len() == 0);
    empty && slice::read_commit(dir).is_none()
}

/// Whether the volume takes what is written: then what it cannot read is a bad place on it, and not its absence.
fn is_writable(dir: &Path) -> bool {
    let probe = dir.join(".probe");
    let written = fs::write(&probe, b"probe")
        .and_then(|()| reached("probe written"))
        .and_then(|()| fs::File::open(&probe)?.sync_all());
    let removed = fs::remove_file(&probe);
    written.and(removed).and_then(|()| slice::sync_dir(dir)).is_ok()
}

/// Opens a slice; panics are errors here.
fn open_slice(id: u64, path: &Path) -> thread::Result<Result<Option<Slice>, StoreError>> {
    let mut tries = 1;
    loop {
        // A damaged index may make tantivy panic; that must not end more than this slice.
        let opened = catch_unwind(AssertUnwindSafe(|| Slice::open(id, path)));
        match opened {
            Ok(Err(error)) if tries < TRIES && !error.is_damage() => {
                tracing::warn!(%error, "a slice of the store cannot be read, trying again");
                thread::sleep(PAUSE);
                tries += 1;
            }
            opened => return opened,
        }
    }
}
