//! A YAML document as a tree whose nodes know their lines.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::parse::parse;

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Its number in the tree, see [`Node::number`].
    pub(super) id: usize,
    /// Its line, from 1; `None` = a default.
    pub(super) line: Option<usize>,
    /// Whether the defaults have it too.
    known: bool,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(String, Style),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// How a scalar was written: what it may be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: nothing, a number, true or false, or text.
    Plain,
    /// In quotes: text, where the kind is not known from the key.
    Quoted,
    /// With something from the environment: never nothing.
    Expanded,
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) line: Option<usize>,
}

impl Node {
    pub(super) fn new(line: Option<usize>, content: Content) -> Self {
        Self { id: 0, line, known: false, content }
    }

    /// The tree of a value, as its YAML says it.
    pub(super) fn of<T: Serialize>(value: &T) -> Result<Self, String> {
        let text = print(value)?;
        let mut found = Vec::new();
        let tree = parse(&text, &mut found).map(|parsed| parsed.root);
        tree.filter(|_| found.is_empty()).ok_or_else(|| {
            found.first().map_or_else(String::new, |finding| format!("{}: {}", finding.path, finding.what))
        })
    }

    pub(super) fn print(&self) -> Result<String, String> {
        print(self)
    }

    /// Nothing: `key:`, `~`, `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(text, Style::Plain)
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Makes this the tree of the defaults.
    pub(super) fn become_default(&mut self) {
        self.line = None;
        self.known = true;
        self.each_child(&mut Self::become_default);
    }

    /// Gives every node its number.
    pub(super) fn number(&mut self) {
        fn walk(node: &mut Node, next: &mut usize) {
            node.id = *next;
            *next += 1;
            node.each_child(&mut |child| walk(child, next));
        }
        walk(self, &mut 0);
    }

    /// Lays `over` on this tree: maps key by key, all else is replaced. Nothing leaves what is there.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.content, over.content) {
            (Content::Map(mine), Content::Map(theirs)) => {
                self.line = over.line;
                // The keys of one map differ, so what is pushed is not looked for.
                let known = mine.len();
                for (key, value) in theirs {
                    match mine[..known].iter_mut().find(|(known, _)| *known == key) {
                        Some((_, known)) if value.is_null() => known.line = value.line,
                        Some((_, known)) => known.merge(value),
                        None => mine.push((key, value)),
                    }
                }
            }
            (_, content) => *self = Self { id: 0, line: over.line, known: self.known, content },
        }
    }

    /// Takes the node with this number out. `false`: it is the root, or not there.
    pub(super) fn remove(&mut self, id: usize) -> bool {
        match &mut self.content {
            Content::Scalar(..) => false,
            Content::List(list) => {
                let before = list.len();
                list.retain(|child| child.id != id);
                list.len() < before || list.iter_mut().any(|child| child.remove(id))
            }
            Content::Map(map) => {
                let before = map.len();
                map.retain(|(_, child)| child.id != id);
                map.len() < before || map.iter_mut().any(|(_, child)| child.remove(id))
            }
        }
    }

    /// Calls `edit` with every scalar.
    pub(super) fn each_text(&mut self, edit: &mut impl FnMut(&mut String, &mut Style)) {
        if let Content::Scalar(text, style) = &mut self.content {
            edit(text, style);
        }
        self.each_child(&mut |child| child.each_text(edit));
    }

    fn each_child(&mut self, walk: &mut impl FnMut(&mut Self)) {
        match &mut self.content {
            Content::Scalar(..) => {}
            Content::List(list) => list.iter_mut().for_each(walk),
            Content::Map(map) => map.iter_mut().for_each(|(_, child)| walk(child)),
        }
    }

    /// Path and line of the node with this number; a default has the line of what it is in.
    pub(super) fn locate(&self, id: usize) -> Place {
        let mut place = Place::default();
        self.find(id, &mut place);
        place
    }

    fn find(&self, id: usize, place: &mut Place) -> bool {
        let outer = place.clone();
        place.line = self.line.or(place.line);
        if self.id == id {
            return true;
        }
        let found = match &self.content {
            Content::Scalar(..) => false,
            // Numbers go up in the tree's order, so the child is the last that does not come after.
            Content::List(list) => {
                let at = list.partition_point(|child| child.id <= id).wrapping_sub(1);
                list.get(at).is_some_and(|child| {
                    place.path = format!("{}[{at}]", place.path);
                    child.find(id, place)
                })
            }
            Content::Map(map) => {
                let at = map.partition_point(|(_, child)| child.id <= id).wrapping_sub(1);
                map.get(at).is_some_and(|(key, child)| {
                    place.path = join(&place.path, key);
                    child.find(id, place)
                })
            }
        };
        if !found {
            *place = outer;
        }
        found
    }

    /// The line of a path, or of the deepest part of it that is in the file.
    pub(super) fn line_of(&self, path: &str) -> Option<usize> {
        let (node, _) = self.at(path);
        self.locate(node.id).line
    }

    /// Whether the file itself, not the defaults, has a value at this path.
    pub(super) fn has_line(&self, path: &str) -> bool {
        let (node, rest) = self.at(path);
        rest.is_empty() && node.line.is_some()
    }

    /// What a path of this tree is called in `whole`, of which this one is a part: places in lists may differ.
    pub(super) fn path_in(&self, whole: &Self, path: &str) -> String {
        let (node, rest) = self.at(path);
        let mut path = whole.locate(node.id).path;
        if path.is_empty() {
            return rest.strip_prefix('.').unwrap_or(rest).to_owned();
        }
        path.push_str(rest);
        path
    }

    /// The deepest node on a path, and what of the path is left.
    fn at<'a>(&self, path: &'a str) -> (&Self, &'a str) {
        let next = match &self.content {
            Content::Scalar(..) => None,
            Content::List(list) => path.strip_prefix('[').and_then(|rest| {
                let (index, rest) = rest.split_once(']')?;
                Some((list.get(index.parse::<usize>().ok()?)?, rest))
            }),
            Content::Map(map) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                // Keys may hold dots themselves: the longest that fits.
                let fits = map.iter().filter_map(|(key, child)| {
                    let rest = path.strip_prefix(key.as_str())?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some((child, rest))
                });
                fits.min_by_key(|(_, rest)| rest.len())
            }
        };
        next.map_or((self, path), |(child, rest)| child.at(rest))
    }

    /// The path of the first key with this name that the defaults have, wherever it is.
    pub(super) fn path_of_key(&self, name: &str, path: &str) -> Option<String> {
        let Content::Map(map) = &self.content else { return None };
        let mut known = map.iter().filter(|(_, child)| child.known);
        known.find_map(|(key, child)| {
            let path = join(path, key);
            if key == name { Some(path) } else { child.path_of_key(name, &path) }
        })
    }
}

/// The path of a key below a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn print<T: Serialize>(value: &T) -> Result<String, String> {
    let mut options = serde_saphyr::ser_options! {};
    // One line a value: a folded one cannot be searched for.
    options.prefer_block_scalars = false;
    serde_saphyr::to_string_with_options(value, options).map_err(|error| error.to_string())
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.content {
            Content::Scalar(text, Style::Plain) => match Plain::of(text) {
                Plain::Null => to.serialize_unit(),
                Plain::Bool(value) => to.serialize_bool(value),
                Plain::Unsigned(value) => to.serialize_u64(value),
                Plain::Signed(value) => to.serialize_i64(value),
                Plain::Float(value) => to.serialize_f64(value),
                Plain::Text => to.serialize_str(text),
            },
            Content::Scalar(text, _) => to.serialize_str(text),
            Content::List(list) => {
                let mut seq = to.serialize_seq(Some(list.len()))?;
                for child in list {
                    seq.serialize_element(child)?;
                }
                seq.end()
            }
            Content::Map(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, child) in entries {
                    map.serialize_entry(key, child)?;
                }
                map.end()
            }
        }
    }
}

/// What a scalar without quotes is where the key does not say it (YAML 1.2, core schema, decimal numbers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Plain {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let numeric = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        if !text.chars().all(numeric) || !text.contains(|c: char| c.is_ascii_digit()) {
            return Self::Text;
        }
        if let Ok(value) = text.parse() {
            return Self::Unsigned(value);
        }
        if let Ok(value) = text.parse() {
            return Self::Signed(value);
        }
        text.parse().map_or(Self::Text, Self::Float)
    }
}
