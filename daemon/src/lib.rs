//! What Sonde's two daemons are made of: configuration files, units, logging, locks, exposition, HTTP.
//!
//! Agent and collector both stand on this crate and never import each other. Nothing here knows about logs,
//! metrics of the node, queues or sinks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod args;
pub mod backoff;
pub mod client;
pub mod config;
pub mod errands;
pub mod health;
pub mod http;
pub mod lock;
pub mod log;
pub mod memory;
pub mod page;
pub mod panic;
pub mod receive;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod units;
pub mod watched;
