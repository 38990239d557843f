//! The only one that appends: a thread that takes all requests that wait, writes them with one system call, makes
//! them durable with one fsync and then answers them. While it does, the next ones gather.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sonde_daemon::receive::admission::Grant;
use tokio::sync::{mpsc, oneshot};

use super::fs::File;
use super::segment::{FRAME_HEADER, FRAME_HEADER_LEN, FrameHeader, SEGMENT_HEADER, Stamp};
use super::state::{DAMAGED_DIR, Segment, Shared, Wake};
use super::{AppendError, Frame, FullReason, Position};

/// Frames of one write and fsync.
const BATCH_FRAMES: usize = 512;
/// Payload bytes after which a batch takes no further frame.
const BATCH_BYTES: u64 = 16 << 20;
/// How often a state that lasts is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What the writer is sent.
pub(super) enum Message {
    Append(Request),
    Close,
}

/// A frame that waits to be durable.
pub(super) struct Request {
    pub header: FrameHeader,
    pub frame: Frame,
    /// The memory that covers the frame.
    pub grant: Option<Arc<Grant>>,
    pub answer: oneshot::Sender<Result<Position, AppendError>>,
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
    headers: Vec<u8>,
    failing: Option<Instant>,
}

/// The segment that is appended to. Between batches all of it up to `offset` is durable.
struct Active {
    stamp: Stamp,
    file: Arc<dyn File>,
    offset: u64,
    capacity: u64,
    frames: u32,
    /// The space is ours already; a volume that fills up does not matter.
    reserved: bool,
}

impl Writer {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, active: None, headers: Vec::new(), failing: None }
    }

    /// Serves until told to close or until no sender is left.
    pub fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = VecDeque::new();
        let mut open = true;
        while open {
            let mut message = messages.blocking_recv();
            let mut bytes = 0;
            loop {
                match message {
                    Some(Message::Append(request)) => {
                        bytes += u64::from(request.header.len);
                        batch.push_back(request);
                    }
                    Some(Message::Close) | None => {
                        open = false;
                        break;
                    }
                }
                if batch.len() >= BATCH_FRAMES || bytes >= BATCH_BYTES {
                    break;
                }
                match messages.try_recv() {
                    Ok(next) => message = Some(next),
                    Err(_) => break,
                }
            }
            self.commit(&mut batch);
        }
        self.finish();
    }

    /// Makes a batch durable and answers all of it.
    pub fn commit(&mut self, batch: &mut VecDeque<Request>) {
        while let Some(first) = batch.front() {
            let need = FRAME_HEADER + u64::from(first.header.len);
            let done = match self.make_room(need) {
                Ok(()) => {
                    let fitting = self.fitting(batch);
                    self.append(batch.drain(..fitting).collect())
                }
                Err(error) => {
                    // A smaller frame may still fit; a disk that fails is not asked again for each frame.
                    self.note(&error);
                    let refused = if matches!(error, AppendError::Disk(_)) { batch.len() } else { 1 };
                    batch.drain(..refused).for_each(|request| request.refuse(&error));
                    Err(error)
                }
            };
            self.say(&done);
        }
    }

    /// Seals the segment and tells readers and keeper that nothing more comes.
    pub fn finish(&mut self) {
        if let Some(active) = self.active.take() {
            self.seal(&active);
        }
        self.shared.state().closed = true;
        self.shared.end.send_modify(|_| {});
        self.shared.wake(Wake::Stop);
    }

    /// A segment with room for `need` bytes.
    fn make_room(&mut self, need: u64) -> Result<(), AppendError> {
        let floor = self.shared.state().floor;
        if let Some(active) = &self.active
            && active.stamp.number == floor
            && active.offset + need + FRAME_HEADER <= active.capacity
        {
            return if active.reserved { Ok(()) } else { self.check_free(need) };
        }
        let capacity = self.shared.options.segment_bytes.max(SEGMENT_HEADER + need + FRAME_HEADER);
        let slack = self.active.as_ref().map_or(0, |active| active.capacity - active.offset - FRAME_HEADER);
        let used = self.shared.state().disk_bytes() - slack;
        if used + capacity > self.shared.options.max_bytes {
            return Err(AppendError::Full(FullReason::Budget));
        }
        // Somebody may have deleted it.
        for dir in [self.shared.dir.clone(), self.shared.dir.join(DAMAGED_DIR)] {
            self.shared.fs.create_dir_all(&dir)?;
        }
        let freed = if self.active.as_ref().is_some_and(|active| active.reserved) { slack } else { 0 };
        self.check_free(capacity.saturating_sub(freed))?;
        if let Some(active) = self.active.take() {
            self.seal(&active);
            // It may not have been cut.
            if self.shared.state().disk_bytes() + capacity > self.shared.options.max_bytes {
                return Err(AppendError::Full(FullReason::Budget));
            }
        }
        self.active = Some(self.begin(capacity).map_err(AppendError::from)?);
        Ok(())
    }

    /// Refuses what would leave less free than asked for.
    fn check_free(&self, bytes: u64) -> Result<(), AppendError> {
        let space = self.shared.fs.space(&self.shared.dir)?;
        let keep = self.shared.options.min_free.of(space.total);
        if space.available < keep.saturating_add(bytes) {
            return Err(AppendError::Full(FullReason::MinFree));
        }
        Ok(())
    }

    /// Begins the next segment; once this returns, its header and its name are durable.
    fn begin(&self, capacity: u64) -> io::Result<Active> {
        let shared = &self.shared;
        let created_unix_nano = shared.now_unix_nano();
        let number = {
            let mut state = shared.state();
            // Also when all files are lost and nothing is known: time goes on.
            state.floor = (state.floor + 1).max(created_unix_nano / 1_000_000);
            state.floor
        };
        let stamp = Stamp { number, salt: RandomState::new().hash_one(number), created_unix_nano };
        let path = shared.segment_path(number);
        let prepare = |file: &dyn File| -> io::Result<bool> {
            let reserved = file.reserve(capacity)?;
            file.write_at(&[IoSlice::new(&stamp.encode())], 0)?;
            file.sync()?;
            shared.fs.sync_dir(&shared.dir)?;
            Ok(reserved)
        };
        let file = shared.fs.create(&path)?;
        let prepared = prepare(&*file);
        // Also one that is not usable: it takes space until the keeper has deleted it.
        let mut segment = Segment::sealed(stamp, SEGMENT_HEADER, u64::MAX);
        (segment.disk_bytes, segment.active) = (capacity, prepared.is_ok());
        let mut state = shared.state();
        state.segments.insert(number, segment);
        state.cursors.mark_changed();
        drop(state);
        let reserved = prepared?;
        Ok(Active { stamp, file, offset: SEGMENT_HEADER, capacity, frames: 0, reserved })
    }

    /// How many requests at the front fit into the segment.
    fn fitting(&self, batch: &VecDeque<Request>) -> usize {
        let Some(active) = &self.active else { return 0 };
        let mut end = active.offset + FRAME_HEADER;
        let fits = |request: &&Request| {
            end += FRAME_HEADER + u64::from(request.header.len);
            end <= active.capacity
        };
        batch.iter().take_while(fits).count()
    }

    /// Writes requests that fit, syncs, answers. On an error the segment is given up.
    fn append(&mut self, requests: Vec<Request>) -> Result<(), AppendError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let durable = active.offset;
        let mut positions = Vec::with_capacity(requests.len());
        let mut end = durable;
        self.headers.clear();
        for (sequence, request) in (active.frames..).zip(&requests) {
            let header = FrameHeader { sequence, durable, ..request.header };
            header.encode(&active.stamp, end, &mut self.headers);
            positions.push(Position { segment: active.stamp.number, offset: end });
            end += FRAME_HEADER + u64::from(header.len);
        }
        let mut parts = Vec::with_capacity(requests.len() * 2);
        for (header, request) in self.headers.chunks_exact(FRAME_HEADER_LEN).zip(&requests) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&request.frame.payload));
        }
        let file = &*active.file;
        let path = self.shared.segment_path(active.stamp.number);
        let written =
            file.write_at(&parts, durable).and_then(|()| file.sync()).and_then(|()| named(file, &path));
        drop(parts);
        if let Err(error) = written {
            let error = AppendError::from(error);
            self.abandon();
            self.note(&error);
            requests.into_iter().for_each(|request| request.refuse(&error));
            return Err(error);
        }
        active.offset = end;
        active.frames = active.frames.saturating_add(u32::try_from(requests.len()).unwrap_or(u32::MAX));
        let number = active.stamp.number;
        let mut state = self.shared.state();
        state.full = None;
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.end = end;
        }
        drop(state);
        self.shared.end.send_replace(Position { segment: number, offset: end });
        for (request, position) in requests.into_iter().zip(positions) {
            request.answer(Ok(position));
        }
        Ok(())
    }

    /// Ends a segment: marks the end and gives the rest of the reserved space back. This need not succeed for what is
    /// in it: a segment without its mark is walked at the next start.
    fn seal(&self, active: &Active) {
        let mut mark = Vec::new();
        FrameHeader::end(active.frames, active.offset).encode(&active.stamp, active.offset, &mut mark);
        let marked = active.file.write_at(&[IoSlice::new(&mark)], active.offset);
        self.retire(active, marked, active.offset + FRAME_HEADER);
    }

    /// Gives a segment up after a failed write or fsync: what the kernel says of its data from now on means nothing.
    /// What was acknowledged before stays readable.
    fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            self.retire(&active, Ok(()), active.offset);
        }
    }

    /// The segment is no longer appended to and takes `len` bytes, if it can be cut. The keeper deletes empty ones.
    fn retire(&self, active: &Active, before: io::Result<()>, len: u64) {
        let number = active.stamp.number;
        let cut = before.and_then(|()| active.file.truncate(len)).and_then(|()| active.file.sync());
        if let Err(error) = &cut {
            tracing::warn!(segment = number, %error, "queue segment not sealed");
        }
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.get_mut(&number) {
            segment.active = false;
            if cut.is_ok() {
                segment.disk_bytes = len;
            }
        }
        state.cursors.mark_changed();
    }

    /// Puts an error where `status` finds it, before anyone is told.
    fn note(&self, error: &AppendError) {
        let mut state = self.shared.state();
        match error {
            AppendError::Full(reason) => state.full = Some(*reason),
            _ => state.write_errors += 1,
        }
    }

    /// Says when it begins to fail, each minute that it does, and when it works again.
    fn say(&mut self, done: &Result<(), AppendError>) {
        let Err(error) = done else {
            if self.failing.take().is_some() {
                tracing::info!("queue accepts again");
            }
            return;
        };
        self.shared.wake(Wake::Now);
        if self.failing.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.failing = Some(Instant::now());
            tracing::warn!(dir = %self.shared.dir.display(), %error, "queue refuses requests");
        }
    }
}

/// An error where the file was deleted or moved away under us: synced or not, no later process finds what was written
/// to it.
fn named(file: &dyn File, path: &Path) -> io::Result<()> {
    if file.is_at(path)? {
        return Ok(());
    }
    let what = "a segment was deleted or moved away under the running collector";
    Err(io::Error::new(io::ErrorKind::NotFound, what))
}

impl Request {
    fn refuse(self, error: &AppendError) {
        self.answer(Err(error.clone()));
    }

    fn answer(self, result: Result<Position, AppendError>) {
        let Self { frame, grant, answer, .. } = self;
        drop(frame);
        drop(grant);
        // A sender that went away no longer wants to know.
        let _ = answer.send(result);
    }
}
