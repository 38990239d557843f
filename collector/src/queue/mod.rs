//! The durable queue between receivers and sinks.

mod frame;

pub use frame::{Codec, Frame, Position, Signal};
