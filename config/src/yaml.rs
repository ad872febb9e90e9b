//! The one module that knows the YAML parser.
//!
//! In: the text of a file. Out: its documents ([`split`]), typed values ([`typed`]) and a tree
//! of places ([`Tree`]), or one [`Finding`] with file, line, column and a message in our words.
//! The parser runs in its strictest form: YAML 1.2 booleans only, no merge keys, no duplicate
//! keys, no unknown tags, and budgets that end a "billion laughs" early. What the parser would
//! let pass silently (tabs, empty values, a number in quotes) is refused by this module and by
//! the scalar types.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MergeKeyPolicy, MessageFormatter, Options, UserMessageFormatter};

use crate::report::{Finding, Place};
use crate::suggest;

pub(crate) mod mistakes;
mod tree;
pub(crate) mod values;

pub use tree::{Mark, Node, Step, Tree};

/// A path as the messages write it: `spec.rules[2].name`.
pub fn show(path: &[Step]) -> String {
    tree::Shown(path).to_string()
}

/// The largest policy file: 4 MiB is some 60,000 routes, and bounds the time and memory that a
/// wrong file can cost (the parser bounds only what it reads from a stream).
pub const INPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Anchors and aliases a document may have. Policies are written out, not computed; a few
/// aliases save typing, hundreds are a bomb or a template.
const ANCHORS_MAX: usize = 64;
const ALIASES_MAX: usize = 256;

/// Nesting of a document; the language itself needs nine levels.
const DEPTH_MAX: usize = 32;

/// One document of a file, with its position there.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The document's text, from its `---` on.
    pub text: &'a str,
    /// Lines of the file before it.
    pub lines_before: u32,
    /// Bytes of the file before it.
    pub start: usize,
}

/// Cuts a file into its documents. Those without content (comments, blank lines) are left out.
///
/// `---` in the first column starts a document wherever it stands: YAML allows it inside no
/// scalar there, so lines are enough to see it.
pub fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut offset = 0;
    for (line, number) in text.split_inclusive('\n').zip(0u32..) {
        let marker = line.strip_prefix("---").is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(|next: char| next.is_ascii_whitespace())
        });
        if marker && offset > start {
            chunks.push(Chunk { text: &text[start..offset], lines_before, start });
            start = offset;
            lines_before = number;
        }
        offset += line.len();
    }
    chunks.push(Chunk { text: &text[start..], lines_before, start });
    chunks.retain(|chunk| chunk.text.lines().any(has_content));
    chunks
}

fn has_content(line: &str) -> bool {
    let rest = line.strip_prefix("---").unwrap_or(line).trim_start();
    !(rest.is_empty() || rest.starts_with('#') || line.trim_end() == "...")
}

/// The first tab in the indentation of a line, as a finding. YAML forbids it in most places and
/// editors show it as anything; the parser's own message points elsewhere.
///
/// # Errors
/// The place of the tab.
pub fn no_tabs(file: &Arc<str>, chunk: Chunk<'_>) -> Result<(), Finding> {
    for (line, number) in chunk.text.lines().zip(1u32..) {
        let indentation = line.len() - line.trim_start().len();
        if let Some(at) = line[..indentation].find('\t') {
            let column = u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1);
            let place =
                Place { file: file.clone(), line: chunk.lines_before + number, column, length: 1 };
            let message = "a tab in the indentation: indent with spaces";
            return Err(Finding::new(Some(place), message));
        }
    }
    Ok(())
}

/// Reads `chunk` as a `T`.
///
/// # Errors
/// The first thing that is wrong: the parser stops there.
pub fn typed<T: DeserializeOwned>(file: &Arc<str>, chunk: Chunk<'_>) -> Result<T, Finding> {
    serde_saphyr::from_str_with_options(chunk.text, options())
        .map_err(|error| explain(&error, file, chunk))
}

fn options() -> Options {
    serde_saphyr::options! {
        strict_booleans: true,
        reject_unsupported_tags: true,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_anchors: ANCHORS_MAX,
            max_aliases: ALIASES_MAX,
            max_documents: 1,
        },
    }
}

/// The parser's error in our words, at its place in the file.
fn explain(error: &Error, file: &Arc<str>, chunk: Chunk<'_>) -> Finding {
    let error = innermost(error);
    let location = error.location();
    let mut place = location.map(|location| {
        let clamp = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Place {
            file: file.clone(),
            line: clamp(location.line()).saturating_add(chunk.lines_before),
            column: clamp(location.column()).max(1),
            length: clamp(location.span().len()).max(1),
        }
    });
    let meant = location.and_then(|location| {
        let start = usize::try_from(location.span().byte_offset()?).ok()?;
        let length = usize::try_from(location.span().byte_len()?).ok()?;
        chunk.text.get(start..start.checked_add(length)?)
    });
    // A span over several lines is a block: its first line is enough to find it.
    if let (Some(place), Some(meant)) = (&mut place, meant) {
        let first = meant.lines().next().unwrap_or_default().chars().count();
        place.length = u32::try_from(first).unwrap_or(u32::MAX).max(1);
    }
    let found = meant.map(|text| text.lines().next().unwrap_or_default()).unwrap_or_default();
    let found = match (found, place.as_ref().and_then(|place| first_char(chunk, place))) {
        ("" | "-" | "{" | "[", Some('-' | '[')) => "a list",
        ("" | "{" | "[", Some(_)) => "a mapping",
        (text, _) => text,
    };
    Finding::new(place, message(error, found))
}

/// The character at `place`, to tell a list from a mapping.
fn first_char(chunk: Chunk<'_>, place: &Place) -> Option<char> {
    let line = usize::try_from(place.line.checked_sub(chunk.lines_before + 1)?).ok()?;
    let column = usize::try_from(place.column.checked_sub(1)?).ok()?;
    chunk.text.lines().nth(line)?.chars().nth(column)
}

fn innermost(error: &Error) -> &Error {
    let mut error = error;
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } =
        error
    {
        error = inner;
    }
    error
}

const NOTHING: &str = "a value is missing here: write one";

const ONE_OF_THESE: &str = "only one of these fields may be given: remove the others";

fn unknown_field(field: &str, expected: &[&str]) -> String {
    format!("unknown field `{field}`: {}", suggest::hint(field, expected.iter().copied()))
}

fn unknown_word(word: &str, expected: &[&str]) -> String {
    format!("unknown word `{word}`: {}", suggest::hint(word, expected.iter().copied()))
}

fn missing_field(field: &str) -> String {
    format!("the field `{field}` is missing: add it, it has no default")
}

fn twice(key: &str) -> String {
    format!("the key `{key}` appears twice in one mapping: remove one of them")
}

fn misplaced(unexpected: impl fmt::Display, expected: impl fmt::Display) -> String {
    format!("{unexpected} stands where {expected} is expected: change the value")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's error type may grow")]
fn message(error: &Error, found: &str) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown_field(field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown_word(variant, expected),
        Error::SerdeMissingField { field, .. } => missing_field(field),
        Error::DuplicateMappingKey { key: Some(key), .. } => twice(key),
        Error::DuplicateMappingKey { key: None, .. } => {
            "a key appears twice in one mapping: remove one of them".to_owned()
        }
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (`<<`) are not part of the policy language: write the fields out".to_owned()
        }
        Error::UnsupportedTag { tag, .. } => {
            format!("the tag `{tag}` is not part of the policy language: remove it")
        }
        Error::NullIntoString { .. } => NOTHING.to_owned(),
        Error::Unexpected { expected, .. } => unexpected(expected, found),
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => misplaced(unexpected, expected),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            format!("`{found}` stands where one word is expected: write the word alone")
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => ONE_OF_THESE.to_owned(),
        Error::UnexpectedValueForUnitEnumVariant { .. } => {
            format!("`{found}` stands where nothing is expected: write the word alone")
        }
        Error::UnknownAnchor { .. } => {
            "this alias names no anchor (`&name`) of the document: write the value out".to_owned()
        }
        Error::Budget { breach, .. } => budget(breach).to_owned(),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "the aliases of the document expand to too much: write the values out".to_owned()
        }
        Error::Message { msg, .. } => msg.clone(),
        other => {
            let text = UserMessageFormatter.format_message(other);
            format!("not valid YAML: {text}; check quotes, brackets and indentation here")
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's error type may grow")]
fn budget(breach: &BudgetBreach) -> &'static str {
    match breach {
        BudgetBreach::Depth { .. } => "the document is nested too deeply: flatten it",
        BudgetBreach::Anchors { .. }
        | BudgetBreach::Aliases { .. }
        | BudgetBreach::AliasAnchorRatio { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => {
            "the document uses too many anchors and aliases: write the values out"
        }
        _ => "the document has too many values: split it, or write out its aliases",
    }
}

fn unexpected(expected: &str, found: &str) -> String {
    let shown = found.trim_end();
    let here = match shown {
        "" => "something else".to_owned(),
        "a list" | "a mapping" => shown.to_owned(),
        value => format!("`{value}`"),
    };
    match expected {
        "mapping start" => {
            format!("a mapping (`name: value`) is expected, not {here}: write its fields")
        }
        "sequence start" => {
            format!("a list is expected, not {here}: put it in brackets, or behind `- `")
        }
        "string scalar" => {
            format!("one text is expected, not {here}: write a single value")
        }
        other => format!("{other} is expected, not {here}: change the value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines() {
        let text = "# head\n---\na: 1\n---\n# only a comment\n---   # last\nb: 2\n...\n";
        let chunks = split(text);
        let seen: Vec<_> = chunks.iter().map(|chunk| (chunk.lines_before, chunk.text)).collect();
        assert_eq!(seen, [(1, "---\na: 1\n"), (5, "---   # last\nb: 2\n...\n")]);
        assert!(split("").is_empty());
        assert!(split("---\n---\n# x\n").is_empty());
        assert_eq!(split("--- {a: 1}").len(), 1);
        assert_eq!(split("a: 1").len(), 1);
    }

    #[test]
    fn a_tab_in_a_value_is_no_indentation() {
        let file: Arc<str> = "f".into();
        let chunk = |text| Chunk { text, lines_before: 3, start: 0 };
        assert!(no_tabs(&file, chunk("a: 1\t# x\n")).is_ok());
        let finding = no_tabs(&file, chunk("a:\n  \tb: 1\n")).unwrap_err();
        let place = finding.place.unwrap();
        assert_eq!((place.line, place.column), (5, 3));
    }
}
