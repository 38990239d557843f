//! Opening a store: what is whole is used, what is not is set aside, what was left half done is cleaned up.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::pending::Pending;
use super::slice::{self, Slice};
use super::status::Counters;
use super::writer::set_aside;
use super::{Shared, State, Store, StoreError, StoreOptions, Writer};

/// Tries to open a slice that the system does not let us read, and what lies between them.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Opens the store in `dir`, or makes one. The caller holds the lock of the data directory. A slice that is
    /// damaged is set aside; one that cannot be read for now (no descriptor left, no permission, a volume that does not
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
                Ok(Ok(None)) => fs::remove_dir_all(path).map_err(io_error)?,
                Ok(Err(error)) if !error.is_damage() => return Err(error),
                Ok(Err(error)) => {
                    set_aside(dir, path, &error.to_string());
                    counters.damaged.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    set_aside(dir, path, "its index cannot be read");
                    counters.damaged.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let state = State { slices: slices.into(), pending: Pending::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), counters, tail: Arc::default() });
        let newest = found.last().map_or(0, |(id, _)| *id);
        let writer = Writer::new(Arc::clone(&shared), dir.to_owned(), options, newest)?;
        Ok((Self { shared }, writer))
    }
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
