//! What of an entry goes into a record, and whose entry it is.
//!
//! Field names are systemd's (`systemd.journal-fields(7)`). A field that begins with `_` was set by journald and can be
//! trusted; others are what the program said.

use sonde_wire::attrs::{AttrSet, RecordAttrs, keys};
use sonde_wire::uid::{FileHash, RecordUid};

use super::format;
use crate::logs::record::{self, Body};
use crate::logs::redact;
use crate::logs::resource::Node;

/// Longest value of a field other than MESSAGE that is taken, bytes.
const VALUE: usize = 1024;
/// Further fields of a program that are taken.
const MOST_EXTRA: usize = 32;

/// The fields of one entry that are used; the buffers serve the next one.
#[derive(Debug, Default)]
pub struct Fields {
    message: Vec<u8>,
    message_len: u64,
    unit: String,
    unit_of_message: String,
    uid: String,
    pid: String,
    comm: String,
    host: String,
    transport: String,
    priority: String,
    identifier: String,
    facility: String,
    source_time: String,
    /// Name, value, and whether that is all of it.
    extra: Vec<(String, String, bool)>,
    has_message: bool,
}

/// Names that are not shown as `journald.*`: what journald adds itself for syslog's sake.
const LEFT_OUT: [&[u8]; 3] = [b"SYSLOG_RAW", b"SYSLOG_TIMESTAMP", b"SYSLOG_PID"];

/// How many bytes of a field's value are wanted.
pub fn wanted(name: &[u8], max_line: usize) -> usize {
    match name {
        b"MESSAGE" => max_line,
        b"_SYSTEMD_UNIT"
        | b"_UID"
        | b"_PID"
        | b"_COMM"
        | b"_HOSTNAME"
        | b"_TRANSPORT"
        | b"_SOURCE_REALTIME_TIMESTAMP" => VALUE,
        name if name.first() == Some(&b'_') || LEFT_OUT.contains(&name) => 0,
        _ => VALUE,
    }
}

impl Fields {
    /// Empty again.
    pub fn clear(&mut self) {
        self.message.clear();
        self.message_len = 0;
        self.has_message = false;
        self.extra.clear();
        for text in [
            &mut self.unit,
            &mut self.unit_of_message,
            &mut self.uid,
            &mut self.pid,
            &mut self.comm,
            &mut self.host,
            &mut self.transport,
            &mut self.priority,
            &mut self.identifier,
            &mut self.facility,
            &mut self.source_time,
        ] {
            text.clear();
        }
    }

    /// Takes a field. Of several with one name the first counts.
    pub fn take(&mut self, name: &[u8], value: &[u8], len: u64) {
        let target = match name {
            b"MESSAGE" => {
                if !self.has_message {
                    self.message.extend_from_slice(value);
                    (self.message_len, self.has_message) = (len, true);
                }
                return;
            }
            b"_SYSTEMD_UNIT" => &mut self.unit,
            // What systemd itself, or the keeper of core dumps, says of another unit.
            b"UNIT" | b"OBJECT_SYSTEMD_UNIT" | b"COREDUMP_UNIT" => &mut self.unit_of_message,
            b"_UID" => &mut self.uid,
            b"_PID" => &mut self.pid,
            b"_COMM" => &mut self.comm,
            b"_HOSTNAME" => &mut self.host,
            b"_TRANSPORT" => &mut self.transport,
            b"PRIORITY" => &mut self.priority,
            b"SYSLOG_IDENTIFIER" => &mut self.identifier,
            b"SYSLOG_FACILITY" => &mut self.facility,
            b"_SOURCE_REALTIME_TIMESTAMP" => &mut self.source_time,
            other => {
                if self.extra.len() < MOST_EXTRA {
                    let text = String::from_utf8_lossy(value).into_owned();
                    let is_whole = len <= value.len() as u64;
                    let name = format!("journald.{}", String::from_utf8_lossy(other));
                    self.extra.push((name, text, is_whole));
                }
                return;
            }
        };
        if target.is_empty() {
            target.push_str(&String::from_utf8_lossy(value));
        }
    }

    /// The unit that the entry is about, as `journalctl -u` has it: what root's processes (systemd, the keeper of core dumps)
    /// say of a unit is that unit's. Empty = none.
    pub fn unit(&self) -> &str {
        let is_about = !self.unit_of_message.is_empty() && self.uid == "0";
        if is_about { &self.unit_of_message } else { &self.unit }
    }

    /// Syslog's priority, 0 (emergency) to 7 (debug); 6 where there is none, as journald has it.
    pub fn priority(&self) -> u8 {
        match self.priority.as_bytes() {
            [digit @ b'0'..=b'7'] => digit - b'0',
            _ => 6,
        }
    }

    /// The ledger's name of the container: `journal:` and the unit.
    pub fn row(&self) -> String {
        match (self.unit(), self.transport.as_str()) {
            ("", "kernel") => "journal:kernel".to_owned(),
            ("", _) => OTHER.to_owned(),
            (unit, _) => format!("journal:{unit}"),
        }
    }

    /// What entries with the same resource have in common.
    pub fn resource_key(&self) -> (&str, &str, &str) {
        (&self.host, self.unit(), self.service())
    }

    /// The unit without its kind, or what stands in for it.
    fn service(&self) -> &str {
        match (self.unit(), self.transport.as_str()) {
            ("", "kernel") => "kernel",
            ("", _) if self.identifier.is_empty() => "journald",
            ("", _) => &self.identifier,
            (unit, _) => unit.rsplit_once('.').map_or(unit, |(stem, _)| stem),
        }
    }

    /// The attributes of the resource.
    pub fn resource(&self, node: &Node) -> AttrSet {
        let mut set = AttrSet::builder();
        if !node.cluster.is_empty() {
            set = set.str(keys::CLUSTER_NAME, &node.cluster);
        }
        set = set.str(keys::NODE_NAME, &node.name);
        if !self.host.is_empty() {
            set = set.str("host.name", &self.host);
        }
        if !self.unit().is_empty() {
            set = set.str("systemd.unit", self.unit());
        }
        set.str(keys::SERVICE_NAME, self.service()).build()
    }

    /// The message, cut at `max_line`.
    pub fn body(&self, kept: usize, max_line: usize) -> Body<'_> {
        let message = self.message.get(..kept).unwrap_or(&self.message);
        record::body(message, max_line, self.message_len > message.len() as u64)
    }

    /// How much of the message is sent: of one that was cut, where a rule may look for what the cut left of a secret, up to the
    /// last whole word.
    pub fn kept(&self, by_words: bool) -> usize {
        let is_cut = self.message_len > self.message.len() as u64;
        if is_cut && by_words { redact::without_last_word(&self.message) } else { self.message.len() }
    }

    /// Whether there is a message that could be read.
    pub fn has_message(&self) -> bool {
        self.has_message
    }

    /// Bytes of the message beyond those `kept`.
    pub fn cut(&self, kept: usize) -> u64 {
        self.message_len.saturating_sub(kept as u64)
    }

    /// When the program said it, or else when journald heard it, nanoseconds since the epoch.
    pub fn time_nanos(&self, entry: &format::Entry) -> u64 {
        let source = self.source_time.parse().ok().filter(|micros| *micros > 0);
        source.unwrap_or(entry.realtime).saturating_mul(1000)
    }

    /// The record's own attributes. `redact` sees what a program wrote itself; with `by_words` what was cut of that ends with a
    /// whole word, as the message does.
    pub fn attributes(
        &self,
        out: &mut RecordAttrs,
        by_words: bool,
        mut redact: impl FnMut(&str) -> Option<String>,
    ) {
        out.clear();
        for (key, value) in [("syslog.facility.code", &self.facility), ("process.pid", &self.pid)] {
            if let Ok(number) = value.parse() {
                out.int(key, number);
            }
        }
        for (key, value) in [
            ("process.executable.name", &self.comm),
            ("syslog.identifier", &self.identifier),
            ("systemd.transport", &self.transport),
        ] {
            if !value.is_empty() {
                out.str(key, value);
            }
        }
        for (at, (key, value, is_whole)) in self.extra.iter().enumerate() {
            // Of several with one name the first: keys must differ.
            if self.extra[..at].iter().all(|(before, ..)| before != key) {
                let kept = if *is_whole || !by_words {
                    value.len()
                } else {
                    redact::without_last_word(value.as_bytes())
                };
                let value = &value[..value.floor_char_boundary(kept)];
                out.str(key, redact(value).as_deref().unwrap_or(value));
            }
        }
    }
}

/// The row of entries without a unit, and of units beyond those that have a row.
pub const OTHER: &str = "journal:other";
/// The row of entries that `units` and `priority` leave out.
pub const LEFT_OUT_ROW: &str = "journal";

/// Severity number and text of syslog's priority (log data model, appendix B).
pub fn severity(priority: u8) -> (u8, &'static str) {
    match priority {
        0 => (21, "emerg"),
        1 => (19, "alert"),
        2 => (18, "crit"),
        3 => (17, "err"),
        4 => (13, "warning"),
        5 => (10, "notice"),
        6 => (9, "info"),
        _ => (5, "debug"),
    }
}

/// Severity of a line of Kubernetes' own programs (klog: `E1120 16:35:00.123456    1234 file.go:12] …`), whose priority in the
/// journal is that of everything on standard error.
pub fn klog(body: &str) -> Option<(u8, &'static str)> {
    let head: &[u8; 6] = body.as_bytes().first_chunk()?;
    let is_klog = head[1..5].iter().all(u8::is_ascii_digit) && head[5] == b' ';
    let found = match head[0] {
        b'I' => (9, "I"),
        b'W' => (13, "W"),
        b'E' => (17, "E"),
        b'F' => (21, "F"),
        _ => return None,
    };
    is_klog.then_some(found)
}

/// The record's name: a function of the journal's bytes. The digits of the file are of its own id and of what tells this
/// entry from any other (a journal that is set back to an older state, with its machine, gives its numbers again); those
/// of the offset are the sequence number. The formula never changes: stores hold these names.
pub fn uid(file_id: [u8; 16], entry: &format::Entry) -> RecordUid {
    let mut head = [0u8; 56];
    head[..16].copy_from_slice(&file_id);
    head[16..32].copy_from_slice(&entry.boot_id);
    head[32..40].copy_from_slice(&entry.realtime.to_le_bytes());
    head[40..48].copy_from_slice(&entry.monotonic.to_le_bytes());
    head[48..].copy_from_slice(&entry.xor_hash.to_le_bytes());
    RecordUid { file: FileHash::of_bytes("journal", &head), offset: entry.seqnum }
}
