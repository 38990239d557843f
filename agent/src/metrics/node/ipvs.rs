//! The kernel's load balancer, as kube-proxy uses it with `mode: ipvs`, from `/proc/1/net/ip_vs_stats` and `ip_vs` (kernel,
//! net/netfilter/ipvs/ip_vs_ctl.c). Without the module there are no files, and no rows.

use crate::metrics::help;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use sonde_daemon::page::{Sink, Source, source};

use crate::metrics::read::Kept;

/// Most backends that are shown; a cluster of thousands of services has tens of thousands on each node.
const MOST: usize = 65_536;
/// The numbers of `ip_vs_stats` in turn.
const TOTALS: [&str; 5] =
    ["connections", "incoming_packets", "outgoing_packets", "incoming_bytes", "outgoing_bytes"];

/// Local address, port and mark, protocol, remote address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Backend {
    address: String,
    port: String,
    mark: String,
    protocol: String,
    remote: (String, String),
}

/// Weight, active and inactive connections.
type Load = [u64; 3];

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = |name: &str| Kept::first_of([proc.join("1/net").join(name), proc.join("net").join(name)]);
    let (totals, backends) = (file("ip_vs_stats"), file("ip_vs"));
    source("ipvs", move |out| {
        let Some(text) = totals.read_if_there()? else { return Ok(()) };
        let numbers = parse_totals(&text).ok_or("ip_vs_stats has no numbers")?;
        for (name, value) in TOTALS.iter().zip(numbers) {
            help::counter(out, &format!("node_ipvs_{name}_total")).row([], value);
        }
        if let Some(text) = backends.read_if_there()? {
            show(&parse(&text), out);
        }
        Ok(())
    })
}

/// Two lines of heads, then five hexadecimal numbers.
fn parse_totals(text: &str) -> Option<[u64; 5]> {
    let mut words = text.lines().nth(2)?.split_ascii_whitespace();
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = u64::from_str_radix(words.next()?, 16).ok()?;
    }
    Some(numbers)
}

/// `TCP  C0A80016:0CEA wlc` and below it `  -> C0A85216:0CEA Tunnel 100 248 2`; a service by mark is `FWM  10001000 wlc`.
fn parse(text: &str) -> BTreeMap<Backend, Load> {
    let mut backends: BTreeMap<Backend, Load> = BTreeMap::new();
    let mut service = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [protocol @ ("TCP" | "UDP" | "SCTP"), local, ..] => {
                service = address(local).map(|(address, port)| Backend {
                    address,
                    port,
                    protocol: protocol.to_owned(),
                    ..Backend::default()
                });
            }
            [protocol @ "FWM", mark, ..] => {
                let (mark, protocol) = (mark.to_owned(), protocol.to_owned());
                service = Some(Backend { mark, protocol, port: "0".to_owned(), ..Backend::default() });
            }
            ["->", remote, _forward, weight, active, inactive] => {
                let (Some(service), Some(remote)) = (&service, address(remote)) else { continue };
                let backend = Backend { remote, ..service.clone() };
                if backends.len() >= MOST && !backends.contains_key(&backend) {
                    continue;
                }
                let load = backends.entry(backend).or_default();
                for (sum, word) in load.iter_mut().zip([weight, active, inactive]) {
                    *sum = sum.saturating_add(word.parse().unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    backends
}

/// `C0A80016:0CEA` or `[2620:0000:0000:0000:0000:0000:0000:0001]:0050`.
fn address(text: &str) -> Option<(String, String)> {
    let (address, port) = text.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?.to_string();
    let address = match address.strip_prefix('[') {
        Some(six) => six.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None if address.len() == 8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).to_string(),
        None => return None,
    };
    Some((address, port))
}

fn show(backends: &BTreeMap<Backend, Load>, out: &mut Sink) {
    for (at, name) in ["weight", "connections_active", "connections_inactive"].iter().enumerate() {
        let mut rows = help::gauge(out, &format!("node_ipvs_backend_{name}"));
        for (backend, load) in backends {
            let labels = [
                ("local_address", backend.address.as_str()),
                ("local_port", backend.port.as_str()),
                ("remote_address", backend.remote.0.as_str()),
                ("remote_port", backend.remote.1.as_str()),
                ("proto", backend.protocol.as_str()),
                ("local_mark", backend.mark.as_str()),
            ];
            rows.row(labels, load[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IPVS: &str = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
        -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
        TCP  C0A80016:0CEA wlc\n  -> C0A85216:0CEA      Tunnel  100    248        2\n\
        TCP  [2620:0000:0000:0000:0000:0000:0000:0001]:0050 sh\n  -> [2620:0000:0000:0000:0000:0000:0000:0002]:0050 Route 1 0 3\n\
        FWM  10001000 wlc\n  -> C0A83215:0CEA Route 0 0 1\nTCP bad\n  -> C0A83215:0CEA Route 0 0 1\n";
    const STATS: &str = "   Total Incoming Outgoing         Incoming         Outgoing\n\
        Conns  Packets  Packets            Bytes            Bytes\n  16AA370 E33656E5        0     51D8C8883AB3        0\n";

    #[test]
    fn backends_are_told_by_service_and_totals_are_hexadecimal() {
        assert_eq!(parse_totals(STATS), Some([23_765_872, 3_811_989_221, 0, 89_991_519_156_915, 0]));
        assert_eq!(parse_totals("x\ny\nz\n"), None);
        let text = crate::metrics::tests::rendered(|out| show(&parse(IPVS), out));
        for row in [
            r#"node_ipvs_backend_connections_active{local_address="192.168.0.22",local_port="3306",remote_address="192.168.82.22",remote_port="3306",proto="TCP",local_mark=""} 248"#,
            r#"node_ipvs_backend_connections_inactive{local_address="2620::1",local_port="80",remote_address="2620::2",remote_port="80",proto="TCP",local_mark=""} 3"#,
            r#"node_ipvs_backend_weight{local_address="",local_port="0",remote_address="192.168.50.21",remote_port="3306",proto="FWM",local_mark="10001000"} 0"#,
        ] {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        assert_eq!(parse(IPVS).len(), 3, "a service whose address is none has no backends");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(cut in 0..IPVS.len(), noise in "\\PC{0,20}") {
            let _ = parse(&format!("{}{noise}{}", &IPVS[..cut], &IPVS[cut..]));
            let _ = (parse_totals(&format!("\n\n{noise}")), address(&noise));
        }
    }
}
