//! What goes, and that the disk is free then.

use super::*;

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
    assert!(!still_held(dir.path()).is_empty(), "the reader holds what it reads");
    let mut rest = 1;
    loop {
        match query.step(|_, _| rest += 1) {
            Step::End => break,
            Step::Record | Step::Read => {}
        }
    }
    assert_eq!((rest, query.errors()), (kept.len(), 0));
    drop(query);
    // Deleted files take space as long as someone has them open.
    assert_eq!(still_held(dir.path()), Vec::<String>::new());
    assert!(slice::disk_bytes(dir.path()) < 20 << 10, "{}", slice::disk_bytes(dir.path()));
    drop((store, writer));
    let (_, writer) = Store::open(dir.path(), options).unwrap();
    assert_eq!(writer.committed(), Position { segment: 1, offset: 1500 });
}

/// Deleted files under a directory that this process has open or mapped.
fn still_held(dir: &Path) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open =
        open.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()));
    let ours = |path: &String| path.starts_with(dir.to_str().unwrap()) && path.ends_with(" (deleted)");
    mapped.chain(open).filter(ours).collect()
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
fn a_backlog_that_was_written_long_ago_is_kept_from_its_arrival_on() {
    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 1_790_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(Duration::from_secs(24 * 3600), 1 << 30);
    let (store, mut writer) = Store::open(dir.path(), options).unwrap();
    let a_year = 365 * 24 * HOUR_MS;
    let old: Vec<Line> =
        (0..100).map(|n| Line::new((NOW_MS - a_year) * 1_000_000 + n, 1, n, "old line")).collect();
    ingest(&mut writer, &old, 1, NOW_MS);
    writer.commit(NOW_MS).unwrap();
    for hours in [1, 12, 23] {
        writer.tick(NOW_MS + hours * HOUR_MS);
        assert_eq!(all(&store).len(), 100, "after {hours} hours");
    }
    writer.tick(NOW_MS + 25 * HOUR_MS);
    assert_eq!(all(&store).len(), 0);
}

#[test]
fn a_clock_that_is_set_back_holds_up_neither_commits_nor_housekeeping() {
    const DAY_MS: u64 = 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    ingest(&mut writer, &lines(1, 100), 1, 2 * DAY_MS);
    assert!(!writer.is_due(2 * DAY_MS), "it is new");
    assert!(writer.is_due(DAY_MS), "who knows how old it is");
    writer.commit(DAY_MS).unwrap();
    writer.tick(2 * DAY_MS);
    fs::remove_dir_all(dir.path().join("slice-0000000001")).unwrap();
    writer.tick(DAY_MS);
    assert_eq!(all(&store).len(), 0, "what was deleted is missed");
}
