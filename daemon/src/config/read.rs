//! From the tree to the caller's structs: a serde deserializer that knows the node it is at, and words for people.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::Finding;
use super::tree::{Content, Node, Plain, Style};

/// One try to read the whole tree.
pub(super) struct Attempt<T> {
    pub(super) result: Result<T, Fault>,
    pub(super) unknown: Vec<Unknown>,
}

/// The first node that could not be read.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) node: usize,
    pub(super) what: String,
    pub(super) expected: String,
}

/// A key that its section does not have.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) node: usize,
    key: String,
    known: &'static [&'static str],
}

/// Reads the tree. Unknown keys are noted and skipped.
pub(super) fn read<T: DeserializeOwned>(tree: &Node) -> Attempt<T> {
    let notes = Notes::default();
    let result = At { node: tree, notes: &notes }.read(PhantomData::<T>).map_err(|wrong| {
        let Wrong { what, expected } = wrong;
        notes.failed.take().unwrap_or(Fault { node: tree.id, what, expected })
    });
    Attempt { result, unknown: notes.unknown.take() }
}

#[derive(Default)]
struct Notes {
    failed: RefCell<Option<Fault>>,
    unknown: RefCell<Vec<Unknown>>,
}

impl Notes {
    /// The innermost node is noted first and stays.
    fn fail(&self, node: &Node, wrong: &Wrong) {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            let what = if wrong.what.is_empty() { does_not_fit(node) } else { wrong.what.clone() };
            *failed = Some(Fault { node: node.id, what, expected: wrong.expected.clone() });
        }
    }
}

impl Unknown {
    pub(super) fn finding(&self, tree: &Node) -> Finding {
        let place = tree.locate(self.node);
        let expected = match self.known {
            [] => "no keys here".to_owned(),
            [one] => (*one).to_owned(),
            many => format!("one of {}", many.join(", ")),
        };
        let nearest =
            self.known.iter().map(|known| (distance(&self.key, known), *known)).min_by_key(|(far, _)| *far);
        let what = match (nearest, tree.path_of_key(&self.key, "")) {
            (Some((far, _)), Some(path)) if far > 1 => format!("unknown key here, but there is `{path}`"),
            (Some((_, nearest)), _) => format!("unknown key, the nearest known one is `{nearest}`"),
            (None, _) => "unknown key".to_owned(),
        };
        Finding { line: place.line, path: place.path, what, expected }
    }
}

/// Edits between two keys: letters put in, left out, replaced, or swapped with the next.
fn distance(left: &str, right: &str) -> usize {
    // Longer than any key of ours, and the work is bounded.
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut least = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

/// What a deserializer of ours says; where is noted beside.
#[derive(Debug)]
struct Wrong {
    what: String,
    expected: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (expected {})", self.what, self.expected)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        // `#[serde(expecting = "expected …")]` of untagged enums comes as the whole message.
        match message.strip_prefix("expected ") {
            Some(expected) => Self { what: String::new(), expected: expected.to_owned() },
            None => match message.strip_suffix(')').and_then(|text| text.split_once(" (expected ")) {
                Some((what, expected)) => Self { what: what.to_owned(), expected: expected.to_owned() },
                None => Self { what: message, expected: String::new() },
            },
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self { what: String::new(), expected: words(expected) }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self { what: String::new(), expected: words(expected) }
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self {
            what: format!("`{}` is not known", short(variant)),
            expected: format!("one of {}", known.join(", ")),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { what: format!("has no key `{field}`"), expected: "it to be given".to_owned() }
    }
}

/// What serde's visitors expect, in people's words.
fn words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" | "a borrowed string" | "a character" => "text".to_owned(),
        "path string" => "a path".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "`key: value` lines".to_owned(),
        "unit" | "option" => "nothing or a value".to_owned(),
        other if other.starts_with("struct ") => "`key: value` lines".to_owned(),
        other if other.starts_with("enum ") => "one word".to_owned(),
        _ => text,
    }
}

fn does_not_fit(node: &Node) -> String {
    match &node.content {
        _ if node.is_null() => "no value is given".to_owned(),
        Content::Scalar(text, _) => format!("`{}` does not fit", short(text)),
        Content::List(_) => "a list is given".to_owned(),
        Content::Map(_) => "keys are given".to_owned(),
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A deserializer at a node.
#[derive(Clone, Copy)]
struct At<'t> {
    node: &'t Node,
    notes: &'t Notes,
}

impl<'t> At<'t> {
    fn wrong<T>(self, expected: &dyn Expected) -> Result<T, Wrong> {
        Err(Wrong { what: does_not_fit(self.node), expected: words(expected) })
    }

    /// The text of a scalar that is not nothing.
    fn text(self) -> Option<&'t str> {
        match &self.node.content {
            Content::Scalar(text, _) if !self.node.is_null() => Some(text),
            _ => None,
        }
    }

    fn read<V: DeserializeSeed<'t>>(self, seed: V) -> Result<V::Value, Wrong> {
        seed.deserialize(self).inspect_err(|wrong| self.notes.fail(self.node, wrong))
    }

    fn entries<V: Visitor<'t>>(self, keep: Vec<&'t (String, Node)>, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(Entries { rest: keep.into_iter(), value: None, notes: self.notes })
    }
}

macro_rules! number {
    ($($method:ident $kind:ty => $visit:ident;)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.text().and_then(|text| text.parse::<$kind>().ok()) {
                Some(value) => visitor.$visit(value),
                None => self.wrong(&visitor),
            }
        }
    )*};
}

macro_rules! text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.text() {
                Some(text) => visitor.visit_str(text),
                None => self.wrong(&visitor),
            }
        }
    )*};
}

impl<'t> Deserializer<'t> for At<'t> {
    type Error = Wrong;

    number! {
        deserialize_u8 u8 => visit_u8; deserialize_u16 u16 => visit_u16;
        deserialize_u32 u32 => visit_u32; deserialize_u64 u64 => visit_u64;
        deserialize_i8 i8 => visit_i8; deserialize_i16 i16 => visit_i16;
        deserialize_i32 i32 => visit_i32; deserialize_i64 i64 => visit_i64;
        deserialize_f32 f32 => visit_f32; deserialize_f64 f64 => visit_f64;
    }

    text! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.content {
            Content::List(_) => self.deserialize_seq(visitor),
            Content::Map(_) => self.deserialize_map(visitor),
            Content::Scalar(text, Style::Quoted) => visitor.visit_str(text),
            Content::Scalar(text, style) => match Plain::of(text) {
                Plain::Null if *style == Style::Plain => visitor.visit_unit(),
                Plain::Null | Plain::Text => visitor.visit_str(text),
                Plain::Bool(value) => visitor.visit_bool(value),
                Plain::Unsigned(value) => visitor.visit_u64(value),
                Plain::Signed(value) => visitor.visit_i64(value),
                Plain::Float(value) => visitor.visit_f64(value),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.text().map(Plain::of) {
            Some(Plain::Bool(value)) => visitor.visit_bool(value),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.node.is_null() { visitor.visit_unit() } else { self.wrong(&visitor) }
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.content {
            Content::List(list) => visitor.visit_seq(Items { rest: list.iter(), notes: self.notes }),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.content {
            Content::Map(map) => self.entries(map.iter().collect(), visitor),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let Content::Map(map) = &self.node.content else { return self.wrong(&visitor) };
        let mut keep = Vec::with_capacity(map.len());
        for entry in map {
            let (key, node) = entry;
            if !known.contains(&key.as_str()) {
                self.notes.unknown.borrow_mut().push(Unknown { node: node.id, key: key.clone(), known });
            } else if !node.is_null() {
                keep.push(entry);
            }
        }
        self.entries(keep, visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.text() {
            Some(text) => visitor.visit_enum(Word(text)),
            None => {
                Err(Wrong { what: does_not_fit(self.node), expected: format!("one of {}", known.join(", ")) })
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }
}

struct Items<'t> {
    rest: std::slice::Iter<'t, Node>,
    notes: &'t Notes,
}

impl<'t> SeqAccess<'t> for Items<'t> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        At { node, notes: self.notes }.read(seed).map(Some)
    }
}

struct Entries<'t> {
    rest: std::vec::IntoIter<&'t (String, Node)>,
    value: Option<&'t Node>,
    notes: &'t Notes,
}

impl<'t> MapAccess<'t> for Entries<'t> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(node);
        let name: StrDeserializer<'_, Wrong> = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).inspect_err(|wrong| self.notes.fail(node, wrong))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        match self.value.take() {
            Some(node) => At { node, notes: self.notes }.read(seed),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// An enum of words: variants without content.
struct Word<'t>(&'t str);

impl<'t> EnumAccess<'t> for Word<'t> {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Wrong> {
        let name: StrDeserializer<'_, Wrong> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'t> VariantAccess<'t> for Word<'t> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, _: S) -> Result<S::Value, Wrong> {
        Err(de::Error::custom("variants with content are not supported"))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("variants with content are not supported"))
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("variants with content are not supported"))
    }
}
