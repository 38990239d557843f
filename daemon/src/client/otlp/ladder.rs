//! `compression: auto`: zstd, and gzip or none where the receiver refuses it.
//!
//! No answer says for certain that only the compression is at fault, so a simpler one is tried with the same
//! request. What the receiver accepts is remembered for the life of the process. An encoding that was accepted
//! before is given up only where the receiver names it as the reason.

use super::Compression;
use super::packer::Encoding;
use super::verdict::EncodingDoubt;

/// Which encodings are tried and known to work.
#[derive(Debug)]
pub(super) struct Ladder {
    top: Encoding,
    auto: bool,
    accepted: Option<Encoding>,
    /// What the next probe is sent with, where the last one left it open whether its encoding was at fault.
    next_probe: Option<Encoding>,
}

impl Ladder {
    pub fn new(compression: Compression) -> Self {
        let top = match compression {
            Compression::Auto | Compression::Zstd => Encoding::Zstd,
            Compression::Gzip => Encoding::Gzip,
            Compression::None => Encoding::Identity,
        };
        Self { top, auto: compression == Compression::Auto, accepted: None, next_probe: None }
    }

    /// What the next request is packed with.
    pub fn encoding(&self) -> Encoding {
        self.accepted.unwrap_or(self.top)
    }

    /// What a probe is sent with: while a receiver holds us the encodings take turns, one a probe.
    pub fn probe(&mut self) -> Encoding {
        self.next_probe.take().unwrap_or_else(|| self.encoding())
    }

    /// The next probe is sent with this one.
    pub fn probe_next_with(&mut self, encoding: Encoding) {
        self.next_probe = Some(encoding);
    }

    /// What to try after a refusal of `sent`.
    pub fn simpler(&self, sent: Encoding, doubt: &EncodingDoubt) -> Option<Encoding> {
        if !self.auto {
            return None;
        }
        match doubt {
            EncodingDoubt::None => None,
            EncodingDoubt::Possible if self.accepted == Some(sent) => None,
            EncodingDoubt::Possible => sent.simpler(),
            EncodingDoubt::Certain(known) => {
                let mut next = sent.simpler();
                while let Some(encoding) = next {
                    if encoding == Encoding::Identity || known.is_empty() || known.contains(&encoding) {
                        return next;
                    }
                    next = encoding.simpler();
                }
                None
            }
        }
    }

    /// The simplest that was accepted is used: of several receivers behind a name each must take it.
    pub fn accepted(&mut self, encoding: Encoding) {
        self.accepted = Some(self.accepted.map_or(encoding, |before| before.min(encoding)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_goes_down_step_by_step_until_one_is_accepted() {
        let mut ladder = Ladder::new(Compression::Auto);
        let doubt = EncodingDoubt::Possible;
        assert_eq!(ladder.encoding(), Encoding::Zstd);
        assert_eq!(ladder.simpler(Encoding::Zstd, &doubt), Some(Encoding::Gzip));
        assert_eq!(ladder.simpler(Encoding::Gzip, &doubt), Some(Encoding::Identity));
        assert_eq!(ladder.simpler(Encoding::Identity, &doubt), None);
        ladder.accepted(Encoding::Gzip);
        assert_eq!(ladder.encoding(), Encoding::Gzip);
        assert_eq!(ladder.simpler(Encoding::Gzip, &doubt), None, "it worked before: something else is wrong");
    }

    #[test]
    fn a_receiver_that_names_what_it_takes_is_believed() {
        let mut ladder = Ladder::new(Compression::Auto);
        ladder.accepted(Encoding::Zstd);
        let only = |list: &[Encoding]| EncodingDoubt::Certain(list.to_vec());
        assert_eq!(ladder.simpler(Encoding::Zstd, &only(&[Encoding::Gzip])), Some(Encoding::Gzip));
        assert_eq!(ladder.simpler(Encoding::Zstd, &only(&[Encoding::Identity])), Some(Encoding::Identity));
        assert_eq!(ladder.simpler(Encoding::Zstd, &only(&[])), Some(Encoding::Gzip));
        assert_eq!(ladder.simpler(Encoding::Zstd, &EncodingDoubt::Possible), None);
    }

    #[test]
    fn a_compression_that_is_set_is_kept() {
        for (set, want) in [
            (Compression::Zstd, Encoding::Zstd),
            (Compression::Gzip, Encoding::Gzip),
            (Compression::None, Encoding::Identity),
        ] {
            let ladder = Ladder::new(set);
            assert_eq!(ladder.encoding(), want);
            assert_eq!(ladder.simpler(want, &EncodingDoubt::Certain(vec![])), None);
        }
    }
}
