//! The daemon's own OpenTelemetry metrics and traces.
