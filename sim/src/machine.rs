//! The node's own `/proc`: its CPUs, memory, network and file system. Counters follow the lines that were ever written, as
//! those of pods that are gone stay in a node's; memory is that of the pods that are there.
//!
//! Formats: proc_stat(5), proc_meminfo(5), proc_pid_net(5), proc_pid_mountinfo(5), proc_vmstat(5).

use std::fs;
use std::sync::atomic::Ordering;

use crate::cgroup::{net_dev, write};
use crate::error::SimError;
use crate::load::{MICROS_A_LINE, PodLoad, traffic};
use crate::node::Shared;

/// CPUs of the node.
const CPUS: u64 = 4;
/// Its memory, KiB, and what is used of it beside the pods.
const MEMORY_KIB: u64 = 16_384_000;
const SYSTEM_KIB: u64 = 1_024_000;

/// Files that do not move. The file system is the one that the node's directory is on.
pub(crate) fn create(shared: &Shared) -> Result<(), SimError> {
    let init = shared.proc().join("1");
    let net = init.join("net");
    fs::create_dir_all(&net).map_err(SimError::io(&net))?;
    write(&shared.proc(), "loadavg", "0.42 0.36 0.30 2/311 4242\n")?;
    write(&init, "mountinfo", "25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n")?;
    update(shared, &[])
}

/// What follows the pods.
pub(crate) fn update(shared: &Shared, pods: &[PodLoad]) -> Result<(), SimError> {
    let (proc, up) = (shared.proc(), shared.started.elapsed().as_secs() + 4000);
    let sum = |value: fn(&PodLoad) -> u64| pods.iter().map(value).sum::<u64>();
    let (lines, bytes) = (shared.lines.load(Ordering::Relaxed), shared.bytes.load(Ordering::Relaxed));
    // Hundredths of a second, four fifths of them in user space.
    let busy = lines * MICROS_A_LINE / 10_000;
    let (user, system) = (busy - busy / 5, busy / 5);
    let idle = (up * 100 * CPUS).saturating_sub(busy);
    write(&proc, "stat", &stat(user, system, idle, lines))?;
    write(&proc, "uptime", &format!("{up}.00 {}.00\n", idle / 100))?;
    let (anonymous, cache) = (sum(|pod| pod.used.rss_bytes) >> 10, sum(|pod| pod.used.cache_bytes) >> 10);
    write(&proc, "meminfo", &meminfo(anonymous, cache))?;
    let kills = sum(|pod| pod.oom_kills);
    let vmstat = format!(
        "pgpgin 0\npgpgout {}\npswpin 0\npswpout 0\npgfault {lines}\npgmajfault 27\noom_kill {kills}\n",
        bytes >> 10
    );
    write(&proc, "vmstat", &vmstat)?;
    let net = proc.join("1/net");
    let (receive, transmit) = traffic(lines);
    write(&net, "dev", &net_dev(&receive, &transmit))?;
    write(
        &net,
        "snmp",
        &format!(
            "Tcp: ActiveOpens InSegs OutSegs RetransSegs\nTcp: 12 {} {} {}\n",
            receive.packets, transmit.packets, transmit.dropped
        ),
    )?;
    write(&net, "netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 0 0\n")
}

/// `/proc/stat`: the sum, and the CPUs, which share it evenly.
fn stat(user: u64, system: u64, idle: u64, lines: u64) -> String {
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..CPUS {
        let share = |all: u64| all / CPUS + u64::from(cpu < all % CPUS);
        text += &format!("cpu{cpu} {} 0 {} {} 0 0 0 0 0 0\n", share(user), share(system), share(idle));
    }
    text + &format!(
        "ctxt {}\nbtime 1795190400\nprocesses 4242\nprocs_running 2\nprocs_blocked 0\n",
        lines * 2
    )
}

fn meminfo(anonymous: u64, cache: u64) -> String {
    let available = MEMORY_KIB.saturating_sub(SYSTEM_KIB + anonymous);
    format!(
        "MemTotal:       {MEMORY_KIB} kB\nMemFree:        {} kB\nMemAvailable:   {available} kB\nBuffers:        102400 kB\n\
         Cached:         {cache} kB\nAnonPages:      {anonymous} kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
        available.saturating_sub(cache + 102_400)
    )
}
