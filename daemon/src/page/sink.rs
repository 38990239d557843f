//! What sources say: families of rows, kept in a few flat buffers for the length of one scrape.

use std::borrow::Cow;
use std::collections::HashMap;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and starts again at 0 with the process that counts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Not known; node_exporter's netstat, for one.
    Untyped,
    /// Counts in buckets; rows come from [`Rows::histogram`].
    Histogram,
}

/// A value, written as it is: whole numbers without a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Unsigned.
    U64(u64),
    /// Signed.
    I64(i64),
    /// Seconds and ratios.
    F64(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::U64(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::U64(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::U64(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

/// Where sources put their families.
///
/// All families share the buffers: a scrape has some hundred families of a few rows each, and a buffer for each of them would
/// cost more than what is in it. A family's rows are a chain through `rows`, so that families may be filled in turn.
#[derive(Debug, Default)]
pub struct Sink {
    families: Vec<Head>,
    by_name: HashMap<Name, usize>,
    rows: Vec<Row>,
    /// Keys and values of all labels, one after another.
    text: String,
    /// Ends of keys and values in `text`, in half the room of a `usize`: a scrape has some hundred thousand.
    ends: Vec<u32>,
    sets: Vec<Pairs>,
    pub(super) refused: Vec<Name>,
}

type Name = Cow<'static, str>;

/// A family without its rows.
#[derive(Clone, Debug)]
struct Head {
    name: Name,
    help: Name,
    kind: Kind,
    /// Ends of its chain in `rows`; [`NONE`] where it has no row.
    first: u32,
    last: u32,
    rows: usize,
}

/// No row, no set.
const NONE: u32 = u32::MAX;

/// Labels in `ends`: the index of the first key's end, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
struct Pairs {
    first: u32,
    labels: u32,
}

#[derive(Debug)]
struct Row {
    cell: Cell,
    set: u32,
    own: Pairs,
    /// The next row of its family.
    next: u32,
}

/// Labels that many rows of one [`Sink`] begin with: kept, and written, once.
#[derive(Clone, Copy, Debug)]
pub struct LabelSet(u32);

/// A family, to be read.
#[derive(Clone, Copy, Debug)]
pub struct Family<'a> {
    sink: &'a Sink,
    head: &'a Head,
}

/// What a row says.
#[derive(Debug)]
pub enum Cell {
    /// A value.
    Plain(Value),
    /// Of a histogram.
    Buckets(Box<Buckets>),
}

/// A row of a histogram.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Of all that was counted.
    pub sum: f64,
    /// How many were counted.
    pub count: u64,
    /// Upper end, and the count in this bucket alone.
    pub each: Vec<(f64, u64)>,
}

/// How much a [`Sink`] held at an instant.
#[derive(Debug)]
pub(super) struct Mark {
    families: usize,
    rows: usize,
}

/// Takes the rows of one family.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `None`: the family was refused, and so are its rows.
    family: Option<(&'a mut Sink, usize)>,
}

impl Sink {
    /// With room for a node's families, so that it is not enlarged again and again.
    pub(super) fn with_room() -> Self {
        Self {
            families: Vec::with_capacity(512),
            by_name: HashMap::with_capacity(448),
            rows: Vec::with_capacity(1024),
            text: String::with_capacity(32 << 10),
            ends: Vec::with_capacity(4096),
            ..Self::default()
        }
    }

    /// A counter. Its name is written as it is given; ours end in `_total`.
    pub fn counter(&mut self, name: impl Into<Name>, help: impl Into<Name>) -> Rows<'_> {
        self.family(Kind::Counter, name, help)
    }

    /// A gauge.
    pub fn gauge(&mut self, name: impl Into<Name>, help: impl Into<Name>) -> Rows<'_> {
        self.family(Kind::Gauge, name, help)
    }

    /// A family of no known type.
    pub fn untyped(&mut self, name: impl Into<Name>, help: impl Into<Name>) -> Rows<'_> {
        self.family(Kind::Untyped, name, help)
    }

    /// A family by kind. One that is there already, from this source or another, gets the rows added and keeps its
    /// help; if it is of another kind, or the name is none, the rows are refused and a warning is logged.
    pub fn family(&mut self, kind: Kind, name: impl Into<Name>, help: impl Into<Name>) -> Rows<'_> {
        let name = name.into();
        match self.by_name.get(&name) {
            Some(at) if self.families.get(*at).is_some_and(|family| family.kind == kind) => {
                let at = *at;
                Rows { family: Some((self, at)) }
            }
            None if is_name(&name) => {
                let at = self.families.len();
                self.by_name.insert(name.clone(), at);
                self.families.push(Head { name, help: help.into(), kind, first: NONE, last: NONE, rows: 0 });
                Rows { family: Some((self, at)) }
            }
            _ => {
                self.refused.push(name);
                Rows { family: None }
            }
        }
    }

    /// Labels that many rows have in common; for [`Rows::row_of`] of this sink.
    pub fn labels<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> LabelSet {
        let set = self.sets.len();
        match (self.pairs(labels), index(set)) {
            (Some(pairs), Some(set)) => {
                self.sets.push(pairs);
                LabelSet(set)
            }
            _ => LabelSet(NONE),
        }
    }

    /// Keeps the text of labels; `None` where there is no room: four gigabytes.
    fn pairs<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> Option<Pairs> {
        let (first, begun) = (self.ends.len(), self.text.len());
        for piece in labels.into_iter().flat_map(|(key, value)| [key, value]) {
            self.text.push_str(piece);
            match index(self.text.len()) {
                Some(end) => self.ends.push(end),
                None => {
                    self.text.truncate(begun);
                    self.ends.truncate(first);
                    return None;
                }
            }
        }
        Some(Pairs { first: index(first)?, labels: index((self.ends.len() - first) / 2)? })
    }

    fn push(&mut self, family: usize, cell: Cell, set: u32, own: Pairs) {
        let (Some(at), Some(head)) = (index(self.rows.len()), self.families.get_mut(family)) else { return };
        match self.rows.get_mut(head.last as usize) {
            Some(last) => last.next = at,
            None => head.first = at,
        }
        (head.last, head.rows) = (at, head.rows + 1);
        self.rows.push(Row { cell, set, own, next: NONE });
    }

    /// Leaves out the families whose name `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.families.retain(|family| keep(&family.name));
        self.by_name =
            self.families.iter().enumerate().map(|(at, family)| (family.name.clone(), at)).collect();
    }

    /// Where it stands now.
    pub(super) fn mark(&self) -> Mark {
        Mark { families: self.families.len(), rows: self.rows.len() }
    }

    /// Takes out all that was put in since. Room for its labels is not given back.
    pub(super) fn back_to(&mut self, mark: &Mark) {
        for family in self.families.drain(mark.families..) {
            self.by_name.remove(&family.name);
        }
        self.rows.truncate(mark.rows);
        for family in &mut self.families {
            let chain =
                std::iter::successors(Some(family.first), |at| Some(self.rows.get(*at as usize)?.next));
            let there: Vec<u32> = chain.take_while(|at| (*at as usize) < mark.rows).collect();
            family.first = there.first().copied().unwrap_or(NONE);
            family.last = there.last().copied().unwrap_or(NONE);
            family.rows = there.len();
            if let Some(row) = self.rows.get_mut(family.last as usize) {
                row.next = NONE;
            }
        }
    }

    /// Adds all that `other` has.
    pub fn absorb(&mut self, mut other: Self) {
        if self.families.is_empty() && self.sets.is_empty() {
            other.refused.append(&mut self.refused);
            *self = other;
            return;
        }
        self.refused.append(&mut other.refused);
        let room = |ours: usize, theirs: usize| index(ours + theirs).and_then(|_| index(ours));
        let (Some(text), Some(ends), Some(sets)) = (
            room(self.text.len(), other.text.len()),
            room(self.ends.len(), other.ends.len()),
            room(self.sets.len(), other.sets.len()),
        ) else {
            return;
        };
        self.text.push_str(&other.text);
        self.ends.extend(other.ends.iter().map(|end| end + text));
        let moved = |pairs: Pairs| Pairs { first: pairs.first + ends, ..pairs };
        self.sets.extend(other.sets.iter().copied().map(moved));
        for family in other.families {
            let Some((into, at)) = self.family(family.kind, family.name, family.help).family else {
                continue;
            };
            let mut next = family.first;
            while let Some(row) = other.rows.get_mut(next as usize) {
                let cell = std::mem::replace(&mut row.cell, Cell::Plain(Value::U64(0)));
                let set = if row.set == NONE { NONE } else { row.set + sets };
                into.push(at, cell, set, moved(row.own));
                next = row.next;
            }
        }
    }

    /// Families in the order in which they came, those without rows too.
    pub fn families(&self) -> impl Iterator<Item = Family<'_>> {
        self.families.iter().map(|head| Family { sink: self, head })
    }

    /// Rows that were put in so far.
    pub fn rows(&self) -> usize {
        self.families.iter().map(|family| family.rows).sum()
    }

    /// The labels of each set, in the order of [`Family::parts`]' numbers.
    pub(super) fn sets(&self) -> impl Iterator<Item = Labels<'_>> {
        self.sets.iter().map(|pairs| self.read(*pairs))
    }

    fn read(&self, pairs: Pairs) -> Labels<'_> {
        let (first, labels) = (pairs.first as usize, pairs.labels as usize);
        let start = if first == 0 { 0 } else { self.ends[first - 1] as usize };
        Labels { text: &self.text, ends: &self.ends[first..first + labels * 2], start }
    }
}

/// Keys and values of labels.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    text: &'a str,
    ends: &'a [u32],
    start: usize,
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let [key, value, rest @ ..] = self.ends else { return None };
        let (key, value) = (*key as usize, *value as usize);
        let pair = (self.text.get(self.start..key)?, self.text.get(key..value)?);
        (self.ends, self.start) = (rest, value);
        Some(pair)
    }
}

impl<'a> Family<'a> {
    /// Its name, as classic text has it.
    pub fn name(self) -> &'a str {
        &self.head.name
    }

    /// Its help.
    pub fn help(self) -> &'a str {
        &self.head.help
    }

    /// Its type.
    pub fn kind(self) -> Kind {
        self.head.kind
    }

    /// How many rows it has.
    pub(super) fn count(self) -> usize {
        self.head.rows
    }

    /// Each row: keys and values of its labels, and what it says.
    pub fn rows(
        self,
    ) -> impl Iterator<Item = (std::iter::Chain<Labels<'a>, Labels<'a>>, &'a Cell)> + use<'a> {
        let sink = self.sink;
        self.parts().map(move |(set, own, cell)| {
            let set = set.and_then(|set| sink.sets.get(set)).copied().unwrap_or_default();
            (sink.read(set).chain(own), cell)
        })
    }

    /// Each row: the number of the set that it begins with, its other labels, and what it says.
    pub(super) fn parts(self) -> impl Iterator<Item = (Option<usize>, Labels<'a>, &'a Cell)> + use<'a> {
        let sink = self.sink;
        let row = |at: u32| sink.rows.get(at as usize);
        std::iter::successors(row(self.head.first), move |last| row(last.next)).map(move |row| {
            let set = (row.set != NONE).then_some(row.set as usize);
            (set, sink.read(row.own), &row.cell)
        })
    }
}

impl Rows<'_> {
    /// Adds a row. Labels are written in the order given; keys must be label names (letters, digits, `_`), values
    /// are any text and are escaped. An empty value is the same as no label, as everywhere in Prometheus.
    pub fn row<'l>(
        &mut self,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: impl Into<Value>,
    ) -> &mut Self {
        self.put(NONE, labels, Cell::Plain(value.into()))
    }

    /// Adds a row that begins with the labels of a set of the same sink.
    pub fn row_of<'l>(
        &mut self,
        set: LabelSet,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: impl Into<Value>,
    ) -> &mut Self {
        self.put(set.0, labels, Cell::Plain(value.into()))
    }

    /// Adds a row of a histogram: its sum, and for each bucket the upper end and the count in that bucket alone;
    /// the last bucket's end is infinity.
    pub fn histogram<'l>(
        &mut self,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        sum: f64,
        buckets: &[(f64, u64)],
    ) -> &mut Self {
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.put(NONE, labels, Cell::Buckets(Box::new(Buckets { sum, count, each: buckets.to_vec() })))
    }

    fn put<'l>(
        &mut self,
        set: u32,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        cell: Cell,
    ) -> &mut Self {
        let Some((sink, at)) = &mut self.family else { return self };
        let kind = sink.families.get(*at).map(|family| family.kind);
        if (kind == Some(Kind::Histogram)) == matches!(cell, Cell::Buckets(..))
            && let Some(own) = sink.pairs(labels)
        {
            sink.push(*at, cell, set, own);
        }
        self
    }
}

/// A place in a buffer; the last number is none.
fn index(at: usize) -> Option<u32> {
    u32::try_from(at).ok().filter(|at| *at != NONE)
}

/// Prometheus' data model: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
fn is_name(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    name.bytes().all(byte) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}
