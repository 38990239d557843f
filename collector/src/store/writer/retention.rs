//! What leaves the store: slices that are too old or too many, and those that turn out to be damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Writer, reached};
use crate::store::StoreError;
use crate::store::open::mend;
use crate::store::slice::{self, Slice};

/// How often retention looks, beside each commit.
const RETENTION_PERIOD_MS: u64 = 10_000;

impl Writer {
    /// Housekeeping: retention, and slices that readers found damaged. To be called every second or so; does nothing
    /// while a commit is under way.
    pub fn tick(&mut self, now_ms: u64) {
        if self.is_committing() {
            return;
        }
        let suspects: Vec<Arc<Slice>> = {
            let state = self.shared.state();
            state.slices.iter().filter(|slice| slice.suspect.load(Ordering::Relaxed)).cloned().collect()
        };
        for slice in suspects {
            self.mend(&slice);
        }
        // Either way: the clock may have been set back.
        if now_ms.abs_diff(self.retained_ms) >= RETENTION_PERIOD_MS {
            self.miss_deleted();
            self.retain(now_ms);
        }
    }

    /// Makes the index of a slice anew that a reader found damaged; readers have the old one until then.
    fn mend(&mut self, slice: &Arc<Slice>) {
        let newest = self.newest.clone().filter(|(id, _)| *id == slice.id);
        if newest.is_some() {
            self.active = None;
        }
        let counters = &self.shared.counters;
        let Some(whole) = mend(&self.dir, slice.id, &slice.dir, "a reader found it damaged", counters) else {
            return self.let_go(slice);
        };
        let mut state = self.shared.state();
        let others = state.slices.iter();
        state.slices =
            others.map(|other| Arc::clone(if other.id == whole.id { &whole } else { other })).collect();
        drop(state);
        self.seen.forget_places();
    }

    /// Notices slices that were deleted under the running collector, and the store's directory: what was in them is
    /// lost, and it goes on with new ones.
    pub(super) fn miss_deleted(&mut self) {
        let slices = Arc::clone(&self.shared.state().slices);
        for slice in slices.iter() {
            if slice.is_gone() {
                tracing::error!(slice = %slice.dir.display(), records = slice.commit.records,
                    "a slice was deleted under the running collector; its records are lost");
                self.let_go(slice);
                self.shared.counters.damaged.fetch_add(1, Ordering::Relaxed);
                if slice.dir.exists() {
                    set_aside(&self.dir, &slice.dir, "its blocks were deleted");
                }
            } else if slice::is_missing(&slice.dir.join("index/meta.json")) {
                slice.suspect.store(true, Ordering::Relaxed);
            }
        }
        // One that was begun and never committed to.
        if self.newest.as_ref().is_some_and(|(_, dir)| slice::is_missing(&dir.join("blocks"))) {
            (self.newest, self.active) = (None, None);
        }
        if slice::is_missing(&self.dir) {
            tracing::error!(dir = %self.dir.display(), "the store's directory was deleted; it is made again");
            if let Err(error) = fs::create_dir_all(&self.dir) {
                tracing::error!(dir = %self.dir.display(), %error, "the store's directory cannot be made");
            }
        }
    }

    /// Deletes the oldest slices while they are too old or too many.
    pub(super) fn retain(&mut self, now_ms: u64) {
        self.retained_ms = now_ms;
        let retention = u64::try_from(self.options.retention.as_millis()).unwrap_or(u64::MAX);
        let damaged_bytes = self.retain_damaged();
        loop {
            let slices = Arc::clone(&self.shared.state().slices);
            let Some(oldest) = slices.first() else { return };
            let bytes = slices.iter().map(|slice| slice.bytes).sum::<u64>() + damaged_bytes;
            let too_old = now_ms.saturating_sub(oldest.commit.committed_ms) > retention;
            // What has the cursor, or is written to, stays until another one does.
            let has_cursor = slices.iter().all(|slice| slice.commit.number <= oldest.commit.number);
            let newest = has_cursor || self.newest.as_ref().is_some_and(|(id, _)| *id == oldest.id);
            if newest && too_old && oldest.commit.records > 0 {
                // The cursor is in the newest slice: it goes on in an empty one.
                if let Err(error) = self.move_on(now_ms) {
                    tracing::error!(%error, "cannot begin a slice in place of one that is too old");
                    return;
                }
                continue;
            }
            if newest || !(too_old || bytes > self.options.max_bytes) {
                return;
            }
            self.let_go(oldest);
            tracing::info!(dir = %oldest.dir.display(), bytes = oldest.bytes, records = oldest.commit.records,
                "slice deleted: retention");
            remove(&self.dir, &oldest.dir);
        }
    }

    /// Deletes the oldest slices that were set aside while they and the others are too many; gives the bytes that are
    /// left of them. What people may want to look at goes before what is searched.
    fn retain_damaged(&self) -> u64 {
        let mut damaged: Vec<_> = fs::read_dir(self.dir.join(DAMAGED))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
            .map(|(modified, path)| (modified, slice::disk_bytes(&path), path))
            .collect();
        damaged.sort();
        let mut left: u64 = damaged.iter().map(|(_, bytes, _)| bytes).sum();
        let whole: u64 = self.shared.state().slices.iter().map(|slice| slice.bytes).sum();
        for (_, bytes, path) in damaged {
            if whole + left <= self.options.max_bytes {
                break;
            }
            tracing::warn!(slice = %path.display(), bytes, "damaged slice deleted: the store is over its max_bytes");
            if remove(&self.dir, &path) {
                left -= bytes;
            }
        }
        left
    }

    /// Begins a slice that holds nothing but the cursor.
    fn move_on(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let number = self.commits + 1;
        let mut active = match self.open_newest()? {
            // An earlier try to commit reached the disk although its answer was an error: what it took is no longer
            // uncommitted, and then the slice may not be too old.
            Some(active) if active.commit.number >= number => {
                active.sync()?;
                return self.on_durable(active);
            }
            Some(active) if active.commit.records == 0 => active,
            ended => self.begin_slice(ended, now_ms)?,
        };
        self.tried.clear();
        let commit = active.begin(number, self.committed, now_ms)?;
        active.finish(commit)?;
        active.sync()?;
        let slice = active.slice()?;
        let mut state = self.shared.state();
        state.slices = state.slices.iter().cloned().chain([Arc::new(slice)]).collect();
        drop(state);
        self.commits = number;
        self.active = Some(active);
        Ok(())
    }

    /// Takes a slice out of what readers see.
    fn let_go(&mut self, slice: &Arc<Slice>) {
        if self.newest.as_ref().is_some_and(|(id, _)| *id == slice.id) {
            self.newest = None;
            self.active = None;
        }
        let mut state = self.shared.state();
        state.slices = state.slices.iter().filter(|other| other.id != slice.id).cloned().collect();
        drop(state);
        self.seen.forget_places();
    }
}

/// Where slices that cannot be used are kept.
const DAMAGED: &str = "damaged";

/// Moves a slice that cannot be used to `damaged/`, where people can look at it.
pub fn set_aside(store: &Path, slice: &Path, what: &str) {
    let damaged = store.join(DAMAGED);
    let name = slice.file_name().unwrap_or_default();
    let to = (0..1000)
        .map(|n| damaged.join(format!("{}.{n}", name.to_string_lossy())))
        .find(|to| !to.exists())
        .unwrap_or_else(|| damaged.join(name));
    let moved = fs::create_dir_all(&damaged).and_then(|()| fs::rename(slice, &to));
    match moved {
        Ok(()) => {
            tracing::error!(slice = %slice.display(), to = %to.display(), what, "damaged slice set aside")
        }
        Err(error) => {
            tracing::error!(slice = %slice.display(), what, %error, "damaged slice cannot be set aside")
        }
    }
}

/// Deletes a slice's directory; a crash in between leaves `drop-…`, which the next start deletes. False where it
/// could not be.
pub fn remove(store: &Path, slice: &Path) -> bool {
    let gone = store.join(format!("drop-{}", slice.file_name().unwrap_or_default().to_string_lossy()));
    let removed = fs::rename(slice, &gone)
        .and_then(|()| reached("slice unnamed"))
        .and_then(|()| fs::remove_dir_all(&gone));
    if let Err(error) = &removed {
        tracing::error!(slice = %slice.display(), %error, "cannot delete a slice");
    }
    removed.is_ok()
}
