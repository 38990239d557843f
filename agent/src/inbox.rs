//! Where the exporter and the shutdown talk to a thread that reads: a channel, and a descriptor that wakes its `poll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::batch::Settlement;

/// The door. At most one settlement a batch is ever under way, so it is bounded by the requests that may be unsettled.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
}

/// What is said.
#[derive(Debug)]
pub enum Message {
    /// The receiver's word on a batch.
    Settled(Settlement),
    /// Stop reading; the deadline for what is in flight.
    Stop(Instant),
}

/// The thread's side.
#[derive(Debug)]
pub struct Letters {
    receiver: Receiver<Message>,
    wake: Arc<OwnedFd>,
}

impl Inbox {
    /// A door and its inside.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new() -> io::Result<(Self, Letters)> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = channel();
        Ok((Self { sender, wake: wake.clone() }, Letters { receiver, wake }))
    }

    /// The receiver's word on a batch. Never waits.
    pub fn settle(&self, settlement: Settlement) {
        self.send(Message::Settled(settlement));
    }

    /// Stops reading, seals what is open, waits for what is in flight until `deadline`, writes the positions.
    pub fn stop(&self, deadline: Instant) {
        self.send(Message::Stop(deadline));
    }

    fn send(&self, message: Message) {
        // A reader that has ended needs no word.
        if self.sender.send(message).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Letters {
    /// The next message, if there is one.
    pub fn take(&self) -> Option<Message> {
        self.receiver.try_recv().ok()
    }

    /// Waits until there is a message, `other` is readable, or `wait` has passed.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // An interrupted or failed wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
    }
}
