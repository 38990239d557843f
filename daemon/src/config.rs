//! Configuration files: YAML with `${NAME}` from the environment, and every problem of a file at once.
//!
//! A file is parsed into a tree whose nodes know their lines, laid over the tree of the defaults, expanded, and
//! then read into the caller's structs. What cannot be read is noted, taken out of the tree, and the rest is read
//! again, so that one run reports everything. Structs are `#[serde(default, deny_unknown_fields)]`; internally
//! tagged and flattened ones would lose the place of a mistake.

mod expand;
mod read;
mod tree;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

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
    list: Vec<Finding>,
}

/// Checks that types cannot express.
pub trait Validate {
    /// Adds every problem. Called also when other keys could not be read; those then have their defaults.
    fn validate(&self, problems: &mut Problems);
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
        let (path, what, expected) = (path.into(), what.into(), expected.into());
        self.list.push(Finding { line: None, path, what, expected });
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        if self.expected.is_empty() { Ok(()) } else { write!(f, " (expected {})", self.expected) }
    }
}

/// Reads a configuration from `text`; `file` is what problems call it. An empty text gives the defaults.
///
/// `${NAME}` and `${NAME:-default}` in values, the defaults' included, are taken from `env`; `$$` is a dollar
/// sign. A key without a value keeps its default.
///
/// # Errors
/// Every problem, by line. After a mistake in the YAML itself only what was found until there.
pub fn load<T>(text: &str, file: &str, env: impl Fn(&str) -> Option<String>) -> Result<T, Vec<Problem>>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let mut found = Vec::new();
    let merged = merged::<T>(text, &env, &mut found);
    let config = merged.as_ref().and_then(|tree| read_all::<T>(tree, &mut found));
    if found.is_empty()
        && let Some(config) = config
    {
        return Ok(config);
    }
    Err(report(found, merged.as_ref(), file, text))
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
    let mut bytes = Vec::new();
    // One byte more than is allowed, for `load` to see that it is too long.
    let read = File::open(path).and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| problem(1, format!("cannot be read: {error}"), "a YAML file"))?;
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

/// The file's tree over the defaults', both expanded. `None`: what was found stands in the way.
fn merged<T: Serialize + Default>(
    text: &str,
    env: &impl Fn(&str) -> Option<String>,
    found: &mut Vec<Finding>,
) -> Option<Node> {
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
    tree.merge(tree::parse(text.trim_start_matches('\u{feff}'), found)?);
    tree.number();
    expand::all(&mut tree, env, found);
    Some(tree)
}

/// Reads the tree again and again, each time without the node that could not be read.
fn read_all<T: DeserializeOwned + Validate>(whole: &Node, found: &mut Vec<Finding>) -> Option<T> {
    let mut tree = whole.clone();
    let mut failed: Vec<String> = Vec::new();
    let config: T = loop {
        let attempt = read::read(&tree);
        for unknown in attempt.unknown {
            let finding = unknown.finding(whole);
            if !found.contains(&finding) {
                found.push(finding);
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
    // A key that could not be read has its default now; what is said about it and its neighbours may be wrong.
    let parent = |path: &str| path.rfind(['.', '[']).map_or(0, |end| end);
    let touched = |path: &str| {
        failed.iter().any(|failed| {
            let section = &failed[..parent(failed)];
            failed == path || (!section.is_empty() && path.starts_with(section))
        })
    };
    found.extend(problems.list.into_iter().filter(|finding| !touched(&finding.path)));
    Some(config)
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
