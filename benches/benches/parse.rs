//! The header of a CRI entry, neighbours of one second and entries on their own; level and trace ids out of a body.
//!
//! `cargo bench -p sonde-benches --bench parse`

#![allow(missing_docs, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sonde_agent::logs::cri::{self, Clock};
use sonde_agent::logs::fields;

const PLAIN: &str =
    "request 17 from 10.1.2.3 user 00042 GET /api/v1/items/000017?page=3 status 200 took 0042 us";
const LOGFMT: &str =
    "level=info caller=server.go:142 msg=\"request done\" method=GET path=/api/v1/orders status=200";
const JSON: &str = "{\"ts\":\"2026-11-20T10:00:00Z\",\"level\":\"info\",\"msg\":\"request served\",\"seq\":17,\
    \"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"span_id\":\"00f067aa0ba902b7\",\"path\":\"/api/v1/items\"}";

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for zone in ["Z", "+02:00"] {
        let of_second = |nth: u32| format!("2026-11-20T10:00:00.{:09}{zone} stdout F {PLAIN}", nth * 100_000);
        let entries: Vec<String> = (0..1000).map(of_second).collect();
        group.throughput(Throughput::Elements(1000));
        group.bench_function(format!("alone/{zone}"), |b| {
            b.iter(|| {
                for entry in &entries {
                    black_box(cri::parse(black_box(entry.as_bytes())));
                }
            });
        });
        group.bench_function(format!("neighbours/{zone}"), |b| {
            b.iter(|| {
                let mut clock = Clock::default();
                for entry in &entries {
                    black_box(clock.parse(black_box(entry.as_bytes())));
                }
            });
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("fields");
    for (name, body) in [("plain", PLAIN), ("logfmt", LOGFMT), ("json", JSON)] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| b.iter(|| black_box(fields::parse(black_box(body)))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = headers, bodies
}
criterion_main!(benches);
