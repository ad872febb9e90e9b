//! Documents in, one effective config out; or every reason why not.
//!
//! A pure function of the documents: no clock, no files, no state of links. Selection and
//! precedence come first (`select`), then one module per part of the effective config. All
//! modules go on after an error, so that one report names everything that is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::{Document, Spot};
use crate::effective::{Effective, NotInEffect, Origin, ProcessSpec};
use crate::kinds::store::Gateway;
use crate::kinds::{Kind, StoreDoc};
use crate::report::{Finding, Report};
use crate::scalar::DurationText;
use crate::{defaults, suggest};

mod ambiguity;
mod backends;
mod classes;
mod clients;
mod egress;
mod filters;
mod links;
mod lint;
mod listeners;
mod matches;
mod not_in_effect;
mod persistence;
mod routes;
mod select;
mod store;
mod telemetry;
mod tls;

pub(crate) use classes::share_text;
pub(crate) use listeners::limits::applies as limit_applies;
pub(crate) use listeners::{dials, has_class, protocol_text};
pub(crate) use routes::host_text;

/// A policy that was read, with what could not be read of it.
#[derive(Debug, Default)]
pub struct Input {
    /// Documents that were read.
    pub documents: Vec<Document>,
    /// Where they come from, as the user named it.
    pub(crate) file: String,
    /// Documents that were refused: references to them are not dangling.
    pub(crate) refused: Vec<Identity>,
}

/// Kind and name of a document, as far as they could be read.
pub(crate) type Identity = (Option<Kind>, Option<String>);

impl Input {
    /// Whether a document that was refused may have been this one; without a name, any of its
    /// kind.
    fn may_have_refused(&self, kind: Kind, name: Option<&str>) -> bool {
        self.refused.iter().any(|(refused_kind, refused_name)| {
            let name_fits = match (refused_name, name) {
                (Some(refused), Some(name)) => refused == name,
                _ => true,
            };
            refused_kind.is_none_or(|refused| refused == kind) && name_fits
        })
    }
}

/// The outcome of looking at a policy.
#[derive(Debug)]
pub struct Checked {
    /// The effective config, if there was no error.
    pub effective: Option<Effective>,
    /// Errors and lints.
    pub report: Report,
}

/// Compiles `input` for the one store that it describes. `report` already holds what was found
/// while reading; semantic findings join it.
pub fn check(input: &Input, report: Report) -> Checked {
    let mut out = Output { report, ..Output::default() };
    lint::yaml(input, &mut out.report);
    let built_in = crate::document::read_built_in(defaults::BUILT_IN);
    let selected = select::select(input, &built_in, &mut out);
    let effective = effective(&selected, input, &mut out);
    let effective = effective.filter(|_| out.report.errors.is_empty());
    // In a policy with errors, what seems unused may only be refused.
    if let Some(effective) = &effective {
        lint::unused(&selected, effective, &mut out.report);
    }
    out.report.sort();
    Checked { effective, report: out.report }
}

/// What the parts of the compiler write to.
#[derive(Default)]
struct Output {
    report: Report,
    origins: BTreeMap<String, Origin>,
}

impl Output {
    fn error(&mut self, finding: Finding) {
        self.report.errors.push(finding);
    }

    /// The value of a field that may be absent, and a note of where it came from.
    fn value<T>(&mut self, path: &str, spot: &Spot<'_>, given: Option<T>, default: T) -> T {
        let origin = if given.is_some() { spot.origin() } else { Origin::Default };
        self.origins.insert(path.to_owned(), origin);
        given.unwrap_or(default)
    }

    /// A value that is always given.
    fn given<T>(&mut self, path: &str, spot: &Spot<'_>, value: T) -> T {
        self.origins.insert(path.to_owned(), spot.origin());
        value
    }

    /// A duration that must be longer than nothing.
    fn positive(
        &mut self,
        path: &str,
        spot: &Spot<'_>,
        given: Option<DurationText>,
        default: std::time::Duration,
    ) -> std::time::Duration {
        if given.is_some_and(|text| text.0.is_zero()) {
            self.error(spot.finding(
                "the duration `0s` would end everything at once: write one above zero, or remove \
                 the line",
            ));
        }
        self.value(path, spot, given.map(|text| text.0), default)
    }
}

/// A name as a step of a path in the effective config; quoted where a dot would confuse.
pub(crate) fn step(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

/// A finding for a reference that names nothing, unless that document was refused.
fn dangling<'a>(
    input: &Input,
    kind: Kind,
    name: &str,
    spot: &Spot<'_>,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<Finding> {
    if input.may_have_refused(kind, Some(name)) {
        return None;
    }
    let message = format!("no {} is called `{name}`: {}", kind.name(), suggest::hint(name, known));
    Some(spot.finding(message))
}

fn effective(
    selected: &select::Selected<'_>,
    input: &Input,
    out: &mut Output,
) -> Option<Effective> {
    let facts = selected.store.map(|(document, store)| facts(document, store, out));
    let links = links::compile(selected, out);
    let classes = classes::compile(selected, &links, out);
    let mut backends = backends::compile(selected, out);
    let routes = routes::compile(selected, input, &classes, &backends, out);
    let egress = egress::compile(selected, input, &classes, out);
    let known = listeners::Known {
        input,
        classes: &classes,
        backends: &backends,
        has_egress: egress.is_some(),
    };
    let listeners = listeners::compile(selected, &known, out);
    clients::check(selected, &listeners, out);
    let telemetry = telemetry::compile(selected, input, &classes, out);
    let (routes, classes, facts) = (routes?, classes?, facts?);
    backends::size_pools(&mut backends, &routes, &classes);
    let not_in_effect: Vec<NotInEffect> = not_in_effect::collect(selected);
    let effective = Effective {
        store: facts.name,
        time_zone: facts.time_zone,
        process: facts.process,
        listeners,
        links,
        classes,
        backends: backends.into_iter().map(|one| one.spec).collect(),
        routes,
        egress,
        telemetry,
        origins: std::mem::take(&mut out.origins),
        not_in_effect,
        digest: "".into(),
    };
    Some(effective.with_digest())
}

/// What the store's document says apart from its links.
struct Facts {
    name: Arc<str>,
    time_zone: Arc<str>,
    process: ProcessSpec,
}

fn facts(document: &Document, store: &StoreDoc, out: &mut Output) -> Facts {
    store::hours(document, store, out);
    Facts {
        name: out.given("store", &document.name_spot(), document.name.clone()),
        time_zone: store::time_zone(document, store, out),
        process: process(document, store, out),
    }
}

fn process(document: &Document, store: &StoreDoc, out: &mut Output) -> ProcessSpec {
    let spot = document.spec().key("gateway");
    let gateway = store.spec.gateway.as_ref();
    let workers = gateway.and_then(|gateway| gateway.workers);
    let drain = gateway.and_then(|gateway| gateway.drain_timeout);
    ProcessSpec {
        workers: out.value(
            "process.workers",
            &spot.key("workers"),
            workers.map(|workers| Some(workers.fit())),
            None,
        ),
        drain_timeout: out.positive(
            "process.drainTimeout",
            &spot.key("drainTimeout"),
            drain,
            defaults::DRAIN_TIMEOUT,
        ),
        buffer_bytes_max: buffer(gateway, &spot.key("bufferMemory"), out),
    }
}

/// Bodies of a single busy line need more than a mebibyte.
fn buffer(gateway: Option<&Gateway>, spot: &Spot<'_>, out: &mut Output) -> u64 {
    let given = gateway.and_then(|gateway| gateway.buffer_memory).map(|size| size.0);
    if given.is_some_and(|bytes| bytes < 1024 * 1024) {
        out.error(spot.finding(
            "so little memory would refuse traffic all the time: allow 1Mi or more, as `64Mi`",
        ));
    }
    out.value("process.bufferMemory", spot, given, defaults::BUFFER_BYTES)
}
