//! Bytes a day on lines that cost by the byte: of the mirror, and of each rollout.
//!
//! What was spent is written down every second while something is, so that a restart gives no
//! second budget; only what came in the last second before a kill is forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tillgate_config::day;
use tillgate_core::mirror::Code;
use tillgate_core::mirror::budget::{Budgets, WHOLE};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::mirror::{Note, Store};

use super::answer::Refused;
use super::upstream::is_metered;
use super::{Mirror, Place};
use crate::running::Running;
use tillgate_core::gate::RETRY_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    budgets: Budgets,
    is_news: bool,
}

impl Spent {
    /// What the process before wrote down. Blocks.
    pub(super) fn recall(&self, store: &Store) {
        if let Some(text) = store.recall(Note::Spent) {
            self.inner().budgets = Budgets::read(&text);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written down, if something was spent since it was asked last.
    pub(super) fn news(&self) -> Option<String> {
        let mut inner = self.inner();
        std::mem::take(&mut inner.is_news).then(|| inner.budgets.to_text())
    }

    pub(super) fn spend(&self, rollout: Option<&Arc<str>>, bytes: u64, day: i64) {
        let mut inner = self.inner();
        inner.budgets.spend(rollout, bytes, day);
        inner.is_news = true;
    }

    /// Rollouts that the policy has no more spend nothing.
    pub(super) fn follow(&self, running: &Running) {
        let rollouts = &running.effective.gate.rollouts;
        let is_known = |name: &str| rollouts.iter().any(|rollout| *rollout.name == *name);
        self.inner().budgets.follow(is_known);
    }
}

impl Mirror {
    /// The number of the store's day, where fetches of this place cost a budget.
    pub(super) fn metered_day(&self, running: &Running, place: &Place) -> Option<i64> {
        let spec = running.effective.mirror.as_ref()?;
        let rollouts = &running.effective.gate.rollouts;
        let bounds = |one: &tillgate_core::gate::Rollout| one.pulls.metered_bytes_per_day.is_some();
        if spec.fetches.day_bytes_max.is_none() && !rollouts.iter().any(bounds) {
            return None;
        }
        let upstream = spec.upstreams.iter().find(|one| one.registry == place.registry)?;
        if !is_metered(running, upstream) {
            return None;
        }
        Some(day::civil_day(&running.effective.time_zone, clock::wall()).0)
    }

    /// Why no fetch may begin on this line today, if so.
    pub(super) fn over_budget(&self, running: &Running, place: &Place) -> Option<Refused> {
        let day = self.metered_day(running, place)?;
        let spec = running.effective.mirror.as_ref()?;
        let rollout = running.effective.gate.in_charge(&place.registry, &place.repository, "");
        let by = {
            let inner = self.spent.inner();
            let is_used = |name: &str, limit: Option<u64>| {
                limit.is_some_and(|limit| inner.budgets.left(name, limit, day) == 0)
            };
            if is_used(WHOLE, spec.fetches.day_bytes_max) {
                "fetches.meteredPerDay".to_owned()
            } else {
                let rollout = rollout?;
                if !is_used(&rollout.name, rollout.pulls.metered_bytes_per_day) {
                    return None;
                }
                format!("Rollout/{} limits.meteredBytesPerDay", rollout.name)
            }
        };
        let (_, left) = day::civil_day(&running.effective.time_zone, clock::wall());
        let message = "the day's bytes for images on the metered line are used up";
        let held = Refused::new(Code::TooManyRequests, Some(Failure::PullHeld), message);
        let detail = json!({"code": "HELD", "heldBy": [by]});
        Some(Refused { detail, retry_after: Some(left.min(RETRY_MAX)), ..held })
    }
}
