//! Protocol counters, from `/proc/1/net/{netstat,snmp,snmp6}`: node_exporter's default selection, as untyped as there.

use crate::metrics::help;
use std::path::Path;

use sonde_daemon::page::{Kind, Sink, Source, source};

use crate::metrics::read::Kept;

pub(super) fn collector(proc: &Path) -> Box<dyn Source> {
    let file = |name| Kept::first_of([proc.join("1/net").join(name), proc.join("net").join(name)]).short();
    let (netstat, snmp, snmp6) = (file("netstat"), file("snmp"), file("snmp6"));
    source("netstat", move |out| {
        show(&netstat.read()?, out);
        show(&snmp.read()?, out);
        // Without IPv6 there is none.
        if let Some(text) = snmp6.read_if_there()? {
            show6(&text, out);
        }
        Ok(())
    })
}

/// Pairs of lines: `Tcp: ActiveOpens …` and `Tcp: 12 …`.
fn show(text: &str, out: &mut Sink) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((protocol, names)), Some((_, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
            put(protocol, name, value, out);
        }
    }
}

/// `Ip6InReceives    12`: the protocol is what stands before and with the `6`.
fn show6(text: &str, out: &mut Sink) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(key), Some(value)) = (words.next(), words.next())
            && let Some(at) = key.find('6')
        {
            let (protocol, name) = key.split_at(at + 1);
            put(protocol, name, value, out);
        }
    }
}

fn put(protocol: &str, name: &str, value: &str, out: &mut Sink) {
    if is_shown(protocol, name)
        && let Ok(value) = value.parse::<i64>()
    {
        help::family(out, Kind::Untyped, &format!("node_netstat_{protocol}_{name}")).row([], value);
    }
}

fn is_shown(protocol: &str, name: &str) -> bool {
    match (protocol, name) {
        (_, "InErrors" | "InErrs") | ("Ip", "Forwarding") => true,
        ("Ip6" | "IpExt", name) => matches!(name, "InOctets" | "OutOctets"),
        ("Icmp" | "Icmp6", name) => matches!(name, "InMsgs" | "OutMsgs"),
        ("TcpExt", name) => {
            name.starts_with("Listen")
                || name.starts_with("Syncookies")
                || matches!(name, "TCPSynRetrans" | "TCPTimeouts" | "TCPOFOQueue" | "TCPRcvQDrop")
        }
        ("Tcp", name) => matches!(
            name,
            "ActiveOpens" | "InSegs" | "OutSegs" | "OutRsts" | "PassiveOpens" | "RetransSegs" | "CurrEstab"
        ),
        ("Udp" | "Udp6", name) => {
            matches!(name, "InDatagrams" | "OutDatagrams" | "NoPorts" | "RcvbufErrors" | "SndbufErrors")
        }
        _ => false,
    }
}
