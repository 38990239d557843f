//! The file system as the reader needs it, so that the core runs on a simulated one too; and the host's.
//!
//! Paths are relative to the pod log directory, with `/`, `""` being the directory itself; those that begin with
//! [`DOCKER`] are below Docker's container directory, and absolute ones below the host's root.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::layout::DOCKER;
use super::tail::FileId;

/// What `stat` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode.
    pub node: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// Last change of the contents, nanoseconds since the epoch.
    pub mtime_nanos: u64,
    /// A regular file.
    pub regular: bool,
}

/// An open log file.
pub trait LogFile: Send {
    /// `fstat`.
    fn stat(&self) -> io::Result<Stat>;
    /// `pread`; fewer bytes than asked for only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// What is being watched. In the order in which they are listed: what Docker has is known before links to it are met.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Docker's container directory.
    DockerRoot,
    /// A container's directory there.
    Docker(Arc<str>),
    /// The pod log directory.
    Root,
    /// A pod's directory.
    Pod(Arc<str>),
    /// A container's directory.
    Container(Arc<str>, Arc<str>),
    /// All directories of plain files.
    Files,
    /// A directory of plain files.
    Dir(Arc<str>),
}

/// What a path is, beside a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The file's own name.
    Own,
    /// A link.
    Link,
    /// It leads below the directories of the containers' logs.
    Container,
}

/// What changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Directories to be listed again.
    pub places: Vec<Place>,
    /// Files that grew.
    pub files: Vec<FileId>,
    /// Changes were missed: everything is to be listed again.
    pub overflow: bool,
}

/// The directories of log files.
pub trait LogFs: Send {
    /// An open file.
    type File: LogFile;
    /// Names in a directory.
    fn list(&mut self, dir: &str) -> io::Result<Vec<String>>;
    /// `stat`, following links inside the host's root.
    fn stat(&mut self, path: &str) -> io::Result<Stat>;
    /// What kind of name an absolute path is.
    fn kind(&mut self, path: &str) -> Kind;
    /// Whether a link is on the way to an absolute path: it may lead elsewhere without a change that a watch sees.
    fn is_linked(&mut self, path: &str) -> bool;
    /// Opens a regular file; anything else is an error.
    fn open(&mut self, path: &str) -> io::Result<Self::File>;
    /// Asks for changes of a directory's names; false if they cannot be had.
    fn watch(&mut self, dir: &str, place: Place) -> bool;
    /// Asks for one notice of the file's next growth; false if it cannot be had.
    fn watch_growth(&mut self, file: &Self::File, id: FileId) -> bool;
    /// What changed since the last call. Never waits.
    fn changes(&mut self) -> Changes;
}

/// The host's file system below its root.
pub struct HostFs {
    pods: Tree,
    docker: Tree,
    host: Tree,
    beneath: bool,
    inotify: Option<Inotify>,
    /// A directory may be watched for a rule's sake and for the pods': it has one descriptor.
    watches: HashMap<WatchDescriptor, Vec<Target>>,
    events: Vec<u8>,
}

/// A directory, and where links in it are resolved.
struct Tree {
    root: OwnedFd,
    root_path: PathBuf,
    base: PathBuf,
}

impl Tree {
    /// `dir` below `root` is resolved inside it; elsewhere it is resolved as it stands.
    fn open(root: &Path, dir: &Path) -> io::Result<Self> {
        let (root, base) = match dir.strip_prefix(root) {
            Ok(base) => (root, base),
            Err(_) => (Path::new("/"), dir.strip_prefix("/").unwrap_or(dir)),
        };
        let handle =
            rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: handle, root_path: root.to_owned(), base: base.to_owned() })
    }
}

#[derive(Clone, PartialEq)]
enum Target {
    Place(Place),
    File(FileId),
}

impl HostFs {
    /// Opens the host's root. A directory below it is resolved inside it; elsewhere it is resolved as it stands.
    pub fn open(root: &Path, pod_logs: &Path, docker_logs: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()
            .inspect_err(|error| tracing::warn!(%error, "no inotify instance: log directories are looked at each second"))
            .ok();
        Ok(Self {
            pods: Tree::open(root, pod_logs)?,
            docker: Tree::open(root, docker_logs)?,
            host: Tree::open(root, root)?,
            beneath: true,
            inotify,
            watches: HashMap::new(),
            events: vec![0; 64 << 10],
        })
    }

    /// The descriptor that becomes readable with a change, for `poll`.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    fn open_with(&mut self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let (tree, path) = match path.strip_prefix(DOCKER) {
            Some(path) => (&self.docker, path.trim_start_matches('/')),
            None => match path.strip_prefix('/') {
                Some(path) => (&self.host, path),
                None => (&self.pods, path),
            },
        };
        let full = if path.is_empty() { tree.base.clone() } else { tree.base.join(path) };
        let full = if full.as_os_str().is_empty() { PathBuf::from(".") } else { full };
        let flags = flags | OFlags::CLOEXEC;
        if self.beneath {
            let opened = rustix::fs::openat2(
                &tree.root,
                &full,
                flags,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match opened {
                // Before Linux 5.6, or filtered by an old seccomp profile.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => self.beneath = false,
                other => return other.map_err(io::Error::from),
            }
        }
        rustix::fs::open(tree.root_path.join(full), flags, Mode::empty()).map_err(io::Error::from)
    }
}

impl HostFs {
    /// Where a path leads.
    fn real(&mut self, path: &str) -> Option<PathBuf> {
        let handle = self.open_with(path, OFlags::PATH).ok()?;
        std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()
    }
}

impl LogFs for HostFs {
    type File = File;

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let handle = self.open_with(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(handle)? {
            // Names that are not UTF-8 are not the kubelet's: with U+FFFD in them they are no name of anything.
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    fn stat(&mut self, path: &str) -> io::Result<Stat> {
        // openat2 refuses any other flag beside O_PATH (fs/open.c, O_PATH_FLAGS).
        let handle = self.open_with(path, OFlags::PATH)?;
        Ok(plain(&rustix::fs::statat(&handle, "", AtFlags::EMPTY_PATH)?))
    }

    fn kind(&mut self, path: &str) -> Kind {
        let real = self.real(path);
        let is_below =
            |dir: Option<PathBuf>| dir.zip(real.as_ref()).is_some_and(|(dir, real)| real.starts_with(dir));
        if is_below(self.real("")) || is_below(self.real(DOCKER)) {
            return Kind::Container;
        }
        let Ok(handle) = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW) else { return Kind::Own };
        let is_link = rustix::fs::statat(&handle, "", AtFlags::EMPTY_PATH).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink
        });
        if is_link { Kind::Link } else { Kind::Own }
    }

    fn is_linked(&mut self, path: &str) -> bool {
        let straight = self.real("/").map(|root| root.join(path.trim_start_matches('/')));
        self.real(path) != straight
    }

    fn open(&mut self, path: &str) -> io::Result<File> {
        // Without NONBLOCK, a FIFO by that name would hold us for ever.
        let file = File::from(self.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !LogFile::stat(&file)?.regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    fn watch(&mut self, dir: &str, place: Place) -> bool {
        if self.inotify.is_none() {
            return false;
        }
        let Ok(handle) = self.open_with(dir, OFlags::RDONLY | OFlags::DIRECTORY) else { return false };
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        self.add(&handle.as_fd(), mask, Target::Place(place))
    }

    fn watch_growth(&mut self, file: &File, id: FileId) -> bool {
        self.add(&file.as_fd(), WatchMask::MODIFY | WatchMask::ONESHOT, Target::File(id))
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Some(inotify) = &mut self.inotify else { return changes };
        loop {
            let events = match inotify.read_events(&mut self.events) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changes,
                Err(error) => {
                    tracing::warn!(%error, "cannot read inotify events");
                    changes.overflow = true;
                    return changes;
                }
            };
            let mut any = false;
            for event in events {
                any = true;
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    changes.overflow = true;
                    continue;
                }
                for target in self.watches.get(&event.wd).into_iter().flatten() {
                    match target {
                        Target::Place(place) if changes.places.last() != Some(place) => {
                            changes.places.push(place.clone());
                        }
                        Target::File(id) => changes.files.push(*id),
                        Target::Place(_) => {}
                    }
                }
                if event.mask.contains(EventMask::IGNORED) {
                    self.watches.remove(&event.wd);
                }
            }
            if !any {
                return changes;
            }
        }
    }
}

impl HostFs {
    /// Watches what a descriptor stands for: its path may lead elsewhere by now, or outside the host's root.
    fn add(&mut self, handle: &BorrowedFd<'_>, mask: WatchMask, target: Target) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        match inotify.watches().add(path, mask) {
            Ok(descriptor) => {
                let targets = self.watches.entry(descriptor).or_default();
                if !targets.contains(&target) {
                    targets.push(target);
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "cannot add an inotify watch");
                false
            }
        }
    }
}

impl LogFile for File {
    fn stat(&self) -> io::Result<Stat> {
        Ok(plain(&rustix::fs::fstat(self)?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

fn plain(stat: &rustix::fs::Stat) -> Stat {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = stat.st_mtime_nsec;
    Stat {
        node: (stat.st_dev, stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_nanos: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        regular: rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile,
    }
}
