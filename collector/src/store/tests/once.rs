//! Each record once: sent again, across crashes and failing disks, while commits last.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
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
        "commit saved",
        "slice made",
        "slice named",
        "slice unnamed",
    ];
    assert!(steps.iter().all(|step| tried.contains(*step)), "{tried:?}");
}

#[test]
fn a_disk_that_fails_at_any_step_is_recovered_from_without_a_restart() {
    for failing in [
        "slice made",
        "slice named",
        "blocks written",
        "blocks durable",
        "index prepared",
        "index committed",
        "commit saved",
    ] {
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

/// The try reached the disk, its answer was an error, and then the slice turns out to be too old.
#[test]
fn what_a_failed_commit_wrote_is_not_stored_again_when_retention_comes_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    (options.retention, options.slice_age) = (Duration::from_secs(12), Duration::from_secs(100));
    let (store, mut writer) = Store::open(dir.path(), options.clone()).unwrap();
    let lines = lines(1, 100);
    ingest(&mut writer, &lines[..50], 1, 10_000);
    writer.commit(10_000).unwrap();
    ingest(&mut writer, &lines[50..], 2, 10_500);
    set_hook(|step| if step == "index committed" { Err(io::ErrorKind::Other.into()) } else { Ok(()) });
    writer.commit(10_500).unwrap_err();
    HOOK.set(None);
    assert!(all(&store) == listed(&lines));
    // Too old by the commit before, not by this one.
    writer.tick(22_400);
    assert!(all(&store) == listed(&lines), "{}", all(&store).len());
    writer.commit(22_400).unwrap();
    assert!(all(&store) == listed(&lines), "{}", all(&store).len());
    assert_eq!((writer.committed().offset, store.status().pending_records), (2, 0));
    drop((store, writer));
    let (store, writer) = Store::open(dir.path(), options).unwrap();
    assert!(all(&store) == listed(&lines));
    assert_eq!(writer.committed().offset, 2);
}

/// Retention begins an empty slice for the cursor and fails on the way, again and again: the cursor stays on disk.
#[test]
fn the_cursor_is_on_disk_however_the_move_to_an_empty_slice_fails() {
    for failing in
        ["slice made", "slice named", "blocks durable", "index prepared", "index committed", "commit saved"]
    {
        let dir = tempfile::tempdir().unwrap();
        let copies = tempfile::tempdir().unwrap();
        let mut options = options();
        options.retention = Duration::from_secs(4);
        let (store, mut writer) = Store::open(dir.path(), options.clone()).unwrap();
        ingest(&mut writer, &lines(1, 50), 7, 10_000);
        writer.commit(10_000).unwrap();
        let stop = move |step| if step == failing { Err(io::ErrorKind::Other.into()) } else { Ok(()) };
        for turn in 1..4 {
            set_hook(stop);
            writer.tick(10_000 + turn * 20_000);
            HOOK.set(None);
            let to = copies.path().join(turn.to_string());
            copy(dir.path(), &to);
            let (_, writer) = Store::open(&to, options.clone()).unwrap();
            assert_eq!(writer.committed().offset, 7, "{failing} {turn}");
        }
        writer.tick(90_000);
        assert_eq!((store.status().records, all(&store).len()), (0, 0), "{failing}");
        ingest(&mut writer, &lines(2, 50), 8, 90_000);
        writer.commit(90_000).unwrap();
        assert_eq!(all(&store).len(), 50, "{failing}");
    }
}
