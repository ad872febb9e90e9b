//! What a rule does when a server fails: when tiers change, and when calls are sent again.
//!
//! In: the fields of a rule, its tiers and its timeouts. Out: the core's values. What could never
//! take effect (a dwell of nothing, a pause longer than anybody waits, a tier that could never
//! carry) is refused; what is allowed but may not do what it seems to is explained.

use std::time::Duration;

use http::StatusCode;
use tillgate_core::backend::{BackendSpec, Host, Timeouts};
use tillgate_core::failover::{FailoverSpec, Healthy};
use tillgate_core::filter::Action;
use tillgate_core::hedge::HedgeSpec;
use tillgate_core::listener::{ListenerProtocol, ListenerSpec};
use tillgate_core::matching::{BackendRef, RouteTable};
use tillgate_core::retry::{BudgetSpec, Idempotency, Methods, RetrySpec, Scope};

use super::Output;
use super::backends::Compiled;
use super::select::Selected;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::service_route::{
    Failover, Idempotency as IdempotencyDoc, IdempotencyScope, Retry, RuleDoc,
};
use crate::scalar::{DurationText, HealthyCount, Size, Whole};

/// A rule as far as it is compiled.
pub(super) struct About<'a> {
    pub(super) rule: &'a RuleDoc,
    pub(super) action: &'a Action,
    pub(super) tiers: &'a [Vec<BackendRef>],
    pub(super) timeouts: &'a Timeouts,
    pub(super) backends: &'a [Compiled],
    pub(super) spot: &'a Spot<'a>,
    pub(super) base: &'a str,
}

impl About<'_> {
    fn given<T>(&self, field: Option<T>) -> Option<T> {
        field.filter(|_| *self.action == Action::Forward)
    }

    fn falls_back(&self) -> bool {
        self.tiers.len() > 1
    }
}

/// When the tiers of a rule change, and when its calls are sent again.
pub(super) fn compile(about: &About<'_>, out: &mut Output) -> (FailoverSpec, RetrySpec) {
    (failover(about, out), retry(about, out))
}

/// When the tiers of a rule change.
fn failover(about: &About<'_>, out: &mut Output) -> FailoverSpec {
    if *about.action != Action::Forward {
        return FailoverSpec::PLAIN;
    }
    let given = about.given(about.rule.failover);
    let spot = about.spot.key("failover");
    let path = |field: &str| format!("{}.failover.{field}", about.base);
    let hold_down = given.and_then(|given| given.hold_down);
    if hold_down.is_some_and(|time| time.0.is_zero()) {
        out.error(spot.key("holdDown").finding(
            "without a pause a server that comes and goes would take every call with it: write a \
             time above zero, as `30s`",
        ));
    }
    let default = defaults::FAILOVER;
    let data_age = given.and_then(|given| given.max_data_age);
    let data_age_max = max_data_age(about, data_age, (&spot, &path("maxDataAge")), out);
    FailoverSpec {
        fallback_below: fallback_below(about, given, (&spot, &path("fallbackBelow")), out),
        hold_down: out.value(
            &path("holdDown"),
            &spot.key("holdDown"),
            hold_down.map(|time| time.0),
            default.hold_down,
        ),
        ramp: out.value(
            &path("ramp"),
            &spot.key("ramp"),
            given.and_then(|given| given.ramp).map(|time| time.0),
            default.ramp,
        ),
        data_age_max,
    }
}

fn fallback_below(
    about: &About<'_>,
    given: Option<Failover>,
    (spot, path): (&Spot<'_>, &str),
    out: &mut Output,
) -> Healthy {
    let spot = spot.key("fallbackBelow");
    let given = given.and_then(|given| given.fallback_below).map(|count| match count {
        HealthyCount::Endpoints(count) => Healthy::Count(count),
        HealthyCount::Percent(percent) => Healthy::Part(percent),
    });
    let first = about.tiers.first().map_or(&[][..], |tier| tier);
    let of = |one: &BackendRef| about.backends.get(usize::from(one.backend.0));
    let count: usize =
        first.iter().filter_map(of).map(|backend| backend.spec.endpoints.len()).sum();
    if let Some(Healthy::Count(wanted)) = given
        && usize::try_from(wanted).is_ok_and(|wanted| wanted > count)
        && count > 0
    {
        out.error(spot.finding(format!(
            "the first tier has {count} endpoints, so it could never take traffic: write {count} or \
             less"
        )));
    }
    out.value(path, &spot, given, defaults::FAILOVER.fallback_below)
}

fn max_data_age(
    about: &About<'_>,
    given: Option<DurationText>,
    (spot, path): (&Spot<'_>, &str),
    out: &mut Output,
) -> Option<Duration> {
    let spot = spot.key("maxDataAge");
    let given = given?;
    let mut backends = about.tiers.iter().flatten();
    let says = |one: &BackendRef| {
        let backend = about.backends.get(usize::from(one.backend.0));
        backend.is_some_and(|backend| backend.spec.health.data_age.is_some())
    };
    if !about.tiers.is_empty() && !backends.any(says) {
        out.error(spot.finding(
            "no backend of the rule says how old its data is: add `healthCheck.dataAge` to one, or \
             remove the line",
        ));
    }
    Some(out.given(path, &spot, given.0))
}

/// When calls of a rule are sent again.
fn retry(about: &About<'_>, out: &mut Output) -> RetrySpec {
    if *about.action != Action::Forward {
        return RetrySpec::never();
    }
    let given = about.given(about.rule.retry.as_ref());
    let spot = about.spot.key("retry");
    let base = format!("{}.retry", about.base);
    let path = |field: &str| format!("{base}.{field}");
    let codes = given.and_then(|given| given.codes.as_ref()).map(|codes| {
        let status = |code: &Whole<400, 599>| StatusCode::from_u16(code.fit()).ok();
        codes.iter().filter_map(status).collect::<Vec<_>>()
    });
    refuse_answers(&codes, &spot.key("codes"), out);
    let unsafe_methods = given
        .and_then(|given| given.unsafe_methods)
        .map(|flag| if flag.0 { Methods::All } else { Methods::Idempotent });
    let attempts = given.and_then(|given| given.attempts).map(Whole::fit);
    let (backoff_base, backoff_max) = backoff(about, given, (&spot, &base), out);
    let retry = RetrySpec {
        attempts: out.value(
            &path("attempts"),
            &spot.key("attempts"),
            attempts,
            defaults::RETRY_ATTEMPTS,
        ),
        backoff_base,
        backoff_max,
        codes: codes
            .map_or_else(Vec::new, |codes| out.given(&path("codes"), &spot.key("codes"), codes)),
        methods: out.value(
            &path("unsafeMethods"),
            &spot.key("unsafeMethods"),
            unsafe_methods,
            Methods::Idempotent,
        ),
        idempotency: idempotency(about, out),
        budget: budget(about, out),
        buffer_bytes: buffer(given, (&spot, &path("bufferSize")), out),
        hedge: hedge(about, given, (&spot, &path("hedge")), out),
    };
    explain_time(about, &retry, out);
    retry
}

/// Statuses below 500 that do not say no, but "not now" (RFC 9110, RFC 8470, RFC 6585).
const NOT_NOW: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];

/// A no is an answer: whoever is asked next says it too, or says yes to what was refused.
fn refuse_answers(codes: &Option<Vec<StatusCode>>, spot: &Spot<'_>, out: &mut Output) {
    let is_no = |code: &&StatusCode| code.is_client_error() && !NOT_NOW.contains(code);
    for (place, code) in codes.iter().flatten().enumerate().filter(|(_, code)| is_no(code)) {
        out.error(spot.index(place).finding(format!(
            "`{}` is an answer, not a failure: another server would say the same, or do what this \
             one has refused; remove it (of the codes below 500, 408, 425 and 429 may be here)",
            code.as_u16()
        )));
    }
}

fn backoff(
    about: &About<'_>,
    given: Option<&Retry>,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> (Duration, Duration) {
    let first = given.and_then(|given| given.backoff).map(|time| time.0);
    let longest = given.and_then(|given| given.max_backoff).map(|time| time.0);
    if let (Some(pause), Some(request)) = (first.max(longest), about.timeouts.request)
        && pause >= request
    {
        let field = if longest > first { "maxBackoff" } else { "backoff" };
        out.error(spot.key(field).finding(
            "the pause before a further try is longer than the whole request may take: lower it, \
             or raise `timeouts.request`",
        ));
    }
    if let (Some(first), Some(longest)) = (first, longest)
        && longest < first
    {
        out.error(spot.key("maxBackoff").finding(
            "the longest pause is shorter than the first one: raise `maxBackoff`, or lower \
             `backoff`",
        ));
    }
    let first = out.value(
        &format!("{base}.backoff"),
        &spot.key("backoff"),
        first,
        defaults::RETRY_BACKOFF.min(longest.unwrap_or(defaults::RETRY_BACKOFF)),
    );
    let longest = out.value(
        &format!("{base}.maxBackoff"),
        &spot.key("maxBackoff"),
        longest,
        defaults::RETRY_BACKOFF_MAX.max(first),
    );
    (first, longest)
}

fn budget(about: &About<'_>, out: &mut Output) -> BudgetSpec {
    let given = about.given(about.rule.failover);
    let spot = about.spot.key("failover");
    let path = |field: &str| format!("{}.failover.{field}", about.base);
    let default = defaults::RETRY_BUDGET;
    BudgetSpec {
        percent: out.value(
            &path("retryBudgetPercent"),
            &spot.key("retryBudgetPercent"),
            given.and_then(|given| given.retry_budget_percent).map(|percent| percent.0),
            default.percent,
        ),
        min_per_second: out.value(
            &path("minRetriesPerSecond"),
            &spot.key("minRetriesPerSecond"),
            given.and_then(|given| given.min_retries_per_second).map(Whole::fit),
            default.min_per_second,
        ),
    }
}

fn buffer(given: Option<&Retry>, (spot, path): (&Spot<'_>, &str), out: &mut Output) -> u32 {
    let spot = spot.key("bufferSize");
    let given = given.and_then(|given| given.buffer_size).map(|Size(bytes)| bytes);
    if given.is_some_and(|bytes| bytes > 16 * 1024 * 1024) {
        out.error(spot.finding(
            "as much would be held of every call until it is answered: keep 16Mi or less, as `64Ki`",
        ));
    }
    let given = given.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    out.value(path, &spot, given, defaults::RETRY_BUFFER_BYTES)
}

fn hedge(
    about: &About<'_>,
    given: Option<&Retry>,
    (spot, path): (&Spot<'_>, &str),
    out: &mut Output,
) -> Option<HedgeSpec> {
    let spot = spot.key("hedge");
    let hedge = given.and_then(|given| given.hedge)?;
    let after = hedge.after.map(|time| time.0);
    if let (Some(after), Some(request)) = (after, about.timeouts.request)
        && after >= request
    {
        out.error(spot.key("after").finding(
            "the second call would begin when the whole request is over: lower `after`, or raise \
             `timeouts.request`",
        ));
    }
    let spec = after.map_or(defaults::HEDGE, |after| HedgeSpec { min: after, max: after });
    Some(out.given(path, &spot, spec))
}

fn idempotency(about: &About<'_>, out: &mut Output) -> Option<Idempotency> {
    let IdempotencyDoc { header, scope } = about.given(about.rule.idempotency.as_ref())?;
    let spot = about.spot.key("idempotency");
    let base = format!("{}.idempotency", about.base);
    if scope.is_none() && about.falls_back() {
        out.report.lints.push(spot.finding(
            "nothing says that all backends remember the key together, so a call that was sent to \
             one is never sent to another: write `scope: AllBackends` if they share what they \
             remember, or `scope: Backend` if that is meant",
        ));
    }
    let scope = scope.map(|scope| match scope {
        IdempotencyScope::Backend => Scope::Backend,
        IdempotencyScope::AllBackends => Scope::AllBackends,
    });
    Some(Idempotency {
        header: out.given(&format!("{base}.header"), &spot.key("header"), header.0.clone()),
        scope: out.value(&format!("{base}.scope"), &spot.key("scope"), scope, Scope::Backend),
    })
}

/// Tries that could not all end within the request.
fn explain_time(about: &About<'_>, retry: &RetrySpec, out: &mut Output) {
    let given = about.rule.timeouts.and_then(|timeouts| timeouts.backend_request);
    let attempts = about.rule.retry.as_ref().and_then(|retry| retry.attempts);
    let (Some(request), Some(_)) = (about.timeouts.request, attempts) else { return };
    let pauses = (1..=retry.attempts).map(|number| retry.longest_backoff(number));
    let pauses = pauses.fold(Duration::ZERO, Duration::saturating_add);
    // A first pause that is too long is an error of its own.
    if pauses >= request && retry.backoff_base < request {
        out.report.lints.push(about.spot.key("retry").key("attempts").finding(format!(
            "the pauses before {} further tries may take as long as the whole request may, so the \
             last ones never begin: lower the number of attempts or `maxBackoff`",
            retry.attempts
        )));
        return;
    }
    let Some(one) = given else { return };
    if one.0.saturating_mul(retry.attempts + 1) > request && retry.attempts > 0 {
        out.report.lints.push(about.spot.key("retry").key("attempts").finding(format!(
            "together, {} tries of `backendRequest` each take longer than `timeouts.request` allows, so the \
             last ones are cut short: lower `backendRequest`, or the number of attempts",
            retry.attempts + 1
        )));
    }
}

/// A tier that falls back to the very server it comes from, and servers that are this gateway.
pub(super) fn loops(
    selected: &Selected<'_>,
    routes: &RouteTable,
    backends: &[Compiled],
    listeners: &[ListenerSpec],
    out: &mut Output,
) {
    let spec = |one: &BackendRef| backends.get(usize::from(one.backend.0)).map(|one| &one.spec);
    for rule in &routes.rules {
        let mut seen: Vec<&BackendSpec> = Vec::new();
        for backend in rule.tiers.iter().flatten().filter_map(spec) {
            let shares = |one: &&BackendSpec| {
                backend.endpoints.iter().any(|endpoint| one.endpoints.contains(endpoint))
            };
            if let Some(first) = seen.iter().find(|one| shares(one)) {
                out.error(super::backends::spot_of(selected, &backend.name).finding(format!(
                    "the rule `{}` of the route `{}` falls back from the backend `{}` to the same \
                     server: give the backends different endpoints, or remove one of them",
                    rule.name, rule.route, first.name
                )));
            }
            seen.push(backend);
        }
    }
    for backend in backends.iter().map(|one| &one.spec) {
        if let Some(listener) = listeners.iter().find(|one| leads_to(backend, one)) {
            out.error(super::backends::spot_of(selected, &backend.name).finding(format!(
                "the backend `{}` is the listener `{}` of this gateway, so its calls would go round \
                 for ever: write the address of the server",
                backend.name, listener.name
            )));
        }
    }
}

/// Whether an endpoint is a listener that takes HTTP.
fn leads_to(backend: &BackendSpec, listener: &ListenerSpec) -> bool {
    let takes =
        matches!(listener.protocol, ListenerProtocol::Http | ListenerProtocol::ForwardProxy);
    let address = listener.address;
    takes
        && address.port() != 0
        && backend.endpoints.iter().any(|endpoint| {
            let Host::Ip(ip) = endpoint.host else { return false };
            let same = ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback());
            same && endpoint.port == address.port()
        })
}
