//! Why an image may be pulled at some moment, or not: what the gate of real pulls decides, and
//! everything that it looks at.

use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_core::calendar::Effect;
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::{self, Clock, Holding, Look, Opening, Rollout, StoreState};
use tillgate_core::mirror::{Digest, Verdict};

use crate::mirror::{Judged, Place};

/// An image that is asked about.
pub(crate) struct Image {
    pub(crate) place: Place,
    pub(crate) digest: Digest,
}

impl Image {
    /// The image that is meant: without a registry the one whose rollout has the repository,
    /// without a digest the one of its release.
    ///
    /// # Errors
    /// What is missing, or wrong.
    pub(crate) fn find(
        effective: &Effective,
        registry: Option<&str>,
        repository: &str,
        digest: Option<&str>,
    ) -> Result<Self, String> {
        let rollouts = &effective.gate.rollouts;
        let of_rollouts = || rollouts.iter().find_map(|one| one.registry_of(repository)).cloned();
        let only = || match effective.mirror.as_ref().map(|mirror| &*mirror.upstreams) {
            Some([one]) => Some(Arc::clone(&one.registry)),
            _ => None,
        };
        let registry = registry.map(|name| name.to_ascii_lowercase().into());
        let registry = registry.or_else(of_rollouts).or_else(only).ok_or_else(|| {
            format!(
                "no Rollout has {repository}: name its registry, as registry.example/{repository}"
            )
        })?;
        let released = || {
            let rollout = rollouts.iter().find(|one| one.is_in_charge(&registry, repository))?;
            let (_, digest) = rollout.images.iter().find(|(name, _)| **name == *repository)?;
            Some(digest.to_string())
        };
        let digest = digest.map(str::to_owned).or_else(released).ok_or_else(|| {
            format!("no release names {repository}: add its digest, as {repository}@sha256:…")
        })?;
        let digest = digest.parse().map_err(|_| {
            format!("`{digest}` is no digest: write it as sha256: and 64 hex digits")
        })?;
        Ok(Self { place: Place { registry, repository: repository.into() }, digest })
    }

    /// What would happen to a pull in a store that has nothing of it yet.
    pub(crate) fn judge(&self, effective: &Effective, at: (Clock, Timestamp)) -> Judged {
        let has = (Holding::New, StoreState::Running);
        Judged::new(effective, (&self.place, &self.digest), has, at, Look::Ahead)
    }
}

/// The image that a person names, as a question has it.
pub(crate) fn asked(text: &str) -> Value {
    let (registry, repository, digest) = split(text);
    json!({"registry": registry, "repository": repository, "digest": digest})
}

/// Registry, repository and digest of an image's name.
fn split(text: &str) -> (Option<&str>, &str, Option<&str>) {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            (Some(host), rest, digest)
        }
        _ => (None, name, digest),
    }
}

/// What was decided about `image`, and why.
pub(crate) fn of(
    effective: &Effective,
    image: &Image,
    judged: &Judged,
    (clock, now): (Clock, Timestamp),
) -> Value {
    let gate = &effective.gate;
    let digest = judged.digest.to_string();
    let (registry, repository) = (&*image.place.registry, &*image.place.repository);
    let (holding, store) = (judged.holding, judged.store);
    let ask = gate::Ask { registry, repository, digest: &digest, holding, store };
    let verdict = gate.verdict(&ask, clock, now);
    let rollout = gate.in_charge(registry, repository, &digest);
    let (name, opening) = match verdict {
        gate::Verdict::Prohibited(_) => ("Prohibited", None),
        gate::Verdict::Kept(_) => ("Kept", None),
        gate::Verdict::Unknown(_) => ("Unknown", None),
        gate::Verdict::Open(opening) => ("Open", Some(opening)),
        gate::Verdict::Held(opening) => ("Held", Some(opening)),
    };
    let opening = opening.or_else(|| Some(gate.of_rollout(rollout?, store, clock, now)));
    let about = About { effective, clock, now };
    let mut shown = json!({
        "image": {
            "registry": registry, "repository": repository, "digest": image.digest.to_string(),
        },
        "at": now.to_string(),
        "clock": match clock {
            Clock::Synced => "Synced",
            Clock::Holdover(_) => "Holdover",
            Clock::Untrusted(_) => "Untrusted",
        },
        "store": {
            "holds": format!("{holding:?}"),
            "isRestoring": store == StoreState::Restoring,
        },
        "verdict": name,
        "told": told(&judged.verdict),
    });
    if judged.digest != image.digest {
        shown["image"]["index"] = json!(digest);
    }
    if let Some(rollout) = rollout {
        shown["rollout"] = about.rollout(rollout, repository, &digest);
        shown["calendar"] = about.calendar(rollout, repository);
    }
    if let Some(opening) = opening {
        about.opening(&opening, &mut shown);
    }
    shown
}

/// What the client gets.
fn told(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Allowed => json!({"status": 200}),
        Verdict::Held { by, reason, opens, .. } => {
            let opens = opens.map(|at| at.to_string());
            json!({"status": 429, "heldBy": by, "reason": reason, "opens": opens})
        }
        Verdict::Prohibited { by, reason } => {
            json!({"status": 403, "heldBy": [by], "reason": reason})
        }
    }
}

/// The config and the moment that are talked about.
struct About<'a> {
    effective: &'a Effective,
    clock: Clock,
    now: Timestamp,
}

impl About<'_> {
    /// Where a document of the gate stands.
    fn origin(&self, document: &str) -> Option<String> {
        let (kind, name) = document.split_once('/')?;
        let section = match kind {
            "ChangeWindow" => "windows",
            "Freeze" => "freezes",
            "Override" => "overrides",
            "Prohibition" => "prohibitions",
            "Rollout" | "Ring" | "Ramp" => "rollouts",
            _ => return None,
        };
        self.effective.origin_of("gate", section, name).map(ToString::to_string)
    }

    fn rollout(&self, rollout: &Rollout, repository: &str, digest: &str) -> Value {
        let stages = &rollout.stages;
        let name_of = |index: usize| stages.rings.get(index).map(|ring| &*ring.name);
        let promotions: Vec<Value> = stages
            .promotions
            .iter()
            .map(|one| {
                json!({
                    "name": &*one.name,
                    "through": name_of(one.through),
                    "at": one.at.to_string(),
                    "hasPassed": one.at <= self.now,
                })
            })
            .collect();
        let document = format!("Rollout/{}", rollout.name);
        json!({
            "document": document,
            "origin": self.origin(&document),
            "release": &*stages.release,
            "namesThisImage": rollout.releases(repository, digest),
            "ring": stages.ring(),
            "rings": stages.rings.iter().map(|ring| &*ring.name).collect::<Vec<_>>(),
            "releasedThrough": name_of(stages.released_through),
            "promotions": promotions,
        })
    }

    /// Windows, freezes and overrides that concern the image.
    fn calendar(&self, rollout: &Rollout, repository: &str) -> Value {
        let all = self.effective.gate.applying(rollout, Some(repository), self.clock, self.now);
        let shown = all.into_iter().map(|one| {
            let document = format!("{}/{}", one.kind, one.name);
            json!({
                "origin": self.origin(&document),
                "document": document,
                "effect": match one.effect {
                    Some(Effect::Allow) => "Allow",
                    Some(Effect::Deny) => "Deny",
                    None => "Suspend",
                },
                "isActive": one.is_active,
                "reason": one.reason,
            })
        });
        shown.collect()
    }

    fn opening(&self, opening: &Opening<'_>, shown: &mut Value) {
        let held = opening.held_by.iter().map(|one| {
            let document = one.to_string();
            json!({"origin": self.origin(&document), "document": document})
        });
        let suspended = opening.suspended.iter().map(
            |(what, by)| json!({"document": what.to_string(), "by": format!("Override/{by}")}),
        );
        shown["heldBy"] = held.collect();
        shown["suspended"] = suspended.collect();
        shown["nextOpen"] = json!(opening.next_open.map(|at| at.to_string()));
    }
}
