//! Load averages, from `/proc/loadavg` (proc(5)).

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("loadavg")).short();
    source("loadavg", move |out| show(&file.read()?, out))
}

fn show(text: &str, out: &mut Sink) -> Result<(), String> {
    let mut words = text.split_ascii_whitespace();
    for name in ["node_load1", "node_load5", "node_load15"] {
        let load: Option<f64> = words.next().and_then(|word| word.parse().ok());
        help::gauge(out, name).row([], load.ok_or("loadavg has no three numbers")?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_three_numbers_are_an_error() {
        for text in ["", "0.1", "0.1 0.2 x 1/2 3"] {
            assert!(show(text, &mut Sink::default()).is_err(), "{text}");
        }
        assert!(show("0.42 0.36 0.30 2/311 4242\n", &mut Sink::default()).is_ok());
    }
}
