//! The distinct tokens of a block's bodies, as the text that the index gets.

use std::hash::{BuildHasher, RandomState};

use super::text;

/// Slots at first, and what is kept of them from block to block.
const SLOTS: usize = 1 << 10;
const SLOTS_KEPT: usize = 1 << 16;

/// Collects distinct tokens. They lie one after the other in the text itself; beside it is a table of where.
pub struct Words {
    /// The distinct tokens, a space behind each.
    joined: String,
    /// Open addressing with linear probing, a power of two long and at most half full.
    slots: Vec<Slot>,
    count: usize,
    /// Keeps whoever writes logs from choosing tokens that collide.
    keys: [u64; 2],
    folded: String,
}

/// Where a token is; `len` 0 = nowhere.
#[derive(Clone, Copy, Default)]
struct Slot {
    start: usize,
    hash: u32,
    len: u32,
}

impl Default for Words {
    fn default() -> Self {
        let random = RandomState::new();
        let keys = [random.hash_one(1), random.hash_one(2) | 1];
        Self {
            joined: String::new(),
            slots: vec![Slot::default(); SLOTS],
            count: 0,
            keys,
            folded: String::new(),
        }
    }
}

impl Words {
    /// Adds the tokens of a body; one that is not UTF-8 (stored ones are) has none.
    pub fn add(&mut self, body: &[u8]) {
        let Ok(body) = std::str::from_utf8(body) else { return };
        let mut folded = std::mem::take(&mut self.folded);
        folded.clear();
        text::fold_into(body, &mut folded);
        if folded.is_ascii() {
            // As `text::tokens`, over bytes.
            let mut start = 0;
            for (at, byte) in folded.bytes().enumerate() {
                if !byte.is_ascii_alphanumeric() {
                    self.insert(&folded[start..at]);
                    start = at + 1;
                }
            }
            self.insert(&folded[start..]);
        } else {
            text::tokens(&folded).for_each(|token| self.insert(token));
        }
        // One huge body must not keep its size for ever.
        folded.shrink_to(SLOTS_KEPT);
        self.folded = folded;
    }

    /// The distinct tokens with a space behind each; from here on there are none.
    pub fn take(&mut self) -> String {
        self.slots.truncate(SLOTS_KEPT);
        self.slots.shrink_to_fit();
        self.slots.fill(Slot::default());
        self.count = 0;
        let joined = std::mem::take(&mut self.joined);
        self.joined.reserve(joined.len().min(SLOTS_KEPT));
        joined
    }

    fn insert(&mut self, token: &str) {
        let token = text::cut(token);
        if token.is_empty() {
            return;
        }
        let hash = self.hash(token.as_bytes());
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.len == 0 {
                break;
            }
            let held = self.joined.as_bytes().get(slot.start..slot.start + slot.len as usize);
            if slot.hash == hash && held == Some(token.as_bytes()) {
                return;
            }
            at = (at + 1) & mask;
        }
        // Cut: at most 64 bytes.
        let len = u32::try_from(token.len()).unwrap_or(u32::MAX);
        self.slots[at] = Slot { start: self.joined.len(), hash, len };
        self.joined.push_str(token);
        self.joined.push(' ');
        self.count += 1;
        if self.count * 2 > self.slots.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let larger = vec![Slot::default(); self.slots.len() * 2];
        let mask = larger.len() - 1;
        let old = std::mem::replace(&mut self.slots, larger);
        for slot in old.into_iter().filter(|slot| slot.len > 0) {
            let mut at = slot.hash as usize & mask;
            while self.slots[at].len > 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }

    /// Eight bytes at a time, multiplied and folded, as in wyhash.
    fn hash(&self, token: &[u8]) -> u32 {
        let [start, key] = self.keys;
        let mix = |hash: u64, word: u64| {
            let product = u128::from(hash ^ word) * u128::from(key);
            // Both halves, each cut off on purpose.
            #[allow(clippy::cast_possible_truncation)]
            let folded = product as u64 ^ (product >> 64) as u64;
            folded
        };
        let (words, rest) = token.as_chunks::<8>();
        let mut hash =
            words.iter().fold(start ^ token.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = mix(hash, u64::from_le_bytes(last));
        // The upper half is as well mixed as the lower.
        #[allow(clippy::cast_possible_truncation)]
        let upper = (hash >> 32) as u32;
        upper
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn plain(bodies: &[String]) -> BTreeSet<String> {
        let mut tokens = BTreeSet::new();
        for body in bodies {
            let mut folded = String::new();
            text::fold_into(body, &mut folded);
            tokens.extend(text::tokens(&folded).map(|token| text::cut(token).to_owned()));
        }
        tokens
    }

    fn check(words: &mut Words, bodies: &[String]) {
        bodies.iter().for_each(|body| words.add(body.as_bytes()));
        let joined = words.take();
        let got: Vec<&str> = joined.split_terminator(' ').collect();
        let distinct: BTreeSet<String> = got.iter().map(|&token| token.to_owned()).collect();
        assert_eq!(distinct.len(), got.len(), "each once");
        assert_eq!(distinct, plain(bodies));
    }

    #[test]
    fn many_tokens_are_each_held_once_and_the_next_block_begins_empty() {
        let mut words = Words::default();
        let many: Vec<String> = (0..200_000).map(|n| format!("token{} x-{}", n % 70_000, n / 2)).collect();
        check(&mut words, &many);
        check(&mut words, &["a b".to_owned()]);
        check(&mut words, &[]);
        check(&mut words, &["x".repeat(100_000), "é".repeat(50)]);
    }

    proptest! {
        #[test]
        fn they_are_the_tokens_of_the_text(bodies: Vec<String>, ascii in prop::collection::vec("[ -~]{0,40}", 0..20)) {
            let mut words = Words::default();
            check(&mut words, &bodies);
            check(&mut words, &ascii);
        }
    }
}
