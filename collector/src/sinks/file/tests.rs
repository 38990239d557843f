//! The file against disks that fill up, fail and crash, and against others who move it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::{Compression, SinkKind};
use crate::queue::Codec;
use crate::sinks::stub::{Random, Way, dead_letters, frame};
use crate::store::tests::Line;
use sonde_daemon::units::{Interval, Size};

fn sink(path: &Path) -> config::Sink {
    config::Sink {
        name: "next".to_owned(),
        kind: SinkKind::File,
        path: Some(path.to_owned()),
        ..config::Sink::default()
    }
}

/// Every file of the sink, oldest first, decompressed.
fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The file of now comes last.
    paths.sort_by_key(|path| (path.ends_with("out.ndjson"), path.clone()));
    let read = |path: &Path| {
        let mut text = String::new();
        let file = File::open(path).unwrap();
        match path.extension().unwrap().to_str().unwrap() {
            "gz" => flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap(),
            "zst" => zstd::stream::read::Decoder::new(file).unwrap().read_to_string(&mut text).unwrap(),
            _ => { file }.read_to_string(&mut text).unwrap(),
        };
        text
    };
    paths
        .into_iter()
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

fn bodies(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            line["body"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn lines(range: std::ops::Range<u64>) -> Vec<Line> {
    range.map(|n| Line::new(n + 1, 1, n, &format!("line {n} {}", "x".repeat(200)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_a_line_as_the_api_gives_it_and_in_the_order_of_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/on/the/way/out.ndjson");
    let way = Way::new(dir.path(), Files::build(&sink(&path)), "east", IN_FLIGHT);
    for first in (0..200).step_by(20) {
        way.queue.append(frame(&lines(first..first + 20), Codec::Zstd)).await.unwrap();
    }
    way.settled().await;
    assert_eq!(way.counts(), [200, 0, 0]);
    way.stop().await;
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(bodies(&text), lines(0..200).into_iter().map(|line| line.body).collect::<Vec<_>>());
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00.000000001Z", "severity": "INFO", "cluster": "east", "node": null,
        "namespace": "ns-1", "pod": "pod-1", "container": null, "stream": "stdout",
        "body": lines(0..1)[0].body, "uid": format!("01{}{:012x}", "5a".repeat(9), 0), "attributes": {"app": "x"},
    });
    assert_eq!(first, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_rotated_by_size_compressed_and_the_newest_stay() {
    for (compression, end) in [(Compression::None, ""), (Compression::Gzip, "gz"), (Compression::Zstd, "zst")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/out.ndjson");
        let sink = config::Sink {
            max_bytes: Some(Size(20_000)),
            max_files: Some(3),
            compression: Some(compression),
            ..sink(&path)
        };
        let way = Way::new(dir.path(), Files::build(&sink), "", IN_FLIGHT);
        // Somebody else's, whatever it is called.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let foreign = ["out.ndjson.old", "out.ndjson.20261121T070000Z-00x", "other.20261121T070000Z-000"];
        foreign.iter().for_each(|name| fs::write(path.with_file_name(name), "{}\n").unwrap());
        for first in (0..400).step_by(20) {
            way.queue.append(frame(&lines(first..first + 20), Codec::Zstd)).await.unwrap();
            way.settled().await;
        }
        way.stop().await;
        for name in foreign {
            fs::remove_file(path.with_file_name(name)).unwrap();
        }
        let files = files(path.parent().unwrap());
        assert_eq!(files.len(), 4, "{files:?}");
        for (rotated, text) in &files[..3] {
            let name = rotated.file_name().unwrap().to_str().unwrap();
            assert!(name.ends_with(end), "{name}");
            assert!(text.len() <= 20_000 && text.len() > 5_000, "{}", text.len());
        }
        let kept: Vec<String> = files.iter().flat_map(|(_, text)| bodies(text)).collect();
        let all: Vec<String> = lines(0..400).into_iter().map(|line| line.body).collect();
        assert!(kept.len() > 100 && all.ends_with(&kept), "the newest, none twice, in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_is_rotated_at_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/out.ndjson");
    let sink = config::Sink { max_age: Some(Interval(Duration::from_millis(300))), ..sink(&path) };
    let way = Way::new(dir.path(), Files::build(&sink), "", IN_FLIGHT);
    way.queue.append(frame(&lines(0..10), Codec::Zstd)).await.unwrap();
    way.settled().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    way.queue.append(frame(&lines(10..20), Codec::Zstd)).await.unwrap();
    way.settled().await;
    way.stop().await;
    let counts: Vec<usize> =
        files(path.parent().unwrap()).iter().map(|(_, text)| text.lines().count()).collect();
    assert_eq!(counts, [10, 10]);
}

/// A disk that has so much room, and that fails by chance.
struct Bad {
    random: Random,
    failures: Arc<Mutex<BTreeMap<&'static str, u32>>>,
}

impl Bad {
    fn fails(&mut self, what: &'static str) -> bool {
        let fails = self.random.pick(3) == 0;
        if fails {
            *self.failures.lock().unwrap().entry(what).or_default() += 1;
        }
        fails
    }
}

impl Disk for Bad {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        if self.fails("full") {
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        if self.fails("fsync") {
            return Err(io::Error::other("input/output error"));
        }
        file.sync_data()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_that_is_full_or_fails_every_line_is_there_once_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/out.ndjson");
    let failures = Arc::default();
    let bad = Bad { random: Random(0x9e37_79b9), failures: Arc::clone(&failures) };
    let sink = config::Sink { max_bytes: Some(Size(20_000)), max_files: Some(1000), ..sink(&path) };
    let way = Way::new(dir.path(), Files::on(&sink, Box::new(bad)), "", IN_FLIGHT);
    for first in (0..2000).step_by(20) {
        way.queue.append(frame(&lines(first..first + 20), Codec::Zstd)).await.unwrap();
    }
    way.settled().await;
    assert_eq!(way.counts(), [2000, 0, 0]);
    let retries = way.lane.numbers().retries();
    way.stop().await;
    assert!(retries["disk_full"] > 0 && retries["disk"] > 0, "{retries:?} {:?}", failures.lock().unwrap());
    let all: Vec<String> = files(path.parent().unwrap()).iter().flat_map(|(_, text)| bodies(text)).collect();
    assert_eq!(all, lines(0..2000).into_iter().map(|line| line.body).collect::<Vec<_>>());
    assert!(dead_letters(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_away_is_begun_anew_and_one_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let way = Way::new(dir.path(), Files::build(&sink(&path)), "", IN_FLIGHT);
    way.queue.append(frame(&lines(0..10), Codec::Zstd)).await.unwrap();
    way.settled().await;
    fs::rename(&path, dir.path().join("moved")).unwrap();
    way.queue.append(frame(&lines(10..20), Codec::Zstd)).await.unwrap();
    way.settled().await;
    // A second writer on the same path waits.
    let other = tempfile::tempdir().unwrap();
    let second = Way::new(other.path(), Files::build(&sink(&path)), "", IN_FLIGHT);
    second.queue.append(frame(&lines(20..30), Codec::Zstd)).await.unwrap();
    let tried = |way: &Way| way.lane.numbers().retries().get("disk").copied().unwrap_or(0);
    while tried(&second) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    way.stop().await;
    second.settled().await;
    second.stop().await;
    let count = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
    assert_eq!((count("moved"), count("out.ndjson")), (10, 20));
    // Not ours: it stays as it is, and nothing is lost.
    let foreign = dir.path().join("foreign");
    fs::write(&foreign, "root:x:0:0").unwrap();
    let third = tempfile::tempdir().unwrap();
    let way = Way::new(third.path(), Files::build(&sink(&foreign)), "", IN_FLIGHT);
    way.queue.append(frame(&lines(0..10), Codec::Zstd)).await.unwrap();
    while tried(&way) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(way.counts(), [0, 0, 0]);
    way.stop().await;
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "root:x:0:0");
}

/// Lines as a batch of one request.
fn unit(lines: &[Line]) -> Unit {
    Unit {
        signal: crate::queue::Signal::Logs,
        position: crate::queue::Position::default(),
        received_unix_nano: 1,
        bytes: crate::store::tests::request(lines).into(),
        first: 0,
        records: lines.len(),
        came: None,
        resend: false,
    }
}

/// Writes records as a process of its own would; gives how many it knew.
fn written(sink: &config::Sink, lines: &[Line], state: State) -> usize {
    let mut target = Target::new(target::Options::of(sink), Box::new(RealDisk));
    let written = write(&mut target, &[unit(lines)], &vec![state; lines.len()]);
    written.result.unwrap();
    assert_eq!(written.durable, lines.len());
    written.known.len()
}

/// Writes records into the file at `path` as a process of its own would.
fn append(path: &Path, range: std::ops::Range<u64>) {
    assert_eq!(written(&sink(path), &lines(range), State::Open), 0);
}

#[test]
fn what_the_process_before_wrote_is_not_written_again_wherever_it_is_by_now() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/out.ndjson");
        let sink = config::Sink {
            max_bytes: Some(Size(20_000)),
            max_files: Some(100),
            compression: Some(compression),
            ..sink(&path)
        };
        (0..10).for_each(|n| assert_eq!(written(&sink, &lines(n * 30..(n + 1) * 30), State::Open), 0));
        let all = || -> Vec<String> {
            files(path.parent().unwrap()).iter().flat_map(|(_, text)| bodies(text)).collect()
        };
        let expected = |count| lines(0..count).into_iter().map(|line| line.body).collect::<Vec<_>>();
        assert!(files(path.parent().unwrap()).len() > 4);
        // The cursor knew of the first ninety; forty had not been written.
        assert_eq!(written(&sink, &lines(90..340), State::InDoubt), 210);
        assert_eq!(all(), expected(340));
        // What nobody sent before is written, whatever it says.
        assert_eq!(written(&sink, &lines(330..340), State::Open), 0);
        assert_eq!(all().len(), 350);
    }
}

#[test]
fn lines_without_a_uid_that_are_alike_are_all_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let alike: Vec<Line> = (0..5).map(|_| Line { uid: None, ..Line::new(1, 1, 1, "tick") }).collect();
    assert_eq!(written(&sink(&path), &alike[..2], State::Open), 0);
    assert_eq!(written(&sink(&path), &alike, State::InDoubt), 0);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 7);
}

/// A disk whose first fsync of all fails.
struct Once(bool);

impl Disk for Once {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        if std::mem::replace(&mut self.0, true) { file.sync_data() } else { Err(io::Error::other("no")) }
    }
}

#[test]
fn what_an_agent_sends_again_after_the_start_is_not_written_again_and_what_did_not_become_durable_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let mut target = Target::new(target::Options::of(&sink(&path)), Box::new(Once(false)));
    let mut known = |range, state| {
        let lines = lines(range);
        let written = write(&mut target, &[unit(&lines)], &vec![state; lines.len()]);
        written.result.map(|()| written.known.len()).map_err(|error| error.to_string())
    };
    assert_eq!(known(0..10, State::InDoubt), Err("no".to_owned()));
    assert_eq!(known(0..10, State::InDoubt), Ok(0));
    assert_eq!(known(10..20, State::Open), Ok(0));
    assert_eq!(known(5..25, State::InDoubt), Ok(15));
    let expected: Vec<String> = lines(0..25).into_iter().map(|line| line.body).collect();
    assert_eq!(bodies(&fs::read_to_string(&path).unwrap()), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_a_crash_leaves_of_the_last_batch_the_lines_before_it_stay_and_all_are_whole(
        cut in 0..5000_usize, holes in prop::collection::vec((0..5000_usize, 1..600_usize), 0..3), zeros in 0..5000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.ndjson");
        append(&path, 0..10);
        let durable = fs::read(&path).unwrap();
        append(&path, 10..25);
        let mut torn = fs::read(&path).unwrap();
        // Some of its blocks were not written, some of its end is missing.
        for (at, len) in holes {
            let at = (durable.len() + at).min(torn.len());
            let end = (at + len).min(torn.len());
            torn[at..end].fill(0);
        }
        torn.truncate((durable.len() + cut).min(torn.len()));
        torn.resize(torn.len() + zeros, 0);
        fs::write(&path, &torn).unwrap();
        append(&path, 10..25);
        let text = fs::read(&path).unwrap();
        prop_assert!(text.starts_with(&durable));
        let found = bodies(std::str::from_utf8(&text).unwrap());
        let unique: BTreeSet<&String> = found.iter().collect();
        prop_assert_eq!(unique.len(), 25, "each is there");
        let again: Vec<String> = lines(10..25).into_iter().map(|line| line.body).collect();
        prop_assert!(found.ends_with(&again));
    }
}

#[test]
fn a_compression_that_a_crash_ended_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    append(&path, 0..10);
    let text = fs::read_to_string(&path).unwrap();
    let name = |name: &str| dir.path().join(format!("out.ndjson.20261121T0700{name}"));
    fs::write(name("00Z-000"), &text).unwrap();
    fs::write(name("00Z-000.gz.tmp"), "half").unwrap();
    fs::write(name("01Z-000"), &text).unwrap();
    fs::write(name("01Z-000.gz"), "whole and durable").unwrap();
    let mut target = Target::new(
        target::Options::of(&config::Sink { compression: Some(Compression::Gzip), ..sink(&path) }),
        Box::new(RealDisk),
    );
    target.begin().unwrap();
    let names: BTreeSet<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = ["out.ndjson", "out.ndjson.20261121T070000Z-000.gz", "out.ndjson.20261121T070001Z-000.gz"];
    assert_eq!(names, expected.map(str::to_owned).into());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(File::open(name("00Z-000.gz")).unwrap())
        .read_to_string(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, text);
}

#[test]
fn a_file_that_somebody_empties_or_appends_to_has_whole_lines_and_all_that_came_after() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let mut target = Target::new(target::Options::of(&sink(&path)), Box::new(Once(true)));
    let mut put = |range: std::ops::Range<u64>| {
        let lines = lines(range);
        write(&mut target, &[unit(&lines)], &vec![State::Open; lines.len()]).result.unwrap();
    };
    let expected = |range| lines(range).into_iter().map(|line| line.body).collect::<Vec<_>>();
    put(0..10);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    put(10..20);
    put(20..30);
    assert_eq!(bodies(&fs::read_to_string(&path).unwrap()), expected(10..30));
    // In the middle of a line.
    let whole = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - 7).unwrap();
    put(30..40);
    let kept: Vec<String> = expected(10..29).into_iter().chain(expected(30..40)).collect();
    assert_eq!(bodies(&fs::read_to_string(&path).unwrap()), kept);
}

/// A disk whose fsyncs fail as often as it is told to.
struct Counted(Arc<std::sync::atomic::AtomicU32>);

impl Disk for Counted {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        match self.0.fetch_update(relaxed, relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::Error::other("no")),
            Err(_) => file.sync_data(),
        }
    }
}

#[test]
fn where_somebody_has_appended_a_batch_that_fails_takes_back_nothing_that_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let fails = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let disk = Box::new(Counted(Arc::clone(&fails)));
    let mut target = Target::new(target::Options::of(&sink(&path)), disk);
    let mut put = |range: std::ops::Range<u64>| {
        let lines = lines(range);
        write(&mut target, &[unit(&lines)], &vec![State::Open; lines.len()]).result
    };
    put(0..10).unwrap();
    let others = "{\"time\":\"of somebody else\",\"body\":\"x\"}\n".repeat(40);
    io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(&path).unwrap(), others.as_bytes())
        .unwrap();
    put(10..20).unwrap();
    fails.store(1, std::sync::atomic::Ordering::Relaxed);
    put(20..30).unwrap_err();
    put(30..40).unwrap();
    let ours: Vec<String> =
        bodies(&fs::read_to_string(&path).unwrap()).into_iter().filter(|body| body != "x").collect();
    let expected: Vec<String> = lines(0..20).into_iter().chain(lines(30..40)).map(|line| line.body).collect();
    assert_eq!(ours, expected);
}

#[test]
fn rotated_files_are_in_their_order_when_the_clock_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let sink = config::Sink { max_bytes: Some(Size(3_000)), max_files: Some(5), ..sink(&path) };
    // Before the clock was set back; and one that no clock has shown.
    for stamp in ["20990101T000000Z-998.gz", "99999999T999999Z-000", "20990101T000000Z-000"] {
        fs::write(dir.path().join(format!("out.ndjson.{stamp}")), "").unwrap();
    }
    let mut target = Target::new(target::Options::of(&sink), Box::new(RealDisk));
    for first in (0..80).step_by(10) {
        let lines = lines(first..first + 10);
        write(&mut target, &[unit(&lines)], &vec![State::Open; lines.len()]).result.unwrap();
    }
    let mut names: Vec<PathBuf> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let rotated: Vec<&PathBuf> = names.iter().filter(|name| !name.ends_with("out.ndjson")).collect();
    assert_eq!(rotated.len(), 5, "{rotated:?}");
    let first = |name: &PathBuf| bodies(&fs::read_to_string(name).unwrap()).into_iter().next();
    let bodies: Vec<String> = rotated.iter().filter_map(|name| first(name)).collect();
    let mut sorted = bodies.clone();
    sorted.sort_by_key(|body| body.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok()));
    assert_eq!((bodies.len(), &bodies), (4, &sorted), "the newest stay, in their order: {rotated:?}");
}

/// A disk that does not answer.
struct Hangs(std::sync::mpsc::Receiver<()>, Arc<std::sync::atomic::AtomicU32>);

impl Disk for Hangs {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _ = self.0.recv();
        file.sync_data()
    }
}

#[tokio::test]
async fn a_disk_that_hangs_holds_one_thread_however_often_a_batch_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ndjson");
    let (answers, hangs) = std::sync::mpsc::channel();
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let files = Files::on(&sink(&path), Box::new(Hangs(hangs, Arc::clone(&asked))));
    let batch = |range| Batch::new(vec![unit(&lines(range))], |_| false);
    let mut given_up = batch(0..10);
    tokio::select! {
        _ = files.deliver(&mut given_up) => panic!("the disk has not answered"),
        () = async { while asked.load(std::sync::atomic::Ordering::Relaxed) == 0 { tokio::task::yield_now().await } } => {}
    }
    for _ in 0..100 {
        let trouble = files.deliver(&mut batch(10..20)).await.unwrap_err();
        assert_eq!(trouble.code, "disk_hangs");
    }
    drop(answers);
    let mut next = batch(10..20);
    while files.deliver(&mut next).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((next.open(), fs::read_to_string(&path).unwrap().lines().count()), (0, 20));
}
