//! Plain log files of the node (`logs.files`): which directories a rule's path means, and what is in them.
//!
//! A path is followed part by part: only a directory below which a part with `*` begins is listed, and watched from then on, so a new
//! directory or file is found by an event. What is not there yet, or behind a link, is looked at once a second, one `stat` each. Nothing
//! below is walked.
//!
//! To list a directory is a `stat` of each of its files that is meant; so where much happens it is listed four times a second at most.
//!
//! A file that is known by another name (a container's log, another rule's, a link to one beside it) is not read again.
//!
//! Memory: about 300 bytes a directory, at most [`MOST_DIRS`] a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Now};
use super::discover::Listed;
use super::filter::glob;
use super::format::Format;
use super::fs::{Kind, LogFs, Place};
use super::layout::{FILE, Layout};
use super::lineage::LineageId;
use super::odd::Oddity;
use super::plain_names;
use super::plain_owners::Owner;
use super::pod_path::PodDir;
use crate::config::FileRule;

/// Directories that a rule may mean.
pub const MOST_DIRS: usize = 1000;
/// Time between two listings of a directory for what happens there.
const BETWEEN: Duration = Duration::from_millis(250);

/// The rules, and what they mean now.
#[derive(Default)]
pub struct PlainFiles {
    rules: Vec<Rule>,
    dirs: BTreeMap<Arc<str>, Dir>,
    /// Rules of which it was said that they mean too many directories.
    said: BTreeSet<usize>,
    /// Paths whose files were found once, by this process or an earlier one: what is new there is no older file.
    begun: BTreeSet<String>,
    /// Of these, what is not on disk yet.
    begun_since: BTreeSet<String>,
    /// Directories that changed again just after they were listed.
    changed: BTreeSet<Arc<str>>,
}

struct Rule {
    /// Parts of the directory's path.
    dirs: Vec<String>,
    /// The last part.
    file: String,
    rule: Arc<FileRule>,
}

#[derive(Default)]
struct Dir {
    watched: bool,
    /// A link is on the way.
    is_linked: bool,
    /// What was watched: another directory may have its name by now.
    node: (u64, u64),
    mtime: u64,
    /// A part with `*` begins here.
    is_walked: bool,
    /// Rules whose files are here.
    rules: Vec<usize>,
    lineages: BTreeMap<Arc<str>, LineageId>,
    /// When it was listed last.
    listed: Option<Instant>,
}

impl Rule {
    fn excludes(&self, dir: &str, base: &str) -> bool {
        self.rule.exclude.iter().any(|pattern| match pattern.contains('/') {
            true => glob(pattern, &join(dir, base)),
            false => glob(pattern, base),
        })
    }
}

/// Files of one base.
type Listing = BTreeMap<Option<String>, Listed>;

impl PlainFiles {
    /// From the list of the configuration, and the paths of earlier ones.
    pub fn new(rules: &[FileRule], begun: BTreeSet<String>) -> Self {
        let rules = rules.iter().map(|rule| {
            let mut parts: Vec<String> =
                rule.path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let file = parts.pop().unwrap_or_default();
            Rule { dirs: parts, file, rule: Arc::new(rule.clone()) }
        });
        Self { rules: rules.collect(), begun, ..Self::default() }
    }

    /// Whether a file is there for a rule that no earlier process had.
    pub fn is_new(&self, layout: &Layout) -> bool {
        matches!(layout, Layout::Files { rule, .. } if !self.begun.contains(&rule.path))
    }

    /// The files of all rules were found.
    pub fn begin(&mut self) {
        for rule in &self.rules {
            if self.begun.insert(rule.rule.path.clone()) {
                self.begun_since.insert(rule.rule.path.clone());
            }
        }
    }

    /// Paths whose files were found once, of the rules that there are.
    pub fn begun(&self) -> impl Iterator<Item = String> + '_ {
        let paths = self.rules.iter().map(|rule| &rule.rule.path);
        paths.filter(|path| self.begun.contains(*path)).cloned()
    }

    /// Those that are not on disk yet.
    pub fn begun_since(&self) -> impl Iterator<Item = String> + '_ {
        self.begun_since.iter().cloned()
    }

    /// They are.
    pub fn begun_is_kept(&mut self) {
        self.begun_since.clear();
    }

    /// Whether some directory is looked at each second.
    pub fn has_unwatched(&self) -> bool {
        self.dirs.values().any(|dir| !dir.watched || dir.is_linked)
    }

    /// Everything is to be listed again.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let first = (!self.rules.is_empty()).then_some(Place::Files);
        self.dirs.keys().map(|dir| Place::Dir(dir.clone())).chain(first)
    }

    /// Notes that something happened at a place; whether that waits, since it is a directory that was listed just before. It is
    /// listed [`BETWEEN`] later then, however much happens there.
    pub fn must_wait(&mut self, place: &Place, now: Instant) -> bool {
        let Place::Dir(dir) = place else { return false };
        let is_early = self.dirs.get(dir).and_then(|dir| dir.listed).is_some_and(|at| now < at + BETWEEN);
        if is_early {
            self.changed.insert(dir.clone());
        }
        is_early
    }

    /// When a directory that changed is listed again.
    pub fn next_listing(&self) -> Option<Instant> {
        self.changed.iter().filter_map(|dir| Some(self.dirs.get(dir)?.listed? + BETWEEN)).min()
    }

    /// The directories that waited long enough.
    pub fn take_due(&mut self, now: Instant) -> Vec<Place> {
        let dirs = &self.dirs;
        let listed = |dir: &Arc<str>| dirs.get(dir).and_then(|dir| dir.listed);
        let is_due = |dir: &Arc<str>| listed(dir).is_none_or(|at| now >= at + BETWEEN);
        let (due, rest) = std::mem::take(&mut self.changed).into_iter().partition(is_due);
        self.changed = rest;
        BTreeSet::into_iter(due).map(Place::Dir).collect()
    }

    pub(super) fn is_meant(&self, dir: &str) -> bool {
        self.dirs.get(dir).is_some_and(|dir| !dir.rules.is_empty())
    }

    /// A lineage is over.
    pub fn forget(&mut self, dir: &str, base: &str) {
        if let Some(dir) = self.dirs.get_mut(dir) {
            dir.lineages.remove(base);
        }
    }
}

/// The path of something in a directory.
pub fn join(dir: &str, name: &str) -> String {
    if dir == "/" { format!("/{name}") } else { format!("{dir}/{name}") }
}

impl<F: LogFs> Core<F> {
    /// Directories that are not watched, or not there, are to be listed again when their time of change moved, and those
    /// behind a link when it leads elsewhere.
    pub(super) fn check_files(&mut self) {
        for (path, dir) in &self.plain.dirs {
            if dir.watched && !dir.is_linked {
                continue;
            }
            let stat = self.fs.stat(path).unwrap_or_default();
            if stat.node != dir.node || (!dir.watched && stat.mtime_nanos != dir.mtime) {
                self.dirty_places.insert(Place::Dir(path.clone()));
            }
        }
    }

    /// Finds the directories that the rules mean now.
    pub(super) fn look_files(&mut self) {
        let mut walked: BTreeSet<String> = BTreeSet::new();
        let mut meant: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for nth in 0..self.plain.rules.len() {
            for dir in self.dirs_of(nth, &mut walked) {
                meant.entry(dir).or_default().push(nth);
            }
        }
        self.plain.dirs.retain(|path, dir| {
            dir.rules = meant.remove(&**path).unwrap_or_default();
            dir.is_walked = walked.remove(&**path);
            dir.is_walked || !dir.rules.is_empty() || !dir.lineages.is_empty()
        });
        for path in walked {
            let dir: Arc<str> = path.into();
            self.plain.dirs.insert(dir.clone(), Dir { is_walked: true, ..Dir::default() });
            // It was listed before it is watched: once more.
            self.dirty_places.insert(Place::Dir(dir));
        }
        for (path, rules) in meant {
            let dir: Arc<str> = path.into();
            self.plain.dirs.entry(dir.clone()).or_default().rules = rules;
            self.dirty_places.insert(Place::Dir(dir));
        }
    }

    /// The directories of a rule; those that were listed for it are added to `walked`.
    fn dirs_of(&mut self, nth: usize, walked: &mut BTreeSet<String>) -> Vec<String> {
        let Some(rule) = self.plain.rules.get(nth) else { return Vec::new() };
        let parts = rule.dirs.clone();
        let mut found = vec!["/".to_owned()];
        for part in parts {
            if !part.contains('*') {
                found.iter_mut().for_each(|dir| *dir = join(dir, &part));
                continue;
            }
            let mut next = Vec::new();
            for dir in found {
                let mut names = self.fs.list(&dir).unwrap_or_default();
                names.retain(|name| glob(&part, name) && (part.starts_with('.') || !name.starts_with('.')));
                names.sort_unstable();
                for name in names {
                    let path = join(&dir, &name);
                    if self.fs.stat(&path).is_ok_and(|stat| !stat.regular) {
                        next.push(path);
                    }
                }
                walked.insert(dir);
            }
            if next.len() > MOST_DIRS {
                next.truncate(MOST_DIRS);
                if self.plain.said.insert(nth) {
                    tracing::warn!(
                        rule = nth,
                        "logs.files: a path means more than {MOST_DIRS} directories: the others are not read"
                    );
                }
            }
            found = next;
        }
        found
    }

    fn watch_dir(&mut self, path: &Arc<str>) {
        let Some(dir) = self.plain.dirs.get(path) else { return };
        let stat = self.fs.stat(path).unwrap_or_default();
        if dir.watched && dir.node == stat.node {
            return;
        }
        let (watched, is_linked) = (self.fs.watch(path, Place::Dir(path.clone())), self.fs.is_linked(path));
        if let Some(dir) = self.plain.dirs.get_mut(path) {
            (dir.watched, dir.is_linked, dir.node, dir.mtime) =
                (watched, is_linked, stat.node, stat.mtime_nanos);
        }
    }

    pub(super) fn look_dir(&mut self, path: &Arc<str>, now: Now) {
        self.watch_dir(path);
        let Some(dir) = self.plain.dirs.get_mut(path) else { return };
        dir.listed = Some(now.mono);
        self.plain.changed.remove(path);
        let Some(dir) = self.plain.dirs.get(path) else { return };
        if dir.is_walked {
            self.look_files();
        }
        let Some(dir) = self.plain.dirs.get(path) else { return };
        if dir.rules.is_empty() && dir.lineages.is_empty() {
            return;
        }
        let mut groups = match self.fs.list(path) {
            Ok(names) => {
                self.unreadable.remove(&**path);
                self.forget_unreadable(path, &names);
                self.group(path, names, now)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.unreadable.remove(&**path);
                self.forget_unreadable(path, &[]);
                if let Some(dir) = self.plain.dirs.get_mut(path) {
                    (dir.watched, dir.is_linked, dir.node, dir.mtime) = (false, false, (0, 0), 0);
                }
                BTreeMap::new()
            }
            Err(error) => {
                self.say_unreadable(path, &error);
                return;
            }
        };
        for (base, (rule, _)) in &groups {
            let known = self.plain.dirs.get(path).is_some_and(|dir| dir.lineages.contains_key(base));
            if !known {
                self.add_file(path, base, *rule, now);
            }
        }
        let Some(dir) = self.plain.dirs.get(path) else { return };
        let lineages: Vec<(Arc<str>, LineageId)> =
            dir.lineages.iter().map(|(base, id)| (base.clone(), *id)).collect();
        for (base, id) in lineages {
            let mut listing = groups.remove(&base).map(|(_, listing)| listing).unwrap_or_default();
            self.reconcile(id, &mut listing, now);
        }
    }

    /// The files of a directory that rules mean, by the name of the one that is written to.
    fn group(&mut self, path: &str, names: Vec<String>, now: Now) -> BTreeMap<Arc<str>, (usize, Listing)> {
        let rules = self.plain.dirs.get(path).map(|dir| dir.rules.clone()).unwrap_or_default();
        let mut files = Vec::new();
        for name in names {
            let meant = rules.iter().find_map(|nth| {
                let rule = self.plain.rules.get(*nth)?;
                let parsed = plain_names::parse(&rule.file, &name)?;
                (!rule.excludes(path, &parsed.base)).then_some((*nth, parsed))
            });
            let Some((rule, parsed)) = meant else { continue };
            if name.contains(char::REPLACEMENT_CHARACTER) {
                self.odd.note(Oddity::NotUtf8, path, &name, now.mono);
                continue;
            }
            let file = join(path, &name);
            // Whatever is not a regular file is never opened: a FIFO would hold us, and some devices do things when they are.
            match self.fs.stat(&file) {
                Ok(stat) if stat.regular => files.push((name, rule, parsed, stat)),
                Ok(_) => self.odd.note(Oddity::NotAFile, path, &name, now.mono),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.odd.note_nowhere(path, &name, now.mono);
                }
                Err(error) => self.say_unreadable(&file, &error),
            }
        }
        let (owners, names) = (self.owners(files.iter().map(|(.., stat)| stat.node)), self.names_kept(path));
        let mut files: Vec<_> = files
            .into_iter()
            .filter_map(|(name, rule, parsed, stat)| {
                // What was asked of a name once is not asked again while the same file has it.
                let is_known = self.has_name(owners.get(&stat.node), path, &name);
                let kind = if is_known { Kind::Own } else { self.fs.kind(&join(path, &name)) };
                (kind != Kind::Container).then_some((kind == Kind::Link, rule, parsed, stat))
            })
            .collect();
        // A link beside what it leads to is the second name.
        files.sort_by_key(|(is_link, ..)| *is_link);
        let mut taken = BTreeSet::new();
        let mut groups: BTreeMap<Arc<str>, (usize, Listing)> = BTreeMap::new();
        for (_, rule, parsed, stat) in files {
            let mut base: Arc<str> = parsed.base.as_str().into();
            let mut suffix = parsed.suffix;
            let name = suffix.as_deref().unwrap_or(&base);
            let owner = match owners.get(&stat.node) {
                Some(Owner::Here(owner)) if *owner.dir == *path => Some(owner),
                Some(_) => continue,
                None => names.get(name),
            };
            if let Some(owner) = owner.filter(|owner| owner.base != base)
                && self.is_owners(owner, name, &stat, parsed.gz)
            {
                // Renamed to what looks like another file's name: it is the one that is known all the same.
                suffix = suffix.or(Some(parsed.base));
                base = owner.base.clone();
            }
            if !taken.insert(stat.node) {
                continue;
            }
            let listed =
                groups.entry(base).or_insert_with(|| (rule, Listing::new())).1.entry(suffix).or_default();
            if parsed.gz {
                listed.gz = Some(stat);
            } else {
                listed.plain = Some(stat);
            }
        }
        groups
    }

    /// Paths are not the only ones of their kind in a cluster, as the uids of pods are.
    pub(super) fn uid_of(&self, key: &str) -> String {
        format!("{}/{}/{key}", self.settings.node.cluster, self.settings.node.name)
    }

    fn add_file(&mut self, dir: &Arc<str>, base: &Arc<str>, rule: usize, now: Now) {
        let Some(rule) = self.plain.rules.get(rule).map(|rule| rule.rule.clone()) else { return };
        let key: Arc<str> = format!("{FILE}{dir}").into();
        let pod = PodDir { namespace: String::new(), pod: String::new(), uid: self.uid_of(&key) };
        let layout = Layout::Files { dir: dir.clone(), base: base.clone(), rule };
        let id = self.make_lineage(key, pod, base, 0, layout, now.mono);
        if let Some(lineage) = self.lineages.get_mut(&id) {
            lineage.format = Format::Plain;
        }
        if let Some(dir) = self.plain.dirs.get_mut(dir) {
            dir.lineages.insert(base.clone(), id);
        }
    }
}
