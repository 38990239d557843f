//! The store's files: a block's content, and a store whose files were changed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::LogsRequest;

use crate::queue::Position;
use crate::store::block::{self, HEADER_BYTES, MAGIC};
use crate::store::{Filter, Order, Step, Store, StoreOptions, rows};

/// A block, once as it stands, and once as the content of one whose checksum is right: rows are inside it, and are written as
/// they were read.
pub fn block(data: &[u8]) {
    let _ = block::length(data);
    let _ = block::unpack(data);
    let Some((head, plain)) = data.split_first_chunk::<2>() else { return };
    let body = zstd::bulk::compress(plain, 1).unwrap();
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    let origin_len = usize::from(u16::from_le_bytes(*head));
    for (field, value) in [(2, body.len()), (3, plain.len()), (4, origin_len), (5, 1)] {
        let value = u32::try_from(value).unwrap();
        bytes[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&body);
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(block::length(&bytes), Some(bytes.len() as u64));
    let Ok(block) = block::unpack(&bytes) else { return };
    assert_eq!(block.rows.len(), plain.len() - origin_len);
    let mut end = 0;
    for (at, row) in rows(&block.rows) {
        assert_eq!(at, end);
        end += row.size();
        assert!(end <= block.rows.len());
    }
    assert!(block::offsets(&block).is_sorted());
}

pub fn block_seeds() -> Vec<Vec<u8>> {
    let tree = &TREE[..];
    let blocks = tree.iter().filter(|(path, _)| path.ends_with("blocks"));
    let mut seeds = Vec::new();
    for (_, bytes) in blocks {
        let len = usize::try_from(block::length(bytes).unwrap()).unwrap();
        seeds.push(bytes[..len].to_vec());
        let origin_len = u16::try_from(u32::from_le_bytes(bytes[16..20].try_into().unwrap())).unwrap();
        let plain = zstd::stream::decode_all(&bytes[HEADER_BYTES..len]).unwrap();
        seeds.push([&origin_len.to_le_bytes(), plain.as_slice()].concat());
    }
    seeds
}

const LINES: u64 = 60;

fn line(n: u64) -> String {
    format!("line {n} of {LINES}, by request {}", n * 7919)
}

/// Where stores are made, in memory where there is such a place.
fn place() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    base.join(format!("sonde-fuzz-store-{}-{number}", std::process::id()))
}

fn options() -> StoreOptions {
    StoreOptions { slice_age: Duration::from_secs(1), ..StoreOptions::default() }
}

/// A store of two slices: paths and contents of its files.
static TREE: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let dir = place();
    let (store, mut writer) = Store::open(&dir, options()).unwrap();
    for half in 0..2 {
        let records = (half * LINES / 2..(half + 1) * LINES / 2).map(record).collect();
        let scope = ScopeLogs { log_records: records, ..ScopeLogs::default() };
        let logs = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
        let bytes = ExportLogsServiceRequest { resource_logs: vec![logs] }.encode_to_vec();
        let (request, _) = LogsRequest::check(&bytes, &ViewLimits::default()).unwrap();
        let now = 1000 + half * 5000;
        writer.ingest(request, now * 1_000_000, Position { segment: 1, offset: 5000 + half }, now);
        writer.commit(now).unwrap();
    }
    drop((store, writer));
    let mut files = Vec::new();
    let mut dirs = vec![dir.clone()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((path.strip_prefix(&dir).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    fs::remove_dir_all(&dir).unwrap();
    files.sort();
    files
});

fn record(n: u64) -> LogRecord {
    let text = |text: String| Some(AnyValue { value: Some(Value::StringValue(text)) });
    let uid = format!("{}{n:012x}", "5a".repeat(10));
    LogRecord {
        time_unix_nano: 1000 + n,
        body: text(line(n)),
        attributes: vec![KeyValue { key: "log.record.uid".into(), value: text(uid), key_strindex: 0 }],
        ..LogRecord::default()
    }
}

/// Which file, where in it, and what happens there, time and again: the store opens, and what it gives was put in, once.
pub fn store(data: &[u8]) {
    let tree = &*TREE;
    let mut files: Vec<Vec<u8>> = tree.iter().map(|(_, bytes)| bytes.clone()).collect();
    let mut rest = data;
    let mut flips = 0;
    while let Some(([which, kind, low, high], more)) = rest.split_first_chunk::<4>() {
        rest = more;
        let bytes = &mut files[usize::from(*which) % tree.len()];
        if bytes.is_empty() {
            continue;
        }
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
        match kind & 3 {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(64).for_each(|byte| *byte = 0),
            // What is written over a text; a checksum covers the rest.
            2 if which & 1 == 0 => {
                let end = (at + rest.len().min(8)).min(bytes.len());
                bytes[at..end].copy_from_slice(&rest[..end - at]);
            }
            _ if flips < 3 => {
                flips += 1;
                bytes[at] ^= 1 << (kind >> 5);
            }
            _ => {}
        }
    }
    let dir = place();
    for ((path, _), bytes) in tree.iter().zip(&files) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let is_as_it_was = tree.iter().map(|(_, bytes)| bytes).eq(&files);
    let lines: HashSet<String> = (0..LINES).map(line).collect();
    let (opened, writer) = Store::open(&dir, options()).unwrap();
    let mut query = opened.query(Filter::default(), Order::Ascending);
    let mut got = HashSet::new();
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 10_000, "the query does not end");
        let step = query.step(|_, row| {
            let body = String::from_utf8(row.body.to_vec()).unwrap();
            assert!(lines.contains(&body), "{body:?} was never put in");
            assert!(got.insert(body), "a record comes twice");
        });
        if step == Step::End {
            break;
        }
    }
    assert!(!is_as_it_was || got.len() == lines.len());
    drop((query, opened, writer));
    fs::remove_dir_all(&dir).unwrap();
}

pub fn store_seeds() -> Vec<Vec<u8>> {
    let each = 0..u8::try_from(TREE.len()).unwrap();
    let mut seeds = vec![vec![]];
    seeds.extend(each.map(|which| vec![which, 0x43, 40, 0]));
    seeds
}
