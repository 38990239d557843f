//! Calling others over HTTP: what both daemons use to send requests, so that both treat receivers alike.

pub mod dial;
pub mod endpoint;
pub mod gate;
pub mod hint;
pub mod names;
pub mod otlp;
pub mod pool;
mod spoken;
