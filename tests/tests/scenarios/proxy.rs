//! A TCP proxy that can lose answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Forwards each connection; while muted, what the server says is lost.
pub struct Proxy {
    listener: TcpListener,
    muted: Arc<AtomicBool>,
}

impl Proxy {
    pub fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), muted: Arc::default() }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    pub fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::SeqCst);
    }

    /// Its threads end with the connections, and with the test's process.
    pub fn forward_to(&mut self, port: u16) {
        let (listener, muted) = (self.listener.try_clone().unwrap(), self.muted.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from_client, to_server, &AtomicBool::new(false)));
                let muted = muted.clone();
                std::thread::spawn(move || copy(server, client, &muted));
            }
        });
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, muted: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !muted.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
