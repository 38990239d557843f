//! Sockets, from `/proc/1/net/sockstat` and `sockstat6`.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::memory::page_size;
use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let files = ["sockstat", "sockstat6"]
        .map(|name| Kept::first_of([proc.join("1/net").join(name), proc.join("net").join(name)]).short());
    source("sockstat", move |out| {
        for file in &files {
            if let Some(text) = file.read_if_there()? {
                show(&text, page_size(), out);
            }
        }
        Ok(())
    })
}

/// `TCP: inuse 5 orphan 0 tw 1 alloc 6 mem 2`; memory is in pages.
fn show(text: &str, page: u64, out: &mut Sink) {
    for line in text.lines() {
        let Some((protocol, rest)) = line.split_once(':') else { continue };
        let mut words = rest.split_ascii_whitespace();
        while let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>)) {
            let name = format!("node_sockstat_{protocol}_{key}");
            help::gauge(out, &name).row([], value);
            if key == "mem" {
                help::gauge(out, &format!("{name}_bytes")).row([], value.saturating_mul(page));
            }
        }
    }
}
