//! A stream of bytes cut into lines of bounded length.

use super::store::StoreError;

/// Longest line: the server keeps no object of more than 1.5 MiB (etcd's request limit), and JSON is longer than what it keeps.
const LONGEST: usize = 4 << 20;

/// Bytes that came and are not taken yet.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Of them, taken.
    taken: usize,
    /// Of the rest, searched.
    searched: usize,
}

impl Lines {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its end. Empty ones are passed over.
    ///
    /// # Errors
    /// What came has no end within [`LONGEST`] bytes.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let rest = &self.bytes[self.taken..];
            let Some(end) = memchr::memchr(b'\n', &rest[self.searched..]) else {
                self.searched = rest.len();
                return if rest.len() > LONGEST { Err(StoreError::Long) } else { Ok(None) };
            };
            let line = &rest[..self.searched + end];
            (self.taken, self.searched) = (self.taken + line.len() + 1, 0);
            if line.len() > LONGEST {
                return Err(StoreError::Long);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.to_vec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_the_bytes_come_the_lines_are_the_same(
            lines in prop::collection::vec("[a-z ]{0,20}", 0..20),
            cuts in prop::collection::vec(1usize..30, 1..20),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let (mut got, mut lines_of, mut rest) = (Vec::new(), Lines::default(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                lines_of.push(now);
                while let Some(line) = lines_of.next().unwrap() {
                    got.push(String::from_utf8(line).unwrap());
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let want: Vec<_> = lines.into_iter().filter(|line| !line.trim().is_empty()).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        for _ in 0..4 {
            lines.push(&[b'x'; 1 << 20]);
            assert_eq!(lines.next().unwrap(), None);
        }
        lines.push(b"x");
        assert!(lines.next().is_err());
    }
}
