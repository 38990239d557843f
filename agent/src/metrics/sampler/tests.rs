use std::fs;

use super::naming::HELD_BACK;
use super::*;
use crate::metrics::tests::{recorded, recorded_pods};

fn sampler(index: PodIndex) -> (tempfile::TempDir, Sampler) {
    let (dir, paths) = recorded();
    (dir, Sampler::new(&paths, index))
}

fn uid(name: &str) -> String {
    let pods = recorded_pods().states();
    pods.iter().find(|pod| pod.metadata.name == name).unwrap().metadata.uid.clone()
}

#[test]
fn a_sample_serves_for_a_second() {
    let (_dir, sampler) = sampler(recorded_pods());
    let (first, second) = (sampler.sample().unwrap(), sampler.sample().unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    sampler.state.lock().unwrap().last.as_mut().unwrap().0 -= SHARED_FOR;
    assert!(!Arc::ptr_eq(&first, &sampler.sample().unwrap()));
}

#[test]
fn sandbox_and_containers_of_a_pod_are_told_apart() {
    let (_dir, sampler) = sampler(recorded_pods());
    let sample = sampler.sample().unwrap();
    let rows: Vec<&Row> = sample.rows.iter().filter(|row| row.names.pod == "db-0").collect();
    assert_eq!(rows.len(), 3);
    let sandboxes: Vec<_> =
        rows.iter().filter(|row| row.names.container.is_empty() && !row.names.name.is_empty()).collect();
    assert_eq!(sandboxes.len(), 1);
    assert_eq!(sandboxes[0].names.image, "pause");
}

#[test]
fn a_hosts_network_is_not_repeated_and_a_pods_is_read_once() {
    let (_dir, sampler) = sampler(recorded_pods());
    let sample = sampler.sample().unwrap();
    let host: Vec<_> = sample.pods.iter().filter(|pod| pod.spec.host_network).collect();
    assert!(!host.is_empty());
    for pod in host {
        assert!(sample.pod_networks.iter().all(|network| network.uid != pod.metadata.uid));
    }
    let db: Vec<_> = sample.pod_networks.iter().filter(|network| network.uid == uid("db-0")).collect();
    assert_eq!(db.len(), 1);
    assert!(db[0].interfaces.iter().any(|interface| interface.name == "eth0" && interface.receive.bytes > 0));
    assert!(db[0].names.container.is_empty() && !db[0].names.name.is_empty());
    assert!(sample.node_network.iter().any(|interface| interface.name == "cni0"));
}

#[test]
fn a_hosts_network_is_not_repeated_either_while_pods_are_known_by_their_paths_alone() {
    let (_dir, paths) = recorded();
    let pods = recorded_pods().states();
    let host: Vec<_> = pods.iter().filter(|pod| pod.spec.host_network).collect();
    for pod in &*pods {
        let v1::Metadata { namespace, name, uid, .. } = &pod.metadata;
        fs::create_dir_all(paths.pod_logs.join(format!("{namespace}_{name}_{uid}"))).unwrap();
    }
    // Their processes have the file of the first one, as where the kernel makes it.
    let sample = Sampler::new(&paths, recorded_pods()).sample().unwrap();
    let mut linked = 0;
    for row in &sample.rows {
        if let (Kind::Container { uid, .. }, Some(pid)) = (&row.cgroup.kind, row.cgroup.pids.one)
            && host.iter().any(|pod| pod.metadata.uid == *uid)
        {
            let directory = paths.proc.join(pid.to_string()).join("net");
            fs::create_dir_all(&directory).unwrap();
            let _ = fs::remove_file(directory.join("dev"));
            fs::hard_link(paths.proc.join("1/net/dev"), directory.join("dev")).unwrap();
            linked += 1;
        }
    }
    assert!(linked > 0, "the recording has such a process");
    let sampler = Sampler::new(&paths, PodIndex::default());
    let networks = sampler.sample().unwrap().pod_networks.clone();
    assert!(networks.iter().any(|network| network.uid == uid("db-0")), "others are shown");
    for pod in host {
        assert!(networks.iter().all(|network| network.uid != pod.metadata.uid), "{}", pod.metadata.name);
    }
}

#[test]
fn a_container_without_a_name_is_held_back_and_the_kubelet_asked() {
    let (_dir, sampler) = sampler(PodIndex::default());
    let sample = sampler.sample().unwrap();
    let shown = |sample: &Sample| sample.rows.iter().filter(|row| row.shown).count();
    // The root, the kubelet and the slices have no names to wait for.
    assert_eq!(shown(&sample), 5);
    assert!(sample.pod_networks.is_empty());
    let mut state = sampler.state.lock().unwrap();
    state.last = None;
    for since in state.nameless.values_mut() {
        *since -= HELD_BACK;
    }
    drop(state);
    let late = sampler.sample().unwrap();
    assert_eq!(shown(&late), late.rows.len(), "better without a name than never");
}

#[test]
fn a_new_container_beside_older_ones_is_not_taken_for_a_sandbox() {
    let (_dir, paths) = recorded();
    let sampler = Sampler::new(&paths, recorded_pods());
    let sample = sampler.sample().unwrap();
    let pod = sample.rows.iter().find(|row| row.names.pod == "db-0" && row.names.name.is_empty()).unwrap();
    let new =
        paths.cgroup.join(&pod.cgroup.id[1..]).join(format!("cri-containerd-{}.scope", "ab".repeat(32)));
    fs::create_dir_all(&new).unwrap();
    fs::write(new.join("cpu.stat"), "usage_usec 5\n").unwrap();
    sampler.state.lock().unwrap().last = None;
    let then = sampler.sample().unwrap();
    let row = then.rows.iter().find(|row| row.cgroup.id.contains(&"ab".repeat(32))).unwrap();
    assert!(!row.shown);
    assert_eq!(row.names.pod, "db-0");
}

#[test]
fn without_a_kubelet_pods_are_named_by_their_log_directories() {
    let (_dir, paths) = recorded();
    fs::create_dir_all(paths.pod_logs.join(format!("data_db-0_{}", uid("db-0")))).unwrap();
    fs::create_dir_all(paths.pod_logs.join("odd")).unwrap();
    let sample = Sampler::new(&paths, PodIndex::default()).sample().unwrap();
    let named: Vec<&Row> = sample.rows.iter().filter(|row| row.names.pod == "db-0").collect();
    assert_eq!(named.len(), 3, "the pod and what is in it");
    let shown: Vec<_> = named.iter().filter(|row| row.shown).collect();
    assert!(matches!(shown[..], [row] if row.names.namespace == "data" && row.names.name.is_empty()));
}

#[test]
fn a_sample_that_hangs_holds_nobody_up_who_asks_for_the_last_one() {
    let (_dir, sampler) = sampler(recorded_pods());
    sampler.sample().unwrap();
    assert!(sampler.last().is_some());
    let (answers, answer) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let hanging = sampler.state.lock().unwrap();
        scope.spawn(|| answers.send(sampler.last()));
        let answered = answer.recv_timeout(std::time::Duration::from_secs(20));
        drop(hanging);
        assert!(matches!(answered, Ok(None)), "there is an answer while the sample is being made");
    });
}

/// The recorded node's pod `db-0` as another runtime has it: where its cgroups are called so, and its containers' ids too.
fn of_runtime(prefix: &str, suffix: &str, scheme: &str) -> (Vec<Row>, Vec<PodNetwork>) {
    let (_dir, paths) = recorded();
    let recorded = Sampler::new(&paths, recorded_pods()).sample().unwrap();
    for row in recorded.rows.iter().filter(|row| matches!(row.cgroup.kind, Kind::Container { .. })) {
        let Kind::Container { id, .. } = &row.cgroup.kind else { unreachable!() };
        let old = paths.cgroup.join(&row.cgroup.id[1..]);
        fs::rename(&old, old.with_file_name(format!("{prefix}{id}{suffix}"))).unwrap();
    }
    let mut pods = recorded.pods.to_vec();
    for pod in &mut pods {
        let status = &mut pod.status;
        for status in status.init_container_statuses.iter_mut().chain(&mut status.container_statuses) {
            status.container_id = status.container_id.replace("containerd://", scheme);
            status.restart_count = 4;
        }
    }
    let index = PodIndex::default();
    index.replace_states(pods);
    let sample = Sampler::new(&paths, index).sample().unwrap();
    let rows = sample.rows.iter().filter(|row| row.names.pod == "db-0").cloned().collect();
    let networks =
        sample.pod_networks.iter().filter(|network| network.names.pod == "db-0").cloned().collect();
    (rows, networks)
}

#[test]
fn docker_and_cri_o_name_containers_and_sandboxes_as_the_kubelet_shows_them() {
    let name = |container: &str, attempt| format!("k8s_{container}_db-0_data_{}_{attempt}", uid("db-0"));
    for (prefix, suffix, scheme) in [
        ("docker-", ".scope", "docker://"),
        ("", "", "docker://"),
        ("crio-", ".scope", "cri-o://"),
        ("crio-", "", "cri-o://"),
    ] {
        let (rows, networks) = of_runtime(prefix, suffix, scheme);
        let named = |container: &str| -> Vec<&Names> {
            rows.iter().map(|row| &row.names).filter(|names| names.container == container).collect()
        };
        let [sandbox] = named("POD")[..] else { panic!("{prefix} {scheme}: {rows:?}") };
        assert_eq!((&sandbox.name, sandbox.image.as_str()), (&name("POD", 0), "pause"));
        let [container] = named("db")[..] else { panic!("{prefix} {scheme}: {rows:?}") };
        assert_eq!(container.name, name("db", 4));
        assert!(!container.image.is_empty());
        let [pod] = named("")[..] else { panic!("the pod's own row") };
        assert!(pod.name.is_empty());
        let [network] = &networks[..] else { panic!("{networks:?}") };
        assert_eq!(network.names.name, name("POD", 0), "the sandbox has the network");
    }
}

#[test]
fn containerd_names_containers_by_their_ids_and_sandboxes_not_at_all() {
    for (prefix, suffix) in [("cri-containerd-", ".scope"), ("", "")] {
        let (rows, _) = of_runtime(prefix, suffix, "containerd://");
        for row in &rows {
            let Kind::Container { id, .. } = &row.cgroup.kind else { continue };
            assert_eq!(&row.names.name, id);
        }
        assert_eq!(rows.iter().filter(|row| row.names.is_sandbox()).count(), 1);
        assert!(rows.iter().all(|row| row.names.container != "POD"));
    }
}
