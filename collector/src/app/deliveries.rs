//! What runs between the queue and the sinks, and the watch over it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sonde_daemon::health::{Health, Heartbeat};

use super::Queues;
use crate::config::Config;
use crate::deliver::ack::Required;
use crate::deliver::lane::Lane;
use crate::deliver::store::Delivery;
use crate::queue::Signal;

/// What the loops promise. Each comes around within a second where only its own work holds it up, so that a minute is
/// a loop that stands still, on a node that is starved too.
pub(super) const TURN: Duration = Duration::from_secs(60);

/// Turns liveness red when one of our own loops has ended or stands still; returns when the delivery has ended by
/// itself. A disk never does: the queue's threads only wait for frames and for the disk (an fsync that hangs, a volume
/// that is gone), so they count as long as they run; the delivery's loop beats by itself, and is beaten for while it is
/// in the store. A restart would hang at the same disk; what hangs shows as refused requests and in the queue's age.
pub(super) async fn watch_over(health: &Health, queues: &Queues, deliveries: &Deliveries) {
    let runtime = health.heartbeat("runtime", TURN);
    let threads = health.heartbeat("queue", TURN);
    while !deliveries.one_has_ended() {
        runtime.beat();
        if queues.are_running() {
            threads.beat();
        }
        if let Some((delivery, heartbeat)) = &deliveries.store
            && delivery.numbers().on_disk.load(Ordering::Relaxed)
        {
            heartbeat.beat();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What runs between the queue and the sinks.
#[derive(Default)]
pub(super) struct Deliveries {
    pub store: Option<(Delivery, Heartbeat)>,
    pub lanes: Vec<Lane>,
    /// Who reads the queue of each signal, by name.
    readers: Vec<(Signal, String)>,
    /// Where the required sinks are.
    required: Vec<(Signal, Required)>,
}

impl Deliveries {
    /// Remembers a sink of a signal, and whether senders wait for it.
    pub fn note(&mut self, config: &Config, signal: Signal, name: &str, sink: Required) {
        if config.sinks.iter().any(|sink| sink.required && sink.name == name) {
            self.required.push((signal, sink));
        }
        self.readers.push((signal, name.to_owned()));
    }

    /// The sinks that senders of a signal wait for.
    pub fn required(&self, signal: Signal) -> Vec<Required> {
        self.required.iter().filter(|(of, _)| *of == signal).map(|(_, sink)| sink.clone()).collect()
    }

    /// The sinks of a signal.
    pub fn names(&self, signal: Signal) -> Vec<&str> {
        self.readers.iter().filter(|(of, _)| *of == signal).map(|(_, name)| name.as_str()).collect()
    }

    fn one_has_ended(&self) -> bool {
        self.store.as_ref().is_some_and(|(delivery, _)| delivery.is_finished())
            || self.lanes.iter().any(Lane::is_finished)
    }

    /// Waits until all have ended.
    pub async fn join(self) {
        if let Some((delivery, _)) = self.store {
            let _ = tokio::task::spawn_blocking(move || delivery.join()).await;
        }
        for lane in self.lanes {
            lane.join().await;
        }
    }
}
