//! The text form of a report: message, place, the line, a caret.
//!
//! Own code instead of a diagnostics crate: one layout, sixty lines, and the snapshots of the
//! tests never change because a dependency did.

use super::{Finding, Place, Report};

/// Wider lines are cut around the caret, so that a minified file stays readable.
const LINE_CHARS_MAX: usize = 110;

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.errors {
        one(&mut out, report, "error", finding);
    }
    for finding in &report.lints {
        one(&mut out, report, "warning", finding);
    }
    out
}

fn one(out: &mut String, report: &Report, level: &str, finding: &Finding) {
    let message = printable(&finding.message);
    out.push_str(&format!("{level}: {message}\n"));
    if let Some(place) = &finding.place {
        snippet(out, report, place, None);
    }
    if !finding.path.is_empty() {
        out.push_str(&format!("  = in {}\n", printable(&finding.path)));
    }
    match (finding.stores.count, &finding.stores.first) {
        (0, _) => {}
        (1, first) => out.push_str(&format!("  = for the store {}\n", printable(first))),
        (count, first) => {
            out.push_str(&format!("  = for {count} stores, such as {}\n", printable(first)));
        }
    }
    for (place, note) in &finding.related {
        snippet(out, report, place, Some(note));
    }
    out.push('\n');
}

fn snippet(out: &mut String, report: &Report, place: &Place, note: Option<&str>) {
    let gutter = " ".repeat(place.line.to_string().len());
    let note = note.map(|note| format!(" {}", printable(note))).unwrap_or_default();
    out.push_str(&format!("{gutter}--> {}{}\n", printable(&place.to_string()), note));
    let index = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(line) = report.sources.get(&place.file).and_then(|text| text.lines().nth(index))
    else {
        return;
    };
    let before = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let (shown, before) = cut(line, before);
    let room = shown.chars().count().saturating_sub(before).max(1);
    let length = usize::try_from(place.length).unwrap_or(usize::MAX).clamp(1, room);
    out.push_str(&format!("{gutter} |\n{} | {shown}\n", place.line));
    out.push_str(&format!("{gutter} | {}{}\n", " ".repeat(before), "^".repeat(length)));
}

/// The part of `line` around character `before`, and where that character now stands.
fn cut(line: &str, before: usize) -> (String, usize) {
    let chars: Vec<char> = line.chars().map(visible).collect();
    let before = before.min(chars.len());
    if chars.len() <= LINE_CHARS_MAX {
        return (chars.iter().collect::<String>().trim_end().to_owned(), before);
    }
    let start = before.saturating_sub(LINE_CHARS_MAX / 2);
    let end = (start + LINE_CHARS_MAX).min(chars.len());
    let head = if start > 0 { "…" } else { "" };
    let tail = if end < chars.len() { "…" } else { "" };
    let middle: String = chars[start..end].iter().collect();
    (format!("{head}{middle}{tail}"), before - start + head.chars().count())
}

/// Text from a file never reaches a terminal raw: an escape sequence in a label must not
/// repaint the operator's screen.
fn printable(text: &str) -> String {
    text.chars().map(visible).collect()
}

fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}
