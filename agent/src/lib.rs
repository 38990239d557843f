//! Sonde's node agent: reads container logs, cgroups and pod state, ships OTLP, serves Prometheus pages.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)
)]

pub mod batch;
pub mod config;
pub mod dial;
pub mod endpoint;
pub mod export;
pub mod host;
pub mod http;
pub mod kubelet;
pub mod logs;
pub mod pods;
