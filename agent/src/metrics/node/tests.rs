use std::fs;

use sonde_daemon::page::{Format, Page, Section};

use super::*;
use crate::config::Config;
use crate::metrics::tests::{families, recorded};

const GOLDEN: &str = include_str!("../../../../tests/fixtures/node/node.prom");

#[test]
fn the_recorded_nodes_page_is_as_written() {
    let (_dir, paths) = recorded();
    let mut config = Config::default().metrics.node;
    // What tells of the machine that runs the test.
    config.disable = ["time", "timex", "uname", "filesystem"].map(str::to_owned).to_vec();
    let section = Section::new(None, sources(&config, &paths, "lab-node-1").unwrap());
    let text = Page::new(vec![section], false).render(Format::Classic);
    if let Ok(path) = std::env::var("SONDE_WRITE_GOLDEN") {
        fs::write(path, &text).unwrap();
    }
    let (ours, golden) = (families(&text), families(GOLDEN));
    for (name, rows) in &golden {
        assert_eq!(ours.get(name), Some(rows), "{name}");
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    let types = |text: &str| {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(types(&text), types(GOLDEN));
}

#[test]
fn each_mount_is_shown_once_and_what_cannot_be_asked_is_an_error() {
    let (dir, paths) = recorded();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    let config = Config::default().metrics.node;
    let (mounts, types) = (
        Exclude::new("mount_exclude", &config.mount_exclude).unwrap(),
        Exclude::new("fs_exclude", &config.fs_exclude).unwrap(),
    );
    let collector: Box<dyn Source> = Box::new(filesystem::Filesystem::new(&paths, mounts, types));
    let text = Page::new(vec![Section::new(None, vec![collector])], false).render(Format::Classic);
    let families = families(&text);
    let sizes: Vec<&str> =
        families["node_filesystem_size_bytes"].keys().map(|labels| labels["mountpoint"].as_str()).collect();
    assert_eq!(sizes, ["/", "/tmp"]);
    let errors = &families["node_filesystem_device_error"];
    assert!(errors.len() > 10);
    assert!(errors.iter().all(|(labels, value)| (*value == 0.0) == labels["device_error"].is_empty()));
    assert!(errors.keys().all(|labels| !labels["mountpoint"].starts_with("/sys/")));
}

#[test]
fn a_collector_that_is_switched_off_is_not_asked() {
    let (_dir, paths) = recorded();
    let mut config = Config::default().metrics.node;
    let all = sources(&config, &paths, "n").unwrap().len();
    config.disable = vec!["netstat".into(), "textfile".into()];
    assert_eq!(sources(&config, &paths, "n").unwrap().len(), all - 2);
}

#[test]
fn truncated_files_of_proc_never_panic() {
    let (_dir, paths) = recorded();
    let config = Config::default().metrics.node;
    for name in [
        "stat",
        "meminfo",
        "loadavg",
        "diskstats",
        "vmstat",
        "net/netstat",
        "net/snmp",
        "1/net/dev",
        "1/mountinfo",
    ] {
        let path = paths.proc.join(name);
        let bytes = fs::read(&path).unwrap();
        for keep in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..keep]).unwrap();
            let mut sink = Sink::default();
            for collector in sources(&config, &paths, "n").unwrap() {
                let _ = collector.collect(&mut sink);
            }
            assert!(sink.rows() > 50, "one bad file must not take the others' rows: {name}");
        }
        fs::write(&path, b"\xff\x00 : - \n\xff 1 2:\n").unwrap();
        for collector in sources(&config, &paths, "n").unwrap() {
            let _ = collector.collect(&mut Sink::default());
        }
        fs::write(&path, &bytes).unwrap();
    }
}
