//! Open files of the node, from `/proc/sys/fs/file-nr` (proc(5)).

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = Kept::new(proc.join("sys/fs/file-nr")).short();
    source("filefd", move |out| {
        let Some(text) = file.read_if_there()? else { return Ok(()) };
        let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(allocated)), Some(Ok(_free)), Some(Ok(maximum))) =
            (words.next(), words.next(), words.next())
        else {
            return Err("file-nr has no three numbers".to_owned());
        };
        help::gauge(out, "node_filefd_allocated").row([], allocated);
        help::gauge(out, "node_filefd_maximum").row([], maximum);
        Ok(())
    })
}
