//! What Sonde's agent and collector say to each other: OTLP logs and metrics over gRPC or HTTP, as bytes.
//!
//! Everything here is pure: no runtime, no IO, no clock. The agent writes requests with [`logs::LogEncoder`]
//! and [`metrics::MetricsEncoder`], and sorts the receiver's answers with [`answer`]; the collector walks received requests with [`view`]
//! without copying them, and answers with [`response`] and [`grpc`]. Formats are those of opentelemetry-proto
//! 1.11 (`opentelemetry/proto/{collector/{logs,metrics},logs,metrics,common,resource}/v1/*.proto`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod answer;
pub mod attrs;
pub mod base64;
pub mod canary;
pub mod enrich;
pub mod grpc;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod proto;
pub mod response;
pub mod uid;
pub mod view;
