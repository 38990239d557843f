//! Request buffers that come back to whoever fills them.
//!
//! A buffer of a mebibyte is mapped when it is allocated and unmapped when it is freed, and each of its pages faults
//! once in between: as much work as to read the log lines that it holds.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Spare buffers; clones share them.
#[derive(Clone, Debug)]
pub struct Buffers {
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    kept: usize,
    largest: usize,
}

impl Buffers {
    /// Keeps at most `kept` spare buffers, none with a capacity above `largest` bytes.
    pub fn new(kept: usize, largest: usize) -> Self {
        Self { spare: Arc::default(), kept, largest }
    }

    /// An empty buffer, with the capacity of one that came back if there is one.
    pub fn take(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Lends a filled buffer out; it comes back when the last clone of the result is dropped.
    pub fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, home: self.clone() })
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.kept && bytes.capacity() <= self.largest {
            bytes.clear();
            spare.push(bytes);
        }
    }
}

struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_looks_at_it_any_more() {
        let buffers = Buffers::new(1, 100);
        let mut first = Vec::with_capacity(64);
        first.extend_from_slice(b"abc");
        let lent = buffers.lend(first);
        let part = lent.slice(1..);
        drop(lent);
        assert_eq!((&part[..], buffers.take().capacity()), (&b"bc"[..], 0));
        drop(part);
        let back = buffers.take();
        assert!(back.is_empty() && back.capacity() == 64);
    }

    #[test]
    fn no_more_and_no_larger_ones_are_kept_than_agreed() {
        let buffers = Buffers::new(1, 100);
        for capacity in [101, 50, 60] {
            drop(buffers.lend(Vec::with_capacity(capacity)));
        }
        assert_eq!((buffers.take().capacity(), buffers.take().capacity()), (50, 0));
    }
}
