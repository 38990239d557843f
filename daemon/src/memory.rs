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
