//! What the server promises.
