//! `sonde_namespace_log_*`: what was read of each namespace's logs on this node since the agent's start.
//!
//! Bytes are those that were seen (`sonde_agent_log_observed_bytes_total`), lines the records that were taken out of
//! them; a line that is left out by a rule, by its age or by loss is in the bytes alone. Both count what this process
//! read: a line that an earlier one had read and nobody had acknowledged is read again, and counted again.

use sonde_daemon::page::Sink;

use crate::logs::ledger::Intake;
use crate::logs::metrics::LogMetrics;

/// Rows of `namespaces`, in the order of their names, and of whatever else has logs. None while no reader has looked.
pub(super) fn show<'n>(logs: &LogMetrics, namespaces: impl Iterator<Item = &'n String>, out: &mut Sink) {
    if !logs.ready() {
        return;
    }
    let snapshot = logs.snapshot();
    let mut all: std::collections::BTreeMap<&str, Intake> =
        namespaces.map(|namespace| (namespace.as_str(), Intake::default())).collect();
    all.extend(snapshot.namespaces.iter().map(|(namespace, intake)| (namespace.as_str(), *intake)));
    type Cell = fn(&Intake) -> u64;
    const FAMILIES: [(&str, &str, Cell); 2] = [
        ("sonde_namespace_log_lines_total", "Log records read.", |intake| intake.records),
        (
            "sonde_namespace_log_bytes_total",
            "Bytes seen in log files, uncompressed, with those that are left out.",
            |intake| intake.bytes,
        ),
    ];
    for (name, help, value) in FAMILIES {
        let help = format!("{help} Pods of this namespace on this node, since the agent's start.");
        let mut family = out.counter(name, help);
        for (namespace, intake) in &all {
            family.row([("namespace", *namespace)], value(intake));
        }
    }
}
