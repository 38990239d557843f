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
fn a_collector_that_can_be_left_out_is_known_by_its_name() {
    let (_dir, paths) = recorded();
    let sources = sources(&Config::default().metrics.node, &paths, "n").unwrap();
    let mut names: Vec<_> =
        sources.iter().map(|source| source.name()).filter(|name| *name != "build").collect();
    names.sort_unstable();
    assert_eq!(names, COLLECTORS);
    assert!(is_collector("systemd") && is_collector("zfs") && !is_collector("zsf"));
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

fn files_below(directory: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found)
        } else {
            found.push(entry.path())
        }
    }
}

#[test]
fn truncated_and_senseless_files_of_proc_cost_no_other_collector_its_rows() {
    let (_dir, paths) = recorded();
    let mut config = Config::default().metrics.node;
    // What asks this machine, which moves.
    config.disable = ["time", "timex", "filesystem", "uname"].map(str::to_owned).to_vec();
    let collectors = sources(&config, &paths, "n").unwrap();
    let rows = || -> Vec<(String, usize)> {
        let mut all = Vec::new();
        for collector in &collectors {
            let mut sink = Sink::default();
            let _ = collector.collect(&mut sink);
            all.push((collector.name().to_owned(), sink.rows()));
        }
        all
    };
    let all = rows();
    let mut files = Vec::new();
    files_below(&paths.proc, &mut files);
    files.retain(|path| {
        let process = path.strip_prefix(&paths.proc).unwrap().iter().next().unwrap().to_str().unwrap();
        process == "1" || !process.bytes().all(|byte| byte.is_ascii_digit())
    });
    assert!(files.len() > 20);
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let cut = |keep: usize| bytes[..keep.min(bytes.len())].to_vec();
        let senseless = b"\xff\x00 : - \n\xff 1 2:\ncpu0\n99999999999999999999999 x\n".to_vec();
        for text in
            [cut(0), cut(1), cut(bytes.len() / 3), cut(bytes.len() / 2), cut(bytes.len() - 1), senseless]
        {
            fs::write(&path, text).unwrap();
            let fewer = rows().iter().zip(&all).filter(|(now, then)| now.1 < then.1).count();
            // `net/dev` and the like are of one collector, `stat` of two.
            assert!(fewer <= 2, "{}: {fewer} collectors have fewer rows", path.display());
        }
        fs::write(&path, &bytes).unwrap();
    }
}
