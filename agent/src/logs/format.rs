//! How a log file's lines are written: one format a lineage, chosen once; the loop over a window's lines is compiled for
//! each of them.

use sonde_wire::logs::Stream;

use super::cri::{Clock, CriLine};
use super::docker;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// [`super::cri`].
    #[default]
    Cri,
    /// [`super::docker`].
    Docker,
    /// Each line is a body.
    Plain,
}

/// Reads lines of one format, in the order of the file.
pub trait Lines {
    /// The header of an entry (without its newline); none if it is not in the format.
    fn header(&mut self, entry: &[u8]) -> Option<CriLine>;
    /// The body of the entry whose header was read last.
    fn body<'a>(&'a mut self, entry: &'a [u8], header: &CriLine) -> &'a [u8];
}

/// Lines of a CRI runtime.
#[derive(Debug, Default)]
pub struct CriLines(Clock);

impl Lines for CriLines {
    #[inline]
    fn header(&mut self, entry: &[u8]) -> Option<CriLine> {
        self.0.parse(entry)
    }

    #[inline]
    fn body<'a>(&'a mut self, entry: &'a [u8], header: &CriLine) -> &'a [u8] {
        &entry[header.body..]
    }
}

/// Lines of Docker's json-file driver. Memory: one body in which something is escaped, at most [`docker::MAX_ENTRY`].
#[derive(Debug, Default)]
pub struct DockerLines {
    end: usize,
    escaped: bool,
    unescaped: Vec<u8>,
}

impl Lines for DockerLines {
    #[inline]
    fn header(&mut self, entry: &[u8]) -> Option<CriLine> {
        let line = docker::parse(entry)?;
        (self.end, self.escaped) = (line.end, line.escaped);
        Some(CriLine {
            time_unix_nano: line.time_unix_nano,
            stream: line.stream,
            partial: line.partial,
            body: line.start,
        })
    }

    #[inline]
    fn body<'a>(&'a mut self, entry: &'a [u8], header: &CriLine) -> &'a [u8] {
        let raw = entry.get(header.body..self.end).unwrap_or_default();
        if !self.escaped {
            return raw;
        }
        self.unescaped.clear();
        docker::unescape(raw, &mut self.unescaped);
        &self.unescaped
    }
}

/// Lines of a plain file: nobody says when they were written. Where a file was emptied under a writer that goes on at its old
/// place, there is a hole: NULs before the line are no part of it.
#[derive(Debug, Default)]
pub struct PlainLines;

impl Lines for PlainLines {
    #[inline]
    fn header(&mut self, entry: &[u8]) -> Option<CriLine> {
        Some(CriLine {
            time_unix_nano: 0,
            stream: Stream::Unknown,
            partial: false,
            body: entry.iter().take_while(|byte| **byte == 0).count(),
        })
    }

    #[inline]
    fn body<'a>(&'a mut self, entry: &'a [u8], header: &CriLine) -> &'a [u8] {
        entry.get(header.body..).unwrap_or_default()
    }
}

/// Lines of any format, where they are few: those of several entries, and of refused requests.
#[derive(Debug)]
pub enum AnyLines {
    /// See [`CriLines`].
    Cri(CriLines),
    /// See [`DockerLines`].
    Docker(DockerLines),
    /// See [`PlainLines`].
    Plain(PlainLines),
}

impl AnyLines {
    /// Whether NULs before a line are no part of it.
    pub fn has_holes(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// For a file of this format.
    pub fn new(format: Format) -> Self {
        match format {
            Format::Cri => Self::Cri(CriLines::default()),
            Format::Docker => Self::Docker(DockerLines::default()),
            Format::Plain => Self::Plain(PlainLines),
        }
    }

    /// Bytes of an entry, from its start, that its header takes at most; of a longer entry they do. Of
    /// Docker's the stamp is the last, so it is all of the entry.
    pub fn most_header(&self) -> usize {
        match self {
            Self::Cri(_) | Self::Plain(_) => super::cri::MAX_HEADER,
            Self::Docker(_) => docker::MAX_ENTRY + 1,
        }
    }
}

impl Lines for AnyLines {
    fn header(&mut self, entry: &[u8]) -> Option<CriLine> {
        match self {
            Self::Cri(lines) => lines.header(entry),
            Self::Docker(lines) => lines.header(entry),
            Self::Plain(lines) => lines.header(entry),
        }
    }

    fn body<'a>(&'a mut self, entry: &'a [u8], header: &CriLine) -> &'a [u8] {
        match self {
            Self::Cri(lines) => lines.body(entry, header),
            Self::Docker(lines) => lines.body(entry, header),
            Self::Plain(lines) => lines.body(entry, header),
        }
    }
}

/// The format of a file that begins with `head`: Docker's where its first entry is one, or is longer than what is there
/// and begins like one. Anything else is read as a runtime's.
pub fn of_head(head: &[u8]) -> Format {
    let is_docker = match memchr::memchr(b'\n', head) {
        Some(end) => docker::parse(&head[..end]).is_some(),
        None => head.starts_with(b"{\"log\":\""),
    };
    if is_docker { Format::Docker } else { Format::Cri }
}
