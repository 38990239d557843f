//! What the standard rules and dashboards query of an agent is there, under its name, with its type and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::*;

/// Name, original, type, labels, and who can produce it.
const COMPAT: &str = include_str!("../../../../tests/fixtures/node/compat.csv");

/// Names that this node does not show, and why not. A name that comes in has to go from here.
const NOT_THERE: [(&str, &str); 6] = [
    ("kubelet_volume_stats_available_bytes", MOUNTED),
    ("kubelet_volume_stats_capacity_bytes", MOUNTED),
    ("kubelet_volume_stats_inodes", MOUNTED),
    ("kubelet_volume_stats_inodes_free", MOUNTED),
    ("kubelet_volume_stats_inodes_used", MOUNTED),
    ("kubelet_volume_stats_used_bytes", MOUNTED),
];
const MOUNTED: &str = "a claim's volume has to be mounted for this process: the tests of `volumes` have them";

/// What the recording has not: hardware of other nodes.
fn more(root: &Path) {
    for (path, text) in [
        ("sys/class/net/eth0/operstate", "up\n"),
        ("sys/class/net/bonding_masters", "bond0\n"),
        ("sys/class/net/bond0/bonding/slaves", "eth0\n"),
        ("sys/class/net/bond0/lower_eth0/bonding_slave/mii_status", "up\n"),
        ("proc/mdstat", "md0 : active raid1 sdb1[1] sda1[0]\n      248896 blocks [2/2] [UU]\n"),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// The recorded pods, and one with a reason.
fn pods() -> PodIndex {
    let mut states = crate::kubelet::pods::parse(PODS, "lab-node-1").unwrap().states;
    let mut evicted = states.first().unwrap().clone();
    evicted.metadata.uid = "evicted".to_owned();
    evicted.status.reason = "Evicted".to_owned();
    states.push(evicted);
    let index = PodIndex::default();
    index.replace_states(states);
    index
}

#[test]
fn every_metric_of_the_standard_rules_is_there_with_its_type_and_labels() {
    let (dir, paths) = recorded();
    more(dir.path());
    let systemd = node::systemd::tests::serve(&dir.path().join("run/dbus/system_bus_socket"), false);
    let mut config = Config::default().metrics;
    config.node.enable = vec!["systemd".to_owned()];
    let sources = Sources::new(&config, &paths, "lab-node-1", &pods(), &Default::default()).unwrap();
    let Sections { node, containers, pods, kubelet, .. } = sources.sections();
    let text: String = [node, containers, pods, kubelet].map(page).concat().replace("sha256:", "sha256/");
    systemd.join().unwrap();
    let (types, families) = (types(&text), families(&text));
    let not_there = BTreeMap::from(NOT_THERE);
    let mut missing = BTreeSet::new();
    for line in COMPAT.lines().skip(1) {
        let [name, _, kind, labels, _] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let Some(rows) = families.get(name) else {
            missing.insert(name);
            continue;
        };
        assert_eq!(types.get(name), Some(&kind), "{name}");
        let labels: BTreeSet<&str> = labels.split_terminator(';').collect();
        for row in rows.keys() {
            assert_eq!(row.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{name}");
        }
    }
    assert_eq!(COMPAT.lines().count(), 83);
    assert_eq!(
        missing,
        not_there.keys().copied().collect(),
        "missing, and said to be missing: {not_there:?}"
    );
}
