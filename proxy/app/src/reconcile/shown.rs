//! What people and scripts are told of the policy: conditions, revisions, sources, history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_core::reconcile::Wall;

use super::candidate::Policy;
use super::office::Office;
use super::wall;

/// Changes that are remembered.
const HISTORY_MAX: usize = 10;

/// A condition's text; a report of a hundred errors is in the log.
const MESSAGE_CHARS_MAX: usize = 2000;

/// The last word, for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    value: Mutex<Value>,
    office: OnceLock<Arc<Office>>,
}

impl Shown {
    /// The part of the status document about the policy; null before the loop has begun.
    pub(crate) fn value(&self) -> Value {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, value: Value) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Who is asked about policies, once the loop has begun.
    pub(crate) fn office(&self) -> Option<&Arc<Office>> {
        self.office.get()
    }

    pub(super) fn opens(&self, office: Arc<Office>) {
        // A process has one loop.
        let _ = self.office.set(office);
    }
}

/// Something that is so, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    is: bool,
    reason: &'static str,
    message: String,
    since: Wall,
}

/// Everything that is so.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<String, Condition>);

impl Conditions {
    /// `kind` is so, for this reason. Whether that is news.
    pub(super) fn raise(&mut self, kind: &str, reason: &'static str, message: &str) -> bool {
        self.put(kind, true, reason, message)
    }

    /// `kind` is not so.
    pub(super) fn clear(&mut self, kind: &str) -> bool {
        self.0.contains_key(kind) && self.put(kind, false, "Cleared", "")
    }

    /// Why `kind` is so, if it is.
    pub(super) fn message(&self, kind: &str) -> Option<&str> {
        self.0.get(kind).filter(|one| one.is).map(|one| one.message.as_str())
    }

    /// Everything that is so or was, without the words.
    pub(super) fn brief(&self) -> Vec<Value> {
        let mut all = self.to_json();
        for one in &mut all {
            one.as_object_mut().map(|fields| fields.remove("message"));
        }
        all
    }

    /// Whether `kind` is so.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.0.get(kind).is_some_and(|one| one.is)
    }

    fn put(&mut self, kind: &str, is: bool, reason: &'static str, message: &str) -> bool {
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let before = self.0.get(kind);
        let is_news =
            before.is_none_or(|one| (one.is, one.reason, &one.message) != (is, reason, &message));
        if is_news {
            let turned = before.is_none_or(|one| one.is != is);
            let since = before.filter(|_| !turned).map_or_else(wall, |one| one.since);
            self.0.insert(kind.to_owned(), Condition { is, reason, message, since });
        }
        is_news
    }

    fn to_json(&self) -> Vec<Value> {
        let one = |(kind, one): (&String, &Condition)| {
            json!({
                "type": kind,
                "status": if one.is { "True" } else { "False" },
                "reason": one.reason,
                "message": one.message,
                "lastTransitionTime": wall_text(one.since),
            })
        };
        self.0.iter().map(one).collect()
    }
}

/// What became of policies, newest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Value>);

impl History {
    pub(super) fn note(&mut self, policy: &Policy, result: &str, why: &str) {
        let mut entry = revision(policy);
        entry["result"] = result.into();
        entry["at"] = wall_text(wall()).into();
        if !why.is_empty() {
            entry["why"] = why.into();
        }
        self.0.push_front(entry);
        self.0.truncate(HISTORY_MAX);
    }

    fn to_json(&self) -> Vec<Value> {
        self.0.iter().cloned().collect()
    }
}

/// How a policy is called.
pub(super) fn revision(policy: &Policy) -> Value {
    json!({
        "digest": &*policy.revision.digest,
        "sequence": policy.revision.sequence,
        "revision": policy.manifest.revision,
        "createdAt": policy.manifest.created_at,
        "effectiveDigest": &*policy.effective.digest,
    })
}

/// Everything that is shown.
pub(super) struct Facts<'a> {
    pub(super) store: &'a str,
    pub(super) running: Option<&'a Arc<Policy>>,
    pub(super) lkg: Option<&'a Arc<Policy>>,
    pub(super) waiting: Option<&'a Policy>,
    /// What is thought of the running one, while it is watched.
    pub(super) probation: Option<String>,
    pub(super) clock: &'static str,
    pub(super) sources: Vec<Value>,
    pub(super) denied: Vec<Value>,
    pub(super) highest: Option<u64>,
    /// The pin as it is shown.
    pub(super) pin: &'a Value,
    /// The last policy that was refused.
    pub(super) refused: Option<&'a Value>,
    pub(super) conditions: &'a Conditions,
    pub(super) history: &'a History,
}

impl Facts<'_> {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "storeId": self.store,
            "applied": self.running.map(|policy| revision(policy)),
            "lastKnownGood": self.lkg.map(|policy| revision(policy)),
            "waiting": self.waiting.map(revision),
            "probation": self.probation,
            "highestSequence": self.highest,
            "clock": self.clock,
            "sources": self.sources,
            "denied": self.denied,
            "refused": self.refused,
            "pin": self.pin,
            "conditions": self.conditions.to_json(),
            "history": self.history.to_json(),
        })
    }
}
