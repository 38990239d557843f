//! The entries of a class of devices, as `/sys/class/net`, and their attributes. The kernel makes an attribute's text anew at each
//! read; to open and close it costs several times the reading, so handles are kept for as long as an entry is the same one.
//!
//! An entry is a link with a number of its own, which stays with the device when it is renamed and does not come back when
//! another device gets the name: so name and number together say that it is still the same. A handle of a device that has
//! gone answers ENODEV.
//!
//! Memory: a class keeps at most [`HANDLES`] open files, the entries' directories and their attributes together, for each of
//! which the kernel keeps a page: 2 MiB of its memory; what is beyond them is opened and closed at each reading. Beside
//! them [`MOST`] names of at most 255 bytes with 100 bytes each, and one buffer of [`ATTRIBUTE`] bytes: 1.4 MiB. In a plain directory,
//! where a file that was removed can still be read, no attribute is kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, fstatfs, openat};

/// Most open files of a class that are kept.
const HANDLES: usize = 512;
/// Most entries that are shown.
const MOST: usize = 4096;
/// The kernel answers one read with the whole of an attribute (Documentation/filesystems/sysfs.rst), which has at most so much.
const ATTRIBUTE: usize = 4096;

/// A class of devices.
#[derive(Debug)]
pub(super) struct Class {
    directory: PathBuf,
    /// Those that are kept.
    entries: BTreeMap<String, Entry>,
    /// How many more files may be kept.
    left: usize,
    /// Lent to the entry that is read.
    buffer: Vec<u8>,
}

/// A device.
#[derive(Debug)]
pub(super) struct Entry {
    number: u64,
    directory: File,
    /// Of attributes that were asked for.
    handles: Vec<(&'static str, File)>,
    /// How many more may be kept.
    left: usize,
    keeps: bool,
    gone: bool,
    /// Empty but while it is read.
    buffer: Vec<u8>,
}

impl Class {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, entries: BTreeMap::new(), left: HANDLES, buffer: vec![0; ATTRIBUTE] }
    }

    /// What `read` finds in each entry that is there now and `wanted`, by its name and in its order.
    ///
    /// # Errors
    /// When the class cannot be listed; that there is no such class is none.
    pub(super) fn each<T>(
        &mut self,
        wanted: impl Fn(&str) -> bool,
        read: impl Fn(&mut Entry) -> T,
    ) -> Result<Vec<(String, T)>, String> {
        let directory = match fs::read_dir(&self.directory) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("{}: {error}", self.directory.display())),
        };
        let mut found = BTreeMap::new();
        for entry in directory.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if found.len() < MOST && wanted(&name) {
                found.insert(name, entry.ino());
            }
        }
        let mut before = std::mem::take(&mut self.entries);
        before.retain(|name, entry| found.get(name) == Some(&entry.number) && !entry.gone);
        self.left = HANDLES.saturating_sub(before.values().map(Entry::files).sum());
        let mut all = Vec::with_capacity(found.len());
        for (name, number) in found {
            let known = before.remove(&name);
            let held = known.as_ref().map_or(0, Entry::files);
            // What has gone meanwhile is no device.
            let opened = known.or_else(|| Entry::open(&self.directory.join(&name), number).ok());
            let Some(mut entry) = opened else { continue };
            // Its directory comes first.
            let stays = held > 0 || self.left > 0;
            entry.left = self.left.saturating_sub(usize::from(held == 0));
            // A reading that panicked has kept it.
            self.buffer.resize(ATTRIBUTE, 0);
            std::mem::swap(&mut entry.buffer, &mut self.buffer);
            all.push((name.clone(), read(&mut entry)));
            std::mem::swap(&mut entry.buffer, &mut self.buffer);
            if stays {
                self.left = self.left.saturating_sub(entry.files() - held);
                self.entries.insert(name, entry);
            }
        }
        Ok(all)
    }
}

impl Entry {
    fn open(directory: &Path, number: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = File::from(openat(CWD, directory, flags, Mode::empty())?);
        // SYSFS_MAGIC of linux/magic.h.
        let keeps = fstatfs(&directory).is_ok_and(|info| info.f_type as u64 & 0xffff_ffff == 0x6265_6572);
        let (handles, buffer) = (Vec::new(), Vec::new());
        Ok(Self { number, directory, handles, left: 0, keeps, gone: false, buffer })
    }

    /// Open files that it keeps.
    fn files(&self) -> usize {
        1 + self.handles.len()
    }

    /// An attribute without the white space around it; `None` where there is none, or no answer, or it is no text.
    pub(super) fn get(&mut self, name: &'static str) -> Option<&str> {
        let read = match self.handles.iter().find(|(known, _)| *known == name) {
            Some((_, file)) => file.read_at(&mut self.buffer, 0),
            None => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let file = File::from(openat(self.directory.as_fd(), name, flags, Mode::empty()).ok()?);
                let read = file.read_at(&mut self.buffer, 0);
                if self.keeps && self.left > 0 {
                    self.left -= 1;
                    self.handles.push((name, file));
                }
                read
            }
        };
        match read {
            Ok(got) => std::str::from_utf8(self.buffer.get(..got)?).ok().map(str::trim),
            Err(error) => {
                self.gone |= error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
                None
            }
        }
    }

    /// Whether there is such an entry.
    pub(super) fn has(&self, name: &str) -> bool {
        accessat(self.directory.as_fd(), name, Access::EXISTS, AtFlags::empty()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(class: &mut Class) -> Vec<(String, Option<String>)> {
        class.each(|name| name != "file", |entry| entry.get("address").map(str::to_owned)).unwrap()
    }

    fn row(name: &str, address: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(address.to_owned()))
    }

    /// As sysfs: the class has links to the devices.
    fn device(root: &Path, number: u32, name: &str, address: &str) {
        let device = root.join(format!("devices/{number}"));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(root.join("class")).unwrap();
        fs::write(device.join("address"), address).unwrap();
        std::os::unix::fs::symlink(&device, root.join("class").join(name)).unwrap();
    }

    #[test]
    fn a_device_that_takes_anothers_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("class");
        let mut devices = Class::new(class.clone());
        assert_eq!(addresses(&mut devices), []);
        device(dir.path(), 1, "eth0", " 01\n");
        device(dir.path(), 2, "eth1", "02\n");
        assert_eq!(addresses(&mut devices), [row("eth0", "01"), row("eth1", "02")]);
        // Renamed past each other between two scrapes: the links keep their numbers.
        fs::rename(class.join("eth0"), class.join("x")).unwrap();
        fs::rename(class.join("eth1"), class.join("eth0")).unwrap();
        fs::rename(class.join("x"), class.join("eth1")).unwrap();
        assert_eq!(addresses(&mut devices), [row("eth0", "02"), row("eth1", "01")]);
        fs::remove_file(class.join("eth0")).unwrap();
        assert_eq!(addresses(&mut devices), [row("eth1", "01")]);
        assert_eq!(devices.entries.len(), 1, "nothing is kept of what has gone");
    }

    #[test]
    fn an_attribute_is_read_afresh_and_what_is_missing_or_no_text_is_none() {
        let dir = tempfile::tempdir().unwrap();
        device(dir.path(), 1, "eth0", "01");
        let address = dir.path().join("devices/1/address");
        let mut devices = Class::new(dir.path().join("class"));
        assert_eq!(addresses(&mut devices), [row("eth0", "01")]);
        fs::write(&address, "x".repeat(10_000)).unwrap();
        assert_eq!(addresses(&mut devices), [row("eth0", &"x".repeat(ATTRIBUTE))]);
        fs::write(&address, b"\xff").unwrap();
        assert_eq!(addresses(&mut devices), [("eth0".to_owned(), None)]);
        fs::remove_file(&address).unwrap();
        assert_eq!(addresses(&mut devices), [("eth0".to_owned(), None)], "no handle of a plain file is kept");
        fs::create_dir(&address).unwrap();
        assert_eq!(addresses(&mut devices), [("eth0".to_owned(), None)], "a directory has no text");
    }

    #[test]
    fn of_more_devices_than_handles_all_are_shown_and_so_many_handles_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..u32::try_from(HANDLES).unwrap() + 100 {
            device(dir.path(), number, &format!("eth{number}"), &number.to_string());
        }
        let mut devices = Class::new(dir.path().join("class"));
        for _ in 0..2 {
            let all = addresses(&mut devices);
            assert_eq!(all.len(), HANDLES + 100);
            assert!(all.iter().all(|(name, address)| name.strip_prefix("eth") == address.as_deref()));
            assert!(held(&devices) <= HANDLES, "{}", held(&devices));
        }
        // What is gone leaves its place to others.
        for number in 0..u32::try_from(HANDLES).unwrap() + 50 {
            fs::remove_file(dir.path().join("class").join(format!("eth{number}"))).unwrap();
        }
        assert_eq!(addresses(&mut devices).len(), 50);
        assert_eq!((devices.entries.len(), held(&devices)), (50, 50));
    }

    /// Open files of a class: of each entry its directory, and attributes.
    fn held(class: &Class) -> usize {
        class.entries.values().map(|entry| 1 + entry.handles.len()).sum()
    }

    #[test]
    fn the_handles_of_this_machines_devices_are_kept_and_say_the_same_again() {
        let mut devices = Class::new("/sys/class/net".into());
        let wanted = |name: &str| name != "bonding_masters";
        let mtu = |entry: &mut Entry| entry.get("mtu").map(str::to_owned);
        let first = devices.each(wanted, mtu).unwrap();
        assert_eq!(first, devices.each(wanted, mtu).unwrap());
        let held: usize = devices.entries.values().map(|entry| entry.handles.len()).sum();
        assert_eq!(held, first.iter().filter(|(_, mtu)| mtu.is_some()).count().min(HANDLES));
        assert_eq!(devices.left, HANDLES - held - first.len());
    }
}
