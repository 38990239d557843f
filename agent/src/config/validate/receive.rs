//! The `receive` section.

use std::net::IpAddr;

use sonde_daemon::config::Problems;
use sonde_daemon::units::Size;

use super::{is_listen_address, within};
use crate::config::{Export, Receive};
use crate::export;

/// Of its decompressed size, what a request takes while it is prepared.
const TIMES: u64 = 4;

impl Receive {
    pub(super) fn check(&self, problems: &mut Problems, to: &Export) {
        for (key, addr) in [("receive.otlp_grpc", &self.otlp_grpc), ("receive.otlp_http", &self.otlp_http)] {
            if addr.is_empty() {
                continue;
            }
            if !is_listen_address(addr) {
                problems.add(
                    key,
                    format!("`{addr}` is not an address with a port"),
                    "one such as `[::]:4317`",
                );
            } else if goes_to(addr, to) {
                let what = format!(
                    "is where export.endpoint `{}` goes: the agent would send to itself",
                    to.endpoint
                );
                problems.add_between(
                    key,
                    &["export.endpoint"],
                    what,
                    "another port, or the collector's endpoint",
                );
            }
        }
        let limits = &self.limits;
        within(problems, "receive.limits.request", limits.request, Size::kib(64), Size::mib(64));
        let least = limits.request.0.saturating_mul(TIMES);
        if limits.in_flight.0 < least {
            problems.add_between(
                "receive.limits.in_flight",
                &["receive.limits.request"],
                format!("{} is too little", limits.in_flight),
                format!("{} or more, four times receive.limits.request", Size(least)),
            );
        }
        if !(1..=65536).contains(&limits.connections) {
            problems.add(
                "receive.limits.connections",
                format!("{} is not possible", limits.connections),
                "1 to 65536",
            );
        }
    }
}

/// Whether the endpoint is this machine's own, at the port of `addr`.
fn goes_to(addr: &str, to: &Export) -> bool {
    let Ok(endpoint) = export::endpoint(to) else { return false };
    let (host, port) = addr.rsplit_once(':').unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let here = match endpoint.host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => endpoint.host.eq_ignore_ascii_case("localhost"),
    };
    port.parse() == Ok(endpoint.port) && port != "0" && (here || endpoint.host.eq_ignore_ascii_case(host))
}
