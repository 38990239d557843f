use std::fs;

use proptest::prelude::*;

use super::*;
use crate::metrics::tests::recorded;

fn find<'c>(cgroups: &'c [Cgroup], end: &str) -> &'c Cgroup {
    cgroups.iter().find(|cgroup| cgroup.id.ends_with(end)).unwrap()
}

#[test]
fn a_row_ends_in_the_pass_after_its_cgroup_is_gone() {
    let (_dir, paths) = recorded();
    let mut reader = Reader::new(paths.cgroup.clone(), 1000);
    let all = reader.read().unwrap();
    let container = all.iter().find(|cgroup| matches!(cgroup.kind, Kind::Container { .. })).unwrap();
    fs::remove_dir_all(paths.cgroup.join(&container.id[1..])).unwrap();
    let then = reader.read().unwrap();
    assert_eq!(then.len(), all.len() - 1);
    assert!(then.iter().all(|cgroup| cgroup.id != container.id));
}

#[test]
fn a_cgroup_that_vanishes_file_by_file_leaves_the_others_alone() {
    let (_dir, paths) = recorded();
    let mut reader = Reader::new(paths.cgroup.clone(), 1000);
    let all = reader.read().unwrap();
    let pod = all.iter().find(|cgroup| matches!(cgroup.kind, Kind::Pod { .. })).unwrap();
    for name in ["cpu.stat", "memory.stat"] {
        fs::remove_file(paths.cgroup.join(&pod.id[1..]).join(name)).unwrap();
    }
    let then = reader.read().unwrap();
    assert_eq!(then.len(), all.len());
    let blank: Vec<_> = then.iter().filter(|cgroup| cgroup.is_blank()).collect();
    assert!(matches!(blank[..], [cgroup] if cgroup.id == pod.id), "it is there, with nothing to tell");
}

#[test]
fn the_v2_root_is_made_up_as_cadvisor_makes_it_up() {
    let (_dir, paths) = recorded();
    let cgroups = Reader::new(paths.cgroup.clone(), 1000).read().unwrap();
    let root = cgroups[0].memory.unwrap();
    assert_eq!(cgroups[0].kind, Kind::Root);
    assert_eq!(root.usage, root.rss + root.cache);
    assert_eq!((root.peak, root.limit), (0, None));
    let pods = find(&cgroups, "kubepods.slice");
    assert!(pods.pids.threads > 20 && pods.pids.processes == 0);
    assert!(pods.pressure.is_some());
}

/// A v1 host as recorded on a hybrid one, with a pod of the cgroupfs driver and docker.
#[test]
fn v1_is_read_from_one_hierarchy_a_controller() {
    let dir = tempfile::tempdir().unwrap();
    let id = "4f".repeat(32);
    let pod = "kubepods/burstable/pod468cc3f6-7653-4ecc-a246-4d25c6e2f35c";
    let files = [
        ("cpu,cpuacct", "cpuacct.usage", "1500000000\n"),
        ("cpu,cpuacct", "cpuacct.stat", "user 100\nsystem 50\n"),
        ("cpu,cpuacct", "cpu.stat", "nr_periods 4\nnr_throttled 1\nthrottled_time 250000000\n"),
        ("cpu,cpuacct", "cpu.cfs_quota_us", "20000\n"),
        ("cpu,cpuacct", "cpu.cfs_period_us", "100000\n"),
        ("cpu,cpuacct", "cpu.shares", "204\n"),
        ("memory", "memory.usage_in_bytes", "1000\n"),
        ("memory", "memory.stat", "rss 1\ntotal_rss 300\ntotal_cache 500\ntotal_inactive_file 200\n"),
        ("memory", "memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("memory", "cgroup.procs", "42\n"),
        ("blkio", "blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 20\nTotal 30\n"),
        ("blkio", "blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"),
        ("pids", "pids.current", "7\n"),
        ("pids", "pids.max", "max\n"),
    ];
    for (controller, name, text) in files {
        for path in ["", "kubepods", "kubepods/burstable", pod, &format!("{pod}/{id}")] {
            let directory = dir.path().join(controller).join(path);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), text).unwrap();
        }
    }
    // The root's is never read: it takes seconds on some kernels.
    fs::write(dir.path().join("memory/memory.stat"), "total_rss 77\n").unwrap();
    let cgroups = Reader::new(dir.path().to_owned(), 1000).read().unwrap();
    assert_eq!(cgroups.len(), 5, "{:?}", cgroups.iter().map(|cgroup| &cgroup.id).collect::<Vec<_>>());
    let container = find(&cgroups, &id);
    let (cpu, memory) = (container.cpu.unwrap(), container.memory.unwrap());
    assert_eq!((cpu.usage_seconds, cpu.periods, cpu.throttled_seconds), (1.5, 4, 0.25));
    assert_eq!((cpu.quota_microseconds, cpu.shares), (Some(20_000), 204));
    assert_eq!((memory.rss, memory.cache, memory.working_set, memory.limit), (300, 500, 800, None));
    assert_eq!(memory.oom_kills, Some(2));
    assert_eq!((container.io[0].read_bytes, container.io[0].writes), (10, 2));
    assert_eq!((container.pids.threads, container.pids.one), (7, Some(42)));
    assert_eq!(cgroups[0].memory.unwrap().rss, 0);
}

#[test]
fn without_a_hierarchy_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Reader::new(dir.path().to_owned(), 10).read().unwrap_err().contains("no cgroup hierarchy"));
}

/// What may stand in a file that is being written, or is another one than it was: of its name and its text.
fn damaged(text: &[u8]) -> Vec<Option<Vec<u8>>> {
    let long = [b"usage_usec ".as_slice(), &[b'9'; 60], b"\n0:0 rbytes=-1 =\n"].concat();
    vec![
        Some(Vec::new()),
        Some(text[..text.len() / 2].to_vec()),
        Some(text[..text.len().saturating_sub(1)].to_vec()),
        Some(b"\xff\xfe\0 : - \n\n \n".to_vec()),
        Some(long),
        None,
    ]
}

#[test]
fn a_cgroup_whose_files_cannot_be_read_or_make_no_sense_leaves_every_other_row_as_it_was() {
    let (_dir, paths) = recorded();
    let mut reader = Reader::new(paths.cgroup.clone(), 1000);
    let all = reader.read().unwrap();
    let victim = all.iter().find(|cgroup| matches!(cgroup.kind, Kind::Container { .. })).unwrap().id.clone();
    let others = |cgroups: &[Cgroup]| -> Vec<Cgroup> {
        cgroups.iter().filter(|cgroup| cgroup.id != victim).cloned().collect()
    };
    let directory = paths.cgroup.join(&victim[1..]);
    let mut tried = 0;
    for entry in fs::read_dir(&directory).unwrap().flatten() {
        let path = entry.path();
        let text = fs::read(&path).unwrap();
        for damage in damaged(&text) {
            fs::remove_file(&path).unwrap();
            match damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                // Can be opened, and not read: as a file of a cgroup that ends between the two.
                None => fs::create_dir(&path).unwrap(),
            }
            let now = reader.read().unwrap();
            assert_eq!(others(&now), others(&all), "{}", path.display());
            assert!(now.len() >= all.len() - 1);
            let _ = fs::remove_dir(&path);
            fs::write(&path, &text).unwrap();
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    assert_eq!(reader.read().unwrap().len(), all.len(), "and then it is there again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn garbage_in_any_file_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), pick in 0usize..6) {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("kubepods/pod468cc3f6-7653-4ecc-a246-4d25c6e2f35c");
        fs::create_dir_all(&pod).unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        fs::write(pod.join("cpu.stat"), "usage_usec 1\n").unwrap();
        let name = ["cpu.stat", "memory.stat", "memory.current", "io.stat", "cgroup.procs", "cpu.max"][pick];
        fs::write(pod.join(name), &bytes).unwrap();
        let _ = Reader::new(dir.path().to_owned(), 10).read();
    }
}
