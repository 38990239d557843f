//! One log record written into a request, and a request checked and read, beside prost's way of it.
//!
//! `cargo bench -p sonde-benches --bench wire`

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1 as otlp;
use prost::Message;
use sonde_wire::attrs::AttrSet;
use sonde_wire::limits::ViewLimits;
use sonde_wire::logs::{LogEncoder, LogRecord, Stream};
use sonde_wire::uid::{FileHash, RecordUid};
use sonde_wire::view::{self, LogsRequest};

const REQUEST_BYTES: usize = 1 << 20;

/// A line as services write them.
fn line(len: usize) -> String {
    let text = "level=info ts=2026-11-20T18:00:00.123Z caller=server.go:142 msg=\"request done\" method=GET path=/api/v1/orders ";
    text.chars().cycle().take(len).collect()
}

fn resource() -> AttrSet {
    AttrSet::builder()
        .str("k8s.cluster.name", "production")
        .str("k8s.node.name", "node-17.example.internal")
        .str("k8s.namespace.name", "shop")
        .str("k8s.pod.name", "orders-6d4b75cb6d-hs7kq")
        .str("k8s.pod.uid", "9c2f1a50-6d0e-4a53-8f0f-5a2f3f0f7c11")
        .str("k8s.container.name", "orders")
        .int("k8s.container.restart_count", 0)
        .str("service.name", "orders")
        .build()
}

fn record(body: &str, offset: u64) -> LogRecord<'_> {
    LogRecord {
        time_unix_nano: 1_795_197_600_000_000_000 + offset,
        observed_time_unix_nano: 1_795_197_600_100_000_000,
        severity_number: 9,
        severity_text: "",
        body,
        trace_id: None,
        span_id: None,
        stream: Stream::Stdout,
        uid: RecordUid { file: FileHash([0x5a; 10]), offset },
        truncated: false,
        malformed: false,
        attributes: &[],
    }
}

/// What an agent on prost does for a record.
fn prost_record(record: &LogRecord<'_>) -> otlp::LogRecord {
    let text = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.into())) });
    let uid = record.uid.hex();
    otlp::LogRecord {
        time_unix_nano: record.time_unix_nano,
        observed_time_unix_nano: record.observed_time_unix_nano,
        severity_number: record.severity_number.into(),
        body: text(record.body),
        attributes: vec![
            KeyValue { key: "log.iostream".into(), value: text("stdout"), ..Default::default() },
            KeyValue {
                key: "log.record.uid".into(),
                value: text(std::str::from_utf8(&uid).unwrap_or_default()),
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for len in [150, 200, 1000] {
        let body = line(len);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("wire/{len}"), |b| {
            let set = resource();
            let mut encoder = LogEncoder::with_capacity(REQUEST_BYTES + 4096);
            let mut offset = 0;
            encoder.open(&set);
            b.iter(|| {
                if encoder.len() > REQUEST_BYTES {
                    black_box(encoder.finish());
                    encoder.clear();
                    encoder.open(&set);
                }
                offset += 250;
                encoder.push(&record(black_box(&body), black_box(offset)));
            });
        });
        group.bench_function(format!("prost/{len}"), |b| {
            let mut buf = Vec::with_capacity(REQUEST_BYTES + 4096);
            let mut offset = 0;
            b.iter(|| {
                if buf.len() > REQUEST_BYTES {
                    black_box(&buf);
                    buf.clear();
                }
                offset += 250;
                // A repeated field's element: prost's cost without the clone into a request.
                let record = prost_record(&record(black_box(&body), black_box(offset)));
                prost::encoding::message::encode(2, &record, &mut buf);
            });
        });
    }
    group.finish();
}

/// A request of 1 MiB with ten containers.
fn request(body_len: usize) -> (Vec<u8>, u64) {
    let body = line(body_len);
    let mut encoder = LogEncoder::with_capacity(REQUEST_BYTES + 4096);
    let mut offset = 0;
    for container in 0..10 {
        encoder.open(&AttrSet::builder().str("k8s.container.name", &format!("c{container}")).build());
        while encoder.len() < REQUEST_BYTES / 10 * (container + 1) {
            offset += 250;
            encoder.push(&record(&body, offset));
        }
    }
    let records = encoder.records();
    (encoder.take(), records.into())
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for len in [150, 300] {
        let (bytes, records) = request(len);
        let limits = ViewLimits::default();
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("check/{len}"), |b| {
            b.iter(|| view::check(black_box(&bytes), &limits).unwrap())
        });
        group.bench_function(format!("check and read/{len}"), |b| {
            b.iter(|| {
                let (request, _) = LogsRequest::check(black_box(&bytes), &limits).unwrap();
                for resource in request.resources() {
                    for scope in resource.scopes() {
                        for record in scope.records() {
                            for attribute in record.attributes() {
                                black_box(attribute);
                            }
                            black_box(&record);
                        }
                    }
                }
            });
        });
        group.bench_function(format!("prost/{len}"), |b| {
            b.iter(|| ExportLogsServiceRequest::decode(black_box(&bytes[..])).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = encode, read
}
criterion_main!(benches);
