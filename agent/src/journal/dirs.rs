//! The directories in which journals lie, as the reader needs them, and the host's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::logs::fs::{LogFile, Stat};

/// Journals that are looked at; of more, those that are listed first.
const MOST: usize = 4096;

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Journals by path, with what `stat` says.
    pub journals: Vec<(String, Stat)>,
    /// Directories that could be listed.
    pub dirs: Vec<String>,
    /// What is there and could not be looked at: what lies there, or there by that name, is not gone.
    pub failed: Vec<String>,
}

impl Listing {
    /// Whether all that lies in this directory is known.
    pub fn is_whole(&self, dir: &str) -> bool {
        self.dirs.iter().any(|listed| listed == dir) && self.failed.iter().all(|failed| dir_of(failed) != dir)
    }

    /// Whether nothing is known of this path, because it, or a directory above it, could not be looked at.
    pub fn is_unknown(&self, path: &str) -> bool {
        let is_above = |failed: &String| {
            path.strip_prefix(failed.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.failed.iter().any(is_above)
    }
}

/// Where journals lie.
pub trait Dirs: Send {
    /// An open journal.
    type File: LogFile;
    /// All journals.
    fn list(&mut self) -> Listing;
    /// Opens one.
    ///
    /// # Errors
    /// The system's.
    fn open(&mut self, path: &str) -> io::Result<Self::File>;
}

/// Directories of this machine. Every path is resolved inside the host's root: no link leads out of it.
pub struct HostDirs {
    root: OwnedFd,
    root_path: PathBuf,
    paths: Vec<String>,
    beneath: bool,
}

impl HostDirs {
    /// Directories `paths` below `root`. They may not be there, or not yet.
    ///
    /// # Errors
    /// The root cannot be opened.
    pub fn open(root: &Path, paths: &[String]) -> io::Result<Self> {
        let handle =
            rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let paths = paths.iter().map(|path| path.trim_matches('/').to_owned()).collect();
        Ok(Self { root: handle, root_path: root.to_owned(), paths, beneath: true })
    }

    fn open_with(&mut self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if self.beneath {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Before Linux 5.6, or filtered by an old seccomp profile.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => self.beneath = false,
                other => return other.map_err(io::Error::from),
            }
        }
        rustix::fs::open(self.root_path.join(path), flags, Mode::empty()).map_err(io::Error::from)
    }

    /// Names in a directory that are UTF-8; journald gives itself no others.
    fn names(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let handle = self.open_with(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(handle)? {
            if let Ok(name) = entry?.file_name().to_str()
                && !name.starts_with('.')
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl Dirs for HostDirs {
    type File = File;

    fn list(&mut self) -> Listing {
        let mut listing = Listing::default();
        for top in self.paths.clone() {
            // Journals lie in a directory with the machine's id, or where somebody put them.
            let mut dirs = vec![top.clone()];
            let mut at = 0;
            while let Some(dir) = dirs.get(at).cloned() {
                at += 1;
                let names = match self.names(&dir) {
                    Ok(names) => names,
                    Err(error) => {
                        listing.failed.extend((!is_absent(&error)).then_some(dir));
                        continue;
                    }
                };
                for name in names {
                    let path = format!("{dir}/{name}");
                    if is_journal(&name) {
                        if listing.journals.len() >= MOST {
                            listing.failed.push(path);
                            continue;
                        }
                        let file = self.open_with(&path, OFlags::PATH);
                        match file.and_then(|file| LogFile::stat(&File::from(file))) {
                            Ok(stat) if stat.regular => listing.journals.push((path, stat)),
                            Err(error) if !is_absent(&error) => listing.failed.push(path),
                            Ok(_) | Err(_) => {}
                        }
                    } else if dir == top {
                        dirs.push(path);
                    }
                }
                listing.dirs.push(dir);
            }
        }
        listing
    }

    fn open(&mut self, path: &str) -> io::Result<File> {
        // Without NONBLOCK, a FIFO by that name would hold us for ever.
        let file = File::from(self.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !LogFile::stat(&file)?.regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }
}

/// Whether nothing is there by that name, or no directory.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `system.journal`, `system@….journal`, `system@….journal~`.
fn is_journal(name: &str) -> bool {
    name.ends_with(".journal") || name.ends_with(".journal~")
}

/// Directory and name without what rotation adds: the same for all journals that go on where another ends.
pub fn stream_name(path: &str) -> &str {
    let name_at = path.rfind('/').map_or(0, |slash| slash + 1);
    let name = &path[name_at..];
    let end = name.find('@').or_else(|| name.find(".journal")).unwrap_or(name.len());
    &path[..name_at + end]
}

/// The directory of a path.
pub fn dir_of(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}
