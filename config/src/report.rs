//! What is wrong with a policy, said once and well.
//!
//! A [`Report`] collects every finding of one policy: errors refuse it, lints do not. A finding
//! knows its place, so that the text form can show the line with a caret under it; the JSON form
//! is for machines. The report holds the texts it quotes and does no IO.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;

mod render;

/// A stretch of one line of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// Characters that are meant, at least one; never beyond the end of the line.
    pub length: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong or questionable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where; `None` where the whole policy is meant.
    pub place: Option<Place>,
    /// Path of the value, as `Store/store-0412 spec.links[0].capacity.up`; empty where unknown.
    pub path: String,
    /// What is wrong and what the operator can do, in lower case.
    pub message: String,
    /// Further places that belong to it, each with what it shows.
    pub related: Vec<(Place, String)>,
    /// The stores of a fleet for which it is said; nobody where that is not counted.
    pub stores: Box<Stores>,
}

/// Stores of a fleet: how many, and one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    /// How many.
    pub count: usize,
    /// The first by name.
    pub first: Arc<str>,
}

impl Stores {
    /// Counts `more` of them, the first of which is `first`.
    pub fn add(&mut self, more: usize, first: &Arc<str>) {
        if self.count == 0 || (more > 0 && *first < self.first) {
            self.first = first.clone();
        }
        self.count += more;
    }
}

impl Finding {
    /// A finding at `place`.
    pub fn new(place: Option<Place>, message: impl Into<String>) -> Self {
        Self {
            place,
            path: String::new(),
            message: message.into(),
            related: Vec::new(),
            stores: Box::default(),
        }
    }

    /// What kind of document it is about, where it is about one.
    pub fn kind(&self) -> Option<Kind> {
        Kind::by_name(self.path.split_once('/')?.0)
    }

    /// The same with the path of the value it is about.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The same with a second place, if it is known.
    #[must_use]
    pub fn related(mut self, place: Option<Place>, note: impl Into<String>) -> Self {
        if let Some(place) = place {
            self.related.push((place, note.into()));
        }
        self
    }

    fn to_json(&self) -> Value {
        let place = |place: &Place| {
            json!({"file": &*place.file, "line": place.line, "column": place.column,
                   "length": place.length})
        };
        let mut value = match &self.place {
            Some(here) => place(here),
            None => json!({}),
        };
        if !self.path.is_empty() {
            value["path"] = json!(self.path);
        }
        value["message"] = json!(self.message);
        if self.stores.count > 0 {
            value["stores"] = json!({"count": self.stores.count, "first": &*self.stores.first});
        }
        if !self.related.is_empty() {
            value["related"] = self
                .related
                .iter()
                .map(|(there, note)| {
                    let mut entry = place(there);
                    entry["message"] = json!(note);
                    entry
                })
                .collect();
        }
        value
    }
}

/// Everything that was found in one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Why the policy is refused; empty if it is not.
    pub errors: Vec<Finding>,
    /// What is allowed but probably not meant.
    pub lints: Vec<Finding>,
    sources: BTreeMap<Arc<str>, Arc<str>>,
}

impl Report {
    /// A report with one error that belongs to no place in a file.
    pub fn of_error(message: impl Into<String>) -> Self {
        let mut report = Self::default();
        report.errors.push(Finding::new(None, message));
        report
    }

    /// Keeps the text of `file` so that its lines can be shown.
    pub fn add_source(&mut self, file: Arc<str>, text: Arc<str>) {
        self.sources.insert(file, text);
    }

    /// Puts errors and lints in the order of their places.
    pub fn sort(&mut self) {
        self.errors.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.message.cmp(&b.message)));
        self.lints.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.message.cmp(&b.message)));
    }

    /// Everything that `other` holds, too.
    pub fn append(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.lints.extend(other.lints);
        self.sources.extend(other.sources);
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.lints.is_empty()
    }

    /// `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |number: usize, noun: &str| match number {
            1 => format!("1 {noun}"),
            _ => format!("{number} {noun}s"),
        };
        match (self.errors.len(), self.lints.len()) {
            (errors, 0) => count(errors, "error"),
            (0, lints) => count(lints, "warning"),
            (errors, lints) => format!("{}, {}", count(errors, "error"), count(lints, "warning")),
        }
    }

    /// The whole report as text, each finding with the line it is about and a caret.
    pub fn to_text(&self) -> String {
        render::text(self)
    }

    /// The whole report as JSON: `{"errors": […], "warnings": […]}`.
    pub fn to_json(&self) -> Value {
        json!({
            "errors": self.errors.iter().map(Finding::to_json).collect::<Vec<_>>(),
            "warnings": self.lints.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl std::error::Error for Report {}
