//! Parameters of a query.
//!
//! `cluster`, `node`, `namespace`, `pod`, `container`: equal to. `severity`: at least, a name (`warn`) or a number
//! (1–24). `q`: words and `"phrases"` that must occur ([`crate::store::Needle`]). `since`, `until`: RFC 3339 times,
//! or how long ago (`15m`); since is included, until is not; one before 1970 or after 2554 is as these. `limit`: most records, default 1000, 0 = all (for
//! `tail`: then it ends; default 0). `order`: `asc` (default) or `desc`. An empty value is as none.

use std::collections::HashSet;

use sonde_daemon::units::Interval;

use crate::store::{Filter, NAMES, Needle, Order};
use crate::{severity, time};

const LIMIT: u64 = 1000;
const OTHERS: [&str; 6] = ["severity", "q", "since", "until", "limit", "order"];

/// What is asked for; not every parameter makes sense for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Records.
    Records,
    /// Their number.
    Count,
    /// What comes.
    Tail,
}

/// A query.
#[derive(Debug)]
pub struct Params {
    /// Which records.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
    /// How many at most, 0 = all.
    pub limit: u64,
}

/// What is wrong with a parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub parameter: String,
    /// What is wrong and what is expected.
    pub what: String,
}

impl Params {
    /// Reads a URL's query; `now` is in Unix nanoseconds. All problems are given.
    pub fn parse(query: &str, now: u64, ask: Ask) -> Result<Self, Vec<Problem>> {
        let limit = if ask == Ask::Records { LIMIT } else { 0 };
        let mut params = Self { filter: Filter::default(), order: Order::default(), limit };
        let mut problems = Vec::new();
        let mut bounds = Bounds::default();
        each(query, &mut problems, |key, value| params.set(key, value, now, ask, &mut bounds));
        (params.filter.since, params.filter.until) = bounds.clamped();
        if problems.is_empty() && bounds.since.zip(bounds.until).is_some_and(|(since, until)| since >= until)
        {
            let what = "is not after `since`".to_owned();
            problems.push(Problem { parameter: "until".to_owned(), what });
        }
        if problems.is_empty() { Ok(params) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, value: &str, now: u64, ask: Ask, bounds: &mut Bounds) -> Result<(), String> {
        if !NAMES.contains(&key) && !OTHERS.contains(&key) {
            return Err(unknown(key, NAMES.iter().chain(&OTHERS)));
        }
        if value.is_empty() {
            return Ok(());
        }
        if let Some(name) = NAMES.iter().position(|name| *name == key) {
            self.filter.names[name] = Some(value.to_owned());
            return Ok(());
        }
        match key {
            "q" => self.filter.needles = Needle::parse(value).map_err(|error| error.to_string())?,
            "severity" => self.filter.severity = level(value)?,
            "since" => bounds.since = Some(when(value, now)?),
            "until" => bounds.until = Some(when(value, now)?),
            "limit" => {
                self.limit =
                    value.parse().map_err(|_| format!("`{value}` is not a number of records (0 = all)"))?;
            }
            _ => {
                self.order = match value {
                    "asc" => Order::Ascending,
                    "desc" if ask == Ask::Tail => {
                        return Err("what comes cannot be followed from its end (expected asc)".to_owned());
                    }
                    "desc" => Order::Descending,
                    _ => return Err(format!("`{value}` is no order (expected asc or desc)")),
                };
            }
        }
        Ok(())
    }
}

/// Gives each parameter of a URL's query to `set`; what it says, and what cannot be read, is added to `problems`.
pub fn each(query: &str, problems: &mut Vec<Problem>, mut set: impl FnMut(&str, &str) -> Result<(), String>) {
    let mut given = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key).unwrap_or_else(|| key.to_owned());
        let result = match decode(value) {
            None => Err("is not percent-encoded UTF-8".to_owned()),
            Some(_) if !given.insert(key.clone()) => Err("is given twice (expected once)".to_owned()),
            Some(value) => set(&key, &value),
        };
        problems.extend(result.err().map(|what| Problem { parameter: key, what }));
    }
}

fn level(value: &str) -> Result<u8, String> {
    let number = value.parse().ok().filter(|number| severity::name(*number).is_some());
    number.or_else(|| severity::number(value)).ok_or_else(|| {
        format!("`{value}` is no severity (expected trace, debug, info, warn, error, fatal, or 1 to 24)")
    })
}

/// `since` and `until` as they were given, Unix nanoseconds of any sign.
#[derive(Default)]
struct Bounds {
    since: Option<i128>,
    until: Option<i128>,
}

impl Bounds {
    /// What they mean for records, whose times are those of `u64`: 1970 to 2554.
    fn clamped(&self) -> (u64, u64) {
        let clamp = |time: i128| u64::try_from(time.max(0)).unwrap_or(u64::MAX);
        (self.since.map_or(0, clamp), self.until.map_or(u64::MAX, clamp))
    }
}

/// A time, or how long before `now`.
fn when(value: &str, now: u64) -> Result<i128, String> {
    if let Some(time) = time::parse_any(value) {
        return Ok(time);
    }
    let ago: Interval = value.parse().map_err(|_| {
        format!("`{value}` is no time (expected RFC 3339 such as 2026-01-31T12:00:00Z, or how long ago, such as 15m)")
    })?;
    Ok(i128::from(now).saturating_sub(i128::try_from(ago.0.as_nanos()).unwrap_or(i128::MAX)))
}

/// What other programs call them.
const SYNONYMS: [(&str, &str); 16] = [
    ("ns", "namespace"),
    ("k8s.namespace.name", "namespace"),
    ("k8s.pod.name", "pod"),
    ("k8s.container.name", "container"),
    ("k8s.node.name", "node"),
    ("host", "node"),
    ("level", "severity"),
    ("query", "q"),
    ("search", "q"),
    ("body", "q"),
    ("start", "since"),
    ("from", "since"),
    ("end", "until"),
    ("to", "until"),
    ("size", "limit"),
    ("direction", "order"),
];

/// That a parameter is not one of those that are known. Names the nearest where one is near: another word for it, or
/// few letters away.
pub fn unknown<'k>(key: &str, known: impl Iterator<Item = &'k &'k str> + Clone) -> String {
    let lower = key.to_lowercase();
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == lower).map(|(_, name)| *name);
    let synonym = synonym.filter(|name| known.clone().any(|own| own == name));
    let near = || {
        let (far, name) =
            known.clone().map(|name| (distance(name, &lower), *name)).min_by_key(|(far, _)| *far)?;
        (far <= name.len() / 3).then_some(name)
    };
    match synonym.or_else(near) {
        Some(name) => format!("is not known (did you mean `{name}`?)"),
        None => {
            let known: Vec<&str> = known.copied().collect();
            format!("is not known (expected one of {})", known.join(", "))
        }
    }
}

/// Edit distance (Levenshtein), of which only the first 64 bytes count.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), &b.as_bytes()[..b.len().min(64)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// `application/x-www-form-urlencoded` text; `None` where an escape is broken or the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000_000_000;

    #[test]
    fn all_parameters_are_read() {
        let query = "namespace=shop&pod=web%2D0&container=&severity=WARN&q=a+%22b%20c%22&since=15m\
                     &until=2027-01-15T08:00:00.5Z&limit=0&order=desc";
        let params = Params::parse(query, NOW, Ask::Records).unwrap();
        assert_eq!(params.filter.names, [None, None, Some("shop".into()), Some("web-0".into()), None]);
        assert_eq!(params.filter.needles, [Needle::Word("a".into()), Needle::Phrase("b c".into())]);
        assert_eq!((params.filter.since, params.filter.until), (NOW - 900_000_000_000, NOW + 500_000_000));
        assert_eq!((params.filter.severity, params.limit, params.order), (13, 0, Order::Descending));
        assert_eq!(Params::parse("", NOW, Ask::Records).unwrap().limit, 1000);
        assert_eq!(Params::parse("", NOW, Ask::Tail).unwrap().limit, 0);
    }

    #[test]
    fn every_problem_is_named() {
        let query = "namespce=a&severity=loud&q=%22x&since=yesterday&limit=-1&order=up&pod=%zz&node=a&node=b";
        let problems = Params::parse(query, NOW, Ask::Records).unwrap_err();
        let of: Vec<&str> = problems.iter().map(|problem| problem.parameter.as_str()).collect();
        assert_eq!(of, ["namespce", "severity", "q", "since", "limit", "order", "pod", "node"]);
        assert_eq!(problems[0].what, "is not known (did you mean `namespace`?)");
        let problems = Params::parse("since=1h&until=2h", NOW, Ask::Count).unwrap_err();
        assert_eq!(problems[0].parameter, "until");
    }

    #[test]
    fn a_bound_that_no_record_can_have_is_as_the_first_or_last_that_one_can() {
        for (query, bounds) in [
            ("since=1969-12-31T23:59:59Z&until=9999-12-31T23:59:59Z", (0, u64::MAX)),
            ("since=0000-01-01T00:00:00Z", (0, u64::MAX)),
            ("since=1900-01-01T00:00:00Z&until=1960-01-01T00:00:00Z", (0, 0)),
            ("since=2300-01-01T00:00:00Z", (10_413_792_000_000_000_000, u64::MAX)),
            ("since=3000-01-01T00:00:00Z", (u64::MAX, u64::MAX)),
            ("since=100000d", (0, u64::MAX)),
        ] {
            let filter = Params::parse(query, NOW, Ask::Count).unwrap().filter;
            assert_eq!((filter.since, filter.until), bounds, "{query}");
        }
        let problems =
            Params::parse("since=1960-01-01T00:00:00Z&until=1950-01-01T00:00:00Z", NOW, Ask::Count);
        assert_eq!(problems.unwrap_err()[0].parameter, "until");
    }

    #[test]
    fn an_unknown_parameter_gets_a_neighbour_only_where_one_is_near() {
        for (given, meant) in [
            ("Namespace", Some("namespace")),
            ("namespaces", Some("namespace")),
            ("ns", Some("namespace")),
            ("containr", Some("container")),
            ("level", Some("severity")),
            ("from", Some("since")),
            ("to", Some("until")),
            ("query", Some("q")),
            ("limits", Some("limit")),
            ("x", None),
            ("something", None),
            ("äöü", None),
        ] {
            let what = unknown(given, NAMES.iter().chain(&OTHERS));
            match meant {
                Some(name) => assert_eq!(what, format!("is not known (did you mean `{name}`?)"), "{given}"),
                None => assert!(what.starts_with("is not known (expected one of cluster, node, "), "{what}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query: String) {
            let _ = Params::parse(&query, NOW, Ask::Records);
        }
    }
}
