//! Tools over the data directory, of a collector that runs or of one that does not. Their output is for people, or with
//! `--json` for programs; 0 = done, 1 = it failed or something is damaged.

mod content;
pub mod dead_letter;
pub mod post;
pub mod queue;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use sonde_daemon::args::FAILED;

/// Why a tool did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The output's reader is gone or full.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The running collector cannot be asked.
    #[error("{0}")]
    NoReceiver(String),
    /// Something that the tool reads is not to be had.
    #[error("{what}: {source}")]
    Read {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl ToolError {
    fn read(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Read { what, source }
    }
}

/// Runs a tool with stdout; gives its exit code. A failure is said on stderr; a reader that has seen enough (`| head`) is
/// none.
pub fn run(tool: impl FnOnce(&mut dyn Write) -> Result<ExitCode, ToolError>) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = tool(&mut out);
    let flushed = out.flush();
    match result.and_then(|code| flushed.map(|()| code).map_err(Into::into)) {
        Ok(code) => code,
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nobody to tell; the exit code says it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let number = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", number / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", number / 1_048_576.0),
        _ => format!("{:.1} GiB", number / 1_073_741_824.0),
    }
}
