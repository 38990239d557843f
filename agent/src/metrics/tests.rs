mod compat;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use sonde_daemon::page::{Format, Page, Sink, source};

use super::*;
use crate::config::Config;
use crate::host::HostPaths;

/// A real node's cgroups and `/proc` (kernel 7.2 with PSI, containerd, systemd driver): `=== path`, then the file.
const TREE: &str = include_str!("../../../tests/fixtures/node/tree.txt");
/// The kubelet's `/metrics/cadvisor` about 20 s before, for the families that we show, without timestamps.
const CADVISOR: &str = include_str!("../../../tests/fixtures/node/cadvisor.txt");
/// The kubelet's `/pods` at that time.
const PODS: &[u8] = include_bytes!("../../../tests/fixtures/node/pods.json");

/// What a closure puts on a page, as classic text.
pub(super) fn rendered(collect: impl Fn(&mut Sink) + Send + Sync + 'static) -> String {
    let source = source("test", move |out| {
        collect(out);
        Ok(())
    });
    Page::new(vec![Section::new(None, vec![source])], false).render(Format::Classic)
}

/// The recorded node as directories. Stamps are all the same, as on a file system that makes them when asked.
pub(crate) fn recorded() -> (tempfile::TempDir, HostPaths) {
    let dir = tempfile::tempdir().unwrap();
    for part in TREE.split("=== ").skip(1) {
        let (path, text) = part.split_once('\n').unwrap();
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    stamp(&dir.path().join("cgroup"));
    let paths = HostPaths {
        proc: dir.path().join("proc"),
        sys: dir.path().join("sys"),
        cgroup: dir.path().join("cgroup"),
        root: dir.path().to_owned(),
        pod_logs: dir.path().join("logs"),
        ..HostPaths::new(&Config::default().host)
    };
    (dir, paths)
}

fn stamp(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            stamp(&entry.path());
        } else if entry.file_name() == "cgroup.procs" {
            set_stamp(&entry.path());
        }
    }
    set_stamp(directory);
}

fn set_stamp(path: &Path) {
    let stamp = UNIX_EPOCH + Duration::from_secs(1_795_194_000);
    fs::File::open(path).unwrap().set_modified(stamp).unwrap();
}

pub(crate) fn recorded_pods() -> PodIndex {
    let index = PodIndex::default();
    index.replace_states(crate::kubelet::pods::parse(PODS, "lab-node-1").unwrap().states);
    index
}

type Labels = BTreeMap<String, String>;
type Families = BTreeMap<String, BTreeMap<Labels, f64>>;

/// A classic page as families of rows; good enough for pages without escapes.
pub(super) fn families(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split_terminator(',').map(|label| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        let rows = families.entry(name.to_owned()).or_default();
        assert!(rows.insert(labels.collect(), value.parse().unwrap()).is_none(), "twice: {line}");
    }
    families
}

fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

fn page(section: Option<Arc<Section>>) -> String {
    Page::new(vec![section.unwrap()], false).render(Format::Classic)
}

/// The deliberate differences of METRICS.md, as far as they touch recorded rows.
fn is_deliberate(family: &str, labels: &Labels, host_pods: &BTreeSet<&str>) -> bool {
    let of_root = labels.get("id").is_some_and(|id| id == "/");
    (of_root && family.starts_with("container_fs_"))
        || (family.starts_with("container_network_") && host_pods.contains(labels["pod"].as_str()))
}

#[test]
fn rows_are_those_of_the_kubelets_cadvisor_but_for_the_written_differences() {
    let (_dir, paths) = recorded();
    let index = recorded_pods();
    let sources =
        Sources::new(&Config::default().metrics, &paths, "lab-node-1", &index, &Default::default()).unwrap();
    let text = page(sources.sections().containers);
    let (ours, theirs) = (families(&text), families(CADVISOR));
    let ids = |families: &Families| -> BTreeSet<String> {
        families["container_last_seen"].keys().map(|labels| labels["id"].clone()).collect()
    };
    // The kubelet had lost the names of two sandboxes when it was recorded (google/cadvisor#3336).
    let nameless = |labels: &&Labels| labels["id"].ends_with(".scope") && labels["name"].is_empty();
    let lost: Vec<&Labels> = theirs["container_last_seen"].keys().filter(nameless).collect();
    assert!(lost.len() <= 2, "{lost:?}");
    let mut both: BTreeSet<String> = ids(&ours).intersection(&ids(&theirs)).cloned().collect();
    both.retain(|id| lost.iter().all(|labels| labels["id"] != *id));
    assert!(both.len() >= 61, "{}", both.len());
    let states = index.states();
    let host_pods: BTreeSet<&str> =
        states.iter().filter(|pod| pod.spec.host_network).map(|pod| pod.metadata.name.as_str()).collect();
    assert!(!host_pods.is_empty());
    let comparable = |family: &str, families: &Families| -> BTreeSet<Labels> {
        let rows = families.get(family).into_iter().flat_map(BTreeMap::keys);
        rows.filter(|labels| labels.get("id").is_none_or(|id| both.contains(id)))
            .filter(|labels| !is_deliberate(family, labels, &host_pods))
            .map(|labels| {
                let mut labels = labels.clone();
                if labels.get("image").is_some_and(|image| image.contains("pause")) {
                    labels.insert("image".into(), "pause".into());
                }
                for ours_alone in ["boot_id", "machine_id", "system_uuid"] {
                    labels.remove(ours_alone);
                }
                labels
            })
            .collect()
    };
    let mut wrong = Vec::new();
    for family in theirs.keys() {
        let (ours, theirs) = (comparable(family, &ours), comparable(family, &theirs));
        wrong.extend(theirs.difference(&ours).map(|labels| format!("missing: {family} {labels:?}")));
        wrong.extend(ours.difference(&theirs).map(|labels| format!("too many: {family} {labels:?}")));
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    let (our_types, their_types) = (types(&text), types(CADVISOR));
    for (family, kind) in their_types {
        assert_eq!(our_types.get(family), Some(&kind), "{family}");
    }
}

#[test]
fn the_nodes_swap_is_on_the_root_row() {
    let (_dir, paths) = recorded();
    let file = paths.proc.join("meminfo");
    let text = fs::read_to_string(&file).unwrap();
    let swap = |text: &str, key: &str, kib: u64| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        text.replace(line, &format!("{key} {kib} kB"))
    };
    fs::write(&file, swap(&swap(&text, "SwapTotal:", 4096), "SwapFree:", 1024)).unwrap();
    let config = Config::default().metrics;
    let sources = Sources::new(&config, &paths, "lab-node-1", &recorded_pods(), &Default::default()).unwrap();
    let families = families(&page(sources.sections().containers));
    let of = |id: &str| {
        families["container_memory_swap"]
            .iter()
            .find(|(labels, _)| labels["id"] == id)
            .map(|(_, value)| *value)
    };
    assert_eq!((of("/"), of("/kubepods.slice")), (Some(3072.0 * 1024.0), Some(0.0)));
}

#[test]
fn values_are_those_of_the_kubelets_cadvisor_within_the_time_between() {
    let (_dir, paths) = recorded();
    let sources =
        Sources::new(&Config::default().metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default())
            .unwrap();
    let (ours, theirs) = (families(&page(sources.sections().containers)), families(CADVISOR));
    let mut compared = 0;
    for (family, rows) in &theirs {
        for (labels, theirs) in rows {
            let mut labels = labels.clone();
            if labels.get("image").is_some_and(|image| image.contains("pause")) {
                labels.insert("image".into(), "pause".into());
            }
            let Some(ours) = ours.get(family).and_then(|rows| rows.get(&labels)) else { continue };
            // Crash loops and kills: their memory comes and goes.
            if labels.get("namespace").is_some_and(|name| name == "broken")
                && family.starts_with("container_memory_")
            {
                continue;
            }
            compared += 1;
            let good = if family.starts_with("container_spec_") || family == "container_threads_max" {
                ours == theirs
            } else if family.ends_with("_seconds_total") {
                // Two CPUs; cAdvisor's samples are up to 30 s older than its answer, the walk took 75 s.
                *ours >= *theirs - 0.011 && *ours <= theirs + 2.0 * 150.0
            } else if family == "container_oom_events_total" {
                ours >= theirs
            } else if family.ends_with("_total") || family.ends_with("_failcnt") {
                *ours >= *theirs && (labels["id"] == "/" || *ours <= theirs * 2.5 + 5000.0)
            } else if family.starts_with("container_memory_") {
                (ours - theirs).abs() <= theirs * 0.35 + 3_000_000.0
            } else {
                true
            };
            assert!(good, "{family} {labels:?}: ours {ours}, the kubelet's {theirs}");
        }
    }
    assert!(compared > 2300, "{compared}");
}

#[test]
fn kills_stay_on_the_pods_row_when_the_container_is_gone() {
    let (_dir, paths) = recorded();
    let sources =
        Sources::new(&Config::default().metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default())
            .unwrap();
    let ours = families(&page(sources.sections().containers));
    let kills = |pod: &str| -> f64 {
        let rows = &ours["container_oom_events_total"];
        rows.iter().find(|(l, _)| l["pod"] == pod && l["name"].is_empty()).map(|(_, value)| *value).unwrap()
    };
    assert!(kills("oomer") >= 1.0);
    assert_eq!(kills("db-0"), 0.0);
}

/// Gives every cgroup of pods four block devices.
fn four_devices(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        four_devices(&entry.path());
    }
    let stat: String = [(7, 0, 10), (8, 0, 4000), (253, 1, 200), (259, 0, 900)]
        .map(|(major, minor, bytes)| format!("{major}:{minor} rbytes={bytes} wbytes=0 rios=1 wios=0\n"))
        .concat();
    fs::write(directory.join("io.stat"), stat).unwrap();
}

#[test]
fn of_many_devices_a_containers_rows_have_the_busiest_and_its_pods_row_all() {
    let (_dir, paths) = recorded();
    four_devices(&paths.cgroup.join("kubepods.slice"));
    let devices = "8 0 sda 1\n253 1 dm-1 1\n259 0 nvme0n1 1\n7 0 loop0 1\n";
    fs::write(paths.proc.join("diskstats"), devices).unwrap();
    let sources =
        Sources::new(&Config::default().metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default())
            .unwrap();
    let ours = families(&page(sources.sections().containers));
    let shown = |container: &str, name: bool| -> BTreeSet<String> {
        ours["container_fs_reads_bytes_total"]
            .keys()
            .filter(|l| l["pod"] == "db-0" && l["container"] == container && l["name"].is_empty() != name)
            .map(|labels| labels["device"].clone())
            .collect()
    };
    assert_eq!(shown("db", true), BTreeSet::from(["/dev/nvme0n1".to_owned(), "/dev/sda".to_owned()]));
    assert_eq!(shown("", false).len(), 4, "nothing is lost to the pod");
}

#[test]
fn a_container_has_at_most_50_series() {
    // The kernel's list of devices names none of these: the rows stay apart all the same.
    let (_dir, paths) = recorded();
    four_devices(&paths.cgroup.join("kubepods.slice"));
    let sources =
        Sources::new(&Config::default().metrics, &paths, "lab-node-1", &recorded_pods(), &Default::default())
            .unwrap();
    let ours = families(&page(sources.sections().containers));
    let mut series: BTreeMap<String, usize> = BTreeMap::new();
    for labels in ours.values().flat_map(BTreeMap::keys) {
        if labels.get("container").is_some_and(|name| !name.is_empty()) {
            *series.entry(labels["id"].clone()).or_default() += 1;
        }
    }
    assert_eq!(series.len(), 18);
    assert_eq!(series.values().max(), Some(&49), "with a quota and two devices");
    assert!(series.values().all(|count| *count <= 50), "{series:?}");
}

#[test]
fn what_is_dropped_by_name_is_not_on_any_page() {
    let (_dir, paths) = recorded();
    let mut config = Config::default().metrics;
    config.drop = vec!["container_spec_.*".into(), "node_load1".into()];
    let sections =
        Sources::new(&config, &paths, "n", &recorded_pods(), &Default::default()).unwrap().sections();
    let (containers, node) = (page(sections.containers), page(sections.node));
    assert!(!containers.contains("container_spec_") && containers.contains("container_memory_rss{"));
    assert!(!node.contains("node_load1 ") && node.contains("node_load15 "), "a pattern is a whole name");
}

#[test]
fn sections_that_are_switched_off_are_not_there_and_bad_patterns_are_said() {
    let (_dir, paths) = recorded();
    let mut config = Config::default().metrics;
    (config.containers, config.pods, config.namespaces, config.node.enabled) = (false, false, false, false);
    let off =
        Sources::new(&config, &paths, "n", &PodIndex::default(), &Default::default()).unwrap().sections();
    assert!(off.node.is_none() && off.containers.is_none() && off.pods.is_none() && off.namespaces.is_none());
    config.node.enabled = true;
    config.node.fs_exclude = "(".into();
    let error = Sources::new(&config, &paths, "n", &PodIndex::default(), &Default::default()).err().unwrap();
    assert!(error.to_string().starts_with("metrics.node.fs_exclude: "), "{error}");
}
