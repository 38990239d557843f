//! Whole runs of the agent beside the floor: what reading the same files costs at all.
//!
//! Machines are shared and noisy: figures are CPU seconds and ratios of runs that alternate, never a wall time alone.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod agent;
pub mod clock;
pub mod corpus;
pub mod floor;
pub mod sink;

/// The middle of an odd number of values; the lower middle of an even one; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
