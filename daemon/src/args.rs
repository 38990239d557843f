//! The command line that both daemons have: `PROGRAM [--config FILE] [--log-format json|text] [check]`.

use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, Validate};
use crate::log::LogFormat;

/// Exit code of a run-time failure.
pub const FAILED: u8 = 1;
/// Exit code of bad arguments or a bad configuration.
pub const MISUSED: u8 = 2;

/// A daemon's command line.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    /// Configuration file (YAML); without it, built-in defaults.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What the daemon's own log on stderr looks like.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "json", global = true)]
    pub log_format: LogFormat,
    /// What to do instead of running.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What a daemon does other than run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Print the effective configuration as YAML, or every problem of the file.
    Check,
}

impl Args {
    /// Reads the process's command line. `--help`, `--version` and mistakes print and end the process (0, 0, 2).
    pub fn parse_for(program: &'static str, version: &'static str, about: &'static str) -> Self {
        let parsed = Self::parse_from_words(program, version, about, std::env::args_os());
        parsed.unwrap_or_else(|error| error.exit())
    }

    fn parse_from_words(
        program: &'static str,
        version: &'static str,
        about: &'static str,
        words: impl Iterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let command = Self::command().name(program).version(version).about(about).long_about(None);
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    /// Loads the configuration that these arguments name and does `check`. `Err` is the code to exit with: every
    /// problem was printed on stderr, or the effective configuration on stdout.
    ///
    /// # Errors
    /// 2 for a bad configuration, 0 after `check`, 1 when stdout cannot be written.
    pub fn settle<T>(&self) -> Result<T, ExitCode>
    where
        T: DeserializeOwned + Serialize + Default + Validate,
    {
        let env = |name: &str| std::env::var(name).ok();
        let mut config: T = config::load_file(self.config.as_deref(), env).map_err(|problems| {
            let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            // A closed stderr leaves nobody to tell; the exit code says it.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(MISUSED)
        })?;
        if self.action.is_none() {
            return Ok(config);
        }
        config.fill();
        let printed = config::print(&config).map_err(std::io::Error::other);
        match printed.and_then(|text| std::io::stdout().write_all(text.as_bytes())) {
            Ok(()) => Err(ExitCode::SUCCESS),
            Err(_) => Err(ExitCode::from(FAILED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let words = std::iter::once("sonde-test").chain(words.iter().copied()).map(Into::into);
        Args::parse_from_words("sonde-test", "1.2.3", "A test.", words)
    }

    #[test]
    fn options_stand_before_or_after_check() {
        let wanted =
            Args { config: Some("a.yaml".into()), log_format: LogFormat::Text, action: Some(Action::Check) };
        assert_eq!(parse(&["check", "--config", "a.yaml", "--log-format", "text"]).unwrap(), wanted);
        assert_eq!(parse(&["--config=a.yaml", "--log-format=text", "check"]).unwrap(), wanted);
        let none = Args { config: None, log_format: LogFormat::Json, action: None };
        assert_eq!(parse(&[]).unwrap(), none);
    }

    #[test]
    fn a_mistake_exits_2_and_help_and_version_exit_0() {
        for words in
            [&["--confg", "x"][..], &["run"], &["--log-format", "xml"], &["--config"], &["check", "x"]]
        {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!((version.exit_code(), version.to_string().as_str()), (0, "sonde-test 1.2.3\n"));
        assert_eq!(parse(&["--help"]).unwrap_err().exit_code(), 0);
    }
}
