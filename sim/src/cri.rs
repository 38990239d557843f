//! The CRI log format as containerd writes it: `<stamp> <stream> <tag> <content>\n`.

use crate::clock::Clock;

/// Most content bytes of one entry; a longer line is cut into entries tagged `P`, the last one `F`.
pub const MAX_CONTENT_BYTES: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Stdout => Self::Stderr,
            Self::Stderr => Self::Stdout,
        }
    }
}

/// Appends one line as one or more entries and says how many.
pub(crate) fn append_line(out: &mut Vec<u8>, clock: &mut Clock, stream: Stream, line: &[u8]) -> u64 {
    let mut entries = 0;
    for (content, last) in fragments(line) {
        append_entry(out, clock, stream, content, last);
        entries += 1;
    }
    entries
}

/// Appends two lines of different streams with their entries alternating, as two pipes that fill at once are read.
pub(crate) fn append_interleaved(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    first: (Stream, &[u8]),
    second: (Stream, &[u8]),
) -> u64 {
    let (mut a, mut b) = (fragments(first.1), fragments(second.1));
    let mut entries = 0;
    loop {
        let (left, right) = (a.next(), b.next());
        if left.is_none() && right.is_none() {
            return entries;
        }
        for (stream, fragment) in [(first.0, left), (second.0, right)] {
            if let Some((content, last)) = fragment {
                append_entry(out, clock, stream, content, last);
                entries += 1;
            }
        }
    }
}

fn append_entry(out: &mut Vec<u8>, clock: &mut Clock, stream: Stream, content: &[u8], last: bool) {
    clock.append_stamp(out);
    out.push(b' ');
    out.extend_from_slice(stream.name());
    out.extend_from_slice(if last { b" F " } else { b" P " });
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// Cuts a line; an empty line is one empty fragment, 16384 bytes are one, 16385 are two.
fn fragments(line: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let count = line.len().div_ceil(MAX_CONTENT_BYTES).max(1);
    (0..count).map(move |index| {
        let end = line.len().min((index + 1) * MAX_CONTENT_BYTES);
        (&line[index * MAX_CONTENT_BYTES..end], index + 1 == count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(length: usize) -> Vec<(usize, bool)> {
        let line = vec![b'x'; length];
        fragments(&line).map(|(content, last)| (content.len(), last)).collect()
    }

    #[test]
    fn lines_are_cut_where_containerd_cuts_them() {
        assert_eq!(shape(0), [(0, true)]);
        assert_eq!(shape(16_384), [(16_384, true)]);
        assert_eq!(shape(16_385), [(16_384, false), (1, true)]);
        assert_eq!(shape(32_768), [(16_384, false), (16_384, true)]);
        assert_eq!(shape(40_000), [(16_384, false), (16_384, false), (7232, true)]);
    }

    #[test]
    fn an_empty_line_keeps_the_space_after_its_tag() {
        let mut out = Vec::new();
        assert_eq!(append_line(&mut out, &mut Clock::default(), Stream::Stderr, b""), 1);
        assert!(out.ends_with(b"Z stderr F \n"), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn interleaved_fragments_keep_their_streams() {
        let mut out = Vec::new();
        let (long, longer) = (vec![b'a'; 20_000], vec![b'b'; 40_000]);
        append_interleaved(
            &mut out,
            &mut Clock::default(),
            (Stream::Stdout, &long),
            (Stream::Stderr, &longer),
        );
        let tags: Vec<String> = out
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                String::from_utf8_lossy(line).split(' ').skip(1).take(2).collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(tags, ["stdout P", "stderr P", "stdout F", "stderr P", "stderr F"]);
    }
}
