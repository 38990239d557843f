//! From the text of a YAML document to its tree; mistakes are noted with their line and key, and what is before them stands.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::Finding;
use super::tree::{Content, Node, Style, join};

/// Nesting that is read; the deepest real key is at five.
const DEEPEST: usize = 32;

/// A document that was read.
pub(super) struct Parsed {
    pub(super) root: Node,
    /// The key at which a mistake ended it.
    pub(super) cut: Option<String>,
}

/// Reads the document. Mistakes are noted; `None`: nothing of it can be used.
pub(super) fn parse(text: &str, found: &mut Vec<Finding>) -> Option<Parsed> {
    let mut builder = Builder { open: Vec::new(), root: None, found };
    let mut cut = None;
    for step in Parser::new_from_str(text) {
        let read = match step {
            Ok((event, span)) => builder.on_event(event, span),
            Err(error) => {
                builder.broken(error.marker().line(), error.info(), text);
                None
            }
        };
        if read.is_none() {
            cut = Some(builder.path());
            builder.close();
            break;
        }
    }
    let empty = Content::Map(Vec::new());
    let root = builder.root.filter(|root| !root.is_null()).unwrap_or(Node::new(Some(1), empty));
    if matches!(root.content, Content::Map(_)) {
        return Some(Parsed { root, cut });
    }
    let (line, what) = (root.line, "holds no keys".to_owned());
    found.push(Finding { line, path: String::new(), what, expected: "`key: value` lines".to_owned() });
    None
}

struct Builder<'f> {
    open: Vec<Open>,
    root: Option<Node>,
    found: &'f mut Vec<Finding>,
}

enum Open {
    List(usize, Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    line: usize,
    entries: Vec<(String, Node)>,
    /// The keys so far, with their lines.
    lines: HashMap<String, usize>,
    /// The key that waits for its value.
    key: Option<String>,
}

impl Builder<'_> {
    /// `None`: nothing after this can be made sense of.
    fn on_event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let line = span.start.line();
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if anchor > 0 {
            self.note(line, "anchors (`&name`) are not supported", "the value in each place");
        }
        if tag {
            self.note(line, "tags (`!name`) are not supported", "the value alone");
        }
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                self.note(line, "starts a second document", "one document");
                None
            }
            Event::DocumentStart(_) => Some(()),
            Event::Alias(_) => {
                self.note(line, "aliases (`*name`) are not supported", "the value itself");
                self.put(line, Content::Scalar(String::new(), Style::Plain))
            }
            Event::Scalar(text, style, ..) => {
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                self.put(line, Content::Scalar(text.into_owned(), style))
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if self.wants_key() => {
                self.note(line, "a list or map is used as a key", "text");
                None
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if self.open.len() >= DEEPEST => {
                self.note(line, "is nested too deeply", "at most 32 levels");
                None
            }
            Event::SequenceStart(..) => {
                self.open.push(Open::List(line, Vec::new()));
                Some(())
            }
            Event::MappingStart(..) => {
                self.open.push(Open::Map(OpenMap { line, ..OpenMap::default() }));
                Some(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop()? {
                Open::List(line, list) => self.put(line, Content::List(list)),
                Open::Map(map) => self.put(map.line, Content::Map(map.entries)),
            },
        }
    }

    /// A mistake in the YAML itself.
    fn broken(&mut self, line: usize, info: &str, text: &str) {
        let tab = text.lines().nth(line.saturating_sub(1)).is_some_and(|line| {
            let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            indent.contains('\t')
        });
        if tab {
            self.note(line, "is indented with a tab", "spaces");
        } else {
            self.note(line, &format!("is not YAML: {info}"), "");
        }
    }

    /// Ends here: what is open holds what was read.
    fn close(&mut self) {
        while let Some(open) = self.open.pop() {
            let (line, content) = match open {
                Open::List(line, list) => (line, Content::List(list)),
                Open::Map(map) => (map.line, Content::Map(map.entries)),
            };
            if self.wants_key() || self.put(line, content).is_none() {
                return;
            }
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map(OpenMap { key: None, .. })))
    }

    fn put(&mut self, line: usize, content: Content) -> Option<()> {
        let node = Node::new(Some(line), content);
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, list)) => list.push(node),
            Some(Open::Map(map)) => match map.key.take() {
                Some(key) => match map.lines.get(&key) {
                    None => {
                        map.lines.insert(key.clone(), line);
                        map.entries.push((key, node));
                    }
                    Some(first) => {
                        let what = format!("is given twice, first in line {first}");
                        let path = join(&self.path(), &key);
                        let expected = "once".to_owned();
                        self.found.push(Finding { line: Some(line), path, what, expected });
                    }
                },
                None => match node.content {
                    Content::Scalar(name, style) if name == "<<" && style == Style::Plain => {
                        self.note(line, "merge keys (`<<`) are not supported", "the keys themselves");
                        return None;
                    }
                    Content::Scalar(name, _) => map.key = Some(name),
                    // Refused where it starts.
                    Content::List(_) | Content::Map(_) => return None,
                },
            },
        }
        Some(())
    }

    fn note(&mut self, line: usize, what: &str, expected: &str) {
        let (path, what, expected) = (self.path(), what.to_owned(), expected.to_owned());
        self.found.push(Finding { line: Some(line), path, what, expected });
    }

    /// The path of what comes next.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match open {
            Open::List(_, list) => format!("{path}[{}]", list.len()),
            Open::Map(OpenMap { key: Some(key), .. }) => join(&path, key),
            Open::Map(_) => path,
        })
    }
}
