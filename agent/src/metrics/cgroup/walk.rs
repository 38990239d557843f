//! The tree: which cgroups there are now.
//!
//! A directory is listed again only when its number of links moved or one of its children is gone: the kernel counts
//! a directory's children as links, and a removed child answers with an error, so together they leave nothing out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::files::{Handles, relative};
use super::name::{self, Kind};

/// Most cgroups that are shown.
const MOST: usize = 20_000;
/// How deep the directory of all pods may lie.
const DEPTH: usize = 4;

/// A cgroup that is known.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) handles: Handles,
    /// Seconds since 1970.
    pub(super) started: f64,
    links: u64,
}

/// The cgroups by id, which is the path from the hierarchy's root: `/kubepods.slice`.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<String, Node>,
    walks: u64,
    pods: Vec<String>,
}

impl Tree {
    /// Brings the tree up to date. `lazy`: a directory whose links did not move need not be listed again, unless it
    /// is in `stale`.
    pub(super) fn walk(&mut self, root: &Path, lazy: bool, stale: &[String]) {
        self.walk_by(root, lazy, stale, &directories);
    }

    fn walk_by(&mut self, root: &Path, lazy: bool, stale: &[String], list: &List) {
        self.walks += 1;
        if self.pods.is_empty() || self.walks % 30 == 1 || !stale.is_empty() {
            let mut found = Vec::new();
            if find_pods(root, "", DEPTH, list, &mut found).is_err() {
                // What was found before is still there, or `add` does not take it.
                found.append(&mut self.pods);
                found.sort();
                found.dedup();
            }
            self.pods = found;
        }
        let mut seen = BTreeMap::new();
        let mut old = std::mem::take(&mut self.nodes);
        let mut visit = Visit { root, lazy, stale, list, old: &mut old, seen: &mut seen };
        visit.add("/", Kind::Root);
        visit.add("/system.slice/kubelet.service", Kind::Slice);
        for pods in &self.pods {
            visit.slice(pods, 0);
        }
        self.nodes = seen;
    }
}

/// Lists the directories in one.
type List = dyn Fn(&Path) -> io::Result<Vec<String>>;

struct Visit<'a> {
    root: &'a Path,
    lazy: bool,
    stale: &'a [String],
    list: &'a List,
    old: &'a mut BTreeMap<String, Node>,
    seen: &'a mut BTreeMap<String, Node>,
}

impl Visit<'_> {
    /// Takes a cgroup over, or makes it. `Some(true)`: its children may be others than before.
    fn add(&mut self, id: &str, kind: Kind) -> Option<bool> {
        let path = self.root.join(relative(id));
        let directory = fs::metadata(&path).ok().filter(fs::Metadata::is_dir)?;
        if self.seen.len() >= MOST {
            return None;
        }
        let links = directory.nlink();
        if let Some(mut node) = self.old.remove(id) {
            // A file system that does not count has one link for ever.
            let moved =
                !self.lazy || links < 2 || node.links != links || self.stale.iter().any(|stale| stale == id);
            node.links = links;
            self.seen.insert(id.to_owned(), node);
            return Some(moved);
        }
        // As cAdvisor: the earliest stamp, for the kernel makes them when it is first asked (common/helpers.go).
        let procs = fs::metadata(path.join("cgroup.procs")).ok();
        let started = [Some(directory), procs]
            .into_iter()
            .flatten()
            .filter_map(|meta| meta.modified().ok()?.duration_since(UNIX_EPOCH).ok())
            .min()
            .map_or(0.0, |since| since.as_secs_f64());
        let node = Node { kind, handles: Handles::default(), started, links };
        self.seen.insert(id.to_owned(), node);
        Some(true)
    }

    /// The directory of all pods, or of a QoS class.
    fn slice(&mut self, id: &str, depth: usize) {
        let Some(moved) = self.add(id, Kind::Slice) else { return };
        for child in self.children(id, moved) {
            let path = format!("{id}/{child}");
            if let Some(uid) = name::pod_uid(&child) {
                self.pod(&path, &uid);
            } else if depth == 0 && name::is_qos(&child) {
                self.slice(&path, 1);
            }
        }
    }

    fn pod(&mut self, id: &str, uid: &str) {
        let Some(moved) = self.add(id, Kind::Pod { uid: uid.to_owned() }) else { return };
        for child in self.children(id, moved) {
            if let Some(container) = name::container_id(&child) {
                let kind = Kind::Container { uid: uid.to_owned(), id: container.to_owned() };
                self.add(&format!("{id}/{child}"), kind);
            }
        }
    }

    /// Names of the children: listed where they may have moved, else, and where they cannot be listed, those known
    /// before.
    fn children(&self, id: &str, moved: bool) -> Vec<String> {
        if moved && let Ok(names) = (self.list)(&self.root.join(relative(id))) {
            return names;
        }
        let prefix = format!("{id}/");
        self.old
            .range(prefix.clone()..)
            .map_while(|(known, _)| known.strip_prefix(&prefix))
            .filter(|rest| !rest.contains('/'))
            .map(str::to_owned)
            .collect()
    }
}

fn directories(path: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(MOST)
        .collect();
    names.sort();
    Ok(names)
}

/// The directories of all pods, wherever the kubelet's root is (`--cgroup-root`, kind, k3s).
fn find_pods(root: &Path, id: &str, depth: usize, list: &List, found: &mut Vec<String>) -> io::Result<()> {
    let mut whole = Ok(());
    for child in list(&root.join(relative(id)))? {
        let path = format!("{id}/{child}");
        if name::is_kubepods(&child) {
            found.push(path);
        } else if depth > 1 && may_hold_pods(&child) {
            whole = whole.and(find_pods(root, &path, depth - 1, list, found));
        }
    }
    whole
}

/// Services, mounts and users hold no pods, and may be many.
fn may_hold_pods(name: &str) -> bool {
    !matches!(name, "user.slice" | "init.scope" | "dev-hugepages.mount")
        && ![".mount", ".service", ".socket", ".swap"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "468cc3f6_7653_4ecc_a246_4d25c6e2f35c";

    fn ids(tree: &Tree) -> Vec<&str> {
        tree.nodes.keys().map(String::as_str).collect()
    }

    #[test]
    fn children_that_come_and_go_are_seen_in_the_next_walk() {
        let root = tempfile::tempdir().unwrap();
        let pod = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice");
        let scope =
            |digit: &str| root.path().join(&pod).join(format!("cri-containerd-{}.scope", digit.repeat(64)));
        fs::create_dir_all(scope("a")).unwrap();
        fs::create_dir_all(root.path().join(&pod).join("nested.mount")).unwrap();
        fs::create_dir_all(root.path().join("user.slice/kubepods")).unwrap();
        for lazy in [false, true] {
            let mut tree = Tree::default();
            tree.walk(root.path(), lazy, &[]);
            assert_eq!(tree.nodes.len(), 5, "{:?}", ids(&tree));
            fs::create_dir_all(scope("b")).unwrap();
            tree.walk(root.path(), lazy, &[]);
            assert_eq!(tree.nodes.len(), 6);
            fs::remove_dir(scope("b")).unwrap();
            tree.walk(root.path(), lazy, &[]);
            assert_eq!(tree.nodes.len(), 5);
        }
    }

    #[test]
    fn what_cannot_be_listed_for_once_is_taken_for_unchanged() {
        let root = tempfile::tempdir().unwrap();
        let pod = format!("kubepods.slice/kubepods-pod{UID}.slice");
        let scope = format!("{pod}/cri-containerd-{}.scope", "a".repeat(64));
        fs::create_dir_all(root.path().join(&scope)).unwrap();
        let mut tree = Tree::default();
        tree.walk(root.path(), false, &[]);
        let before: Vec<String> = tree.nodes.keys().cloned().collect();
        assert_eq!(before.len(), 4, "{before:?}");
        // Stale, so that the pods are looked for anew as well.
        let too_many = |_: &Path| Err(rustix::io::Errno::MFILE.into());
        tree.walk_by(root.path(), false, &["/kubepods.slice".to_owned()], &too_many);
        assert_eq!(tree.nodes.keys().cloned().collect::<Vec<_>>(), before);
        fs::remove_dir(root.path().join(&scope)).unwrap();
        tree.walk_by(root.path(), false, &[], &too_many);
        assert_eq!(tree.nodes.len(), 3, "what is gone is gone all the same");
    }

    #[test]
    fn pods_are_found_under_a_root_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let pod = format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID}.slice");
        fs::create_dir_all(root.path().join(pod)).unwrap();
        fs::create_dir_all(root.path().join("docker/x/kubepods/besteffort/pod11111111-2222")).unwrap();
        let mut tree = Tree::default();
        tree.walk(root.path(), false, &[]);
        let pods: Vec<_> = tree.nodes.values().filter(|node| matches!(node.kind, Kind::Pod { .. })).collect();
        assert_eq!(pods.len(), 2, "{:?}", ids(&tree));
    }

    /// Both run their nodes in containers of one host: the agent may look from the host or from within a node.
    #[test]
    fn pods_of_kinds_and_of_k3s_nested_nodes_are_found_beside_each_other() {
        let id = |digit: &str| digit.repeat(64);
        let dashed = UID.replace('_', "-");
        let kind = format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID}.slice/cri-containerd-{}.scope",
            id("a")
        );
        // k3s has the cgroupfs driver in a container, and the systemd driver under systemd.
        let k3s = format!("kubepods/besteffort/pod{dashed}/{}", id("b"));
        let k3s_systemd = format!("kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{}.scope", id("c"));
        let nodes = [
            (format!("system.slice/docker-{}.scope", id("1")), &kind),
            (format!("system.slice/docker-{}.scope", id("2")), &k3s),
            (format!("docker/{}", id("3")), &k3s),
            (format!("docker/{}", id("4")), &kind),
            // From within.
            (".".to_owned(), &kind),
            (".".to_owned(), &k3s),
            (".".to_owned(), &k3s_systemd),
        ];
        let root = tempfile::tempdir().unwrap();
        for (node, pod) in &nodes {
            fs::create_dir_all(root.path().join(node).join(pod)).unwrap();
            fs::create_dir_all(root.path().join(node).join("k3s/init")).unwrap();
            fs::create_dir_all(root.path().join(node).join("kubelet.slice/containerd.service")).unwrap();
        }
        let mut tree = Tree::default();
        tree.walk(root.path(), false, &[]);
        for (node, pod) in &nodes {
            let container = format!("{node}/{pod}").replacen("./", "", 1);
            let (pod, _) = container.rsplit_once('/').unwrap();
            let wanted = Kind::Pod { uid: dashed.clone() };
            let found = tree.nodes.get(&format!("/{pod}"));
            assert_eq!(found.map(|node| &node.kind), Some(&wanted), "{pod}: {:?}", ids(&tree));
            let found = tree.nodes.get(&format!("/{container}"));
            assert!(
                matches!(found.map(|node| &node.kind), Some(Kind::Container { uid, .. }) if *uid == dashed),
                "{container}: {:?}",
                ids(&tree)
            );
        }
        let of_kind =
            |wanted: fn(&Kind) -> bool| tree.nodes.values().filter(|node| wanted(&node.kind)).count();
        assert_eq!(of_kind(|kind| matches!(kind, Kind::Pod { .. })), nodes.len());
        assert_eq!(of_kind(|kind| matches!(kind, Kind::Container { .. })), nodes.len());
    }
}
