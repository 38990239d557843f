//! Whose line it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use sonde_tests::memory;
use sonde_tests::stack::Settings;

use crate::kubelet::{Kubelet, Says, list, pod};
use crate::rig::{Container, Rig, until};

#[test]
fn a_pod_that_lives_one_second_is_stored_and_named_by_its_path() {
    // A kubelet that never tells of it.
    let kubelet = Kubelet::start(list(&[]));
    let mut rig = Rig::with(Settings { kubelet: kubelet.url.clone(), ..Settings::default() });
    rig.stack.start().unwrap();
    for n in 0..5 {
        let uid = format!("00000000-0000-4000-8000-00000000000{n}");
        let mut container = Container::new(&rig.stack.pod_logs, &format!("short-{n}"), &uid);
        container.line("hello");
        std::thread::sleep(Duration::from_secs(1));
        container.line("and away");
        fs::remove_dir_all(container.pod_dir()).unwrap();
    }
    rig.until_stored(10);
    for n in 0..5 {
        for record in rig.records(&format!("short-{n}")) {
            assert_eq!(
                (&record["namespace"], &record["container"]),
                (&"ns".into(), &"app".into()),
                "{record}"
            );
            let uid = format!("00000000-0000-4000-8000-00000000000{n}");
            assert_eq!(record["attributes"]["k8s.pod.uid"], uid, "{record}");
        }
    }
    assert_eq!(rig.ledger("lost_bytes_total", ""), 0);
}

#[test]
fn a_pod_of_the_same_name_and_a_new_uid_never_gets_the_old_ones_labels() {
    let kubelet = Kubelet::start(list(&[pod("web-0", "old-uid", "old")]));
    let mut rig = Rig::with(Settings { kubelet: kubelet.url.clone(), ..Settings::default() });
    rig.stack.start().unwrap();
    let mut old = Container::new(&rig.stack.pod_logs, "web-0", "old-uid");
    old.line("old");
    rig.until_stored(1);
    fs::remove_dir_all(old.pod_dir()).unwrap();
    // The kubelet still tells of the old one only.
    let mut new = Container::new(&rig.stack.pod_logs, "web-0", "new-uid");
    new.line("new");
    rig.until_stored(2);
    kubelet.says(list(&[pod("web-0", "new-uid", "new")]));
    let label = |record: &serde_json::Value| record["attributes"]["k8s.pod.label.app"].clone();
    until("the new pod's labels", || {
        new.line("new");
        std::thread::sleep(Duration::from_millis(500));
        rig.records("web-0").iter().any(|record| label(record) == "new")
    });
    for record in rig.records("web-0") {
        let (is_old, label) = (record["body"] == "old", label(&record));
        assert!(label == "old" && is_old || !is_old && (label == "new" || label.is_null()), "{record}");
    }
}

#[test]
fn collection_starts_and_memory_is_bounded_whatever_the_kubelet_does() {
    for says in [Says::Nothing, Says::Endless] {
        let kubelet = Kubelet::start(says);
        let mut rig = Rig::with(Settings { kubelet: kubelet.url.clone(), ..Settings::default() });
        rig.stack.start().unwrap();
        let mut container = rig.container("alone");
        container.lines("line", 1000);
        rig.until_stored(1000);
        assert_eq!(rig.bodies("alone"), container.written);
        // The first answer is still awaited, or refused for its size.
        std::thread::sleep(Duration::from_secs(2));
        let (_, peak) = memory(rig.stack.agent.as_ref().unwrap().pid()).unwrap();
        // An answer is refused when it is longer than 64 MiB.
        assert!(peak < 110 << 20, "{peak} bytes");
    }
}

#[test]
fn links_to_one_file_are_read_once_and_one_inotify_instance_serves_all() {
    let mut rig = Rig::new("");
    let log = rig.dir.path().join("var/log");
    let (data, links) = (rig.dir.path().join("var/lib/docker/containers"), log.join("containers"));
    fs::create_dir_all(&links).unwrap();
    for n in 0..50 {
        let container = rig.container(&format!("linked-{n}"));
        let real = data.join(format!("{n:064}"));
        fs::create_dir_all(&real).unwrap();
        let file = real.join(format!("{n:064}-json.log"));
        symlink(&file, container.live()).unwrap();
        symlink(container.live(), links.join(format!("linked-{n}_ns_app-{n:064}.log"))).unwrap();
        let mut container = container;
        container.lines("line", 20);
    }
    rig.stack.start().unwrap();
    rig.until_stored(1000);
    let descriptors = format!("/proc/{}/fd", rig.stack.agent.as_ref().unwrap().pid());
    let instances = fs::read_dir(descriptors)
        .unwrap()
        .filter(|fd| {
            fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.ends_with("anon_inode:inotify"))
        })
        .count();
    assert_eq!(instances, 1);
}
