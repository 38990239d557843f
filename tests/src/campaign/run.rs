//! Does what the schedule says, and keeps count.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use sonde_sim::SimNode;

use super::Counts;
use super::housekeeping;
use super::schedule::{Event, Planned};
use crate::disk::SmallDisk;
use crate::http;
use crate::link::{Fault, Link};
use crate::stack::Stack;

/// How often the daemons' pages are looked at, and what may go is deleted.
const LOOK: Duration = Duration::from_millis(700);

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

pub(super) struct Run<'a> {
    stack: &'a mut Stack,
    link: &'a Link,
    state: PathBuf,
    disk: Option<SmallDisk>,
    log: File,
    verbose: bool,
    start: Instant,
    looked: Instant,
    agent_stopped: bool,
    collector_stopped: bool,
    counts: Counts,
    resumes: Sum,
    duplicates: Sum,
}

impl<'a> Run<'a> {
    /// Both daemons are up.
    pub(super) fn new(
        dir: &Path,
        full_disks: bool,
        verbose: bool,
        stack: &'a mut Stack,
        link: &'a Link,
    ) -> anyhow::Result<Self> {
        let state = dir.join("agent-state");
        let disk = if full_disks { SmallDisk::mount(&state, "16m")? } else { None };
        if full_disks && disk.is_none() {
            eprintln!("SKIPPED the spells of a full state disk: no right to mount here");
        }
        stack.start()?;
        Ok(Self {
            stack,
            link,
            state,
            disk,
            log: File::create(dir.join("events.log"))?,
            verbose,
            start: Instant::now(),
            looked: Instant::now(),
            agent_stopped: false,
            collector_stopped: false,
            counts: Counts::default(),
            resumes: Sum::default(),
            duplicates: Sum::default(),
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

    /// Waits until everything is stored; what was done, resumes of compressed files, records that came again.
    pub(super) fn end(mut self, limit: Duration) -> anyhow::Result<(Counts, u64, u64)> {
        let drained = self.stack.wait_ready().and_then(|()| self.stack.wait_drained(limit));
        if let (Err(_), Some(_)) = (&drained, &self.disk) {
            // What is mounted is gone when this ends.
            let _ = crate::verify::copy_tree(&self.state, &self.state.with_extension("kept"));
        }
        drained?;
        self.look_at_agent();
        self.look_at_collector();
        Ok((self.counts, self.resumes.total(), self.duplicates.total()))
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
                self.stack.kill_agent()?;
                self.resumes.end();
                self.counts.agent_kills += 1;
                self.counts.both_down += u32::from(self.stack.collector.is_none());
                if event == Event::ForgetState {
                    self.counts.forgets += 1;
                    return match &self.disk {
                        Some(disk) => disk.wipe(),
                        None => Ok(std::fs::remove_dir_all(&self.state)?),
                    };
                }
            }
            Event::KillCollector => {
                self.look_at_collector();
                self.stack.kill_collector()?;
                self.duplicates.end();
                self.counts.collector_kills += 1;
                self.counts.both_down += u32::from(self.stack.agent.is_none());
            }
            Event::StopAgent => {
                self.agent_stopped = true;
                self.counts.agent_stops += 1;
                self.stack.agent.as_ref().context("no agent")?.signal(Signal::STOP)?;
            }
            Event::StopCollector => {
                self.collector_stopped = true;
                self.counts.collector_stops += 1;
                self.stack.collector.as_ref().context("no collector")?.signal(Signal::STOP)?;
            }
            Event::Outage(fault) => {
                self.counts.outages[kind(fault)] += 1;
                self.link.set(fault);
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
            Event::KillAgent | Event::ForgetState => self.stack.start_agent()?,
            Event::KillCollector => self.stack.start_collector()?,
            Event::StopAgent => {
                self.stack.agent.as_ref().context("no agent")?.signal(Signal::CONT)?;
                self.agent_stopped = false;
            }
            Event::StopCollector => {
                self.stack.collector.as_ref().context("no collector")?.signal(Signal::CONT)?;
                self.collector_stopped = false;
            }
            Event::Outage(_) => self.link.set(Fault::None),
            Event::FillDisk => {
                if let Some(disk) = &self.disk {
                    disk.free()?;
                }
            }
        }
        Ok(())
    }

    fn look(&mut self, node: &SimNode) -> anyhow::Result<()> {
        self.look_at_agent();
        self.look_at_collector();
        if self.stack.agent.is_some() && !self.agent_stopped {
            let swept = housekeeping::sweep(node, self.stack.agent_http)?;
            self.counts.short_pods += swept.pods;
            self.counts.deleted_gz += swept.gz;
        }
        self.looked = Instant::now();
        Ok(())
    }

    fn look_at_agent(&mut self) {
        let runs = self.stack.agent.is_some() && !self.agent_stopped;
        let name = "sonde_agent_log_compressed_resumes_total";
        if runs && let Some(now) = counter(self.stack.agent_http, "/metrics/self", name, "") {
            self.resumes.last = now;
        }
    }

    fn look_at_collector(&mut self) {
        let runs = self.stack.collector.is_some() && !self.collector_stopped;
        let (name, labels) = ("sonde_collector_records_total", "outcome=\"duplicate\"");
        if runs && let Some(now) = counter(self.stack.collector_http, "/metrics", name, labels) {
            self.duplicates.last = now;
        }
    }
}

fn counter(port: u16, page: &str, name: &str, labels: &str) -> Option<u64> {
    let page = http::text_within(port, page, Duration::from_secs(3)).ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count, exact up to 2^53
    Some(http::sum(&page, name, labels) as u64)
}

/// Its place in [`Counts::outages`].
fn kind(fault: Fault) -> usize {
    match fault {
        Fault::None | Fault::Lying | Fault::Refused => 0,
        Fault::Muted => 1,
        Fault::Slow { .. } => 2,
        Fault::Overloaded => 3,
        Fault::Cut { .. } => 4,
    }
}
