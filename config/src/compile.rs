//! Documents in, one effective config out; or every reason why not.
//!
//! A pure function of the documents: no clock, no files, no state of links. Selection and
//! precedence come first (`select`), then one module per part of the effective config. All
//! modules go on after an error, so that one report names everything that is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use tillgate_core::class::ClassTable;
use tillgate_core::endpoint::EndpointSpec;
use tillgate_core::gate::Gate;
use tillgate_core::link::LinkSpec;
use tillgate_core::listener::ListenerSpec;
use tillgate_core::matching::{EgressTable, RouteTable};
use tillgate_core::mirror::MirrorSpec;

use crate::document::{Document, Spot};
use crate::effective::{Effective, NotInEffect, Origin, ProcessSpec, TelemetrySpec, Written};
use crate::kinds::store::Gateway;
use crate::kinds::{Kind, StoreDoc};
use crate::report::{Finding, Report};
use crate::scalar::DurationText;
use crate::zones::Zones;
use crate::{defaults, suggest};

mod ambiguity;
mod backends;
mod calendar;
mod classes;
mod clients;
mod egress;
mod endpoint;
mod exceptions;
mod filters;
mod gate;
mod guards;
mod links;
pub(crate) mod lint;
mod listeners;
mod matches;
mod mirror;
mod not_in_effect;
mod passages;
mod persistence;
mod resilience;
mod rollouts;
mod routes;
pub(crate) mod select;
mod service_accounts;
mod store;
mod telemetry;
mod tls;

use self::not_in_effect::Entry;

pub(crate) use classes::share_text;
pub(crate) use gate::store_id;
pub use guards::against;
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
    pub(crate) fn may_have_refused(&self, kind: Kind, name: Option<&str>) -> bool {
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
    let mut out = Output { report, entry: Entry::File, ..Output::default() };
    lint::yaml(&input.documents, &mut out.report);
    select::check_documents(&input.documents, &mut out.report);
    let built_in = crate::document::read_built_in(defaults::BUILT_IN);
    let store = select::the_store(input, &mut out);
    let choices = select::Choices::new(&input.documents);
    let chosen = choices.choose(store.map(|(_, store)| store));
    let selected = select::select(chosen, store, &built_in, &mut out);
    let zones = Zones::default();
    let effective = effective(&selected, input, &zones, &mut out);
    let effective = effective.filter(|_| out.report.errors.is_empty());
    // In a policy with errors, what seems unused may only be refused.
    if let Some(effective) = &effective {
        lint::unused(&selected, effective, &mut out.report);
    }
    out.report.sort();
    Checked { effective, report: out.report }
}

/// Compiles the shared documents of a fleet for one of its stores. `report` is empty or holds
/// what was found while reading.
pub(crate) fn for_store<'a>(
    chosen: select::Chosen<'a>,
    (document, store): (&'a Document, &'a StoreDoc),
    (input, built_in, zones): (&Input, &'a [Document], &Zones),
    report: Report,
) -> Checked {
    let mut out = Output { report, ..Output::default() };
    let selected = select::select(chosen, Some((document, store)), built_in, &mut out);
    let effective = effective(&selected, input, zones, &mut out);
    let effective = effective.filter(|_| out.report.errors.is_empty());
    out.report.sort();
    Checked { effective, report: out.report }
}

/// The config endpoint that a Bootstrap asks for, if it does. What is wrong joins `report`.
pub(crate) fn machine_endpoint(document: &Document, report: &mut Report) -> Option<EndpointSpec> {
    let crate::document::Body::Bootstrap(body) = &document.body else { return None };
    let given = body.spec.config_endpoint.as_ref()?;
    let mut out = Output { without_origins: true, ..Output::default() };
    let spot = document.spec().key("configEndpoint");
    let state = std::path::Path::new(&body.spec.state_dir.0);
    let endpoint = endpoint::compile(given, &spot, Some(state), &mut out);
    report.append(out.report);
    endpoint
}

/// What the parts of the compiler write to.
#[derive(Default)]
struct Output {
    report: Report,
    origins: BTreeMap<String, Origin>,
    /// Nobody asks where values come from: places are not looked up.
    without_origins: bool,
    entry: Entry,
}

impl Output {
    fn error(&mut self, finding: Finding) {
        self.report.errors.push(finding);
    }

    /// The value of a field that may be absent, and a note of where it came from.
    fn value<T>(&mut self, path: &str, spot: &Spot<'_>, given: Option<T>, default: T) -> T {
        if !self.without_origins {
            let origin = if given.is_some() { spot.origin() } else { Origin::Default };
            self.origins.insert(path.to_owned(), origin);
        }
        given.unwrap_or(default)
    }

    /// A value that is always given.
    fn given<T>(&mut self, path: &str, spot: &Spot<'_>, value: T) -> T {
        if !self.without_origins {
            self.origins.insert(path.to_owned(), spot.origin());
        }
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
    zones: &Zones,
    out: &mut Output,
) -> Option<Effective> {
    let shared = shared(selected, input, out);
    let own = own(selected, input, zones, shared.classes.as_ref(), out);
    let not_in_effect: Vec<NotInEffect> = not_in_effect::collect(selected, out.entry);
    let effective = assemble(shared, own?, not_in_effect, out)?;
    Some(effective.with_digest())
}

/// Stores that select the same documents: what those mean is compiled and written down once.
pub(crate) struct Group<'a> {
    selected: select::Selected<'a>,
    out: Output,
    classes: Option<ClassTable>,
    /// The config of the store that was asked for last; `None` because of errors.
    effective: Option<Effective>,
    written: Option<Written>,
}

/// What else it takes to compile: other documents, the built-in ones, zones.
pub(crate) type Context<'a> = (&'a Input, &'a [Document], &'a Zones);

impl<'a> Group<'a> {
    /// The group of `store`.
    pub(crate) fn new(
        chosen: select::Chosen<'a>,
        store: (&'a Document, &'a StoreDoc),
        (input, built_in, zones): Context<'a>,
    ) -> Self {
        let mut out = Output { without_origins: true, ..Output::default() };
        let selected = select::select(chosen, Some(store), built_in, &mut out);
        let shared = shared(&selected, input, &mut out);
        let classes = shared.classes.clone();
        let told = std::mem::take(&mut out.report);
        // What is wrong with this one store is told when it is asked for.
        let own = own(&selected, input, zones, classes.as_ref(), &mut out);
        out.report = told;
        let effective = own.and_then(|own| assemble(shared, own, Vec::new(), &mut out));
        let written = effective.as_ref().map(Written::new);
        Self { selected, out, classes, effective, written }
    }

    /// What has been found since it was asked for.
    pub(crate) fn take_report(&mut self) -> Report {
        std::mem::take(&mut self.out.report)
    }

    /// What has no effect yet of the documents that its stores select.
    pub(crate) fn not_in_effect(&self) -> Vec<NotInEffect> {
        not_in_effect::shared(&self.selected, Entry::Bootstrap)
    }

    /// The same of the document of the store that was asked for last.
    pub(crate) fn own_not_in_effect(&self) -> Vec<NotInEffect> {
        not_in_effect::own(&self.selected)
    }

    /// The digest of `store`, if neither it nor the group has an error.
    pub(crate) fn digest(
        &mut self,
        store: (&'a Document, &'a StoreDoc),
        (input, _, zones): Context<'a>,
        group_is_right: bool,
    ) -> Option<Arc<str>> {
        self.selected.store = Some(store);
        let own = own(&self.selected, input, zones, self.classes.as_ref(), &mut self.out)?;
        if !group_is_right || !self.out.report.errors.is_empty() {
            return None;
        }
        let (effective, written) = (self.effective.as_mut()?, self.written.as_ref()?);
        effective.store = own.facts.name;
        effective.time_zone = own.facts.time_zone;
        effective.process = own.facts.process;
        effective.endpoint = own.facts.endpoint;
        effective.links = own.links;
        effective.gate = own.gate;
        Some(written.digest(effective))
    }
}

/// What follows from the selected documents alone: the same for all stores that select the same.
struct Shared {
    classes: Option<ClassTable>,
    backends: Vec<backends::Compiled>,
    routes: Option<RouteTable>,
    egress: Option<EgressTable>,
    listeners: Vec<ListenerSpec>,
    mirror: Option<MirrorSpec>,
    telemetry: TelemetrySpec,
}

/// What is each store's own.
struct Own {
    facts: Facts,
    links: Vec<LinkSpec>,
    gate: Gate,
}

fn shared(selected: &select::Selected<'_>, input: &Input, out: &mut Output) -> Shared {
    let classes = classes::compile(selected, out);
    let mut backends = backends::compile(selected, out);
    let routes = routes::compile(selected, input, &classes, &backends, out);
    let egress = egress::compile(selected, input, &classes, out);
    let known = listeners::Known {
        input,
        classes: &classes,
        backends: &backends,
        // One that was refused is told of by itself.
        has_egress: egress.is_some() || input.may_have_refused(Kind::EgressPolicy, None),
    };
    let mut listeners = listeners::compile(selected, &known, out);
    let known = mirror::Known { input, classes: &classes, routes: &routes };
    let mirrored = mirror::compile(selected, &known, &mut backends, out);
    let (mirror, own) = mirrored.map(|one| (one.spec, one.listener)).unzip();
    listeners::join(&mut listeners, own.flatten(), selected, out);
    clients::check(selected, &listeners, out);
    let telemetry = telemetry::compile(selected, input, &classes, out);
    guards::check(selected, classes.as_ref(), out);
    if let (Some(routes), Some(classes)) = (&routes, &classes) {
        resilience::loops(selected, routes, &backends, &listeners, out);
        backends::size_pools(&mut backends, routes, classes);
    }
    Shared { classes, backends, routes, egress, listeners, mirror, telemetry }
}

/// `None` without a store or classes.
fn own(
    selected: &select::Selected<'_>,
    input: &Input,
    zones: &Zones,
    classes: Option<&ClassTable>,
    out: &mut Output,
) -> Option<Own> {
    let facts = selected.store.map(|(document, store)| facts(document, store, zones, out));
    let links = links::compile(selected, out);
    egress::check_links(selected, out);
    if let Some(classes) = classes {
        classes::check_promises(selected, classes, &links, out);
    }
    let gate = gate::compile(selected, input, zones, classes?, out);
    Some(Own { facts: facts?, links, gate })
}

fn assemble(
    shared: Shared,
    own: Own,
    not_in_effect: Vec<NotInEffect>,
    out: &mut Output,
) -> Option<Effective> {
    Some(Effective {
        store: own.facts.name,
        time_zone: own.facts.time_zone,
        process: own.facts.process,
        endpoint: own.facts.endpoint,
        machine_endpoint: None,
        listeners: shared.listeners,
        links: own.links,
        classes: shared.classes?,
        backends: shared.backends.into_iter().map(|one| one.spec).collect(),
        routes: shared.routes?,
        egress: shared.egress,
        mirror: shared.mirror,
        telemetry: shared.telemetry,
        gate: own.gate,
        origins: std::mem::take(&mut out.origins),
        not_in_effect,
        digest: "".into(),
    })
}

/// What the store's document says apart from its links.
struct Facts {
    name: Arc<str>,
    time_zone: Arc<str>,
    process: ProcessSpec,
    endpoint: Option<EndpointSpec>,
}

fn facts(document: &Document, store: &StoreDoc, zones: &Zones, out: &mut Output) -> Facts {
    store::hours(document, store, out);
    Facts {
        name: out.given("store", &document.name_spot(), document.name.clone()),
        time_zone: store::time_zone(document, store, zones, out),
        process: process(document, store, out),
        endpoint: endpoint(document, store, out),
    }
}

fn endpoint(document: &Document, store: &StoreDoc, out: &mut Output) -> Option<EndpointSpec> {
    let given = store.spec.gateway.as_ref()?.config_endpoint.as_ref()?;
    let spot = document.spec().key("gateway").key("configEndpoint");
    endpoint::compile(given, &spot, None, out)
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
