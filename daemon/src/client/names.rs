//! From a name to its addresses.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

/// The addresses of a name, once they are known.
pub type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Whoever knows the addresses of a name.
pub trait Names: Send + Sync {
    /// All addresses of `host` now, with this port.
    fn look_up(&self, host: &str, port: u16) -> Found;
}

/// The system's resolver: `/etc/hosts`, DNS.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Names for System {
    fn look_up(&self, host: &str, port: u16) -> Found {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}
