//! A connection to the host's message bus, or to systemd's own socket where there is no bus.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{Call, HEAD, Reader, parse, whole};

/// Calls that are under way at once: far below the bus's limit of unanswered calls (128 in old configurations).
const UNDER_WAY: usize = 32;
/// The longest line of the greeting.
const LONGEST_LINE: usize = 4096;
/// How long one read or write may take.
const STEP: Duration = Duration::from_millis(500);

/// A connection that has been greeted.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    until: Instant,
}

impl Bus {
    /// Connects; `hello`: to a bus, which wants to be told, and not to systemd itself. It is used until `until`.
    pub(super) fn connect(socket: &Path, hello: bool, until: Instant) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("{}: {error}", socket.display());
        let stream = UnixStream::connect(socket).map_err(said)?;
        stream.set_read_timeout(Some(STEP)).map_err(said)?;
        stream.set_write_timeout(Some(STEP)).map_err(said)?;
        let mut bus = Self { stream, serial: 0, until };
        bus.greet()?;
        if hello {
            let name = "org.freedesktop.DBus";
            let path = "/org/freedesktop/DBus";
            let hello = Call { destination: name, path, interface: name, member: "Hello", arguments: &[] };
            bus.ask(&[hello], |_, body| body.map(drop))?.into_iter().collect::<Result<(), String>>()?;
        }
        Ok(bus)
    }

    /// SASL: the kernel tells the other side who we are. No name is sent, which holds in a user namespace too.
    fn greet(&mut self) -> Result<(), String> {
        self.write(b"\0AUTH EXTERNAL\r\n")?;
        let mut line = self.line()?;
        if line.starts_with("DATA") {
            self.write(b"DATA\r\n")?;
            line = self.line()?;
        }
        if !line.starts_with("OK ") {
            return Err(format!("the bus refuses us: {line:.80}"));
        }
        self.write(b"BEGIN\r\n")
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        // Byte by byte: what follows the line belongs to the messages. There are two lines in all.
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
            if line.len() > LONGEST_LINE {
                return Err("a greeting without an end".to_owned());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| error.to_string())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), String> {
        let mut filled = 0;
        while filled < into.len() {
            if Instant::now() >= self.until {
                return Err("no answer in time".to_owned());
            }
            match self.stream.read(&mut into[filled..]) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err("no answer in time".to_owned());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Makes all calls, some at a time, and what `read` makes of each one's answer, in the calls' order. An error
    /// that is an answer goes to `read`; one of the connection ends it.
    pub(super) fn ask<T>(
        &mut self,
        calls: &[Call<'_>],
        mut read: impl FnMut(usize, Result<Reader<'_>, String>) -> Result<T, String>,
    ) -> Result<Vec<Result<T, String>>, String> {
        let mut answers = Vec::new();
        for (part, calls) in calls.chunks(UNDER_WAY).enumerate() {
            let mut bytes = Vec::new();
            let mut open = HashMap::new();
            for (at, call) in calls.iter().enumerate() {
                self.serial += 1;
                call.write(self.serial, &mut bytes);
                open.insert(self.serial, at);
            }
            self.write(&bytes)?;
            let mut chunk: Vec<Option<Result<T, String>>> = calls.iter().map(|_| None).collect();
            while !open.is_empty() {
                let message = self.message()?;
                let answer = parse(&message)?;
                if let Some(at) = open.remove(&answer.serial)
                    && let Some(slot) = chunk.get_mut(at)
                {
                    *slot = Some(read(part * UNDER_WAY + at, answer.body));
                }
            }
            answers.extend(chunk.into_iter().flatten());
        }
        Ok(answers)
    }

    fn message(&mut self) -> Result<Vec<u8>, String> {
        let mut message = vec![0; HEAD];
        self.fill(&mut message)?;
        message.resize(whole(&message)?, 0);
        self.fill(&mut message[HEAD..])?;
        Ok(message)
    }
}
