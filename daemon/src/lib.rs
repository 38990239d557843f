//! What Sonde's two daemons are made of: configuration files, units, logging, locks, exposition, HTTP.
//!
//! Agent and collector both stand on this crate and never import each other.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod units;
