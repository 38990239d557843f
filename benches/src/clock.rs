//! The CPU clock of another process. The one module with `unsafe` code.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// CPU time of all threads that a process has and had: a sum over `/proc/<pid>/task` forgets a thread that has ended.
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write into numbers of ours that live through them (clock_getcpuclockid(3), clock_gettime(2)).
    let error = unsafe {
        match libc::clock_getcpuclockid(pid, &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    };
    if error != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_still_counts() {
        let busy = Duration::from_millis(50);
        let before = cpu(std::process::id()).unwrap();
        let thread = std::thread::spawn(move || while cpu(std::process::id()).unwrap() < before + busy {});
        thread.join().unwrap();
        assert!(cpu(std::process::id()).unwrap() >= before + busy);
        // Beyond the largest number of a process (proc_sys_kernel(5), pid_max).
        assert!(cpu(5_000_000).is_err());
    }
}
