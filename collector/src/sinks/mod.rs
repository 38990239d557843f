//! Destinations beside the embedded store.

pub mod elasticsearch;
