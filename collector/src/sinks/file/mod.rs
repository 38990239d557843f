//! A file on this machine: one record a line, as `/api/v1/logs` gives them. At least once, with the uid; what comes
//! again after a kill of this process is not written again ([`before`]).
//!
//! A batch is delivered when it is written and fsync has returned; a write that fails is taken back, down to the length
//! of before, and tried again, for as long as the disk needs. [`target`] is the file and its rotation.
//!
//! A disk that does not answer at all holds one thread, however often a batch is given up (`when_behind: skip`) and another
//! one comes: while the work on one has not ended, the next is told to come again.
//!
//! # Memory
//! One batch is under way at a time: [`PIECE`] of encoded lines, or one line; the buffers of a compressor at a
//! rotation; 20 bytes a record of the batch; after a start the sum of [`before`].

mod before;
mod target;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use sonde_wire::view::LogsRequest;
use tokio::sync::Mutex;

use self::before::Mark;
pub use self::target::{DEFAULT_AGE, DEFAULT_FILES};
use self::target::{Disk, RealDisk, Target};
use super::blocking;
use crate::config;
use crate::deliver::batch::{State, Unit};
use crate::deliver::{Batch, Sink, Trouble};
use crate::{api, store};

/// Batches under way at a time: they go into one file.
pub const IN_FLIGHT: u32 = 1;
/// Encoded lines that are written at a time.
const PIECE: usize = 16 << 10;

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
        let Ok(mut target) = Arc::clone(&self.target).try_lock_owned() else {
            return Err(Trouble::retry("disk_hangs", "the disk has not answered to what was given up"));
        };
        let written = blocking(move || write(&mut target, &units, &states)).await?;
        written.known.iter().for_each(|record| batch.duplicate(*record));
        (0..written.durable).for_each(|record| batch.delivered(record));
        written.result.map_err(|error| {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            Trouble::retry(if full { "disk_full" } else { "disk" }, error.to_string())
        })
    }
}

/// What came of a batch.
struct Written {
    /// Records whose lines were there already.
    known: Vec<usize>,
    /// Of lines that were written.
    marks: HashSet<Mark>,
    /// All records before this one are durable.
    durable: usize,
    result: io::Result<()>,
}

/// Writes every record that is not settled; all of them are durable when the result is good.
fn write(target: &mut Target, units: &[Unit], states: &[State]) -> Written {
    let mut written = Written { known: Vec::new(), marks: HashSet::new(), durable: 0, result: Ok(()) };
    written.result = write_into(target, units, states, &mut written);
    if written.result.is_ok() {
        written.durable = states.len();
        target.remember(&written.marks);
    }
    written
}

fn write_into(
    target: &mut Target,
    units: &[Unit],
    states: &[State],
    written: &mut Written,
) -> io::Result<()> {
    target.begin()?;
    // Lines, and the record that they begin with.
    let (mut lines, mut first) = (Vec::new(), 0);
    let mut origins = HashSet::new();
    for unit in units {
        let (mut next, mut result) = (unit.first, Ok(()));
        let request = LogsRequest::trusted(&unit.bytes);
        store::record::read(request, unit.received_unix_nano, &mut origins, |origin, row| {
            let number = next;
            next += 1;
            let state = states.get(number).copied().unwrap_or(State::Refused);
            if !state.is_open() || result.is_err() {
                return;
            }
            let start = lines.len();
            api::record::write(origin, row, &mut lines);
            lines.push(b'\n');
            let seen = if row.has_uid { target.look_up(&lines[start..]) } else { None };
            let known = |(mark, known): (Mark, bool)| known || written.marks.contains(&mark);
            if state == State::InDoubt && seen.is_some_and(known) {
                written.known.push(number);
                lines.truncate(start);
                return;
            }
            written.marks.extend(seen.map(|(mark, _)| mark));
            if start > 0 && lines.len() > PIECE {
                result = write_piece(target, &lines[..start], first, written);
                lines.drain(..start);
                first = number;
            }
        });
        result?;
        // Origins are compared, not kept: a batch has few.
        origins.clear();
    }
    write_piece(target, &lines, first, written)?;
    target.end()
}

/// Writes lines that begin with record number `first`, into the next file where this one has no room for them.
fn write_piece(target: &mut Target, lines: &[u8], first: usize, written: &mut Written) -> io::Result<()> {
    if target.is_full(lines.len()) {
        target.end()?;
        written.durable = first;
        target.rotate()?;
    }
    target.write(lines)
}
