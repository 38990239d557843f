//! When what happens to whom: a function of the seed and the plan alone.
//!
//! There is a track for each thing that can fail (the agent, the collector, the way between them, the disk of the agent's
//! state). Events of one track follow each other; those of different tracks overlap as they fall, so both daemons are down at
//! once, killed during an outage, stopped while the disk is full.

use std::time::Duration;

use super::random::Random;
use crate::link::Fault;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `kill -9` of the agent, started again at the end.
    KillAgent,
    /// The same, and its state directory is deleted meanwhile.
    ForgetState,
    /// SIGSTOP of the agent, SIGCONT at the end.
    StopAgent,
    /// `kill -9` of the collector, started again at the end.
    KillCollector,
    /// SIGSTOP of the collector, SIGCONT at the end.
    StopCollector,
    /// The way between them fails.
    Outage(Fault),
    /// The disk of the agent's state is full.
    FillDisk,
}

/// An event, its instant since the start of the run, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Since the start.
    pub at: Duration,
    /// Until what was taken away comes back.
    pub lasts: Duration,
    /// What.
    pub event: Event,
}

/// How often each thing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `kill -9` of the agent, without those at which its state is deleted.
    pub agent_kills: u32,
    /// `kill -9` of the collector.
    pub collector_kills: u32,
    /// Kills of the agent at which its state directory is deleted.
    pub forgets: u32,
    /// SIGSTOP of the agent, and as many of the collector.
    pub stops: u32,
    /// Outages, the kinds by turns.
    pub outages: u32,
    /// Spells of a full state disk.
    pub full_disks: u32,
    /// Mean time between two events of the track that has most of them.
    pub pause: Duration,
}

impl Plan {
    fn tracks(&self, random: &mut Random) -> [Vec<Event>; 4] {
        let some = |event, count: u32| std::iter::repeat_n(event, count as usize);
        let agent = some(Event::KillAgent, self.agent_kills)
            .chain(some(Event::ForgetState, self.forgets))
            .chain(some(Event::StopAgent, self.stops));
        let collector =
            some(Event::KillCollector, self.collector_kills).chain(some(Event::StopCollector, self.stops));
        let link = (0..self.outages).map(|number| Event::Outage(fault(number, random))).collect();
        let disk = some(Event::FillDisk, self.full_disks).collect();
        let mut tracks = [agent.collect(), collector.collect(), link, disk];
        tracks.iter_mut().for_each(|track: &mut Vec<Event>| random.shuffle(track));
        tracks
    }
}

/// The `number`th outage.
fn fault(number: u32, random: &mut Random) -> Fault {
    match number % 5 {
        0 => Fault::Refused,
        1 => Fault::Muted,
        2 => Fault::Slow { bytes_per_second: 4_000 + random.below(60_000) },
        3 => Fault::Overloaded,
        _ => Fault::Cut { after_bytes: 1 + random.below(60_000) },
    }
}

fn lasts(event: Event, random: &mut Random) -> Duration {
    match event {
        Event::KillAgent | Event::ForgetState => random.millis(50, 1200),
        Event::KillCollector => random.millis(50, 1500),
        Event::StopAgent | Event::StopCollector => random.millis(200, 3000),
        Event::Outage(_) => random.millis(500, 3000),
        Event::FillDisk => random.millis(1500, 4000),
    }
}

/// The events in the order of their instants.
pub fn schedule(seed: u64, plan: &Plan) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let tracks = plan.tracks(&mut random).map(|track| {
        let events = track.into_iter().map(|event| (event, lasts(event, &mut random)));
        events.collect::<Vec<_>>()
    });
    let busy = |track: &[(Event, Duration)]| track.iter().map(|(_, lasts)| *lasts).sum::<Duration>();
    let pauses = |track: &[(Event, Duration)]| u32::try_from(track.len() + 1).unwrap_or(u32::MAX);
    let total = tracks.iter().map(|track| busy(track) + plan.pause * pauses(track)).max().unwrap_or_default();
    let mut planned = Vec::new();
    for track in &tracks {
        // The free time is dealt out by weights, so that every track fills the whole run.
        let free = u64::try_from((total - busy(track)).as_millis()).unwrap_or(u64::MAX);
        let weights: Vec<u64> = (0..pauses(track)).map(|_| 100 + random.below(900)).collect();
        let sum: u64 = weights.iter().sum();
        let mut at = Duration::ZERO;
        for ((event, lasts), weight) in track.iter().zip(&weights) {
            at += Duration::from_millis(free * weight / sum);
            planned.push(Planned { at, lasts: *lasts, event: *event });
            at += *lasts;
        }
    }
    planned.sort_by_key(|planned| planned.at);
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        agent_kills: 60,
        collector_kills: 40,
        forgets: 2,
        stops: 8,
        outages: 25,
        full_disks: 5,
        pause: Duration::from_secs(1),
    };

    fn track(event: Event) -> usize {
        match event {
            Event::KillAgent | Event::ForgetState | Event::StopAgent => 0,
            Event::KillCollector | Event::StopCollector => 1,
            Event::Outage(_) => 2,
            Event::FillDisk => 3,
        }
    }

    #[test]
    fn the_schedule_is_a_function_of_the_seed() {
        assert_eq!(schedule(7, &PLAN), schedule(7, &PLAN));
        assert_ne!(schedule(7, &PLAN), schedule(8, &PLAN));
    }

    #[test]
    fn everything_happens_as_often_as_asked_one_after_the_other_in_its_track() {
        for seed in 0..50 {
            let planned = schedule(seed, &PLAN);
            assert_eq!(planned.len(), 60 + 40 + 2 + 2 * 8 + 25 + 5);
            let count = |wanted: fn(Event) -> bool| planned.iter().filter(|p| wanted(p.event)).count();
            assert_eq!(count(|event| event == Event::KillAgent), 60);
            assert_eq!(count(|event| event == Event::StopCollector), 8);
            assert_eq!(count(|event| matches!(event, Event::Outage(Fault::Muted))), 5);
            assert_eq!(count(|event| matches!(event, Event::Outage(Fault::Cut { .. }))), 5);
            let mut free_from = [Duration::ZERO; 4];
            for planned in &planned {
                let free_from = &mut free_from[track(planned.event)];
                assert!(planned.at > *free_from, "seed {seed}: {planned:?} begins before {free_from:?}");
                *free_from = planned.at + planned.lasts;
            }
        }
    }

    #[test]
    fn agent_and_collector_are_down_at_once_and_killed_during_outages() {
        let planned = schedule(1, &PLAN);
        let meet = |left: fn(Event) -> bool, right: fn(Event) -> bool| {
            let of = |wanted: fn(Event) -> bool| planned.iter().filter(move |planned| wanted(planned.event));
            let meets = |a: &Planned, b: &Planned| a.at < b.at + b.lasts && b.at < a.at + a.lasts;
            of(left).any(|a| of(right).any(|b| meets(a, b)))
        };
        assert!(meet(|event| event == Event::KillAgent, |event| event == Event::KillCollector));
        assert!(meet(|event| event == Event::KillAgent, |event| matches!(event, Event::Outage(_))));
        assert!(meet(|event| event == Event::KillAgent, |event| event == Event::FillDisk));
    }
}
