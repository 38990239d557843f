//! The promises of the simulated node, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sonde_sim::{
    Fate, MAX_CONTENT_BYTES, PodSpec, Profile, Rate, Rotation, SimNode, SimOptions, troubled_pods,
};

fn options(dir: &Path) -> SimOptions {
    let mut options = SimOptions::new(dir);
    options.churn = None;
    options.rotation.period = Some(Duration::from_millis(100));
    options.rotation.check_interval = Duration::from_millis(50);
    options.rotation.gap = (Duration::from_millis(5), Duration::from_millis(30));
    options.rotation.max_files = 3;
    options
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn content(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_none_or(|ext| ext != "gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    plain
}

#[derive(Default, Debug)]
struct Counted {
    lines: u64,
    entries: u64,
    bytes: u64,
    tags: BTreeMap<String, BTreeSet<u64>>,
}

/// Counts what the archive holds; every entry must be whole and in the runtime's format.
fn count(archive: &Path) -> Counted {
    let mut counted = Counted::default();
    for path in files(archive) {
        let bytes = content(&path);
        counted.bytes += bytes.len() as u64;
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{} ends inside an entry", path.display());
        for entry in bytes.split(|&byte| byte == b'\n').filter(|entry| !entry.is_empty()) {
            let mut parts = entry.splitn(4, |&byte| byte == b' ');
            let stamp = parts.next().unwrap();
            assert!(stamp.len() <= 30 && stamp.ends_with(b"Z"), "{}", String::from_utf8_lossy(entry));
            assert!(matches!(parts.next().unwrap(), b"stdout" | b"stderr"));
            let tag = parts.next().unwrap();
            let text = parts.next().unwrap();
            assert!(text.len() <= MAX_CONTENT_BYTES);
            assert!(tag == b"F" || (tag == b"P" && text.len() == MAX_CONTENT_BYTES));
            counted.entries += 1;
            counted.lines += u64::from(tag == b"F");
            let text = String::from_utf8_lossy(&text[..text.len().min(600)]).into_owned();
            let mut words = text.split([' ', '"']);
            while let Some(word) = words.next() {
                if let (true, Some(next)) = (word.starts_with("w="), words.clone().next())
                    && let Some(seq) = next.strip_prefix("seq=")
                {
                    counted.tags.entry(word.to_owned()).or_default().insert(seq.parse().unwrap());
                    break;
                }
            }
        }
    }
    counted
}

#[test]
fn the_archive_holds_every_line_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_lines = Some(30_000);
    options.rate = Rate::PerSecond(20_000);
    options.churn = Some(Duration::from_millis(300));
    options.delete_delay = Duration::from_millis(200);
    let node = SimNode::start(options).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !node.stats().done && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let truth = node.stop().unwrap();
    let counted = count(&truth.archive);
    assert!(truth.stats.rotations > 50, "{:?}", truth.stats);
    assert!(truth.stats.pods_started > 14, "{:?}", truth.stats);
    assert_eq!(
        (counted.lines, counted.entries, counted.bytes),
        (truth.stats.lines, truth.stats.entries, truth.stats.bytes)
    );
    for (writer, seqs) in counted.tags {
        let last = *seqs.last().unwrap();
        let missing = (1..=last).filter(|seq| !seqs.contains(seq)).count() as u64;
        // What has no tag is an empty line, or a fragment whose tag is in the fragment before.
        assert!(missing * 5 < last || last < 40, "{writer}: {missing} of {last} lines are missing");
    }
}

#[test]
fn burst_ends_exactly_at_the_number_of_lines_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.rate = Rate::Burst;
    options.max_lines = Some(100_000);
    options.rotation = Rotation { max_bytes: u64::MAX, ..Rotation::default() };
    let node = SimNode::start(options).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !node.stats().done && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let truth = node.stop().unwrap();
    assert_eq!(truth.stats.lines, 100_000);
    assert_eq!(count(&truth.archive).lines, 100_000);
}

#[test]
fn rotation_looks_like_a_kubelets() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.pods = vec![PodSpec::new("shop", "web", Profile::Plain)];
    options.rate = Rate::PerSecond(3000);
    options.rotation.gap = (Duration::from_millis(20), Duration::from_millis(40));
    let node = SimNode::start(options).unwrap();
    let logs = files(&node.pod_logs())[0].parent().unwrap().to_owned();
    let (mut gaps, mut compressed, mut most) = (0, 0, 0);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let mut names: Vec<String> = fs::read_dir(&logs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".tmp"))
            .collect();
        names.sort();
        gaps += u32::from(!names.contains(&"0.log".to_owned()));
        compressed += u32::from(names.iter().any(|name| name.ends_with(".gz")));
        // While the last one is compressed its plain and its .gz file exist for a moment.
        most = most.max(names.len());
        std::thread::sleep(Duration::from_millis(1));
    }
    let truth = node.stop().unwrap();
    assert!(gaps > 0, "0.log is missing between the rename and the reopening");
    assert!(compressed > 0 && most <= 4, "{compressed} {most}");
    assert!(truth.stats.rotations >= 10);
    assert!(files(&truth.archive).len() as u64 > truth.stats.rotations / 2);
    assert_eq!(count(&truth.archive).lines, truth.stats.lines);
}

#[test]
fn paused_deletions_keep_everything_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let node = SimNode::start(options(dir.path())).unwrap();
    node.pause_deletions(true);
    let pod = PodSpec::new("shop", "brief", Profile::Mixed);
    let uid = pod.uid.clone();
    node.start_pod(pod).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    node.delete_pod(&uid).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    let truth = node.stop().unwrap();
    let (live, kept) = (count(&truth.pod_logs), count(&truth.archive));
    assert_eq!(live.lines, truth.stats.lines);
    assert_eq!(kept.lines, truth.stats.lines);
}

#[test]
fn a_restarted_container_writes_the_next_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    let pod = PodSpec::new("shop", "web", Profile::Json);
    let (uid, logs) = (pod.uid.clone(), pod.log_dir());
    options.pods = vec![pod];
    options.rotation.period = None;
    options.delete_delay = Duration::from_millis(50);
    let node = SimNode::start(options).unwrap();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(100));
        node.restart_container(&uid, "main").unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let dir = node.pod_logs().join(logs).join("main");
    assert!(!dir.join("0.log").exists() && dir.join("1.log").exists() && dir.join("2.log").exists());
    assert!(node.restart_container("nobody", "main").is_err());
    let truth = node.stop().unwrap();
    assert_eq!(count(&truth.archive).lines, truth.stats.lines);
}

fn get(address: SocketAddr, path: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn the_kubelet_serves_the_pods_and_fails_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.kubelet_token = Some("secret".to_owned());
    let node = SimNode::start(options).unwrap();
    let address = node.kubelet_address();
    assert_eq!(get(address, "/pods", "wrong").0, 401);
    assert_eq!(get(address, "/healthz", "secret"), (200, "ok".to_owned()));
    let (status, body) = get(address, "/pods", "secret");
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(list["items"].as_array().unwrap().len(), node.stats().pods);
    let db = list["items"].as_array().unwrap().iter().find(|pod| pod["metadata"]["name"] == "db-1").unwrap();
    assert_eq!(db["status"]["containerStatuses"][0]["restartCount"], 1);
    let id = db["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let scope = id.replace("containerd://", "cri-containerd-") + ".scope";
    assert!(
        files(&node.root().join("sys/fs/cgroup")).iter().any(|path| path.to_string_lossy().contains(&scope))
    );
    node.fail_kubelet(Some(503));
    assert_eq!(get(address, "/pods", "secret").0, 503);
    node.fail_kubelet(None);
    assert_eq!(get(address, "/pods", "secret").0, 200);
}

#[test]
fn cgroup_counters_follow_the_writers() {
    let dir = tempfile::tempdir().unwrap();
    let node = SimNode::start(options(dir.path())).unwrap();
    let usage = || -> u64 {
        files(&node.root().join("sys/fs/cgroup"))
            .iter()
            .filter(|path| path.ends_with("cpu.stat"))
            .map(|path| {
                let text = fs::read_to_string(path).unwrap();
                text.lines().next().unwrap().strip_prefix("usage_usec ").unwrap().parse::<u64>().unwrap()
            })
            .sum()
    };
    let before = usage();
    std::thread::sleep(Duration::from_millis(2200));
    assert!(usage() > before);
}

/// The kubelet's status of the one container of a pod.
fn status(node: &SimNode, pod: &str) -> serde_json::Value {
    let (_, body) = get(node.kubelet_address(), "/pods", "");
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    let pod = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == pod).unwrap();
    let ready = &pod["status"]["conditions"][0]["status"];
    assert_eq!(ready == "True", pod["status"]["containerStatuses"][0]["ready"] == true, "{pod}");
    pod["status"]["containerStatuses"][0].clone()
}

#[test]
fn troubled_pods_end_wait_and_start_again_as_the_kubelet_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.pods = troubled_pods(1);
    for pod in &mut options.pods {
        if let Fate::Ends { after, back_off, .. } = &mut pod.containers[0].fate {
            (*after, *back_off) = (Duration::from_millis(200), Duration::from_millis(1500));
        }
        if let Fate::Completes { after } = &mut pod.containers[0].fate {
            *after = Duration::from_millis(200);
        }
    }
    let node = SimNode::start(options).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while status(&node, "crash")["restartCount"] == 0 || status(&node, "greedy")["restartCount"] == 0 {
        assert!(Instant::now() < until, "nothing restarted");
        // Between an end and the next start the status has `waiting`, the end's reason, and no cgroup.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status(&node, "crash")["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status(&node, "greedy")["lastState"]["terminated"]["reason"], "OOMKilled");
    assert_eq!(status(&node, "typo")["state"]["waiting"]["reason"], "ImagePullBackOff");
    assert_eq!(status(&node, "report")["state"]["terminated"]["reason"], "Completed");
    assert_eq!(node.load().into_iter().find(|pod| pod.pod == "report").unwrap().phase, "Succeeded");
    while status(&node, "greedy")["state"]["waiting"]["reason"] != "CrashLoopBackOff" {
        assert!(Instant::now() < until, "the kubelet does not wait");
        std::thread::sleep(Duration::from_millis(20));
    }
    let greedy = node.load().into_iter().find(|pod| pod.pod == "greedy").unwrap();
    assert!(greedy.oom_kills > 0 && greedy.containers[0].waiting == Some("CrashLoopBackOff"), "{greedy:?}");
    let truth = node.stop().unwrap();
    assert_eq!(count(&truth.archive).lines, truth.stats.lines);
}

#[test]
fn a_resting_node_stands_still_in_every_file_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.pods.extend(troubled_pods(1));
    options.churn = Some(Duration::from_millis(20));
    options.torn_writes = true;
    for pod in &mut options.pods {
        if let Fate::Ends { after, back_off, .. } = &mut pod.containers[0].fate {
            (*after, *back_off) = (Duration::from_millis(20), Duration::from_millis(20));
        }
    }
    let node = SimNode::start(options).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        node.rest().unwrap();
        let said = |node: &SimNode| (serde_json::to_value(node.load()).unwrap(), node.stats().bytes);
        let (first, bytes) = said(&node);
        for pod in node.load() {
            let slice = format!("kubepods-burstable-pod{}.slice", pod.uid.replace('-', "_"));
            let slice = node.root().join("sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice").join(slice);
            let cpu = fs::read_to_string(slice.join("cpu.stat")).unwrap();
            assert!(cpu.starts_with(&format!("usage_usec {}\n", pod.used.cpu_micros)), "{cpu} {pod:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(said(&node), (first, bytes), "something moved");
        node.work().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while node.stats().bytes == bytes {
            assert!(Instant::now() < until, "it does not work again");
        }
    }
    let truth = node.stop().unwrap();
    assert_eq!(count(&truth.archive).lines, truth.stats.lines);
}

#[test]
fn the_nodes_own_counters_follow_its_lines_and_its_cpus_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.rate = Rate::Burst;
    options.max_lines = Some(20_000);
    let node = SimNode::start(options).unwrap();
    let read = |name: &str| fs::read_to_string(node.root().join("proc").join(name)).unwrap();
    let cpus = || -> Vec<Vec<u64>> {
        let text = read("stat");
        let cpus = text.lines().filter(|line| line.starts_with("cpu"));
        cpus.map(|line| line.split_whitespace().skip(1).map(|value| value.parse().unwrap()).collect())
            .collect()
    };
    let until = Instant::now() + Duration::from_secs(20);
    // 20 µs a line, and a request of 400 bytes.
    while cpus()[0][0] + cpus()[0][2] != 40 || !read("1/net/dev").contains("eth0: 8000000 20000 ") {
        assert!(Instant::now() < until, "{:?} {}", cpus(), read("1/net/dev"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let cpus = cpus();
    assert_eq!(cpus.len(), 5);
    for column in 0..cpus[0].len() {
        assert_eq!(cpus[0][column], cpus[1..].iter().map(|cpu| cpu[column]).sum::<u64>(), "column {column}");
    }
    let available = |text: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert!(available(&read("meminfo")) < 16_384_000 - 1_024_000, "the pods take no memory");
}

#[test]
fn the_files_say_what_the_load_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    let pod = PodSpec::new("shop", "web", Profile::Json);
    let slice = format!("kubepods-burstable-pod{}.slice", pod.uid.replace('-', "_"));
    options.pods = vec![pod];
    options.rate = Rate::PerSecond(2000);
    options.max_lines = Some(1000);
    let node = SimNode::start(options).unwrap();
    let slice = node.root().join("sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice").join(slice);
    let said = |load: &sonde_sim::PodLoad| {
        let cpu = fs::read_to_string(slice.join("cpu.stat")).unwrap();
        let memory = fs::read_to_string(slice.join("memory.current")).unwrap();
        let used = load.used;
        cpu.starts_with(&format!("usage_usec {}\n", used.cpu_micros))
            && memory.trim() == (used.rss_bytes + used.cache_bytes).to_string()
            && files(&node.root().join("proc")).iter().any(|file| {
                fs::read_to_string(file).unwrap().contains(&format!("eth0: {} ", load.receive.bytes))
            })
    };
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let load = node.load().remove(0);
        if load.used.log_lines == 1000 && said(&load) {
            break;
        }
        assert!(Instant::now() < until, "{load:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(node.stop().unwrap().stats.lines, 1000);
}
