//! The registry mirror as plain data.
//!
//! Shown only where there is one, so that a store without it reads and digests as it did before.

use tillgate_core::mirror::{Direct, Login, MirrorSpec, Unknown, UpstreamSpec};

use super::{Effective, Value, class_name, list, map, number, optional, text};
use crate::scalar::{duration_text, size_text};

pub(super) fn of_mirror(mirror: &MirrorSpec, config: &Effective) -> Value {
    let cache = map([
        ("directory", text(mirror.cache.directory.display())),
        ("size", text(size_text(mirror.cache.bytes_max))),
        ("minFree", text(size_text(mirror.cache.free_bytes_min))),
    ]);
    let tags = map([
        ("ttl", text(duration_text(mirror.tags.fresh))),
        ("staleIfError", text(duration_text(mirror.tags.stale))),
    ]);
    let of = &mirror.fetches;
    let fetches = map([
        ("maxRunning", number(of.running_max)),
        ("maxWaiting", number(of.waiting_max)),
        ("firstByteTimeout", text(duration_text(of.first_byte))),
        ("connectTimeout", text(duration_text(of.connect))),
        ("responseTimeout", text(duration_text(of.response))),
        ("stallTimeout", text(duration_text(of.stall))),
        ("giveUp", text(duration_text(of.patience))),
        ("abandonAfter", optional(of.abandon, |time| text(duration_text(time)))),
        ("meteredPerDay", optional(of.day_bytes_max, |bytes| text(size_text(bytes)))),
    ]);
    let limits = map([
        ("rate", optional(mirror.serves.rate, text)),
        ("concurrentPulls", optional(mirror.serves.running_max, number)),
    ]);
    map([
        ("name", text(&mirror.name)),
        ("hostnames", list(&mirror.hostnames, text)),
        ("registries", list(&mirror.upstreams, |one| of_upstream(one, config))),
        ("cache", cache),
        ("tags", tags),
        ("fetches", fetches),
        ("limits", limits),
    ])
}

fn of_upstream(one: &UpstreamSpec, config: &Effective) -> Value {
    let auth = optional(one.login.as_ref(), |login| match login {
        Login::Account { username, password_file } => {
            map([("username", text(username)), ("passwordFile", text(password_file.display()))])
        }
        Login::Secret { name, .. } => map([("credentialsSecret", text(name))]),
    });
    let unknown = match one.unknown {
        Unknown::Hold => "Hold",
        Unknown::Allow => "Allow",
    };
    map([
        ("host", text(&one.registry)),
        ("prefix", optional(one.prefix.as_ref(), text)),
        ("backend", text(&config.backend(one.backend).name)),
        ("askedAs", text(&one.host)),
        ("trafficClass", class_name(Some(one.class), config)),
        ("auth", auth),
        ("unknownArtifacts", text(unknown)),
        ("allowDirect", Value::Flag(one.direct == Direct::Allowed)),
    ])
}
