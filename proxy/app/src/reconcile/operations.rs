//! Signed operations from afar: whether one is carried out here and now, and what came of it.
//!
//! Believed is what a key of role `operation` has signed, for this store, before its end, by a
//! clock that is believed; and never twice: its id is on disk before anything is done, in the
//! memory and in the audit log. Where the memory is lost the log knows, and what was signed before
//! the new memory began is not carried out at all. An id that comes again after it had been taken
//! away, or with other words, is a replay, and is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tillgate_config::bundle::{
    OPERATION_LASTS_MAX, OperationStatement, PromotionEntry, digest, hex, operation_bytes, wall,
    wall_text,
};
use tillgate_core::reconcile::{ClockState, Done, Ended, Memory, Wall};

use crate::bundle::verify::{KeyRole, Trust};

/// How far a store's clock and that of who writes operations may be apart.
const AHEAD: u64 = 300;

/// Bytes of the outcomes in one report: a support bundle and some others.
const OUTCOMES_BYTES_MAX: usize = 512 * 1024;

/// Bytes of an outcome in the memory, which has up to 256 of them.
const BRIEF_BYTES_MAX: usize = 1024;

/// The result in a record of the audit log that is written before anything is done.
pub(super) const BEGUN: &str = "Begun";

/// What is known of the operations that one source has; another may be behind it.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// Hash of the list.
    seen: Option<String>,
    /// Ids of the list, once there was one.
    listed: Option<BTreeSet<Arc<str>>>,
    /// Those that were carried out and had been taken away: no more than are remembered.
    pub(super) gone: BTreeSet<Arc<str>>,
    /// What waits for a clock that is believed.
    pub(super) waiting: Vec<PromotionEntry>,
}

impl Operations {
    /// Whether `list` is another one than before.
    pub(super) fn sees(&mut self, list: &[u8]) -> bool {
        let seen = hex(list);
        let is_new = self.seen.as_ref() != Some(&seen);
        self.seen = Some(seen);
        is_new
    }

    /// Ids of its list.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.listed.iter().flatten()
    }

    /// The list has these entries now, each of which is to be examined. What comes to it that was
    /// carried out was taken away before, unless it is `elsewhere`: then this source was behind.
    pub(super) fn lists(
        &mut self,
        entries: &[PromotionEntry],
        memory: &Memory,
        elsewhere: &BTreeSet<Arc<str>>,
    ) {
        let ids = entries.iter().filter_map(|one| OperationStatement::read(&one.statement).ok());
        let listed: BTreeSet<_> = ids.map(|statement| Arc::from(statement.id)).collect();
        self.waiting.clear();
        if let Some(before) = &self.listed {
            let known = before.union(elsewhere).cloned().collect();
            self.gone.extend(listed.difference(&known).chain(before.difference(&listed)).cloned());
        }
        self.gone.retain(|id| memory.done.iter().any(|done| done.id == *id));
        self.listed = Some(listed);
    }

    /// All of the list was examined: what has come again was told once.
    pub(super) fn examined(&mut self) {
        let listed = self.listed.as_ref();
        self.gone.retain(|id| listed.is_none_or(|listed| !listed.contains(id)));
    }
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
    pub(super) action: Option<Arc<str>>,
    /// `Succeeded`, `Failed`, `Refused`, or `Interrupted` where a process ended in the middle.
    pub(super) state: Arc<str>,
    pub(super) at: Wall,
    pub(super) outcome: Value,
}

impl Outcome {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": &*self.id,
            "action": self.action.as_deref(),
            "state": &*self.state,
            "at": wall_text(self.at),
            "outcome": self.outcome,
        })
    }
}

/// The outcomes that one report has room for, oldest first, and the number of the last of them.
/// One goes in any case: a centre that does not take it says so.
pub(super) fn fitting(results: &[Outcome]) -> (u64, Vec<Value>) {
    let (mut bytes, mut last, mut fitting) = (0, 0, Vec::new());
    for one in results {
        let shown = one.to_json();
        bytes += shown.to_string().len();
        if bytes > OUTCOMES_BYTES_MAX && !fitting.is_empty() {
            break;
        }
        last = one.number;
        fitting.push(shown);
    }
    (last, fitting)
}

/// The longest outcome up to number `told`, if any is long enough to be what was too much.
pub(super) fn longest(results: &mut [Outcome], told: u64) -> Option<&mut Outcome> {
    let told = results.iter_mut().filter(|one| one.number <= told);
    let sized = told.map(|one| (one.outcome.to_string().len(), one));
    let (bytes, one) = sized.max_by_key(|(bytes, _)| *bytes)?;
    (bytes > BRIEF_BYTES_MAX).then_some(one)
}

/// What survives a restart of what came of an operation: all of it if it is short.
pub(super) fn brief(outcome: &Value) -> Arc<str> {
    let text = outcome.to_string();
    if text.len() <= BRIEF_BYTES_MAX {
        return text.into();
    }
    json!({ "why": "the answer was too long to survive a restart: ask again" }).to_string().into()
}

/// What is told of an operation that an earlier process began, and that ended with it.
pub(super) fn interrupted(at: Wall) -> Ended {
    let why = "the process ended while it was carried out; what runs shows how far it got";
    let outcome = brief(&json!({ "result": "interrupted", "why": why }));
    Ended { state: "Interrupted".into(), at, outcome }
}

/// What records of the audit log say of operations that were begun here, for a memory that knows
/// nothing of them; `told` where nobody is to be told.
pub(super) fn recalled(records: &[Value], told: bool) -> Vec<Done> {
    let mut found: Vec<Done> = Vec::new();
    let mut places: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for record in records {
        let text = |name: &str| record[name].as_str();
        let (Some(id), Some(result)) = (text("operation"), text("result")) else { continue };
        let at = text("at").and_then(wall).unwrap_or_default();
        let ended = match result {
            "Refused" => continue,
            BEGUN => None,
            state => {
                let why = "the memory was lost: the audit log knows that it was carried out";
                let outcome = brief(&json!({ "result": "remembered", "why": why }));
                Some(Ended { state: state.into(), at, outcome })
            }
        };
        if let Some(one) = places.get(id).and_then(|place| found.get_mut(*place)) {
            one.ended = ended.or(one.ended.take());
            continue;
        }
        places.insert(id.into(), found.len());
        // A version that did not write the end down had the same bound.
        let until = text("expires").and_then(wall);
        let until = until.unwrap_or(Wall(at.0.saturating_add(OPERATION_LASTS_MAX)));
        found.push(Done {
            id: id.into(),
            statement: text("statement").unwrap_or_default().into(),
            until,
            action: text("does").unwrap_or_default().into(),
            ended,
            told,
        });
    }
    found
}

/// Whether an operation is to be carried out now. `gone` were carried out and taken away.
pub(super) fn examine(
    entry: &PromotionEntry,
    trust: &Trust,
    store: &str,
    memory: &Memory,
    gone: &BTreeSet<Arc<str>>,
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
        // Still in the list, or of a source that is behind, or of before a restart.
        if !gone.contains(&id) {
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
    let issued = wall(&statement.issued_at).unwrap_or_default();
    if issued.0 > now.0.saturating_add(AHEAD) {
        return Err(Not::Waits);
    }
    // A memory begins once the clock is believed.
    let Some(began) = memory.began else { return Err(Not::Waits) };
    if issued < began {
        let why = format!(
            "what this store remembers begins at {}, after it was signed: it may have been \
             carried out before, so sign it anew",
            wall_text(began)
        );
        return Err(refused(Some(&id), "predates", &why));
    }
    let actor = format!("key:{}", may.join(",")).into();
    Ok(Believed { statement, id, digest, actor })
}

#[cfg(test)]
mod tests {
    use tillgate_config::bundle::OperationAction;

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
        let mut memory = Memory { began: Some(NOW), ..Memory::default() };
        let look = |entry: &PromotionEntry, memory: &Memory, gone: &[&str], clock| {
            let gone = gone.iter().map(|id| Arc::from(*id)).collect();
            examine(entry, &trust, "0412", memory, &gone, (clock, NOW))
        };
        let synced = ClockState::Synced;
        let good = entry(&ann, &statement(|_| ()));
        let believed = look(&good, &memory, &[], synced).unwrap();
        assert_eq!(&*believed.actor, "key:ann");
        let result = |entry: &PromotionEntry, memory: &Memory, gone: &[&str]| match look(
            entry, memory, gone, synced,
        ) {
            Err(Not::Refused { result, .. }) => result,
            other => panic!("{other:?}"),
        };
        assert_eq!(result(&entry(&eve, &statement(|_| ())), &memory, &[]), "forged");
        let mut changed = good.clone();
        changed.statement = changed.statement.replace("CHG-1", "CHG-2");
        assert_eq!(result(&changed, &memory, &[]), "forged");
        changed.statement = "{}".into();
        assert_eq!(result(&changed, &memory, &[]), "malformed");
        let other = entry(&ann, &statement(|one| one.store_id = "0977".into()));
        assert_eq!(look(&other, &memory, &[], synced).unwrap_err(), Not::Others);
        let late = statement(|one| {
            one.issued_at = wall_text(Wall(NOW.0 - 7200));
            one.expires_at = wall_text(NOW);
        });
        assert_eq!(result(&entry(&ann, &late), &memory, &[]), "expired");
        // Without a clock nobody knows whether it is over, unless it is for certain.
        let untrusted = ClockState::Untrusted;
        assert_eq!(look(&good, &memory, &[], untrusted).unwrap_err(), Not::Waits);
        let early = statement(|one| {
            one.issued_at = wall_text(Wall(NOW.0 + 600));
        });
        assert_eq!(look(&entry(&ann, &early), &memory, &[], synced).unwrap_err(), Not::Waits);
        // What was signed before a store remembers anything may have been done already.
        let new = Memory { began: Some(Wall(NOW.0 + 1)), ..Memory::default() };
        assert_eq!(result(&good, &new, &[]), "predates");
        assert_eq!(look(&good, &Memory::default(), &[], synced).unwrap_err(), Not::Waits);

        let Believed { id, digest, statement: said, .. } = believed;
        memory.does(done(&id, &digest, said.expires()), NOW);
        assert_eq!(look(&good, &memory, &[], synced).unwrap_err(), Not::Done);
        assert_eq!(result(&good, &memory, &["op-1"]), "replayed");
        let reused = entry(&ann, &statement(|one| one.reason = "something else".into()));
        assert_eq!(result(&reused, &memory, &[]), "replayed");
    }

    #[test]
    fn a_lost_memory_is_made_good_by_the_audit_log() {
        let record = |id: &str, result: &str| {
            json!({"seq": 1, "at": wall_text(NOW), "operation": id, "does": "Unpin",
                "statement": "sha256:s", "expires": wall_text(Wall(NOW.0 + 60)), "result": result})
        };
        let old = json!({"at": wall_text(NOW), "operation": "old", "result": "Failed"});
        let records = [
            record("done", BEGUN),
            record("done", "Succeeded"),
            record("cut", BEGUN),
            record("never", "Refused"),
            old,
            json!({"operation": 7}),
        ];
        let found = recalled(&records, false);
        let states: Vec<_> = found
            .iter()
            .map(|one| (&*one.id, one.until.0 - NOW.0, one.ended.as_ref().map(|it| &*it.state)))
            .collect();
        let week = OPERATION_LASTS_MAX;
        let wanted =
            [("done", 60, Some("Succeeded")), ("cut", 60, None), ("old", week, Some("Failed"))];
        assert_eq!(states, wanted);
        let mut memory = Memory { floor: Wall(NOW.0 + 60), ..Memory::default() };
        memory.does(done("old", "sha256:o", Wall(u64::MAX)), NOW);
        memory.recalls(found.clone());
        assert_eq!(memory.done.len(), 1, "what is over, and what is known, is not taken");
        let mut memory = Memory::default();
        memory.recalls(found);
        assert_eq!(memory.done.len(), 3);
    }

    fn done(id: &str, statement: &str, until: Wall) -> Done {
        let (id, statement) = (id.into(), statement.into());
        Done { id, statement, until, action: "Unpin".into(), ended: None, told: false }
    }

    #[test]
    fn a_source_that_is_behind_takes_nothing_back() {
        let ann = Signer::new("ann");
        let one = entry(&ann, &statement(|_| ()));
        let id: Arc<str> = "op-1".into();
        let mut memory = Memory::default();
        let (mut first, mut second) = (Operations::default(), Operations::default());
        let (one, none) = (std::slice::from_ref(&one), BTreeSet::new());
        assert!(first.sees(b"one"));
        first.lists(one, &memory, &none);
        first.waiting.extend_from_slice(one);
        first.examined();
        let elsewhere: BTreeSet<_> = first.listed().cloned().collect();
        assert!(second.sees(b""));
        second.lists(&[], &memory, &elsewhere);
        assert_eq!(first.waiting.len(), 1, "it waits on, whatever another source has");
        memory.does(done("op-1", "sha256:s", Wall(u64::MAX)), NOW);
        // The second one comes to know of it later: it was never taken away there.
        assert!(!first.sees(b"one") && second.sees(b"one"));
        second.lists(one, &memory, &elsewhere);
        assert!(second.gone.is_empty());
        // Taken away, and there again: told once.
        first.lists(&[], &memory, &none);
        first.examined();
        first.lists(one, &memory, &elsewhere);
        assert!(first.gone.contains(&id));
        first.examined();
        assert!(first.gone.is_empty());
        // After a restart: there at once, or only after it was not.
        let (mut at_once, mut later) = (Operations::default(), Operations::default());
        at_once.lists(one, &memory, &none);
        assert!(at_once.gone.is_empty());
        later.lists(&[], &memory, &none);
        later.lists(one, &memory, &none);
        assert!(later.gone.contains(&id));
    }

    fn outcome(number: u64, bytes: usize) -> Outcome {
        let (id, state) = ("op".into(), "Succeeded".into());
        let outcome = json!("x".repeat(bytes));
        Outcome { number, id, action: None, state, at: NOW, outcome }
    }

    #[test]
    fn a_report_has_room_for_so_much_and_the_rest_waits() {
        let half = OUTCOMES_BYTES_MAX / 2;
        let mut all = vec![outcome(1, 10), outcome(2, half), outcome(3, half), outcome(4, 10)];
        let (last, fitting_now) = fitting(&all);
        assert_eq!((last, fitting_now.len()), (2, 2));
        assert_eq!((fitting(&all[2..]).0, fitting(&[]).0), (4, 0));
        assert_eq!(fitting(&[outcome(5, 2 * OUTCOMES_BYTES_MAX)]).0, 5, "one goes in any case");
        assert_eq!(longest(&mut all, 2).map(|one| one.number), Some(2));
        assert_eq!(longest(&mut all, 1).map(|one| one.number), None, "that was not too much");
    }

    #[test]
    fn what_is_kept_of_an_outcome_is_short_and_json() {
        let outcome = json!({ "pinned": false });
        assert_eq!(*brief(&outcome), *outcome.to_string());
        let long: Value =
            serde_json::from_str(&brief(&json!("x".repeat(BRIEF_BYTES_MAX)))).unwrap();
        assert!(long["why"].as_str().unwrap().contains("too long"));
        assert!(interrupted(NOW).outcome.contains("what runs shows"));
    }

    #[test]
    fn a_result_is_known_by_the_centre_only_once_that_very_one_was_told() {
        let mut memory = Memory::default();
        memory.does(done("op-1", "sha256:s", Wall(u64::MAX)), NOW);
        memory.tells("op-1", "Succeeded");
        assert!(!memory.done[0].told, "it has not ended");
        memory.ends("op-1", interrupted(NOW));
        memory.tells("op-1", "Refused");
        assert!(!memory.done[0].told, "that was of other words with the same id");
        memory.tells("op-1", "Interrupted");
        let ended = memory.done[0].ended.clone().unwrap();
        assert_eq!((memory.done[0].told, &*ended.outcome), (true, ""));
    }
}
