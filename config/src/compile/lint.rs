//! Lints: what is allowed but probably not meant.
//!
//! Texts that other YAML parsers misread, documents and backends that nothing uses. A lint never
//! refuses a policy. Lints that need to know what a part of the policy means stand with the
//! compiler of that part.

use std::collections::BTreeSet;

use super::select::Selected;
use crate::document::Document;
use crate::effective::Effective;
use crate::report::{Finding, Report};
use crate::yaml::{Node, Step};

/// Mappings and lists whose values are texts of the user's own, so that even a plain number or
/// `true` is a text there.
const TEXT_PARENTS: [&str; 4] = ["labels", "annotations", "matchLabels", "values"];

/// Unquoted texts that other YAML parsers read as something else: `country: NO` is false for
/// half of the world's tools, `close: 22:00` is 1320. Ours reads them as they stand; the file
/// also passes through other hands.
pub(crate) fn yaml(documents: &[Document], report: &mut Report) {
    for document in documents {
        document.walk(|path, node| {
            let Node::Scalar { text, plain: true, .. } = node else { return };
            let in_text_place =
                path.iter().rev().take(2).any(
                    |step| matches!(step, Step::Key(key) if TEXT_PARENTS.contains(&key.as_str())),
                );
            if let Some(other) = misread(text, in_text_place) {
                let message = format!(
                    "other YAML parsers read `{text}` as {other}: write it in quotes, as \"{text}\""
                );
                report.lints.push(document.spot(path).finding(message));
            }
        });
    }
}

/// What another parser makes of a plain scalar in the place of a text.
fn misread(text: &str, in_text_place: bool) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if matches!(lower.as_str(), "yes" | "no" | "on" | "off" | "y" | "n") {
        return Some("true or false");
    }
    let mut parts = text.split(':');
    if text.contains(':') && parts.all(|part| digits(part) && part.len() <= 2) {
        return Some("a number in base 60");
    }
    let date: Vec<&str> = text.split('-').collect();
    if let [year, month, day] = date.as_slice()
        && year.len() == 4
        && [year, month, day].iter().all(|part| digits(part))
    {
        return Some("a timestamp");
    }
    if text.len() > 1 && text.starts_with('0') && digits(text) {
        return Some("an octal number");
    }
    let number = digits(&text.replace('_', ""));
    if in_text_place && number {
        return Some("a number");
    }
    if in_text_place && matches!(lower.as_str(), "true" | "false") {
        return Some("true or false");
    }
    let float = text.parse::<f64>().is_ok() && text.starts_with(|c: char| c.is_ascii_digit());
    (float && !number).then_some("a number with decimals")
}

/// Documents that have no effect on this store.
pub(super) fn unused(selected: &Selected<'_>, effective: &Effective, report: &mut Report) {
    for document in &selected.left_out {
        let message = format!(
            "{} does not apply to the store `{}`: change its storeSelector, or remove it",
            document.title(),
            effective.store
        );
        report.lints.push(document.spec().key("storeSelector").finding(message));
    }
    let references = effective.routes.rules.iter().flat_map(|rule| rule.tiers.iter().flatten());
    let references = references.map(|reference| reference.backend);
    let listened = effective.listeners.iter().filter_map(|listener| listener.backend);
    let mirrored = effective.mirror.iter().flat_map(|mirror| &mirror.upstreams);
    let mirrored = mirrored.map(|upstream| upstream.backend);
    let named: BTreeSet<&str> =
        references.chain(listened).chain(mirrored).map(|id| &*effective.backend(id).name).collect();
    for (document, _) in &selected.backends {
        if !named.contains(&*document.name) {
            let message = format!(
                "no route, listener or mirror asks the backend `{}`: name it in a ServiceRoute, \
                 Listener or RegistryMirror, or remove it",
                document.name
            );
            report.lints.push(document.name_spot().finding(message));
        }
    }
    if selected.routes.is_empty() && selected.egress.is_none() && selected.mirror.is_none() {
        let message = "the policy has neither a ServiceRoute nor an EgressPolicy, so the HTTP entry \
                       answers 404 to everything: add routes";
        let place = selected.store.and_then(|(store, _)| store.name_spot().place());
        report.lints.push(Finding::new(place, message));
    }
}
