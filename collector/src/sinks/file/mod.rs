//! A file on this machine: one record a line, as `/api/v1/logs` gives them. At least once, with the uid.
//!
//! A batch is delivered when it is written and fsync has returned; a write that fails is taken back, down to the length
//! of before, and tried again, for as long as the disk needs. [`target`] is the file and its rotation.
//!
//! # Memory
//! One batch is under way at a time: [`PIECE`] of encoded lines, or one line; the buffers of a compressor at a rotation.

mod target;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use sonde_wire::view::LogsRequest;

use self::target::{Disk, RealDisk, Target};
use super::blocking;
use crate::config;
use crate::deliver::batch::{State, Unit};
use crate::deliver::{Batch, Sink, Trouble};
use crate::{api, store};

/// Batches under way at a time: they go into one file.
pub const IN_FLIGHT: u32 = 1;
/// Encoded lines that are written at a time.
const PIECE: usize = 1 << 20;

/// The sink.
pub struct Files {
    target: Arc<Mutex<Target>>,
}

impl Files {
    /// Opens nothing: a disk that is not there yet is met like one that is full.
    pub fn build(sink: &config::Sink) -> Self {
        Self::on(sink, Box::new(RealDisk))
    }

    fn on(sink: &config::Sink, disk: Box<dyn Disk>) -> Self {
        Self { target: Arc::new(Mutex::new(Target::new(target::Options::of(sink), disk))) }
    }
}

impl Sink for Files {
    async fn deliver(&self, batch: &mut Batch) -> Result<(), Trouble> {
        let (units, states) = (Arc::clone(batch.units()), batch.states().to_vec());
        let target = Arc::clone(&self.target);
        let written = blocking(move || {
            let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
            write(&mut target, &units, &states)
        })
        .await?;
        written.map_err(|error| {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            Trouble::retry(if full { "disk_full" } else { "disk" }, error.to_string())
        })?;
        (0..batch.states().len()).for_each(|record| batch.delivered(record));
        Ok(())
    }
}

/// Writes every record that is not settled; all of them are durable when this returns.
fn write(target: &mut Target, units: &[Unit], states: &[State]) -> io::Result<()> {
    target.begin()?;
    let mut lines = Vec::new();
    let mut known = HashSet::new();
    for unit in units {
        let (mut number, mut result) = (unit.first, Ok(()));
        let request = LogsRequest::trusted(&unit.bytes);
        store::record::read(request, unit.received_unix_nano, &mut known, |origin, row| {
            let open = states.get(number).is_some_and(|state| state.is_open());
            number += 1;
            if !open || result.is_err() {
                return;
            }
            let start = lines.len();
            api::record::write(origin, row, &mut lines);
            lines.push(b'\n');
            if start > 0 && lines.len() > PIECE {
                result = target.write(&lines[..start]);
                lines.drain(..start);
            }
        });
        result?;
        // Origins are compared, not kept: a batch has few.
        known.clear();
    }
    target.write(&lines)?;
    target.end()
}
