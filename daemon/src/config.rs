//! Configuration files: YAML with `${NAME}` from the environment, and every problem of a file at once.
//!
//! A file is parsed into a tree whose nodes know their lines, laid over the tree of the defaults, expanded, and
//! then read into the caller's structs. What cannot be read is noted, taken out of the tree, and the rest is read
//! again, so that one run reports everything. Structs are `#[serde(default, deny_unknown_fields)]`; internally
//! tagged and flattened ones would lose the place of a mistake.

mod expand;
mod headers;
mod parse;
mod read;
mod source;
mod tree;

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use headers::{HIDDEN, Headers};
use tree::Node;

/// The longest configuration, in bytes.
pub const LONGEST: usize = 1 << 20;
/// Problems that are reported of one file; whoever has more sees them after these are fixed.
const MOST: usize = 100;

/// One thing that is wrong with a configuration. Prints as `FILE:LINE: key.path: what is wrong (what is expected)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// Its line, from 1. A key that is not in the file has the line of the section that would hold it.
    pub line: usize,
    /// The key, as `export.batch.bytes` or `sinks[1].name`; empty = the file as a whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What is expected; empty where `what` says it.
    pub expected: String,
}

/// Collects what a configuration's own checks find.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Checked>,
}

/// What a check found, and the further keys that it looked at.
#[derive(Debug)]
struct Checked {
    finding: Finding,
    others: Vec<String>,
}

/// Checks that types cannot express.
pub trait Validate {
    /// Adds every problem. Called also when other keys could not be read; those then have their defaults.
    fn validate(&self, problems: &mut Problems);

    /// Writes into keys that were left empty what stands for them here, so that `check` prints it.
    fn fill(&mut self) {}
}

/// Why a configuration cannot be printed: it holds what YAML cannot, such as a map with keys that are no text.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be printed: {0}")]
pub struct PrintError(String);

/// A problem before its file is known, and its line where only the path is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    line: Option<usize>,
    path: String,
    what: String,
    expected: String,
}

impl Problems {
    /// Adds a problem of the key at `path` (`export.endpoint`, `sinks[1].name`): what is wrong, as
    /// "`http:/x` is not a URL", and what is expected, as "http:// or https://, and a host"; may be empty.
    pub fn add(&mut self, path: impl Into<String>, what: impl Into<String>, expected: impl Into<String>) {
        self.add_between(path, &[], what, expected);
    }

    /// As [`Problems::add`], where the `others` (key paths) are part of what is wrong: when one of them could not be
    /// read its default stands in its place, and nothing is said.
    pub fn add_between(
        &mut self,
        path: impl Into<String>,
        others: &[&str],
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let (path, what, expected) = (path.into(), what.into(), expected.into());
        let others = others.iter().map(|other| (*other).to_owned()).collect();
        self.list.push(Checked { finding: Finding { line: None, path, what, expected }, others });
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = OneLine(f);
        write!(line, "{}:{}: ", self.file, self.line)?;
        if !self.path.is_empty() {
            write!(line, "{}: ", self.path)?;
        }
        line.write_str(&self.what)?;
        if self.expected.is_empty() { Ok(()) } else { write!(line, " (expected {})", self.expected) }
    }
}

/// A problem is one line, whatever it quotes: control characters and line separators are escaped.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Reads a configuration from `text`; `file` is what problems call it. An empty text gives the defaults.
///
/// `${NAME}` and `${NAME:-default}` in values, the defaults' included, are taken from `env`; `$$` is a dollar
/// sign. A key without a value keeps its default.
///
/// # Errors
/// Every problem, by line. After a mistake in the YAML itself what was read until there is checked.
pub fn load<T>(text: &str, file: &str, env: impl Fn(&str) -> Option<String>) -> Result<T, Vec<Problem>>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let mut found = Vec::new();
    let merged = merged::<T>(text, &env, &mut found);
    let config = merged.as_ref().and_then(|merged| read_all::<T>(merged, &mut found));
    if found.is_empty()
        && let Some(config) = config
    {
        return Ok(config);
    }
    Err(report(found, merged.as_ref().map(|merged| &merged.tree), file, text))
}

/// Reads `file`, or takes the defaults where none is named; see [`load`].
///
/// # Errors
/// Every problem.
pub fn load_file<T>(file: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Result<T, Vec<Problem>>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let Some(path) = file else { return load("", "built-in defaults", env) };
    let name = path.display().to_string();
    let problem = |line: usize, what: String, expected: &str| {
        let (file, expected) = (name.clone(), expected.to_owned());
        vec![Problem { file, line, path: String::new(), what, expected }]
    };
    let bytes = source::read(path, LONGEST)
        .map_err(|error| problem(1, format!("cannot be read: {error}"), "a YAML file"))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => load(text, &name, env),
        // The cut at the limit may go through a character.
        Err(_) if bytes.len() > LONGEST => Err(problem(1, "is too long".to_owned(), "at most 1 MiB")),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(problem(line, "is not UTF-8 text".to_owned(), "a YAML file in UTF-8"))
        }
    }
}

/// The effective configuration as YAML, which loads back as the same in any environment.
///
/// # Errors
/// When it cannot be expressed in YAML.
pub fn print<T: Serialize>(config: &T) -> Result<String, PrintError> {
    let mut tree = Node::of(config).map_err(PrintError)?;
    tree.each_text(&mut |text, _| {
        if text.contains('$') {
            *text = expand::escape(text);
        }
    });
    tree.print().map_err(PrintError)
}

/// The file's tree over the defaults', both expanded.
struct Merged {
    tree: Node,
    /// The key at which a mistake in the YAML ended the reading; what is in it and after it is not known.
    cut: Option<String>,
    /// Keys that could not be expanded.
    failed: Vec<String>,
}

/// `None`: what was found stands in the way.
fn merged<T: Serialize + Default>(
    text: &str,
    env: &impl Fn(&str) -> Option<String>,
    found: &mut Vec<Finding>,
) -> Option<Merged> {
    let mut fail = |what: &str, expected: String| {
        found.push(Finding { line: Some(1), path: String::new(), what: what.to_owned(), expected });
    };
    if text.len() > LONGEST {
        fail("is too long", "at most 1 MiB".to_owned());
        return None;
    }
    let mut tree = match Node::of(&T::default()) {
        Ok(tree) => tree,
        Err(error) => {
            fail("the built-in defaults cannot be expressed in YAML", error);
            return None;
        }
    };
    tree.become_default();
    let parsed = parse::parse(text.trim_start_matches('\u{feff}'), found)?;
    tree.merge(parsed.root);
    tree.number();
    let before = found.len();
    expand::all(&mut tree, env, found);
    let failed = found[before..].iter().map(|finding| finding.path.clone()).collect();
    Some(Merged { tree, cut: parsed.cut, failed })
}

/// Reads the tree again and again, each time without the node that could not be read.
fn read_all<T: DeserializeOwned + Validate>(merged: &Merged, found: &mut Vec<Finding>) -> Option<T> {
    let whole = &merged.tree;
    let mut tree = whole.clone();
    let mut failed = merged.failed.clone();
    let mut said = HashSet::new();
    let config: T = loop {
        let attempt = read::read(&tree);
        // Each attempt meets those of the last again.
        for unknown in attempt.unknown {
            if said.len() < MOST && said.insert(unknown.node) {
                found.push(unknown.finding(whole));
            }
        }
        let fault = match attempt.result {
            Ok(config) => break config,
            Err(fault) => fault,
        };
        let place = whole.locate(fault.node);
        failed.push(place.path.clone());
        found.push(Finding {
            line: place.line,
            path: place.path,
            what: fault.what,
            expected: fault.expected,
        });
        if found.len() >= MOST || !tree.remove(fault.node) {
            return None;
        }
    };
    let mut problems = Problems::default();
    config.validate(&mut problems);
    // A key that could not be read has its default now: what is said about it may be wrong.
    let known = |path: &str| {
        let read = !failed.iter().any(|failed| is_in(failed, path) || is_in(path, failed));
        read && merged.cut.as_ref().is_none_or(|cut| whole.has_line(path) && !is_in(cut, path))
    };
    for Checked { mut finding, others } in problems.list {
        // Elements that were taken out of a list are not counted by the check.
        finding.path = tree.path_in(whole, &finding.path);
        if known(&finding.path) && others.iter().all(|other| known(&tree.path_in(whole, other))) {
            found.push(finding);
        }
    }
    Some(config)
}

/// Whether `path` is `outer` or in it.
fn is_in(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn report(found: Vec<Finding>, tree: Option<&Node>, file: &str, text: &str) -> Vec<Problem> {
    let lines = text.lines().count().max(1);
    let mut problems: Vec<Problem> = found
        .into_iter()
        .map(|finding| {
            let line = finding.line.or_else(|| tree.and_then(|tree| tree.line_of(&finding.path)));
            Problem {
                file: file.to_owned(),
                line: line.unwrap_or(1).clamp(1, lines),
                path: finding.path,
                what: one_line(&finding.what),
                expected: one_line(&finding.expected),
            }
        })
        .collect();
    problems.sort_by_key(|problem| problem.line);
    problems.truncate(MOST);
    problems
}

/// Problems are one a line, whatever the file holds.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
