//! Log rotation in the kubelet's order (recorded with strace, see `pkg/kubelet/logs/container_log_manager.go`):
//! unlink the oldest `.gz`; compress the last rotated file into `.tmp`, rename it to `.gz`, unlink the plain one; rename
//! the live file; after a gap in which the writer still writes into the renamed file, a new live file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};

use crate::clock::{now_nanos, rotation_suffix};
use crate::error::SimError;
use crate::logfile::{LogFile, archive};
use crate::options::Rotation;
use crate::random::Random;

/// Rotates one container instance's log.
#[derive(Debug)]
pub(crate) struct Rotator {
    pub(crate) file: Arc<LogFile>,
    next_check: Instant,
    last_rotation: Instant,
    /// Set between the rename and the request to reopen.
    reopen_at: Option<Instant>,
    last_suffix: String,
}

/// Where a rotation happens and whether it may delete.
pub(crate) struct Place<'a> {
    pub(crate) pod_logs: &'a Path,
    pub(crate) archive: &'a Path,
    pub(crate) deletions_paused: bool,
}

impl Rotator {
    pub(crate) fn new(file: Arc<LogFile>, now: Instant) -> Self {
        Self { file, next_check: now, last_rotation: now, reopen_at: None, last_suffix: String::new() }
    }

    /// Does what is due; true when the live file was renamed.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        rotation: &Rotation,
        place: &Place<'_>,
        random: &mut Random,
    ) -> Result<bool, SimError> {
        if let Some(at) = self.reopen_at {
            if now >= at {
                self.reopen_at = None;
                self.file.reopen.store(true, Ordering::Release);
            }
            return Ok(false);
        }
        if self.file.ended.load(Ordering::Acquire) || self.file.reopen.load(Ordering::Acquire) {
            return Ok(false);
        }
        if !self.due(now, rotation) {
            return Ok(false);
        }
        self.rotate(rotation, place)?;
        self.last_rotation = now;
        let (shortest, longest) = rotation.gap;
        let span = u64::try_from(longest.saturating_sub(shortest).as_micros()).unwrap_or(0);
        self.reopen_at = Some(Instant::now() + shortest + Duration::from_micros(random.below(span + 1)));
        Ok(true)
    }

    fn due(&mut self, now: Instant, rotation: &Rotation) -> bool {
        let bytes = self.file.bytes.load(Ordering::Acquire);
        if rotation.period.is_some_and(|period| now >= self.last_rotation + period) && bytes > 0 {
            return true;
        }
        if now < self.next_check {
            return false;
        }
        self.next_check = now + rotation.check_interval;
        bytes > rotation.max_bytes
    }

    fn rotate(&mut self, rotation: &Rotation, place: &Place<'_>) -> Result<(), SimError> {
        let mut rotated = self.file.rotated()?;
        // The kubelet keeps maxFiles - 2 here: the file about to be rotated and the new one make up the number.
        while rotated.len() > rotation.max_files.max(2) - 2 && !place.deletions_paused {
            let oldest = rotated.remove(0);
            archive(place.pod_logs, place.archive, &oldest)?;
            fs::remove_file(&oldest).map_err(SimError::io(&oldest))?;
        }
        for plain in rotated.iter().filter(|path| path.extension().is_none_or(|ext| ext != "gz")) {
            compress(plain)?;
        }
        let often = rotation.check_interval < Duration::from_secs(1)
            || rotation.period.is_some_and(|period| period < Duration::from_secs(2));
        let mut nanos = now_nanos();
        let mut suffix = rotation_suffix(nanos, often);
        while suffix <= self.last_suffix {
            nanos += if often { 1_000_000 } else { 1_000_000_000 };
            suffix = rotation_suffix(nanos, often);
        }
        let live = self.file.live_path();
        let to = self.file.dir.join(format!("{}.{suffix}", self.file.live_name()));
        fs::rename(&live, &to).map_err(SimError::io(&live))?;
        self.last_suffix = suffix;
        Ok(())
    }
}

fn compress(plain: &Path) -> Result<(), SimError> {
    let with = |ending: &str| PathBuf::from(format!("{}.{ending}", plain.display()));
    let (tmp, gz) = (with("tmp"), with("gz"));
    let mut from = File::open(plain).map_err(SimError::io(plain))?;
    let to = File::create(&tmp).map_err(SimError::io(&tmp))?;
    let mut encoder = GzEncoder::new(to, Compression::fast());
    io::copy(&mut from, &mut encoder).map_err(SimError::io(&tmp))?;
    encoder.finish().map_err(SimError::io(&tmp))?;
    fs::rename(&tmp, &gz).map_err(SimError::io(&gz))?;
    fs::remove_file(plain).map_err(SimError::io(plain))
}
