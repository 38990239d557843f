//! File systems: `/proc/1/mountinfo` and [`crate::metrics::statfs`]. A mount that does not answer in time is reported as
//! `node_filesystem_device_error`.

use crate::metrics::help;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sonde_daemon::page::{Sink, Source};

use super::Exclude;
use crate::host::HostPaths;
use crate::metrics::read::Kept;
use crate::metrics::statfs::{ALL, Prober, Space};

/// Most mounts that are shown.
const MOST: usize = 2048;

/// The collector.
pub(super) struct Filesystem {
    mounts: Kept,
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
        let prober = Mutex::new(Prober::default());
        Self { mounts, root: paths.root.clone(), mount_exclude, type_exclude, prober }
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
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + ALL;
        let probed: Vec<_> = mounts
            .into_iter()
            .map(|mount| {
                let path = self.root.join(mount.mountpoint.trim_start_matches('/'));
                let space = prober.ask(&path, until);
                (mount, space)
            })
            .collect();
        show(&probed, out);
        Ok(())
    }
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

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..LINE.len(), noise in "\\PC{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &LINE[..cut], &LINE[cut..]), |_| true);
            let _ = unescape(&noise);
        }
    }
}
