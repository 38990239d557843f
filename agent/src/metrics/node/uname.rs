//! The kernel's own names (uname(2)).

use crate::metrics::help;
use std::path::Path;

use rustix::system::uname;
use sonde_daemon::page::{Source, source};

use crate::host::HostPaths;
use crate::metrics::read::read_once;

/// In a pod that does not share the host's UTS namespace the kernel would tell the pod's name for the node's.
pub(super) fn collector(paths: &HostPaths, node: &str) -> Box<dyn Source> {
    let in_a_pod = paths.root != Path::new("/");
    let host_name = read_once(&paths.root.join("etc/hostname")).map(|text| text.trim().to_owned());
    let name = host_name.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| node.to_owned());
    source("uname", move |out| {
        let uname = uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let nodename = if in_a_pod { name.clone() } else { text(uname.nodename()) };
        let (sysname, release, version) =
            (text(uname.sysname()), text(uname.release()), text(uname.version()));
        let (machine, domainname) = (text(uname.machine()), text(uname.domainname()));
        let labels = [
            ("sysname", sysname.as_str()),
            ("release", release.as_str()),
            ("version", version.as_str()),
            ("machine", machine.as_str()),
            ("nodename", nodename.as_str()),
            ("domainname", domainname.as_str()),
        ];
        help::gauge(out, "node_uname_info").row(labels, 1u64);
        Ok(())
    })
}
