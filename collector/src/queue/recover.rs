//! The look at the directory before the queue is used. It never refuses to start because of what it finds.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Position;
use super::cursor::{CURSOR_FILE, CURSOR_TEMP, Cursors, Saved};
use super::fs::{File, Filesystem};
use super::reader::Patience;
use super::segment::{FRAME_HEADER, FRAME_HEADER_LEN, FrameHeader, Gap, Kind};
use super::segment::{SEGMENT_HEADER, SEGMENT_HEADER_LEN, Stamp, Step, Walk};
use super::state::{DAMAGED_DIR, Damaged, Segment, State, segment_name, segment_number};

/// Reads the directory into a state: cuts off torn tails, sets damaged segments aside.
pub(super) fn recover(fs: &dyn Filesystem, dir: &Path, patience: Duration) -> io::Result<State> {
    let mut patience = Patience::new(patience);
    let mut state = State::default();
    let damaged_dir = dir.join(DAMAGED_DIR);
    fs.create_dir_all(dir)?;
    fs.create_dir_all(&damaged_dir)?;
    for file in fs.list(&damaged_dir)? {
        state.damaged_bytes += file.bytes;
        state.floor = state.floor.max(segment_number(&file.name).unwrap_or(0));
    }
    let mut files = fs.list(dir)?;
    let mut listed = Vec::new();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if files.iter().any(|file| file.name == CURSOR_FILE) {
        match read_cursors(fs, dir) {
            Some(saved) => (state.cursors, listed) = (saved.cursors, saved.segments),
            None => {
                tracing::error!(dir = %dir.display(), "queue cursors damaged: readers begin at the oldest frame");
                state.damaged.cursor_files += 1;
            }
        }
    }
    if files.iter().any(|file| file.name == CURSOR_TEMP) {
        let _ = fs.remove(&dir.join(CURSOR_TEMP));
    }
    let highest = listed.iter().map(|(number, _)| *number).max().unwrap_or(0);
    state.floor = state.floor.max(state.cursors.highest_segment()).max(highest);
    for (number, bytes) in files.iter().filter_map(|file| Some((segment_number(&file.name)?, file.bytes))) {
        state.floor = state.floor.max(number);
        let mut found = recover_segment(fs, dir, number, &mut state.damaged);
        while found.as_ref().is_err_and(|error| patience.wait(error)) {
            found = recover_segment(fs, dir, number, &mut state.damaged);
        }
        match found {
            Ok(Found::Frames(segment)) => {
                state.segments.insert(number, segment);
            }
            Ok(Found::Nothing) => {
                let _ = fs.remove(&dir.join(segment_name(number)));
            }
            Ok(Found::Damage) => set_aside(fs, dir, number, bytes, "header damaged", &mut state),
            Err(error) => set_aside(fs, dir, number, bytes, &error.to_string(), &mut state),
        }
    }
    let aside = fs.list(&damaged_dir)?;
    listed.retain(|(number, _)| !aside.iter().any(|file| segment_number(&file.name) == Some(*number)));
    count_missing(&mut state, &listed);
    // What was removed or moved takes no space that is counted; this is as much as can be done about it.
    let _ = fs.sync_dir(dir);
    Ok(state)
}

/// Says what somebody has deleted: segments that the cursor file lists, that are not there, and that a reader was not
/// done with. What they held beyond what it says is not known.
fn count_missing(state: &mut State, listed: &[(u64, u64)]) {
    let there = |number: u64| state.segments.contains_key(&number);
    for (sink, place) in state.cursors.iter() {
        let (segments, at_least_bytes) = missing(listed, place.position, there);
        if segments > 0 {
            tracing::error!(
                sink,
                segments,
                at_least_bytes,
                "queue segments are gone: what was acknowledged in them is lost to this sink"
            );
        }
    }
    let lowest = state.cursors.lowest();
    let (segments, bytes) = lowest.map(|from| missing(listed, from, there)).unwrap_or_default();
    if segments > 0 {
        (state.damaged.missing_segments, state.damaged.missing_bytes) = (segments, bytes);
        // Said once.
        state.cursors.mark_changed();
    }
}

/// How many of the listed segments a reader at `from` is not done with and are not there, and the bytes of frames that
/// the list knows of in them.
pub(super) fn missing(listed: &[(u64, u64)], from: Position, there: impl Fn(u64) -> bool) -> (u64, u64) {
    let mut missing = (0, 0);
    for &(number, end) in listed {
        let at_end = Position { segment: number, offset: end };
        if end > SEGMENT_HEADER && at_end > from && !there(number) {
            let start = if number == from.segment { from.offset.max(SEGMENT_HEADER) } else { SEGMENT_HEADER };
            missing = (missing.0 + 1, missing.1 + (end - start));
        }
    }
    missing
}

enum Found {
    Frames(Segment),
    /// It never held a frame, or none that was acknowledged.
    Nothing,
    Damage,
}

fn recover_segment(fs: &dyn Filesystem, dir: &Path, number: u64, damaged: &mut Damaged) -> io::Result<Found> {
    let file = fs.open(&dir.join(segment_name(number)))?;
    let size = file.size()?;
    let mut block = vec![0; SEGMENT_HEADER_LEN];
    let read = file.read_at(&mut block, 0)?;
    let Some(stamp) = Stamp::decode(&block[..read], number) else {
        // A header is durable before the first frame is written: without frames, it is the crash that tore it.
        return Ok(if is_zero(&*file, SEGMENT_HEADER, size)? { Found::Nothing } else { Found::Damage });
    };
    if let Some((end, vouched)) = sealed_end(&*file, &stamp, size)? {
        // The process before may not have known its length durable (a failed fsync): a loss of power would bring the
        // space back that is given away here.
        if let Err(error) = file.truncate(size).and_then(|()| file.sync()) {
            tracing::warn!(segment = number, %error, "queue segment not known to be cut");
        }
        return Ok(Found::Frames(Segment::sealed(stamp, end, vouched)));
    }
    walk(&file, &stamp, size, damaged)
}

/// Where the frames of a sealed segment end, and what its end mark, the last thing in the file, vouches for.
pub(super) fn sealed_end(file: &dyn File, stamp: &Stamp, size: u64) -> io::Result<Option<(u64, u64)>> {
    let Some(end) = size.checked_sub(FRAME_HEADER).filter(|end| *end > SEGMENT_HEADER) else {
        return Ok(None);
    };
    let mut mark = vec![0; FRAME_HEADER_LEN];
    let read = file.read_at(&mut mark, end)?;
    let mark = FrameHeader::decode(&mark[..read], stamp, end);
    Ok(mark.filter(|mark| mark.kind == Kind::End).map(|mark| (end, mark.durable)))
}

/// Walks a segment without its end mark: the writer died in it, or gave it up.
fn walk(file: &Arc<dyn File>, stamp: &Stamp, size: u64, damaged: &mut Damaged) -> io::Result<Found> {
    let mut walk = Walk::new(file.clone(), *stamp, SEGMENT_HEADER, size);
    let (mut end, mut vouched, mut frames) = (SEGMENT_HEADER, SEGMENT_HEADER, 0_u32);
    let mut gaps: Vec<Gap> = Vec::new();
    loop {
        match walk.step() {
            Ok(Some(Step::Frame { next, durable, .. })) => {
                end = next;
                frames = frames.saturating_add(1);
                vouched = vouched.max(durable);
            }
            Ok(Some(Step::Gap(gap))) => gaps.push(gap),
            Ok(Some(Step::End { .. }) | None) => break,
            Err(_) => gaps.push(walk.skip()),
        }
    }
    let torn = gaps.iter().find(|gap| gap.next > end).map(|gap| gap.offset);
    let written = match torn {
        Some(from) => !is_zero(&**file, from, size)?,
        None => false,
    };
    let mut segment = Segment::sealed(*stamp, end, vouched);
    for gap in &gaps {
        if (gap.next <= end || written) && segment.count(gap, damaged) {
            tracing::error!(
                segment = stamp.number,
                offset = gap.offset,
                "queue damaged: frames do not check"
            );
        }
    }
    if end == SEGMENT_HEADER {
        return Ok(Found::Nothing);
    }
    if let Err(error) = seal(&**file, stamp, end, frames, vouched) {
        tracing::warn!(segment = stamp.number, %error, "queue segment not sealed");
        segment.disk_bytes = size;
    }
    Ok(Found::Frames(segment))
}

fn seal(file: &dyn File, stamp: &Stamp, end: u64, frames: u32, vouched: u64) -> io::Result<()> {
    let mut mark = Vec::new();
    FrameHeader::end(frames, vouched).encode(stamp, end, &mut mark);
    file.write_at(&[IoSlice::new(&mark)], end)?;
    file.truncate(end + FRAME_HEADER)?;
    file.sync()
}

fn set_aside(fs: &dyn Filesystem, dir: &Path, number: u64, bytes: u64, why: &str, state: &mut State) {
    let name = segment_name(number);
    tracing::error!(segment = number, bytes, why, "queue damaged: segment set aside");
    state.damaged.segments += 1;
    state.damaged.bytes += bytes;
    if let Err(error) = fs.rename(&dir.join(&name), &dir.join(DAMAGED_DIR).join(&name)) {
        tracing::error!(segment = number, %error, "damaged segment stays where it is");
    }
    state.damaged_bytes += bytes;
}

fn read_cursors(fs: &dyn Filesystem, dir: &Path) -> Option<Saved> {
    let file = fs.open(&dir.join(CURSOR_FILE)).ok()?;
    let size = file.size().ok()?.min(CURSOR_LIMIT);
    let mut content = vec![0; usize::try_from(size).ok()?];
    let read = file.read_at(&mut content, 0).ok()?;
    Cursors::decode(&content[..read])
}

/// More than any set of sinks needs, bytes.
const CURSOR_LIMIT: u64 = 1 << 20;

/// No byte but zeros from `from` to `to`.
pub(super) fn is_zero(file: &dyn File, from: u64, to: u64) -> io::Result<bool> {
    let mut buf = vec![0; 256 << 10];
    let mut at = from;
    while at < to {
        let read = file.read_at(&mut buf, at)?;
        if read == 0 {
            break;
        }
        if buf[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}
