//! Does what the schedule says, and keeps count.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use sonde_sim::SimNode;

use super::nodes::Nodes;
use super::schedule::{Event, Planned};
use super::shared::{SHARED, Shared};
use super::{Counts, housekeeping, ledger};
use crate::daemon::Daemon;
use crate::disk::SmallDisk;
use crate::link::Fault;
use crate::{http, wait_until};

/// How often the daemons' pages are looked at, and what may go is deleted.
const LOOK: Duration = Duration::from_millis(700);
/// Longest silence of a daemon that is asked for a figure.
const PATIENCE: Duration = Duration::from_secs(3);
/// Looks 50 ms apart at which nothing is pending anywhere: longer than the agent takes to see that a file grew.
const STILL: u32 = 40;

/// A counter of a process that is killed again and again: what each had when it was last looked at.
#[derive(Default)]
struct Sum {
    ended: u64,
    last: u64,
}

impl Sum {
    fn total(&self) -> u64 {
        self.ended + self.last
    }

    fn end(&mut self) {
        self.ended = self.total();
        self.last = 0;
    }
}

/// What came of a run, once everything is stored.
pub(super) struct Done {
    pub(super) counts: Counts,
    /// Compressed files that were read on from within.
    pub(super) resumes: u64,
    /// Records that came again.
    pub(super) duplicates: u64,
    /// Bytes in the agent's ledger.
    pub(super) ledger: f64,
}

pub(super) struct Run<'a> {
    nodes: &'a mut Nodes,
    state: PathBuf,
    disk: Option<SmallDisk>,
    log: File,
    verbose: bool,
    start: Instant,
    looked: Instant,
    agent_stopped: bool,
    /// Of each collector.
    stopped: Vec<bool>,
    duplicates: Vec<Sum>,
    counts: Counts,
    resumes: Sum,
}

impl<'a> Run<'a> {
    /// All daemons are up.
    pub(super) fn new(
        dir: &Path,
        full_disks: bool,
        verbose: bool,
        nodes: &'a mut Nodes,
    ) -> anyhow::Result<Self> {
        let state = nodes.agent.dir.join("agent-state");
        let disk = if full_disks { SmallDisk::mount(&state, "16m")? } else { None };
        if full_disks && disk.is_none() {
            eprintln!("SKIPPED the spells of a full state disk: no right to mount here");
        }
        nodes.start()?;
        let count = nodes.collectors.len();
        Ok(Self {
            nodes,
            state,
            disk,
            log: File::create(dir.join("events.log"))?,
            verbose,
            start: Instant::now(),
            looked: Instant::now(),
            agent_stopped: false,
            stopped: vec![false; count],
            duplicates: (0..count).map(|_| Sum::default()).collect(),
            counts: Counts::default(),
            resumes: Sum::default(),
        })
    }

    /// Everything that is planned, and what the kubelet deletes meanwhile.
    pub(super) fn play(&mut self, planned: &[Planned], node: &SimNode) -> anyhow::Result<()> {
        let begins = planned.iter().map(|planned| (planned.at, true, planned));
        let ends = planned.iter().map(|planned| (planned.at + planned.lasts, false, planned));
        let mut steps: Vec<_> = begins.chain(ends).collect();
        steps.sort_by_key(|(at, begins, _)| (*at, *begins));
        for (at, begins, planned) in steps {
            while self.start.elapsed() < at {
                if self.looked.elapsed() >= LOOK {
                    self.look(node)?;
                }
                sleep(LOOK.min(at.saturating_sub(self.start.elapsed())));
            }
            let what = planned.event;
            self.note(
                at,
                &format!("{} {what:?} for {:?}", if begins { "begin" } else { "end" }, planned.lasts),
            )?;
            let done = if begins { self.begin(what) } else { self.end_of(what) };
            done.with_context(|| format!("{what:?} at {at:?}"))?;
        }
        self.note(self.start.elapsed(), "all is let go")
    }

    /// One request is said to be stored and thrown away.
    pub(super) fn lie(&self) -> anyhow::Result<()> {
        let link = &self.nodes.links[0];
        link.set(Fault::Lying);
        wait_until("a lie", Duration::from_secs(60), || link.lies() > 0)?;
        link.set(Fault::None);
        Ok(())
    }

    /// Waits until everything is stored.
    pub(super) fn end(mut self, limit: Duration) -> anyhow::Result<Done> {
        let drained = self.nodes.wait_ready().and_then(|()| self.drain(limit));
        if let (Err(_), Some(_)) = (&drained, &self.disk) {
            // What is mounted is gone when this ends.
            let _ = crate::verify::copy_tree(&self.state, &self.state.with_extension("kept"));
        }
        drained?;
        self.look_at_agent();
        (0..self.stopped.len()).for_each(|which| self.look_at_collector(which));
        let page = http::text_within(self.nodes.agent.agent_http, "/metrics/self", PATIENCE)?;
        Ok(Done {
            counts: self.counts,
            resumes: self.resumes.total(),
            duplicates: self.duplicates.iter().map(Sum::total).sum(),
            ledger: ledger::balanced(&page)?,
        })
    }

    /// The sink that dies is dead until the shared one has everything: one bad destination holds up no other.
    fn drain(&mut self, limit: Duration) -> anyhow::Result<()> {
        if self.nodes.shared.is_none() {
            return self.wait_still("", limit);
        }
        let dies = |run: &Self, fault| run.nodes.shared.iter().for_each(|shared| shared.dies(fault));
        dies(self, Fault::Refused);
        self.wait_still(&format!("sink=\"{SHARED}\""), limit)?;
        self.note(self.start.elapsed(), "the shared sink has everything, and the other one comes back")?;
        dies(self, Fault::None);
        self.wait_still("", limit)
    }

    /// Nothing is pending at the agent, nor in the collectors' queues of sinks with these labels.
    fn wait_still(&self, sinks: &str, limit: Duration) -> anyhow::Result<()> {
        let agent = &self.nodes.agent;
        let mut still = 0;
        let is_zero = |port, page: &str, name: &str, labels: &str| {
            http::text_within(port, page, PATIENCE)
                .is_ok_and(|page| page.contains(name) && http::sum(&page, name, labels) == 0.0)
        };
        wait_until("everything to be stored", limit, || {
            let pending = "sonde_agent_log_pending_bytes";
            let none = is_zero(agent.agent_http, "/metrics/self", pending, "")
                && self.nodes.collectors.iter().all(|collector| {
                    is_zero(collector.collector_http, "/metrics", "sonde_collector_queue_bytes", sinks)
                });
            still = if none { still + 1 } else { 0 };
            still >= STILL
        })
        .with_context(|| format!("see {}", agent.dir.display()))
    }

    fn note(&mut self, planned: Duration, text: &str) -> anyhow::Result<()> {
        let line = format!(
            "{:9.3} s (planned {:9.3} s) {text}",
            self.start.elapsed().as_secs_f64(),
            planned.as_secs_f64()
        );
        writeln!(self.log, "{line}")?;
        if self.verbose {
            eprintln!("{line}");
        }
        Ok(())
    }

    fn begin(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::KillAgent | Event::ForgetState => {
                self.look_at_agent();
                self.nodes.agent.kill_agent()?;
                self.resumes.end();
                self.counts.agent_kills += 1;
                let down = self.nodes.collectors.iter().any(|collector| collector.collector.is_none());
                self.counts.both_down += u32::from(down);
                if event == Event::ForgetState {
                    self.counts.forgets += 1;
                    return match &self.disk {
                        Some(disk) => disk.wipe(),
                        None => Ok(std::fs::remove_dir_all(&self.state)?),
                    };
                }
            }
            Event::KillCollector(which) => {
                self.look_at_collector(which);
                self.nodes.collectors[which].kill_collector()?;
                self.duplicates[which].end();
                self.counts.collector_kills += 1;
                self.counts.both_down += u32::from(self.nodes.agent.agent.is_none());
            }
            Event::StopAgent => {
                self.agent_stopped = true;
                self.counts.agent_stops += 1;
                self.nodes.agent.agent.as_ref().context("no agent")?.signal(Signal::STOP)?;
            }
            Event::StopCollector(which) => {
                self.stopped[which] = true;
                self.counts.collector_stops += 1;
                self.collector(which)?.signal(Signal::STOP)?;
            }
            Event::Outage(which, fault) => {
                self.counts.outages[kind(fault)] += 1;
                self.nodes.links[which].set(fault);
            }
            Event::Death(fault) => {
                self.counts.deaths[kind(fault)] += 1;
                self.shared()?.dies(fault);
            }
            Event::RollOver => {
                self.counts.rollovers += 1;
                self.shared()?.roll_over()?;
            }
            Event::FillDisk => match &self.disk {
                Some(disk) => {
                    self.counts.full_disks += 1;
                    disk.fill()?;
                }
                None => self.counts.full_disks_skipped += 1,
            },
        }
        Ok(())
    }

    fn end_of(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::KillAgent | Event::ForgetState => self.nodes.agent.start_agent()?,
            Event::KillCollector(which) => self.nodes.collectors[which].start_collector()?,
            Event::StopAgent => {
                self.nodes.agent.agent.as_ref().context("no agent")?.signal(Signal::CONT)?;
                self.agent_stopped = false;
            }
            Event::StopCollector(which) => {
                self.collector(which)?.signal(Signal::CONT)?;
                self.stopped[which] = false;
            }
            Event::Outage(which, _) => self.nodes.links[which].set(Fault::None),
            Event::Death(_) => self.shared()?.dies(Fault::None),
            Event::RollOver => {}
            Event::FillDisk => {
                if let Some(disk) = &self.disk {
                    disk.free()?;
                }
            }
        }
        Ok(())
    }

    fn collector(&self, which: usize) -> anyhow::Result<&Daemon> {
        self.nodes.collectors[which].collector.as_ref().context("no collector")
    }

    fn shared(&self) -> anyhow::Result<&Shared> {
        self.nodes.shared.as_ref().context("the collectors share nothing")
    }

    fn look(&mut self, node: &SimNode) -> anyhow::Result<()> {
        self.look_at_agent();
        (0..self.stopped.len()).for_each(|which| self.look_at_collector(which));
        if self.nodes.agent.agent.is_some() && !self.agent_stopped {
            let swept = housekeeping::sweep(node, self.nodes.agent.agent_http)?;
            self.counts.short_pods += swept.pods;
            self.counts.deleted_gz += swept.gz;
        }
        self.looked = Instant::now();
        Ok(())
    }

    fn look_at_agent(&mut self) {
        let agent = &self.nodes.agent;
        let runs = agent.agent.is_some() && !self.agent_stopped;
        let name = "sonde_agent_log_compressed_resumes_total";
        if runs && let Some(now) = counter(agent.agent_http, "/metrics/self", name, "") {
            self.resumes.last = now;
        }
    }

    fn look_at_collector(&mut self, which: usize) {
        let collector = &self.nodes.collectors[which];
        let runs = collector.collector.is_some() && !self.stopped[which];
        let (name, labels) = ("sonde_collector_records_total", "outcome=\"duplicate\"");
        if runs && let Some(now) = counter(collector.collector_http, "/metrics", name, labels) {
            self.duplicates[which].last = now;
        }
    }
}

fn counter(port: u16, page: &str, name: &str, labels: &str) -> Option<u64> {
    let page = http::text_within(port, page, PATIENCE).ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count, exact up to 2^53
    Some(http::sum(&page, name, labels) as u64)
}

/// Its place in [`Counts::outages`] and [`Counts::deaths`].
fn kind(fault: Fault) -> usize {
    match fault {
        Fault::None | Fault::Lying | Fault::Refused => 0,
        Fault::Muted => 1,
        Fault::Slow { .. } | Fault::Nonsense => 2,
        Fault::Overloaded => 3,
        Fault::Cut { .. } => 4,
    }
}
