//! Configuration files.
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The key, as `export.batch.bytes` or `sinks[1].name`; empty = the file as a whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What is expected; empty where `what` says it.
    pub expected: String,
}
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        if !self.expected.is_empty() {
            write!(f, " (expected {})", self.expected)?;
        }
        Ok(())
    }
}
/// Collects what a section's own checks find.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<(String, String, String)>,
}
impl Problems {
    /// Adds a problem of the key at `path` (`export.endpoint`, `sinks[1].name`): what is wrong, what is expected.
    pub fn add(&mut self, path: impl Into<String>, what: impl Into<String>, expected: impl Into<String>) {
        self.list.push((path.into(), what.into(), expected.into()));
    }
}
/// Checks of a configuration that types cannot express.
pub trait Validate {
    /// Adds every problem.
    fn validate(&self, problems: &mut Problems);
}
/// Why a configuration cannot be printed.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be printed: {0}")]
pub struct PrintError(String);

/// Reads a configuration from `text`.
///
/// # Errors
/// Every problem.
pub fn load<T: DeserializeOwned + Serialize + Default + Validate>(
    text: &str,
    file: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, Vec<Problem>> {
    let _ = env;
    let fail = |what: String| {
        vec![Problem { file: file.to_owned(), line: 1, path: String::new(), what, expected: String::new() }]
    };
    let config: T = if text.trim().is_empty() {
        T::default()
    } else {
        serde_saphyr::from_str(text).map_err(|e| fail(e.to_string()))?
    };
    let mut problems = Problems::default();
    config.validate(&mut problems);
    if problems.list.is_empty() {
        Ok(config)
    } else {
        Err(problems.list.into_iter().flat_map(|(_, what, _)| fail(what)).collect())
    }
}
/// Reads the file, or takes the defaults where none is named.
///
/// # Errors
/// Every problem.
pub fn load_file<T: DeserializeOwned + Serialize + Default + Validate>(
    file: Option<&Path>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<T, Vec<Problem>> {
    let Some(file) = file else { return load("", "built-in defaults", env) };
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        vec![Problem {
            file: name.clone(),
            line: 1,
            path: String::new(),
            what: error.to_string(),
            expected: String::new(),
        }]
    })?;
    load(&text, &name, env)
}
/// The effective configuration as YAML, which loads back as the same.
///
/// # Errors
/// When it cannot be expressed in YAML.
pub fn print<T: Serialize>(config: &T) -> Result<String, PrintError> {
    serde_saphyr::to_string(config).map_err(|error| PrintError(error.to_string()))
}
