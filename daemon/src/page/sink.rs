//! What sources say: families of rows, kept in a few flat buffers for the length of one scrape.

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
#[derive(Debug, Default)]
pub struct Sink {
    pub(super) families: Vec<Family>,
    by_name: HashMap<String, usize>,
    pub(super) refused: Vec<String>,
}

/// A family's rows, to be read.
#[derive(Debug)]
pub struct Family {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: Kind,
    pub(super) rows: Vec<Row>,
    /// Keys and values of all rows' labels, one after another.
    pub(super) text: String,
    /// Ends of keys and values in `text`, in half the room of a `usize`: a scrape has some hundred thousand.
    pub(super) ends: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Row {
    /// Index of its first label's key in `ends`.
    pub(super) first: usize,
    /// Number of labels.
    pub(super) labels: usize,
    pub(super) cell: Cell,
}

/// What a row says.
#[derive(Debug)]
pub enum Cell {
    /// A value.
    Plain(Value),
    /// Of a histogram: sum, count, and buckets (upper end, count in this bucket alone).
    Buckets(f64, u64, Vec<(f64, u64)>),
}

/// Takes the rows of one family.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `None`: the family was refused, and so are its rows.
    family: Option<&'a mut Family>,
}

impl Sink {
    /// A counter. Its name is written as it is given; ours end in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(Kind::Counter, name, help)
    }

    /// A gauge.
    pub fn gauge(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(Kind::Gauge, name, help)
    }

    /// A family of no known type.
    pub fn untyped(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(Kind::Untyped, name, help)
    }

    /// A family by kind. One that is there already, from this source or another, gets the rows added and keeps its
    /// help; if it is of another kind, or the name is none, the rows are refused and a warning is logged.
    pub fn family(&mut self, kind: Kind, name: &str, help: &str) -> Rows<'_> {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None if !is_name(name) => {
                self.refused.push(name.to_owned());
                return Rows { family: None };
            }
            None => {
                self.by_name.insert(name.to_owned(), self.families.len());
                self.families.push(Family::new(kind, name, help));
                self.families.len() - 1
            }
        };
        let family = self.families.get_mut(at).filter(|family| family.kind == kind);
        if family.is_none() {
            self.refused.push(name.to_owned());
        }
        Rows { family }
    }

    /// Leaves out the families whose name `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.families.retain(|family| keep(&family.name));
        self.by_name =
            self.families.iter().enumerate().map(|(at, family)| (family.name.clone(), at)).collect();
    }

    /// Adds all that `other` has.
    pub(super) fn absorb(&mut self, other: Self) {
        self.refused.extend(other.refused);
        for family in other.families {
            let rows = self.family(family.kind, &family.name, &family.help);
            if let Some(into) = rows.family {
                into.absorb(family);
            }
        }
    }

    /// Families in the order in which they came, those without rows too.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.iter()
    }

    /// Rows that were put in so far.
    pub fn rows(&self) -> usize {
        self.families.iter().map(|family| family.rows.len()).sum()
    }
}

impl Family {
    fn new(kind: Kind, name: &str, help: &str) -> Self {
        let (name, help) = (name.to_owned(), help.to_owned());
        Self { name, help, kind, rows: Vec::new(), text: String::new(), ends: Vec::new() }
    }

    fn absorb(&mut self, other: Self) {
        if self.rows.is_empty() {
            let help = std::mem::take(&mut self.help);
            *self = Self { help, ..other };
            return;
        }
        let (text, ends) = (self.text.len(), self.ends.len());
        let Some(text) = end_of(text + other.text.len()).and_then(|_| end_of(text)) else { return };
        self.text.push_str(&other.text);
        self.ends.extend(other.ends.iter().map(|end| end + text));
        self.rows.extend(other.rows.into_iter().map(|row| Row { first: row.first + ends, ..row }));
    }

    /// Its name, as classic text has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its help.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Each row: keys and values of its labels, and what it says.
    pub fn rows(&self) -> impl Iterator<Item = (impl Iterator<Item = (&str, &str)> + Clone, &Cell)> {
        self.rows.iter().map(|row| (self.labels(row), &row.cell))
    }

    /// The keys and values of a row.
    pub(super) fn labels(&self, row: &Row) -> impl Iterator<Item = (&str, &str)> + Clone {
        let mut start = if row.first == 0 { 0 } else { self.ends[row.first - 1] as usize };
        self.ends[row.first..row.first + row.labels * 2].chunks_exact(2).map(move |ends| {
            let (key, value) = (ends[0] as usize, ends[1] as usize);
            let pair = (&self.text[start..key], &self.text[key..value]);
            start = value;
            pair
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
        self.put(labels, Cell::Plain(value.into()))
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
        self.put(labels, Cell::Buckets(sum, count, buckets.to_vec()))
    }

    fn put<'l>(&mut self, labels: impl IntoIterator<Item = (&'l str, &'l str)>, cell: Cell) -> &mut Self {
        let Some(family) = &mut self.family else { return self };
        if (family.kind == Kind::Histogram) != matches!(cell, Cell::Buckets(..)) {
            return self;
        }
        let (first, begun) = (family.ends.len(), family.text.len());
        for piece in labels.into_iter().flat_map(|(key, value)| [key, value]) {
            family.text.push_str(piece);
            match end_of(family.text.len()) {
                Some(end) => family.ends.push(end),
                None => {
                    // Four gigabytes of labels: no such row.
                    family.text.truncate(begun);
                    family.ends.truncate(first);
                    return self;
                }
            }
        }
        let labels = (family.ends.len() - first) / 2;
        family.rows.push(Row { first, labels, cell });
        self
    }
}

fn end_of(length: usize) -> Option<u32> {
    u32::try_from(length).ok()
}

/// Prometheus' data model: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
fn is_name(name: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    name.bytes().all(byte) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}
