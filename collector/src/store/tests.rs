//! The store's promises, against a plain list of records.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message;
use sonde_wire::limits::ViewLimits;
use sonde_wire::view::LogsRequest;

use super::*;
use crate::queue::Position;

type Hook = Box<dyn FnMut(&'static str) -> io::Result<()>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Where the writer is; what a test wants to happen there.
pub fn reached(step: &'static str) -> io::Result<()> {
    HOOK.with_borrow_mut(|hook| hook.as_mut().map_or(Ok(()), |hook| hook(step)))
}

fn set_hook(hook: impl FnMut(&'static str) -> io::Result<()> + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// A record as a test writes it down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub time: u64,
    pub uid: Option<(u8, u64)>,
    pub pod: u8,
    pub severity: u8,
    pub body: String,
}

impl Line {
    pub fn new(time: u64, file: u8, offset: u64, body: &str) -> Self {
        Self { time, uid: Some((file, offset)), pod: file, severity: 9, body: body.to_owned() }
    }

    fn uid_text(&self) -> Option<String> {
        self.uid.map(|(file, offset)| format!("{:02x}{}{offset:012x}", file, "5a".repeat(9)))
    }

    fn key(&self) -> (u64, [u8; 16]) {
        let mut uid = [0; 16];
        if let Some((file, offset)) = self.uid {
            uid[..10].fill(0x5a);
            uid[0] = file;
            uid[10..].copy_from_slice(&offset.to_be_bytes()[2..]);
        }
        (self.time, uid)
    }

    fn namespace(&self) -> String {
        format!("ns-{}", self.pod % 2)
    }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

pub fn request(lines: &[Line]) -> Vec<u8> {
    let mut request = ExportLogsServiceRequest::default();
    for line in lines {
        let record = LogRecord {
            time_unix_nano: line.time,
            severity_number: i32::from(line.severity),
            body: Some(AnyValue { value: Some(Value::StringValue(line.body.clone())) }),
            attributes: line
                .uid_text()
                .map(|uid| text("log.record.uid", &uid))
                .into_iter()
                .chain([text("log.iostream", "stdout")])
                .collect(),
            ..LogRecord::default()
        };
        let attributes = vec![
            text("k8s.namespace.name", &line.namespace()),
            text("k8s.pod.name", &format!("pod-{}", line.pod)),
            text("app", "x"),
        ];
        request.resource_logs.push(ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        });
    }
    request.encode_to_vec()
}

/// Small bounds, so that a few records make commits and slices.
pub fn options() -> StoreOptions {
    StoreOptions {
        commit_bytes: 64 << 10,
        commit_interval: Duration::from_millis(50),
        slice_age: Duration::from_secs(1),
        ..StoreOptions::default()
    }
}

pub fn ingest(writer: &mut Writer, lines: &[Line], position: u64, now_ms: u64) {
    let bytes = request(lines);
    let (request, _) = LogsRequest::check(&bytes, &ViewLimits::default()).unwrap();
    writer.ingest(request, 1, Position { segment: 1, offset: position }, now_ms);
}

fn found(store: &Store, filter: Filter, order: Order, limit: usize) -> Vec<((u64, [u8; 16]), String)> {
    let mut query = store.query(filter, order);
    let mut found = Vec::new();
    while found.len() < limit {
        let take = |_: &Origin, row: &Row<'_>| {
            found.push((row.key(), String::from_utf8(row.body.to_vec()).unwrap()));
        };
        if query.step(take) == Step::End {
            break;
        }
    }
    assert_eq!(query.errors(), 0);
    found
}

fn all(store: &Store) -> Vec<((u64, [u8; 16]), String)> {
    let found = found(store, Filter::default(), Order::Ascending, usize::MAX);
    let count = store.count(Filter::default(), || true).unwrap();
    assert_eq!(count, Count { records: found.len() as u64, errors: 0 });
    found
}

fn listed(lines: &[Line]) -> Vec<((u64, [u8; 16]), String)> {
    let mut listed: Vec<_> = lines.iter().map(|line| (line.key(), line.body.clone())).collect();
    listed.sort();
    listed
}

fn lines(file: u8, count: u64) -> Vec<Line> {
    (0..count).map(|n| Line::new(1000 + n, file, n * 10, &format!("line {n} of file {file}"))).collect()
}

/// Copies a store as it is at this moment; once more where the index deleted merged segments meanwhile.
fn copy(from: &Path, to: &Path) {
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    // First what names the others: what it names then is deleted only after it was replaced.
    entries.sort_by_key(|entry| entry.file_name() != "meta.json");
    for entry in entries {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Op {
    Take(Vec<Line>),
    Commit,
    NewSlice,
    Reopen,
}

fn line() -> impl Strategy<Value = Line> {
    let word = prop::sample::select(vec![
        "alpha",
        "Beta",
        "GAMMA",
        "ärger",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{fffd}",
        "a-b",
        "10.0.0.1",
        "\"q\"",
        "",
    ]);
    let body = prop::collection::vec(word, 0..5).prop_map(|words| words.join(" "));
    (1u64..40, prop::option::of((0u8..4, 0u64..1 << 40)), 0u8..4, 0u8..25, body)
        .prop_map(|(time, uid, pod, severity, body)| Line { time, uid, pod, severity, body })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => prop::collection::vec(line(), 1..12).prop_map(Op::Take),
        2 => Just(Op::Commit),
        1 => Just(Op::NewSlice),
        1 => Just(Op::Reopen),
    ]
}

fn plain_word(word: &str, body: &str) -> bool {
    let (word, body) = (word.to_lowercase(), body.to_lowercase());
    let joined = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    body.match_indices(&word).any(|(at, _)| {
        !joined(body[..at].chars().next_back()) && !joined(body[at + word.len()..].chars().next())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn a_search_finds_what_a_plain_scan_finds(
        ops in prop::collection::vec(op(), 1..14),
        namespace in prop::option::of(0u8..2), pod in prop::option::of(0u8..4), severity in 0u8..25,
        word in prop::option::of(prop::sample::select(vec!["alpha", "BETA", "Ärger", "red", "b", "10.0.0.1", "a-b", "lpha"])),
        phrase in prop::option::of(prop::sample::select(vec!["pha Be", "GAMMA", "gamma", "\u{fffd} a", " "])),
        bounds in (0u64..40, 0u64..60), limit in 1usize..40, descending: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let mut model: Vec<Line> = Vec::new();
        let mut uids = BTreeSet::new();
        let (mut position, mut now) = (0, 10_000);
        for op in ops {
            match op {
                Op::Take(lines) => {
                    position += 1;
                    ingest(&mut writer, &lines, position, now);
                    model.extend(lines.into_iter().filter(|line| line.uid.is_none_or(|uid| uids.insert(uid))));
                }
                Op::Commit => drop(writer.commit(now).unwrap()),
                Op::NewSlice => now += 2_000,
                Op::Reopen => {
                    writer.commit(now).unwrap();
                    drop((store, writer));
                    (store, writer) = Store::open(dir.path(), options()).unwrap();
                }
            }
        }
        let mut filter = Filter { severity, since: bounds.0, until: bounds.1, ..Filter::default() };
        filter.names[2] = namespace.map(|n| format!("ns-{n}"));
        filter.names[3] = pod.map(|n| format!("pod-{n}"));
        let quoted = phrase.map(|phrase| format!("\"{phrase}\""));
        let q = [word.map(str::to_owned), quoted].into_iter().flatten().collect::<Vec<_>>().join(" ");
        filter.needles = Needle::parse(&q).unwrap();
        let expected: Vec<Line> = model.iter().filter(|line| {
            namespace.is_none_or(|n| line.pod % 2 == n) && pod.is_none_or(|n| line.pod == n)
                && line.severity >= severity && (bounds.0..bounds.1).contains(&line.time)
                && word.is_none_or(|word| plain_word(word, &line.body))
                && phrase.is_none_or(|phrase| line.body.contains(phrase))
        }).cloned().collect();
        let mut expected_keys: Vec<_> = expected.iter().map(Line::key).collect();
        expected_keys.sort();
        if descending {
            expected_keys.reverse();
        }
        expected_keys.truncate(limit);
        let order = if descending { Order::Descending } else { Order::Ascending };
        let got: Vec<_> = found(&store, filter.clone(), order, limit).into_iter().map(|(key, _)| key).collect();
        prop_assert_eq!(got, expected_keys);
        let mut got = found(&store, filter.clone(), order, usize::MAX);
        got.sort();
        prop_assert_eq!(got, listed(&expected));
        let count = store.count(filter, || true).unwrap();
        prop_assert_eq!(count.records, expected.len() as u64);
        let mut got = all(&store);
        got.sort();
        prop_assert_eq!(got, listed(&model));
    }

    /// Frames are sent again, in any order; the process dies at any time and reads again from the committed cursor.
    #[test]
    fn each_record_is_stored_once_under_resends_reorders_and_kills(
        frames in prop::collection::vec((0u8..3, 0u64..60, 1u64..20), 1..40), moves in prop::collection::vec(0u8..10, 40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let frame = |n: usize| -> Vec<Line> {
            let (file, start, count) = frames[n];
            (start..start + count).map(|n| Line::new(5 + n, file, n * 10, "x")).collect()
        };
        let (mut at, mut now, mut steps) = (0, 10_000, moves.iter().cycle().take(400));
        while at < frames.len() {
            ingest(&mut writer, &frame(at), at as u64 + 1, now);
            at += 1;
            match steps.next() {
                Some(0 | 1) => drop(writer.commit(now).unwrap()),
                Some(2) => now += 1_500,
                Some(3) => {
                    drop((store, writer));
                    (store, writer) = Store::open(dir.path(), options()).unwrap();
                    at = usize::try_from(writer.committed().offset).unwrap();
                }
                _ => {}
            }
        }
        let sent: BTreeSet<Line> = (0..frames.len()).flat_map(frame).collect();
        prop_assert_eq!(all(&store), listed(&sent.into_iter().collect::<Vec<_>>()));
    }
}

#[test]
fn a_file_that_is_sent_again_as_a_whole_is_absorbed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer) = Store::open(dir.path(), options()).unwrap();
    let lines = lines(1, 5000);
    for (n, part) in lines.chunks(500).enumerate() {
        ingest(&mut writer, part, n as u64 + 1, 1000 + n as u64 * 600);
        writer.commit(1000 + n as u64 * 600).unwrap();
    }
    drop(writer);
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    assert!(store.status().slices > 2);
    for part in lines.chunks(333) {
        ingest(&mut writer, part, 99, 9000);
    }
    assert_eq!((store.status().delivered, store.status().duplicates), (0, 5000));
    assert_eq!(all(&store), listed(&lines));
}

#[test]
fn a_crash_at_any_step_of_a_commit_doubles_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let source = dir.path().to_owned();
    let target = copies.path().to_owned();
    let mut made = 0;
    set_hook(move |step| {
        copy(&source, &target.join(format!("{made:03} {step}")));
        made += 1;
        Ok(())
    });
    let mut options = options();
    options.retention = Duration::from_secs(4);
    let (_, mut writer) = Store::open(dir.path(), options.clone()).unwrap();
    let lines = lines(1, 400);
    let frames: Vec<&[Line]> = lines.chunks(50).collect();
    for (n, frame) in frames.iter().enumerate() {
        let now = 10_000 + n as u64 * 700;
        ingest(&mut writer, frame, n as u64 + 1, now);
        writer.commit(now).unwrap();
    }
    writer.tick(17_000);
    HOOK.set(None);
    let mut tried = BTreeSet::new();
    for entry in fs::read_dir(copies.path()).unwrap() {
        let path = entry.unwrap().path();
        let step = path.file_name().unwrap().to_string_lossy()[4..].to_owned();
        options.retention = Duration::from_secs(1000);
        let (store, mut writer) = Store::open(&path, options.clone()).unwrap();
        assert_eq!(store.status().damaged_slices, 0, "{step}");
        let cursor = usize::try_from(writer.committed().offset).unwrap();
        for (n, frame) in frames.iter().enumerate().skip(cursor) {
            ingest(&mut writer, frame, n as u64 + 1, 20_000);
        }
        writer.commit(20_000).unwrap();
        // What retention had deleted is gone; all else is there once.
        let got = all(&store);
        let listed = listed(&lines);
        assert_eq!(got, listed[listed.len() - got.len()..], "{step}");
        assert!(got.len() == 400 || step == "slice unnamed", "{step} {}", got.len());
        tried.insert(step);
    }
    let steps = [
        "blocks written",
        "blocks durable",
        "index prepared",
        "index committed",
        "slice made",
        "slice named",
        "slice unnamed",
    ];
    assert!(steps.iter().all(|step| tried.contains(*step)), "{tried:?}");
}

#[test]
fn a_disk_that_fails_at_any_step_is_recovered_from_without_a_restart() {
    for failing in
        ["slice made", "slice named", "blocks written", "blocks durable", "index prepared", "index committed"]
    {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let lines = lines(1, 300);
        for (n, frame) in lines.chunks(50).enumerate() {
            let now = 10_000 + n as u64 * 700;
            let position = n as u64 * 3;
            ingest(&mut writer, frame, position + 1, now);
            let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
            set_hook(move |step| if step == failing { full() } else { Ok(()) });
            let failed = writer.commit(now).is_err();
            assert!(failed || failing.starts_with("slice"), "{failing}");
            // Intake goes on meanwhile, and the newest records are found.
            ingest(&mut writer, &frame[..10], position + 2, now);
            ingest(&mut writer, &[Line::new(1, 200, n as u64, "more")], position + 3, now);
            HOOK.set(None);
            if n % 2 == 0 {
                writer.commit(now).unwrap();
                assert_eq!(writer.committed().offset, position + 3);
                assert_eq!(store.status().pending_records, 0);
            }
        }
        let mut expected = lines.clone();
        expected.extend((0..6).map(|n| Line::new(1, 200, n, "more")));
        assert!(all(&store) == listed(&expected), "{failing}");
        writer.commit(50_000).unwrap();
        drop((store, writer));
        let (store, _writer) = Store::open(dir.path(), options()).unwrap();
        assert!(all(&store) == listed(&expected), "{failing}");
    }
}

/// Frames come between the steps of commits, some of them twice; the process dies at any time.
#[test]
fn what_is_taken_while_a_commit_lasts_is_found_at_once_and_is_in_the_next() {
    for dies_at in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let mut all_lines: Vec<Line> = (0..4).flat_map(|file| lines(file, 300)).collect();
        all_lines.sort_by_key(|line| line.uid.map(|(_, offset)| offset));
        let frames: Vec<&[Line]> = all_lines.chunks(40).collect();
        let (mut at, mut turn, mut ended) = (0, 0, 0);
        while at < frames.len() {
            ingest(&mut writer, frames[at], at as u64 + 1, 1000);
            at += 1;
            turn += 1;
            if turn % 3 == 0 || writer.is_committing() {
                // A block a step.
                let mut done = writer.commit_step(1, 1000).unwrap();
                assert_eq!(done.is_none(), writer.is_committing());
                while done.is_none() && turn % 7 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                    done = writer.commit_step(1, 1000).unwrap();
                }
                assert!(done.is_none_or(|done| done == writer.committed() && done.offset <= at as u64));
                ended += usize::from(done.is_some());
                let sent: Vec<Line> = frames[..at].concat();
                assert!(all(&store) == listed(&sent), "each once, {dies_at} {at}");
            }
            if turn == dies_at {
                drop((store, writer));
                (store, writer) = Store::open(dir.path(), options()).unwrap();
                at = usize::try_from(writer.committed().offset).unwrap();
            }
        }
        assert!(ended > 0, "{ended}");
        writer.commit(1000).unwrap();
        assert_eq!((writer.committed().offset, writer.is_committing()), (frames.len() as u64, false));
        assert_eq!(store.status().pending_records, 0);
        drop((store, writer));
        let (store, _writer) = Store::open(dir.path(), options()).unwrap();
        assert!(all(&store) == listed(&all_lines), "{dies_at}");
    }
}

#[test]
fn a_query_sees_each_record_once_while_a_commit_moves_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let query = || {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let found = found(&store, Filter::default(), Order::Ascending, usize::MAX);
                let keys: BTreeSet<_> = found.iter().map(|(key, _)| *key).collect();
                assert_eq!(keys.len(), found.len(), "a record twice");
                assert!(
                    found.len() >= last && found.len().is_multiple_of(100),
                    "{} after {last}",
                    found.len()
                );
                last = found.len();
            }
        };
        scope.spawn(query);
        scope.spawn(query);
        for (n, frame) in lines(1, 4000).chunks(100).enumerate() {
            ingest(&mut writer, frame, n as u64 + 1, 1000 + n as u64 * 100);
            if n % 3 == 0 {
                writer.commit(1000 + n as u64 * 100).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(all(&store).len(), 4000);
}

#[test]
fn retention_by_size_and_by_age_frees_the_disk_and_keeps_the_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.max_bytes = 400 << 10;
    options.slice_bytes = 60 << 10;
    let (store, mut writer) = Store::open(dir.path(), options.clone()).unwrap();
    let noise = |n: u64| {
        (0..40)
            .map(|k| format!("{:016x} ", (n * 40 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect::<String>()
    };
    for n in 0..1500 {
        ingest(&mut writer, &[Line::new(n, 1, n * 10, &noise(n))], n + 1, 1000);
        if n % 25 == 24 {
            writer.commit(1000).unwrap();
        }
    }
    assert!(slice::disk_bytes(dir.path()) < 600 << 10, "{}", slice::disk_bytes(dir.path()));
    let kept = all(&store);
    assert!(kept.len() > 100 && kept.len() < 1500, "{}", kept.len());
    assert_eq!(kept.last().unwrap().0.0, 1499);
    // A reader of a slice that goes finishes.
    let mut query = store.query(Filter::default(), Order::Ascending);
    while query.step(|_, _| {}) != Step::Record {}
    writer.tick(1000 + 8 * 86_400_000);
    assert_eq!(store.status().records, 0);
    let mut rest = 1;
    loop {
        match query.step(|_, _| rest += 1) {
            Step::End => break,
            Step::Record | Step::Read => {}
        }
    }
    assert_eq!((rest, query.errors()), (kept.len(), 0));
    drop(query);
    assert!(slice::disk_bytes(dir.path()) < 20 << 10, "{}", slice::disk_bytes(dir.path()));
    drop((store, writer));
    let (_, writer) = Store::open(dir.path(), options).unwrap();
    assert_eq!(writer.committed(), Position { segment: 1, offset: 1500 });
}

#[test]
fn what_was_set_aside_counts_as_the_stores_and_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.max_bytes = 400 << 10;
    for n in 0..5 {
        let slice = dir.path().join(format!("damaged/slice-000000000{n}.0"));
        fs::create_dir_all(slice.join("index")).unwrap();
        fs::write(slice.join("blocks"), vec![0; 100 << 10]).unwrap();
        let then = std::time::UNIX_EPOCH + Duration::from_secs(1000 - n);
        fs::File::open(&slice).unwrap().set_modified(then).unwrap();
    }
    let (store, mut writer) = Store::open(dir.path(), options).unwrap();
    ingest(&mut writer, &lines(1, 100), 1, 1000);
    writer.commit(1000).unwrap();
    writer.tick(20_000);
    let mut left: Vec<_> =
        fs::read_dir(dir.path().join("damaged")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["slice-0000000000.0", "slice-0000000001.0", "slice-0000000002.0"]);
    assert!(slice::disk_bytes(dir.path()) <= 400 << 10);
    assert_eq!(all(&store).len(), 100);
}

#[test]
fn a_damaged_slice_is_set_aside_and_the_rest_answers() {
    for (file, damage) in [
        ("index/meta.json", &b"{"[..]),
        ("blocks", b""),
        ("index/*.term", b"nonsense"),
        ("index/*.fast", b""),
        ("index/*.idx", b"\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut writer) = Store::open(dir.path(), options()).unwrap();
        let lines = lines(1, 300);
        for (n, frame) in lines.chunks(100).enumerate() {
            ingest(&mut writer, frame, n as u64 + 1, 1000 + n as u64 * 2000);
            writer.commit(1000 + n as u64 * 2000).unwrap();
        }
        drop(writer);
        let slice = dir.path().join("slice-0000000002");
        if let Some(ending) = file.strip_prefix("index/*") {
            for entry in fs::read_dir(slice.join("index")).unwrap() {
                let path = entry.unwrap().path();
                if path.to_string_lossy().ends_with(ending) {
                    fs::write(path, damage).unwrap();
                }
            }
        } else {
            fs::write(slice.join(file), damage).unwrap();
        }
        let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let filter = || Filter { needles: Needle::parse("line").unwrap(), ..Filter::default() };
        let mut query = store.query(filter(), Order::Ascending);
        while query.step(|_, _| {}) != Step::End {}
        writer.tick(9000);
        let rest: Vec<Line> = lines[..100].iter().chain(&lines[200..]).cloned().collect();
        assert_eq!(found(&store, filter(), Order::Ascending, usize::MAX), listed(&rest), "{file}");
        assert_eq!(store.status().damaged_slices, 1, "{file}");
        assert!(dir.path().join("damaged/slice-0000000002.0").exists(), "{file}");
        // What was lost may be sent again.
        ingest(&mut writer, &lines, 9, 9000);
        writer.commit(9000).unwrap();
        assert!(all(&store) == listed(&lines), "{file}");
    }
}

#[test]
fn a_slice_that_the_system_does_not_let_us_read_fails_the_start_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer) = Store::open(dir.path(), options()).unwrap();
    ingest(&mut writer, &lines(1, 100), 1, 1000);
    writer.commit(1000).unwrap();
    drop(writer);
    let slice = dir.path().join("slice-0000000001");
    let mut files = vec![slice.join("blocks"), slice.join("index/meta.json")];
    files.extend(
        fs::read_dir(slice.join("index"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "term")),
    );
    assert_eq!(files.len(), 3);
    for file in &files {
        let away = dir.path().join("away");
        fs::rename(file, &away).unwrap();
        // A link to itself: neither missing nor readable, for root too.
        std::os::unix::fs::symlink(file, file).unwrap();
        let error = Store::open(dir.path(), options()).err().unwrap();
        assert!(!error.is_damage() && error.to_string().contains("slice-0000000001"), "{error}");
        assert!(!dir.path().join("damaged").exists());
        fs::remove_file(file).unwrap();
        fs::rename(&away, file).unwrap();
        let (store, _) = Store::open(dir.path(), options()).unwrap();
        assert!(all(&store) == listed(&lines(1, 100)), "{}", file.display());
    }
}

#[test]
fn only_what_is_wrong_on_disk_counts_as_damage() {
    use std::io;
    use tantivy::TantivyError;
    let dir = Path::new("slice");
    for (errno, damage) in [(24, false), (13, false), (5, false), (12, false), (2, true)] {
        let error = || io::Error::from_raw_os_error(errno);
        assert_eq!(StoreError::io(dir, error()).is_damage(), damage, "{errno}");
        let index = StoreError::index(dir, TantivyError::IoError(Arc::new(error())));
        assert_eq!(index.is_damage(), damage, "{errno}");
    }
    assert!(StoreError::io(dir, io::ErrorKind::UnexpectedEof.into()).is_damage());
    assert!(StoreError::index(dir, TantivyError::InternalError("x".to_owned())).is_damage());
}

#[test]
fn a_damaged_block_is_left_out_and_the_rest_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    for file in 0..3 {
        ingest(&mut writer, &lines(file, 100), 1, 1000);
    }
    writer.commit(1000).unwrap();
    let blocks = dir.path().join("slice-0000000001/blocks");
    let mut bytes = fs::read(&blocks).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blocks, bytes).unwrap();
    let mut query = store.query(Filter::default(), Order::Descending);
    let mut records = 0;
    while query.step(|_, _| records += 1) != Step::End {}
    assert_eq!((records, query.errors()), (200, 1));
}

#[test]
fn bodies_of_any_form_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    let huge = "é0 ".repeat(350_000);
    let bodies = ["", " ", "\u{fffd}", "\u{1b}[1m bold", "\0\u{7}\r\n", "💥 ЖЖ", &huge];
    let lines: Vec<Line> =
        bodies.iter().enumerate().map(|(n, body)| Line::new(n as u64 + 1, 1, n as u64, body)).collect();
    ingest(&mut writer, &lines, 1, 1000);
    assert_eq!(all(&store), listed(&lines));
    writer.commit(1000).unwrap();
    assert_eq!(all(&store), listed(&lines));
}

#[test]
fn a_query_lets_blocks_go_when_too_many_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.commit_bytes = 64 << 20;
    let (store, mut writer) = Store::open(dir.path(), options).unwrap();
    // 250 files of one block of 110 KiB each, all over the same time: 27 MiB open at once.
    let body = "x".repeat(1000);
    let mut expected = 0;
    for file in 0..250 {
        let lines: Vec<Line> =
            (0..110).map(|n| Line::new(n * 1000 + u64::from(file), file, n, &body)).collect();
        expected += lines.len();
        ingest(&mut writer, &lines, 1, 1000);
    }
    writer.commit(1000).unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let mut keys: Vec<_> =
            found(&store, Filter::default(), order, usize::MAX).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), expected);
        if order == Order::Descending {
            keys.reverse();
        }
        assert!(keys.is_sorted());
    }
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_is_told_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    ingest(&mut writer, &lines(0, 5), 1, 1000);
    let mut follower = store.follow();
    ingest(&mut writer, &lines(1, 5), 2, 1000);
    let Followed::Chunk(chunk) = follower.next().await else { panic!("missed") };
    assert_eq!((chunk.records, chunk.origin.names[3].as_deref()), (5, Some("pod-1")));
    let body = "y".repeat(100_000);
    for n in 0..200 {
        ingest(&mut writer, &[Line::new(n, 2, n, &body)], 3, 1000);
    }
    let Followed::Missed(missed) = follower.next().await else { panic!("not missed") };
    let mut got = 0;
    while let Ok(Followed::Chunk(chunk)) =
        tokio::time::timeout(Duration::from_millis(100), follower.next()).await
    {
        got += u64::from(chunk.records);
    }
    assert!(missed > 0 && got > 0 && missed + got == 200, "{missed} {got}");
}

/// Not a promise but a figure: `cargo test -p sonde-collector --lib store::tests::rate -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn rate() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let frames: Vec<Vec<u8>> = (0..100u64)
        .map(|n| {
            let mut lines: Vec<Line> = (0..5000)
                .map(|k| {
                    let number = n * 5000 + k;
                    let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let body = format!(
                        "2026-11-20T19:10:00Z INFO request {number} GET /api/v1/items/{} status=200 took={}ms trace={id:016x} upstream=10.0.{}.{} user agent Mozilla/5.0 (X11; Linux x86_64) ok",
                        number % 977, number % 313, number % 7, number % 251
                    );
                    Line::new(number, u8::try_from(k % 24).unwrap(), number * 200, &body)
                })
                .collect();
            lines.sort_by_key(|line| line.pod);
            request(&lines)
        })
        .collect();
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let (started, mut longest) = (std::time::Instant::now(), Duration::ZERO);
    for (n, frame) in frames.iter().enumerate() {
        let (request, _) = LogsRequest::check(frame, &ViewLimits::default()).unwrap();
        writer.ingest(request, 1, Position { segment: 1, offset: n as u64 + 1 }, 1000);
        if writer.is_due(1000) {
            let pause = std::time::Instant::now();
            writer.commit_step(3 * frame.len(), 1000).unwrap();
            longest = longest.max(pause.elapsed());
        }
    }
    writer.commit(1000).unwrap();
    let took = started.elapsed();
    let status = store.status();
    println!("longest pause of intake {longest:?}");
    println!(
        "{} records, {bytes} bytes in {took:?}: {:.0}/s; {status:?}",
        status.records,
        status.records as f64 / took.as_secs_f64()
    );
    let started = std::time::Instant::now();
    let found =
        store.count(Filter { needles: Needle::parse("status 200").unwrap(), ..Filter::default() }, || true);
    println!("count of all by two words: {found:?} in {:?}", started.elapsed());
    let started = std::time::Instant::now();
    let found = store.count(
        Filter { needles: Needle::parse("trace=9e3779b97f4a7c15").unwrap(), ..Filter::default() },
        || true,
    );
    println!("count of one: {found:?} in {:?}", started.elapsed());
}
