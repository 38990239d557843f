//! File systems: `/proc/1/mountinfo` and [`crate::metrics::statfs`]. A mount that does not answer in time is reported as
//! `node_filesystem_device_error`.
//!
//! In a pod the host's mount points are not there: under `host.root` only what the pod mounts is the host's, and all else is
//! the container's own file system, whose numbers are nobody's. So a file system is asked through any mount of it that
//! this process has ([`Own`]), as `/` through `/var/log`; one that has none is reported as not mounted here.

use crate::metrics::help;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sonde_daemon::page::{Sink, Source};

use super::Exclude;
use crate::host::HostPaths;
use crate::metrics::read::Kept;
use crate::metrics::statfs::{Prober, Space};

/// Most mounts that are shown.
const MOST: usize = 2048;

/// The collector.
pub(super) struct Filesystem {
    mounts: Kept,
    own: Kept,
    root: PathBuf,
    mount_exclude: Exclude,
    type_exclude: Exclude,
    prober: Mutex<Prober>,
}

/// A line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    mountpoint: String,
    fstype: String,
    numbers: (u32, u32),
    read_only: bool,
}

impl Filesystem {
    pub(super) fn new(paths: &HostPaths, mount_exclude: Exclude, type_exclude: Exclude) -> Self {
        let mounts = Kept::first_of([paths.proc.join("1/mountinfo"), paths.proc.join("self/mountinfo")]);
        // Of this process, whatever the host's `/proc` is.
        let own = Kept::new("/proc/self/mountinfo");
        let prober = Mutex::new(Prober::default());
        Self { mounts, own, root: paths.root.clone(), mount_exclude, type_exclude, prober }
    }
}

/// The mounts of this process, by the file system's number and by place.
struct Own {
    root: PathBuf,
    numbers: HashMap<(u32, u32), PathBuf>,
    places: HashMap<PathBuf, (u32, u32)>,
}

impl Own {
    fn new(root: &Path, text: &str) -> Self {
        let (mut numbers, mut places) = (HashMap::new(), HashMap::new());
        for mount in parse(text, |_| true) {
            let place = PathBuf::from(mount.mountpoint);
            numbers.entry(mount.numbers).or_insert_with(|| place.clone());
            places.insert(place, mount.numbers);
        }
        Self { root: root.to_owned(), numbers, places }
    }

    /// Where a file system of the host can be asked for its space.
    fn place(&self, mount: &Mount) -> Result<PathBuf, String> {
        let place = self.root.join(mount.mountpoint.trim_start_matches('/'));
        let is_host =
            self.root == Path::new("/") || !self.places.keys().any(|own| own.starts_with(&self.root));
        if is_host || self.places.get(&place) == Some(&mount.numbers) {
            return Ok(place);
        }
        self.numbers.get(&mount.numbers).cloned().ok_or_else(|| "not mounted here".to_owned())
    }
}

impl Source for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn collect(&self, out: &mut Sink) -> Result<(), String> {
        let text = self.mounts.read()?;
        let mounts = parse(&text, |mount| {
            !self.mount_exclude.is_match(&mount.mountpoint) && !self.type_exclude.is_match(&mount.fstype)
        });
        // Where the host's root is ours, its mounts are where it says.
        let own = if self.root == Path::new("/") { String::new() } else { self.own.read()? };
        let own = Own::new(&self.root, &own);
        let places: Vec<Result<PathBuf, String>> = mounts.iter().map(|mount| own.place(mount)).collect();
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        let order = order(&mounts, &places);
        let answers = prober.ask(order.iter().filter_map(|&at| places[at].clone().ok()));
        let unasked = places.into_iter().map(|place| place.and_then(|_| Err("not asked".to_owned())));
        let mut probed: Vec<_> = mounts.into_iter().zip(unasked).collect();
        for (at, answer) in order.into_iter().zip(answers) {
            probed[at].1 = answer;
        }
        show(&probed, out);
        Ok(())
    }
}

/// In which order those that have a place are asked. First those whose answer is not up to another machine or process: what hangs
/// when the agent starts, before anything is known of anyone, takes no time of the node's own disks.
fn order<P, E>(mounts: &[Mount], places: &[Result<P, E>]) -> Vec<usize> {
    const REMOTE: [&str; 11] =
        ["nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "afs", "glusterfs", "lustre", "virtiofs"];
    let is_remote = |fstype: &str| REMOTE.contains(&fstype) || fstype.starts_with("fuse");
    let mut order: Vec<usize> = (0..mounts.len()).filter(|&at| places[at].is_ok()).collect();
    order.sort_by_key(|&at| is_remote(&mounts[at].fstype));
    order
}

/// The mounts that are `wanted`, each mount point once, and of several mounts on one point the last, which is the one
/// that can be seen. Format: proc_pid_mountinfo(5).
fn parse(text: &str, wanted: impl Fn(&Mount) -> bool) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = text.lines().filter_map(parse_line).filter(|mount| wanted(mount)).collect();
    let mut seen = HashSet::new();
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.mountpoint.clone()));
    mounts.reverse();
    mounts.truncate(MOST);
    mounts
}

fn parse_line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (major, minor) = head.next()?.split_once(':')?;
    let (_root, mountpoint, options) = (head.next()?, head.next()?, head.next()?);
    let mut tail = tail.split(' ');
    let (fstype, device, super_options) = (tail.next()?, tail.next()?, tail.next().unwrap_or_default());
    let read_only = options.split(',').chain(super_options.split(',')).any(|option| option == "ro");
    Some(Mount {
        device: unescape(device),
        mountpoint: unescape(mountpoint),
        fstype: fstype.to_owned(),
        numbers: (major.parse().ok()?, minor.parse().ok()?),
        read_only,
    })
}

/// Space, tab, newline and backslash stand as `\040`, `\011`, `\012`, `\134`.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn show(mounts: &[(Mount, Result<Space, String>)], out: &mut Sink) {
    let labels = |at: usize| {
        let (mount, space) = &mounts[at];
        [
            ("device", mount.device.as_str()),
            ("device_error", space.as_ref().err().map_or("", String::as_str)),
            ("fstype", mount.fstype.as_str()),
            ("mountpoint", mount.mountpoint.as_str()),
        ]
    };
    let mut rows = help::gauge(out, "node_filesystem_device_error");
    for (at, (_, space)) in mounts.iter().enumerate() {
        rows.row(labels(at), u64::from(space.is_err()));
    }
    let mut rows = help::gauge(out, "node_filesystem_readonly");
    for (at, (mount, _)) in mounts.iter().enumerate() {
        rows.row(labels(at), u64::from(mount.read_only));
    }
    type Cell = fn(&Space) -> u64;
    let families: [(&str, Cell); 5] = [
        ("node_filesystem_size_bytes", |space| space.size),
        ("node_filesystem_free_bytes", |space| space.free),
        ("node_filesystem_avail_bytes", |space| space.available),
        ("node_filesystem_files", |space| space.files),
        ("node_filesystem_files_free", |space| space.files_free),
    ];
    for (name, value) in families {
        let mut rows = help::gauge(out, name);
        for (at, (_, space)) in mounts.iter().enumerate() {
            if let Ok(space) = space {
                rows.row(labels(at), value(space));
            }
        }
    }
    let mut rows = help::gauge(out, "node_filesystem_mount_info");
    for (mount, _) in mounts {
        let (major, minor) = (mount.numbers.0.to_string(), mount.numbers.1.to_string());
        let labels = [
            ("device", mount.device.as_str()),
            ("major", major.as_str()),
            ("minor", minor.as_str()),
            ("mountpoint", mount.mountpoint.as_str()),
        ];
        rows.row(labels, 1u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root ro,errors=continue";

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let mount = parse_line(LINE).unwrap();
        assert_eq!((mount.device.as_str(), mount.mountpoint.as_str()), ("/dev/root", "/mnt 2"));
        assert_eq!((mount.fstype.as_str(), mount.numbers, mount.read_only), ("ext3", (98, 0), true));
        let over = format!("{LINE}\n37 35 0:5 / /mnt\\0402 rw - tmpfs tmpfs rw\n");
        let mounts = parse(&over, |_| true);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].fstype, "tmpfs");
    }

    #[test]
    fn what_may_hang_is_asked_behind_what_may_not() {
        let line = |fstype: &str| format!("1 1 0:1 / /{fstype} rw - {fstype} x rw\n");
        let types = ["nfs4", "ext4", "fuse.sshfs", "xfs", "cifs", "btrfs"];
        let mounts = parse(&types.map(line).concat(), |_| true);
        let places = types.map(|fstype| if fstype == "xfs" { Err(()) } else { Ok(()) });
        assert_eq!(order(&mounts, &places), [1, 5, 0, 2, 4]);
    }

    #[test]
    fn in_a_pod_a_file_system_is_asked_through_a_mount_that_the_pod_has() {
        let line = |point: &str, numbers: &str| format!("1 1 {numbers} / {point} rw - ext4 /dev/x rw\n");
        let mounts = |text: &str| parse(text, |_| true);
        let host = [line("/", "254:1"), line("/boot", "254:2"), line("/var/lib/kubelet", "254:3")].concat();
        let pod = [
            line("/", "0:50"),
            line("/host/var/log", "254:1"),
            line("/host/var/lib/kubelet", "254:3"),
            line("/etc/hosts", "254:1"),
        ]
        .concat();
        let places = |root: &str, own: &str| -> Vec<Result<String, String>> {
            let own = Own::new(Path::new(root), own);
            mounts(&host).iter().map(|mount| Ok(own.place(mount)?.display().to_string())).collect()
        };
        let paths = |paths: [&str; 3]| paths.map(|path| Ok(path.to_owned())).to_vec();
        let in_pod = places("/host", &pod);
        assert_eq!(in_pod[0].as_deref(), Ok("/host/var/log"), "not /host, which is the container's own");
        assert_eq!(in_pod[1], Err("not mounted here".to_owned()));
        assert_eq!(in_pod[2].as_deref(), Ok("/host/var/lib/kubelet"));
        assert_eq!(places("/", &host), paths(["/", "/boot", "/var/lib/kubelet"]));
        // The whole root is mounted.
        let whole = [
            line("/", "0:50"),
            line("/host", "254:1"),
            line("/host/boot", "254:2"),
            line("/host/var/lib/kubelet", "254:3"),
        ];
        assert_eq!(
            places("/host", &whole.concat()),
            paths(["/host/", "/host/boot", "/host/var/lib/kubelet"])
        );
        // A directory that stands for a host: nothing is mounted there.
        assert_eq!(
            places("/tmp/node", &pod),
            paths(["/tmp/node/", "/tmp/node/boot", "/tmp/node/var/lib/kubelet"])
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..LINE.len(), noise in "\\PC{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &LINE[..cut], &LINE[cut..]), |_| true);
            let _ = unescape(&noise);
        }
    }
}
