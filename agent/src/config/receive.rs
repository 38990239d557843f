//! The `receive` section.

use serde::{Deserialize, Serialize};
use sonde_daemon::units::Size;

/// Where apps on this node send OTLP to; nowhere by default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Receive {
    /// Address for OTLP/gRPC; empty = none.
    pub otlp_grpc: String,
    /// Address for OTLP/HTTP; empty = none.
    pub otlp_http: String,
    /// What apps may make us hold.
    pub limits: ReceiveLimits,
}

/// What apps may make us hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReceiveLimits {
    /// Most bytes of a request, before and after decompression.
    pub request: Size,
    /// Most bytes of all requests under way.
    pub in_flight: Size,
    /// Open connections of each of the two addresses.
    pub connections: usize,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self { request: Size::mib(4), in_flight: Size::mib(32), connections: 128 }
    }
}
