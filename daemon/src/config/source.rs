//! The bytes of a configuration file, whatever it is: a pipe that nobody writes to and a device without an end cost
//! a moment, not the start.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a pipe may keep us waiting: a program that makes the file is usually running already.
const WAIT: Duration = Duration::from_secs(5);

/// Reads the file, but no more than one byte more than `longest`, for the caller to see that it is too long.
///
/// # Errors
/// What the system says, in words where its own are not clear.
pub(super) fn read(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    // Without waiting for a pipe's other end; no effect on a file.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    let mut bytes = Vec::new();
    if kind.is_file() {
        file.take(longest as u64 + 1).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let mut piece = [0; 16 << 10];
    let deadline = Instant::now() + WAIT;
    while bytes.len() <= longest {
        wait(&file, kind, deadline)?;
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(longest + 1);
    Ok(bytes)
}

/// Waits until there is something to read, or the other end is closed.
fn wait(file: &File, kind: FileType, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left))? > 0 {
        return Ok(());
    }
    let kind = if kind.is_fifo() { "pipe" } else { "device" };
    Err(io::Error::other(format!(
        "it is a {kind}, and was not written to its end within {} s",
        WAIT.as_secs()
    )))
}
