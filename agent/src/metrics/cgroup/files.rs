//! The files of one cgroup, their handles kept between samples.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::layout::Layout;
use crate::metrics::read::{Records, read_at_start};

/// Handles of one cgroup's files. They are closed with it.
#[derive(Debug, Default)]
pub(super) struct Handles(Vec<(&'static str, Slot)>);

#[derive(Debug)]
enum Slot {
    Open(File),
    /// There is none, or it cannot be read; looked for again after so many samples.
    Absent(u8),
}

const LOOK_AGAIN: u8 = 30;

/// How many more files may be kept open.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) left: usize,
    /// Handles are kept only where a removed cgroup's answer is an error: not in a plain directory, whose files can
    /// be read after they are removed.
    pub(super) keep: bool,
}

/// Reads files of one cgroup.
pub(super) struct Files<'a> {
    pub(super) layout: &'a Layout,
    /// Relative to the hierarchies' roots.
    pub(super) path: &'a str,
    pub(super) handles: &'a mut Handles,
    pub(super) budget: &'a mut Budget,
    pub(super) buffer: &'a mut Vec<u8>,
    /// The cgroup's directory below the root of which a file was opened last, so that the whole path is not walked for each.
    pub(super) directory: Option<(&'a Path, OwnedFd)>,
    /// The cgroup was removed while it was read.
    pub(super) gone: bool,
}

impl Files<'_> {
    /// The text of a file; `None` where there is none, it cannot be read, or the cgroup is gone.
    pub(super) fn read(&mut self, name: &'static str) -> Option<&str> {
        if self.gone {
            return None;
        }
        let at = self.handles.0.iter().position(|(known, _)| *known == name);
        let result = match at.and_then(|at| self.handles.0.get_mut(at)) {
            Some((_, Slot::Open(file))) => read_at_start(file, Records::Short, self.buffer),
            Some((_, Slot::Absent(again))) if *again > 0 => {
                *again -= 1;
                return None;
            }
            _ => self.open(name, at),
        };
        match result {
            Ok(()) => std::str::from_utf8(self.buffer).ok(),
            Err(error) => {
                // ENODEV: the kernel's answer for a file of a cgroup that was removed.
                self.gone = error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
                self.forget(name, if is_passing(&error) { 0 } else { LOOK_AGAIN });
                None
            }
        }
    }

    fn open(&mut self, name: &'static str, at: Option<usize>) -> io::Result<()> {
        let root = self.layout.root_of(name).ok_or(io::ErrorKind::NotFound)?;
        let directory = match self.directory.take() {
            Some((of, directory)) if of == root => directory,
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                openat(CWD, root.join(self.path), flags, Mode::empty())?
            }
        };
        let (_, directory) = self.directory.insert((root, directory));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&*directory, name, flags, Mode::empty())?);
        read_at_start(&file, Records::Short, self.buffer)?;
        if self.budget.keep && self.budget.left > 0 {
            self.budget.left -= 1;
            let slot = (name, Slot::Open(file));
            match at.and_then(|at| self.handles.0.get_mut(at)) {
                Some(old) => *old = slot,
                None => self.handles.0.push(slot),
            }
        }
        Ok(())
    }

    fn forget(&mut self, name: &'static str, look_again: u8) {
        if !self.budget.keep {
            return;
        }
        let slot = match self.handles.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, slot)) => slot,
            None => {
                self.handles.0.push((name, Slot::Absent(0)));
                match self.handles.0.last_mut() {
                    Some((_, slot)) => slot,
                    None => return,
                }
            }
        };
        if matches!(slot, Slot::Open(_)) {
            self.budget.left += 1;
        }
        *slot = Slot::Absent(look_again);
    }
}

/// Whether an error says nothing of the file: too many are open, there is no memory, a signal came.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::IO, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|error| passing.contains(&error))
}

impl Handles {
    /// How many files it holds open.
    pub(super) fn open(&self) -> usize {
        self.0.iter().filter(|(_, slot)| matches!(slot, Slot::Open(_))).count()
    }
}

/// The path of a cgroup under a hierarchy's root.
pub(super) fn relative(id: &str) -> &str {
    id.trim_start_matches('/')
}

/// Whether a directory is of the kernel's cgroup file systems.
pub(super) fn is_cgroupfs(path: &Path) -> bool {
    // CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC of linux/magic.h.
    rustix::fs::statfs(path)
        .is_ok_and(|info| [0x27_e0eb, 0x6367_7270].contains(&(info.f_type as u64 & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_a_lasting_error_keeps_a_file_unread_for_a_while() {
        for (error, passing) in
            [(Errno::MFILE, true), (Errno::NOMEM, true), (Errno::NOENT, false), (Errno::OPNOTSUPP, false)]
        {
            assert_eq!(is_passing(&error.into()), passing, "{error}");
        }
    }
}
