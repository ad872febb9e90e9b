//! The registry mirror: registries, how they are reached, its own listener, the cache.
//!
//! In: the one `RegistryMirror` that applies. Out: the core's values, one backend for each registry
//! and the listener. What would serve one registry under the name of another is refused: a name or
//! a prefix twice, a host that is also a route's, a mirror that nobody can reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use tillgate_core::backend::{BackendId, Location};
use tillgate_core::class::{ClassId, ClassTable};
use tillgate_core::listener::{ListenerProtocol, ListenerSpec};
use tillgate_core::matching::{HostPattern, RouteTable};
use tillgate_core::mirror::{
    CacheSpec, Direct, FetchSpec, Login, MirrorSpec, ServeSpec, TagSpec, Unknown, UpstreamSpec,
};

use super::backends::{Compiled, location};
use super::select::Selected;
use super::{Input, Output, dangling, routes, step};
use crate::defaults;
use crate::document::Spot;
use crate::kinds::Kind;
use crate::kinds::registry_mirror::{RegistryDoc, RegistryMirrorSpec, UnknownArtifacts};
use crate::scalar::Whole;

mod registry;

/// A cache below this could not hold one usual image.
const CACHE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What a mirror may refer to.
pub(super) struct Known<'a> {
    pub(super) input: &'a Input,
    pub(super) classes: &'a Option<ClassTable>,
    pub(super) routes: &'a Option<RouteTable>,
}

/// What a mirror adds to the config.
pub(super) struct Mirrored {
    pub(super) spec: MirrorSpec,
    pub(super) listener: Option<ListenerSpec>,
}

/// The mirror; `None` without a RegistryMirror. Its registries join `backends`.
pub(super) fn compile(
    selected: &Selected<'_>,
    known: &Known<'_>,
    backends: &mut Vec<Compiled>,
    out: &mut Output,
) -> Option<Mirrored> {
    let (document, mirror) = selected.mirror?;
    let spec = &mirror.spec;
    let spot = document.spec();
    out.given("mirror", &spot, ());
    if spec.hostnames.is_none() && spec.address.is_none() {
        out.error(spot.key("registries").finding(
            "no client can reach the mirror: add `address`, where it listens by itself, or \
             `hostnames` under which the HTTP entry is the mirror",
        ));
    }
    Some(Mirrored {
        listener: listener(spec, &spot, out),
        spec: MirrorSpec {
            name: document.name.clone(),
            hostnames: hostnames(spec, &spot, known, out),
            upstreams: upstreams(spec, &spot, known, backends, out),
            cache: cache(spec, &spot, out),
            tags: tags(spec, &spot, out),
            fetches: fetches(spec, &spot, out),
            serves: serves(spec, &spot, out),
        },
    })
}

fn listener(spec: &RegistryMirrorSpec, spot: &Spot<'_>, out: &mut Output) -> Option<ListenerSpec> {
    let tls = spec.tls.as_ref();
    let base = format!("listeners.{}", defaults::MIRROR_LISTENER);
    let Some(address) = &spec.address else {
        if tls.is_some() {
            out.error(spot.key("tls").finding(
                "the mirror has no listener of its own whose TLS this could be: add `address`, or \
                 give the HTTP entry the certificate",
            ));
        }
        return None;
    };
    out.given(&base, &spot.key("address"), ());
    let protocol = ListenerProtocol::Registry;
    let plain = ListenerSpec::plain(
        defaults::MIRROR_LISTENER,
        protocol,
        address.0,
        defaults::stream_timeouts(protocol),
        defaults::LIMITS,
    );
    let tls = tls.map(|tls| super::tls::server(tls, &spot.key("tls"), &format!("{base}.tls"), out));
    Some(ListenerSpec { tls, ..plain })
}

fn hostnames(
    spec: &RegistryMirrorSpec,
    spot: &Spot<'_>,
    known: &Known<'_>,
    out: &mut Output,
) -> Vec<Arc<str>> {
    let list = spot.key("hostnames");
    let patterns = spec.hostnames.as_deref().unwrap_or_default();
    let mut hosts = Vec::new();
    for (index, pattern) in routes::hosts(patterns, &list, out).into_iter().enumerate() {
        let spot = list.index(index);
        out.given(&format!("mirror.hostnames[{index}]"), &spot, ());
        let text = routes::host_text(&pattern);
        let mut rules = known.routes.iter().flat_map(|routes| &routes.rules);
        if let Some(rule) = rules.find(|rule| rule.hosts.contains(&pattern)) {
            out.error(spot.finding(format!(
                "the route `{}` has the hostname `{text}` too, and would never be asked: give the \
                 mirror a name of its own",
                rule.route
            )));
        }
        match pattern {
            HostPattern::Exact(host) => hosts.push(host),
            HostPattern::Suffix(_) | HostPattern::Any => out.error(spot.finding(format!(
                "`{text}` stands for many hosts: write the names of the mirror, as \
                 `images.store.example`"
            ))),
        }
    }
    hosts
}

fn upstreams(
    spec: &RegistryMirrorSpec,
    spot: &Spot<'_>,
    known: &Known<'_>,
    backends: &mut Vec<Compiled>,
    out: &mut Output,
) -> Vec<UpstreamSpec> {
    let list = spot.key("registries");
    let mut names: BTreeMap<(&str, &str), Spot<'_>> = BTreeMap::new();
    let mut upstreams = Vec::new();
    for (index, registry) in spec.registries.iter().enumerate() {
        let spot = list.index(index);
        let prefix = registry.prefix.as_ref().map(|prefix| ("prefix", prefix.0.as_str()));
        for (field, name) in [("host", registry.host.0.as_str())].into_iter().chain(prefix) {
            let at = spot.key(field);
            if let Some(first) = names.get(&(field, name)) {
                let message =
                    format!("two registries have the {field} `{name}`: change or remove one");
                out.error(at.finding(message).related(first.place(), "is the first one"));
            } else {
                names.insert((field, name), at);
            }
        }
        upstreams.extend(one(registry, index, &spot, known, backends, out));
    }
    upstreams
}

fn one(
    registry: &RegistryDoc,
    index: usize,
    spot: &Spot<'_>,
    known: &Known<'_>,
    backends: &mut Vec<Compiled>,
    out: &mut Output,
) -> Option<UpstreamSpec> {
    let base = format!("mirror.registries[{index}]");
    out.given(&base, spot, ());
    let place = out.value(
        &format!("backends.{}.location", step(&registry::name(registry))),
        &spot.key("location"),
        registry.location.map(location),
        Location::Cloud,
    );
    let class = class(registry, spot, (known, &base), out);
    let reached = registry::backend(registry, place, spot, out)?;
    let login = login(registry, spot, out);
    if login.is_some() && reached.compiled.spec.tls.is_none() {
        let field = if registry.auth.is_some() { "auth" } else { "credentialsSecret" };
        out.report.lints.push(spot.key(field).finding(format!(
            "the password would travel readable, because `{}` is asked without TLS: write its \
             `url` with https",
            registry.host.0
        )));
    }
    let direct = registry.allow_direct.map(|flag| match flag.0 {
        true => Direct::Allowed,
        false => Direct::Refused,
    });
    let backend = BackendId(u16::try_from(backends.len()).ok()?);
    backends.push(reached.compiled);
    Some(UpstreamSpec {
        registry: registry.host.0.as_str().into(),
        prefix: registry.prefix.as_ref().map(|prefix| prefix.0.as_str().into()),
        backend,
        host: reached.authority,
        class: class?,
        login,
        unknown: out.value(
            &format!("{base}.unknownArtifacts"),
            &spot.key("unknownArtifacts"),
            registry.unknown_artifacts.map(|what| match what {
                UnknownArtifacts::Hold => Unknown::Hold,
                UnknownArtifacts::Allow => Unknown::Allow,
            }),
            Unknown::Hold,
        ),
        direct: out.value(
            &format!("{base}.allowDirect"),
            &spot.key("allowDirect"),
            direct,
            Direct::Refused,
        ),
    })
}

/// The account at a registry. Where a secret of the Bootstrap lies is not the policy's to know.
fn login(registry: &RegistryDoc, spot: &Spot<'_>, out: &mut Output) -> Option<Login> {
    let account = registry.auth.as_ref().map(|auth| Login::Account {
        username: auth.username.0.as_str().into(),
        password_file: auth.password_file.0.clone(),
    });
    let secret = registry.credentials_secret.as_ref();
    let secret = secret.map(|name| Login::Secret { name: name.0.as_str().into(), file: None });
    if account.is_some() && secret.is_some() {
        out.error(
            spot.key("credentialsSecret")
                .finding("the account is named twice: remove `auth`, or `credentialsSecret`"),
        );
    }
    account.or(secret)
}

fn class(
    registry: &RegistryDoc,
    spot: &Spot<'_>,
    (known, base): (&Known<'_>, &str),
    out: &mut Output,
) -> Option<ClassId> {
    let classes = known.classes.as_ref()?;
    let spot = spot.key("trafficClass");
    let name = registry.traffic_class.as_ref().map_or(defaults::MIRROR_CLASS, |name| &name.0);
    let id = classes.id(name);
    if id.is_none() {
        let names: Vec<&str> = classes.iter().map(|(_, class)| &*class.name).collect();
        let finding = dangling(known.input, Kind::TrafficClass, name, &spot, names);
        out.report.errors.extend(finding);
    }
    let given = registry.traffic_class.as_ref().and(id);
    id.map(|id| out.value(&format!("{base}.trafficClass"), &spot, given, id))
}

fn cache(spec: &RegistryMirrorSpec, spot: &Spot<'_>, out: &mut Output) -> CacheSpec {
    let (given, spot) = (&spec.cache, spot.key("cache"));
    if given.size.0 < CACHE_BYTES_MIN {
        out.error(
            spot.key("size").finding(
                "so small a cache could not hold one image: allow 64Mi or more, as `20Gi`",
            ),
        );
    }
    let free = given.min_free.map(|size| size.0);
    CacheSpec {
        directory: std::path::Path::new(&given.directory.0).into(),
        bytes_max: out.given("mirror.cache.size", &spot.key("size"), given.size.0),
        free_bytes_min: out.value(
            "mirror.cache.minFree",
            &spot.key("minFree"),
            free,
            defaults::MIRROR_FREE_BYTES,
        ),
    }
}

fn tags(spec: &RegistryMirrorSpec, spot: &Spot<'_>, out: &mut Output) -> TagSpec {
    let (given, spot) = (spec.tags.unwrap_or_default(), spot.key("tags"));
    let mut time = |field: &str, given: Option<crate::scalar::DurationText>, default| {
        let path = format!("mirror.tags.{field}");
        out.value(&path, &spot.key(field), given.map(|time| time.0), default)
    };
    let default = defaults::MIRROR_TAGS;
    TagSpec {
        fresh: time("ttl", given.ttl, default.fresh),
        stale: time("staleIfError", given.stale_if_error, default.stale),
    }
}

fn serves(spec: &RegistryMirrorSpec, spot: &Spot<'_>, out: &mut Output) -> ServeSpec {
    let (given, spot) = (spec.limits, spot.key("limits"));
    let rate = given.and_then(|limits| limits.rate).map(|rate| Some(rate.0));
    let pulls = given.and_then(|limits| limits.concurrent_pulls).map(|pulls| Some(pulls.fit()));
    ServeSpec {
        rate: out.value("mirror.limits.rate", &spot.key("rate"), rate, None),
        running_max: out.value(
            "mirror.limits.concurrentPulls",
            &spot.key("concurrentPulls"),
            pulls,
            None,
        ),
    }
}

fn fetches(spec: &RegistryMirrorSpec, spot: &Spot<'_>, out: &mut Output) -> FetchSpec {
    let (given, spot) = (spec.fetches.unwrap_or_default(), spot.key("fetches"));
    let default = defaults::MIRROR_FETCHES;
    let path = |field: &str| format!("mirror.fetches.{field}");
    let running = given.max_running.map(Whole::fit);
    let waiting = given.max_waiting.map(Whole::fit);
    let day = given.metered_per_day.map(|size| Some(size.0));
    let running_max =
        out.value(&path("maxRunning"), &spot.key("maxRunning"), running, default.running_max);
    let waiting_max =
        out.value(&path("maxWaiting"), &spot.key("maxWaiting"), waiting, default.waiting_max);
    let abandon = given.abandon_after.map(|time| Some(time.0));
    let abandon =
        out.value(&path("abandonAfter"), &spot.key("abandonAfter"), abandon, default.abandon);
    let day_bytes_max =
        out.value(&path("meteredPerDay"), &spot.key("meteredPerDay"), day, default.day_bytes_max);
    let mut time =
        |field: &str, given, default| out.positive(&path(field), &spot.key(field), given, default);
    FetchSpec {
        running_max,
        waiting_max,
        first_byte: time("firstByteTimeout", given.first_byte_timeout, default.first_byte),
        connect: time("connectTimeout", given.connect_timeout, default.connect),
        response: time("responseTimeout", given.response_timeout, default.response),
        stall: time("stallTimeout", given.stall_timeout, default.stall),
        patience: time("giveUp", given.give_up, default.patience),
        abandon,
        day_bytes_max,
    }
}
