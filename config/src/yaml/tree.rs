//! The places of a document: every key and value with its line and column.
//!
//! The typed values say *what* a policy says; this tree says *where*. Semantic findings and the
//! origins of the effective config are looked up here by path, so that the types stay plain.
//! Built by a second pass over a text that the typed parser has already accepted within its
//! budgets. Aliases stay leaves: their place is the place of the alias.

use std::fmt;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{Chunk, DEPTH_MAX};
use crate::report::{Finding, Place};

/// A stretch of a line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// 1-based line of the file.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// In characters, at least one.
    pub length: u32,
}

impl Mark {
    /// As a place in `file`.
    pub fn in_file(self, file: &Arc<str>) -> Place {
        Place { file: file.clone(), line: self.line, column: self.column, length: self.length }
    }
}

/// A value of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A text, number, boolean or null.
    Scalar {
        /// Where.
        mark: Mark,
        /// After quotes and escapes.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A list.
    List {
        /// Where it starts.
        mark: Mark,
        /// Its items.
        items: Vec<Node>,
    },
    /// A mapping.
    Map {
        /// Where it starts.
        mark: Mark,
        /// Its entries: key, place of the key, value.
        entries: Vec<(String, Mark, Node)>,
    },
    /// `*name`.
    Alias {
        /// Where.
        mark: Mark,
    },
}

impl Node {
    /// Where the value stands, or starts.
    pub fn mark(&self) -> Mark {
        match self {
            Self::Scalar { mark, .. }
            | Self::List { mark, .. }
            | Self::Map { mark, .. }
            | Self::Alias { mark } => *mark,
        }
    }
}

/// One step of a path into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// A path as the messages write it: `spec.rules[2].name`.
pub(crate) struct Shown<'a>(pub(crate) &'a [Step]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The tree of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Node,
    simple: bool,
}

/// Values of a document beyond which the parser's own budgets have to be asked.
const SIMPLE_NODES_MAX: usize = 20_000;

impl Default for Tree {
    /// The places of a document without content.
    fn default() -> Self {
        let mark = Mark { line: 1, column: 1, length: 1 };
        Self { root: Node::Map { mark, entries: Vec::new() }, simple: false }
    }
}

impl Tree {
    /// Reads the places of `chunk`.
    ///
    /// # Errors
    /// A finding if the text is not YAML; the typed parser usually says it first and better.
    pub fn read(file: &Arc<str>, chunk: Chunk<'_>) -> Result<Self, Finding> {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(chunk.text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| {
                let marker = error.marker();
                let mark = mark_at(marker.line(), marker.col(), 1, chunk.lines_before);
                let message = "not valid YAML: check quotes, brackets and indentation here";
                Finding::new(Some(mark.in_file(file)), message)
            })?;
            builder.take(event, &span, chunk);
            if builder.open.len() > DEPTH_MAX {
                let message = "the document is nested too deeply: flatten it";
                return Err(Finding::new(Some(mark_of(&span, chunk).in_file(file)), message));
            }
        }
        let empty = Mark { line: chunk.lines_before + 1, column: 1, length: 1 };
        let root = builder.root.unwrap_or(Node::Map { mark: empty, entries: Vec::new() });
        let simple = !builder.marked && builder.nodes <= SIMPLE_NODES_MAX;
        Ok(Self { root, simple })
    }

    /// Whether the document has no tags, anchors and aliases, and no more values than any policy
    /// needs: then it can be read from here.
    pub(super) fn is_simple(&self) -> bool {
        self.simple
    }

    /// The whole document.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The value at `path`, if the document has it.
    pub fn find(&self, path: &[Step]) -> Option<&Node> {
        let (node, _, found) = self.walk(path);
        (found == path.len()).then_some(node)
    }

    /// Whether the document says something at `path`; what an alias stands for counts.
    pub fn says(&self, path: &[Step]) -> bool {
        let (node, _, found) = self.walk(path);
        found == path.len() || matches!(node, Node::Alias { .. })
    }

    /// The place of the value at `path`, or of the nearest thing around it that is there.
    /// A mapping or list is shown by its key; a mapping in a list by its first key.
    pub fn mark(&self, path: &[Step]) -> Mark {
        let (node, key, _) = self.walk(path);
        match (node, key) {
            (Node::Scalar { mark, .. } | Node::Alias { mark }, _) => *mark,
            (Node::List { .. } | Node::Map { .. }, Some(key)) => key,
            (Node::Map { entries, .. }, None) if !entries.is_empty() => entries[0].1,
            (Node::List { mark, .. } | Node::Map { mark, .. }, None) => *mark,
        }
    }

    /// The place of the key at the end of `path`, or of the nearest thing around it.
    pub(super) fn key_mark(&self, path: &[Step]) -> Mark {
        let (_, key, found) = self.walk(path);
        key.filter(|_| found == path.len()).unwrap_or_else(|| self.mark(path))
    }

    /// The same without what is at `path`; whether it was there.
    pub(super) fn leave_out(&mut self, path: &[Step]) -> bool {
        let Some((last, around)) = path.split_last() else { return false };
        let mut node = &mut self.root;
        for step in around {
            let next = match (node, step) {
                (Node::Map { entries, .. }, Step::Key(key)) => {
                    entries.iter_mut().find(|(name, ..)| name == key).map(|(.., value)| value)
                }
                (Node::List { items, .. }, Step::Index(index)) => items.get_mut(*index),
                _ => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        match (node, last) {
            (Node::Map { entries, .. }, Step::Key(key)) => {
                let at = entries.iter().position(|(name, ..)| name == key);
                at.map(|at| entries.remove(at)).is_some()
            }
            (Node::List { items, .. }, Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }

    /// The path of the value or key that starts at this line and column.
    pub fn path_at(&self, line: u32, column: u32) -> Option<Vec<Step>> {
        let mut path = Vec::new();
        find_at(&self.root, (line, column), &mut path).then_some(path)
    }

    fn walk(&self, path: &[Step]) -> (&Node, Option<Mark>, usize) {
        let mut node = &self.root;
        let mut key_mark = None;
        for (depth, step) in path.iter().enumerate() {
            let next = match (node, step) {
                (Node::Map { entries, .. }, Step::Key(key)) => entries
                    .iter()
                    .find(|(name, _, _)| name == key)
                    .map(|(_, mark, value)| (value, Some(*mark))),
                (Node::List { items, .. }, Step::Index(index)) => {
                    items.get(*index).map(|item| (item, None))
                }
                _ => None,
            };
            let Some((value, mark)) = next else {
                return (node, key_mark, depth);
            };
            node = value;
            key_mark = mark;
        }
        (node, key_mark, path.len())
    }
}

fn find_at(node: &Node, at: (u32, u32), path: &mut Vec<Step>) -> bool {
    let here = |mark: &Mark| (mark.line, mark.column) == at;
    match node {
        Node::Map { entries, .. } => {
            for (key, mark, value) in entries {
                path.push(Step::Key(key.clone()));
                if here(mark) || find_at(value, at, path) {
                    return true;
                }
                path.pop();
            }
        }
        Node::List { items, .. } => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                if find_at(item, at, path) {
                    return true;
                }
                path.pop();
            }
        }
        Node::Scalar { .. } | Node::Alias { .. } => {}
    }
    here(&node.mark())
}

fn mark_at(line: usize, column_from_zero: usize, length: usize, lines_before: u32) -> Mark {
    let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Mark {
        line: clamp(line).saturating_add(lines_before),
        column: clamp(column_from_zero).saturating_add(1),
        length: clamp(length).max(1),
    }
}

fn mark_of(span: &Span, chunk: Chunk<'_>) -> Mark {
    let one_line = span.start.line() == span.end.line();
    let length = if one_line { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    mark_at(span.start.line(), span.start.col(), length, chunk.lines_before)
}

/// Open containers; a mapping remembers the key whose value comes next.
enum Open {
    List(Mark, Vec<Node>),
    Map(Mark, Vec<(String, Mark, Node)>, Option<(String, Mark)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    /// There are tags, anchors or aliases, or more than one document.
    marked: bool,
}

impl Builder {
    #[expect(clippy::wildcard_enum_match_arm, reason = "other events carry no values")]
    fn take(&mut self, event: Event<'_>, span: &Span, chunk: Chunk<'_>) {
        let mark = mark_of(span, chunk);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.marked |= anchor != 0 || tag.is_some();
                let plain = style == ScalarStyle::Plain;
                self.put(Node::Scalar { mark, text: text.into_owned(), plain });
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.marked = true;
                self.put(Node::Alias { mark });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.marked |= anchor != 0 || tag.is_some();
                self.open.push(Open::List(mark, Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                self.marked |= anchor != 0 || tag.is_some();
                self.open.push(Open::Map(mark, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(mark, items)) => self.put(Node::List { mark, items }),
                Some(Open::Map(mark, entries, _)) => self.put(Node::Map { mark, entries }),
                None => {}
            },
            _ => {}
        }
    }

    fn put(&mut self, node: Node) {
        self.nodes += 1;
        match self.open.last_mut() {
            None => {
                self.marked |= self.root.is_some();
                self.root = Some(node);
            }
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, waiting)) => match waiting.take() {
                Some((key, mark)) => entries.push((key, mark, node)),
                None => {
                    let mark = node.mark();
                    let key = match node {
                        Node::Scalar { text, .. } => text,
                        Node::List { .. } | Node::Map { .. } | Node::Alias { .. } => String::new(),
                    };
                    *waiting = Some((key, mark));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Step {
        Step::Key(name.to_owned())
    }

    #[test]
    fn paths_and_places_belong_together() {
        let chunk = Chunk {
            text: "---\na:\n  b: &e [1, {c: \"x y\"}]\n  d: *e\n",
            lines_before: 10,
            start: 0,
        };
        let tree = Tree::read(&"f".into(), chunk).unwrap();
        let path = [key("a"), key("b"), Step::Index(1), key("c")];
        assert_eq!(tree.mark(&path), Mark { line: 13, column: 17, length: 5 });
        assert_eq!(tree.path_at(13, 17).unwrap(), path);
        assert_eq!(Shown(&path).to_string(), "a.b[1].c");
        // What is not there is shown by what is around it.
        assert_eq!(tree.mark(&[key("a"), key("b"), key("z")]).line, 13);
        assert_eq!(tree.find(&[key("a"), key("z")]), None);
        assert!(matches!(tree.find(&[key("a"), key("d")]), Some(Node::Alias { .. })));
    }
}
