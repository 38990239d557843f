//! When what happens to whom: a function of the seed and the plan alone.
//!
//! There is a track for each thing that can fail (the agent, each collector, the way to each, the disk of the agent's state,
//! the sink that dies, the index that is rolled over). Events of one track follow each other; those of different tracks overlap
//! as they fall, so both daemons are down at once, killed during an outage, stopped while the disk is full.

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
    /// `kill -9` of a collector, started again at the end.
    KillCollector(usize),
    /// SIGSTOP of a collector, SIGCONT at the end.
    StopCollector(usize),
    /// The way from the agent to a collector fails.
    Outage(usize, Fault),
    /// The disk of the agent's state is full.
    FillDisk,
    /// The way from all collectors to the sink that dies fails.
    Death(Fault),
    /// The shared stream gets a new backing index.
    RollOver,
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
    /// How many there are; not 0.
    pub collectors: usize,
    /// `kill -9` of the agent, without those at which its state is deleted.
    pub agent_kills: u32,
    /// `kill -9` of each collector.
    pub collector_kills: u32,
    /// Kills of the agent at which its state directory is deleted.
    pub forgets: u32,
    /// SIGSTOP of the agent, and as many of each collector.
    pub stops: u32,
    /// Outages of the way to each collector, the kinds by turns.
    pub outages: u32,
    /// Spells of a full state disk.
    pub full_disks: u32,
    /// Deaths of the sink that dies, the kinds by turns.
    pub deaths: u32,
    /// Rollovers of the shared stream.
    pub rollovers: u32,
    /// Mean time between two events of the track that has most of them.
    pub pause: Duration,
}

impl Plan {
    fn tracks(&self, random: &mut Random) -> Vec<Vec<Event>> {
        let some = |event, count: u32| std::iter::repeat_n(event, count as usize);
        let agent = some(Event::KillAgent, self.agent_kills)
            .chain(some(Event::ForgetState, self.forgets))
            .chain(some(Event::StopAgent, self.stops));
        let collector = |which| {
            let kills = some(Event::KillCollector(which), self.collector_kills);
            kills.chain(some(Event::StopCollector(which), self.stops)).collect()
        };
        let mut tracks = vec![agent.collect()];
        tracks.extend((0..self.collectors).map(collector));
        for which in 0..self.collectors {
            tracks
                .push((0..self.outages).map(|number| Event::Outage(which, fault(number, random))).collect());
        }
        tracks.push(some(Event::FillDisk, self.full_disks).collect());
        tracks.push((0..self.deaths).map(|number| Event::Death(death(number, random))).collect());
        tracks.push(some(Event::RollOver, self.rollovers).collect());
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

/// The `number`th death.
fn death(number: u32, random: &mut Random) -> Fault {
    match number % 5 {
        0 => Fault::Refused,
        1 => Fault::Muted,
        2 => Fault::Nonsense,
        3 => Fault::Cut { after_bytes: 1 + random.below(60_000) },
        _ => Fault::Overloaded,
    }
}

fn lasts(event: Event, random: &mut Random) -> Duration {
    match event {
        Event::KillAgent | Event::ForgetState => random.millis(50, 1200),
        Event::KillCollector(_) => random.millis(50, 1500),
        Event::StopAgent | Event::StopCollector(_) => random.millis(200, 3000),
        Event::Outage(..) => random.millis(500, 3000),
        Event::FillDisk => random.millis(1500, 4000),
        Event::Death(_) => random.millis(1000, 6000),
        Event::RollOver => Duration::ZERO,
    }
}

/// The events in the order of their instants.
pub fn schedule(seed: u64, plan: &Plan) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let tracks = plan.tracks(&mut random).into_iter().map(|track| {
        let events = track.into_iter().map(|event| (event, lasts(event, &mut random)));
        events.collect::<Vec<_>>()
    });
    let tracks: Vec<_> = tracks.collect();
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
        collectors: 1,
        agent_kills: 60,
        collector_kills: 40,
        forgets: 2,
        stops: 8,
        outages: 25,
        full_disks: 5,
        deaths: 0,
        rollovers: 0,
        pause: Duration::from_secs(2),
    };
    const THREE: Plan = Plan { collectors: 3, deaths: 10, rollovers: 4, ..PLAN };

    /// Its own of each collector and of each way.
    fn track(event: Event) -> (u32, usize) {
        match event {
            Event::KillAgent | Event::ForgetState | Event::StopAgent => (0, 0),
            Event::KillCollector(which) | Event::StopCollector(which) => (1, which),
            Event::Outage(which, _) => (2, which),
            Event::FillDisk => (3, 0),
            Event::Death(_) => (4, 0),
            Event::RollOver => (5, 0),
        }
    }

    #[test]
    fn a_seed_has_one_schedule_and_another_seed_another() {
        for plan in [PLAN, THREE] {
            assert_eq!(schedule(7, &plan), schedule(7, &plan));
            assert_ne!(schedule(7, &plan), schedule(8, &plan));
        }
    }

    #[test]
    fn everything_happens_as_often_as_asked_one_after_the_other_in_its_track() {
        for (seed, plan) in (0..50).flat_map(|seed| [(seed, PLAN), (seed, THREE)]) {
            let planned = schedule(seed, &plan);
            let of_each = 40 + 8 + 25;
            let all = 60 + 2 + 8 + 5 + plan.collectors * of_each;
            assert_eq!(planned.len(), all + (plan.deaths + plan.rollovers) as usize);
            let count = |wanted: fn(Event) -> bool| planned.iter().filter(|p| wanted(p.event)).count();
            assert_eq!(count(|event| event == Event::KillAgent), 60);
            for which in 0..plan.collectors {
                let stops = planned.iter().filter(|p| p.event == Event::StopCollector(which)).count();
                let kills = planned.iter().filter(|p| p.event == Event::KillCollector(which)).count();
                assert_eq!((stops, kills), (8, 40));
            }
            assert_eq!(count(|event| matches!(event, Event::Outage(_, Fault::Muted))), 5 * plan.collectors);
            assert_eq!(
                count(|event| matches!(event, Event::Outage(_, Fault::Cut { .. }))),
                5 * plan.collectors
            );
            assert_eq!(count(|event| event == Event::Death(Fault::Nonsense)), plan.deaths as usize / 5);
            let mut free_from = std::collections::HashMap::new();
            for planned in &planned {
                let free_from = free_from.entry(track(planned.event)).or_insert(Duration::ZERO);
                assert!(planned.at > *free_from, "seed {seed}: {planned:?} begins before {free_from:?}");
                *free_from = planned.at + planned.lasts;
            }
        }
    }

    #[test]
    fn agent_and_collectors_are_down_at_once_and_killed_during_outages() {
        let planned = schedule(1, &THREE);
        let meet = |left: fn(Event) -> bool, right: fn(Event) -> bool| {
            let of = |wanted: fn(Event) -> bool| planned.iter().filter(move |planned| wanted(planned.event));
            let meets = |a: &Planned, b: &Planned| a.at < b.at + b.lasts && b.at < a.at + a.lasts;
            of(left).any(|a| of(right).any(|b| meets(a, b)))
        };
        assert!(meet(|event| event == Event::KillAgent, |event| event == Event::KillCollector(0)));
        assert!(meet(|event| event == Event::KillCollector(1), |event| event == Event::KillCollector(2)));
        assert!(meet(|event| event == Event::KillAgent, |event| matches!(event, Event::Outage(..))));
        assert!(meet(|event| event == Event::KillAgent, |event| event == Event::FillDisk));
        assert!(meet(|event| event == Event::KillCollector(0), |event| matches!(event, Event::Death(_))));
    }
}
