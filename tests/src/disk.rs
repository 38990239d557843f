//! A file system of its own that can be filled up.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What fills it.
const BALLAST: &str = "ballast";

/// A mounted tmpfs; unmounted when dropped, and its files are gone then.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one with room for `size` (as `mount -o size=` takes it) at a directory that is made if it is not there;
    /// none where this machine does not let us mount.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn mount(at: &Path, size: &str) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        let done = command.output().is_ok_and(|out| out.status.success());
        Ok(done.then(|| Self { at: at.to_owned() }))
    }

    /// Not a byte more fits.
    ///
    /// # Errors
    /// The file that fills it cannot be made.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = fs::File::create(self.at.join(BALLAST))?;
        for chunk in [vec![1; 1 << 20], vec![1; 4096], vec![1]] {
            while file.write_all(&chunk).is_ok() {}
        }
        Ok(())
    }

    /// There is room again.
    ///
    /// # Errors
    /// It was not filled.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.at.join(BALLAST))?)
    }

    /// Removes everything but what fills it.
    ///
    /// # Errors
    /// The disk's.
    pub fn wipe(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.at)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != BALLAST {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
