//! The node's clock.

use crate::metrics::help;
use std::time::{SystemTime, UNIX_EPOCH};

use sonde_daemon::page::{Source, source};

pub(super) fn collector() -> Box<dyn Source> {
    source("time", |out| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        help::gauge(out, "node_time_seconds").row([], now.as_secs_f64());
        Ok(())
    })
}
