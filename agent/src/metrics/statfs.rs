//! statfs(2), which can hang for ever on a network file system.
//!
//! One worker thread asks for the mounts of a source in turn. A mount that does not answer in time is set aside with the
//! worker that waits for it, and another worker goes on with the rest; it is not asked again until that worker has
//! come back, so it costs nothing at the next scrape. At most [`MOST_STUCK`] threads wait.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::statfs;

/// How long one mount may take.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long all of them may take; the rest are reported as not asked.
pub(super) const ALL: Duration = Duration::from_secs(1);
/// Workers that may wait for mounts that do not answer.
const MOST_STUCK: usize = 16;
/// What statfs says, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) files: u64,
    pub(super) files_free: u64,
}

type Probe = fn(&Path) -> Result<Space, String>;

fn probe(path: &Path) -> Result<Space, String> {
    let info = statfs(path).map_err(|error| std::io::Error::from(error).to_string())?;
    let block = u64::try_from(info.f_bsize).unwrap_or(0);
    Ok(Space {
        size: info.f_blocks.saturating_mul(block),
        free: info.f_bfree.saturating_mul(block),
        available: info.f_bavail.saturating_mul(block),
        files: info.f_files,
        files_free: info.f_ffree,
    })
}

/// Asks for mounts with a deadline.
pub(super) struct Prober {
    probe: Probe,
    /// How long one mount may take.
    patience: Duration,
    worker: Option<Worker>,
    /// Mounts that workers wait for which have been set aside.
    stuck: Arc<Mutex<HashSet<PathBuf>>>,
}

struct Worker {
    ask: SyncSender<PathBuf>,
    answers: Receiver<Result<Space, String>>,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new(probe, PATIENCE)
    }
}

impl Prober {
    fn new(probe: Probe, patience: Duration) -> Self {
        Self { probe, patience, worker: None, stuck: Arc::default() }
    }

    /// The space of a mount, or what stands in `device_error`.
    pub(super) fn ask(&mut self, path: &Path, until: Instant) -> Result<Space, String> {
        let stuck = {
            let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
            if stuck.contains(path) {
                // node_exporter's words.
                return Err("mountpoint timeout".to_owned());
            }
            stuck.len()
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stuck >= MOST_STUCK {
            return Err("not asked: other mounts do not answer".to_owned());
        }
        if self.worker.is_none() {
            self.worker = Some(self.start().map_err(|error| format!("no thread: {error}"))?);
        }
        let Some(worker) = &self.worker else { return Err("no thread".to_owned()) };
        if worker.ask.try_send(path.to_owned()).is_err() {
            self.worker = None;
            return Err("no thread".to_owned());
        }
        match worker.answers.recv_timeout(left.min(self.patience)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
                // It ends when it comes back and finds that nobody listens.
                self.worker = None;
                Err("mountpoint timeout".to_owned())
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.worker = None;
                Err("probe failed".to_owned())
            }
        }
    }

    fn start(&self) -> std::io::Result<Worker> {
        let (ask, asked) = sync_channel::<PathBuf>(1);
        // Without room: an answer is given only to one who listens.
        let (answer, answers) = sync_channel(0);
        let (probe, stuck) = (self.probe, Arc::clone(&self.stuck));
        std::thread::Builder::new().name("statfs".to_owned()).spawn(move || {
            for path in asked {
                if answer.send(probe(&path)).is_err() {
                    stuck.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
                    return;
                }
            }
        })?;
        Ok(Worker { ask, answers })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// For what must answer, however busy the machine is; and for what never does before it may.
    const LONG: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_millis(20);

    static ASKED: AtomicU32 = AtomicU32::new(0);
    /// Held by the test for as long as the mount is to hang.
    static GATE: Mutex<()> = Mutex::new(());

    fn hangs(path: &Path) -> Result<Space, String> {
        if path == Path::new("/hangs") {
            ASKED.fetch_add(1, Ordering::SeqCst);
            drop(GATE.lock());
        }
        Ok(Space { size: 1, ..Space::default() })
    }

    #[test]
    fn a_mount_that_hangs_is_an_error_costs_nothing_the_next_time_and_comes_back() {
        let mut prober = Prober::new(hangs, SHORT);
        let path = Path::new("/hangs");
        let ask = |prober: &mut Prober, path: &Path| prober.ask(path, Instant::now() + 2 * LONG);
        let gate = GATE.lock().unwrap();
        assert_eq!(ask(&mut prober, path).unwrap_err(), "mountpoint timeout");
        prober.patience = LONG;
        assert!(ask(&mut prober, Path::new("/fine")).is_ok());
        // Its worker may begin late.
        while ASKED.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(ask(&mut prober, path).is_err());
        assert!(ask(&mut prober, Path::new("/fine")).is_ok());
        assert_eq!(ASKED.load(Ordering::SeqCst), 1, "it is not asked again while it hangs");
        drop(gate);
        let start = Instant::now();
        while ask(&mut prober, path).is_err() {
            assert!(start.elapsed() < 6 * LONG, "it never came back");
            std::thread::sleep(SHORT);
        }
    }

    #[test]
    fn what_is_not_asked_in_time_is_said() {
        let mut prober = Prober::new(hangs, LONG);
        assert!(prober.ask(Path::new("/fine"), Instant::now()).unwrap_err().contains("not asked"));
    }
}
