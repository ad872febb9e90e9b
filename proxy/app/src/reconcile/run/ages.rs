//! The store's clock as the loop remembers it, and how old the policies are by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tillgate_core::reconcile::ClockState;

use super::Loop;
use crate::endpoint::audit::Action;
use crate::reconcile::candidate::{Policy, soft_expiry};
use crate::reconcile::wall;

/// How often the clock's floor is written down.
const FLOOR_EVERY: Duration = Duration::from_secs(600);

impl Loop {
    pub(super) fn remember_clock(&mut self, now: Instant) {
        let state = self.gateway.clock.state();
        let before = self.clock_told.replace(state);
        if before != Some(state) {
            let fields =
                vec![("from", json!(before.map(ClockState::name))), ("to", json!(state.name()))];
            self.audit(Action::ClockState, "policy", fields);
        }
        if state == ClockState::Untrusted {
            let text = "nobody vouches for the clock, or it cannot be right";
            self.conditions.raise("ClockUntrusted", "Untrusted", text);
        } else {
            self.conditions.clear("ClockUntrusted");
        }
        self.gateway.clock.write_down(self.machine.memory_mut());
        // A jump must be known after a crash, too.
        let has_changed = before.is_some_and(|before| before != state);
        if has_changed || now.saturating_duration_since(self.floor_written) >= FLOOR_EVERY {
            self.floor_written = now;
            self.remember();
        }
    }

    /// Ages of what runs, where somebody has signed when it was made.
    pub(super) fn tell_ages(&mut self) {
        let now = wall();
        let age = |policy: Option<&Arc<Policy>>| {
            let made = policy.map_or(0, |policy| policy.revision.created_at.0);
            if made == 0 { 0 } else { now.0.saturating_sub(made) }
        };
        let (running, lkg) = (age(self.running.as_ref()), age(self.lkg.as_ref()));
        self.meters.age.set(running as f64);
        self.meters.lkg_age.set(lkg as f64);
        let most = soft_expiry(self.running.as_deref()).as_secs();
        let trusted = self.gateway.clock.state() != ClockState::Untrusted;
        if trusted && running > most {
            let text = format!("the policy is older than {most} s; it stays in force");
            self.conditions.raise("Stale", "SoftExpiry", &text);
        } else {
            self.conditions.clear("Stale");
        }
    }
}
