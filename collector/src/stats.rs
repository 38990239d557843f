//! What queue and store show on `/metrics`, under the contract's names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sonde_daemon::page::{self, Sink, Source};

use crate::deliver::dead_letter::DeadLetters;
use crate::deliver::lane::Numbers;
use crate::deliver::store::Delivered;
use crate::queue::{self, Queue, Signal};
use crate::store::{self, Store};

/// The numbers of a signal's queue; a sink's are those of its cursor.
pub fn queue_source(signal: Signal, queue: Queue, max_bytes: u64) -> Box<dyn Source> {
    page::source("queue", move |out| {
        show_queue(signal, &queue.status(), out);
        let help = "Disk space that the queue may take: `queue.max_bytes`.";
        out.gauge("sonde_collector_queue_max_bytes", help).row(signal.label(), max_bytes);
        Ok(())
    })
}

/// The numbers of the store behind the sink `name`, and of the delivery to it.
pub fn store_source(name: String, store: Store, delivered: Arc<Delivered>) -> Box<dyn Source> {
    page::source("store", move |out| {
        let dead_letters = delivered.dead_letters.load(Ordering::Relaxed);
        show_store(&name, &store.status(), dead_letters, out);
        Ok(())
    })
}

/// The numbers of what goes to a sink other than the store of one signal.
pub fn lane_source(name: String, signal: Signal, numbers: Arc<Numbers>) -> Box<dyn Source> {
    page::source("sink", move |out| {
        show_records(&name, signal, &numbers, out);
        Ok(())
    })
}

/// The numbers of all sinks' dead letters.
pub fn letters_source(letters: Arc<DeadLetters>) -> Box<dyn Source> {
    page::source("dead_letter", move |out| {
        let help = "Disk space of the dead letters of all sinks.";
        letters.look();
        out.gauge("sonde_collector_dead_letter_bytes", help).row([], letters.bytes());
        let help = "Dead letters that were deleted to keep within dead_letter.max_bytes.";
        out.counter("sonde_collector_dead_letter_dropped_total", help).row([], letters.dropped());
        Ok(())
    })
}

const RECORDS: (&str, &str) =
    ("sonde_collector_records_total", "Records by what became of them at the sink.");
const RETRIES: (&str, &str) = ("sonde_collector_retries_total", "Tries that failed and were made again.");

fn show_records(sink: &str, signal: Signal, numbers: &Numbers, out: &mut Sink) {
    fn of<'l>(
        sink: &'l str,
        label: (&'l str, &'l str),
        signal: Signal,
    ) -> impl Iterator<Item = (&'l str, &'l str)> {
        [("sink", sink), label].into_iter().chain(signal.label())
    }
    let mut rows = out.counter(RECORDS.0, RECORDS.1);
    for (outcome, number) in [
        ("delivered", &numbers.delivered),
        ("duplicate", &numbers.duplicate),
        ("dead_letter", &numbers.dead_letter),
        ("rejected", &numbers.rejected),
        ("skipped", &numbers.skipped),
    ] {
        rows.row(of(sink, ("outcome", outcome), signal), number.load(Ordering::Relaxed));
    }
    let left_out = numbers.left_out();
    if !left_out.is_empty() {
        rows.row(of(sink, ("outcome", "left_out"), signal), left_out.values().sum::<u64>());
        let help = "Records that the sink has no form for, and that are not kept.";
        let mut rows = out.counter("sonde_collector_left_out_total", help);
        for (reason, count) in left_out {
            rows.row(of(sink, ("reason", reason), signal), count);
        }
    }
    let mut rows = out.counter(RETRIES.0, RETRIES.1);
    for (code, count) in numbers.retries() {
        rows.row(of(sink, ("code", code.as_str()), signal), count);
    }
    let help = "1 while the sink's answer holds us; the code says which.";
    let mut rows = out.gauge("sonde_collector_sink_blocked", help);
    if let Some(code) = numbers.blocked() {
        rows.row(of(sink, ("code", code.as_str()), signal), 1u64);
    }
}

fn show_queue(signal: Signal, status: &queue::Status, out: &mut Sink) {
    let own = signal.label();
    let of = |label| [label].into_iter().chain(own);
    let mut rows = out.gauge("sonde_collector_queue_bytes", "Bytes that the sink has still to take.");
    for cursor in &status.cursors {
        rows.row(of(("sink", cursor.name.as_str())), cursor.bytes);
    }
    let mut rows = out.gauge("sonde_collector_queue_oldest_seconds", "Age of the oldest of them.");
    for cursor in &status.cursors {
        rows.row(of(("sink", cursor.name.as_str())), cursor.oldest.as_secs_f64());
    }
    out.gauge("sonde_collector_queue_disk_bytes", "Disk space of the queue.").row(own, status.disk_bytes);
    out.gauge("sonde_collector_queue_segments", "Files of the queue.").row(own, status.segments as u64);
    let help = "1 while the queue's last append was refused for lack of space.";
    out.gauge("sonde_collector_queue_full", help).row(own, u64::from(status.full.is_some()));
    let help = "Writes and fsyncs of the queue that failed.";
    out.counter("sonde_collector_queue_write_errors_total", help).row(own, status.write_errors);
    let help = "What the queue found damaged since the start; `torn` was never acknowledged, of `missing` there was at least as much.";
    let damaged = &status.damaged;
    out.counter("sonde_collector_queue_damaged_bytes_total", help)
        .row(of(("kind", "acknowledged")), damaged.bytes)
        .row(of(("kind", "torn")), damaged.torn_bytes)
        .row(of(("kind", "missing")), damaged.missing_bytes);
    let help = "Segments that were gone at the start although a sink was not done with them.";
    out.counter("sonde_collector_queue_missing_segments_total", help).row(own, damaged.missing_segments);
    let help = "Records in acknowledged frames that were found damaged, as far as it is known.";
    out.counter("sonde_collector_queue_damaged_records_total", help).row(own, damaged.records);
}

fn show_store(sink: &str, status: &store::Status, dead_letters: u64, out: &mut Sink) {
    out.counter(RECORDS.0, RECORDS.1)
        .row([("sink", sink), ("outcome", "delivered")], status.delivered)
        .row([("sink", sink), ("outcome", "duplicate")], status.duplicates)
        .row([("sink", sink), ("outcome", "dead_letter")], dead_letters)
        .row([("sink", sink), ("outcome", "skipped")], 0u64);
    out.counter(RETRIES.0, RETRIES.1).row([("sink", sink), ("code", "commit")], status.commit_errors);
    let gauges = [
        ("sonde_collector_store_records", "Records in the store.", status.records),
        ("sonde_collector_store_pending_records", "Of those, not yet committed.", status.pending_records),
        ("sonde_collector_store_pending_bytes", "Memory that those take, about.", status.pending_bytes),
        ("sonde_collector_store_slices", "Slices of the store.", status.slices),
        ("sonde_collector_store_blocks", "Blocks in them.", status.blocks),
        (
            "sonde_collector_store_disk_bytes",
            "Disk space of the store at the last commit.",
            status.disk_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help).row([], value);
    }
    let counters = [
        ("sonde_collector_store_commits_total", "Commits of the store.", status.commits),
        (
            "sonde_collector_store_damaged_slices_total",
            "Slices set aside as damaged, or deleted under the collector.",
            status.damaged_slices,
        ),
        (
            "sonde_collector_store_rebuilt_slices_total",
            "Slices whose index was damaged and made anew.",
            status.rebuilt_slices,
        ),
        (
            "sonde_collector_store_lost_bytes_total",
            "Bytes of blocks that were found damaged then.",
            status.lost_bytes,
        ),
    ];
    for (name, help, value) in counters {
        out.counter(name, help).row([], value);
    }
    let help = "Time that the store's commits took.";
    out.counter("sonde_collector_store_commit_seconds_total", help).row([], status.commit_time.as_secs_f64());
}
