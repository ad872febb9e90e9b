//! Rollouts: the release, the ring of this store, promotions.
//!
//! A store's ring is the first one that selects it, and its turn in a ramp follows from the names
//! of release and store, so that no store has to know the others.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tillgate_core::calendar::Effect;
use tillgate_core::class::ClassId;
use tillgate_core::gate::{
    Approval, Artifact, Busy, Gate, Promotion, PullLimits, Ring, Rollout, RolloutName, Signed,
    Stages, StoreRing,
};
use tillgate_core::units::PerDirection;

use super::gate::{Of, names, refer, store_id};
use super::select::{self, Selected};
use super::{Output, calendar};
use crate::document::{Body, Document, Spot};
use crate::kinds::rollout::{
    ApprovalDoc, ArtifactDoc, HeldAction, OnWindowClose, PromotedKind, PromotionDoc, PromotionMode,
    RingDoc, RolloutSpec,
};
use crate::kinds::{BundleDoc, Kind, RingPromotionDoc, RolloutDoc};
use crate::scalar::{Instant, Name, Whole};
use crate::{defaults, suggest};

/// What both Rollout and Bundle say of their rings.
struct Given<'a> {
    kind: PromotedKind,
    release: &'a str,
    rings: &'a [RingDoc],
    promotion: PromotionDoc,
    released_through: Option<&'a Name>,
    released_at: Option<Instant>,
}

/// A rollout; `None` if its class is wrong.
pub(super) fn one(
    document: &Document,
    given: &RolloutDoc,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<Rollout> {
    let spec = &given.spec;
    let spot = document.spec();
    let stages = Given {
        kind: PromotedKind::Rollout,
        release: &spec.release.name.0,
        rings: &spec.rings,
        promotion: spec.promotion,
        released_through: spec.released_through.as_ref(),
        released_at: spec.released_at,
    };
    let stages = stages.compile(document, &spot, selected, of, out);
    let previous = spec.always_allow.and_then(|allow| allow.previous_releases);
    let pulls = pulls(spec, &spot, of, out);
    Some(Rollout {
        name: document.name.clone(),
        artifacts: artifacts(&spec.artifacts),
        images: images(spec, &spot, out),
        stages,
        windows: spec
            .windows
            .as_ref()
            .map(|names| names.iter().map(|name| name.0.as_str().into()).collect()),
        previous_releases: previous.map_or(defaults::PREVIOUS_RELEASES, Whole::fit),
        pulls: pulls?,
    })
}

/// The rings of the policy itself; `None` if it goes out at once.
pub(super) fn of_policy(
    document: &Document,
    given: &BundleDoc,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) -> Option<Stages> {
    let rollout = given.spec.rollout.as_ref()?;
    let stages = Given {
        kind: PromotedKind::Bundle,
        release: &document.name,
        rings: &rollout.rings,
        promotion: rollout.promotion,
        released_through: rollout.released_through.as_ref(),
        released_at: rollout.released_at,
    };
    let stages = stages.compile(document, &document.spec().key("rollout"), selected, of, out);
    (!rollout.immediate.is_some_and(|flag| flag.0)).then_some(stages)
}

pub(super) fn artifacts(given: &[ArtifactDoc]) -> Vec<Artifact> {
    let one = |artifact: &ArtifactDoc| Artifact {
        registry: artifact.registry.0.as_str().into(),
        repositories: artifact.repositories.iter().map(|pattern| pattern.0.clone()).collect(),
    };
    given.iter().map(one).collect()
}

/// Signatures as the core keeps them, over the document without its `approvals`.
pub(super) fn signed(document: &Document, approvals: &[ApprovalDoc]) -> Signed {
    let one = |approval: &ApprovalDoc| Approval {
        role: approval.role.0.as_str().into(),
        key_id: approval.key_id.0.as_str().into(),
        signature: approval.signature.0.as_str().into(),
    };
    Signed::new(document.signed_content().into(), approvals.iter().map(one).collect())
}

fn images(
    spec: &RolloutSpec,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Vec<(std::sync::Arc<str>, std::sync::Arc<str>)> {
    let list = spot.key("release").key("images");
    let in_charge = artifacts(&spec.artifacts);
    let mut seen = BTreeMap::new();
    for (index, image) in spec.release.images.iter().enumerate() {
        let spot = list.index(index).key("repository");
        let name = image.repository.0.as_str();
        if let Some(first) = seen.insert(name, spot.clone()) {
            let message = format!("the repository `{name}` is there twice: keep one digest");
            out.error(spot.finding(message).related(first.place(), "is the first one"));
        }
        let patterns = in_charge.iter().flat_map(|artifact| &artifact.repositories);
        if !patterns.into_iter().any(|pattern| pattern.matches(name)) {
            out.error(spot.finding(format!(
                "the repository `{name}` is none of this rollout's `artifacts`: add a pattern \
                 there, or remove the image"
            )));
        }
    }
    let one = |image: &crate::kinds::rollout::ImageDoc| {
        (image.repository.0.as_str().into(), image.digest.0.as_str().into())
    };
    spec.release.images.iter().map(one).collect()
}

fn class(name: &Name, spot: &Spot<'_>, of: &Of<'_>, out: &mut Output) -> Option<ClassId> {
    let names: Vec<&str> = of.classes.iter().map(|(_, class)| &*class.name).collect();
    refer(of, Kind::TrafficClass, &name.0, spot, names, out);
    of.classes.id(&name.0)
}

fn pulls(spec: &RolloutSpec, spot: &Spot<'_>, of: &Of<'_>, out: &mut Output) -> Option<PullLimits> {
    let limits = spec.limits;
    let rate = limits.and_then(|limits| limits.rate);
    let held = spec.when_held.as_ref();
    let held_spot = spot.key("whenHeld");
    let throttle = match held.map(|held| (held.action, held.rate)) {
        Some((HeldAction::Throttle, Some(rate))) => Some(rate.0),
        Some((HeldAction::Throttle, None)) => {
            out.error(
                held_spot
                    .key("action")
                    .finding("held pulls are to trickle, and nothing says how fast: add `rate`"),
            );
            None
        }
        Some((HeldAction::Hold, Some(_))) => {
            out.error(held_spot.key("rate").finding(
                "pulls that are held have no rate: remove it, or write `action: Throttle`",
            ));
            None
        }
        Some((HeldAction::Hold, None)) | None => None,
    };
    let retry_after = held.and_then(|held| held.retry_after).map(|text| text.0);
    if retry_after.is_some_and(|after| after < Duration::from_secs(1)) {
        out.error(
            held_spot
                .key("retryAfter")
                .finding("clients would ask again all the time: write 1s or more, as `15m`"),
        );
    }
    let pause = busy(spec, &spot.key("pauseWhile"), of, out);
    let class = class(&spec.traffic_class, &spot.key("trafficClass"), of, out);
    let share = |share: Option<crate::scalar::ShareText>| share.map(|share| share.0);
    Some(PullLimits {
        class: class?,
        rate: PerDirection {
            up: rate.and_then(|rate| share(rate.up)),
            down: rate.and_then(|rate| share(rate.down)),
        },
        concurrent: limits.and_then(|limits| limits.concurrent_pulls).map(Whole::fit),
        metered_bytes_per_day: limits
            .and_then(|limits| limits.metered_bytes_per_day)
            .map(|size| size.0),
        pause_on_window_close: spec.on_window_close == Some(OnWindowClose::Pause),
        throttle,
        retry_after: retry_after.unwrap_or(defaults::RETRY_AFTER),
        pause_while: pause,
        prefetch: spec.prefetch.is_some_and(|flag| flag.0),
    })
}

fn busy(spec: &RolloutSpec, spot: &Spot<'_>, of: &Of<'_>, out: &mut Output) -> Option<Busy> {
    let given = spec.pause_while.as_ref()?;
    if given.requests_per_second.is_none() && given.added_latency.is_none() {
        out.error(spot.finding(
            "nothing says when the class is busy: add `requestsPerSecond` or `addedLatency`",
        ));
    }
    Some(Busy {
        class: class(&given.traffic_class, &spot.key("trafficClass"), of, out)?,
        requests_per_second: given.requests_per_second.map(Whole::fit),
        added_latency: given.added_latency.map(|text| text.0),
    })
}

impl Given<'_> {
    fn compile(
        &self,
        document: &Document,
        spot: &Spot<'_>,
        selected: &Selected<'_>,
        of: &Of<'_>,
        out: &mut Output,
    ) -> Stages {
        let list = spot.key("rings");
        let mut seen: BTreeMap<&str, Spot<'_>> = BTreeMap::new();
        for (index, ring) in self.rings.iter().enumerate() {
            let spot = list.index(index);
            select::check_expressions(&ring.store_selector, &spot.key("storeSelector"), out);
            let name = spot.key("name");
            if let Some(first) = seen.insert(&ring.name.0, name.clone()) {
                let message = format!("the ring `{}` is there twice: rename one", ring.name.0);
                out.error(name.finding(message).related(first.place(), "is the first one"));
            }
        }
        let rings = self.rings.iter().enumerate().map(|(index, ring)| Ring {
            name: ring.name.0.as_str().into(),
            bake: ring.bake.map(|text| text.0),
            approvals: calendar::required(
                ring.approvals.as_ref(),
                &list.index(index).key("approvals"),
                out,
            ),
        });
        let rings: Vec<Ring> = rings.collect();
        let mine = self.mine(of);
        let released_through = self.released_through(spot, out);
        self.ramps_have_a_start(spot, released_through, out);
        Stages {
            release: self.release.into(),
            mine,
            released_through,
            released_at: self.released_at.map(|at| at.0),
            promotions: self.promotions(document, &rings, selected),
            rings,
        }
    }

    fn mine(&self, of: &Of<'_>) -> Option<StoreRing> {
        let (document, store) = of.store?;
        let index =
            self.rings.iter().position(|one| select::applies(&one.store_selector, store))?;
        let ring = &self.rings[index];
        let over = ring.ramp.map_or(Duration::ZERO, |ramp| ramp.over.0);
        let hash = ramp_hash(self.release, store_id(document));
        let ignore_windows = ring.ignore_windows.is_some_and(|flag| flag.0);
        Some(StoreRing { ignore_windows, ..StoreRing::ramping(index, over, hash) })
    }

    fn released_through(&self, spot: &Spot<'_>, out: &mut Output) -> usize {
        let Some(name) = self.released_through else { return 0 };
        let spot = spot.key("releasedThrough");
        if self.promotion.mode == PromotionMode::Signed {
            out.error(spot.finding(
                "`promotion.mode: Signed` opens rings by RingPromotions: remove this line, or \
                 write `mode: Manual`",
            ));
        }
        let index = self.rings.iter().position(|ring| ring.name == *name);
        if index.is_none() {
            let names: Vec<&str> = self.rings.iter().map(|ring| &*ring.name.0).collect();
            let hint = suggest::hint(&name.0, names);
            out.error(spot.finding(format!("there is no ring `{}`: {hint}", name.0)));
        }
        index.unwrap_or(0)
    }

    /// A ramp that no promotion starts needs another beginning.
    fn ramps_have_a_start(&self, spot: &Spot<'_>, through: usize, out: &mut Output) {
        if self.released_at.is_some() {
            return;
        }
        for (index, ring) in self.rings.iter().enumerate().take(through + 1) {
            if ring.ramp.is_some() {
                let spot = spot.key("rings").index(index).key("ramp");
                out.error(spot.finding(format!(
                    "the ring `{}` is open without a promotion, so its ramp has no beginning: add \
                     `releasedAt`",
                    ring.name.0
                )));
            }
        }
    }

    /// Promotions of this release; what is wrong with them is told by [`check`].
    fn promotions(
        &self,
        document: &Document,
        rings: &[Ring],
        selected: &Selected<'_>,
    ) -> Vec<Promotion> {
        let own = promotions(selected).filter(|(_, promotion)| {
            let spec = &promotion.spec;
            spec.rollout_ref.kind.unwrap_or(PromotedKind::Rollout) == self.kind
                && *spec.rollout_ref.name.0 == *document.name
                && (self.kind == PromotedKind::Bundle || spec.release.0 == self.release)
        });
        let compiled = own.filter_map(|(document, promotion)| {
            let spec = &promotion.spec;
            Some(Promotion {
                name: document.name.clone(),
                through: rings.iter().position(|ring| *ring.name == *spec.through.0)?,
                at: spec.at.0,
                signed: signed(document, spec.approvals.as_deref().unwrap_or_default()),
            })
        });
        compiled.collect()
    }
}

fn promotions<'a>(
    selected: &Selected<'a>,
) -> impl Iterator<Item = (&'a Document, &'a RingPromotionDoc)> {
    selected.changes.iter().filter_map(|document| {
        let Body::RingPromotion(body) = &document.body else { return None };
        Some((*document, body))
    })
}

/// The place of a store in the ramp of a release: the first eight bytes of a hash over both, so
/// that the same stores are not always the first.
pub(crate) fn ramp_hash(release: &str, store_id: &str) -> u64 {
    let hash = Sha256::digest(format!("{release}\n{store_id}").as_bytes());
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What rollouts, windows and promotions say of each other.
pub(super) fn check(selected: &Selected<'_>, gate: &Gate, of: &Of<'_>, out: &mut Output) {
    for document in &selected.changes {
        if let Body::Rollout(body) = &document.body {
            windows(document, &body.spec, (selected, gate, of), out);
        }
        if let Body::RingPromotion(body) = &document.body {
            promotion(document, body, selected, of, out);
        }
    }
    for (index, rollout) in gate.rollouts.iter().enumerate() {
        for other in &gate.rollouts[..index] {
            same_image(selected, rollout, other, out);
        }
    }
}

/// The windows that a rollout names are there, allow, and apply to it.
fn windows(
    document: &Document,
    spec: &RolloutSpec,
    (selected, gate, of): (&Selected<'_>, &Gate, &Of<'_>),
    out: &mut Output,
) {
    for (index, name) in spec.windows.iter().flatten().enumerate() {
        let spot = document.spec().key("windows").index(index);
        let names = names(selected, Kind::ChangeWindow);
        if !refer(of, Kind::ChangeWindow, &name.0, &spot, names, out) {
            continue;
        }
        let Some(window) = gate.windows.iter().find(|window| *window.name == *name.0) else {
            continue;
        };
        if window.window.effect == Effect::Deny {
            out.error(spot.finding(format!(
                "the window `{}` denies, and counts for every rollout that it applies to: remove \
                 it here",
                name.0
            )));
        }
        let applies = window.applies_to.rollouts.iter().any(|one| match one {
            RolloutName::Every => true,
            RolloutName::Policy => false,
            RolloutName::Named(one) => *one == document.name,
        });
        if !applies {
            out.error(spot.finding(format!(
                "the window `{}` does not apply to the rollout `{}`: add it to the window's \
                 `appliesTo.rollouts`",
                name.0, document.name
            )));
        }
    }
}

/// A promotion names a rollout that is there, and one of its rings.
fn promotion(
    document: &Document,
    given: &RingPromotionDoc,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) {
    let spec = &given.spec;
    let spot = document.spec();
    let kind = match spec.rollout_ref.kind {
        None | Some(PromotedKind::Rollout) => Kind::Rollout,
        Some(PromotedKind::Bundle) => Kind::Bundle,
    };
    let mut candidates = selected.changes.iter().chain(&selected.left_out);
    let Some(promoted) =
        candidates.clone().find(|one| one.kind == kind && *one.name == *spec.rollout_ref.name.0)
    else {
        let names: Vec<&str> =
            candidates.by_ref().filter(|one| one.kind == kind).map(|one| &*one.name).collect();
        let spot = spot.key("rolloutRef").key("name");
        refer(of, kind, &spec.rollout_ref.name.0, &spot, names, out);
        return;
    };
    let (rings, mode) = rings(promoted);
    if mode == Some(PromotionMode::Manual) {
        let message = format!(
            "{} has `promotion.mode: Manual` and does not look at promotions: write `mode: Signed` \
             there, or remove this document",
            promoted.title()
        );
        let place = promoted.spec().key("promotion").key("mode").place();
        let finding = spot.key("rolloutRef").finding(message);
        out.error(finding.related(place, "is the mode"));
    }
    let names: Vec<&str> = rings.iter().map(|ring| &*ring.name.0).collect();
    if !names.contains(&&*spec.through.0) {
        let hint = suggest::hint(&spec.through.0, names);
        out.error(spot.key("through").finding(format!(
            "{} has no ring `{}`: {hint}",
            promoted.title(),
            spec.through.0
        )));
    }
}

/// The rings of what can be promoted, and who opens them.
fn rings(document: &Document) -> (&[RingDoc], Option<PromotionMode>) {
    if let Body::Rollout(body) = &document.body {
        return (&body.spec.rings, Some(body.spec.promotion.mode));
    }
    let Body::Bundle(body) = &document.body else { return (&[], None) };
    match &body.spec.rollout {
        Some(rollout) => (&rollout.rings, Some(rollout.promotion.mode)),
        None => (&[], None),
    }
}

/// One image in two releases would have two answers.
fn same_image(selected: &Selected<'_>, rollout: &Rollout, other: &Rollout, out: &mut Output) {
    let registries = |one: &Rollout| -> Vec<std::sync::Arc<str>> {
        one.artifacts.iter().map(|artifact| artifact.registry.clone()).collect()
    };
    let both = registries(other);
    if !registries(rollout).iter().any(|registry| both.contains(registry)) {
        return;
    }
    let Some((repository, _)) = rollout.images.iter().find(|image| other.images.contains(image))
    else {
        return;
    };
    let place = |name: &str| {
        selected.changes.iter().find(|one| one.kind == Kind::Rollout && &*one.name == name)
    };
    if let (Some(second), Some(first)) = (place(&rollout.name), place(&other.name)) {
        let message = format!(
            "both `{}` and `{}` release the same image of `{repository}`: remove it from one",
            other.name, rollout.name
        );
        let finding = second.spec().key("release").key("images").finding(message);
        out.error(finding.related(first.spec().key("release").place(), "is the other one"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_come_in_the_published_order() {
        let hours = |store: &str| {
            let hash = ramp_hash("pos-2026.47.1", store);
            Stages::ramp_delay(Duration::from_secs(72 * 3600), hash).as_secs_f64() / 3600.0
        };
        for (store, expected) in [("0412", 68.10), ("0977", 0.63), ("2001", 46.43)] {
            assert!((hours(store) - expected).abs() < 0.005, "{store}: {}", hours(store));
        }
        let mut per_hour = [0; 72];
        for number in 0..60_000 {
            let hour = hours(&format!("{number:05}"));
            let slot = (0..72).rfind(|slot| f64::from(*slot) <= hour).unwrap();
            per_hour[usize::try_from(slot).unwrap()] += 1;
        }
        assert_eq!((per_hour.iter().min(), per_hour.iter().max()), (Some(&747), Some(&920)));
    }
}
