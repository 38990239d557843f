//! The files of one container restart: one logical stream, read in the order of their rotation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sonde_wire::attrs::AttrSet;
use sonde_wire::logs::Stream;

use super::format::Format;
use super::fs::Place;
use super::group::Groups;
use super::join::{Extent, Joined, Joiner, MAX_WAIT};
use super::layout::{DOCKER, Layout};
use super::ledger::RowKey;
use super::limits::Quota;
use super::multiline::Rule;
use super::plain_files;
use super::pod_path::PodDir;
use super::redact::RuleSet;
use super::redo::Again;
use super::resource::Source;
use super::tail::FileId;

/// Names a lineage within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineageId(pub u32);

/// Shortest and longest time between two looks at a quiet file.
pub const FIRST_LOOK: Duration = Duration::from_millis(100);
/// See [`FIRST_LOOK`].
pub const LAST_LOOK: Duration = Duration::from_secs(1);

/// One container restart.
pub struct Lineage {
    /// Where its files lie.
    pub layout: Layout,
    /// How their lines are written.
    pub format: Format,
    /// Name of the pod's directory; what the state knows it by, together with container and restart.
    pub pod_dir: Arc<str>,
    /// The same, taken apart. Of a container that is known by its id alone, that is the uid, and the rest is empty.
    pub pod: PodDir,
    /// Container; empty where it is not known.
    pub container: Arc<str>,
    /// Restart count.
    pub restart: u32,
    /// Files in the order of their rotation.
    pub files: Vec<FileId>,
    /// Records that ended and that the disk does not give: nothing more is read before they are sent.
    pub unread: VecDeque<Again>,
    /// Since when.
    pub unread_since: Option<Instant>,
    /// The last file of which an entry of a stream was read; of stdout, and of stderr.
    pub reached: [Option<FileId>; 2],
    /// Unfinished lines.
    pub joiner: Joiner,
    /// Unfinished records of several lines; none = there never was one.
    pub groups: Option<Box<Groups>>,
    /// The multi-line rule of what comes.
    pub rule: Option<Arc<Rule>>,
    /// Grows with each change of it; 0 = not chosen yet.
    pub rule_version: u32,
    /// What its pod said of it last.
    pub wish: Option<String>,
    /// Ledger row.
    pub row: RowKey,
    /// Left out by `logs.include` or `logs.exclude`.
    pub ruled_out: bool,
    /// Left out, by rule or by its pod's word.
    pub excluded: bool,
    /// Whether fields are taken out of its bodies.
    pub parse: bool,
    /// What is used of its limit.
    pub quota: Quota,
    /// What is taken out of its bodies.
    pub redact: RuleSet,
    /// Resource attributes and the version of the pod index they were made from.
    pub attributes: Option<(AttrSet, u64)>,
    /// Until when the first batch may wait for metadata.
    pub hold_until: Option<Instant>,
    /// Next look; none = queued, or waiting for a notice.
    pub due: Option<Instant>,
    /// In the queue of lineages to be read.
    pub queued: bool,
    /// Time between the last two looks.
    pub period: Duration,
}

impl Lineage {
    /// When the clock ends what is unfinished in a stream, and where: its last entry, and how many bytes it is.
    pub fn unfinished(&self, stream: Stream) -> Option<(Instant, Extent, usize)> {
        let line = self.joiner.open(stream);
        let group = self.groups.as_ref().and_then(|groups| groups.open(stream));
        let last = line.or(group.map(|(record, _)| record))?.extents.last().copied()?;
        // A record waits for the end of the line that may belong to it.
        let sealed = self.groups.as_ref().is_some_and(|groups| groups.is_sealed());
        let of_line = line.filter(|_| !sealed).map(|line| line.touched + MAX_WAIT);
        let due = of_line.or(group.map(|(_, due)| due)).or(line.map(|line| line.touched + MAX_WAIT))?;
        let bytes = line.map_or(0, Joined::bytes) + group.map_or(0, |(record, _)| record.bytes());
        Some((due, last, bytes))
    }

    /// The entries of what is unfinished.
    pub fn open_extents(&self) -> impl Iterator<Item = &Extent> {
        let open = |stream| {
            let group = self.groups.as_ref().and_then(|groups| groups.open(stream));
            [self.joiner.open(stream), group.map(|(record, _)| record)]
        };
        let records = [Stream::Stdout, Stream::Stderr].into_iter().flat_map(open).flatten();
        records.flat_map(|record| &record.extents)
    }

    /// Drops what is unfinished in a stream and has an entry in this file, which is gone; gives the entries that are lost.
    pub fn take_with(&mut self, stream: Stream, id: FileId) -> Vec<Extent> {
        let has = |record: &Joined| record.extents.iter().any(|extent| extent.file == id);
        let mut taken = Vec::new();
        if self.joiner.open(stream).is_some_and(has) {
            taken.extend(self.joiner.take(stream).into_iter().flat_map(|line| line.extents));
        }
        // Whole lines in files before it are a record all the same.
        if let Some(groups) = &mut self.groups {
            taken.extend(groups.cut_off(stream, id));
            groups.seal_for_loss();
        }
        taken
    }

    /// Path of one of its files, as [`super::fs`] takes it.
    pub fn path(&self, name: &str) -> String {
        match &self.layout {
            Layout::Pods => format!("{}/{}/{name}", self.pod_dir, self.container),
            Layout::Docker(id) => format!("{DOCKER}/{id}/{name}"),
            Layout::Files { dir, .. } => plain_files::join(dir, name),
        }
    }

    /// The directory in which they are.
    pub fn place(&self) -> Place {
        match &self.layout {
            Layout::Pods => Place::Container(self.pod_dir.clone(), self.container.clone()),
            Layout::Docker(id) => Place::Docker(id.clone()),
            Layout::Files { dir, .. } => Place::Dir(dir.clone()),
        }
    }

    /// What is known of it without its pod.
    pub fn source(&self) -> Source<'_> {
        Source {
            pod: &self.pod,
            container: &self.container,
            restart: self.restart,
            container_id: match &self.layout {
                Layout::Docker(id) => Some(id),
                Layout::Pods | Layout::Files { .. } => None,
            },
            file: match &self.layout {
                Layout::Files { dir, base, rule } => Some((dir, base, rule)),
                Layout::Pods | Layout::Docker(_) => None,
            },
        }
    }

    /// Whether there may be a pod that says more of it.
    pub fn has_pod(&self) -> bool {
        !self.pod.namespace.is_empty()
    }

    /// Name of a compressed or plain file from its suffix.
    pub fn file_name(&self, suffix: Option<&str>, gz: bool) -> String {
        let gz = if gz { ".gz" } else { "" };
        let live = match &self.layout {
            Layout::Pods => format!("{}.log", self.restart),
            Layout::Docker(id) => format!("{id}-json.log"),
            // The suffix is the whole name.
            Layout::Files { base, .. } => return format!("{}{gz}", suffix.unwrap_or(base)),
        };
        match suffix {
            Some(suffix) => format!("{live}.{suffix}{gz}"),
            None => format!("{live}{gz}"),
        }
    }
}
