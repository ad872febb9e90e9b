//! Documents: from the text of a file to typed values that know their places.
//!
//! The envelope is read first, then the typed document from the same text, so that every error
//! has file, line and column. A document is either read completely or refused with everything that
//! is wrong with it; the others of the file are read all the same.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::compile::{Identity, Input};
use crate::effective::Origin;
use crate::kinds::{API_VERSION, Kind, StoreSelector};
use crate::report::{Finding, Place, Report};
use crate::scalar::{Name, Text as _};
use crate::suggest;
use crate::yaml::mistakes::Mistake;
use crate::yaml::{self, Chunk, Node, Step, Tree};

mod body;

pub use body::Body;
pub(crate) use body::schema;

/// One document of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `None` for the built-in ones.
    file: Option<Arc<str>>,
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub body: Body,
    /// The text of its whole file.
    source: Arc<str>,
    /// Where its own text begins and ends there.
    range: (usize, usize),
    lines_before: u32,
    /// The places of its values; read again when somebody asks after they were forgotten.
    tree: OnceLock<Tree>,
}

/// The envelope, before the kind is known. Strict too: a `piVersion` must not make a document
/// disappear.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read to know that they are there and well formed")]
struct Envelope {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    metadata: IgnoredAny,
    spec: IgnoredAny,
}

/// Reads every document of `text`. What is wrong goes into `report`, which also keeps the text.
pub fn read(file: &str, text: &str, report: &mut Report) -> Input {
    let mut input = Input { file: file.to_owned(), ..Input::default() };
    let file: Arc<str> = file.into();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > yaml::INPUT_BYTES_MAX {
        report.errors.push(Finding::new(
            None,
            format!(
                "{file} has {} bytes, more than the {} that a policy may have: split it, or remove \
                 what is generated",
                text.len(),
                yaml::INPUT_BYTES_MAX
            ),
        ));
        input.refused.push((None, None));
        return input;
    }
    let source: Arc<str> = text.into();
    report.add_source(file.clone(), source.clone());
    for chunk in yaml::split(&source) {
        match one(&file, &source, chunk) {
            Ok(document) => {
                let bad = document.misshapen();
                if bad.is_empty() {
                    input.documents.push(document);
                } else {
                    input.refused.push((Some(document.kind), Some(document.name.to_string())));
                }
                report.errors.extend(bad);
            }
            Err(findings) => {
                input.refused.push(identity(&file, chunk));
                report.errors.extend(findings);
            }
        }
    }
    input
}

/// Kind and name of a document that was refused, as far as they can be read.
fn identity(file: &Arc<str>, chunk: Chunk<'_>) -> Identity {
    let Ok(tree) = Tree::read(file, chunk) else { return (None, None) };
    let name = text_at(&tree, &["metadata", "name"]).filter(|name| Name::read(name).is_ok());
    (text_at(&tree, &["kind"]).and_then(Kind::by_name), name.map(str::to_owned))
}

/// Reads the built-in documents.
///
/// # Panics
/// If they are wrong; a test reads them.
pub(crate) fn read_built_in(text: &str) -> Vec<Document> {
    let mut report = Report::default();
    let mut input = read("built-in", text, &mut report);
    assert!(report.errors.is_empty(), "the built-in documents are valid: {report}");
    for document in &mut input.documents {
        document.file = None;
    }
    input.documents
}

/// Reads one document. The places come first, because they tell the kind; if the typed reading
/// fails, the envelope's own error counts before that of what is in it, and whatever else is wrong
/// is told with it.
fn one(file: &Arc<str>, source: &Arc<str>, chunk: Chunk<'_>) -> Result<Document, Vec<Finding>> {
    let only = |finding| vec![finding];
    yaml::no_tabs(file, chunk).map_err(only)?;
    let envelope = || yaml::typed::<Envelope>(file, chunk);
    let tree = match Tree::read(file, chunk) {
        Ok(tree) => tree,
        Err(finding) => return Err(only(envelope().err().unwrap_or(finding))),
    };
    let kind = text_at(&tree, &["kind"]).and_then(Kind::by_name);
    let (Some(kind), Some(API_VERSION)) = (kind, text_at(&tree, &["apiVersion"])) else {
        return Err(only(unreadable(file, &tree, &envelope().map_err(only)?)));
    };
    let body = body::from_places(kind, &tree).map_or_else(|| body::read(kind, file, chunk), Ok);
    let body = body.map_err(|finding| {
        let first = envelope().err().unwrap_or_else(|| with_path(finding, kind, &tree));
        let mut more = body::mistakes(kind, &tree);
        // What the parser stopped at is found again, sometimes at another place of it.
        let start = first.place.as_ref().map(|at| (at.line, at.column));
        let is_first = |one: &Mistake| Some((one.mark.line, one.mark.column)) == start;
        let twin = more.iter().position(|one| is_first(one) || one.message == first.message);
        twin.map(|at| more.remove(at));
        let more = more.into_iter().map(|one| {
            let finding = Finding::new(Some(one.mark.in_file(file)), one.message);
            with_path(finding, kind, &tree)
        });
        std::iter::once(first).chain(more).collect::<Vec<_>>()
    })?;
    Ok(Document {
        file: Some(file.clone()),
        kind,
        name: body.metadata().name.0.as_str().into(),
        body,
        source: source.clone(),
        range: (chunk.start, chunk.start + chunk.text.len()),
        lines_before: chunk.lines_before,
        tree: tree.into(),
    })
}

/// The same with the path of what stands at its place.
fn with_path(finding: Finding, kind: Kind, tree: &Tree) -> Finding {
    let path = finding.place.as_ref().and_then(|at| tree.path_at(at.line, at.column));
    let Some(path) = path else { return finding };
    let name = text_at(tree, &["metadata", "name"]).unwrap_or("?").to_owned();
    finding.at_path(format!("{}/{name} {}", kind.name(), yaml::show(&path)))
}

/// A document of which not even the kind can be told.
fn unreadable(file: &Arc<str>, tree: &Tree, envelope: &Envelope) -> Finding {
    let at = |field: &str| {
        let mark = tree.mark(&[Step::Key(field.to_owned())]);
        Some(mark.in_file(file))
    };
    if envelope.api_version != API_VERSION {
        let message = format!(
            "the apiVersion `{}` is not known: write `{API_VERSION}`",
            envelope.api_version
        );
        return Finding::new(at("apiVersion"), message);
    }
    Finding::new(at("kind"), unknown_kind(&envelope.kind))
}

fn unknown_kind(kind: &str) -> String {
    format!("the kind `{kind}` is not known: {}", suggest::hint(kind, Kind::ALL.map(Kind::name)))
}

fn text_at<'a>(tree: &'a Tree, keys: &[&str]) -> Option<&'a str> {
    let path: Vec<Step> = keys.iter().map(|key| Step::Key((*key).to_owned())).collect();
    match tree.find(&path)? {
        Node::Scalar { text, .. } => Some(text),
        Node::List { .. } | Node::Map { .. } | Node::Alias { .. } => None,
    }
}

impl Document {
    /// `Backend/payments`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.kind.name(), self.name)
    }

    /// Which stores it applies to; absent = every store.
    pub fn selector(&self) -> Option<&StoreSelector> {
        self.body.selector()
    }

    /// Its precedence among the documents of its identity; 0 where it says none.
    pub fn precedence(&self) -> u64 {
        self.body.precedence()
    }

    /// The places of its values.
    fn tree(&self) -> &Tree {
        let file = self.file.clone().unwrap_or_default();
        self.tree.get_or_init(|| Tree::read(&file, self.chunk()).unwrap_or_default())
    }

    fn chunk(&self) -> Chunk<'_> {
        let text = self.source.get(self.range.0..self.range.1).unwrap_or_default();
        Chunk { text, lines_before: self.lines_before, start: self.range.0 }
    }

    /// The name of its file, and from which byte to which it is there.
    pub(crate) fn place_in_file(&self) -> Option<(&str, (usize, usize))> {
        Some((self.file.as_deref()?, self.range))
    }

    /// Keeps the text of its file in `report`, so that its lines can be shown.
    pub(crate) fn add_source(&self, report: &mut Report) {
        if let Some(file) = &self.file {
            report.add_source(file.clone(), self.source.clone());
        }
    }

    /// Gives back the memory of its places; whoever asks for one reads them again.
    pub(crate) fn forget_places(&mut self) {
        self.tree = OnceLock::new();
    }

    /// What signatures on it are made of: JSON with sorted keys and without white space, the
    /// field `spec.approvals` left out.
    pub fn signed_content(&self) -> String {
        let file = self.file.clone().unwrap_or_default();
        let value = yaml::typed::<serde_json::Value>(&file, self.chunk());
        let mut value = value.unwrap_or_default();
        if let Some(spec) = value.get_mut("spec").and_then(serde_json::Value::as_object_mut) {
            spec.remove("approvals");
        }
        // The maps of the library are sorted.
        value.to_string()
    }

    /// Whether it is one of the language's own.
    pub fn is_built_in(&self) -> bool {
        self.file.is_none()
    }

    /// The spot of its `spec`.
    pub fn spec(&self) -> Spot<'_> {
        Spot { document: self, path: vec![Step::Key("spec".to_owned())] }
    }

    /// The spot of its name.
    pub fn name_spot(&self) -> Spot<'_> {
        let path = ["metadata", "name"].map(|key| Step::Key(key.to_owned())).to_vec();
        Spot { document: self, path }
    }

    /// All of its values with their paths.
    pub(crate) fn walk(&self, mut visit: impl FnMut(&[Step], &Node)) {
        fn descend(node: &Node, path: &mut Vec<Step>, visit: &mut impl FnMut(&[Step], &Node)) {
            visit(path, node);
            match node {
                Node::Map { entries, .. } => {
                    for (key, _, value) in entries {
                        path.push(Step::Key(key.clone()));
                        descend(value, path, visit);
                        path.pop();
                    }
                }
                Node::List { items, .. } => {
                    for (index, item) in items.iter().enumerate() {
                        path.push(Step::Index(index));
                        descend(item, path, visit);
                        path.pop();
                    }
                }
                Node::Scalar { .. } | Node::Alias { .. } => {}
            }
        }
        descend(self.tree().root(), &mut Vec::new(), &mut visit);
    }

    /// The spot at `path` of the whole document.
    pub(crate) fn spot(&self, path: &[Step]) -> Spot<'_> {
        Spot { document: self, path: path.to_vec() }
    }

    /// Values that are written as nothing, and lists that are too short or too long. The parser
    /// reads the former as "absent", which is not what a key with a colon looks like.
    fn misshapen(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.walk(|path, node| {
            let field = path.iter().rev().find_map(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Index(_) => None,
            });
            let field = field.unwrap_or("the document");
            let message = match node {
                Node::Scalar { text, plain: true, .. } if is_null(text) => {
                    format!("`{field}` has no value: write one, or remove the line")
                }
                Node::List { items, .. } => match list_message(field, items.len()) {
                    Some(message) => message,
                    None => return,
                },
                Node::Scalar { .. } | Node::Map { .. } | Node::Alias { .. } => return,
            };
            findings.push(self.spot(path).finding(message));
        });
        findings
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Lists that must not be empty, by field, and how long each may be. A list that is not named
/// here may be empty. The schema says the same; a test compares them.
const LISTS: [(&str, usize); 46] = [
    ("accounts", 1000),
    ("approvals", 16),
    ("approvesAs", 16),
    ("artifacts", 64),
    ("backendRefs", 64),
    ("certificates", 64),
    ("cidrs", usize::MAX),
    ("codes", usize::MAX),
    ("days", usize::MAX),
    ("destinations", usize::MAX),
    ("egressRules", usize::MAX),
    ("endpoints", 256),
    ("expectedStatuses", usize::MAX),
    ("headers", 16),
    ("hooks", 16),
    ("hostnames", usize::MAX),
    ("images", usize::MAX),
    ("keys", 64),
    ("links", 16),
    ("matchExpressions", usize::MAX),
    ("matches", 64),
    ("paymentHosts", usize::MAX),
    ("paymentPorts", usize::MAX),
    ("ports", usize::MAX),
    ("prefer", usize::MAX),
    ("queryParams", 16),
    ("rateLimits", 4),
    ("registries", 64),
    ("repositories", usize::MAX),
    ("requiredClasses", usize::MAX),
    ("resolvers", usize::MAX),
    ("rings", 64),
    ("roles", usize::MAX),
    ("rollouts", usize::MAX),
    ("routes", usize::MAX),
    ("rules", usize::MAX),
    ("secrets", 64),
    ("secretFiles", 2),
    ("sources", 16),
    ("suspends", usize::MAX),
    ("tokens", 64),
    ("trafficClasses", usize::MAX),
    ("trustedSources", usize::MAX),
    ("underPaths", usize::MAX),
    ("values", usize::MAX),
    ("weekly", usize::MAX),
];

fn list_message(field: &str, length: usize) -> Option<String> {
    let (_, most) = LISTS.iter().find(|(name, _)| *name == field)?;
    if length == 0 {
        return Some(format!("the list `{field}` is empty: write at least one item, or remove it"));
    }
    (length > *most).then(|| {
        format!("the list `{field}` has {length} items, more than {most}: split it, or remove some")
    })
}

/// A value of a document: its path, its place, its origin.
#[derive(Clone, Debug)]
pub struct Spot<'a> {
    document: &'a Document,
    path: Vec<Step>,
}

impl Spot<'_> {
    /// The field `name` of this mapping, whether it is there or not.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let mut path = self.path.clone();
        path.push(Step::Key(name.to_owned()));
        Self { document: self.document, path }
    }

    /// Item `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.path.clone();
        path.push(Step::Index(index));
        Self { document: self.document, path }
    }

    /// Where it stands, or the nearest thing around it that does; `None` in a built-in document.
    pub fn place(&self) -> Option<Place> {
        let file = self.document.file.as_ref()?;
        Some(self.document.tree().mark(&self.path).in_file(file))
    }

    /// `Store/store-0412 spec.links[0].name`.
    pub fn path(&self) -> String {
        format!("{} {}", self.document.title(), yaml::show(&self.path))
    }

    /// Where the value comes from: this document if it has it, else the language's default.
    pub fn origin(&self) -> Origin {
        if !self.document.tree().says(&self.path) {
            return Origin::Default;
        }
        match self.place() {
            None => Origin::BuiltIn,
            Some(place) => {
                Origin::File { file: place.file, line: place.line, column: place.column }
            }
        }
    }

    /// A finding about this value.
    pub fn finding(&self, message: impl Into<String>) -> Finding {
        Finding::new(self.place(), message).at_path(self.path())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Every array of the schemas by the name of its field: least and most items.
    fn arrays(value: &Value, found: &mut Vec<(String, u64, Option<u64>)>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    if value["type"] == "array" {
                        let least = value["minItems"].as_u64().unwrap_or(0);
                        found.push((key.clone(), least, value["maxItems"].as_u64()));
                    }
                    arrays(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| arrays(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn lists_have_the_lengths_of_the_schema() {
        let mut found = Vec::new();
        Kind::ALL.iter().for_each(|kind| arrays(&crate::schema::of_kind(*kind), &mut found));
        for (field, least, most) in &found {
            let known = LISTS.iter().find(|(name, _)| name == field);
            assert_eq!(known.is_some(), *least == 1, "{field}");
            let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap());
            assert!(known.is_none_or(|(_, ours)| *ours == most), "{field}: {most}");
        }
        for (field, _) in LISTS {
            assert!(found.iter().any(|(name, ..)| name == field), "{field} is no list");
        }
    }

    const EXAMPLES: [&str; 6] = [
        crate::defaults::BUILT_IN,
        include_str!("../examples/quickstart.yaml"),
        include_str!("../examples/dataplane.yaml"),
        include_str!("../examples/fleet/policy/rollouts/60-pos-apps.yaml"),
        include_str!("../examples/fleet/policy/overrides/80-hotfix-tax.yaml"),
        include_str!("../examples/fleet/policy/stores/no.yaml"),
    ];

    /// What a slip of the hand puts into a document.
    const PUT: [&str; 25] = [
        "", " ", "~", "null", "true", "1", "0x1", "1.5", "\"x\"", "'y'", "!t ", "&a ", "*a", "{}",
        "<<: {}", "[]", "a: b", "- ", ": ", "\n", "\n---\n", "|\n  x", "é", "?", "007",
    ];

    /// Both ways to read each document of `text`: from its places, and by the parser.
    fn both_ways(text: &str) -> Vec<(Option<Body>, Result<Body, Finding>)> {
        let file: Arc<str> = "f".into();
        let read = |chunk: Chunk<'_>| {
            let tree = Tree::read(&file, chunk).ok()?;
            let kind = text_at(&tree, &["kind"]).and_then(Kind::by_name)?;
            Some((body::from_places(kind, &tree), body::read(kind, &file, chunk)))
        };
        yaml::split(text).into_iter().filter_map(read).collect()
    }

    #[test]
    fn good_documents_are_parsed_once() {
        for (places, parser) in EXAMPLES.iter().flat_map(|text| both_ways(text)) {
            assert_eq!(places, Some(parser.unwrap()));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

        /// Whatever is read from the places, the parser reads the same; what it refuses is not.
        #[test]
        fn both_ways_to_read_a_document_agree(
            which in 0..EXAMPLES.len(),
            at in 0.0..1.0f64,
            length in 0..12usize,
            put in proptest::sample::select(PUT.to_vec()),
        ) {
            let chars: Vec<char> = EXAMPLES[which].chars().collect();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
            let at = (chars.len() as f64 * at) as usize;
            let end = (at + length).min(chars.len());
            let (head, tail): (String, String) =
                (chars[..at].iter().collect(), chars[end..].iter().collect());
            let text = format!("{head}{put}{tail}");
            for (places, parser) in both_ways(&text) {
                if let Some(places) = places {
                    proptest::prop_assert_eq!(Ok(places), parser);
                }
            }
        }
    }

    #[test]
    fn the_built_in_documents_are_valid() {
        assert_eq!(read_built_in(crate::defaults::BUILT_IN).len(), 8);
    }
}
