use proptest::prelude::*;

use super::frame::{VERSION, apply};
use super::*;

#[path = "tests/model.rs"]
mod model;
#[path = "tests/power.rs"]
mod power;

fn key(n: u8) -> FileKey {
    FileKey {
        pod_dir: format!("ns_pod_{n}"),
        container: "app".into(),
        restart: u32::from(n),
        hash: FileHash([n; 10]),
    }
}

fn file(n: u8, watermark: u64) -> Entry {
    let cuts = vec![
        Cut { offset: watermark + 5, stream: Some(Stream::Stderr) },
        Cut { offset: watermark + 9, stream: None },
    ];
    let state = FileState {
        head_len: 1024,
        seen: watermark + 1000,
        settled: vec![(0, watermark), (watermark + 10, watermark + 20)],
        cuts,
        cutoff: 7,
        salt: if n >= 3 { 1 << 60 } else { 0 },
        proof: (n == 3).then_some(Proof { head_len: 4096, head: u32::MAX, at: 1 << 40, tail: 7 }),
        name: "0.log".into(),
        node: (n != 2).then_some((u64::from(n), 1 << 40)),
        rules: if n == 3 { vec![(0, "c 9 9 9 preset java".into()), (7, String::new())] } else { vec![] },
    };
    Entry::File(key(n), state)
}

fn row(n: u64) -> Entry {
    let key = RowKey { namespace: "ns".into(), pod: "pod".into(), container: String::new() };
    Entry::Row(
        key,
        Row { observed: n, acked: 1, shed: [2], lost: [3, 4, 5, 6, 7], excluded: [8, 9, 10], records: 11 },
    )
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let now = Instant::now();
    let (mut writer, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert!(state.found == Found::Nothing && writer.wants_all());
    assert!(writer.write(&[file(1, 10), file(2, 20), row(5), Entry::Gaps(3)], true, now));
    assert!(!writer.wants_all());
    assert!(writer.write(&[file(1, 300), Entry::Gone(key(2)), row(9)], false, now));
    let (_, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert_eq!(state.files.len(), 1);
    assert_eq!(Some(&Entry::File(key(1), state.files[&key(1)].clone())), Some(&file(1, 300)));
    assert_eq!(state.rows.values().next().map(|row| row.observed), Some(9));
    assert_eq!((state.gaps, state.damaged, state.found), (3, 0, Found::State));
}

#[test]
fn multi_line_rules_and_a_clean_stop_are_kept_and_a_state_without_rules_is_as_earlier_versions_wrote_it() {
    let plain = frame(&[file(1, 1), Entry::Stopped]);
    assert_eq!(plain[12], 1);
    let state = read(&[plain, frame(&[file(3, 1)]), frame(&[Entry::Stopped])].concat());
    assert!(state.stopped && state.damaged == 0);
    assert_eq!(state.files.len(), 2, "the stop is no file");
    assert_eq!(state.files[&key(3)].rules, [(0, "c 9 9 9 preset java".to_owned()), (7, String::new())]);
    for behind in [frame(&[row(1)]), b"torn".to_vec(), vec![0; 3]] {
        assert!(
            !read(&[frame(&[Entry::Stopped]), behind].concat()).stopped,
            "something was written behind it"
        );
    }
}

#[test]
fn a_state_has_the_lowest_version_that_has_a_name_for_all_that_is_in_it_and_is_read_with_older_ones() {
    let Entry::File(of, with_proof) = file(3, 1) else { panic!("a file") };
    let rules_alone = FileState { salt: 0, proof: None, ..with_proof.clone() };
    let of_salt = FileState { rules: vec![], proof: None, ..with_proof.clone() };
    let begun = Entry::Begun("/var/log/*.log".into());
    let mut frames = Vec::new();
    for (entry, version) in [
        (row(1), 1),
        (file(1, 1), 1),
        (Entry::File(of.clone(), rules_alone.clone()), 2),
        (Entry::File(of.clone(), of_salt.clone()), 3),
        (begun, 3),
    ] {
        let bytes = frame(&[file(2, 1), entry.clone()]);
        assert_eq!(bytes[12], version, "{entry:?}");
        frames.push(bytes);
    }
    for (count, state) in [(3, rules_alone), (4, of_salt)] {
        let read = read(&frames[..count].concat());
        assert_eq!((&read.files[&of], read.files.len(), read.damaged), (&state, 3, 0));
    }
    assert_eq!(read(&frames.concat()).begun.len(), 1);
}

#[test]
fn a_torn_end_is_ignored_and_a_damaged_middle_costs_only_itself() {
    let frames = [frame(&[file(1, 1)]), frame(&[file(1, 2), file(2, 2)]), frame(&[file(3, 3)])];
    let whole = frames.concat();
    for end in 0..=whole.len() {
        let state = read(&whole[..end]);
        let expected = if end < frames[0].len() {
            0
        } else if end < frames[0].len() + frames[1].len() {
            1
        } else if end < whole.len() {
            2
        } else {
            3
        };
        assert_eq!(state.files.len(), expected, "{end}");
        assert_eq!(state.damaged > 0, 0 < end && end < frames[0].len(), "{end}");
    }
    let mut damaged = whole.clone();
    damaged[frames[0].len() + 30] ^= 1;
    let state = read(&damaged);
    assert!(state.damaged > 0);
    assert_eq!(state.files.len(), 2);
    assert!(state.files.contains_key(&key(1)) && state.files.contains_key(&key(3)));
}

#[test]
fn a_damaged_file_is_set_aside_and_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("positions"), [7; 100]).unwrap();
    let (mut writer, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert!(state.found == Found::State && state.damaged > 0 && writer.wants_all());
    assert!(writer.write(&[file(1, 1)], true, Instant::now()));
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("positions.corrupt-")), "{names:?}");
    let (_, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert_eq!((state.files.len(), state.damaged), (1, 0));
}

/// A disk that is full for a while, and then tears what it is given.
struct FullDisk {
    inner: DiskStore,
    full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Store for FullDisk {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.inner.load()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes)
    }
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.replace(bytes)
    }
    fn set_aside(&mut self) -> io::Result<()> {
        self.inner.set_aside()
    }
}

#[test]
fn a_full_disk_is_said_and_tried_again_each_second() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let store = FullDisk { inner: DiskStore::new(dir.path()), full: full.clone() };
    let now = Instant::now();
    let (mut writer, _) = Checkpoints::open(Box::new(store)).unwrap();
    assert!(writer.write(&[file(1, 1)], true, now));
    full.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!writer.write(&[file(1, 2)], false, now));
    assert!(writer.failing() && !writer.may_write(now) && writer.may_write(now + RETRY));
    full.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.write(&[file(1, 3)], false, now + RETRY));
    assert!(!writer.failing());
    assert_eq!(writer.errors(), 1);
}

#[test]
fn a_fifo_or_a_directory_in_the_place_of_the_positions_is_an_error_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("positions");
    for make in ["mkfifo", "mkdir"] {
        assert!(std::process::Command::new(make).arg(&path).status().unwrap().success());
        let (sender, receiver) = std::sync::mpsc::channel();
        let place = dir.path().to_owned();
        std::thread::spawn(move || {
            let opened = Checkpoints::open(Box::new(DiskStore::new(&place)));
            let _ = sender.send(opened.map(drop).map_err(|error| error.kind()));
        });
        let opened = receiver.recv_timeout(Duration::from_secs(20)).expect("opening it came back");
        assert!(opened.is_err(), "{make}");
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_dir(&path);
    }
}

#[test]
fn positions_that_were_emptied_and_those_of_a_newer_version_are_known_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("positions");
    let now = Instant::now();
    std::fs::write(&path, b"").unwrap();
    let (mut writer, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert!(state.found == Found::Empty && state.damaged == 0 && writer.wants_all());
    assert!(writer.write(&[file(1, 10)], true, now));
    let (_, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert_eq!((state.found, state.files.len()), (Found::State, 1));
    // The same frame, as a newer version might have written it.
    let mut bytes = frame(&[file(1, 10)]);
    bytes[12] = VERSION + 1;
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let (writer, state) = Checkpoints::open(Box::new(DiskStore::new(dir.path()))).unwrap();
    assert!(state.found == Found::Newer && state.files.is_empty() && writer.wants_all());
    let kept = std::fs::read_dir(dir.path()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("positions.corrupt-")
    });
    assert_eq!(kept.count(), 1, "what the newer version wrote is kept for people");
}

#[test]
fn a_cut_of_any_stream_and_a_file_without_an_inode_as_first_written_are_read_back() {
    let cuts = [None, Some(Stream::Stdout), Some(Stream::Stderr), Some(Stream::Unknown)];
    let cuts: Vec<Cut> = cuts.into_iter().map(|stream| Cut { offset: 9, stream }).collect();
    let Entry::File(key, state) = file(2, 20) else { panic!("a file") };
    let state = FileState { cuts, ..state };
    let mut payload = frame(&[Entry::File(key.clone(), state.clone())])[12..].to_vec();
    let read = |payload: &[u8]| {
        let mut read = State::default();
        apply(&mut read, payload).unwrap();
        read.files.remove(&key).unwrap()
    };
    assert_eq!(read(&payload), state);
    // The tag, and no inode at the end.
    assert_eq!((payload[1], &payload[payload.len() - 3..]), (6, &[0, 0, 0][..]));
    payload[1] = 1;
    payload.truncate(payload.len() - 3);
    assert_eq!(read(&payload), state);
}

proptest! {
    #[test]
    fn no_bytes_can_make_reading_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in 0usize..200) {
        let _ = read(&bytes);
        let mut good = frame(&[file(1, 1), row(4)]);
        let at = flip % good.len();
        good[at] ^= 0x55;
        let _ = read(&good);
        // The checksum stands aside, so that the entries themselves are attacked too.
        let mut payload = vec![VERSION];
        payload.extend_from_slice(&bytes);
        let _ = apply(&mut State::default(), &payload);
    }
}
