//! The writers' thread: shares the rate among the containers, starts, restarts and ends them.

mod due;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::clock::{Clock, now_nanos};
use crate::container::{End, Fate};
use crate::error::SimError;
use crate::kubelet::{ContainerStatus, Ended, PodStatus, State};
use crate::load::Use;
use crate::logfile::LogFile;
use crate::node::{BURST, Deletion, Running, Shared};
use crate::pods::PodSpec;
use crate::random::Random;
use crate::writer::{Writer, Written};

const TICK: Duration = Duration::from_millis(5);
/// Lines that a container writes at a time when there is no rate.
const BURST_LINES: u64 = 256;
/// A machine that stood still does not make up for more than this.
const LONGEST_TICK: Duration = Duration::from_millis(250);

pub(crate) type Reply = mpsc::SyncSender<Result<(), SimError>>;

#[derive(Debug)]
pub(crate) enum Command {
    StartPod(Box<PodSpec>, Reply),
    DeletePod(String, Reply),
    Restart(String, String, Reply),
    Rest(bool, Reply),
    Finish,
}

#[derive(Debug)]
struct Active {
    pod_uid: String,
    container: usize,
    writer: Writer,
    /// When it ends by itself.
    ends_at: Option<Instant>,
}

/// A container that the kubelet starts again.
#[derive(Debug)]
struct BackOff {
    at: Instant,
    pod_uid: String,
    container: usize,
    restart: u32,
}

#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    clock: Clock,
    active: Vec<Active>,
    next_id: u64,
    churned: u64,
    churn_at: Option<Instant>,
    short_lived: Vec<(Instant, String)>,
    back_offs: Vec<BackOff>,
    /// Since when nothing is written and nothing starts or ends.
    resting: Option<Instant>,
}

impl Engine {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            churn_at: shared.options.churn.map(|period| Instant::now() + period),
            shared,
            clock: Clock::default(),
            active: Vec::new(),
            next_id: 0,
            churned: 0,
            short_lived: Vec::new(),
            back_offs: Vec::new(),
            resting: None,
        }
    }

    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        if let Err(error) = self.write(commands) {
            let shared = Arc::clone(&self.shared);
            shared.fail(error);
        }
        for active in &mut self.active {
            if let Err(error) = active.writer.finish() {
                self.shared.fail(error);
            }
        }
    }

    fn write(&mut self, commands: &mpsc::Receiver<Command>) -> Result<(), SimError> {
        let mut last = Instant::now();
        loop {
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::StartPod(pod, reply) => drop(reply.send(self.start_pod(*pod))),
                    Command::DeletePod(uid, reply) => drop(reply.send(self.delete_pod(&uid))),
                    Command::Restart(uid, container, reply) => {
                        drop(reply.send(self.restart(&uid, &container)));
                    }
                    Command::Rest(on, reply) => drop(reply.send(self.rest(on))),
                    Command::Finish => return Ok(()),
                }
            }
            let now = Instant::now();
            if self.resting.is_some() {
                self.flush()?;
                last = now;
                thread::sleep(TICK);
                continue;
            }
            self.churn(now)?;
            self.fates(now)?;
            let rate = self.shared.rate.load(Ordering::Acquire);
            self.tick(rate, now.duration_since(last).min(LONGEST_TICK))?;
            last = now;
            if rate != BURST || self.shared.done.load(Ordering::Acquire) {
                thread::sleep(TICK);
            }
        }
    }

    fn tick(&mut self, rate: u64, elapsed: Duration) -> Result<(), SimError> {
        let total: f64 = self.active.iter().map(|active| active.writer.weight).sum();
        let done = self.shared.done.load(Ordering::Acquire);
        for active in &mut self.active {
            let writer = &mut active.writer;
            let mut due = 0;
            if rate == BURST {
                due = BURST_LINES;
            } else {
                // Rates are far below 2^52, shares are positive.
                #[allow(clippy::cast_precision_loss)]
                let share = rate as f64 * elapsed.as_secs_f64() * writer.weight / total;
                writer.credit += share;
                if writer.credit >= 1.0 {
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let whole = writer.credit as u64;
                    due = whole;
                }
            }
            if let Some(max) = self.shared.options.max_lines {
                due = due.min(max.saturating_sub(self.shared.lines.load(Ordering::Relaxed)));
            }
            let exact = self.shared.options.max_lines.is_some();
            let written = writer.turn(
                if done { 0 } else { due },
                exact,
                &mut self.clock,
                self.shared.options.torn_writes,
            )?;
            if rate != BURST {
                #[allow(clippy::cast_precision_loss)]
                let lines = written.lines as f64;
                writer.credit = (writer.credit - lines).min(1000.0);
            }
            count(&self.shared, written);
        }
        Ok(())
    }

    pub(crate) fn start_pod(&mut self, spec: PodSpec) -> Result<(), SimError> {
        let mut containers = Vec::new();
        let sandbox = Random::named(self.shared.options.seed, &format!("{}/sandbox", spec.uid)).hex(64);
        cgroup::create_pod(&self.shared, &spec.uid, &sandbox)?;
        for (index, container) in spec.containers.iter().enumerate() {
            if container.fate == Fate::NoImage {
                containers.push(ContainerStatus {
                    id: String::new(),
                    restart: 0,
                    started_nanos: now_nanos(),
                    state: State::Waiting("ImagePullBackOff"),
                    last: None,
                });
                continue;
            }
            for restart in 0..container.restarts {
                let mut past = self.open(&spec, index, restart)?;
                let written = past.turn(40, false, &mut self.clock, false)?;
                count(&self.shared, written);
                past.log.ended.store(true, Ordering::Release);
            }
            containers.push(self.start_container(&spec, index, container.restarts)?);
        }
        self.shared.pods_started.fetch_add(1, Ordering::AcqRel);
        let started_nanos = now_nanos();
        let status = PodStatus { spec, started_nanos, containers, succeeded: false };
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).push(status);
        Ok(())
    }

    fn start_container(
        &mut self,
        spec: &PodSpec,
        index: usize,
        restart: u32,
    ) -> Result<ContainerStatus, SimError> {
        let writer = self.open(spec, index, restart)?;
        let id = self.container_id(spec, index, restart);
        let cgroup = cgroup::scope(&self.shared.cgroup(), &spec.uid, &id);
        let container = &spec.containers[index];
        cgroup::create(&cgroup, &container.resources)?;
        cgroup::update(&cgroup, &Use::of(&writer.log, &container.resources))?;
        let running = Running {
            pod_uid: spec.uid.clone(),
            container: index,
            resources: container.resources,
            log: Arc::clone(&writer.log),
            cgroup,
        };
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        let (how, ends_at) = match container.fate {
            Fate::Ends { after, how, .. } => (how, Some(Instant::now() + after)),
            Fate::Completes { after } => (End::Error, Some(Instant::now() + after)),
            Fate::Runs | Fate::NoImage => (End::Error, None),
        };
        self.active.push(Active { pod_uid: spec.uid.clone(), container: index, writer, ends_at });
        let (reason, exit_code) = how.told();
        let last = restart.checked_sub(1).map(|before| Ended {
            id: self.container_id(spec, index, before),
            reason,
            exit_code,
        });
        Ok(ContainerStatus { id, restart, started_nanos: now_nanos(), state: State::Running, last })
    }

    fn open(&mut self, spec: &PodSpec, index: usize, restart: u32) -> Result<Writer, SimError> {
        let container = &spec.containers[index];
        let dir = self.shared.pod_logs().join(spec.log_dir()).join(&container.name);
        self.next_id += 1;
        let log = Arc::new(LogFile::new(dir, restart));
        Writer::start(log, container.profile, container.weight, self.shared.options.seed, self.next_id)
    }

    fn container_id(&self, spec: &PodSpec, index: usize, restart: u32) -> String {
        let name = format!("{}/{}/{restart}", spec.uid, spec.containers[index].name);
        Random::named(self.shared.options.seed, &name).hex(64)
    }

    /// Flushes and ends a container's writer; its file stays.
    fn end(&mut self, at: usize) -> Result<Active, SimError> {
        let mut ended = self.active.swap_remove(at);
        ended.writer.finish()?;
        ended.writer.log.ended.store(true, Ordering::Release);
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let at = running.iter().position(|running| Arc::ptr_eq(&running.log, &ended.writer.log));
        if let Some(gone) = at.map(|at| running.swap_remove(at)) {
            let used = Use::of(&gone.log, &gone.resources);
            let mut past = self.shared.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.entry(gone.pod_uid).or_default().used.add_ended(&used);
            cgroup::remove(&gone.cgroup)?;
        }
        Ok(ended)
    }

    fn delete_pod(&mut self, uid: &str) -> Result<(), SimError> {
        let gone = {
            let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
            let at = pods.iter().position(|pod| pod.spec.uid == uid);
            at.map(|at| pods.remove(at)).ok_or_else(|| SimError::UnknownPod(uid.to_owned()))?
        };
        while let Some(at) = self.active.iter().position(|active| active.pod_uid == uid) {
            self.end(at)?;
        }
        self.back_offs.retain(|waiting| waiting.pod_uid != uid);
        self.shared.past.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        cgroup::remove_pod(&self.shared, uid)?;
        self.delete_later(Deletion {
            at: Instant::now() + self.shared.options.delete_delay,
            dir: self.shared.pod_logs().join(gone.spec.log_dir()),
            restart: None,
        });
        Ok(())
    }

    fn restart(&mut self, uid: &str, container: &str) -> Result<(), SimError> {
        let unknown = || SimError::UnknownPod(format!("{uid}/{container}"));
        let spec = self.spec_of(uid).ok_or_else(unknown)?;
        let index = spec.containers.iter().position(|spec| spec.name == container).ok_or_else(unknown)?;
        let at = self.active.iter().position(|active| active.pod_uid == uid && active.container == index);
        let ended = self.end(at.ok_or_else(unknown)?)?;
        let status = self.start_container(&spec, index, ended.writer.log.restart + 1)?;
        self.set_status(uid, index, status);
        self.forget_before(&ended);
        Ok(())
    }

    fn set_status(&self, uid: &str, index: usize, status: ContainerStatus) {
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let container = pods.iter_mut().find(|pod| pod.spec.uid == uid);
        if let Some(place) = container.and_then(|pod| pod.containers.get_mut(index)) {
            *place = status;
        }
    }

    fn forget_before(&self, ended: &Active) {
        // The kubelet keeps the log of the instance before, not of the one before that.
        if let Some(dead) = ended.writer.log.restart.checked_sub(1) {
            let at = Instant::now() + self.shared.options.delete_delay;
            self.delete_later(Deletion { at, dir: ended.writer.log.dir.clone(), restart: Some(dead) });
        }
    }

    fn spec_of(&self, uid: &str) -> Option<PodSpec> {
        let pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.iter().find(|pod| pod.spec.uid == uid).map(|pod| pod.spec.clone())
    }

    fn delete_later(&self, deletion: Deletion) {
        self.shared.deletions.lock().unwrap_or_else(PoisonError::into_inner).push(deletion);
    }
}

fn count(shared: &Shared, written: Written) {
    shared.entries.fetch_add(written.entries, Ordering::AcqRel);
    let bytes = shared.bytes.fetch_add(written.bytes, Ordering::AcqRel) + written.bytes;
    let lines = shared.lines.fetch_add(written.lines, Ordering::AcqRel) + written.lines;
    if bytes >= shared.options.max_bytes || shared.options.max_lines.is_some_and(|max| lines >= max) {
        shared.done.store(true, Ordering::Release);
    }
}
