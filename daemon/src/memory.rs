//! The process's limits and the system's units: glibc's allocator, open files, pages. The one module with `unsafe` code.
//!
//! glibc by default keeps eight arenas a core and, after the first large free, a heap threshold of up to 32 MiB:
//! a node agent that once held a burst would keep it. With two arenas and fixed thresholds large buffers are
//! mapped and go back to the system when freed.
#![allow(unsafe_code)]

use std::io;

/// Sets the allocator's limits. Call first thing in main, before any thread is started. Does nothing but on glibc.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (key, value) in [
        (libc::M_ARENA_MAX, 2),
        // Setting it also stops glibc from raising it by itself.
        (libc::M_MMAP_THRESHOLD, 128 << 10),
        (libc::M_TRIM_THRESHOLD, 128 << 10),
    ] {
        // SAFETY: mallopt takes two plain numbers, is thread-safe (man 3 mallopt) and touches no memory of ours.
        // A refused value leaves the default in place, so the result does not matter.
        let _ = unsafe { libc::mallopt(key, value) };
    }
}

/// Gives free memory back to the system; after a burst, at most a few times a minute. Does nothing but on glibc.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a number, is thread-safe (man 3 malloc_trim) and moves no live allocation.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Bytes of a page of memory.
pub fn page_size() -> u64 {
    system(libc::_SC_PAGESIZE, 4096)
}

/// Units of the times in `/proc/<pid>/stat` (proc(5)): clock ticks a second.
pub fn clock_ticks_per_second() -> u64 {
    system(libc::_SC_CLK_TCK, 100)
}

fn system(name: libc::c_int, usual: u64) -> u64 {
    // SAFETY: sysconf takes a number, is thread-safe (man 3 sysconf) and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0).unwrap_or(usual)
}

/// How the kernel keeps its clock (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// Whether something keeps it in step.
    pub synchronised: bool,
    /// Bits `STA_*`.
    pub status: i64,
    /// What is left to correct.
    pub offset_seconds: f64,
    /// Largest error that is possible.
    pub max_error_seconds: f64,
    /// Error that is expected.
    pub estimated_error_seconds: f64,
    /// By how much it is made to go faster or slower.
    pub frequency_ratio: f64,
    /// Difference of atomic time and UTC.
    pub tai_offset_seconds: i64,
    /// How fast the loop that corrects it follows.
    pub loop_time_constant: i64,
    /// Between two ticks.
    pub tick_seconds: f64,
    /// A signal each second, where there is one.
    pub pulse: Pulse,
}

/// What the kernel knows of a signal that comes each second (PPS); zeros where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pulse {
    /// By how much the clock is off by the signal's count, in hertz.
    pub frequency_hertz: f64,
    /// How much the signal jitters.
    pub jitter_seconds: f64,
    /// Between two calibrations.
    pub shift_seconds: i64,
    /// How much the frequency wanders.
    pub stability_hertz: f64,
    /// Signals that jittered too much.
    pub jitters: i64,
    /// Calibrations.
    pub calibrations: i64,
    /// Calibrations that failed.
    pub errors: i64,
    /// Calibrations by which the frequency wandered too much.
    pub instabilities: i64,
}

/// Asks the kernel how it keeps its clock; changes nothing.
///
/// # Errors
/// When a sandbox forbids the call.
pub fn clock() -> io::Result<Clock> {
    // SAFETY: timex is plain numbers, for which zeros are a value; modes 0 = read only.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a timex of ours that lives through the call; the kernel only writes into it.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // Microseconds and the like stay far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let float = |value: i64| value as f64;
    let unit = if timex.status & libc::STA_NANO != 0 { 1e9 } else { 1e6 };
    // Parts per million with 16 bits of fraction.
    let scaled = |value: i64| float(value) / (1e6 * 65536.0);
    Ok(Clock {
        // TIME_ERROR of linux/timex.h.
        synchronised: state != 5,
        status: timex.status.into(),
        offset_seconds: float(timex.offset) / unit,
        max_error_seconds: float(timex.maxerror) / 1e6,
        estimated_error_seconds: float(timex.esterror) / 1e6,
        frequency_ratio: 1.0 + scaled(timex.freq),
        tai_offset_seconds: timex.tai.into(),
        loop_time_constant: timex.constant,
        tick_seconds: float(timex.tick) / 1e6,
        pulse: Pulse {
            frequency_hertz: scaled(timex.ppsfreq),
            jitter_seconds: float(timex.jitter) / unit,
            shift_seconds: timex.shift.into(),
            stability_hertz: scaled(timex.stabil),
            jitters: timex.jitcnt,
            calibrations: timex.calcnt,
            errors: timex.errcnt,
            instabilities: timex.stbcnt,
        },
    })
}

/// Raises the soft limit of open files to the hard one and returns it; `None` = unlimited.
///
/// # Errors
/// When the system refuses; the old limit is then still in force.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_becomes_the_hard_one() {
        tune();
        let hard = raise_open_files().unwrap();
        trim();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit.current, hard);
    }
}
