//! What is taken out of bodies before they leave the node: `logs.redact`.
//!
//! Promises, for the rules that apply to a container:
//! - The body that is sent holds nothing that one of them finds, but for what stands there instead. Rules go over a body in
//!   their order, again and again until none finds anything; a body that does not come to rest in [`PASSES`] passes, has
//!   more than [`MOST_MATCHES`] places, or would grow beyond twice `max_line`, is replaced as a whole.
//! - What is valid UTF-8 stays so, and a second time changes nothing.
//! - Work is linear in the line: the regex crate has no backtracking, and passes and places are bounded.
//! - Fields (level, trace id) are taken out of what is left. `log.record.uid` and the ledger are of the file's bytes, so
//!   a changed rule changes no name and no count.
//! - Of a body that was cut at `max_line` the last word goes too ([`without_last_word`]): what is left of a secret may look like none.
//!
//! A rule sees one record: what is spread over several lines (a private key in PEM) is found where its first line is, to the
//! end of the record.
//!
//! Cost: nothing without a rule. With rules, one search a rule and line, in place; only a line in which something was found
//! is copied (twice at most: old and new), so memory is two bodies of at most twice `max_line` = 4 MiB, and for each
//! pattern at most 1 MiB of program and 2 MiB of the search's cache.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use regex::Regex;

use self::presets::Finder;
use super::filter::matches;
use super::pod_path::PodDir;
use crate::config::{LogRule, RedactRule};

mod presets;

/// Most rules.
pub const MOST_RULES: usize = 32;
/// Most passes over one body.
const PASSES: usize = 4;
/// Most places of one rule in one body.
const MOST_MATCHES: usize = 1000;
/// Longest replacement, bytes.
const LONGEST_REPLACEMENT: usize = 64;

/// The rules that apply to a container, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet(u32);

/// All rules, and how often each found something.
#[derive(Debug, Default)]
pub struct Redactor {
    rules: Vec<Rule>,
    max_line: usize,
}

#[derive(Debug)]
struct Rule {
    of: LogRule,
    finder: Finder,
    replace: String,
    label: String,
    times: u64,
}

/// What is wrong with a rule of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleProblem {
    /// Key below `logs.redact`, such as `[0].pattern`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What is expected.
    pub expected: String,
}

/// A rule that passed the check of the configuration cannot be made all the same.
#[derive(Debug, thiserror::Error)]
#[error("logs.redact{0}")]
pub struct RedactError(String);

impl RuleSet {
    /// Whether no rule applies.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, rule: usize) -> bool {
        self.0 >> rule & 1 == 1
    }
}

impl Redactor {
    /// Compiles the rules. A body may grow to twice `max_line`.
    ///
    /// # Errors
    /// A rule that [`problems`] would have named.
    pub fn new(rules: &[RedactRule], max_line: usize) -> Result<Self, RedactError> {
        if let Some(problem) = problems(rules).into_iter().next() {
            return Err(RedactError(format!("{}: {}", problem.key, problem.what)));
        }
        let mut made = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let finder =
                finder(rule).map_err(|(key, what, _)| RedactError(format!("[{at}]{key}: {what}")))?;
            let kind = if rule.preset.is_empty() { "pattern" } else { rule.preset.as_str() };
            made.push(Rule {
                of: LogRule {
                    namespace: rule.namespace.clone(),
                    pod: rule.pod.clone(),
                    container: rule.container.clone(),
                },
                finder,
                replace: rule.replace.clone(),
                label: format!("{at}:{kind}"),
                times: 0,
            });
        }
        Ok(Self { rules: made, max_line })
    }

    /// The rules that apply to a container.
    pub fn rules_for(&self, pod: &PodDir, container: &str) -> RuleSet {
        let mut set = 0;
        for (at, rule) in self.rules.iter().enumerate() {
            set |= u32::from(matches(&rule.of, pod, container)) << at;
        }
        RuleSet(set)
    }

    /// Replaces what the rules find; none = they find nothing, the body is good as it is.
    pub fn apply(&mut self, set: RuleSet, body: &str) -> Option<String> {
        let limit = self.max_line.saturating_mul(2).max(LONGEST_REPLACEMENT);
        let mut text = Cow::Borrowed(body);
        let mut first = None;
        for _ in 0..PASSES {
            let mut is_changed = false;
            for (at, rule) in self.rules.iter_mut().enumerate().filter(|(at, _)| set.has(*at)) {
                match rule.replaced(&text, limit) {
                    Replaced::Nothing => {}
                    Replaced::Places(new) => {
                        first.get_or_insert(at);
                        (text, is_changed) = (Cow::Owned(new), true);
                    }
                    Replaced::All => return Some(rule.replace.clone()),
                }
            }
            if !is_changed {
                return first.map(|_| text.into_owned());
            }
        }
        // Replacements and rules that go on for ever.
        first.and_then(|at| self.rules.get(at)).map(|rule| rule.replace.clone())
    }

    /// How often each rule found something, by its label: `<number in the list>:<preset, or pattern>`. What is read
    /// again is counted again.
    pub fn times(&self) -> Vec<(String, u64)> {
        self.rules.iter().map(|rule| (rule.label.clone(), rule.times)).collect()
    }
}

/// How far back of the cut a word is looked for the beginning of, bytes.
const LONGEST_WORD: usize = 4096;

/// The length of a body without its last word, back to the last white space within [`LONGEST_WORD`] bytes; without these
/// bytes where there is none.
pub fn without_last_word(body: &[u8]) -> usize {
    let from = body.len().saturating_sub(LONGEST_WORD);
    body.get(from..)
        .and_then(|tail| tail.iter().rposition(u8::is_ascii_whitespace))
        .map_or(from, |at| from + at)
}

enum Replaced {
    Nothing,
    Places(String),
    All,
}

impl Rule {
    fn replaced(&mut self, text: &str, limit: usize) -> Replaced {
        let mut out = String::new();
        let (mut at, mut kept) = (0, 0);
        for _ in 0..MOST_MATCHES {
            let Some(found) = self.finder.find(text, at) else {
                if kept == 0 {
                    return Replaced::Nothing;
                }
                out.push_str(text.get(kept..).unwrap_or_default());
                return if out.len() > limit { Replaced::All } else { Replaced::Places(out) };
            };
            at = found.next(text);
            let mut is_new = false;
            for place in &found.secrets {
                let secret = text.get(place.clone()).unwrap_or_default();
                if secret.is_empty() || secret == self.replace {
                    continue;
                }
                is_new = true;
                out.push_str(text.get(kept..place.start).unwrap_or_default());
                out.push_str(&self.replace);
                kept = place.end;
            }
            self.times += u64::from(is_new);
            if out.len() > limit {
                return Replaced::All;
            }
        }
        self.times += 1;
        Replaced::All
    }
}

/// A place that a rule found.
struct Place {
    /// All that belongs to it.
    whole: Range<usize>,
    /// What is replaced, in order and apart from each other.
    secrets: Vec<Range<usize>>,
}

impl Place {
    /// Where the search goes on: behind the secret, for what else belongs to the place may hold another one.
    fn next(&self, text: &str) -> usize {
        if let Some(last) = self.secrets.last().filter(|last| !last.is_empty()) {
            return last.end;
        }
        let at = self.whole.end;
        if !self.whole.is_empty() {
            return at;
        }
        at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
    }
}

/// Every problem of the list.
pub fn problems(rules: &[RedactRule]) -> Vec<RuleProblem> {
    let mut problems = Vec::new();
    let mut add = |key: String, what: String, expected: &str| {
        problems.push(RuleProblem { key, what, expected: expected.to_owned() });
    };
    if rules.len() > MOST_RULES {
        add(String::new(), format!("has {} rules", rules.len()), &format!("{MOST_RULES} at most"));
        return problems;
    }
    let mut finders = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        match finder(rule) {
            Ok(finder) => finders.push((at, finder)),
            Err((key, what, expected)) => add(format!("[{at}]{key}"), what, &expected),
        }
        let is_odd = |c: char| !c.is_ascii_alphanumeric() && !"_.*#[]<>-".contains(c);
        if rule.replace.is_empty()
            || rule.replace.len() > LONGEST_REPLACEMENT
            || rule.replace.contains(is_odd)
        {
            // It may stand in a JSON string, and in front of or behind anything.
            let what = "cannot stand in the middle of any text".to_owned();
            add(format!("[{at}].replace"), what, "1 to 64 of letters, digits and `_.*#[]<>-`");
        }
    }
    for (at, rule) in rules.iter().enumerate() {
        let finds = |(other, finder): &&(usize, Finder)| {
            let found = finder.find(&rule.replace, 0).map(|place| place.secrets).unwrap_or_default();
            found.into_iter().filter_map(|secret| rule.replace.get(secret)).any(|secret| {
                !secret.is_empty() && rules.get(*other).is_some_and(|other| secret != other.replace)
            })
        };
        let found_by = finders.iter().find(finds);
        if let Some((other, _)) = found_by {
            let mut what = String::new();
            let _ = write!(what, "`{}` is itself found by rule {other}", rule.replace);
            add(
                format!("[{at}].replace"),
                what,
                "a text that no rule finds; a group in the pattern keeps what is around it",
            );
        }
    }
    problems
}

type Problem = (&'static str, String, String);

fn finder(rule: &RedactRule) -> Result<Finder, Problem> {
    if rule.pattern.is_empty() == rule.preset.is_empty() {
        let what = "has not exactly one of `pattern` and `preset`".to_owned();
        return Err(("", what, "one of the two".to_owned()));
    }
    if rule.pattern.is_empty() {
        return presets::preset(&rule.preset).ok_or_else(|| {
            let what = format!("`{}` is not a preset", rule.preset);
            (".preset", what, presets::NAMES.join(", "))
        });
    }
    let is_wrong =
        |what: String| (".pattern", what, "a regular expression (Rust's `regex` syntax)".to_owned());
    let finder = Finder::pattern(&rule.pattern).map_err(|error| is_wrong(last_line(&error)))?;
    if finder.find("", 0).is_some() {
        return Err(is_wrong(format!("`{}` finds nothing at all, everywhere", rule.pattern)));
    }
    Ok(finder)
}

/// The last line of the library's message says what is wrong; those before draw the place.
fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// A pattern of bounded size.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(1 << 20).dfa_size_limit(2 << 20).build()
}

#[cfg(test)]
mod tests;
