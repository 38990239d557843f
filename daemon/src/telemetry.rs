//! The daemon's own OpenTelemetry metrics, sent only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
//!
//! Off, it costs one look at the environment. On, everything lives on one thread with a runtime of its own, so
//! that a receiver that hangs slows nothing down. Names are the semantic conventions' (process metrics). The
//! daemon's log is not sent: it is a pod's log already. This file alone knows the OpenTelemetry SDK, whose
//! interfaces move with every minor version; its other variables (`OTEL_METRIC_EXPORT_INTERVAL`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, …) mean what they mean everywhere.

use std::io;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::sync::oneshot;

use crate::page::Usage;

/// Names the receiver; unset or empty = off.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Telemetry that is on.
#[derive(Debug)]
pub struct Telemetry {
    stop: oneshot::Sender<()>,
    stopped: std::sync::mpsc::Receiver<()>,
}

/// Starts it when `env` has [`ENDPOINT`]. A receiver that cannot be used is logged and changes nothing else.
///
/// # Errors
/// When its thread cannot be started.
pub fn start(
    program: &'static str,
    version: &'static str,
    env: impl Fn(&str) -> Option<String>,
) -> io::Result<Option<Telemetry>> {
    if env(ENDPOINT).is_none_or(|endpoint| endpoint.trim().is_empty()) {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, wait) = oneshot::channel();
    let (done, stopped) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
        runtime.block_on(run(program, version, wait));
        // Nobody waits when main has left already.
        let _ = done.try_send(());
    })?;
    Ok(Some(Telemetry { stop, stopped }))
}

impl Telemetry {
    /// Sends what is left and ends, within `within`.
    pub fn stop(self, within: Duration) {
        // Err = its thread has ended: there is nothing left to send.
        if self.stop.send(()).is_ok() {
            let _ = self.stopped.recv_timeout(within);
        }
    }
}

async fn run(program: &'static str, version: &'static str, stop: oneshot::Receiver<()>) {
    let exporter = match opentelemetry_otlp::MetricExporter::builder().with_tonic().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::warn!(%error, "OpenTelemetry metrics of this process cannot be sent");
            return;
        }
    };
    let resource = Resource::builder()
        .with_service_name(program)
        .with_attribute(KeyValue::new("service.version", version))
        .build();
    let provider =
        SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(exporter).build();
    instruments(&provider);
    // Either it is asked to stop, or main is gone.
    let _ = stop.await;
    // It blocks on this runtime's work, so not on this thread.
    let end = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_secs(5)));
    if let Ok(Err(error)) = end.await {
        tracing::debug!(%error, "the last OpenTelemetry metrics were not sent");
    }
}

fn instruments(provider: &SdkMeterProvider) {
    let meter = provider.meter("sonde");
    let start = Instant::now();
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_callback(|out| {
            if let Some(usage) = Usage::read() {
                out.observe(usage.cpu_seconds, &[]);
            }
        })
        .build();
    meter
        .i64_observable_up_down_counter("process.memory.usage")
        .with_unit("By")
        .with_callback(|out| {
            if let Some(bytes) = Usage::read().and_then(|usage| i64::try_from(usage.resident_bytes).ok()) {
                out.observe(bytes, &[]);
            }
        })
        .build();
    meter
        .f64_observable_gauge("process.uptime")
        .with_unit("s")
        .with_callback(move |out| out.observe(start.elapsed().as_secs_f64(), &[]))
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_unless_the_environment_names_a_receiver() {
        assert!(start("t", "1", |_| None).unwrap().is_none());
        assert!(start("t", "1", |_| Some(" ".to_owned())).unwrap().is_none());
    }

    #[test]
    fn a_receiver_that_is_not_there_costs_the_stop_at_most_what_it_was_given() {
        let telemetry = start("t", "1", |_| Some("http://127.0.0.1:1".to_owned())).unwrap().unwrap();
        let begin = Instant::now();
        telemetry.stop(Duration::from_millis(300));
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}
