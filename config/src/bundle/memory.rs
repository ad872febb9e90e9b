//! The memory of the reconcile loop as text: one line with its checksum, then JSON.
//!
//! A file that was torn by a power cut, or is of zero length, must be known for what it is and
//! never be half believed. The first line is `tillgate-state-v1` and the SHA-256 of the rest.

use serde::{Deserialize, Serialize};
use tillgate_core::reconcile::{
    Applied, Boots, Denied, Digest, Done, Ended, Fate, Memory, Pin, Run, Stage, Wall,
};

use super::hex;

const MARK: &str = "tillgate-state-v1";

/// Why a memory cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The checksum is missing or wrong.
    #[error("it is torn: {0}")]
    Torn(&'static str),
    /// It is whole, and not understood: a later version wrote it.
    #[error("it was not written by this version")]
    Foreign(#[source] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Text {
    highest: Option<Numbered>,
    applied: Option<AppliedText>,
    denied: Vec<DeniedText>,
    attempts: Vec<AttemptText>,
    pin: Option<PinText>,
    #[serde(default)]
    runs: Vec<RunText>,
    #[serde(default)]
    done: Vec<DoneText>,
    #[serde(default)]
    reports: u64,
    /// What a version without this has written goes back to the store's first day.
    #[serde(default = "always")]
    began: Option<u64>,
    #[serde(default)]
    audited: Option<Numbered>,
    clock_floor: u64,
    clock_known: bool,
    #[serde(default)]
    clock_jumped: bool,
    #[serde(default)]
    clock_vouched: Option<u64>,
    short_boots: u32,
    first_short_boot: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    sequence: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliedText {
    digest: String,
    stage: StageText,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StageText {
    InProbation,
    Kept,
    Promoted,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeniedText {
    digest: String,
    sequence: Option<u64>,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttemptText {
    digest: String,
    count: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinText {
    digest: String,
    since: u64,
    until: u64,
    lasts: u64,
    spent: u64,
    reason: String,
    ticket: String,
    actor: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunText {
    digest: String,
    effective: String,
    sequence: Option<u64>,
    revision: String,
    since: u64,
    fate: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DoneText {
    id: String,
    statement: String,
    until: u64,
    #[serde(default)]
    action: String,
    #[serde(default)]
    ended: Option<EndedText>,
    /// What a version without this has done it has told, or lost.
    #[serde(default = "yes")]
    told: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn always() -> Option<u64> {
    Some(0)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndedText {
    state: String,
    at: u64,
    outcome: String,
}

impl From<&Pin> for PinText {
    fn from(pin: &Pin) -> Self {
        Self {
            digest: pin.digest.to_string(),
            since: pin.since.0,
            until: pin.until.0,
            lasts: pin.lasts,
            spent: pin.spent,
            reason: pin.reason.to_string(),
            ticket: pin.ticket.to_string(),
            actor: pin.actor.to_string(),
        }
    }
}

impl From<PinText> for Pin {
    fn from(text: PinText) -> Self {
        Self {
            digest: text.digest.into(),
            since: Wall(text.since),
            until: Wall(text.until),
            lasts: text.lasts,
            spent: text.spent,
            reason: text.reason.into(),
            ticket: text.ticket.into(),
            actor: text.actor.into(),
        }
    }
}

impl From<&Run> for RunText {
    fn from(run: &Run) -> Self {
        Self {
            digest: run.digest.to_string(),
            effective: run.effective.to_string(),
            sequence: run.sequence,
            revision: run.revision.to_string(),
            since: run.since.0,
            fate: run.fate.name().to_owned(),
        }
    }
}

impl From<RunText> for Run {
    fn from(text: RunText) -> Self {
        let fate = Fate::ALL.into_iter().find(|fate| fate.name() == text.fate);
        Self {
            digest: text.digest.into(),
            effective: text.effective.into(),
            sequence: text.sequence,
            revision: text.revision.into(),
            since: Wall(text.since),
            fate: fate.unwrap_or(Fate::Kept),
        }
    }
}

impl From<&Done> for DoneText {
    fn from(done: &Done) -> Self {
        let ended = |one: &Ended| EndedText {
            state: one.state.to_string(),
            at: one.at.0,
            outcome: one.outcome.to_string(),
        };
        Self {
            id: done.id.to_string(),
            statement: done.statement.to_string(),
            until: done.until.0,
            action: done.action.to_string(),
            ended: done.ended.as_ref().map(ended),
            told: done.told,
        }
    }
}

impl From<DoneText> for Done {
    fn from(text: DoneText) -> Self {
        let ended = |one: EndedText| Ended {
            state: one.state.into(),
            at: Wall(one.at),
            outcome: one.outcome.into(),
        };
        Self {
            id: text.id.into(),
            statement: text.statement.into(),
            until: Wall(text.until),
            action: text.action.into(),
            ended: text.ended.map(ended),
            told: text.told,
        }
    }
}

/// The text of a memory.
pub fn encode_memory(memory: &Memory) -> String {
    let stage = |stage| match stage {
        Stage::InProbation => StageText::InProbation,
        Stage::Kept => StageText::Kept,
        Stage::Promoted => StageText::Promoted,
    };
    let numbered = |(sequence, digest): &(u64, Digest)| Numbered {
        sequence: *sequence,
        digest: digest.to_string(),
    };
    let text = Text {
        highest: memory.highest.as_ref().map(numbered),
        applied: memory
            .applied
            .clone()
            .map(|one| AppliedText { digest: one.digest.to_string(), stage: stage(one.stage) }),
        denied: memory
            .denied
            .iter()
            .map(|one| DeniedText {
                digest: one.digest.to_string(),
                sequence: one.sequence,
                why: one.why.to_string(),
            })
            .collect(),
        attempts: memory
            .attempts
            .iter()
            .map(|(digest, count)| AttemptText { digest: digest.to_string(), count: *count })
            .collect(),
        pin: memory.pin.as_ref().map(PinText::from),
        runs: memory.runs.iter().map(RunText::from).collect(),
        done: memory.done.iter().map(DoneText::from).collect(),
        reports: memory.reports,
        began: memory.began.map(|began| began.0),
        audited: memory.audited.as_ref().map(numbered),
        clock_floor: memory.floor.0,
        clock_known: memory.clock_known,
        clock_jumped: memory.clock_jumped,
        clock_vouched: memory.clock_vouched.map(|at| at.0),
        short_boots: memory.boots.short,
        first_short_boot: memory.boots.first.0,
    };
    let body = format!("{:#}\n", serde_json::to_value(text).expect("strings and numbers only"));
    format!("{MARK} {}\n{body}", hex(body.as_bytes()))
}

/// Reads a memory.
///
/// # Errors
/// [`MemoryError`]
pub fn decode_memory(bytes: &[u8]) -> Result<Memory, MemoryError> {
    let text = std::str::from_utf8(bytes).map_err(|_| MemoryError::Torn("it is no text"))?;
    let (head, body) = text.split_once('\n').ok_or(MemoryError::Torn("it has no first line"))?;
    let sum = head.strip_prefix(MARK).ok_or(MemoryError::Torn("its first line is another"))?;
    if sum.trim() != hex(body.as_bytes()) {
        return Err(MemoryError::Torn("its checksum is wrong"));
    }
    let text: Text = serde_json::from_str(body).map_err(MemoryError::Foreign)?;
    let stage = |stage| match stage {
        StageText::InProbation => Stage::InProbation,
        StageText::Kept => Stage::Kept,
        StageText::Promoted => Stage::Promoted,
    };
    let denied = |one: DeniedText| Denied {
        digest: one.digest.into(),
        sequence: one.sequence,
        why: one.why.into(),
    };
    let numbered = |one: Numbered| (one.sequence, one.digest.into());
    Ok(Memory {
        highest: text.highest.map(numbered),
        applied: text
            .applied
            .map(|one| Applied { digest: one.digest.into(), stage: stage(one.stage) }),
        denied: text.denied.into_iter().map(denied).collect(),
        attempts: text.attempts.into_iter().map(|one| (one.digest.into(), one.count)).collect(),
        pin: text.pin.map(Pin::from),
        runs: text.runs.into_iter().map(Run::from).collect(),
        done: text.done.into_iter().map(Done::from).collect(),
        reports: text.reports,
        began: text.began.map(Wall),
        audited: text.audited.map(numbered),
        floor: Wall(text.clock_floor),
        clock_known: text.clock_known,
        clock_jumped: text.clock_jumped,
        clock_vouched: text.clock_vouched.map(Wall),
        boots: Boots { short: text.short_boots, first: Wall(text.first_short_boot) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory {
            highest: Some((42, "sha256:42".into())),
            applied: Some(Applied { digest: "sha256:42".into(), stage: Stage::Kept }),
            denied: vec![Denied {
                digest: "sha256:9".into(),
                sequence: None,
                why: "b\"ad\n".into(),
            }],
            attempts: vec![("sha256:42".into(), 1)],
            pin: Some(Pin {
                digest: "sha256:41".into(),
                since: Wall(6),
                until: Wall(7),
                lasts: 1,
                spent: 0,
                reason: "\"".into(),
                ticket: "CHG".into(),
                actor: "token:ops".into(),
            }),
            runs: vec![Run {
                digest: "sha256:41".into(),
                effective: "sha256:e".into(),
                sequence: Some(41),
                revision: "main".into(),
                since: Wall(5),
                fate: Fate::RolledBack,
            }],
            done: vec![Done {
                id: "1".into(),
                statement: "sha256:s".into(),
                until: Wall(9),
                action: "Pin".into(),
                ended: Some(Ended {
                    state: "Failed".into(),
                    at: Wall(8),
                    outcome: "{\"why\":1}".into(),
                }),
                told: false,
            }],
            reports: 8,
            began: Some(Wall(4)),
            audited: Some((5120, "sha256:a".into())),
            floor: Wall(u64::MAX),
            clock_known: true,
            clock_jumped: true,
            clock_vouched: Some(Wall(4)),
            boots: Boots { short: 2, first: Wall(3) },
        }
    }

    #[test]
    fn what_is_remembered_is_what_was_written() {
        for one in [memory(), Memory::default()] {
            assert_eq!(decode_memory(encode_memory(&one).as_bytes()).unwrap(), one);
        }
    }

    #[test]
    fn a_memory_of_an_earlier_version_goes_back_to_the_first_day() {
        let text = encode_memory(&memory());
        let (_, body) = text.split_once('\n').unwrap();
        let body: String = body
            .lines()
            .filter(|line| !line.contains("\"began\""))
            .map(|l| format!("{l}\n"))
            .collect();
        let old = format!("{MARK} {}\n{body}", hex(body.as_bytes()));
        assert_eq!(decode_memory(old.as_bytes()).unwrap().began, Some(Wall(0)));
        assert_eq!(
            decode_memory(encode_memory(&Memory::default()).as_bytes()).unwrap().began,
            None
        );
    }

    #[test]
    fn every_torn_or_flipped_text_is_known_for_it() {
        let text = encode_memory(&memory()).into_bytes();
        for length in 0..text.len() {
            assert!(decode_memory(&text[..length]).is_err(), "cut at {length}");
        }
        for index in 0..text.len() {
            let mut flipped = text.clone();
            flipped[index] ^= 1;
            let read = decode_memory(&flipped);
            assert!(read.is_err(), "byte {index} flipped: {read:?}");
        }
        let body = "{}\n";
        let foreign = format!("{MARK} {}\n{body}", hex(body.as_bytes()));
        assert!(matches!(decode_memory(foreign.as_bytes()), Err(MemoryError::Foreign(_))));
    }
}
