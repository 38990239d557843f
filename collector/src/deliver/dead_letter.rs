//! What sinks refused for good, kept for people: `data_dir/dead-letter/<sink>/<Unix ms>-<n>.ndjson`.
//!
//! One JSON object a line: `time`, `sink`, `code` and `reason` of the refusal, `received`, the `frame`'s place in the
//! queue, and what was refused: a log record as `request`, an OTLP/JSON `ExportLogsServiceRequest` of that one record
//! (to be posted to `/v1/logs` as it is), with its number in the frame as `record`; data points and spans as the
//! `request` of all that were refused for the same reason, up to 256 KiB of them a line, with their `signal`, their
//! count as `records` and the number of the first as `record`; a frame that cannot be read as `payload`, in base64,
//! with its `codec`.
//!
//! Lines are durable when [`Shelf::put`] returns. All sinks together stay within `max_bytes`: when there is more, the
//! oldest files go first, whosever they are, and what was in them is counted. Files end at an eighth of that, or at
//! 16 MiB. A file is never appended to by a later process, and a sink has one that is written to, whatever signals it takes:
//! its newest, by name, also when the clock was set back. So who deletes all but that (a replay) deletes no letter that is
//! still to come; what is put into a file that was deleted meanwhile is written again, to another.

mod lines;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::lines::{Lines, content, unreadable};

const FILE_BYTES: u64 = 16 << 20;
const SUFFIX: &str = ".ndjson";

/// The dead letters of all sinks.
pub struct DeadLetters {
    dir: PathBuf,
    max_bytes: u64,
    files: Mutex<Files>,
    bytes: AtomicU64,
    dropped: AtomicU64,
    next: AtomicU64,
}

#[derive(Default)]
struct Files {
    kept: KeptFiles,
    /// What is written to, by the sink's directory.
    open: BTreeMap<PathBuf, Open>,
}

/// In the order in which they were begun.
type KeptFiles = BTreeMap<(u64, u64), Kept>;

struct Kept {
    path: PathBuf,
    bytes: u64,
}

/// One sink's place among them, the same for all of its lanes.
pub struct Shelf {
    letters: Arc<DeadLetters>,
    dir: PathBuf,
}

struct Open {
    key: (u64, u64),
    file: File,
    bytes: u64,
}

impl DeadLetters {
    /// Looks at what is there.
    ///
    /// # Errors
    /// A directory that is there but cannot be listed.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Arc<Self>> {
        let mut files = KeptFiles::new();
        for sink in list(dir)? {
            for path in list(&sink)? {
                let Some(key) = key(&path) else { continue };
                let bytes = fs::metadata(&path)?.len();
                files.insert(key, Kept { path, bytes });
            }
        }
        let bytes = files.values().map(|kept| kept.bytes).sum();
        let letters = Self {
            files: Mutex::default(),
            dir: dir.to_owned(),
            max_bytes,
            bytes: AtomicU64::new(bytes),
            dropped: AtomicU64::new(0),
            next: AtomicU64::new(0),
        };
        letters.make_room(&mut files);
        letters.files.lock().unwrap_or_else(PoisonError::into_inner).kept = files;
        Ok(Arc::new(letters))
    }

    /// The place of the sink `name`.
    pub fn shelf(self: &Arc<Self>, name: &str) -> Shelf {
        Shelf { letters: Arc::clone(self), dir: self.dir.join(name) }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lines that were deleted to keep within the bound, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Forgets files that somebody else has deleted (a replay, say), unless letters are being written now.
    pub fn look(&self) {
        let Ok(mut files) = self.files.try_lock() else { return };
        files.kept.retain(|_, kept| {
            let gone = fs::metadata(&kept.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if gone {
                self.bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
            }
            !gone
        });
    }

    fn make_room(&self, files: &mut KeptFiles) {
        while self.bytes() > self.max_bytes
            && let Some((_, kept)) = files.pop_first()
        {
            let lines = fs::read(&kept.path).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
            if let Err(error) = fs::remove_file(&kept.path) {
                tracing::warn!(path = %kept.path.display(), %error, "an old file of dead letters stays");
            }
            tracing::warn!(path = %kept.path.display(), lines, "the oldest dead letters are deleted: dead_letter.max_bytes");
            self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            self.bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
        }
    }
}

impl Shelf {
    /// Appends whole lines; they are durable when this returns. Blocks.
    ///
    /// # Errors
    /// What the disk said; then none of it is there.
    pub fn put(&self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        // Held throughout, so that no other sink's need for room deletes the file that is written to. Refusals are rare.
        let mut files = self.letters.files.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.append(&mut files, lines)? && !self.append(&mut files, lines)? {
            return Err(io::Error::other("a new file of dead letters was deleted at once"));
        }
        self.letters.make_room(&mut files.kept);
        Ok(())
    }

    /// False when the file was deleted by somebody else; the next try begins one.
    fn append(&self, files: &mut Files, lines: &[u8]) -> io::Result<bool> {
        let Files { kept, open } = files;
        let most = FILE_BYTES.min(self.letters.max_bytes / 8);
        // Taken out: after an error too the next try begins a file.
        let last = open.remove(&self.dir).filter(|open| open.bytes < most && kept.contains_key(&open.key));
        let mut target = match last {
            Some(target) => target,
            None => self.create(kept)?,
        };
        let written = target.file.write_all(lines).and_then(|()| target.file.sync_data());
        if let Err(error) = written {
            // What is half there must not be read as a line.
            let _ = target.file.set_len(target.bytes);
            return Err(error);
        }
        if target.file.metadata().is_ok_and(|now| now.nlink() == 0) {
            if let Some(gone) = kept.remove(&target.key) {
                self.letters.bytes.fetch_sub(gone.bytes, Ordering::Relaxed);
            }
            return Ok(false);
        }
        let added = lines.len() as u64;
        target.bytes += added;
        if let Some(kept) = kept.get_mut(&target.key) {
            kept.bytes += added;
        }
        self.letters.bytes.fetch_add(added, Ordering::Relaxed);
        open.insert(self.dir.clone(), target);
        Ok(true)
    }

    fn create(&self, files: &mut KeptFiles) -> io::Result<Open> {
        fs::create_dir_all(&self.dir)?;
        let newest = files.last_key_value().map_or(0, |(key, _)| key.0);
        let key = (now_ms().max(newest.saturating_add(1)), self.letters.next.fetch_add(1, Ordering::Relaxed));
        let path = self.dir.join(format!("{:013}-{}{SUFFIX}", key.0, key.1));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        for dir in
            [Some(self.dir.as_path()), self.dir.parent(), self.letters.dir.parent()].into_iter().flatten()
        {
            File::open(dir)?.sync_all()?;
        }
        files.insert(key, Kept { path, bytes: 0 });
        Ok(Open { key, file, bytes: 0 })
    }
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        // Not there yet, or a file that somebody put beside the directories.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// When a file was begun, and its number then: files go in this order.
fn key(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let (ms, number) = name.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path) -> Vec<String> {
        let mut files: Vec<PathBuf> =
            list(dir).unwrap().iter().flat_map(|sink| list(sink).unwrap()).collect();
        files.sort_by_key(|path| key(path));
        files
            .iter()
            .flat_map(|f| fs::read_to_string(f).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn put(shelf: &Shelf, letter: &str) {
        shelf.put(format!("{letter}\n").as_bytes()).unwrap();
    }

    fn on_disk(dir: &Path) -> u64 {
        let files = list(dir).unwrap().into_iter().flat_map(|sink| list(&sink).unwrap());
        files.map(|file| fs::metadata(file).unwrap().len()).sum()
    }

    #[test]
    fn what_the_lanes_of_a_sink_write_is_in_its_newest_file_which_a_replay_spares() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
        let (logs, metrics, other) = (letters.shelf("next"), letters.shelf("next"), letters.shelf("other"));
        put(&logs, "a");
        put(&other, "x");
        put(&metrics, "b");
        put(&logs, "c");
        let files = list(&dir.path().join("next")).unwrap();
        let [file] = &files[..] else { panic!("more than one is open: {files:?}") };
        assert_eq!(fs::read_to_string(file).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn the_file_that_is_written_to_is_the_newest_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("next")).unwrap();
        fs::write(dir.path().join("next/9999999999999-7.ndjson"), "of a year far ahead\n").unwrap();
        let letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
        put(&letters.shelf("next"), "a");
        assert_eq!(read(dir.path()), ["of a year far ahead", "a"]);
    }

    #[test]
    fn a_letter_for_a_file_that_was_deleted_is_in_another() {
        let dir = tempfile::tempdir().unwrap();
        let letters = DeadLetters::open(dir.path(), 1 << 20).unwrap();
        let (shelf, sink) = (letters.shelf("next"), dir.path().join("next"));
        put(&shelf, "replayed");
        fs::remove_file(&list(&sink).unwrap()[0]).unwrap();
        put(&shelf, "behind it");
        put(&shelf, "and more");
        assert_eq!(read(dir.path()), ["behind it", "and more"]);
        assert_eq!(letters.bytes(), on_disk(dir.path()));
        fs::remove_dir_all(&sink).unwrap();
        put(&shelf, "alone");
        assert_eq!(read(dir.path()), ["alone"]);
        assert_eq!(letters.bytes(), on_disk(dir.path()));
    }

    #[test]
    fn all_sinks_together_stay_within_the_bound_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead-letter");
        for life in 0..2_u64 {
            let letters = DeadLetters::open(&path, 8000).unwrap();
            let shelves = [letters.shelf("a"), letters.shelf("b")];
            for n in 0..100 {
                let line = format!("{{\"life\":{life},\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(100));
                shelves[n % 2].put(line.as_bytes()).unwrap();
                assert!(letters.bytes() <= 8000, "{}", letters.bytes());
            }
            let kept = read(&path);
            assert!(kept.len() > 40, "{}", kept.len());
            let newest = format!("\"life\":{life},\"n\":99");
            assert!(kept.iter().any(|line| line.contains(&newest)));
            assert!(kept.iter().all(|line| line.contains(&format!("\"life\":{life}"))), "the oldest went");
            assert!(letters.dropped() > 0);
            assert_eq!(on_disk(&path), letters.bytes());
        }
    }
}
