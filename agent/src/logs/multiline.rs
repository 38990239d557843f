//! Which lines make one record: `logs.multiline`, and `sonde.io/multiline` of a pod.
//!
//! A rule says of each line whether it begins a record. It is a function of the lines of the record so far and nothing
//! else; together with the bounds in lines and bytes, which are one too, it makes the end of a record a function of the
//! file's bytes. Age is the one bound that is not: the clock's cut is durable before the record is sent (`cuts`).
//!
//! Which rule holds for which bytes of a file is kept in the file's state ([`Rule::spec`], `bindings`), because a replay with
//! another rule would find other records under the same names.
//!
//! Cost: nothing without a rule. With one, a scan of the line's beginning, or one search of the pattern in it (linear, no
//! backtracking). Memory: a pattern at most 1 MiB of program and 1 MiB of the search's cache; those of pods a
//! quarter of that, shared by all containers with the same one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use regex::bytes::Regex;
use sonde_daemon::units::{Interval, Size};

use self::presets::{Preset, State};
use super::filter::matches;
use super::pod_path::PodDir;
use crate::config::{LogRule, MultilineRule};

mod presets;

pub use presets::NAMES as PRESETS;

/// Most rules.
pub const MOST_RULES: usize = 64;
/// Bytes of a line that a rule sees: as many as the first fragment that containerd makes of it.
pub const LOOK: usize = 16 << 10;
/// Longest pattern of a pod.
const LONGEST_WISH: usize = 1024;
const PATTERN_BYTES: usize = 1 << 20;

/// A compiled rule with its bounds.
pub struct Rule {
    spec: String,
    kind: Kind,
    /// Most lines of a record.
    pub max_lines: u32,
    /// Most bytes of its body.
    pub max_bytes: u64,
    /// How long a record waits for its next line.
    pub max_wait: Duration,
}

enum Kind {
    /// What begins a record.
    Start(Regex),
    Preset(Preset),
    /// Each line is a record.
    Off,
    /// Each entry is a record, and touches no other.
    Late,
}

/// A pod's `off` as the state of a file keeps it. Agents that do not know it take it for no rule, which means the same.
const OFF: &str = "w off";
/// In the same way, what came into a file after lines of its stream in a later file had been read.
const LATE: &str = "late";

impl fmt::Debug for Rule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.spec)
    }
}

/// What is known of an open record for its rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress(State);

impl Rule {
    /// The rule as the state of a file keeps it; [`Rules::of_spec`] is the inverse. Two rules with the same one are the same.
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// Whether it may join lines. A pod's `off` does not, and is kept like a rule, or it would be forgotten where the pod is not
    /// known.
    pub fn joins(&self) -> bool {
        !matches!(self.kind, Kind::Off | Kind::Late)
    }

    /// Whether it is about entries that came late: each is a record, and no part of those that are open.
    pub fn is_late(&self) -> bool {
        matches!(self.kind, Kind::Late)
    }

    /// Whether a pod wished it.
    pub fn is_wish(&self) -> bool {
        self.spec.starts_with('w')
    }

    /// Of a record that begins with a line.
    pub fn begin(&self, text: &[u8]) -> Progress {
        match &self.kind {
            Kind::Start(_) | Kind::Off | Kind::Late => Progress::default(),
            Kind::Preset(preset) => Progress(preset.begin(seen(text))),
        }
    }

    /// Whether the next line belongs to the record; then `progress` is the one behind it.
    pub fn goes_on(&self, progress: &mut Progress, text: &[u8]) -> bool {
        match &self.kind {
            Kind::Off | Kind::Late => false,
            Kind::Start(start) => !start.is_match(seen(text)),
            Kind::Preset(preset) => preset.goes_on(&mut progress.0, seen(text)),
        }
    }
}

/// What a rule sees of a line: its first [`LOOK`] bytes, without colours before them and the carriage return behind.
fn seen(text: &[u8]) -> &[u8] {
    let mut text = text.get(..LOOK).unwrap_or(text);
    // ECMA-48, SGR: ESC [ parameters m
    while let Some(rest) = text.strip_prefix(b"\x1b[") {
        let parameters = rest.iter().take_while(|byte| byte.is_ascii_digit() || b";:".contains(byte)).count();
        if rest.get(parameters) != Some(&b'm') {
            break;
        }
        text = &rest[parameters + 1..];
    }
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// What is wrong with a rule of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleProblem {
    /// Key below the rule, such as `.start`; empty = the rule as a whole.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
    /// What is expected.
    pub expected: String,
}

/// A rule that passed the check of the configuration cannot be made all the same.
#[derive(Debug, thiserror::Error)]
#[error("logs.multiline[{0}]: {1}")]
pub struct MultilineError(usize, String);

/// All rules, and those that pods wish or files remember.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<(LogRule, Arc<Rule>)>,
    others: HashMap<String, Weak<Rule>>,
    max_line: u64,
}

impl Rules {
    /// Compiles the list of the configuration.
    ///
    /// # Errors
    /// A rule that [`problem`] would have named.
    pub fn new(rules: &[MultilineRule], max_line: usize) -> Result<Self, MultilineError> {
        let max_line = max_line as u64;
        let mut made = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let kind = kind_of(rule).map_err(|problem| MultilineError(at, problem.what))?;
            let of = LogRule {
                namespace: rule.namespace.clone(),
                pod: rule.pod.clone(),
                container: rule.container.clone(),
            };
            let max_bytes = if rule.max_bytes.0 == 0 { max_line } else { rule.max_bytes.0.min(max_line) };
            let bounds = Bounds { lines: rule.max_lines, bytes: max_bytes, wait: rule.max_wait.0 };
            made.push((of, Arc::new(make('c', kind, bounds))));
        }
        Ok(Self { rules: made, others: HashMap::new(), max_line })
    }

    /// The first rule that is about a container.
    pub fn for_container(&self, pod: &PodDir, container: &str) -> Option<Arc<Rule>> {
        self.rules.iter().find(|(of, _)| matches(of, pod, container)).map(|(_, rule)| rule.clone())
    }

    /// What the value of an annotation says: `off`, a preset's name, or a pattern, with the usual bounds.
    ///
    /// # Errors
    /// Why it cannot be obeyed.
    pub fn wish(&mut self, value: &str) -> Result<Arc<Rule>, String> {
        if value == "off" {
            return self.of_spec(OFF);
        }
        if value.len() > LONGEST_WISH {
            return Err(format!("longer than {LONGEST_WISH} bytes"));
        }
        let usual = MultilineRule::default();
        let bounds = Bounds { lines: usual.max_lines, bytes: self.max_line, wait: usual.max_wait.0 };
        let kind = match Preset::named(value) {
            Some(preset) => KindText { preset: Some(preset), start: "" },
            None => KindText { preset: None, start: value },
        };
        let spec = spec_of('w', &kind, bounds);
        self.of_spec(&spec)
    }

    /// That of entries that came late.
    ///
    /// # Errors
    /// None that can be met.
    pub fn late(&mut self) -> Result<Arc<Rule>, String> {
        self.of_spec(LATE)
    }

    /// The rule that a file's state names.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of_spec(&mut self, spec: &str) -> Result<Arc<Rule>, String> {
        let configured = self.rules.iter().map(|(_, rule)| rule).find(|rule| rule.spec == spec);
        if let Some(rule) = configured.cloned().or_else(|| self.others.get(spec).and_then(Weak::upgrade)) {
            return Ok(rule);
        }
        let rule = Arc::new(parse(spec)?);
        self.others.retain(|_, rule| rule.strong_count() > 0);
        self.others.insert(spec.to_owned(), Arc::downgrade(&rule));
        Ok(rule)
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    lines: u32,
    bytes: u64,
    wait: Duration,
}

struct KindText<'a> {
    preset: Option<Preset>,
    start: &'a str,
}

/// `<c|w> <lines> <bytes> <milliseconds> <preset|start> <name|pattern>`, or [`OFF`] or [`LATE`].
fn spec_of(origin: char, kind: &KindText<'_>, bounds: Bounds) -> String {
    let Bounds { lines, bytes, wait } = bounds;
    let (key, value) = kind.preset.map_or(("start", kind.start), |preset| ("preset", preset.name()));
    format!("{origin} {lines} {bytes} {} {key} {value}", wait.as_millis())
}

fn parse(spec: &str) -> Result<Rule, String> {
    let bare = |kind| {
        let spec = spec.to_owned();
        Ok(Rule { spec, kind, max_lines: 1, max_bytes: 0, max_wait: Duration::ZERO })
    };
    match spec {
        OFF => return bare(Kind::Off),
        LATE => return bare(Kind::Late),
        _ => {}
    }
    let odd = || "not a rule".to_owned();
    let mut words = spec.splitn(6, ' ');
    let mut next = || words.next().ok_or_else(odd);
    let origin = next()?;
    let (lines, bytes, millis) = (next()?, next()?, next()?);
    let (key, value) = (next()?, next()?);
    let kind = match key {
        "preset" => Kind::Preset(Preset::named(value).ok_or_else(odd)?),
        "start" => {
            Kind::Start(pattern(value, if origin == "w" { PATTERN_BYTES / 4 } else { PATTERN_BYTES })?)
        }
        _ => return Err(odd()),
    };
    Ok(Rule {
        spec: spec.to_owned(),
        kind,
        max_lines: lines.parse().map_err(|_| odd())?,
        max_bytes: bytes.parse().map_err(|_| odd())?,
        max_wait: Duration::from_millis(millis.parse().map_err(|_| odd())?),
    })
}

fn make(origin: char, kind: Kind, bounds: Bounds) -> Rule {
    let text = match &kind {
        Kind::Start(start) => KindText { preset: None, start: start.as_str() },
        Kind::Preset(preset) => KindText { preset: Some(*preset), start: "" },
        Kind::Off | Kind::Late => KindText { preset: None, start: "" },
    };
    let spec = spec_of(origin, &text, bounds);
    Rule { spec, kind, max_lines: bounds.lines, max_bytes: bounds.bytes, max_wait: bounds.wait }
}

/// What is wrong with a rule of the configuration, as far as it can be said without the rest.
pub fn problem(rule: &MultilineRule) -> Option<RuleProblem> {
    kind_of(rule).err()
}

/// Whether the bounds of a rule are within reason: key, what is wrong, what is expected.
pub fn odd_bounds(rule: &MultilineRule, max_line: Size) -> Vec<RuleProblem> {
    let mut odd = Vec::new();
    let mut add = |key, what, expected: String| odd.push(RuleProblem { key, what, expected });
    if !(2..=10_000).contains(&rule.max_lines) {
        add(".max_lines", format!("{} is out of range", rule.max_lines), "2 to 10000".to_owned());
    }
    if rule.max_bytes.0 != 0 && !(Size::kib(1)..=max_line).contains(&rule.max_bytes) {
        let expected = format!("1KiB to logs.max_line ({max_line}), or 0 for that");
        add(".max_bytes", format!("{} is out of range", rule.max_bytes), expected);
    }
    let (least, most) = (Interval(Duration::from_millis(100)), Interval::secs(60));
    if !(least.0..=most.0).contains(&rule.max_wait.0) {
        add(".max_wait", format!("{} is out of range", rule.max_wait), "100ms to 60s".to_owned());
    }
    odd
}

fn kind_of(rule: &MultilineRule) -> Result<Kind, RuleProblem> {
    if rule.start.is_empty() == rule.preset.is_empty() {
        let what = "has not exactly one of `start` and `preset`".to_owned();
        return Err(RuleProblem { key: "", what, expected: "one of the two".to_owned() });
    }
    if rule.start.is_empty() {
        return Preset::named(&rule.preset).map(Kind::Preset).ok_or_else(|| RuleProblem {
            key: ".preset",
            what: format!("`{}` is not a preset", rule.preset),
            expected: PRESETS.join(", "),
        });
    }
    pattern(&rule.start, PATTERN_BYTES).map(Kind::Start).map_err(|what| RuleProblem {
        key: ".start",
        what,
        expected: "a regular expression (Rust's `regex` syntax)".to_owned(),
    })
}

/// A pattern of bounded size that does not match everything.
fn pattern(text: &str, bytes: usize) -> Result<Regex, String> {
    let made = regex::bytes::RegexBuilder::new(text).size_limit(bytes).dfa_size_limit(bytes).build();
    let pattern = made.map_err(|error| {
        // The last line of the library's message says what is wrong; those before draw the place.
        error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    if pattern.is_match(b"") {
        return Err(format!("`{text}` matches every line, so each begins a record"));
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests;
