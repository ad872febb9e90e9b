//! Telemetry: access log by class, export of spans.
//!
//! In: the one `TelemetryPolicy` that applies. Out: what is logged of each class, resolved by id.
//! An entry that names a class comes before the one for `*`; a class in two entries is refused,
//! so order never decides.

use tillgate_core::backend::Location;
use tillgate_core::class::{ClassId, ClassTable};

use super::backends::location;
use super::select::Selected;
use super::{Input, Output, dangling, step};
use crate::defaults;
use crate::document::Spot;
use crate::effective::{
    AccessLogSpec, ClassLog, ClientAddress, LogOutput, LoggedHeader, Origin, TelemetrySpec,
    TracingSpec,
};
use crate::kinds::Kind;
use crate::kinds::telemetry_policy::{
    AccessLoggingDoc, ClientAddressDoc, TelemetryPolicySpec, TracingDoc,
};

/// What may be referred to.
struct Known<'a> {
    input: &'a Input,
    classes: &'a ClassTable,
}

/// The telemetry of the store; nothing is logged or traced without a policy.
pub(super) fn compile(
    selected: &Selected<'_>,
    input: &Input,
    classes: &Option<ClassTable>,
    out: &mut Output,
) -> TelemetrySpec {
    let (Some((document, policy)), Some(classes)) = (selected.telemetry, classes.as_ref()) else {
        out.origins.insert("telemetry".to_owned(), Origin::Default);
        return TelemetrySpec::default();
    };
    let known = Known { input, classes };
    let spot = document.spec();
    TelemetrySpec {
        access_log: access_log(&policy.spec, &spot, &known, out),
        tracing: tracing(policy.spec.tracing.as_ref(), &spot.key("tracing"), &known, out),
    }
}

fn access_log(
    spec: &TelemetryPolicySpec,
    spot: &Spot<'_>,
    known: &Known<'_>,
    out: &mut Output,
) -> AccessLogSpec {
    let output = spec.access_log_output.as_ref();
    let path = output.and_then(|output| output.path.as_ref()).map(|path| path.0.clone());
    let output_spot = spot.key("accessLogOutput").key("path");
    let output = out.value("telemetry.accessLog.output", &output_spot, path, LogOutput::Stdout);
    let client = spec.access_log_output.as_ref().and_then(|output| output.client_address);
    let client = client.map(|client| match client {
        ClientAddressDoc::Full => ClientAddress::Full,
        ClientAddressDoc::Prefix => ClientAddress::Prefix,
        ClientAddressDoc::Hash => ClientAddress::Hash,
    });
    let client_spot = spot.key("accessLogOutput").key("clientAddress");
    let default = ClientAddress::default();
    let client = out.value("telemetry.accessLog.clientAddress", &client_spot, client, default);
    let list = spot.key("accessLogging");
    // For each class the entry that names it; `rest` is the one for `*`.
    let mut named: Vec<Option<usize>> = vec![None; known.classes.len()];
    let mut rest: Option<usize> = None;
    for (index, entry) in spec.access_logging.iter().enumerate() {
        let classes = list.index(index).key("trafficClasses");
        for (position, pattern) in entry.traffic_classes.iter().enumerate() {
            let spot = classes.index(position);
            let (text, slot) = match &pattern.0 {
                None => ("*", Some(&mut rest)),
                Some(name) => {
                    let id = class(name, &spot, known, out);
                    (name.as_str(), id.map(|id| &mut named[id.index()]))
                }
            };
            let Some(slot) = slot else { continue };
            if let Some(first) = slot.replace(index) {
                let message =
                    format!("the class `{text}` has two entries: remove it from one of them");
                let first = list.index(first).key("trafficClasses").place();
                out.error(spot.finding(message).related(first, "is the first one"));
            }
        }
    }
    let logs: Vec<ClassLog> = spec
        .access_logging
        .iter()
        .enumerate()
        .map(|(index, entry)| class_log(entry, &list.index(index), out))
        .collect();
    let classes = named.iter().enumerate().map(|(position, own)| {
        let entry = own.or(rest);
        let name = known.classes.iter().nth(position).map_or("", |(_, class)| &*class.name);
        let path = format!("telemetry.accessLog.classes.{}", step(name));
        let origin = entry.map_or(Origin::Default, |index| list.index(index).origin());
        out.origins.insert(path, origin);
        entry.and_then(|index| logs.get(index)).cloned()
    });
    AccessLogSpec { output, client, classes: classes.collect() }
}

fn class_log(entry: &AccessLoggingDoc, spot: &Spot<'_>, out: &mut Output) -> ClassLog {
    let mut headers: Vec<LoggedHeader> = Vec::new();
    for (index, header) in entry.headers.iter().flatten().enumerate() {
        let name = header.0.clone();
        if let Some(first) = headers.iter().position(|known| known.name == name) {
            let list = spot.key("headers");
            let message = format!("the header `{name}` is there twice: remove one");
            let finding = list.index(index).finding(message);
            out.error(finding.related(list.index(first).place(), "is the first one"));
        }
        let redacted = defaults::REDACTED_HEADERS.contains(&name.as_str())
            || entry.redact_headers.iter().any(|redacted| redacted.0 == name);
        headers.push(LoggedHeader { name, redacted });
    }
    ClassLog { sampling: entry.sampling.0, headers }
}

fn class(name: &str, spot: &Spot<'_>, known: &Known<'_>, out: &mut Output) -> Option<ClassId> {
    let id = known.classes.id(name);
    if id.is_none() {
        let names: Vec<&str> = known.classes.iter().map(|(_, class)| &*class.name).collect();
        let finding = dangling(known.input, Kind::TrafficClass, name, spot, names);
        out.report.errors.extend(finding);
    }
    id
}

/// Spans; without a collector nothing can be exported, which `not_in_effect` reports.
fn tracing(
    given: Option<&TracingDoc>,
    spot: &Spot<'_>,
    known: &Known<'_>,
    out: &mut Output,
) -> Option<TracingSpec> {
    let base = "telemetry.tracing";
    let named = given.and_then(|given| given.traffic_class.as_ref());
    let class_spot = spot.key("trafficClass");
    let named = named.and_then(|name| class(&name.0, &class_spot, known, out));
    let Some((given, endpoint)) = given.and_then(|given| Some((given, given.endpoint.as_ref()?)))
    else {
        out.origins.insert(base.to_owned(), Origin::Default);
        return None;
    };
    out.given(base, spot, ());
    let default = known.classes.id(defaults::TRACING_CLASS)?;
    let place = given.location.map(location);
    Some(TracingSpec {
        endpoint: endpoint.0.clone(),
        location: out.value(
            &format!("{base}.location"),
            &spot.key("location"),
            place,
            Location::Cloud,
        ),
        sampling: given.sampling.0,
        class: out.value(&format!("{base}.trafficClass"), &class_spot, named, default),
    })
}
