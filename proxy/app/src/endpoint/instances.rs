//! The sidecars that a gateway configures: who lives, and what each really runs.
//!
//! An instance registers for 60 s at a time and says what it made of a config. What counts is the
//! digest that it computes from what it runs; that it was sent a config proves nothing, and an
//! acknowledgement is a refusal if it holds an error, whatever it is called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tillgate_net::metrics::{EndpointMeters, InstanceState};

/// How long an instance counts as alive after it was heard of.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How long a dead one is shown: long enough to be noticed.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// More than any store has workloads, in about 1 MiB.
const INSTANCES_MAX: usize = 1024;

/// The longest text that an instance may say of itself.
const TEXT_MAX: usize = 1024;

/// What an instance says when it registers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Registration {
    /// Another one with every start.
    boot_id: String,
    pub(super) workload: Option<String>,
    version: Option<String>,
    active_digest: Option<String>,
}

/// What an instance made of a config.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Acknowledgement {
    digest: String,
    #[serde(rename = "sequence")]
    _sequence: Option<u64>,
    #[serde(rename = "result")]
    _result: Outcome,
    error: Option<Reason>,
    active_digest: Option<String>,
}

/// In the words of the instance; what counts is whether there is an error.
#[derive(Debug, Deserialize)]
enum Outcome {
    Applied,
    Rejected,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    code: String,
    message: String,
    path: Option<String>,
}

/// Why it cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A text is too long or no digest.
    Malformed(&'static str),
    /// The state of things is against it.
    Conflict(&'static str),
    /// There are too many.
    Full,
}

#[derive(Debug)]
struct Instance {
    boot_id: String,
    workload: Option<String>,
    version: Option<String>,
    active: Option<Arc<str>>,
    refused: Option<Refusal>,
    heard: Instant,
}

impl Instance {
    /// Whether its lease has not ended.
    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < LEASE
    }
}

/// What an instance refused.
#[derive(Debug)]
struct Refusal {
    digest: Arc<str>,
    why: Value,
    /// It was wanted then.
    counts: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Instances {
    known: BTreeMap<Arc<str>, Instance>,
    /// Configs that were refused while they were wanted, each once by each process.
    refusals: u64,
}

fn check(text: Option<&String>) -> Result<(), Refused> {
    let is_long = text.is_some_and(|text| text.len() > TEXT_MAX);
    if is_long { Err(Refused::Malformed("a text is longer than 1024 bytes")) } else { Ok(()) }
}

fn digest(text: &str) -> Result<Arc<str>, Refused> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    let is_digest = hex.len() == 64
        && hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    if is_digest {
        Ok(text.into())
    } else {
        Err(Refused::Malformed("a digest is `sha256:` and 64 hex digits in lower case"))
    }
}

impl Instances {
    /// The instance `id` lives.
    pub(super) fn register(
        &mut self,
        id: &str,
        given: Registration,
        now: Instant,
    ) -> Result<(), Refused> {
        check(Some(&given.boot_id))?;
        check(given.workload.as_ref())?;
        check(given.version.as_ref())?;
        let active = given.active_digest.as_deref().map(digest).transpose()?;
        self.forget(now);
        let known = self.known.get(id);
        let other = known.is_some_and(|one| one.boot_id != given.boot_id && one.lives(now));
        if other {
            return Err(Refused::Conflict(
                "another process has this id and its lease has not ended: wait for it, or take \
                 another id",
            ));
        }
        if known.is_none() && self.known.len() >= INSTANCES_MAX {
            self.forget_one(now)?;
        }
        let same = self.known.remove(id).filter(|one| one.boot_id == given.boot_id);
        let (before, refused) = same.map_or((None, None), |one| (one.active, one.refused));
        let instance = Instance {
            boot_id: given.boot_id,
            workload: given.workload,
            version: given.version,
            active: active.or(before),
            refused,
            heard: now,
        };
        self.known.insert(id.into(), instance);
        Ok(())
    }

    /// What the instance `id` made of a config; `sent` says whether that one was ever sent. What
    /// it says about another one than `wanted`, which it should run now, is no word on that one: a
    /// policy must not be rolled back for what was wrong with the one before.
    pub(super) fn acknowledge(
        &mut self,
        id: &str,
        given: Acknowledgement,
        wanted: &str,
        sent: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Result<(), Refused> {
        let about = digest(&given.digest)?;
        let active = given.active_digest.as_deref().map(digest).transpose()?;
        let error = given.error.as_ref();
        check(error.map(|error| &error.code))?;
        check(error.map(|error| &error.message))?;
        check(error.and_then(|error| error.path.as_ref()))?;
        let Some(instance) = self.known.get_mut(id).filter(|one| one.lives(now)) else {
            return Err(Refused::Conflict("the instance has no lease: register it first"));
        };
        if !sent(&about) {
            return Err(Refused::Conflict("this gateway has sent no config with that digest"));
        }
        instance.heard = now;
        let counts = *about == *wanted;
        let before = instance.refused.take();
        let is_known = before.as_ref().is_some_and(|one| one.counts && one.digest == about);
        self.refusals += u64::from(error.is_some() && counts && !is_known);
        let refused = error.map(|error| {
            let why = json!({"code": error.code, "message": error.message, "path": error.path});
            Refusal { digest: Arc::clone(&about), why, counts }
        });
        // What it said about the wanted one stands until it says something else about it.
        instance.refused = before.filter(|one| !counts && *one.digest == *wanted).or(refused);
        match (active, error) {
            (Some(active), _) => instance.active = Some(active),
            // It runs what it says that it took.
            (None, None) => instance.active = Some(about),
            (None, Some(_)) => {}
        }
        Ok(())
    }

    /// What the living instance `id` says that it stands beside.
    pub(super) fn workload(&self, id: &str, now: Instant) -> Option<String> {
        self.known.get(id).filter(|one| one.lives(now))?.workload.clone()
    }

    /// How often a config was refused; only grows.
    pub(super) const fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Those that were not heard of for long are gone.
    fn forget(&mut self, now: Instant) {
        self.known.retain(|_, one| now.saturating_duration_since(one.heard) < REMEMBERED);
    }

    /// Who lives goes before who is only remembered: the one that was silent longest is gone, if
    /// its lease is over.
    fn forget_one(&mut self, now: Instant) -> Result<(), Refused> {
        let oldest = self.known.iter().min_by_key(|(_, one)| one.heard);
        let oldest = oldest.filter(|(_, one)| !one.lives(now)).map(|(id, _)| Arc::clone(id));
        self.known.remove(&oldest.ok_or(Refused::Full)?);
        Ok(())
    }

    fn state(one: &Instance, wanted: &str, now: Instant) -> InstanceState {
        if !one.lives(now) {
            InstanceState::Stale
        } else if one.refused.as_ref().is_some_and(|one| *one.digest == *wanted) {
            // Whatever it calls active: an error is a refusal.
            InstanceState::Nacked
        } else if one.active.as_deref() == Some(wanted) {
            InstanceState::InSync
        } else {
            InstanceState::Pending
        }
    }

    /// Whether none is known.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.known.is_empty()
    }

    /// How many are in which state; `wanted` is the digest that they should run, or `None` where
    /// there was none to run it.
    pub(super) fn show(&mut self, wanted: Option<&str>, meters: &EndpointMeters, now: Instant) {
        self.forget(now);
        for state in InstanceState::ALL {
            let is = |one: &&Instance| wanted.is_some_and(|it| Self::state(one, it, now) == state);
            meters.show(state, self.known.values().filter(is).count());
        }
    }

    /// Each with its state and what it runs.
    pub(super) fn states(
        &mut self,
        wanted: &str,
        now: Instant,
    ) -> Vec<(Arc<str>, InstanceState, Option<Arc<str>>)> {
        self.forget(now);
        let state = |(id, one): (&Arc<str>, &Instance)| {
            (Arc::clone(id), Self::state(one, wanted, now), one.active.clone())
        };
        self.known.iter().map(state).collect()
    }

    /// All of them, for people and scripts.
    pub(super) fn list(&mut self, wanted: &str, now: Instant) -> Value {
        self.forget(now);
        let list: Vec<Value> = self
            .known
            .iter()
            .map(|(id, one)| {
                let silent = now.saturating_duration_since(one.heard);
                json!({
                    "id": &**id,
                    "state": Self::state(one, wanted, now).label(),
                    "workload": one.workload,
                    "version": one.version,
                    "bootId": one.boot_id,
                    "activeDigest": one.active.as_deref(),
                    "error": one.refused.as_ref().map(|one| &one.why),
                    "refusedDigest": one.refused.as_ref().map(|one| &*one.digest),
                    "heardSecondsAgo": silent.as_secs(),
                    "leaseSecondsLeft": LEASE.saturating_sub(silent).as_secs(),
                })
            })
            .collect();
        json!({ "digest": wanted, "instances": list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn boot(id: &str) -> Registration {
        serde_json::from_value(json!({"bootId": id, "workload": "pos/checkout"})).unwrap()
    }

    fn ack(value: &Value) -> Acknowledgement {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn state(instances: &mut Instances, wanted: &str, now: Instant) -> String {
        instances.list(wanted, now)["instances"][0]["state"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_life_of_an_instance() {
        let start = tillgate_net::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut all = Instances::default();
        all.register("pos-1", boot("one"), at(0)).unwrap();
        assert_eq!(state(&mut all, A, at(0)), "pending");
        let applied = json!({"digest": A, "sequence": 1, "result": "Applied"});
        all.acknowledge("pos-1", ack(&applied), A, |_| true, at(1)).unwrap();
        assert_eq!(state(&mut all, A, at(1)), "in_sync");
        // Another config comes, which it cannot take; it says what it still runs.
        assert_eq!(state(&mut all, B, at(2)), "pending");
        let error = json!({"code": "LISTENER_BIND", "message": "in use"});
        let refused = json!({"digest": B, "result": "Applied", "error": error, "activeDigest": A});
        all.acknowledge("pos-1", ack(&refused), B, |_| true, at(3)).unwrap();
        assert_eq!(state(&mut all, B, at(3)), "nacked");
        all.acknowledge("pos-1", ack(&refused), B, |_| true, at(3)).unwrap();
        assert_eq!(all.refusals(), 1, "said again, it is the same refusal");
        assert_eq!(all.list(B, at(3))["instances"][0]["activeDigest"], A);
        // A lease is kept by heartbeats of the same process alone.
        let taken = all.register("pos-1", boot("two"), at(4));
        assert!(matches!(taken, Err(Refused::Conflict(_))));
        all.register("pos-1", boot("one"), at(5)).unwrap();
        assert_eq!(state(&mut all, B, at(64)), "nacked");
        assert_eq!(state(&mut all, B, at(65)), "stale");
        // Its lease is over, and no word but a registration begins another one.
        let late = all.acknowledge("pos-1", ack(&applied), B, |_| true, at(65));
        assert!(matches!(late, Err(Refused::Conflict(_))));
        assert_eq!(state(&mut all, B, at(65)), "stale");
        all.register("pos-1", boot("two"), at(65)).unwrap();
        assert_eq!(state(&mut all, B, at(65)), "pending");
        assert_eq!(all.list(B, at(65 + 3600))["instances"], json!([]));
    }

    #[test]
    fn a_refusal_counts_against_what_is_wanted_and_nothing_else() {
        let now = tillgate_net::clock::now();
        let mut all = Instances::default();
        let error = json!({"code": "DIED", "message": "it ended this process again and again"});
        let refused =
            |digest: &str| ack(&json!({"digest": digest, "result": "Rejected", "error": error}));
        all.register("pos-1", boot("two"), now).unwrap();
        // B is there to put A right; what A did is told only now.
        all.acknowledge("pos-1", refused(A), B, |_| true, now).unwrap();
        assert_eq!(all.refusals(), 0);
        let shown = all.list(B, now)["instances"][0].clone();
        assert_eq!((&shown["refusedDigest"], &shown["state"]), (&json!(A), &json!("pending")));
        all.acknowledge("pos-1", refused(B), B, |_| true, now).unwrap();
        assert_eq!((all.refusals(), state(&mut all, B, now)), (1, "nacked".to_owned()));
        // A late word on A hides nothing, and B is not counted twice for it.
        all.acknowledge("pos-1", refused(A), B, |_| true, now).unwrap();
        all.acknowledge("pos-1", refused(B), B, |_| true, now).unwrap();
        assert_eq!((all.refusals(), state(&mut all, B, now)), (1, "nacked".to_owned()));
        // An error is a refusal, whatever the instance calls active.
        let mut both = refused(B);
        both.active_digest = Some(B.to_owned());
        all.acknowledge("pos-1", both, B, |_| true, now).unwrap();
        assert_eq!(state(&mut all, B, now), "nacked");
        // Wanted again and refused again, A counts as well.
        all.acknowledge("pos-1", refused(A), A, |_| true, now).unwrap();
        assert_eq!(all.refusals(), 2);
    }

    #[test]
    fn what_nobody_registered_or_sent_is_not_acknowledged() {
        let now = tillgate_net::clock::now();
        let mut all = Instances::default();
        let applied = json!({"digest": A, "result": "Applied"});
        let unknown = all.acknowledge("pos-1", ack(&applied), A, |_| true, now);
        assert!(matches!(unknown, Err(Refused::Conflict(_))));
        all.register("pos-1", boot("one"), now).unwrap();
        let unsent = all.acknowledge("pos-1", ack(&applied), A, |_| false, now);
        assert!(matches!(unsent, Err(Refused::Conflict(_))));
        let bad = json!({"digest": "sha256:AA", "result": "Applied"});
        let bad = all.acknowledge("pos-1", ack(&bad), A, |_| true, now);
        assert!(matches!(bad, Err(Refused::Malformed(_))));
    }

    #[test]
    fn there_is_a_bound() {
        let now = tillgate_net::clock::now();
        let mut all = Instances::default();
        for index in 0..INSTANCES_MAX {
            all.register(&format!("pos-{index}"), boot("one"), now).unwrap();
        }
        assert_eq!(all.register("one-more", boot("one"), now), Err(Refused::Full));
        all.register("pos-0", boot("one"), now).unwrap();
        // One dies, and the next one need not wait until it is forgotten.
        let later = now + LEASE;
        for index in 1..INSTANCES_MAX {
            all.register(&format!("pos-{index}"), boot("one"), now + LEASE / 2).unwrap();
        }
        all.register("one-more", boot("one"), later).unwrap();
        assert_eq!(all.register("two-more", boot("one"), later), Err(Refused::Full));
        let shown = all.list(A, later)["instances"].to_string();
        assert!(!shown.contains("\"pos-0\"") && shown.contains("\"pos-1\""));
    }
}
