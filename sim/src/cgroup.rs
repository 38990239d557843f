//! A cgroup v2 tree as plain files, in the systemd driver's layout, whose counters follow the writers; and the network of
//! each pod as its process has it. A real cgroup file is made anew at each read; these are overwritten in place, so that a reader may keep
//! its handle.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::container::Resources;
use crate::error::SimError;
use crate::load::{PodLoad, SANDBOX_BYTES, Traffic, Use};
use crate::node::Shared;

/// The directory of a container: the simulated pods are all Burstable.
pub(crate) fn scope(cgroup: &Path, pod_uid: &str, container_id: &str) -> PathBuf {
    pod_slice(cgroup, pod_uid).join(format!("cri-containerd-{container_id}.scope"))
}

pub(crate) fn pod_slice(cgroup: &Path, pod_uid: &str) -> PathBuf {
    let uid = pod_uid.replace('-', "_");
    cgroup.join(format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"))
}

/// A container's or a pod's counters. Nothing happens when the cgroup has gone meanwhile.
pub(crate) fn update(dir: &Path, used: &Use) -> Result<(), SimError> {
    let (usage, throttled) = (used.cpu_micros, used.throttled_micros);
    let (user, system) = (usage * 3 / 4, usage - usage * 3 / 4);
    update_file(
        dir,
        "cpu.stat",
        &format!(
            "usage_usec {usage}\nuser_usec {user}\nsystem_usec {system}\nnice_usec 0\nnr_periods {}\n\
             nr_throttled {}\nthrottled_usec {throttled}\nnr_bursts 0\nburst_usec 0\n",
            throttled / 10_000,
            throttled / 20_000
        ),
    )?;
    let (anon, file) = (used.rss_bytes, used.cache_bytes);
    let (inactive, active) = (file / 2, file - file / 2);
    update_file(dir, "memory.current", &format!("{}\n", anon + file))?;
    update_file(
        dir,
        "memory.stat",
        &format!(
            "anon {anon}\nfile {file}\nkernel 245760\nkernel_stack 32768\npagetables 73728\nsock 0\nshmem 0\n\
             file_mapped 0\nfile_dirty 0\nfile_writeback 0\nswapcached 0\ninactive_anon {anon}\nactive_anon 0\n\
             inactive_file {inactive}\nactive_file {active}\nunevictable 0\nslab 131624\npgfault {}\npgmajfault 27\n",
            4816 + used.log_lines
        ),
    )
}

/// A pod's counters, and its network as one of its processes has it.
pub(crate) fn update_pod(shared: &Shared, pod: &PodLoad) -> Result<(), SimError> {
    let dir = pod_slice(&shared.cgroup(), &pod.uid);
    update(&dir, &pod.used)?;
    let kills = pod.oom_kills;
    let events = format!("low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n");
    update_file(&dir, "memory.events", &events)?;
    update_file(&net_dir(&shared.proc(), &pod.uid), "dev", &net_dev(&pod.receive, &pod.transmit))
}

pub(crate) fn net_dev(receive: &Traffic, transmit: &Traffic) -> String {
    let half = |t: &Traffic| format!("{} {} {} {} 0 0 0 0", t.bytes, t.packets, t.errors, t.dropped);
    format!(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier \
         compressed\n    lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n  eth0: {} {}\n",
        half(receive),
        half(transmit)
    )
}

/// The sandbox's process: a function of the pod's uid, as pods have one sandbox here for all their lives.
fn sandbox_pid(pod_uid: &str) -> u32 {
    let sum = pod_uid.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    100_000 + sum % 4_000_000
}

fn net_dir(proc: &Path, pod_uid: &str) -> PathBuf {
    proc.join(sandbox_pid(pod_uid).to_string()).join("net")
}

/// A pod's slice, its sandbox, and the sandbox's process.
pub(crate) fn create_pod(shared: &Shared, pod_uid: &str, sandbox_id: &str) -> Result<(), SimError> {
    let cgroup = shared.cgroup();
    create(&pod_slice(&cgroup, pod_uid), &Resources::default())?;
    let sandbox = scope(&cgroup, pod_uid, sandbox_id);
    create(&sandbox, &Resources::default())?;
    update(&sandbox, &Use { rss_bytes: SANDBOX_BYTES, ..Use::default() })?;
    write(&sandbox, "cgroup.procs", &format!("{}\n", sandbox_pid(pod_uid)))?;
    let net = net_dir(&shared.proc(), pod_uid);
    fs::create_dir_all(&net).map_err(SimError::io(&net))?;
    write(&net, "dev", &net_dev(&Traffic::default(), &Traffic::default()))
}

/// A pod's cgroups and processes go.
pub(crate) fn remove_pod(shared: &Shared, pod_uid: &str) -> Result<(), SimError> {
    let process = shared.proc().join(sandbox_pid(pod_uid).to_string());
    [pod_slice(&shared.cgroup(), pod_uid), process].iter().try_for_each(|dir| remove(dir))
}

/// Removes a directory whose files may be written anew at this moment, by who read the list of them before.
pub(crate) fn remove(dir: &Path) -> Result<(), SimError> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < 100 => tries += 1,
            done => return done.map_err(SimError::io(dir)),
        }
    }
}

/// The files that do not move.
pub(crate) fn create(dir: &Path, resources: &Resources) -> Result<(), SimError> {
    fs::create_dir_all(dir).map_err(SimError::io(dir))?;
    let cpu_max = resources.cpu_limit_millis.map_or("max".to_owned(), |millis| (millis * 100).to_string());
    let memory_max = resources.memory_limit_bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
    for (name, text) in [
        ("cpu.max", format!("{cpu_max} 100000\n").as_str()),
        ("cpu.weight", "1\n"),
        ("memory.max", format!("{memory_max}\n").as_str()),
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
    let no_limit = Resources { memory_limit_bytes: None, ..Resources::default() };
    create(&cgroup.join("kubepods.slice/kubepods-burstable.slice"), &no_limit)?;
    create(&cgroup.join("kubepods.slice"), &no_limit)?;
    write(cgroup, "cgroup.controllers", "cpuset cpu io memory pids\n")
}

/// Overwrites a file of a directory that may go at any time.
fn update_file(dir: &Path, name: &str, text: &str) -> Result<(), SimError> {
    let path = dir.join(name);
    match overwrite(&path, text) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SimError::io(&path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> Result<(), SimError> {
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
