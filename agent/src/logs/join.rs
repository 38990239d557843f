//! Fragments of one line, joined per stream: `P` entries up to their `F`, across the files of a lineage.
//!
//! An unfinished line is kept as the extents of its entries, never as bytes; whoever gets it back reads them again. How
//! many extents a line may have is bounded ([`most_extents`]), and where that bound cuts is a function of the files'
//! bytes and `max_line` alone.

use std::time::{Duration, Instant};

use sonde_wire::logs::Stream;

use super::tail::FileId;

/// Any line may have as many extents.
const FEW_EXTENTS: usize = 256;
/// Half of the smallest fragment that a runtime makes of a line that comes at once (CRI-O's conmon: 8 KiB, `STDIO_BUF_SIZE`;
/// containerd: 16 KiB, `defaultBufSize` of its CRI logger).
const SMALL_FRAGMENT: usize = 4 << 10;

/// Most extents of one line. Adjacent entries make one extent, so it takes as many turns between the two streams, or
/// files, in the middle of one line to get there. With fragments of [`SMALL_FRAGMENT`] and more no line within `max_line`
/// does; one of smaller fragments is cut after 256 turns or more, and marked. Memory is at most 2 x 24 bytes an extent a
/// container: 12 KiB with `max_line` of 1 MiB, 192 KiB with 16 MiB.
pub fn most_extents(max_line: usize) -> usize {
    (max_line.div_ceil(SMALL_FRAGMENT) + 1).max(FEW_EXTENTS)
}

/// How long a fragment waits for the rest of its line while nothing comes.
pub const MAX_WAIT: Duration = Duration::from_secs(5);

/// Whole entries of one line, in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// File.
    pub file: FileId,
    /// First byte.
    pub start: u64,
    /// One past the newline of the last entry.
    pub end: u64,
}

/// A line of more than one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its entries, in order.
    pub extents: Vec<Extent>,
    /// Stamp of the first one.
    pub time_unix_nano: u64,
    /// When the last one was read; of a line that ended, when the one before was.
    pub touched: Instant,
    /// Cut by [`most_extents`].
    pub cut: bool,
    /// Lines of it; more than one by a multi-line rule.
    pub lines: u32,
}

impl Joined {
    /// Bytes of its entries, headers included.
    pub fn bytes(&self) -> usize {
        let bytes = self.extents.iter().map(|extent| extent.end - extent.start).sum::<u64>();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// What an entry leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The line goes on.
    Held,
    /// The entry is a whole line by itself.
    Single,
    /// The entry ends a line of several.
    Whole(Joined),
}

/// The two unfinished lines of a lineage.
#[derive(Debug, Default)]
pub struct Joiner {
    open: [Option<Box<Joined>>; 2],
}

impl Joiner {
    /// Takes the next entry of a stream.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn push(
        &mut self,
        stream: Stream,
        partial: bool,
        time_unix_nano: u64,
        entry: Extent,
        most_extents: usize,
        now: Instant,
    ) -> Step {
        let slot = &mut self.open[index(stream)];
        if slot.is_none() && !partial {
            return Step::Single;
        }
        let joined = slot.get_or_insert_with(|| {
            Box::new(Joined {
                extents: Vec::with_capacity(1),
                time_unix_nano,
                touched: now,
                cut: false,
                lines: 1,
            })
        });
        match joined.extents.last_mut() {
            Some(last) if last.file == entry.file && last.end == entry.start => last.end = entry.end,
            _ => joined.extents.push(entry),
        }
        if partial && joined.extents.len() < most_extents {
            joined.touched = now;
            return Step::Held;
        }
        let cut = partial;
        match slot.take() {
            Some(joined) => Step::Whole(Joined { cut, ..*joined }),
            None => Step::Single,
        }
    }

    /// Ends the unfinished line of a stream where it is.
    pub fn take(&mut self, stream: Stream) -> Option<Joined> {
        self.open[index(stream)].take().map(|joined| *joined)
    }

    /// Takes back the entry that ended a line: the line goes on.
    pub fn put_back(&mut self, stream: Stream, mut line: Joined, entry: Extent) {
        match line.extents.last_mut() {
            Some(last) if last.start < entry.start => last.end = entry.start,
            _ => drop(line.extents.pop()),
        }
        line.cut = false;
        self.open[index(stream)] = (!line.extents.is_empty()).then(|| Box::new(line));
    }

    /// The same, if `is_cut`.
    #[inline]
    pub fn take_if(&mut self, stream: Stream, is_cut: bool) -> Option<Joined> {
        if is_cut { self.take(stream) } else { None }
    }

    /// The unfinished line of a stream.
    pub fn open(&self, stream: Stream) -> Option<&Joined> {
        self.open[index(stream)].as_deref()
    }

    /// Whether no line is unfinished.
    pub fn is_empty(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    /// Drops unfinished lines that have an entry in this file (its bytes are gone).
    pub fn forget(&mut self, file: FileId) {
        for slot in &mut self.open {
            if slot.as_ref().is_some_and(|joined| joined.extents.iter().any(|extent| extent.file == file)) {
                *slot = None;
            }
        }
    }

    /// Bytes kept on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.open
            .iter()
            .flatten()
            .map(|joined| size_of::<Joined>() + joined.extents.capacity() * size_of::<Extent>())
            .sum()
    }
}

/// Of the array of what is open by stream.
pub(super) fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout | Stream::Unknown => 0,
        Stream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of(entries: &[(bool, bool)]) -> Vec<Vec<usize>> {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        let mut lines = Vec::new();
        for (at, (stderr, partial)) in entries.iter().enumerate() {
            let stream = if *stderr { Stream::Stderr } else { Stream::Stdout };
            let at = at as u64;
            let entry = Extent { file: FileId(u32::from(at > 7)), start: at, end: at + 1 };
            match joiner.push(stream, *partial, at, entry, FEW_EXTENTS, now) {
                Step::Held => {}
                Step::Single => lines.push(vec![at as usize]),
                Step::Whole(joined) => {
                    assert_eq!(joined.time_unix_nano, joined.extents[0].start);
                    lines.push(
                        joined
                            .extents
                            .iter()
                            .flat_map(|extent| extent.start as usize..extent.end as usize)
                            .collect(),
                    );
                }
            }
        }
        lines
    }

    #[test]
    fn an_entry_of_the_other_stream_does_not_end_a_line() {
        assert_eq!(lines_of(&[(false, true), (true, false), (false, false)]), [vec![1], vec![0, 2]]);
    }

    #[test]
    fn a_line_with_too_many_turns_is_cut_and_says_so() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        for turn in 0..FEW_EXTENTS as u64 - 1 {
            let entry = Extent { file: FileId(0), start: 2 * turn, end: 2 * turn + 1 };
            assert_eq!(joiner.push(Stream::Stdout, true, 0, entry, FEW_EXTENTS, now), Step::Held);
        }
        let entry = Extent { file: FileId(1), start: 0, end: 1 };
        assert!(
            matches!(joiner.push(Stream::Stdout, true, 0, entry, FEW_EXTENTS, now), Step::Whole(joined) if joined.cut)
        );
        assert!(joiner.is_empty());
    }

    proptest! {
        #[test]
        fn lines_are_the_runs_of_each_stream_up_to_a_full_entry(entries in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..40)) {
            let mut expected = Vec::new();
            let mut open = [Vec::new(), Vec::new()];
            for (at, (stderr, partial)) in entries.iter().enumerate() {
                open[usize::from(*stderr)].push(at);
                if !partial {
                    expected.push(std::mem::take(&mut open[usize::from(*stderr)]));
                }
            }
            prop_assert_eq!(lines_of(&entries), expected);
        }
    }
}
