//! Signed operations from afar: whether one is carried out here and now, and what came of it.
//!
//! Believed is what a key of role `operation` has signed, for this store, before its end, by a
//! clock that is believed; and never twice: its id is on disk before anything is done. An id that
//! comes again after it had been taken away, or with other words, is a replay, and is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_config::bundle::{
    OperationAction, OperationStatement, PromotionEntry, digest, operation_bytes, wall_text,
};
use tillgate_core::reconcile::{ClockState, Memory, Wall};

use crate::bundle::verify::{KeyRole, Trust};

/// How far a store's clock and that of who writes operations may be apart.
const AHEAD: u64 = 300;

/// What is known of the operations that a source has.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// Hash of the list.
    pub(super) seen: Option<String>,
    /// Ids of the list.
    pub(super) listed: BTreeSet<Arc<str>>,
    /// What waits for a clock that is believed.
    pub(super) waiting: Vec<PromotionEntry>,
}

/// An operation that may be carried out.
#[derive(Debug)]
pub(super) struct Believed {
    pub(super) statement: OperationStatement,
    pub(super) id: Arc<str>,
    /// Digest of what was signed.
    pub(super) digest: Arc<str>,
    /// Who signed it.
    pub(super) actor: Arc<str>,
}

/// Why an operation is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// It is of another store.
    Others,
    /// It was carried out, or refused for good, and is still in the list.
    Done,
    /// It waits for a clock that is believed.
    Waits,
    /// It never will be: a word for metrics, and why.
    Refused { id: Option<Arc<str>>, result: &'static str, why: String },
}

/// What came of an operation, until the centre knows.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Counted since the start.
    pub(super) number: u64,
    pub(super) id: Arc<str>,
    pub(super) action: Option<OperationAction>,
    /// `Succeeded`, `Failed` or `Refused`.
    pub(super) state: &'static str,
    pub(super) at: Wall,
    pub(super) outcome: Value,
}

impl Outcome {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": &*self.id,
            "action": self.action.map(|action| format!("{action:?}")),
            "state": self.state,
            "at": wall_text(self.at),
            "outcome": self.outcome,
        })
    }
}

/// Whether an operation is to be carried out now.
pub(super) fn examine(
    entry: &PromotionEntry,
    trust: &Trust,
    store: &str,
    memory: &Memory,
    before: Option<&BTreeSet<Arc<str>>>,
    (clock, now): (ClockState, Wall),
) -> Result<Believed, Not> {
    let refused = |id: Option<&Arc<str>>, result, why: &str| Not::Refused {
        id: id.cloned(),
        result,
        why: why.to_owned(),
    };
    let statement = OperationStatement::read(&entry.statement)
        .map_err(|error| refused(None, "malformed", &crate::send::explain(&error)))?;
    if statement.store_id != store {
        return Err(Not::Others);
    }
    let id: Arc<str> = statement.id.as_str().into();
    let signers = trust.valid(&entry.signatures, &operation_bytes(&entry.statement));
    let may: Vec<&str> = signers
        .iter()
        .filter(|key| key.roles.contains(&KeyRole::Operation))
        .map(|key| &*key.id)
        .collect();
    if may.is_empty() {
        let why = "no key of role `operation` has signed these words";
        return Err(refused(Some(&id), "forged", why));
    }
    let digest: Arc<str> = digest(entry.statement.as_bytes()).into();
    if let Some(done) = memory.done.iter().find(|done| done.id == id) {
        if done.statement != digest {
            let why = "its id was used for other words; each operation needs one of its own";
            return Err(refused(Some(&id), "replayed", why));
        }
        // Still in the list, or nobody remembers whether it was.
        if before.is_none_or(|before| before.contains(&id)) {
            return Err(Not::Done);
        }
        let why = "it was carried out, taken away, and is there again";
        return Err(refused(Some(&id), "replayed", why));
    }
    // The floor has certainly passed, whatever the clock shows.
    if statement.expires() <= now.max(memory.floor) {
        return Err(refused(Some(&id), "expired", "its time is over"));
    }
    if clock == ClockState::Untrusted {
        return Err(Not::Waits);
    }
    let issued = tillgate_config::bundle::wall(&statement.issued_at).unwrap_or_default();
    if issued.0 > now.0.saturating_add(AHEAD) {
        return Err(Not::Waits);
    }
    let actor = format!("key:{}", may.join(",")).into();
    Ok(Believed { statement, id, digest, actor })
}

#[cfg(test)]
mod tests {
    use tillgate_core::reconcile::Done;

    use super::*;
    use crate::bundle::verify::tests::Signer;

    const NOW: Wall = Wall(1_795_208_700);

    fn statement(change: impl Fn(&mut OperationStatement)) -> OperationStatement {
        let mut statement = OperationStatement {
            id: "op-1".into(),
            store_id: "0412".into(),
            action: OperationAction::Unpin,
            issued_at: wall_text(NOW),
            expires_at: wall_text(Wall(NOW.0 + 3600)),
            reason: "it is over".into(),
            ticket: "CHG-1".into(),
            to: None,
            until: None,
            question: None,
        };
        change(&mut statement);
        statement
    }

    fn entry(signer: &Signer, statement: &OperationStatement) -> PromotionEntry {
        let text = statement.to_text();
        let signature = signer.sign(&operation_bytes(&text));
        PromotionEntry { statement: text, signatures: vec![signature] }
    }

    #[test]
    fn an_operation_is_believed_once_in_its_time_from_who_may() {
        let (ann, eve) = (Signer::new("ann"), Signer::new("eve"));
        let keys = vec![ann.trusted(&[KeyRole::Operation]), eve.trusted(&[KeyRole::Bundle])];
        let trust = Trust { threshold: 1, keys };
        let mut memory = Memory::default();
        let look = |entry: &PromotionEntry, memory: &Memory, before, clock| {
            examine(entry, &trust, "0412", memory, before, (clock, NOW))
        };
        let synced = ClockState::Synced;
        let good = entry(&ann, &statement(|_| ()));
        let believed = look(&good, &memory, None, synced).unwrap();
        assert_eq!(&*believed.actor, "key:ann");
        let result = |entry: &PromotionEntry, memory: &Memory, before| match look(
            entry, memory, before, synced,
        ) {
            Err(Not::Refused { result, .. }) => result,
            other => panic!("{other:?}"),
        };
        assert_eq!(result(&entry(&eve, &statement(|_| ())), &memory, None), "forged");
        let mut changed = good.clone();
        changed.statement = changed.statement.replace("CHG-1", "CHG-2");
        assert_eq!(result(&changed, &memory, None), "forged");
        changed.statement = "{}".into();
        assert_eq!(result(&changed, &memory, None), "malformed");
        let other = entry(&ann, &statement(|one| one.store_id = "0977".into()));
        assert_eq!(look(&other, &memory, None, synced).unwrap_err(), Not::Others);
        let late = statement(|one| {
            one.issued_at = wall_text(Wall(NOW.0 - 7200));
            one.expires_at = wall_text(NOW);
        });
        assert_eq!(result(&entry(&ann, &late), &memory, None), "expired");
        // Without a clock nobody knows whether it is over, unless it is for certain.
        let untrusted = ClockState::Untrusted;
        assert_eq!(look(&good, &memory, None, untrusted).unwrap_err(), Not::Waits);
        let early = statement(|one| {
            one.issued_at = wall_text(Wall(NOW.0 + 600));
        });
        assert_eq!(look(&entry(&ann, &early), &memory, None, synced).unwrap_err(), Not::Waits);

        let Believed { id, digest, statement: said, .. } = believed;
        memory.does(Done { id: Arc::clone(&id), statement: digest, until: said.expires() }, NOW);
        let (with, without) = (BTreeSet::from([id]), BTreeSet::new());
        assert_eq!(look(&good, &memory, Some(&with), synced).unwrap_err(), Not::Done);
        assert_eq!(look(&good, &memory, None, synced).unwrap_err(), Not::Done);
        assert_eq!(result(&good, &memory, Some(&without)), "replayed");
        let reused = entry(&ann, &statement(|one| one.reason = "something else".into()));
        assert_eq!(result(&reused, &memory, Some(&with)), "replayed");
    }
}
