//! The node itself: one thread writes for all containers, one is the kubelet that rotates and deletes, one answers
//! HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::container::Resources;
use crate::engine::{Command, Engine};
use crate::error::SimError;
use crate::keeper;
use crate::kubelet::{Endpoint, Faults, PodStatus};
use crate::load::{self, Past, PodLoad};
use crate::logfile::{LogFile, archive};
use crate::machine;
use crate::options::{Rate, SimOptions};
use crate::pods::PodSpec;

/// A running node. Dropping it stops its threads without archiving; [`SimNode::stop`] gives the truth.
#[derive(Debug)]
pub struct SimNode {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    engine: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    endpoint: Endpoint,
}

/// What has been written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lines, each of them one record.
    pub lines: u64,
    /// CRI entries; a line over 16 KiB is several.
    pub entries: u64,
    /// Bytes of log files, uncompressed.
    pub bytes: u64,
    /// Rotations of all files.
    pub rotations: u64,
    /// Pods on the node.
    pub pods: usize,
    /// Pods ever started.
    pub pods_started: u64,
    /// How often the kubelet was asked for its pods and answered.
    pub asked: u64,
    /// Whether the writers have fallen silent for good (`max_lines`, `max_bytes`, or asked to).
    pub done: bool,
}

/// Where the files are that hold every line exactly once, after [`SimNode::stop`].
#[derive(Clone, Debug)]
pub struct Truth {
    /// Every log file in its last state, under the names `<pod dir>/<container>/<restart>.log[.<suffix>][.gz]`.
    pub archive: PathBuf,
    /// The pod log directory as the agent saw it; its files are in the archive too.
    pub pod_logs: PathBuf,
    /// What was written.
    pub stats: Stats,
}

/// A log directory that goes when its time has come.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) at: Instant,
    pub(crate) dir: PathBuf,
    /// Only the files of this restart; none = the directory itself.
    pub(crate) restart: Option<u32>,
}

/// A container's log and its cgroup.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) pod_uid: String,
    /// Its place in the pod's specification.
    pub(crate) container: usize,
    pub(crate) resources: Resources,
    pub(crate) log: Arc<LogFile>,
    pub(crate) cgroup: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: SimOptions,
    pub(crate) faults: Faults,
    pub(crate) pods: Mutex<Vec<PodStatus>>,
    pub(crate) running: Mutex<Vec<Running>>,
    /// What ended containers used, by their pod's uid.
    pub(crate) past: Mutex<BTreeMap<String, Past>>,
    pub(crate) deletions: Mutex<Vec<Deletion>>,
    pub(crate) deletions_paused: AtomicBool,
    pub(crate) stopping: AtomicBool,
    pub(crate) done: AtomicBool,
    pub(crate) rate: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) pods_started: AtomicU64,
    /// How often the counters' files were written.
    pub(crate) updates: AtomicU64,
    /// How often the kubelet was asked for its pods.
    pub(crate) asked: AtomicU64,
    pub(crate) started: Instant,
    error: Mutex<Option<SimError>>,
}

/// `rate` when there is none.
pub(crate) const BURST: u64 = u64::MAX;

impl Shared {
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.options.dir.join("var/log/pods")
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.options.dir.join("archive")
    }

    pub(crate) fn cgroup(&self) -> PathBuf {
        self.options.dir.join("sys/fs/cgroup")
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.options.dir.join("proc")
    }

    /// The first error of a thread is kept for [`SimNode::stop`]; the node falls silent.
    pub(crate) fn fail(&self, error: SimError) {
        self.done.store(true, Ordering::Release);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl SimNode {
    /// Makes the node's directories and starts its pods.
    pub fn start(options: SimOptions) -> Result<Self, SimError> {
        let shared = Arc::new(Shared {
            rate: AtomicU64::new(encode(options.rate)),
            options,
            faults: Faults::default(),
            pods: Mutex::default(),
            running: Mutex::default(),
            past: Mutex::default(),
            deletions: Mutex::default(),
            deletions_paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            done: AtomicBool::new(false),
            lines: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            pods_started: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            started: Instant::now(),
            error: Mutex::default(),
        });
        for dir in [shared.pod_logs(), shared.archive(), shared.cgroup(), shared.proc()] {
            fs::create_dir_all(&dir).map_err(SimError::io(&dir))?;
        }
        cgroup::create_root(&shared.cgroup())?;
        machine::create(&shared)?;
        let mut engine = Engine::new(Arc::clone(&shared));
        for pod in shared.options.pods.clone() {
            engine.start_pod(pod)?;
        }
        let endpoint = Endpoint::start(Arc::clone(&shared))?;
        let (commands, received) = mpsc::channel();
        let stopped = |error: std::io::Error| SimError::Stopped(error.to_string());
        let engine = thread::Builder::new()
            .name("sim-writers".to_owned())
            .spawn(move || engine.run(&received))
            .map_err(stopped)?;
        let keeper = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("sim-kubelet".to_owned())
                .spawn(move || keeper::run(&shared))
                .map_err(stopped)?
        };
        Ok(Self { shared, commands, engine: Some(engine), keeper: Some(keeper), endpoint })
    }

    /// The host's root directory, for `host.root`.
    pub fn root(&self) -> &Path {
        &self.shared.options.dir
    }

    /// Its `/var/log/pods`.
    pub fn pod_logs(&self) -> PathBuf {
        self.shared.pod_logs()
    }

    /// Copies of what was deleted, so far.
    pub fn archive(&self) -> PathBuf {
        self.shared.archive()
    }

    /// Where the kubelet answers; plain HTTP.
    pub fn kubelet_address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// What has been written so far.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            lines: shared.lines.load(Ordering::Acquire),
            entries: shared.entries.load(Ordering::Acquire),
            bytes: shared.bytes.load(Ordering::Acquire),
            rotations: shared.rotations.load(Ordering::Acquire),
            pods: shared.pods.lock().unwrap_or_else(PoisonError::into_inner).len(),
            pods_started: shared.pods_started.load(Ordering::Acquire),
            asked: shared.asked.load(Ordering::Acquire),
            done: shared.done.load(Ordering::Acquire),
        }
    }

    /// What each pod uses now: what the files below `sys/fs/cgroup` and `proc` say, less than a second later.
    pub fn load(&self) -> Vec<PodLoad> {
        load::of_pods(&self.shared)
    }

    /// The node rests: nothing is written, no container starts or ends by itself, and on return [`SimNode::load`] is what
    /// the files of logs, cgroups and processes say, until [`SimNode::work`]. Rotation and the kubelet go on.
    pub fn rest(&self) -> Result<(), SimError> {
        self.command(|reply| Command::Rest(true, reply))?;
        // The update that is under way may have begun before.
        let until = self.shared.updates.load(Ordering::Acquire) + 2;
        while self.shared.updates.load(Ordering::Acquire) < until {
            if self.keeper.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(SimError::Stopped("the kubelet has ended".to_owned()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Goes on where [`SimNode::rest`] stopped it: what was due then is due as much later as it rested.
    pub fn work(&self) -> Result<(), SimError> {
        self.command(|reply| Command::Rest(false, reply))
    }

    /// Changes the speed of all containers together.
    pub fn set_rate(&self, rate: Rate) {
        self.shared.rate.store(encode(rate), Ordering::Release);
    }

    /// While paused the kubelet rotates and compresses but deletes nothing, and ended pods keep their files.
    pub fn pause_deletions(&self, paused: bool) {
        self.shared.deletions_paused.store(paused, Ordering::Release);
    }

    /// Log directories of ended pods whose time has come, while deletions are paused: somebody else deletes them.
    pub fn ended_pods(&self) -> Vec<PathBuf> {
        let now = Instant::now();
        let deletions = self.shared.deletions.lock().unwrap_or_else(PoisonError::into_inner);
        let due = deletions.iter().filter(|deletion| deletion.restart.is_none() && deletion.at <= now);
        due.map(|deletion| deletion.dir.clone()).filter(|dir| dir.exists()).collect()
    }

    /// The kubelet's endpoint answers everything with this status, or properly again.
    pub fn fail_kubelet(&self, status: Option<u16>) {
        self.shared.faults.status.store(u64::from(status.unwrap_or(0)), Ordering::Release);
    }

    /// The kubelet's endpoint waits before it answers.
    pub fn delay_kubelet(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.faults.delay_millis.store(millis, Ordering::Release);
    }

    /// Starts a pod.
    pub fn start_pod(&self, pod: PodSpec) -> Result<(), SimError> {
        self.command(|reply| Command::StartPod(Box::new(pod), reply))
    }

    /// Ends a pod; its files go `delete_delay` later.
    pub fn delete_pod(&self, uid: &str) -> Result<(), SimError> {
        self.command(|reply| Command::DeletePod(uid.to_owned(), reply))
    }

    /// Ends a container and starts it again under the next restart count.
    pub fn restart_container(&self, uid: &str, container: &str) -> Result<(), SimError> {
        self.command(|reply| Command::Restart(uid.to_owned(), container.to_owned(), reply))
    }

    /// Ends all writing: what was generated is in the files, which end with whole entries. The kubelet's endpoint
    /// keeps answering; rotation stops; ended pods still go.
    pub fn finish_writing(&mut self) -> Result<Stats, SimError> {
        self.shared.done.store(true, Ordering::Release);
        if let Some(thread) = self.engine.take() {
            let _ = self.commands.send(Command::Finish);
            thread.join().map_err(|_| SimError::Stopped("the writers panicked".to_owned()))?;
        }
        Ok(self.stats())
    }

    /// Stops everything and copies what is left of the live files to the archive.
    pub fn stop(mut self) -> Result<Truth, SimError> {
        let stats = self.finish_writing()?;
        self.end_threads();
        if let Some(error) = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let (pod_logs, archive_dir) = (self.shared.pod_logs(), self.shared.archive());
        archive(&pod_logs, &archive_dir, &pod_logs)?;
        Ok(Truth { archive: archive_dir, pod_logs, stats })
    }

    fn command(
        &self,
        make: impl FnOnce(mpsc::SyncSender<Result<(), SimError>>) -> Command,
    ) -> Result<(), SimError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || SimError::Stopped("the writers have ended".to_owned());
        self.commands.send(make(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    fn end_threads(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.commands.send(Command::Finish);
        for thread in [self.engine.take(), self.keeper.take()].into_iter().flatten() {
            let _ = thread.join();
        }
        self.endpoint.stop();
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.end_threads();
    }
}

fn encode(rate: Rate) -> u64 {
    match rate {
        Rate::PerSecond(lines) => lines.min(BURST - 1),
        Rate::Burst => BURST,
    }
}
