//! Writing an `ExportLogsServiceRequest`: one pass, no allocation a record.
//!
//! The lengths of `ResourceLogs` and `ScopeLogs` are not known when they begin; they are written as varints
//! of fixed width ([`proto::padded`](crate::proto::padded)) and patched when they end. A record's length is
//! known before its first byte. Fields are in the order that needs the fewest copies, not in that of their
//! numbers; parsers must take any order (encoding guide, "Message Structure").

use crate::attrs::AttrSet;
use crate::proto::{PADDED, bytes_field_len, padded, put_bytes, varint_len};
use crate::uid::{FileHash, OFFSET_HEX, RecordUid, UID_HEX};

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Not known (a line that is not in the runtime's format): `log.iostream` is left out.
    Unknown,
}

/// One record as contract section 4 describes it.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// The runtime's stamp, Unix nanoseconds; 0 = unknown.
    pub time_unix_nano: u64,
    /// When the agent read it, Unix nanoseconds.
    pub observed_time_unix_nano: u64,
    /// 1 to 24 of the log data model; anything else is unset and not written.
    pub severity_number: u8,
    /// The level as the source wrote it; not written when empty.
    pub severity_text: &'a str,
    /// The whole line.
    pub body: &'a str,
    /// W3C trace id.
    pub trace_id: Option<[u8; 16]>,
    /// W3C span id.
    pub span_id: Option<[u8; 8]>,
    /// Where the line was written to.
    pub stream: Stream,
    /// The record's name.
    pub uid: RecordUid,
    /// Cut at `max_line`.
    pub truncated: bool,
    /// Not in the runtime's format.
    pub malformed: bool,
    /// Further attributes, as [`RecordAttrs::bytes`](crate::attrs::RecordAttrs::bytes) has them; none of the keys above.
    pub attributes: &'a [u8],
}

impl LogRecord<'_> {
    /// By how many bytes [`LogEncoder::push`] makes the request longer; the first record of a `ResourceLogs`
    /// brings the bytes of the resource and up to 17 more.
    #[inline]
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        bytes_field_len(self.message_len())
    }

    /// Length of the message `LogRecord`.
    #[inline]
    const fn message_len(&self) -> usize {
        let mut len = TIMES + bytes_field_len(bytes_field_len(self.body.len())) + TAIL.len();
        if matches!(self.stream, Stream::Unknown) {
            len -= TAIL_UID;
        }
        if self.has_severity() {
            len += 2;
        }
        if !self.severity_text.is_empty() {
            len += bytes_field_len(self.severity_text.len());
        }
        if self.trace_id.is_some() {
            len += 2 + 16;
        }
        if self.span_id.is_some() {
            len += 2 + 8;
        }
        if self.truncated {
            len += TRUNCATED.len();
        }
        if self.malformed {
            len += MALFORMED.len();
        }
        len + self.attributes.len()
    }

    #[inline]
    const fn has_severity(&self) -> bool {
        matches!(self.severity_number, 1..=24)
    }
}

// Keys of the fields written here (logs.proto, common.proto). All lengths that are bytes below are one-byte
// varints.
const RESOURCE_LOGS: u8 = 0x0a; // ExportLogsServiceRequest.resource_logs = 1
const RESOURCE: u8 = 1; // ResourceLogs.resource
const SCOPE_LOGS: u8 = 0x12; // ResourceLogs.scope_logs = 2
const LOG_RECORDS: u8 = 0x12; // ScopeLogs.log_records = 2
const TIME: u8 = 0x09; // LogRecord.time_unix_nano = 1, fixed64
const SEVERITY_NUMBER: u8 = 0x10; // LogRecord.severity_number = 2
const SEVERITY_TEXT: u8 = 3; // LogRecord.severity_text
const BODY: u8 = 0x2a; // LogRecord.body = 5
const TRACE_ID: u8 = 0x4a; // LogRecord.trace_id = 9
const SPAN_ID: u8 = 0x52; // LogRecord.span_id = 10
const OBSERVED_TIME: u8 = 0x59; // LogRecord.observed_time_unix_nano = 11, fixed64
const STRING_VALUE: u8 = 0x0a; // AnyValue.string_value = 1

/// The two attributes of every record; stream and digits are patched into a copy.
const TAIL: [u8; 80] = *b"\x32\x18\x0a\x0clog.iostream\x12\x08\x0a\x06stdout\
    \x32\x34\x0a\x0elog.record.uid\x12\x22\x0a\x2000000000000000000000000000000000";
/// Where the name of the stream starts in [`TAIL`].
const TAIL_STREAM: usize = 20;
/// Where the attribute `log.record.uid` starts in [`TAIL`]; its digits are the last of it.
const TAIL_UID: usize = 26;

const TRUNCATED: [u8; 21] = *b"\x32\x13\x0a\x0dlog.truncated\x12\x02\x10\x01";
const MALFORMED: [u8; 21] = *b"\x32\x13\x0a\x0dlog.malformed\x12\x02\x10\x01";

/// Both times with their keys.
const TIMES: usize = 18;
/// Room for everything of a record before the text of its body: three keys and varints of a length each, the
/// times and the severity number; and what the last of these writes beyond its own end.
const HEAD: usize = (1 + 10) + TIMES + 2 + (1 + 10) + (1 + 10) + 8;
// Less than any record, so that the room for a record is room for this.
const _: () = assert!(HEAD <= TIMES + (TAIL.len() - TAIL_UID));
/// Lengths below are written as one word.
const SHORT_LEN: usize = 1 << 28;

/// The last `ResourceLogs` of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    /// Where it starts, key included.
    start: usize,
    /// Where the bytes of its resource start and end.
    attrs: (usize, usize),
    /// Where its records start.
    records: usize,
}

/// A point of the request to go back to, see [`LogEncoder::rewind`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    request: u64,
    len: usize,
    records: u32,
    last: Option<Last>,
}

/// Writes requests, one after the other, into one buffer.
///
/// Invariants: `buf` is a valid request but for the two lengths of `last`, which are right whenever it is not
/// `open`; an open one may have no record yet and is dropped if it never gets one.
#[derive(Debug, Default)]
pub struct LogEncoder {
    buf: Vec<u8>,
    capacity: usize,
    records: u32,
    last: Option<Last>,
    open: bool,
    request: u64,
    tail: Tail,
}

/// [`TAIL`] with the digits of the file that was named last.
#[derive(Debug)]
struct Tail {
    bytes: [u8; TAIL.len()],
    file: FileHash,
}

impl Default for Tail {
    fn default() -> Self {
        Self { bytes: TAIL, file: FileHash([0; 10]) }
    }
}

impl LogEncoder {
    /// With room for requests of `bytes`. A buffer grows, to twice its size, when a record does not fit:
    /// callers look at [`LogRecord::encoded_len`] first, or [rewind](Self::rewind).
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), capacity: bytes, ..Self::default() }
    }

    /// The records that follow belong to `resource`. Goes on in the request's last `ResourceLogs` if its
    /// resource has the same bytes, open or closed; otherwise closes that and begins a new one with one
    /// `ScopeLogs` without a scope.
    pub fn open(&mut self, resource: &AttrSet) {
        if let Some(last) = self.last
            && self.buf.get(last.attrs.0..last.attrs.1) == Some(resource.bytes())
        {
            self.open = true;
            return;
        }
        self.begin(resource.bytes());
    }

    fn begin(&mut self, resource: &[u8]) {
        self.close();
        if self.buf.capacity() == 0 {
            self.buf.reserve(self.capacity);
        }
        let start = self.buf.len();
        self.buf.push(RESOURCE_LOGS);
        self.buf.extend_from_slice(&padded(0));
        put_bytes(&mut self.buf, RESOURCE, resource);
        let attrs = (self.buf.len() - resource.len(), self.buf.len());
        self.buf.push(SCOPE_LOGS);
        self.buf.extend_from_slice(&padded(0));
        self.last = Some(Last { start, attrs, records: self.buf.len() });
        self.open = true;
    }

    /// Adds a record to what is open; with nothing open, to a new `ResourceLogs` with an empty resource.
    #[inline]
    pub fn push(&mut self, record: &LogRecord<'_>) {
        if !self.open {
            self.begin(&[]);
        }
        let len = record.message_len();
        self.buf.reserve(bytes_field_len(len));
        self.push_head(record, len);
        self.buf.extend_from_slice(record.body.as_bytes());
        self.push_tail(record);
        self.push_optional(record);
        self.records += 1;
    }

    /// Everything before the text of the body. Written in place: what is stored in small parts and copied at once stalls
    /// the copy until the parts have arrived.
    #[inline]
    fn push_head(&mut self, record: &LogRecord<'_>, len: usize) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; HEAD]);
        let Some(head) = self.buf.last_chunk_mut::<HEAD>() else { return };
        let mut at = head_len(head, 0, LOG_RECORDS, len);
        head[at] = TIME;
        head[at + 1..at + 9].copy_from_slice(&record.time_unix_nano.to_le_bytes());
        head[at + 9] = OBSERVED_TIME;
        head[at + 10..at + 18].copy_from_slice(&record.observed_time_unix_nano.to_le_bytes());
        at += TIMES;
        if record.has_severity() {
            head[at] = SEVERITY_NUMBER;
            head[at + 1] = record.severity_number;
            at += 2;
        }
        at = head_len(head, at, BODY, bytes_field_len(record.body.len()));
        at = head_len(head, at, STRING_VALUE, record.body.len());
        self.buf.truncate(start + at);
    }

    /// The attributes that every record has.
    #[inline]
    fn push_tail(&mut self, record: &LogRecord<'_>) {
        if self.tail.file != record.uid.file {
            self.tail.file = record.uid.file;
            if let Some(hex) = self.tail.bytes.last_chunk_mut::<UID_HEX>() {
                record.uid.write_hex(hex);
            }
        }
        let start = self.buf.len();
        if record.stream == Stream::Unknown {
            self.buf.extend_from_slice(&self.tail.bytes[TAIL_UID..]);
        } else {
            self.buf.extend_from_slice(&self.tail.bytes);
        }
        if record.stream == Stream::Stderr
            && let Some(name) = self.buf.get_mut(start + TAIL_STREAM..start + TAIL_UID)
        {
            name.copy_from_slice(b"stderr");
        }
        if let Some(offset) = self.buf.last_chunk_mut::<OFFSET_HEX>() {
            *offset = record.uid.offset_hex();
        }
    }

    /// What few records have.
    #[inline]
    fn push_optional(&mut self, record: &LogRecord<'_>) {
        if !record.severity_text.is_empty() {
            put_bytes(&mut self.buf, SEVERITY_TEXT, record.severity_text.as_bytes());
        }
        if let Some(id) = record.trace_id {
            self.buf.extend_from_slice(&[TRACE_ID, 16]);
            self.buf.extend_from_slice(&id);
        }
        if let Some(id) = record.span_id {
            self.buf.extend_from_slice(&[SPAN_ID, 8]);
            self.buf.extend_from_slice(&id);
        }
        if record.truncated {
            self.buf.extend_from_slice(&TRUNCATED);
        }
        if record.malformed {
            self.buf.extend_from_slice(&MALFORMED);
        }
        self.buf.extend_from_slice(record.attributes);
    }

    /// Ends the open `ResourceLogs`, or drops it if it has no record. [`Self::open`], [`Self::finish`] and
    /// [`Self::take`] do it themselves.
    pub fn close(&mut self) {
        let Some(last) = self.last.filter(|_| self.open) else { return };
        self.open = false;
        if self.buf.len() == last.records {
            self.buf.truncate(last.start);
            self.last = None;
            return;
        }
        let end = self.buf.len();
        self.patch(last.start + 1, end);
        self.patch(last.records - PADDED, end);
    }

    /// Writes at `at` the length of what lies between the length itself and `end`.
    fn patch(&mut self, at: usize, end: usize) {
        if let Some(bytes) = self.buf.get_mut(at..at + PADDED) {
            bytes.copy_from_slice(&padded(end - at - PADDED));
        }
    }

    /// Length of the request as [`Self::take`] would return it now, bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match self.last {
            Some(last) if self.buf.len() == last.records => last.start,
            _ => self.buf.len(),
        }
    }

    /// No records yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records in the request.
    #[inline]
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records
    }

    /// This point of the request, for [`Self::rewind`].
    #[inline]
    #[must_use]
    pub fn mark(&self) -> Mark {
        let len = self.len();
        let last = if len == self.buf.len() { self.last } else { None };
        Mark { request: self.request, len, records: self.records, last }
    }

    /// Drops everything written since `mark` and leaves nothing open: [`Self::open`] comes before the next
    /// push, and goes on in the `ResourceLogs` of then if it names the same resource. A mark serves until the
    /// request is taken or cleared, or rewound to an earlier mark. Returns false, and changes nothing, for a
    /// mark of another request or beyond the end.
    pub fn rewind(&mut self, mark: &Mark) -> bool {
        if mark.request != self.request || mark.len > self.buf.len() {
            return false;
        }
        self.buf.truncate(mark.len);
        self.records = mark.records;
        self.last = mark.last;
        self.open = self.last.is_some();
        self.close();
        true
    }

    /// The request, complete. To be followed by [`Self::clear`] when it has been used; the buffer stays.
    #[must_use]
    pub fn finish(&mut self) -> &[u8] {
        self.close();
        &self.buf
    }

    /// The request, complete, with its buffer; the next one gets a new buffer of the first capacity.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.replace(Vec::new())
    }

    /// The request, complete, with its buffer; the next one goes into `next`, whose contents are dropped.
    #[must_use]
    pub fn replace(&mut self, next: Vec<u8>) -> Vec<u8> {
        self.close();
        let request = std::mem::replace(&mut self.buf, next);
        self.clear();
        request
    }

    /// Drops everything; the buffer stays.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.records = 0;
        self.last = None;
        self.open = false;
        self.request += 1;
    }
}

/// Writes a key and a length into `head` at `at`; returns the position behind. May write up to eight bytes behind that.
#[inline]
fn head_len(head: &mut [u8; HEAD], at: usize, key: u8, len: usize) -> usize {
    head[at] = key;
    let (at, bytes) = (at + 1, varint_len(len as u64));
    if len < SHORT_LEN {
        // Groups of seven bits, each in a byte, all but the last marked.
        let len = len as u64;
        let groups = len & 0x7f | (len & 0x3f80) << 1 | (len & 0x1f_c000) << 2 | (len & 0xfe0_0000) << 3;
        let marks = 0x8080_8080 & ((1 << (8 * (bytes - 1))) - 1);
        head[at..at + 8].copy_from_slice(&(groups | marks).to_le_bytes());
    } else {
        for (nth, byte) in head[at..at + bytes].iter_mut().enumerate() {
            let mark = if nth + 1 < bytes { 0x80 } else { 0 };
            *byte = (len >> (7 * nth)).to_le_bytes()[0] & 0x7f | mark;
        }
    }
    at + bytes
}

#[cfg(test)]
mod tests;
