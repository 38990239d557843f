//! A page of metrics of 30,000 series: what a scrape costs.
//!
//! `cargo bench -p sonde-benches --bench page`

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sonde_daemon::page::{Format, Page, Section, Sink, source};

const FAMILIES: u64 = 30;
const PODS: u64 = 1000;

fn series(out: &mut Sink, pods: &[String]) {
    for family in 0..FAMILIES {
        let mut rows = out.gauge(format!("container_something_{family}_bytes"), "Help.");
        for pod in pods {
            let labels = [
                ("namespace", "shop"),
                ("pod", pod),
                ("container", "app"),
                ("image", "registry/shop/web:1.2.3"),
                ("id", "/kubepods/x"),
            ];
            rows.row(labels, 123_456_789u64);
        }
    }
}

fn page(c: &mut Criterion) {
    let pods: Vec<String> = (0..PODS).map(|pod| format!("web-{pod}-7d9f8b6c5-x2k4j")).collect();
    let collect = move |out: &mut Sink| {
        series(out, &pods);
        Ok(())
    };
    let page = Page::new(vec![Section::new(None, vec![source("one", collect)])], false);
    let mut group = c.benchmark_group("page");
    group.throughput(Throughput::Elements(FAMILIES * PODS));
    group.bench_function("classic", |b| b.iter(|| black_box(page.render(Format::Classic))));
    group.finish();
}

criterion_group!(benches, page);
criterion_main!(benches);
