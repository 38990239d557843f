//! What a fuzzer feeds: one function a decoder that meets the network or the disk. Each holds what the decoder promises; a
//! promise that is broken panics. Compiled for tests, which run each over its seeds, and for the `fuzz` package.

// A broken promise is a panic here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod configuration;
mod network;
mod search;
mod slices;
mod wire;

/// Name, what is to be run with an input, and inputs to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of the collector's.
pub const TARGETS: [Target; 16] = [
    ("otlp", wire::otlp, wire::otlp_seeds),
    ("otlp-metrics", wire::metrics, wire::metrics_seeds),
    ("otlp-traces", wire::traces, wire::traces_seeds),
    ("remote-write", wire::remote_write, wire::remote_write_seeds),
    ("grpc", wire::grpc, wire::grpc_seeds),
    ("otlp-json", network::json, network::json_seeds),
    ("otlp-json-others", network::others, network::others_seeds),
    ("inflate", network::inflate, network::inflate_seeds),
    ("receive", network::receive, network::receive_seeds),
    ("bulk-answer", answers::bulk, answers::bulk_seeds),
    ("push-answer", answers::push, answers::push_seeds),
    ("search", search::search, search::seeds),
    ("queue", crate::queue::fuzz::recovery, crate::queue::fuzz::seeds),
    ("block", slices::block, slices::block_seeds),
    ("store", slices::store, slices::store_seeds),
    ("collector-config", configuration::collector, configuration::seeds),
];

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
