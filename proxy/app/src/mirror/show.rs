//! `/v1/rollouts`: how every rollout stands, what slows it, and how far its images are.

use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_core::gate::{Ran, Rollout};
use tillgate_core::units::BitRate;

use super::Mirror;
use crate::running::Running;

impl Mirror {
    /// What there is to tell.
    pub(crate) fn show(&self, running: &Arc<Running>) -> Value {
        // A policy of a moment ago.
        if running.effective.gate.rollouts.iter().any(|one| self.lanes.stands(&one.name).is_none())
        {
            self.look(running);
        }
        let rollouts = running.effective.gate.rollouts.iter();
        let (caching, (bytes, blobs)) = (self.store.keeps(), self.store.holds());
        let why = self.store.keeps_nothing();
        json!({
            "store": &*running.effective.store,
            "clock": self.clock.state().name(),
            "cache": {"keeps": caching, "why": why.as_deref(), "bytes": bytes, "blobs": blobs},
            "rollouts": rollouts.map(|rollout| self.show_rollout(rollout)).collect::<Vec<_>>(),
        })
    }

    /// The digests of the images of a rollout that the store was given, by repository; `left` is
    /// how many more there is room for.
    pub(crate) fn served(&self, rollout: &str, left: &mut usize) -> Value {
        let ran = self.releases.ran();
        let given = ran.given(rollout);
        let given = &given[..given.len().min(*left)];
        *left -= given.len();
        given
            .iter()
            .map(|(repository, digest)| (repository.to_string(), json!(&**digest)))
            .collect()
    }

    fn show_rollout(&self, rollout: &Rollout) -> Value {
        let stands = self.lanes.stands(&rollout.name).unwrap_or_default();
        let suspended = stands.suspended.iter();
        let suspended: Vec<Value> =
            suspended.map(|(what, by)| json!({"document": what, "by": by})).collect();
        let lane = self.lanes.lane(&rollout.name);
        let slowed = lane.as_ref().map(|lane| lane.slowed());
        let (running, waiting) = lane.map_or((0, 0), |lane| lane.turns.counts());
        let before: Vec<Value> = {
            let ran = self.releases.ran();
            let one = |ran: &Ran| {
                let since = ran.since.to_string();
                json!({"release": &*ran.release, "since": since})
            };
            ran.of(&rollout.name).map(one).collect()
        };
        let images = rollout.images.iter();
        json!({
            "name": &*rollout.name,
            "release": &*rollout.stages.release,
            "ring": stands.ring,
            "gate": if stands.is_open() { "Open" } else { "Held" },
            "heldBy": stands.held_by,
            "suspended": suspended,
            "nextOpen": stands.opens.map(|at| at.to_string()),
            "ran": before,
            "slowedBy": slowed.map(|(slowed, _)| slowed.label()).filter(|label| *label != "no"),
            "bitsPerSecondMax": slowed.and_then(|(_, rate)| rate).map(BitRate::bits_per_second),
            "pulls": {"running": running, "waiting": waiting},
            "prefetch": rollout.pulls.prefetch,
            "prefetching": self.prefetches.is_running(&rollout.name),
            "prefetchFrom": self.begins_at(rollout).map(|at| at.to_string()),
            "images": images.map(|(repository, digest)| {
                self.show_image(repository, digest)
            }).collect::<Vec<_>>(),
        })
    }

    fn show_image(&self, repository: &str, digest: &str) -> Value {
        let far = digest.parse().map(|digest| self.progress.of(&digest)).unwrap_or_default();
        let state = match (far.is_whole(), far.total, far.rate) {
            (true, ..) => "Complete",
            (false, None, _) => "Unknown",
            (false, Some(_), 0) => "Waiting",
            (false, Some(_), _) => "Coming",
        };
        json!({
            "repository": repository,
            "digest": digest,
            "state": state,
            "bytes": far.here,
            "totalBytes": far.total,
            "bytesPerSecond": far.rate,
            "secondsLeft": far.left().map(|left| left.as_secs()),
        })
    }
}
