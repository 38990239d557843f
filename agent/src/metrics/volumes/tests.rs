use std::fs;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::metrics::tests::{families, rendered};

fn pod(namespace: &str, name: &str, volumes: &[(&str, Option<&str>)]) -> v1::Pod {
    let volumes: Vec<serde_json::Value> = volumes
        .iter()
        .map(|(volume, claim)| match claim {
            Some(claim) => serde_json::json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}),
            None => serde_json::json!({"name": volume, "csi": {"driver": "secrets.example"}}),
        })
        .collect();
    let pod = serde_json::json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")},
        "spec": {"volumes": volumes},
    });
    serde_json::from_value(pod).unwrap()
}

fn line(point: &str) -> String {
    format!("36 35 98:0 / {point} rw,relatime shared:1 - ext4 /dev/vdb rw\n")
}

fn mounts(pod: &str, volumes: &[&str]) -> Vec<Mount> {
    let text: String = volumes
        .iter()
        .map(|volume| {
            line(&format!("/var/lib/kubelet/pods/uid-{pod}/volumes/kubernetes.io~csi/{volume}/mount"))
        })
        .collect();
    parse(&text, Path::new("/var/lib/kubelet"))
}

/// Claims and the volumes that they were found to be.
fn found(pods: &[v1::Pod], mounts: &[Mount]) -> Vec<(String, String)> {
    let volume = |path: &Path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    claims(pods, mounts)
        .into_iter()
        .map(|((namespace, name), path)| (format!("{namespace}/{name}"), volume(&path)))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(claim, volume)| ((*claim).to_owned(), (*volume).to_owned())).collect()
}

#[test]
fn mounts_of_volumes_are_told_from_everything_else_below_the_kubelets_directory() {
    let text = [
        "/host/kubelet/pods/a/volumes/kubernetes.io~csi/pvc-1/mount",
        "/host/kubelet/pods/a/volumes/kubernetes.io~csi/pvc-1/mount",
        "/host/kubelet/pods/a/volumes/kubernetes.io~nfs/a\\040b",
        "/host/kubelet/pods/a/volumes/kubernetes.io~projected/kube-api-access-x",
        "/host/kubelet/pods/a/volumes/kubernetes.io~empty-dir/cache",
        "/host/kubelet/pods/a/volume-subpaths/pvc-1/main/0",
        "/host/kubelet/plugins/kubernetes.io/csi/driver/pvc-1/globalmount",
        "/other/kubelet/pods/a/volumes/kubernetes.io~nfs/c",
    ]
    .map(line)
    .concat();
    let mounts = parse(&text, Path::new("/host/kubelet"));
    let names: Vec<&str> = mounts.iter().map(|mount| mount.volume.as_str()).collect();
    assert_eq!(names, ["pvc-1", "a b"]);
    assert!(mounts[0].path.ends_with("pvc-1/mount") && mounts[1].path.ends_with("kubernetes.io~nfs/a b"));
}

#[test]
fn a_claim_is_known_where_only_one_volume_can_be_its() {
    let db = pod("data", "db-0", &[("data", Some("data-db-0"))]);
    assert_eq!(
        found(std::slice::from_ref(&db), &mounts("db-0", &["pvc-1"])),
        pairs(&[("data/data-db-0", "pvc-1")])
    );
    // A volume that is part of the pod is under its own name.
    let with_own = pod("data", "db-0", &[("data", Some("data-db-0")), ("secrets", None)]);
    assert_eq!(
        found(&[with_own], &mounts("db-0", &["secrets", "pvc-1"])),
        pairs(&[("data/data-db-0", "pvc-1")])
    );
    assert_eq!(
        found(std::slice::from_ref(&db), &mounts("db-0", &["pvc-1", "pvc-2"])),
        [],
        "one of them is somebody else's"
    );
    assert_eq!(found(&[db], &mounts("gone", &["pvc-1"])), [], "of a pod that the kubelet does not tell of");
    let two = pod("data", "two", &[("a", Some("a")), ("b", Some("b"))]);
    assert_eq!(found(&[two], &mounts("two", &["pvc-1", "pvc-2"])), [], "nothing says which is which");
}

#[test]
fn a_claim_that_several_pods_share_is_there_once_and_tells_the_others_apart() {
    let pods = [
        pod("shop", "both", &[("a", Some("a")), ("b", Some("b"))]),
        pod("shop", "one", &[("a", Some("a"))]),
        pod("other", "same-name", &[("a", Some("a"))]),
    ];
    let mounts =
        [mounts("both", &["pvc-1", "pvc-2"]), mounts("one", &["pvc-1"]), mounts("same-name", &["pvc-3"])]
            .concat();
    assert_eq!(
        found(&pods, &mounts),
        pairs(&[("other/a", "pvc-3"), ("shop/a", "pvc-1"), ("shop/b", "pvc-2")])
    );
}

#[test]
fn an_ephemeral_volumes_claim_is_named_after_the_pod_and_the_volume() {
    let pod = serde_json::json!({
        "metadata": {"namespace": "shop", "name": "web-1", "uid": "uid-web-1"},
        "spec": {"volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}]},
    });
    let pods = [serde_json::from_value(pod).unwrap()];
    assert_eq!(found(&pods, &mounts("web-1", &["pvc-9"])), pairs(&[("shop/web-1-scratch", "pvc-9")]));
}

#[test]
fn of_claims_that_no_mount_tells_the_kubelets_word_counts_and_it_is_asked() {
    let index = PodIndex::default();
    let two = pod("shop", "two", &[("a", Some("data")), ("b", Some("wal"))]);
    index.replace_states(vec![two]);
    assert!(!index.volumes_wanted());
    let told = VolumeStats { capacity_bytes: 100, used_bytes: 40, ..VolumeStats::default() };
    let claim = |name: &str| ("shop".to_owned(), name.to_owned());
    index.replace_volumes(BTreeMap::from([(claim("wal"), told), (claim("of-a-pod-that-is-gone"), told)]));
    let source = Volumes::new("/nonexistent".into(), index.clone());
    let page = families(&rendered(move |out| source.collect(out).unwrap()));
    assert!(index.volumes_wanted());
    let rows: Vec<_> = page["kubelet_volume_stats_used_bytes"].iter().collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].0["persistentvolumeclaim"].as_str(), *rows[0].1), ("wal", 40.0));
}

/// A tmpfs in the place of a volume; gone when this is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        let done =
            command.args(["-t", "tmpfs", "-o", "size=4m,nr_inodes=100", "sonde-test"]).arg(at).output();
        done.is_ok_and(|out| out.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_real_mount_has_the_rows_of_the_kubelet_and_a_mount_point_without_one_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let volume =
        |pod: &str| dir.path().join(format!("pods/uid-{pod}/volumes/kubernetes.io~csi/pvc-{pod}/mount"));
    fs::create_dir_all(volume("db-1")).unwrap();
    let Some(mount) = Tmpfs::mount(&volume("db-0")) else {
        eprintln!(
            "SKIPPED a_real_mount_has_the_rows_of_the_kubelet_and_a_mount_point_without_one_has_none: no right to mount here"
        );
        return;
    };
    fs::write(mount.0.join("file"), vec![1; 1 << 20]).unwrap();
    let index = PodIndex::default();
    index.replace_states(vec![
        pod("data", "db-0", &[("data", Some("data-db-0"))]),
        pod("data", "db-1", &[("data", Some("data-db-1"))]),
    ]);
    let source = std::sync::Arc::new(Volumes::new(dir.path().to_owned(), index));
    let collected = || {
        let source = std::sync::Arc::clone(&source);
        families(&rendered(move |out| source.collect(out).unwrap()))
    };
    let mut page = collected();
    // A busy machine may answer later than a scrape waits.
    let since = std::time::Instant::now();
    while !page.contains_key("kubelet_volume_stats_used_bytes") && since.elapsed().as_secs() < 30 {
        page = collected();
    }
    let expected = [
        ("available_bytes", 3 << 20),
        ("capacity_bytes", 4 << 20),
        ("inodes", 100),
        ("inodes_free", 98),
        ("inodes_used", 2),
        ("used_bytes", 1 << 20),
    ];
    for (name, value) in expected {
        let rows: Vec<_> = page[&format!("kubelet_volume_stats_{name}")].iter().collect();
        let labels = BTreeMap::from([
            ("namespace".to_owned(), "data".to_owned()),
            ("persistentvolumeclaim".to_owned(), "data-db-0".to_owned()),
        ]);
        assert_eq!(rows, [(&labels, &f64::from(value))], "{name}");
    }
}

proptest! {
    #[test]
    fn no_mountinfo_makes_it_panic(text in "[ -~\n]{0,200}", point in "[/a-z\\\\0-9~.]{0,60}") {
        let _ = parse(&format!("{text}\n{}", line(&format!("/k/pods/{point}"))), Path::new("/k"));
    }
}
