//! The keeper: a thread that, at most once a second, makes the cursors durable, deletes the segments that all of
//! them have passed, and looks up how old the oldest frame of each is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Position;
use super::cursor;
use super::segment::{SEGMENT_HEADER, Step, Walk};
use super::state::{DAMAGED_DIR, Shared, Wake, segment_name, segment_number};

/// Time between two passes when nothing is urgent.
const PERIOD: Duration = Duration::from_secs(1);
/// Share of the budget that damaged segments may take: one part in this many.
const DAMAGED_SHARE: u64 = 10;

/// Runs until the writer has ended.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        let asked = shared.wait(PERIOD);
        pass(shared);
        if asked == Wake::Stop {
            return;
        }
    }
}

/// One pass.
pub(super) fn pass(shared: &Shared) {
    write_cursors(shared);
    delete_passed(shared);
    bound_damaged(shared);
    look_up_ages(shared);
}

fn write_cursors(shared: &Shared) {
    let content = {
        let mut state = shared.state();
        let segments: Vec<_> =
            state.segments.iter().map(|(number, segment)| (*number, segment.end)).collect();
        state.cursors.take_changed(&segments)
    };
    let Some(content) = content else { return };
    if let Err(error) = cursor::write(&*shared.fs, &shared.dir, &content) {
        tracing::warn!(%error, "queue cursors not written");
        shared.state().cursors.mark_changed();
    }
}

/// Deletes segments below the lowest cursor, oldest first. A cursor that could not be written does not hold this up:
/// it may be a full disk that needs the space, and a cursor in a segment that is gone means the next one.
fn delete_passed(shared: &Shared) {
    let passed: Vec<(u64, bool)> = {
        let state = shared.state();
        // Without a cursor only what holds no frame goes.
        let lowest = state.cursors.lowest().unwrap_or_default();
        // Something durable must know the highest number that was given out: the cursors, or the segment itself. In one without
        // a frame nothing was given out, and it may go.
        let used = state.segments.iter().filter(|(_, segment)| segment.end > SEGMENT_HEADER);
        let kept = used.map(|(number, _)| *number).next_back().filter(|_| state.cursors.changed());
        let passed = state.segments.iter().filter(|(number, segment)| {
            let end = Position { segment: **number, offset: segment.end };
            !segment.active && (segment.end <= SEGMENT_HEADER || end <= lowest && kept != Some(**number))
        });
        passed.map(|(number, segment)| (*number, segment.damaged)).collect()
    };
    let mut gone = Vec::new();
    for (number, damaged) in passed {
        let path = shared.segment_path(number);
        let aside = shared.dir.join(DAMAGED_DIR).join(segment_name(number));
        let kept = damaged && shared.fs.rename(&path, &aside).is_ok();
        let removed = if kept { Ok(()) } else { shared.fs.remove(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(segment = number, %error, "queue segment not deleted");
            }
            _ => gone.push((number, kept)),
        }
    }
    // Only then is the space free: until the directory is durable, a crash brings the files back.
    if gone.is_empty() || shared.fs.sync_dir(&shared.dir).is_err() {
        return;
    }
    let mut state = shared.state();
    for (number, kept) in gone {
        let segment = state.segments.remove(&number);
        state.damaged_bytes += segment.filter(|_| kept).map_or(0, |segment| segment.disk_bytes);
    }
}

/// Deletes the oldest damaged segments beyond their share of the budget.
fn bound_damaged(shared: &Shared) {
    let limit = shared.options.max_bytes / DAMAGED_SHARE;
    if shared.state().damaged_bytes <= limit {
        return;
    }
    let dir = shared.dir.join(DAMAGED_DIR);
    let Ok(mut files) = shared.fs.list(&dir) else { return };
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    for file in files.iter().filter(|file| segment_number(&file.name).is_some()) {
        if total <= limit {
            break;
        }
        if shared.fs.remove(&dir.join(&file.name)).is_ok() {
            total -= file.bytes;
        }
    }
    shared.state().damaged_bytes = total;
}

/// Reads when the frame at each cursor was received, where that is not known yet.
fn look_up_ages(shared: &Shared) {
    let unknown: Vec<(String, Position)> = {
        let state = shared.state();
        let unknown = state.cursors.iter().filter(|(_, place)| place.received_unix_nano.is_none());
        unknown.map(|(name, place)| (name.to_owned(), place.position)).collect()
    };
    for (name, position) in unknown {
        if let Some(received) = received_at(shared, position) {
            shared.state().cursors.set_received(&name, position, received);
        }
    }
}

/// When the first whole frame at or behind a position was received.
fn received_at(shared: &Shared, from: Position) -> Option<u64> {
    let (at, end, stamp) = {
        let state = shared.state();
        let (at, end) = state.resolve(from)?;
        (at, end, state.segments.get(&at.segment)?.stamp)
    };
    let file = shared.fs.open(&shared.segment_path(at.segment)).ok()?;
    match Walk::new(file, stamp, at.offset.max(SEGMENT_HEADER), end).step() {
        Ok(Some(Step::Frame { frame, .. })) => Some(frame.received_unix_nano),
        _ => Some(stamp.created_unix_nano),
    }
}
