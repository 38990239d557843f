//! How large a message may be.

/// Most bytes of a request, before and after decompression: 64 MiB, what OTLP 1.11 recommends to both sides
/// (opentelemetry-proto `docs/specification.md`, "Request size limits"). A client does not send more.
pub const REQUEST_BYTES: usize = 64 << 20;

/// Most bytes of a response that a client reads: 4 MiB (same place).
pub const RESPONSE_BYTES: usize = 4 << 20;

/// Most bytes that are kept of a peer's error message; the rest is cut at a character.
pub const MESSAGE_BYTES: usize = 4096;

/// What [`crate::view::check`], [`crate::view::check_metrics`] and [`crate::view::check_traces`] let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewLimits {
    /// Most log records or spans in a request; of metrics, most metrics, and most data points.
    pub records: u32,
    /// Most resources and scopes in a request, together.
    pub groups: u32,
    /// Most values that one record, data point, span, resource or scope holds: attributes, events, links, and the elements of nested
    /// arrays and maps, of the body too.
    pub values: u32,
    /// Deepest nesting of an `AnyValue`; a string is 1, an array of strings 2. At most [`Self::MAX_DEPTH`] is
    /// obeyed.
    pub depth: u8,
}

impl ViewLimits {
    /// The deepest nesting that can be asked for. prost refuses beyond 100 messages in each other, and a map
    /// takes three of them a level; what passes here is not refused by the next hop.
    pub const MAX_DEPTH: u8 = 24;
}

impl Default for ViewLimits {
    fn default() -> Self {
        Self { records: 1 << 20, groups: 1 << 17, values: 1 << 16, depth: Self::MAX_DEPTH }
    }
}
