//! Parameters of lists and histories.
//!
//! `cluster`, `node`, `namespace`: equal to; of a history also `pod` and `container`. `q`: words that must all occur in
//! the names or the state, in any case. `problem=true`: only pods that are not well. `sort`: a column; `order`: `asc` or
//! `desc` (default: names ascending, numbers descending). `limit`: most rows, default 100, at most 1000; `offset`: rows
//! that are passed over. `points`: values of each graph, 0 (default) to 360; `span`: how far back they go, `15m` by
//! default, an hour at most.

use crate::api::params::{Problem, each, unknown};
use crate::metrics::ring::{SLOTS, STEP};
use sonde_daemon::units::Interval;

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes.
    Nodes,
    /// Namespaces.
    Namespaces,
    /// Pods.
    Pods,
    /// No list, the history of one thing.
    History,
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Namespace and name.
    Name,
    /// Those that are not well first.
    State,
    /// Restarts.
    Restarts,
    /// CPU in use.
    Cpu,
    /// Memory in use.
    Memory,
    /// Received and sent.
    Network,
    /// How long it has run.
    Age,
    /// Pods.
    Pods,
    /// The node's name.
    Node,
}

const SORTS: [(&str, Sort); 9] = [
    ("name", Sort::Name),
    ("state", Sort::State),
    ("restarts", Sort::Restarts),
    ("cpu", Sort::Cpu),
    ("memory", Sort::Memory),
    ("network", Sort::Network),
    ("age", Sort::Age),
    ("pods", Sort::Pods),
    ("node", Sort::Node),
];

/// A question.
#[derive(Debug)]
pub struct Ask {
    /// What is asked for.
    pub kind: Kind,
    /// Only of this cluster.
    pub cluster: Option<String>,
    /// Only of this node.
    pub node: Option<String>,
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// This pod.
    pub pod: Option<String>,
    /// This container.
    pub container: Option<String>,
    /// Words, in lower case.
    pub words: Vec<String>,
    /// Only what is not well.
    pub problem: bool,
    /// The column.
    pub sort: Sort,
    /// The largest first.
    pub descending: bool,
    /// Most rows.
    pub limit: usize,
    /// Rows that are passed over.
    pub offset: usize,
    /// Values of each graph.
    pub points: usize,
    /// Slots that each value is the average of.
    pub slots: usize,
}

/// Most rows of an answer.
const MOST_ROWS: usize = 1000;

impl Ask {
    /// Reads a URL's query. All problems are given.
    pub fn parse(query: &str, kind: Kind) -> Result<Self, Vec<Problem>> {
        let mut ask = Self {
            kind,
            cluster: None,
            node: None,
            namespace: None,
            pod: None,
            container: None,
            words: Vec::new(),
            problem: false,
            sort: Sort::Name,
            descending: false,
            limit: 100,
            offset: 0,
            points: 0,
            slots: 1,
        };
        let (mut span, mut order, mut problems) = (900, None, Vec::new());
        each(query, &mut problems, |key, value| ask.set(key, value, &mut span, &mut order));
        let named = matches!(ask.sort, Sort::Name | Sort::Node);
        ask.descending = order.unwrap_or(!named);
        let slots = usize::try_from(span / STEP).unwrap_or(SLOTS).clamp(1, SLOTS);
        ask.points = ask.points.min(slots);
        ask.slots = if ask.points > 0 { slots.div_ceil(ask.points) } else { 1 };
        if kind == Kind::History && problems.is_empty() {
            let what = match (&ask.node, &ask.namespace, &ask.pod, &ask.container) {
                (_, None, Some(_), _) => Some(("namespace", "is missing: a pod is named with its namespace")),
                (_, _, None, Some(_)) => Some(("pod", "is missing: a container is named with its pod")),
                (None, None, None, None) => {
                    Some(("node", "is missing (expected a node, a namespace, or a pod)"))
                }
                _ => None,
            };
            problems.extend(
                what.map(|(name, what)| Problem { parameter: name.to_owned(), what: what.to_owned() }),
            );
        }
        if problems.is_empty() { Ok(ask) } else { Err(problems) }
    }

    fn set(
        &mut self,
        key: &str,
        value: &str,
        span: &mut u64,
        order: &mut Option<bool>,
    ) -> Result<(), String> {
        const NAMES: [&str; 5] = ["cluster", "node", "namespace", "pod", "container"];
        const OTHERS: [&str; 8] = ["q", "problem", "sort", "order", "limit", "offset", "points", "span"];
        let (names, others) = match self.kind {
            Kind::History => (&NAMES[..], &[][..]),
            _ => (&NAMES[..3], &OTHERS[..]),
        };
        if !names.contains(&key) && !others.contains(&key) {
            return Err(unknown(key, names.iter().chain(others)));
        }
        if value.is_empty() {
            return Ok(());
        }
        let count = |most: usize| {
            let number = value.parse().ok().filter(|number| *number <= most);
            number.ok_or_else(|| format!("`{value}` is no number from 0 to {most}"))
        };
        let text = || Some(value.to_owned());
        match key {
            "cluster" => self.cluster = text(),
            "node" => self.node = text(),
            "namespace" => self.namespace = text(),
            "pod" => self.pod = text(),
            "container" => self.container = text(),
            "q" => self.words = value.split_whitespace().map(str::to_lowercase).collect(),
            "problem" => {
                self.problem = value.parse().map_err(|_| format!("`{value}` is neither true nor false"))?;
            }
            "sort" => {
                let known = SORTS.iter().find(|(name, _)| *name == value).map(|(_, sort)| *sort);
                let names = || SORTS.map(|(name, _)| name).join(", ");
                self.sort = known.ok_or_else(|| format!("`{value}` is no column (expected {})", names()))?;
            }
            "order" => {
                *order = Some(match value {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(format!("`{value}` is no order (expected asc or desc)")),
                });
            }
            "limit" => self.limit = count(MOST_ROWS)?,
            "offset" => self.offset = count(usize::MAX)?,
            "points" => self.points = count(SLOTS)?,
            _ => {
                let interval: Interval =
                    value.parse().map_err(|_| format!("`{value}` is no time such as 15m"))?;
                *span = interval.0.as_secs();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_parameters_are_read() {
        let ask = Ask::parse(
            "namespace=shop&node=n%201&q=Web+A&problem=true&sort=cpu&limit=5&offset=10&points=90&span=1h",
            Kind::Pods,
        )
        .unwrap();
        assert_eq!((ask.namespace.as_deref(), ask.node.as_deref()), (Some("shop"), Some("n 1")));
        assert_eq!(ask.words, ["web", "a"]);
        assert_eq!((ask.problem, ask.sort, ask.descending), (true, Sort::Cpu, true));
        assert_eq!((ask.limit, ask.offset, ask.points, ask.slots), (5, 10, 90, 4));
        let ask = Ask::parse("points=90", Kind::Nodes).unwrap();
        assert_eq!((ask.points, ask.slots, ask.descending), (90, 1, false));
        assert!(Ask::parse("pod=a&namespace=b&container=c", Kind::History).is_ok());
    }

    #[test]
    fn every_problem_is_named() {
        let bad = "nmespace=a&sort=size&order=up&limit=1001&points=-1&span=long&pod=a&problem=maybe";
        let problems = Ask::parse(bad, Kind::Pods).unwrap_err();
        let of: Vec<&str> = problems.iter().map(|problem| problem.parameter.as_str()).collect();
        assert_eq!(of, ["nmespace", "sort", "order", "limit", "points", "span", "pod", "problem"]);
        assert_eq!(problems[0].what, "is not known (did you mean `namespace`?)");
        for (query, name) in
            [("", "node"), ("pod=a", "namespace"), ("namespace=a&container=b", "pod"), ("sort=cpu", "sort")]
        {
            assert_eq!(Ask::parse(query, Kind::History).unwrap_err()[0].parameter, name, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query: String) {
            let _ = Ask::parse(&query, Kind::Pods);
        }
    }
}
