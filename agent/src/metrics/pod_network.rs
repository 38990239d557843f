//! Network counters of the node and of each pod, from `/proc/<pid>/net/dev` of one of its processes.
//!
//! The file needs no more than the right to look into `/proc/<pid>`, unlike entering the namespace. It is opened at
//! each sample: an open handle would keep a dead pod's namespace alive.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::read::read_once;

/// Counters of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Receive side.
    pub receive: Traffic,
    /// Transmit side.
    pub transmit: Traffic,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Most interfaces that a namespace is shown with.
const MOST: usize = 256;

/// The interfaces that cAdvisor shows (container/libcontainer/handler.go, `isIgnoredDevice`).
pub(super) fn is_shown(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !["lo", "veth", "docker", "nerdctl"].iter().any(|prefix| name.starts_with(prefix))
}

/// The shown interfaces in the network namespace of a process; `None` where it is gone.
pub(super) fn read(proc: &Path, pid: u32) -> Option<Vec<Interface>> {
    let text = read_once(&proc.join(pid.to_string()).join("net/dev")).ok()?;
    Some(parse(&text).filter(|interface| is_shown(&interface.name)).take(MOST).collect())
}

/// The node's interfaces.
pub(super) fn read_node(proc: &Path) -> Vec<Interface> {
    let text = read_once(&proc.join("1/net/dev")).or_else(|_| read_once(&proc.join("net/dev")));
    let text = text.unwrap_or_default();
    parse(&text).filter(|interface| is_shown(&interface.name)).take(MOST).collect()
}

/// Whether a process is in the node's own network namespace; `None` where one of the two is gone.
///
/// `ns/net`, which would say it, takes ptrace rights over the process. But each namespace registers a `net/dev` of its own, with an
/// inode number of its own (kernel, fs/proc/generic.c, `proc_register`), and that may be seen by who may read the file.
pub(super) fn is_host(proc: &Path, pid: u32) -> Option<bool> {
    let file = |pid: &str| {
        let of = std::fs::metadata(proc.join(pid).join("net/dev")).ok()?;
        Some((of.dev(), of.ino()))
    };
    Some(file("1")? == file(&pid.to_string())?)
}

/// `/proc/net/dev` (kernel, net/core/net-procfs.c): two head lines, then `eth0: ` and 16 numbers.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Interface> {
    text.lines().filter_map(|line| {
        let (name, numbers) = line.rsplit_once(':')?;
        let mut fields = [0u64; 16];
        let mut words = numbers.split_ascii_whitespace();
        for field in &mut fields {
            *field = words.next()?.parse().ok()?;
        }
        let traffic = |from: usize| Traffic {
            bytes: fields[from],
            packets: fields[from + 1],
            errors: fields[from + 2],
            dropped: fields[from + 3],
        };
        Some(Interface { name: name.trim().to_owned(), receive: traffic(0), transmit: traffic(8) })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo: 4481613    1267    0    0    0     0          0         0  4481613    1267    0    0    0     0       0          0\n  \
        eth0:12 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";

    #[test]
    fn a_name_may_touch_its_first_number() {
        let all: Vec<_> = parse(DEV).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].name, "eth0");
        assert_eq!(all[1].receive, Traffic { bytes: 12, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(all[1].transmit, Traffic { bytes: 5, packets: 6, errors: 7, dropped: 8 });
    }

    #[test]
    fn a_namespace_is_known_by_the_inode_of_its_file() {
        let own = std::process::id();
        let proc = Path::new("/proc");
        // Of this kernel: this process is where the first one is, unless a sandbox has put it elsewhere.
        let known = ["1", "self"].map(|pid| std::fs::read_link(proc.join(pid).join("ns/net")).ok());
        if let [Some(first), Some(ours)] = known {
            assert_eq!(is_host(proc, own), Some(first == ours));
        }
        let mut apart = std::process::Command::new("unshare");
        let Ok(mut child) = apart.args(["--net", "sleep", "60"]).stderr(std::process::Stdio::null()).spawn()
        else {
            return eprintln!("skipped: there is no unshare(1)");
        };
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let is_apart = || namespace(child.id()).is_some_and(|its| Some(its) != namespace(own));
        let begun = std::time::Instant::now();
        while !is_apart() && begun.elapsed().as_secs() < 5 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let seen = is_apart().then(|| is_host(proc, child.id()));
        let _ = child.kill();
        let _ = child.wait();
        match seen {
            Some(seen) => assert_eq!(seen, Some(false)),
            None => eprintln!("skipped: no right to make a network namespace"),
        }
    }

    #[test]
    fn what_cadvisor_does_not_show_is_not_shown() {
        for (name, shown) in
            [("eth0", true), ("cali12", true), ("lo", false), ("Veth1", false), ("docker0", false)]
        {
            assert_eq!(is_shown(name), shown, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..DEV.len(), noise in "[ -~\n]{0,20}") {
            let mut text = DEV[..cut].to_owned();
            text.push_str(&noise);
            let _ = parse(&text).count();
        }
    }
}
