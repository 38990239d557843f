//! What a fuzzer feeds: one function a parser that meets the outside world. Each holds what the parser promises; a promise
//! that is broken panics. Compiled for tests, which run each over its seeds, and for the `fuzz` package.

// A broken promise is a panic here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod configuration;
mod files;
mod kernel;
mod lines;
mod multiline;
mod names;
mod receive;
mod redaction;

/// Name, what is to be run with an input, and inputs to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of the agent's.
pub const TARGETS: [Target; 15] = [
    ("cri", lines::cri, lines::cri_seeds),
    ("docker", lines::docker, lines::docker_seeds),
    ("fields", lines::fields, lines::fields_seeds),
    ("multiline", multiline::multiline, multiline::multiline_seeds),
    ("redact", redaction::presets, redaction::preset_seeds),
    ("redact-rules", redaction::rules, redaction::rule_seeds),
    ("plain-names", names::plain_names, names::seeds),
    ("positions", files::positions, files::positions_seeds),
    ("gzip-log", files::gzip, files::gzip_seeds),
    ("journal", files::journal, files::journal_seeds),
    ("kubelet", files::kubelet, files::kubelet_seeds),
    ("pods-socket", files::pods_socket, files::pods_socket_seeds),
    ("kernel", kernel::files, kernel::seeds),
    ("receive-enrich", receive::enriched, receive::seeds),
    ("agent-config", configuration::agent, configuration::seeds),
];

/// A file in memory.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl crate::logs::fs::LogFile for Bytes {
    fn stat(&self) -> std::io::Result<crate::logs::fs::Stat> {
        let size = self.0.len() as u64;
        Ok(crate::logs::fs::Stat { size, regular: true, ..Default::default() })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn promises_hold_for_seeds_and_for_what_is_next_to_them() {
        for (name, run, seeds) in TARGETS {
            let seeds = seeds();
            assert!(!seeds.is_empty(), "{name}");
            for seed in &seeds {
                run(seed);
                for part in 1..8 {
                    let at = seed.len() * part / 8;
                    run(&seed[..at]);
                    let mut changed = seed.clone();
                    if let Some(byte) = changed.get_mut(at) {
                        *byte ^= 1 << part;
                    }
                    run(&changed);
                }
            }
        }
    }
}
