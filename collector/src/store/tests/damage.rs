//! What is not what was written, or cannot be read.

use super::*;

/// Three slices of 100 lines each; gives the lines.
fn three_slices(dir: &Path) -> Vec<Line> {
    let (_, mut writer) = Store::open(dir, options()).unwrap();
    let lines = lines(1, 300);
    for (n, frame) in lines.chunks(100).enumerate() {
        ingest(&mut writer, frame, n as u64 + 1, 1000 + n as u64 * 2000);
        writer.commit(1000 + n as u64 * 2000).unwrap();
    }
    lines
}

/// Searches for all lines, so that what is damaged is met; gives how many there were and what lacked.
fn search(store: &Store) -> (usize, u64) {
    let filter = Filter { needles: Needle::parse("line").unwrap(), ..Filter::default() };
    let mut query = store.query(filter, Order::Ascending);
    let mut found = 0;
    while query.step(|_, _| found += 1) != Step::End {}
    (found, query.errors())
}

fn put(slice: &Path, file: &str, content: &[u8]) {
    let Some(ending) = file.strip_prefix("index/*") else {
        return fs::write(slice.join(file), content).unwrap();
    };
    for entry in fs::read_dir(slice.join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(ending) {
            fs::write(path, content).unwrap();
        }
    }
}

#[test]
fn a_damaged_index_is_made_anew_from_the_blocks() {
    for (file, damage) in [
        ("index/meta.json", &b"{"[..]),
        ("index/*.term", b"nonsense"),
        ("index/*.fast", b""),
        ("index/*.idx", b"\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("", b""),
    ] {
        for number in [2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let lines = three_slices(dir.path());
            let slice = dir.path().join(format!("slice-000000000{number}"));
            match file {
                "" => fs::remove_dir_all(slice.join("index")).unwrap(),
                file => put(&slice, file, damage),
            }
            let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
            search(&store);
            writer.tick(9000);
            assert!(all(&store) == listed(&lines), "{file} {number}");
            let status = store.status();
            assert_eq!(
                (status.damaged_slices, status.rebuilt_slices, status.lost_bytes),
                (0, 1, 0),
                "{file}"
            );
            assert!(!dir.path().join("damaged").exists(), "{file}");
            assert_eq!(writer.committed().offset, 3, "{file}: the cursor is kept");
            // It goes on, and what comes again is known.
            ingest(&mut writer, &lines, 9, 9000);
            ingest(&mut writer, &[Line::new(1, 9, 1, "line")], 10, 9000);
            writer.commit(9000).unwrap();
            assert_eq!((all(&store).len(), store.status().duplicates), (301, 300), "{file}");
            drop((store, writer));
            let (store, _) = Store::open(dir.path(), options()).unwrap();
            assert_eq!((all(&store).len(), store.status().rebuilt_slices), (301, 0), "{file}");
        }
    }
}

#[test]
fn a_slice_without_a_whole_block_is_set_aside_and_the_rest_answers() {
    for keep_length in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let lines = three_slices(dir.path());
        let slice = dir.path().join("slice-0000000002");
        let len = if keep_length { fs::metadata(slice.join("blocks")).unwrap().len() } else { 0 };
        fs::write(slice.join("blocks"), vec![7; usize::try_from(len).unwrap()]).unwrap();
        let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
        search(&store);
        writer.tick(9000);
        let rest: Vec<Line> = lines[..100].iter().chain(&lines[200..]).cloned().collect();
        assert!(all(&store) == listed(&rest));
        assert_eq!(store.status().damaged_slices, 1);
        assert!(dir.path().join("damaged/slice-0000000002.0").exists());
        // What was lost may be sent again.
        ingest(&mut writer, &lines, 9, 9000);
        writer.commit(9000).unwrap();
        assert!(all(&store) == listed(&lines));
    }
}

#[test]
fn blocks_that_end_too_early_cost_what_is_missing_and_every_answer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer) = Store::open(dir.path(), options()).unwrap();
    for file in 0..3 {
        ingest(&mut writer, &lines(file, 100), u64::from(file) + 1, 1000);
    }
    writer.commit(1000).unwrap();
    drop(writer);
    let blocks = dir.path().join("slice-0000000001/blocks");
    let bytes = fs::read(&blocks).unwrap();
    fs::write(&blocks, &bytes[..bytes.len() - 10]).unwrap();
    for (rebuilt, round) in [(1, 0), (0, 1)] {
        let (store, writer) = Store::open(dir.path(), options()).unwrap();
        assert_eq!(search(&store), (200, 1), "{round}");
        let count = store.count(Filter::default(), || true).unwrap();
        assert_eq!(count, Count { records: 200, errors: 1 });
        let status = store.status();
        assert_eq!((status.damaged_slices, status.rebuilt_slices), (0, rebuilt));
        assert_eq!(writer.committed().offset, 3);
    }
}

#[test]
fn what_was_never_committed_to_is_cleaned_away_without_an_alarm() {
    for left in ["index", "index without meta", "blocks", "nothing"] {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut writer) = Store::open(dir.path(), options()).unwrap();
        ingest(&mut writer, &lines(1, 100), 1, 1000);
        writer.commit(1000).unwrap();
        // The process dies when the second slice has its name, and the next one while it cleans up.
        ingest(&mut writer, &lines(2, 100), 2, 9000);
        set_hook(|step| if step == "slice named" { Err(io::ErrorKind::Other.into()) } else { Ok(()) });
        writer.commit(9000).unwrap_err();
        HOOK.set(None);
        drop(writer);
        let slice = dir.path().join("slice-0000000002");
        assert!(slice.join("blocks").exists() && slice.join("index/meta.json").exists());
        match left {
            "index" => fs::remove_file(slice.join("blocks")).unwrap(),
            "index without meta" => {
                fs::remove_file(slice.join("blocks")).unwrap();
                fs::remove_file(slice.join("index/meta.json")).unwrap();
            }
            "blocks" => fs::remove_dir_all(slice.join("index")).unwrap(),
            _ => {
                fs::remove_dir_all(&slice).unwrap();
                fs::create_dir(&slice).unwrap();
            }
        }
        let (store, _writer) = Store::open(dir.path(), options()).unwrap();
        let status = store.status();
        assert_eq!((status.damaged_slices, status.rebuilt_slices), (0, 0), "{left}");
        assert!(!dir.path().join("damaged").exists() && !slice.exists(), "{left}");
        assert_eq!(all(&store).len(), 100);
    }
}

#[test]
fn what_is_deleted_under_the_running_store_is_missed_and_it_goes_on() {
    for deleted in ["all", "a slice", "the newest slice", "blocks", "index"] {
        let dir = tempfile::tempdir().unwrap();
        let store_dir = dir.path().join("store");
        let (store, mut writer) = Store::open(&store_dir, options()).unwrap();
        let lines = lines(1, 400);
        for n in 0..2 {
            ingest(&mut writer, &lines[n * 100..][..100], n as u64 + 1, 1000 + n as u64 * 2000);
            writer.commit(1000 + n as u64 * 2000).unwrap();
        }
        ingest(&mut writer, &lines[200..300], 3, 3100);
        let newest = store_dir.join("slice-0000000002");
        match deleted {
            "all" => fs::remove_dir_all(&store_dir).unwrap(),
            "a slice" => fs::remove_dir_all(store_dir.join("slice-0000000001")).unwrap(),
            "the newest slice" => fs::remove_dir_all(&newest).unwrap(),
            "blocks" => fs::remove_file(newest.join("blocks")).unwrap(),
            _ => fs::remove_dir_all(newest.join("index")).unwrap(),
        }
        let mut tries = 0;
        while writer.commit(3100).is_err() {
            writer.tick(3200);
            tries += 1;
            assert!(tries < 3, "{deleted}");
        }
        writer.tick(20_000);
        assert_eq!(
            store.status().damaged_slices,
            match deleted {
                "all" => 2,
                "index" => 0,
                _ => 1,
            },
            "{deleted}"
        );
        ingest(&mut writer, &lines[300..], 4, 20_000);
        writer.commit(20_000).unwrap();
        let left = match deleted {
            "all" => &lines[200..],
            "a slice" => &lines[100..],
            "index" => &lines[..],
            _ => &[&lines[..100], &lines[200..]].concat(),
        };
        assert!(all(&store) == listed(left), "{deleted}");
        assert_eq!(writer.committed().offset, 4);
        drop((store, writer));
        let (store, writer) = Store::open(&store_dir, options()).unwrap();
        assert!(all(&store) == listed(left), "{deleted}");
        assert_eq!((writer.committed().offset, store.status().damaged_slices), (4, 0), "{deleted}");
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
fn a_slice_that_the_disk_cannot_read_is_made_anew_or_set_aside_and_the_rest_answers() {
    // How often it cannot be read, and what is left: mended slices, those set aside.
    for (failures, rebuilt, damaged) in [(3, 0, 0), (4, 1, 0), (5, 0, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let lines = three_slices(dir.path());
        let mut opened = 0;
        set_hook(move |step| {
            opened += u64::from(step == "slice opened");
            let fails = step == "slice opened" && (2..2 + failures).contains(&opened);
            if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let status = store.status();
        assert_eq!((status.rebuilt_slices, status.damaged_slices), (rebuilt, damaged), "{failures}");
        let rest: Vec<Line> = lines[..100].iter().chain(&lines[200..]).cloned().collect();
        assert!(all(&store) == listed(if damaged > 0 { &rest } else { &lines }), "{failures}");
        assert_eq!(dir.path().join("damaged/slice-0000000002.0").exists(), damaged > 0);
        // It goes on, and what was lost may be sent again.
        ingest(&mut writer, &lines, 9, 9000);
        writer.commit(9000).unwrap();
        assert!(all(&store) == listed(&lines), "{failures}");
    }
}

#[test]
fn a_volume_that_neither_reads_nor_writes_fails_the_start_and_everything_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let lines = three_slices(dir.path());
    let eio = |step| match step {
        "slice opened" | "probe written" => Err(std::io::Error::from_raw_os_error(5)),
        _ => Ok(()),
    };
    set_hook(eio);
    assert!(Store::open(dir.path(), options()).is_err());
    set_hook(|_| Ok(()));
    assert!(!dir.path().join("damaged").exists());
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    assert!(all(&store) == listed(&lines));
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
    // Then it is left out of counts too, and every answer says that something lacks.
    writer.tick(1000);
    let count = Count { records: 200, errors: 1 };
    assert_eq!((search(&store), store.count(Filter::default(), || true)), ((200, 1), Some(count)));
    assert_eq!((store.status().rebuilt_slices, store.status().lost_bytes > 0), (1, true));
    drop((store, writer));
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    assert_eq!((search(&store), store.count(Filter::default(), || true)), ((200, 1), Some(count)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happened to a slice's files: it opens, what it finds was stored, and each record comes once.
    #[test]
    fn any_change_to_a_slices_files_is_survived(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), change in 0..10_u8,
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let lines = three_slices(dir.path());
        let slice = dir.path().join("slice-0000000002");
        let mut files = Vec::new();
        for dir in [slice.clone(), slice.join("index")] {
            files.extend(fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
        }
        files.sort();
        let path = file.get(&files);
        let mut bytes = fs::read(path).unwrap();
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = at.index(bytes.len());
        match change {
            0..8 => bytes[at] ^= 1 << change,
            8 => bytes.truncate(at),
            _ => bytes = noise,
        }
        fs::write(path, bytes).unwrap();
        let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
        search(&store);
        store.count(Filter::default(), || true).unwrap();
        writer.tick(9000);
        let mut query = store.query(Filter::default(), Order::Ascending);
        let mut found = Vec::new();
        while query.step(|_, row| found.push((row.key(), String::from_utf8_lossy(row.body).into_owned()))) != Step::End {}
        let sent = listed(&lines);
        prop_assert!(found.is_sorted_by(|a, b| a < b) && found.iter().all(|line| sent.binary_search(line).is_ok()));
        prop_assert!(found.len() >= 200, "{}", found.len());
        ingest(&mut writer, &lines, 9, 9000);
        writer.commit(9000).unwrap();
    }

    #[test]
    fn any_bytes_are_walked_as_blocks_without_a_panic(parts in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            // A header that promises up to 4 GiB.
            (any::<u32>(), any::<u32>()).prop_map(|(packed, unpacked)| {
                let mut head = b"SBK1....".to_vec();
                head.extend(packed.to_le_bytes());
                head.extend(unpacked.to_le_bytes());
                head.extend([0; 8]);
                head
            }),
            // A checksum that is right over content that is not.
            (any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(unpacked, origin, body)| {
                let mut rest = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
                rest.extend(unpacked.to_le_bytes());
                rest.extend(origin.to_le_bytes());
                rest.extend(1_u32.to_le_bytes());
                rest.extend(body);
                [&b"SBK1"[..], &crc32fast::hash(&rest).to_le_bytes(), &rest].concat()
            }),
            Just({
                let mut out = Vec::new();
                let rows = Line::new(1, 1, 1, "x");
                block::Packer::new().unwrap().pack(&Origin::default(), [rows.body.as_bytes()], &mut out).unwrap();
                out
            }),
        ], 0..8)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blocks");
        fs::write(&path, parts.concat()).unwrap();
        let whole = parts.iter().filter(|part| block::unpack(part).is_ok()).count();
        let (mut walked, mut end) = (0, 0);
        rebuild::walk(&fs::File::open(&path).unwrap(), parts.concat().len() as u64, |at, _, len| {
            assert!(at >= end && len > 0);
            (walked, end) = (walked + 1, at + len);
            Ok(())
        }).unwrap();
        prop_assert!(walked >= whole, "{} of {}", walked, whole);
    }
}
