//! Sonde's central collector: receives OTLP, queues it durably, delivers it to sinks, searches the embedded store.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod config;
pub mod deliver;
pub mod queue;
pub mod store;
