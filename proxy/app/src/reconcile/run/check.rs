//! Whether what runs is what was wanted: looked at again and again, and whenever somebody asks.
//!
//! The digest is computed anew from the values that answer requests. The disk is read back: a hand
//! that changes a bundle, a pointer or the memory there would change what the next start serves.
//! And what the sources have, and are not followed in, is told with its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillgate_config::bundle::{encode_memory, hex};
use tillgate_core::civil::Timestamp;
use tillgate_core::reconcile::{ClockState, Memory};
use tillgate_net::clock;
use tillgate_net::threads::making_way;

use super::Loop;
use crate::endpoint::drift::{self, Item, State};
use crate::reconcile::wall;
use crate::send::explain;
use crate::state::Pointer;

/// How often the digest is computed anew and the disk is read back.
const CHECK_EVERY: Duration = Duration::from_secs(300);

/// Intervals of a source after which its silence is told.
const SILENT_INTERVALS: u32 = 2;

const MEMORY_CHANGED: &str = "MemoryChanged";

/// What is written of a memory.
pub(super) fn written(memory: &Memory) -> String {
    hex(encode_memory(memory).as_bytes())
}

impl Loop {
    /// Everything that is not as it should be, with what takes time looked at only when it is due.
    pub(super) fn items(&self) -> Vec<Item> {
        let mut items = self.found.clone();
        let is_told = items.iter().any(|item| item.reason == MEMORY_CHANGED);
        let overwritten = self.overwritten.as_ref().filter(|_| !is_told);
        items.extend(overwritten.map(|(item, _)| item.clone()));
        items.extend(drift::live(&self.gateway));
        items.extend(self.sources_items());
        items.extend(self.surroundings());
        items
    }

    /// Looks at what takes time.
    pub(super) fn check(&mut self) {
        self.gateway.endpoint.check_audit();
        self.checked = clock::now();
        let gateway = &self.gateway;
        let (digest, item) = making_way(|| drift::digest(gateway));
        self.whole = digest;
        self.found = item.into_iter().chain(self.disk_items()).collect();
    }

    /// Looks at everything, for so many who have asked.
    pub(super) fn answer(&mut self, asked: u64) {
        self.check();
        let (state, items) = self.tell_state();
        let items: Vec<Value> = items.iter().map(Item::to_json).collect();
        let digest = Arc::clone(&self.gateway.running().effective.digest);
        let found = json!({ "digest": &*digest, "compliance": state.name(), "items": items });
        self.office.questions().found(asked, found);
    }

    /// Looks again if it is time, and brings metrics and conditions up to date.
    pub(super) fn check_if_due(&mut self, now: Instant) {
        if now.saturating_duration_since(self.checked) >= CHECK_EVERY {
            // Without a centre it has been in the log.
            self.overwritten = self.overwritten.take().filter(|_| self.reporter.is_some());
            self.check();
        }
        self.tell_state();
    }

    /// Says how it stands, with everything that is not as it should be.
    pub(super) fn tell_state(&mut self) -> (State, Vec<Item>) {
        let items = self.items();
        let state = drift::state(&items);
        let reasons = items.iter().map(|item| item.reason);
        self.gateway.endpoint.report_meters.stands(state.name(), &State::NAMES, reasons);
        let drifted = items.iter().find(|item| item.state == State::Drifted);
        match drifted {
            Some(item) => {
                let text = format!("{}: {}", item.subject, item.observed);
                if self.conditions.raise("Drifted", item.reason, &text) {
                    let (reason, subject) = (item.reason, item.subject.as_str());
                    let observed = item.observed.as_str();
                    tracing::warn!(reason, subject, observed, "this is not as it should be");
                }
            }
            None => drop(self.conditions.clear("Drifted")),
        }
        (state, items)
    }

    /// What a hand has changed on disk.
    fn disk_items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut differs = |reason, subject: &str, desired: &str, observed: String| {
            items.push(Item::new(State::Drifted, reason, subject, desired, observed));
        };
        let state = &self.spec.state;
        let wanted = [
            (Pointer::Current, "current", self.machine.running()),
            (Pointer::Lkg, "lkg", self.machine.lkg()),
        ];
        for (pointer, name, revision) in wanted {
            let Some(digest) = revision.map(|revision| &*revision.digest) else { continue };
            if self.is_unkept(digest) {
                continue;
            }
            let found = state.pointed(pointer);
            if found.as_deref() != Some(digest) {
                let found = found.as_deref().unwrap_or("nothing").to_owned();
                differs("PointerChanged", &format!("the link {name}"), digest, found);
            } else if let Err(why) = self.read_back(digest) {
                differs("BundleChanged", &format!("the bundle of {name}"), digest, why);
            }
        }
        if let Some(found) = self.memory_found() {
            differs(MEMORY_CHANGED, "state.json", "as it was written", found);
        }
        if let Some(policy) = &self.running {
            let running = self.gateway.running();
            if policy.effective.digest != running.effective.digest {
                let (policy, running) = (&policy.effective.digest, &running.effective.digest);
                let subject = "flags of the command line";
                differs("FlagOverride", subject, policy, running.to_string());
            }
        }
        items
    }

    /// What the memory on disk is, if it is not what was written.
    fn memory_found(&self) -> Option<String> {
        // A disk that takes nothing has another condition.
        if self.conditions.is("StateUnwritten") || self.written.is_empty() {
            return None;
        }
        match self.spec.state.memory_text() {
            Ok(text) if hex(&text) == self.written => None,
            Ok(_) => Some("another text".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The memory is about to be replaced on disk: what a hand has made of it is told all the same.
    pub(super) fn see_memory(&mut self) {
        if let Some(found) = self.memory_found() {
            let (subject, wanted) = ("state.json", "as it was written");
            let item = Item::new(State::Drifted, MEMORY_CHANGED, subject, wanted, found);
            self.overwritten = Some((item, false));
        }
    }

    /// Whether a bundle on disk is still what somebody has signed.
    fn read_back(&self, digest: &str) -> Result<(), String> {
        let (archive, _) = self.spec.state.read(digest).map_err(|error| explain(&error))?;
        self.spec.verify_kept(&archive).map(drop).map_err(|error| explain(&error))
    }

    /// What the sources have, beside what runs.
    fn sources_items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let running = self.running.as_ref();
        let runs = running.map_or_else(
            || "the minimal policy".to_owned(),
            |policy| policy.manifest.revision.clone(),
        );
        if running.is_none() {
            let none = "none has come yet".to_owned();
            items.push(Item::new(State::Unknown, "NoPolicy", "policy", "one of a source", none));
        }
        if let Some(waiting) = &self.waiting {
            let reason =
                if self.machine.memory().pin.is_some() { "PolicyPinned" } else { "PolicyHeld" };
            let wanted = &waiting.policy.manifest.revision;
            items.push(Item::new(State::Pending, reason, "policy", wanted, runs.clone()));
        }
        let running = self.machine.running().map_or("nothing", |running| &*running.digest);
        if let Some(pin) = self.machine.memory().pin.as_ref().filter(|pin| *pin.digest != *running)
        {
            let (wanted, found) = (&pin.digest, running.to_owned());
            items.push(Item::new(State::Drifted, "PinNotRunning", "the pin", wanted, found));
        }
        for (kind, reason) in [("Rejected", "PolicyRefused"), ("RolledBack", "PolicyRolledBack")] {
            if let Some(why) = self.conditions.message(kind) {
                items.push(Item::new(State::Failed, reason, "policy", "in effect", why.to_owned()));
            }
        }
        if let Some(why) = self.conditions.message("Stale") {
            let wanted = "a newer one";
            items.push(Item::new(State::Stale, "PolicyOld", "policy", wanted, why.to_owned()));
        }
        let now = clock::now();
        let silent = |number: &usize| {
            let Some(spec) = self.spec.sources.get(*number) else { return false };
            let heard = self.sources.get(number).and_then(|state| state.heard);
            let since = now.saturating_duration_since(heard.unwrap_or(self.began));
            since > (spec.interval + spec.long_poll) * SILENT_INTERVALS
        };
        if !self.sources.is_empty() && self.sources.keys().all(silent) {
            let why = self.sources.values().find_map(|state| state.error.clone());
            let why = why.unwrap_or_else(|| "no answer".to_owned());
            items.push(Item::new(State::Stale, "SourceSilent", "sources", "one answers", why));
        }
        items
    }

    /// What the store stands on.
    fn surroundings(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let state = self.gateway.clock.state();
        if state == ClockState::Untrusted {
            let (wanted, found) = (ClockState::Synced.name(), state.name().to_owned());
            items.push(Item::new(State::Drifted, "ClockUntrusted", "the clock", wanted, found));
        }
        let version = tillgate_config::zones::database_version();
        if state == ClockState::Synced
            && let Some(version) = version.filter(|version| is_old(version))
        {
            let wanted = "of this year or the last one";
            let found = version.to_owned();
            items.push(Item::new(State::Drifted, "TzdbOld", "the time zones", wanted, found));
        }
        items
    }
}

/// Whether the database of time zones, as `2026b`, is of neither this year nor the last one.
fn is_old(version: &str) -> bool {
    let now = Timestamp(i64::try_from(wall().0).unwrap_or(i64::MAX)).to_string();
    let year = |text: &str| text.get(..4).and_then(|year| year.parse::<i64>().ok());
    year(version).zip(year(&now)).is_some_and(|(made, now)| now - made > 1)
}
