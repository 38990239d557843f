//! A cgroup v2 tree as plain files, in the systemd driver's layout, whose counters follow the writers; and the least of
//! a `/proc`. A real cgroup file is made anew at each read; these are overwritten in place, so that a reader may keep
//! its handle.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::error::SimError;
use crate::logfile::LogFile;

/// The directory of a container: the simulated pods are all Burstable.
pub(crate) fn scope(cgroup: &Path, pod_uid: &str, container_id: &str) -> PathBuf {
    pod_slice(cgroup, pod_uid).join(format!("cri-containerd-{container_id}.scope"))
}

pub(crate) fn pod_slice(cgroup: &Path, pod_uid: &str) -> PathBuf {
    let uid = pod_uid.replace('-', "_");
    cgroup.join(format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"))
}

/// A line of text costs 20 µs and a byte of log keeps a byte of page cache, up to 64 MiB.
pub(crate) fn update(dir: &Path, log: &LogFile) -> Result<(), SimError> {
    let (lines, bytes) = (log.total_lines.load(Ordering::Relaxed), log.total_bytes.load(Ordering::Relaxed));
    let usage = 1000 + lines * 20;
    let (user, system) = (usage * 3 / 4, usage - usage * 3 / 4);
    write(
        dir,
        "cpu.stat",
        &format!(
            "usage_usec {usage}\nuser_usec {user}\nsystem_usec {system}\nnice_usec 0\nnr_periods 0\n\
             nr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n"
        ),
    )?;
    let file = bytes.min(64 << 20) & !4095;
    let anon = (8 << 20) + ((lines * 16) & 0xf_f000);
    let (inactive, active) = (file / 2, file - file / 2);
    write(dir, "memory.current", &format!("{}\n", anon + file))?;
    write(
        dir,
        "memory.stat",
        &format!(
            "anon {anon}\nfile {file}\nkernel 245760\nkernel_stack 32768\npagetables 73728\nsock 0\nshmem 0\n\
             file_mapped 0\nfile_dirty 0\nfile_writeback 0\nswapcached 0\ninactive_anon {anon}\nactive_anon 0\n\
             inactive_file {inactive}\nactive_file {active}\nunevictable 0\nslab 131624\npgfault {}\npgmajfault 27\n",
            4816 + lines
        ),
    )
}

/// The files that do not move.
pub(crate) fn create(dir: &Path) -> Result<(), SimError> {
    fs::create_dir_all(dir).map_err(SimError::io(dir))?;
    for (name, text) in [
        ("cpu.max", "max 100000\n"),
        ("cpu.weight", "1\n"),
        ("memory.max", "max\n"),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"),
        ("pids.current", "2\n"),
        ("pids.max", "max\n"),
        ("io.stat", ""),
        ("cgroup.procs", ""),
    ] {
        write(dir, name, text)?;
    }
    Ok(())
}

/// The root of the hierarchy and the slices above the pods.
pub(crate) fn create_root(cgroup: &Path) -> Result<(), SimError> {
    create(&cgroup.join("kubepods.slice/kubepods-burstable.slice"))?;
    create(&cgroup.join("kubepods.slice"))?;
    write(cgroup, "cgroup.controllers", "cpuset cpu io memory pids\n")
}

pub(crate) fn update_proc(proc: &Path, start: Instant, lines: u64) -> Result<(), SimError> {
    fs::create_dir_all(proc).map_err(SimError::io(proc))?;
    let up = start.elapsed().as_secs() + 4000;
    let busy = lines / 500;
    let idle = (up * 400).saturating_sub(busy);
    write(
        proc,
        "stat",
        &format!(
            "cpu  {busy} 0 {} {idle} 0 0 0 0 0 0\nctxt {}\nbtime 1795190400\nprocesses 4242\nprocs_running 2\n\
             procs_blocked 0\n",
            busy / 3,
            lines * 2
        ),
    )?;
    write(proc, "uptime", &format!("{up}.00 {}.00\n", idle / 100))?;
    write(proc, "loadavg", "0.42 0.36 0.30 2/311 4242\n")?;
    write(
        proc,
        "meminfo",
        "MemTotal:       16384000 kB\nMemFree:         8192000 kB\nMemAvailable:   12288000 kB\nBuffers:          102400 \
         kB\nCached:          4096000 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
    )
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), SimError> {
    let path = dir.join(name);
    overwrite(&path, text).map_err(SimError::io(&path))
}

fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    if file.metadata()?.len() > text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}
