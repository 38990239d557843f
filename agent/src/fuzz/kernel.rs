//! Files of `/proc`, `/sys`, and cgroups, and the files of others that are shown: read by the collectors themselves, from a
//! directory in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sonde_daemon::page::{Sink, Source};

use crate::config::{Config, Host};
use crate::host::HostPaths;
use crate::metrics::cgroup::Reader;
use crate::metrics::node::sources;

/// Each file, and the collector that reads it; none = cgroups.
const FILES: [(&str, &str); 30] = [
    ("proc/net/arp", "arp"),
    ("proc/net/stat/nf_conntrack", "conntrack"),
    ("proc/stat", "cpu"),
    ("proc/stat", "stat"),
    ("proc/diskstats", "diskstats"),
    ("proc/sys/fs/file-nr", "filefd"),
    ("proc/net/ip_vs", "ipvs"),
    ("proc/net/ip_vs_stats", "ipvs"),
    ("proc/loadavg", "loadavg"),
    ("proc/mdstat", "mdadm"),
    ("proc/meminfo", "meminfo"),
    ("proc/net/dev", "netdev"),
    ("proc/net/netstat", "netstat"),
    ("proc/net/snmp6", "netstat"),
    ("proc/pressure/cpu", "pressure"),
    ("proc/schedstat", "schedstat"),
    ("proc/net/sockstat", "sockstat"),
    ("proc/net/softnet_stat", "softnet"),
    ("proc/net/udp", "udp_queues"),
    ("proc/vmstat", "vmstat"),
    ("etc/os-release", "os"),
    ("text/a.prom", "textfile"),
    ("sys/class/net/bonding_masters", "bonding"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "conntrack"),
    ("sys/fs/cgroup/kubepods/podx/cpu.stat", ""),
    ("sys/fs/cgroup/kubepods/podx/cpu.max", ""),
    ("sys/fs/cgroup/kubepods/podx/memory.stat", ""),
    ("sys/fs/cgroup/kubepods/podx/io.stat", ""),
    ("sys/fs/cgroup/kubepods/podx/memory.pressure", ""),
    ("sys/fs/cgroup/kubepods/podx/cgroup.procs", ""),
];

struct Tree {
    root: PathBuf,
    sources: Vec<Box<dyn Source>>,
}

static TREE: LazyLock<Tree> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let root = base.join(format!("sonde-fuzz-{}", std::process::id()));
    for (path, _) in FILES {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
    }
    let cgroup = root.join("sys/fs/cgroup");
    fs::write(cgroup.join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
    let usual = FILES.iter().zip(seeds()).filter(|((_, source), _)| source.is_empty());
    for ((path, _), seed) in usual {
        let name = Path::new(path).file_name().unwrap();
        for of in ["", "kubepods", "kubepods/podx"] {
            fs::write(cgroup.join(of).join(name), &seed[1..]).unwrap();
        }
    }
    for name in ["memory.current", "pids.current"] {
        for of in ["kubepods", "kubepods/podx"] {
            fs::write(cgroup.join(of).join(name), "1\n").unwrap();
        }
    }
    // `netstat` wants all of its files.
    for name in ["netstat", "snmp"] {
        fs::write(root.join("proc/net").join(name), "").unwrap();
    }
    let paths = HostPaths::new(&Host { root: root.clone(), ..Host::default() });
    let mut config = Config::default().metrics.node;
    config.textfile_dir = root.join("text").display().to_string();
    let sources = sources(&config, &paths, "n").unwrap();
    Tree { root, sources }
});

/// The first byte says which file the rest is.
pub fn files(data: &[u8]) {
    let Some((which, content)) = data.split_first() else { return };
    let (path, source) = FILES[usize::from(*which) % FILES.len()];
    let tree = &*TREE;
    let path = tree.root.join(path);
    fs::write(&path, content).unwrap();
    if source.is_empty() {
        let cgroups = Reader::new(tree.root.join("sys/fs/cgroup"), 100).read().unwrap();
        assert!(cgroups.iter().any(|cgroup| cgroup.id == "/kubepods"), "its neighbour is gone");
        let usual = seeds().swap_remove(usize::from(*which) % FILES.len());
        fs::write(&path, &usual[1..]).unwrap();
    } else {
        let mut sink = Sink::default();
        let source = tree.sources.iter().find(|each| each.name() == source).unwrap();
        let _ = source.collect(&mut sink);
        fs::remove_file(&path).unwrap();
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let some = [
        "IP address HW type Flags HW address Mask Device\n10.0.0.1 0x1 0x2 aa:bb:cc:dd:ee:ff * eth0\n",
        "entries searched found\n0000000a 00000000 0000000f\n",
        "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5 1 2\nctxt 7\nbtime 8\nprocesses 9\nprocs_running 1\nprocs_blocked 0\nsoftirq 3 1 2\n",
        "cpu0 1 2 3\nintr 5\nctxt 7\nbtime 8\nprocesses 9\n",
        "   8  0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n 7 0 loop0 0 0 0 0\n",
        "1024\t0\t9223372036854775807\n",
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\nTCP  0A000001:0050 wlc persistent 4294967295\n  -> 0A000002:0050 Masq 1 2 3\nTCP [2001:0db8::1]:0050 rr\n",
        "   Total Incoming Outgoing\n   Conns  Packets\n   1 2 3 4 5\n 1 A F 1A 2B\n",
        "0.50 0.40 0.30 1/200 3000\n",
        "Personalities : [raid1]\nmd0 : active raid1 sda1[0] sdb1[1](F)\n  100 blocks super 1.2 [2/1] [U_]\n  [=>...] recovery = 8.5% (1/2) finish=1.0min speed=1K/sec\n",
        "MemTotal: 100 kB\nActive(anon): 1 kB\nHugePages_Total: 0\n",
        "Inter-|   Receive |  Transmit\n face |bytes packets\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
        "TcpExt: A B\nTcpExt: 1 -2\nIpExt: C\nIpExt: 3\n",
        "Ip6InReceives 1\nIcmp6OutMsgs 2\n",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 total=6\n",
        "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 1 2 3\ndomain0 3\n",
        "sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 2 mem 3\n",
        "00000001 00000002 00000003 0 0 0 0 0 0 00000004 00000005 00000006 00000007\n",
        "  sl  local_address rem_address   st tx_queue rx_queue\n   0: 0100007F:0035 00000000:0000 07 00000001:0000000A 00:0\n",
        "nr_free_pages 1\noom_kill 2\npgfault 3\n",
        "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID='12'\n# x\nPRETTY_NAME=\"a \\\"b\\\"\"\n",
        "# HELP a_b some \\n help\n# TYPE a_b counter\na_b{x=\"1\",y=\"q\\\"\"} 1 1000\nh_bucket{le=\"+Inf\"} 2\nh_sum 3e5\nh_count NaN\n",
        "bond0 bond1\n",
        "17\n",
        "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n",
        "max 100000\n",
        "anon 1\nfile 2\nworkingset_refault_anon 3\npgfault 4\npgmajfault 5\ninactive_file 6\n",
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \n",
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\nfull total=18446744073709551615\n",
        "1\n2\n0\n",
    ];
    some.iter().zip(0u8..).map(|(text, which)| [&[which], text.as_bytes()].concat()).collect()
}
