//! What goes into the audit log, and what is asked of it.
//!
//! Where a config has no log, nothing is written and nothing is known. Whoever writes waits for
//! the disk; whoever looks whether the log is whole does so apart, because that may take a second.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use serde_json::{Value, json};
use tillgate_core::endpoint::EndpointSpec;
use tillgate_net::clock;

use super::audit::{self, Action, Audit, Head, Moment, Record};
use super::drift::{Item, State};
use super::past::moment;
use super::{Desk, Endpoint, lock};
use crate::sources::apart::apart;

/// Characters of a reason in the audit log.
const REASON_CHARS_MAX: usize = 1000;

/// How long a record of what was refused is waited for.
const RECORD_WITHIN: Duration = Duration::from_secs(10);

impl Desk {
    /// Writes it into the audit log, apart from the runtime. A disk may hang: then one waits for
    /// it, and what comes meanwhile is counted as not written.
    pub(super) async fn record(&self, record: Record) {
        let recording = Arc::clone(&self.endpoint().recording).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(RECORD_WITHIN, recording).await else {
            self.endpoint().meters.unwritten.inc();
            return;
        };
        let gateway = Arc::clone(&self.gateway);
        let written = apart(move || {
            let _turn = turn;
            gateway.endpoint.record(record);
        });
        if let Ok(Err(_)) = tokio::time::timeout(RECORD_WITHIN, written).await {
            self.gateway.metrics.panics.inc();
        }
    }
}

impl Endpoint {
    pub(super) fn follow_audit(&self, spec: Option<&EndpointSpec>) {
        let mut audit = lock(&self.audit);
        let wanted = spec.map(|spec| &*spec.audit_directory);
        if audit.as_ref().map(Audit::directory) != wanted {
            *audit = wanted.map(Audit::new);
        }
    }

    fn now(&self) -> Moment {
        Moment { at: moment(clock::wall()), clock: self.clock.state() }
    }

    /// Writes it down, where there is an audit log. Waits for the disk if it changes state.
    pub(crate) fn record(&self, record: Record) {
        let action = record.action;
        self.write(|audit, moment| {
            audit.write(&record, moment)?;
            self.meters.audit(action.name());
            Ok(())
        });
    }

    /// Does something with the log, if there is one, and tells if its disk takes nothing.
    fn write(&self, write: impl FnOnce(&mut Audit, &Moment) -> std::io::Result<()>) {
        let now = self.now();
        let mut audit = lock(&self.audit);
        let Some(audit) = audit.as_mut() else { return };
        let has_failed = audit.failure.is_some();
        if let Err(error) = write(audit, &now) {
            self.meters.unwritten.inc();
            if !has_failed {
                let directory = audit.directory().display();
                tracing::error!(%directory, %error, "the audit log cannot be written");
            }
            audit.failure = Some(error.to_string());
        }
        if std::mem::take(&mut audit.tells) {
            self.meters.audit(Action::ChainBroken.name());
        }
    }

    /// A config was refused.
    pub(crate) fn refused(&self, running: &str, why: &str) {
        let reason: String = why.chars().take(REASON_CHARS_MAX).collect();
        self.record(Record {
            action: Action::Reject,
            actor: "policy".to_owned(),
            fields: vec![
                ("from", json!(running)),
                ("reason", json!(reason)),
                ("result", json!("Rejected")),
            ],
        });
    }

    /// How the audit log stands; as it stood a moment ago while somebody writes, because a disk may
    /// take its time and who asks is the thread that answers probes.
    pub(crate) fn audited(&self) -> Value {
        let audit = match self.audit.try_lock() {
            Ok(audit) => audit,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return lock(&self.audited).clone(),
        };
        let shown = audit.as_ref().map_or(Value::Null, |audit| {
            let (sequence, head) = audit.standing().unzip();
            let broken = audit.broken().map(ToString::to_string);
            let failure = &audit.failure;
            json!({ "sequence": sequence, "head": head, "failure": failure, "broken": broken })
        });
        lock(&self.audited).clone_from(&shown);
        shown
    }

    /// Looks whether the log is what was written. Reads files, and only those that have changed
    /// make it follow the chain.
    pub(crate) fn check_audit(&self) {
        let check = lock(&self.audit).as_ref().and_then(Audit::to_check);
        let Some(check) = check else { return };
        match check.look() {
            // Another process has just taken the oldest file away.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(None) => {}
            Ok(Some(found)) => self.write(|audit, now| audit.checked(found, now)),
            Err(error) => self.write(|_, _| Err(error)),
        }
    }

    /// Where the log is not what was written.
    pub(super) fn audit_item(&self) -> Option<Item> {
        let audit = lock(&self.audit);
        let broken = audit.as_ref()?.broken()?.to_string();
        let (subject, wanted) = ("the audit log", "as it was written");
        Some(Item::new(State::Drifted, "AuditChanged", subject, wanted, broken))
    }

    /// Has every record on disk, as far as that takes them.
    pub(crate) fn sync_audit(&self) {
        self.write(|audit, _| audit.sync());
    }

    /// Number and hash of the last record that no loss of power can take away, as it is told: what
    /// was told and is not there any more was taken away by somebody.
    pub(crate) fn audit_told(&self) -> Value {
        let audit = lock(&self.audit);
        let head = audit.as_ref().and_then(Audit::synced);
        json!({
            "seq": head.map(|head| head.sequence),
            "head": head.map(|head| head.hash.as_str()),
        })
    }

    /// Number and hash of the last record that no loss of power can take away, of a log that lies
    /// in `folder`: one that a policy puts elsewhere, it may put elsewhere again.
    pub(crate) fn audit_head(&self, folder: &Path) -> Option<(u64, Arc<str>)> {
        let audit = lock(&self.audit);
        let audit = audit.as_ref().filter(|audit| audit.directory().starts_with(folder))?;
        audit.synced().map(|head| (head.sequence, head.hash.as_str().into()))
    }

    /// Somebody remembers that this record was on disk, in `folder`.
    pub(crate) fn audit_had(&self, folder: &Path, (sequence, hash): (u64, &str)) {
        let head = Head { sequence, hash: hash.to_owned() };
        self.write(|audit, now| match audit.directory().starts_with(folder) {
            true => audit.must_have(&head, now),
            false => Ok(()),
        });
    }

    /// Every record of operations from afar, oldest first.
    pub(crate) fn operations_audited(&self) -> Vec<Value> {
        let directory = lock(&self.audit).as_ref().map(|audit| audit.directory().to_owned());
        let Some(directory) = directory else { return Vec::new() };
        audit::of_action(&directory, Action::Operation).unwrap_or_else(|error| {
            tracing::warn!(%error, "the audit log cannot be read: operations may be forgotten");
            Vec::new()
        })
    }

    /// The last records of the audit log, as they were written.
    pub(crate) fn last_records(&self, count: usize, bytes: usize) -> Result<Vec<u8>, String> {
        let audit = lock(&self.audit);
        let Some(audit) = audit.as_ref() else { return Ok(Vec::new()) };
        let last = audit.standing().map_or(0, |(sequence, _)| sequence);
        let after = last.saturating_sub(count as u64);
        audit::read(audit.directory(), after, count, bytes).map_err(|error| error.to_string())
    }
}
