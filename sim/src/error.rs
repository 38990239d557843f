use std::path::{Path, PathBuf};

/// What can go wrong on the simulated node.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A file or directory of the node.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A command for a pod that is not on the node.
    #[error("no pod {0} on this node")]
    UnknownPod(String),
    /// One of the node's threads is gone.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

impl SimError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
