//! How the kernel keeps its clock (adjtimex(2)).

use sonde_daemon::memory::clock;
use sonde_daemon::page::{Source, source};

use crate::metrics::help;

pub(super) fn collector() -> Box<dyn Source> {
    source("timex", |out| {
        let clock = clock().map_err(|error| format!("adjtimex: {error}"))?;
        help::gauge(out, "node_timex_sync_status").row([], clock.synchronised);
        help::gauge(out, "node_timex_status").row([], clock.status);
        help::gauge(out, "node_timex_offset_seconds").row([], clock.offset_seconds);
        help::gauge(out, "node_timex_maxerror_seconds").row([], clock.max_error_seconds);
        help::gauge(out, "node_timex_estimated_error_seconds").row([], clock.estimated_error_seconds);
        help::gauge(out, "node_timex_frequency_adjustment_ratio").row([], clock.frequency_ratio);
        help::gauge(out, "node_timex_tai_offset_seconds").row([], clock.tai_offset_seconds);
        help::gauge(out, "node_timex_loop_time_constant").row([], clock.loop_time_constant);
        help::gauge(out, "node_timex_tick_seconds").row([], clock.tick_seconds);
        let pulse = clock.pulse;
        help::gauge(out, "node_timex_pps_frequency_hertz").row([], pulse.frequency_hertz);
        help::gauge(out, "node_timex_pps_jitter_seconds").row([], pulse.jitter_seconds);
        help::gauge(out, "node_timex_pps_shift_seconds").row([], pulse.shift_seconds);
        help::gauge(out, "node_timex_pps_stability_hertz").row([], pulse.stability_hertz);
        help::counter(out, "node_timex_pps_jitter_total").row([], pulse.jitters);
        help::counter(out, "node_timex_pps_calibration_total").row([], pulse.calibrations);
        help::counter(out, "node_timex_pps_error_total").row([], pulse.errors);
        help::counter(out, "node_timex_pps_stability_exceeded_total").row([], pulse.instabilities);
        Ok(())
    })
}
