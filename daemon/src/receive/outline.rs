//! The outline of a request while its bytes arrive: is this a sequence of length-delimited `resource_logs` at all?
//!
//! Keeps three words and no bytes, so that a body of zeros, a nested archive, or a field that claims to be longer
//! than a request may be, is refused at its first bytes instead of after it was held in memory. What passes is
//! still checked in full (`sonde_wire::view::check`); this only says no early.
//!
//! Format: Protocol Buffers encoding, a varint key `(field << 3) | wire type`, then the value.

/// Why the bytes cannot be a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutlineError {
    /// A varint of more than ten bytes.
    #[error("a varint at byte {0} is longer than ten bytes")]
    Varint(u64),
    /// Field number 0, or a wire type that does not exist.
    #[error("the key at byte {0} is not a protobuf field")]
    Key(u64),
    /// A field that ends behind the request's end.
    #[error("a field at byte {0} is longer than the request")]
    Beyond(u64),
    /// A field that alone is longer than the largest request.
    #[error("a field at byte {0} is longer than the largest request")]
    TooLarge(u64),
}

/// The scan. Feed it bytes in order, in pieces of any size.
#[derive(Clone, Debug)]
pub struct Outline {
    state: State,
    /// Bytes seen.
    at: u64,
    /// The size of the whole request where it is known.
    known: Option<u64>,
    /// The largest request.
    limit: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Key { value: u64, shift: u32 },
    Varint { length: u32 },
    Length { value: u64, shift: u32 },
    Skip { left: u64 },
}

impl State {
    const START: Self = Self::Key { value: 0, shift: 0 };
}

impl Outline {
    /// The outline of a request of `known` bytes, or of at most `limit`.
    pub fn new(known: Option<u64>, limit: u64) -> Self {
        Self { state: State::START, at: 0, known, limit }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), OutlineError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Skip { left } = self.state {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.at += take as u64;
                bytes = &bytes[take..];
                let left = left - take as u64;
                self.state = if left == 0 { State::START } else { State::Skip { left } };
                continue;
            }
            self.step(byte)?;
            self.at += 1;
            bytes = rest;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), OutlineError> {
        let last = byte & 0x80 == 0;
        let bits = u64::from(byte & 0x7f);
        self.state = match self.state {
            State::Key { shift: 70.., .. }
            | State::Length { shift: 70.., .. }
            | State::Varint { length: 10.. } => {
                return Err(OutlineError::Varint(self.at));
            }
            State::Key { value, shift } => {
                let value = value | bits.checked_shl(shift).unwrap_or(0);
                if last { self.key(value)? } else { State::Key { value, shift: shift + 7 } }
            }
            State::Varint { .. } if last => State::START,
            State::Varint { length } => State::Varint { length: length + 1 },
            State::Length { value, shift } => {
                let value = value | bits.checked_shl(shift).unwrap_or(0);
                if last { self.skip(value)? } else { State::Length { value, shift: shift + 7 } }
            }
            State::Skip { left } => State::Skip { left },
        };
        Ok(())
    }

    fn key(&self, key: u64) -> Result<State, OutlineError> {
        if key >> 3 == 0 || key >> 3 > (1 << 29) - 1 {
            return Err(OutlineError::Key(self.at));
        }
        match key & 7 {
            0 => Ok(State::Varint { length: 0 }),
            1 => self.skip(8),
            2 => Ok(State::Length { value: 0, shift: 0 }),
            5 => self.skip(4),
            _ => Err(OutlineError::Key(self.at)),
        }
    }

    fn skip(&self, left: u64) -> Result<State, OutlineError> {
        let end = (self.at + 1).saturating_add(left);
        // No protobuf message is 2 GiB long, so such a length is noise and not a size.
        if left >= 1 << 31 || self.known.is_some_and(|known| end > known) {
            return Err(OutlineError::Beyond(self.at));
        }
        if end > self.limit {
            return Err(OutlineError::TooLarge(self.at));
        }
        Ok(if left == 0 { State::START } else { State::Skip { left } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_and_archives_fail_at_their_first_bytes() {
        for bytes in [&[0u8; 8][..], &[0x1f, 0x8b, 8, 0], b"{\"resourceLogs\":[]}", &[0xff; 11]] {
            let mut outline = Outline::new(None, 1 << 20);
            assert!(outline.push(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn a_field_may_end_exactly_at_the_end_and_not_behind_it() {
        assert_eq!(Outline::new(Some(4), 100).push(&[0x0a, 2, 0, 0]), Ok(()));
        assert_eq!(Outline::new(Some(4), 100).push(&[0x0a, 3]), Err(OutlineError::Beyond(1)));
        assert_eq!(Outline::new(None, 100).push(&[0x0a, 99]), Err(OutlineError::TooLarge(1)));
        assert!(matches!(Outline::new(None, 100).push(&[0x0a; 1]), Ok(())));
        assert!(matches!(Outline::new(None, 100).push(&[0xff; 12]), Err(OutlineError::Varint(10))));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(bytes.len());
            let whole = Outline::new(None, 1000).push(&bytes);
            let mut pieces = Outline::new(None, 1000);
            let parts = pieces.push(&bytes[..cut]).and_then(|()| pieces.push(&bytes[cut..]));
            prop_assert_eq!(whole, parts);
        }
    }
}
