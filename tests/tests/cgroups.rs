//! Real cgroups, named as the kubelet names them, below a root of the test's own: processes that burn CPU against a quota,
//! hold memory, are killed for it, write to a disk; and the agent's rows beside what they did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sonde_tests::daemon::Daemon;
use sonde_tests::{cpu, free_port, http, wait_until};

const UID: &str = "468cc3f6-7653-4ecc-a246-4d25c6e2f35c";
const MIB: u64 = 1 << 20;
const HELD: u64 = 64 * MIB;
const WRITTEN: u64 = 8 * MIB;
const LIMIT: Duration = Duration::from_secs(60);

/// The hierarchies of this machine: one a controller on v1, one of all on v2.
struct Tree {
    /// What `host.cgroup` points to.
    root: PathBuf,
    v2: bool,
    /// The test's directory in each hierarchy.
    tops: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Tree {
    /// Makes the test's root; the error is why it cannot be had.
    fn new(folder: &Path) -> Result<Self, String> {
        let (host, name) = (Path::new("/sys/fs/cgroup"), format!("sonde-test-{}", std::process::id()));
        let said = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        let v2 = host.join("cgroup.controllers").exists();
        let root = if v2 { host.join(&name) } else { folder.join("cgroup") };
        let mut tree = Self { root: root.clone(), v2, tops: Vec::new(), children: Vec::new() };
        if v2 {
            // The host's own root may give its controllers already.
            let _ = fs::write(host.join("cgroup.subtree_control"), "+cpu +memory +pids +io");
            fs::create_dir(&root).map_err(|error| said(&root, error))?;
            tree.tops.push(root.clone());
            let wanted = "+cpu +memory +pids +io";
            fs::write(root.join("cgroup.subtree_control"), wanted).map_err(|error| said(&root, error))?;
            return Ok(tree);
        }
        fs::create_dir(&root).map_err(|error| said(&root, error))?;
        for controller in ["memory", "cpu", "cpuacct", "pids", "blkio"] {
            let top = fs::canonicalize(host.join(controller))
                .map_err(|error| said(&host.join(controller), error))?
                .join(&name);
            match fs::create_dir(&top) {
                // One hierarchy has both of cpu and cpuacct.
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(said(&top, error));
                }
                _ => {}
            }
            std::os::unix::fs::symlink(&top, root.join(controller)).map_err(|error| said(&root, error))?;
            tree.tops.push(top);
        }
        Ok(tree)
    }

    /// Makes a cgroup and all above it.
    fn make(&self, id: &str) {
        for top in &self.tops {
            let mut path = top.clone();
            for part in id.split('/') {
                path.push(part);
                let _ = fs::create_dir(&path);
                if self.v2 && !part.ends_with(".scope") {
                    fs::write(path.join("cgroup.subtree_control"), "+cpu +memory +pids +io").unwrap();
                }
            }
        }
    }

    /// The hierarchy of a file, by its prefix.
    fn file(&self, id: &str, name: &str) -> PathBuf {
        let prefix = name.split('.').next().unwrap();
        let top = if self.v2 { self.root.clone() } else { self.root.join(prefix) };
        top.join(id).join(name)
    }

    /// Writes a v1 file, or its v2 fellow.
    fn limit(&self, id: &str, v1: (&str, &str), v2: (&str, &str)) {
        let (name, text) = if self.v2 { v2 } else { v1 };
        let path = self.file(id, name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Runs a shell's line as a process of a cgroup; the pid is the shell's.
    fn run(&mut self, id: &str, line: &str) -> u32 {
        let joins: String = self
            .tops
            .iter()
            .map(|top| format!("echo $$ > '{}/{id}/cgroup.procs' && ", top.display()))
            .collect();
        let child = Command::new("sh")
            .args(["-c", &format!("{joins}{line}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.last().unwrap().id()
    }

    fn processes(&self, id: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.tops[0].join(id).join("cgroup.procs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Ends a cgroup's processes and removes it.
    fn remove(&self, id: &str) {
        for _ in 0..100 {
            for pid in self.processes(id) {
                signal(pid, rustix::process::Signal::KILL);
            }
            let gone: Vec<bool> = self.tops.iter().map(|top| remove_all(&top.join(id))).collect();
            if gone.iter().all(|gone| *gone) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for top in &self.tops {
            kill_all(top);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove("");
    }
}

/// The processes of a test's cgroup and of all below it.
fn kill_all(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            kill_all(&entry.path());
        }
    }
    for line in fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
        signal(line.parse().unwrap(), rustix::process::Signal::KILL);
    }
}

/// Removes the directories below, then this one; whether it is gone.
fn remove_all(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_all(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
    !directory.exists()
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// A kubelet that knows one pod.
fn kubelet(containers: &[(&str, String)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let specs: Vec<String> =
        containers.iter().map(|(name, _)| format!(r#"{{"name":"{name}","image":"i"}}"#)).collect();
    let statuses: Vec<String> = containers
        .iter()
        .map(|(name, id)| {
            format!(
                r#"{{"name":"{name}","image":"i","containerID":"containerd://{id}","state":{{"running":{{"startedAt":"2026-11-20T10:00:00Z"}}}}}}"#
            )
        })
        .collect();
    let body = format!(
        r#"{{"kind":"PodList","items":[{{"metadata":{{"name":"web","namespace":"shop","uid":"{UID}"}},"spec":{{"nodeName":"n1","containers":[{}]}},"status":{{"phase":"Running","containerStatuses":[{}]}}}}]}}"#,
        specs.join(","),
        statuses.join(",")
    );
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}

/// Rows of a page by name, each with its labels as they stand.
struct Page(BTreeMap<String, Vec<(String, f64)>>);

impl Page {
    fn read(port: u16) -> Self {
        let text = ["/metrics/containers", "/metrics/namespaces"]
            .map(|path| http::text(port, path).unwrap())
            .concat();
        let mut rows: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            rows.entry(name.to_owned()).or_default().push((labels.to_owned(), value.parse().unwrap()));
        }
        Self(rows)
    }

    /// The sum of a family's rows that have all of these in their labels.
    fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let rows = self.0.get(name)?.iter().filter(|(own, _)| labels.iter().all(|label| own.contains(label)));
        let values: Vec<f64> = rows.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    fn of(&self, name: &str, container: &str) -> f64 {
        let label = format!("container=\"{container}\"");
        self.sum(name, &[&label, "namespace=\"shop\"", "pod=\"web\""])
            .unwrap_or_else(|| panic!("{name} has no row of {container}"))
    }
}

/// Numbers of a limit and of what was done are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

/// What this machine gives of the test's cgroups, with the rights to make them.
struct Stage {
    tree: Tree,
    pod: String,
    page: u16,
    _agent: Daemon,
    _folder: tempfile::TempDir,
}

const CONTAINERS: [(&str, &str); 4] = [("burner", "b"), ("holder", "c"), ("greedy", "d"), ("writer", "e")];

impl Stage {
    fn scope(&self, container: &str) -> String {
        let (_, digit) = CONTAINERS.iter().find(|(name, _)| *name == container).unwrap();
        format!("{}/cri-containerd-{}.scope", self.pod, digit.repeat(64))
    }

    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path())?;
        let pod = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
            UID.replace('-', "_")
        );
        let ids: Vec<(&str, String)> =
            CONTAINERS.iter().map(|(name, digit)| (*name, digit.repeat(64))).collect();
        tree.make(&format!("{pod}/cri-containerd-{}.scope", "a".repeat(64)));
        let port = free_port().unwrap();
        let config = format!(
            "node: {{name: n1}}\nhost: {{cgroup: {}}}\nstate_dir: {}\nlisten: 127.0.0.1:{port}\nkubelet: {{url: \"{}\", interval: 1s}}\n\
             logs: {{enabled: false}}\nmetrics: {{push: false}}\nexport: {{endpoint: \"http://127.0.0.1:9\"}}\n",
            tree.root.display(),
            folder.path().join("state").display(),
            kubelet(&ids),
        );
        let file = folder.path().join("agent.yaml");
        fs::write(&file, config).unwrap();
        let agent = Daemon::start("sonde-agent", &file, &folder.path().join("agent.log")).unwrap();
        let stage = Self { tree, pod, page: port, _agent: agent, _folder: folder };
        for (name, _) in CONTAINERS {
            stage.tree.make(&stage.scope(name));
        }
        wait_until("the pod's rows", LIMIT, || {
            // The namespace's counters begin with the first look at them.
            let _ = http::text(port, "/metrics/namespaces");
            let text = http::text(port, "/metrics/containers").unwrap_or_default();
            CONTAINERS.iter().all(|(name, _)| text.contains(&format!("container=\"{name}\"")))
        })
        .unwrap();
        Ok(stage)
    }

    /// A page whose sample was made after now.
    fn fresh(&self) -> Page {
        std::thread::sleep(Duration::from_millis(1100));
        Page::read(self.page)
    }
}

#[test]
fn rows_are_what_real_processes_did_in_real_cgroups() {
    let mut stage = match Stage::new() {
        Ok(stage) => stage,
        Err(why) => {
            eprintln!("SKIPPED tests/tests/cgroups.rs: no right to make cgroups here: {why}");
            return;
        }
    };
    burns_against_its_quota(&mut stage);
    holds_memory(&mut stage);
    is_killed(&mut stage);
    writes_to_a_disk(&mut stage);
}

fn burns_against_its_quota(stage: &mut Stage) {
    let id = stage.scope("burner");
    stage.tree.limit(&id, ("cpu.cfs_period_us", "100000"), ("cpu.max", "20000 100000"));
    stage.tree.limit(&id, ("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 100000"));
    let pid = stage.tree.run(&id, "while :; do :; done");
    wait_until("half a second of CPU", LIMIT, || cpu(pid).unwrap() >= Duration::from_millis(500)).unwrap();
    signal(pid, rustix::process::Signal::STOP);
    let page = stage.fresh();
    let (did, shown) =
        (cpu(pid).unwrap().as_secs_f64(), page.of("container_cpu_usage_seconds_total", "burner"));
    // The kernel tells of a process in ticks of 10 ms, of user and system each, and of the shell's start too.
    assert!((shown - did).abs() <= 0.05 + did * 0.02, "CPU: it used {did} s, the row has {shown}");
    let parts = page.of("container_cpu_user_seconds_total", "burner")
        + page.of("container_cpu_system_seconds_total", "burner");
    assert!((parts - did).abs() <= 0.05 + did * 0.05, "user and system {parts} of {did}");
    let periods = page.of("container_cpu_cfs_periods_total", "burner");
    let throttled = page.of("container_cpu_cfs_throttled_periods_total", "burner");
    assert!(throttled >= 10.0 && throttled <= periods, "{throttled} of {periods} periods");
    // 20 ms in each period, and what was under way at its ends.
    assert!(shown <= (periods + 2.0) * 0.020 * 1.5, "{shown} s in {periods} periods of 20 ms");
    assert!(page.of("container_cpu_cfs_throttled_seconds_total", "burner") > 0.1);
    assert_eq!(page.of("container_spec_cpu_quota", "burner"), 20_000.0);
    assert_eq!(page.of("container_spec_cpu_period", "burner"), 100_000.0);
    assert_eq!(page.of("container_processes", "burner"), 1.0);
    assert_eq!(
        page.sum("container_cpu_cfs_periods_total", &["container=\"holder\""]),
        None,
        "it has no quota"
    );
    let pods = page
        .sum("container_cpu_usage_seconds_total", &["pod=\"web\"", "container=\"\"", "name=\"\""])
        .unwrap();
    assert!(pods >= shown && pods - shown < 0.2, "the pod has {pods}, its container {shown}");
    let namespace = page.sum("sonde_namespace_cpu_usage_seconds_total", &["namespace=\"shop\""]).unwrap();
    assert!((namespace - pods).abs() < 0.2, "the namespace has {namespace}, its pod {pods}");
}

fn holds_memory(stage: &mut Stage) {
    let id = stage.scope("holder");
    let limit = (256 * MIB).to_string();
    stage.tree.limit(&id, ("memory.limit_in_bytes", &limit), ("memory.max", &limit));
    // tail keeps all of a line that does not end.
    stage.tree.run(&id, &format!("(head -c {HELD} /dev/zero; sleep 600) | tail; true"));
    let held = || Page::read(stage.page).of("container_memory_rss", "holder") >= float(HELD);
    wait_until("memory to be held", LIMIT, held).unwrap();
    let heads = || {
        stage
            .tree
            .processes(&id)
            .iter()
            .any(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "head\n"))
    };
    wait_until("head to end", LIMIT, || !heads()).unwrap();
    let page = stage.fresh();
    for name in ["container_memory_rss", "container_memory_working_set_bytes", "container_memory_usage_bytes"]
    {
        let shown = page.of(name, "holder");
        assert!(shown >= float(HELD) && shown < float(HELD + 16 * MIB), "{name}: {shown} of {HELD}");
    }
    assert!(
        page.of("container_memory_max_usage_bytes", "holder")
            >= page.of("container_memory_usage_bytes", "holder")
    );
    assert_eq!(page.of("container_spec_memory_limit_bytes", "holder"), float(256 * MIB));
    let processes = stage.tree.processes(&id).len() as u64;
    assert!(processes >= 3, "a shell, sleep and tail");
    assert_eq!(page.of("container_processes", "holder"), float(processes));
    assert_eq!(page.of("container_oom_events_total", "holder"), 0.0);
    let namespace = page.sum("sonde_namespace_memory_rss_bytes", &["namespace=\"shop\""]).unwrap();
    assert!(namespace >= float(HELD), "the namespace has {namespace}");
}

fn is_killed(stage: &mut Stage) {
    let id = stage.scope("greedy");
    let limit = (32 * MIB).to_string();
    stage.tree.limit(&id, ("memory.limit_in_bytes", &limit), ("memory.max", &limit));
    stage.tree.run(&id, "(head -c 134217728 /dev/zero; sleep 600) | tail; true");
    let killed = || Page::read(stage.page).of("container_oom_events_total", "greedy") >= 1.0;
    wait_until("the kernel to kill", LIMIT, killed).unwrap();
    let kills =
        |page: &Page| page.sum("container_oom_events_total", &["pod=\"web\"", "container=\"\"", "name=\"\""]);
    let page = stage.fresh();
    assert_eq!(page.of("container_oom_events_total", "greedy"), 1.0);
    assert_eq!(kills(&page), Some(1.0), "the pod's row");
    stage.tree.remove(&id);
    let page = stage.fresh();
    let gone = page.sum("container_memory_rss", &["container=\"greedy\""]);
    assert_eq!(gone, None, "a row ends in the scrape after its cgroup is gone");
    assert_eq!(kills(&page), Some(1.0), "the kill stays on the pod's row");
    assert_eq!(page.sum("sonde_namespace_oom_kills_total", &["namespace=\"shop\""]), Some(1.0));
}

fn writes_to_a_disk(stage: &mut Stage) {
    let id = stage.scope("writer");
    let file = stage._folder.path().join("written");
    if !stage.tree.v2 {
        // Without a rule newer kernels count nothing there.
        let device = fs::metadata(stage._folder.path()).unwrap().dev();
        let rule = format!("{}:{} 1000000000", rustix::fs::major(device), rustix::fs::minor(device));
        let _ = fs::write(stage.tree.file(&id, "blkio.throttle.write_bps_device"), rule);
    }
    let line = format!("dd if=/dev/zero of={} bs=1M count={} oflag=direct", file.display(), WRITTEN / MIB);
    stage.tree.run(&id, &line);
    stage.tree.children.pop().unwrap().wait().unwrap();
    let name = if stage.tree.v2 { "io.stat" } else { "blkio.throttle.io_service_bytes" };
    let kernels = fs::read_to_string(stage.tree.file(&id, name)).unwrap_or_default();
    let page = stage.fresh();
    let shown = page.sum("container_fs_writes_bytes_total", &["container=\"writer\""]).unwrap_or(0.0);
    if kernels.contains("Write 0") || !(kernels.contains("Write ") || kernels.contains("wbytes=")) {
        eprintln!("the kernel counts nothing for this file system: {kernels}");
        assert_eq!(shown, 0.0);
        return;
    }
    assert!(shown >= float(WRITTEN) && shown < float(WRITTEN) * 1.5, "{shown} of {WRITTEN}: {kernels}");
}
