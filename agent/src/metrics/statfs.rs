//! statfs(2), which can hang for ever on a network file system ([`sonde_daemon::errands`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use sonde_daemon::errands::{Errands, Late};

/// How long one mount may take.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long all of them may take; the rest are reported as not asked.
pub(super) const ALL: Duration = Duration::from_secs(1);
/// Threads that may wait for mounts that do not answer.
const MOST_STUCK: usize = 16;

/// What statfs says, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size: u64,
    pub(super) free: u64,
    pub(super) available: u64,
    pub(super) files: u64,
    pub(super) files_free: u64,
}

fn probe(path: &Path) -> Result<Space, String> {
    let info = statfs(path).map_err(|error| std::io::Error::from(error).to_string())?;
    let block = u64::try_from(info.f_bsize).unwrap_or(0);
    Ok(Space {
        size: info.f_blocks.saturating_mul(block),
        free: info.f_bfree.saturating_mul(block),
        available: info.f_bavail.saturating_mul(block),
        files: info.f_files,
        files_free: info.f_ffree,
    })
}

/// Asks for mounts with a deadline.
pub(super) struct Prober {
    errands: Errands<PathBuf, Result<Space, String>>,
}

impl Default for Prober {
    fn default() -> Self {
        Self { errands: Errands::new("statfs", MOST_STUCK, |path: &PathBuf| probe(path)) }
    }
}

impl Prober {
    /// The space of each mount, or what stands in `device_error`; within [`ALL`].
    pub(super) fn ask(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<Result<Space, String>> {
        let jobs = paths.into_iter().map(|path| (path, PATIENCE)).collect();
        let answers = self.errands.run(jobs, Some(Instant::now() + ALL));
        answers.into_iter().map(|answer| answer.unwrap_or_else(|late| Err(words(late).to_owned()))).collect()
    }
}

fn words(late: Late) -> &'static str {
    match late {
        // node_exporter's words.
        Late::NotInTime | Late::Hangs => "mountpoint timeout",
        Late::NotBegun => "not asked: other mounts do not answer",
        Late::Panicked => "probe failed",
        Late::NoThread => "no thread",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mount_has_its_own_answer_in_order() {
        let paths = ["/", "/no/such/mount", "/proc"].map(PathBuf::from);
        let answers = Prober::default().ask(paths);
        assert!(answers[0].as_ref().is_ok_and(|space| space.size > 0), "{answers:?}");
        assert!(answers[1].as_ref().is_err_and(|error| error.contains("No such file")), "{answers:?}");
        assert!(answers[2].is_ok(), "{answers:?}");
    }

    #[test]
    fn a_mount_that_hangs_has_node_exporters_words() {
        assert_eq!(words(Late::NotInTime), "mountpoint timeout");
        assert_eq!(words(Late::Hangs), "mountpoint timeout");
    }
}
