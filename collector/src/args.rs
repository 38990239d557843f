//! The collector's command line: what both daemons have, and tools over its data directory.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sonde_daemon::args;
use sonde_daemon::log::LogFormat;

use crate::queue::{Position, Signal};

/// The collector's command line.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "sonde-collector", version, about = crate::ABOUT, long_about = None, disable_help_subcommand = true)]
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

/// What a collector does other than run.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Print the effective configuration as YAML, or every problem of the file.
    Check,
    /// Look into the queues, of a collector that runs or of one that does not; or empty it.
    #[command(subcommand)]
    Queue(QueueAction),
    /// Look at what sinks refused for good, or send it again.
    #[command(subcommand)]
    DeadLetter(DeadLetterAction),
}

/// What can be done with dead letters. Their place is `data_dir` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum DeadLetterAction {
    /// Count them, by sink and by why they were refused.
    Ls {
        /// One JSON object, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Send them to the collector that runs with this configuration; what it has taken goes.
    Replay {
        /// Of this sink alone.
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// A token for the collector's OTLP listener, such as a service account's, where `auth.otlp.token_file` has none.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Authorities of the listener's certificate (PEM), where it speaks TLS; the system's without it.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// The name that the listener's certificate carries; the address without it.
        #[arg(long, value_name = "NAME")]
        server_name: Option<String>,
        /// A client certificate (PEM), where the listener asks for one.
        #[arg(long, value_name = "FILE", requires = "key_file")]
        cert_file: Option<PathBuf>,
        /// Its key (PEM).
        #[arg(long, value_name = "FILE", requires = "cert_file")]
        key_file: Option<PathBuf>,
        /// One JSON object, for programs.
        #[arg(long)]
        json: bool,
    },
}

/// What can be done with the queues. Their place is `data_dir` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum QueueAction {
    /// List segments, and how far each sink is.
    Ls {
        /// One JSON object a queue, for programs.
        #[arg(long)]
        json: bool,
        /// Of one signal alone: logs, metrics or traces, each of which has a queue of its own.
        #[arg(long, value_name = "SIGNAL", value_parser = signal)]
        signal: Option<Signal>,
    },
    /// Read all of it and check every frame; exits 1 where something is damaged or missing.
    Verify {
        /// One JSON object a queue, for programs.
        #[arg(long)]
        json: bool,
        /// Of one signal alone: logs, metrics or traces, each of which has a queue of its own.
        #[arg(long, value_name = "SIGNAL", value_parser = signal)]
        signal: Option<Signal>,
    },
    /// Print the frames, oldest first.
    Dump {
        /// The first one: SEGMENT, or SEGMENT:OFFSET as `ls` and `dump` print them.
        #[arg(long, value_name = "POSITION", value_parser = position, default_value = "0")]
        from: Position,
        /// How many at most; 0 = all.
        #[arg(long, value_name = "FRAMES", default_value_t = 0)]
        limit: u64,
        /// One JSON object a line, for programs.
        #[arg(long)]
        json: bool,
        /// With the request itself, as OTLP/JSON; one JSON object a line.
        #[arg(long)]
        content: bool,
        /// Of one signal alone: logs, metrics or traces, each of which has a queue of its own.
        #[arg(long, value_name = "SIGNAL", value_parser = signal)]
        signal: Option<Signal>,
    },
    /// Deliver what is left without taking anything new, then exit: 0 when the queues are empty. Needs the data directory
    /// for itself.
    Drain,
}

impl Args {
    /// What both daemons have of it.
    pub fn common(&self) -> args::Args {
        let action = matches!(self.action, Some(Action::Check)).then_some(args::Action::Check);
        args::Args { config: self.config.clone(), log_format: self.log_format, action }
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    let found = Signal::ALL.into_iter().find(|signal| signal.name() == text);
    found.ok_or_else(|| "expected logs, metrics or traces".to_owned())
}

fn position(text: &str) -> Result<Position, String> {
    let (segment, offset) = text.split_once(':').unwrap_or((text, "0"));
    match (segment.parse(), offset.parse()) {
        (Ok(segment), Ok(offset)) => Ok(Position { segment, offset }),
        _ => Err("expected SEGMENT or SEGMENT:OFFSET, two numbers".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("sonde-collector").chain(words.split(' ')))
    }

    #[test]
    fn the_tools_are_read_and_mistakes_exit_2() {
        let action = |words: &str| parse(words).unwrap().action.unwrap();
        assert_eq!(
            action("queue ls --json --config x"),
            Action::Queue(QueueAction::Ls { json: true, signal: None })
        );
        let from = Position { segment: 17, offset: 4096 };
        let dump = QueueAction::Dump { from, limit: 3, json: false, content: true, signal: None };
        assert_eq!(action("queue dump --from 17:4096 --limit 3 --content"), Action::Queue(dump));
        let traces = QueueAction::Verify { json: false, signal: Some(Signal::Traces) };
        assert_eq!(action("queue verify --signal traces"), Action::Queue(traces));
        for words in [
            "queue",
            "queue lss",
            "queue ls --signal trace",
            "queue dump --from x",
            "queue dump --from 1:2:3",
            "queue drain --json",
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words}");
        }
        let common = parse("check --config a.yaml").unwrap().common();
        assert_eq!((common.action, common.config), (Some(args::Action::Check), Some("a.yaml".into())));
        assert_eq!(parse("queue ls").unwrap().common().action, None);
    }
}
