//! Jobs that may hang, as statfs(2) of a network file system whose server is gone: done one after another on a thread of their
//! own, each within its patience.
//!
//! A job that has not ended in time is set aside with the thread that it holds, and another thread goes on with the rest. It
//! is not begun again until that thread has come back, so it costs nothing the next time. Who asks sleeps once for all jobs,
//! not once for each: to wake a thread costs more than most jobs do.
//!
//! However many jobs hang, those that do not keep their answers: jobs that came back in the round before go first, and when as many threads
//! hang as may, they alone are begun. One of them that hangs now is one thread more, and is not among them in the next round.
//!
//! Memory: one idle thread, and at most `most_stuck` that hang, with those that hang though they came back the round before
//! twice as many; each has its stack (of which a job such as statfs(2) touches 16 KiB) and its round's keys. For 16 that is
//! 32 threads and 0.5 MiB, and with the longest list of mounts (2,048 paths of 100 bytes) 0.2 MiB of keys for each round in which one began to
//! hang, 7 MiB. Beside that the keys of the last round that came back.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Does jobs that are named by a key.
pub struct Errands<K, A> {
    name: &'static str,
    most_stuck: usize,
    work: Arc<dyn Fn(&K) -> A + Send + Sync>,
    /// The thread that goes on, and its number.
    worker: Option<SyncSender<Task<K, A>>>,
    workers: u64,
    stuck: Arc<Mutex<HashSet<K>>>,
    /// Came back in the last round.
    sound: HashSet<K>,
}

/// Why a job has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It did not end in time.
    NotInTime,
    /// It still hangs since an earlier round, and was not begun.
    Hangs,
    /// It was not begun: others took all the time, or hold as many threads as may hang.
    NotBegun,
    /// It panicked.
    Panicked,
    /// The system gives no thread.
    NoThread,
}

/// Jobs that are under way.
#[must_use]
pub struct Round<K, A> {
    shared: Arc<Shared<K, A>>,
    /// Which job it is that is done first, second, …
    order: Vec<usize>,
}

struct Shared<K, A> {
    jobs: Vec<(K, Duration)>,
    state: Mutex<State<A>>,
    done: Condvar,
}

struct State<A> {
    answers: Vec<Option<Result<A, Late>>>,
    /// The job that is under way.
    at: usize,
    /// Since when.
    since: Instant,
    /// The number of the worker that goes on; all others come back for nothing.
    worker: u64,
    /// Workers that were set aside, and the jobs that they were at.
    aside: Vec<(u64, usize)>,
    /// Somebody sleeps until all is done.
    awaited: bool,
}

type Task<K, A> = (Arc<Shared<K, A>>, u64);

impl<K: Clone + Eq + Hash + Send + Sync + 'static, A: Send + 'static> Errands<K, A> {
    /// Jobs are done by `work`, on threads that are called `name`; of them at most `most_stuck` hang.
    pub fn new(
        name: &'static str,
        most_stuck: usize,
        work: impl Fn(&K) -> A + Send + Sync + 'static,
    ) -> Self {
        let (stuck, sound) = (Arc::default(), HashSet::new());
        Self { name, most_stuck, work: Arc::new(work), worker: None, workers: 0, stuck, sound }
    }

    /// Does all jobs, each within its patience, and all before `until`; the answers are in the jobs' order.
    pub fn run(&mut self, jobs: Vec<(K, Duration)>, until: Option<Instant>) -> Vec<Result<A, Late>> {
        let round = self.begin(jobs);
        self.finish(round, until)
    }

    /// Has the jobs begun, and does not wait.
    pub fn begin(&mut self, jobs: Vec<(K, Duration)>) -> Round<K, A> {
        let mut jobs: Vec<(usize, (K, Duration))> = jobs.into_iter().enumerate().collect();
        jobs.sort_by_key(|(_, (key, _))| !self.sound.contains(key));
        let (order, jobs): (Vec<usize>, Vec<_>) = jobs.into_iter().unzip();
        let stuck = locked(&self.stuck);
        let answers: Vec<_> =
            jobs.iter().map(|(key, _)| stuck.contains(key).then_some(Err(Late::Hangs))).collect();
        drop(stuck);
        let state =
            State { answers, at: 0, since: Instant::now(), worker: 0, aside: Vec::new(), awaited: false };
        let shared = Arc::new(Shared { jobs, state: Mutex::new(state), done: Condvar::new() });
        let mut state = locked(&shared.state);
        state.skip();
        self.go_on(&shared, &mut state);
        drop(state);
        Round { shared, order }
    }

    /// Waits for the jobs.
    pub fn finish(&mut self, round: Round<K, A>, until: Option<Instant>) -> Vec<Result<A, Late>> {
        let Round { shared, order } = round;
        let mut state = locked(&shared.state);
        while let Some((key, patience)) = shared.jobs.get(state.at) {
            let now = Instant::now();
            let end = state.since + *patience;
            let end = until.map_or(end, |until| until.min(end));
            if now < end {
                state.awaited = true;
                state = shared
                    .done
                    .wait_timeout(state, end - now)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
                state.awaited = false;
                continue;
            }
            // It ends when it comes back and finds that another goes on.
            locked(&self.stuck).insert(key.clone());
            self.worker = None;
            let (worker, at) = (state.worker, state.at);
            state.aside.push((worker, at));
            state.worker = 0;
            state.answer(Err(Late::NotInTime));
            // The same job once more would hold one thread more.
            state.give_up(Late::Hangs, |at| shared.jobs[at].0 == *key);
            if until.is_some_and(|until| until <= now) {
                state.give_up(Late::NotBegun, |_| true);
            }
            self.go_on(&shared, &mut state);
        }
        let answers = std::mem::take(&mut state.answers);
        drop(state);
        self.sound.clear();
        let mut in_order: Vec<_> = Vec::with_capacity(answers.len());
        for ((answer, (key, _)), at) in answers.into_iter().zip(&shared.jobs).zip(order) {
            let answer = answer.unwrap_or(Err(Late::NotBegun));
            if matches!(answer, Ok(_) | Err(Late::Panicked)) {
                self.sound.insert(key.clone());
            }
            in_order.push((at, answer));
        }
        in_order.sort_by_key(|(at, _)| *at);
        in_order.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Has a worker do what is left.
    fn go_on(&mut self, shared: &Arc<Shared<K, A>>, state: &mut State<A>) {
        if state.at >= shared.jobs.len() {
            return;
        }
        let held = locked(&self.stuck).len();
        if held >= self.most_stuck {
            let may_more = held < self.most_stuck.saturating_mul(2);
            state.give_up(Late::NotBegun, |at| !may_more || !self.sound.contains(&shared.jobs[at].0));
            if state.at >= shared.jobs.len() {
                return;
            }
        }
        (state.worker, state.since) = (self.workers, Instant::now());
        let sent = self
            .worker
            .as_ref()
            .is_some_and(|worker| worker.try_send((Arc::clone(shared), self.workers)).is_ok());
        if !sent {
            self.workers += 1;
            state.worker = self.workers;
            self.worker = self.start((Arc::clone(shared), self.workers)).ok();
        }
        if self.worker.is_none() {
            state.give_up(Late::NoThread, |_| true);
        }
    }

    /// A worker with a first task.
    fn start(&self, first: Task<K, A>) -> std::io::Result<SyncSender<Task<K, A>>> {
        let (sender, tasks) = sync_channel::<Task<K, A>>(1);
        let (work, stuck) = (Arc::clone(&self.work), Arc::clone(&self.stuck));
        std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            for (shared, number) in std::iter::once(first).chain(tasks) {
                if let Some(given_up) = shared.work(number, &*work) {
                    if let Some((key, _)) = given_up.and_then(|at| shared.jobs.get(at)) {
                        locked(&stuck).remove(key);
                    }
                    return;
                }
            }
        })?;
        Ok(sender)
    }
}

impl<K, A> Shared<K, A> {
    /// Does the jobs in turn; given is the job that was given up, where the worker was set aside.
    fn work(&self, number: u64, work: &(dyn Fn(&K) -> A + Send + Sync)) -> Option<Option<usize>> {
        let mut state = locked(&self.state);
        loop {
            if state.worker != number {
                return Some(state.aside.iter().find(|(aside, _)| *aside == number).map(|(_, at)| *at));
            }
            let Some((key, _)) = self.jobs.get(state.at) else { break };
            drop(state);
            let answer = catch_unwind(AssertUnwindSafe(|| work(key))).map_err(|_| Late::Panicked);
            state = locked(&self.state);
            if state.worker == number {
                state.answer(answer);
                state.since = Instant::now();
            }
        }
        if state.awaited {
            self.done.notify_one();
        }
        None
    }
}

impl<A> State<A> {
    /// Of the job that is under way; the next one is, from now on.
    fn answer(&mut self, answer: Result<A, Late>) {
        if let Some(slot) = self.answers.get_mut(self.at) {
            *slot = Some(answer);
        }
        self.skip();
    }

    /// Goes to the next job that has no answer.
    fn skip(&mut self) {
        while self.answers.get(self.at).is_some_and(Option::is_some) {
            self.at += 1;
        }
    }

    /// Gives up those of the jobs that have no answer.
    fn give_up(&mut self, late: Late, which: impl Fn(usize) -> bool) {
        for (at, answer) in self.answers.iter_mut().enumerate() {
            if answer.is_none() && which(at) {
                *answer = Some(Err(late));
            }
        }
        self.skip();
    }
}

impl<K, A> fmt::Debug for Errands<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").field("name", &self.name).finish_non_exhaustive()
    }
}

/// No state is left half-changed by a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
