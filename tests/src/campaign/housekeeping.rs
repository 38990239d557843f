//! What a kubelet deletes after its grace: here only what the agent has shipped and has in its state on disk (else a kill
//! just then counts as lost what nobody can tell from it), and with a copy for the verifier.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sonde_sim::SimNode;

use crate::{http, verify};

/// Compressed files of a container's restart that stay.
const KEPT: usize = 5;

/// What the agent says of a file.
#[derive(Deserialize)]
struct Seen {
    path: PathBuf,
    size: u64,
    acked: u64,
    lag_bytes: u64,
    state: String,
    persisted: bool,
}

impl Seen {
    fn is_shipped(&self) -> bool {
        self.size > 0
            && self.acked == self.size
            && self.lag_bytes == 0
            && self.persisted
            && (self.state == "idle" || self.state == "finished")
    }
}

/// What one turn deleted: pods, compressed files.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) pods: u64,
    pub(super) gz: u64,
}

/// Deletes what may go, if the agent on `port` answers.
pub(super) fn sweep(node: &SimNode, port: u16) -> anyhow::Result<Swept> {
    let mut swept = Swept::default();
    let Ok(page) = http::text_within(port, "/debug/files", Duration::from_secs(3)) else { return Ok(swept) };
    let files: Vec<Seen> = serde_json::from_str(&page)?;
    let shipped: HashMap<PathBuf, Seen> =
        files.into_iter().filter(Seen::is_shipped).map(|seen| (without_gz(&seen.path), seen)).collect();
    let (pod_logs, archive) = (node.pod_logs(), node.archive());
    let below = |path: &Path| path.strip_prefix(&pod_logs).unwrap_or(path).to_owned();
    for pod in node.ended_pods() {
        let files = files_below(&pod)?;
        if files.iter().all(|file| is_shipped(&shipped, &below(file), file)) {
            verify::copy_tree(&pod, &archive.join(below(&pod)))?;
            fs::remove_dir_all(&pod)?;
            swept.pods += 1;
        }
    }
    for old in rotated(&pod_logs)?.into_values() {
        for file in &old[..old.len().saturating_sub(KEPT)] {
            if !shipped.contains_key(&without_gz(&below(file))) || !stands_alone(file)? {
                break;
            }
            let copy = archive.join(below(file));
            fs::create_dir_all(copy.parent().unwrap_or(&archive))?;
            fs::copy(file, copy)?;
            fs::remove_file(file)?;
            swept.gz += 1;
        }
    }
    Ok(swept)
}

fn without_gz(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "gz") {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

/// Whether the agent has shipped all that the file has now. An empty one has nothing to be shipped.
fn is_shipped(shipped: &HashMap<PathBuf, Seen>, name: &Path, file: &Path) -> bool {
    let len = fs::metadata(file).map_or(u64::MAX, |meta| meta.len());
    let is_gz = without_gz(file) != file;
    len == 0 || shipped.get(&without_gz(name)).is_some_and(|seen| is_gz || seen.size == len)
}

/// Log files below a directory; other names (a `.tmp`) as well.
fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The compressed files of each container's restart, oldest first.
fn rotated(pod_logs: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<PathBuf>>> {
    let mut all: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files_below(pod_logs)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let (true, Some((restart, _))) = (name.ends_with(".gz"), name.split_once('.')) {
            all.entry(file.with_file_name(restart)).or_default().push(file);
        }
    }
    all.values_mut().for_each(|files| files.sort());
    Ok(all)
}

/// Whether no line goes on in the next file: without this one an agent that has to read all anew could not name it.
fn stands_alone(gz: &Path) -> anyhow::Result<bool> {
    let mut lines = BufReader::new(MultiGzDecoder::new(File::open(gz)?));
    let (mut open, mut line) = (HashMap::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        let stream = words.next().unwrap_or_default().to_owned();
        open.insert(stream, words.next() == Some(b"P") || line.last() != Some(&b'\n'));
        line.clear();
    }
    Ok(!open.values().any(|open| *open))
}
