//! Operations: what a store is told to do once, from afar, in words that somebody signs.
//!
//! They travel beside a bundle and make no other bundle of it. A statement is signed over its exact
//! text, names one store, ends, and has an id by which it is never carried out twice. What a
//! centre answers to a report is here as well. All of it is strict and bounded: it comes from a
//! network.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tillgate_core::reconcile::Wall;

use super::{FormatError, PromotionEntry, few, wall};
use crate::scalar::DurationText;

/// In front of an operation that is signed.
const PREFIX: &[u8] = b"tillgate-operation-v1\n";

/// Characters of an id or a text of people.
const TEXT_MAX: usize = 200;

/// The longest time for which an operation may be carried out, in seconds: a store that was away
/// for a week is better asked again.
pub const OPERATION_LASTS_MAX: u64 = 7 * 24 * 3600;

/// Operations of one bundle.
pub const OPERATIONS_MAX: usize = 16;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationAction {
    /// Stay on what runs.
    Pin,
    /// Follow the sources again.
    Unpin,
    /// Go back to what ran before, and stay there.
    Rollback,
    /// Say what would happen to a request.
    Explain,
    /// Send what people need to help from afar.
    SupportBundle,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OperationStatement {
    /// Another one for each operation.
    pub id: String,
    /// The store that it is for.
    pub store_id: String,
    /// What is to be done.
    pub action: OperationAction,
    /// When it was written (RFC 3339).
    pub issued_at: String,
    /// Until when it may be carried out.
    pub expires_at: String,
    /// Why.
    pub reason: String,
    /// The change record it belongs to.
    pub ticket: String,
    /// Where to, with `Rollback`: `lkg`, `previous` or a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Until when the store stays there, with `Pin` and `Rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What is asked, with `Explain`: as `POST /v1/explain` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationList {
    operations: Vec<PromotionEntry>,
}

/// What a centre says to a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// 32 bytes in base64 that the store shall sign.
    #[serde(default)]
    pub challenge: Option<String>,
    /// Whether the next report shall say everything.
    #[serde(default)]
    pub want_detail: bool,
    /// When it shall come.
    #[serde(default)]
    pub next_interval: Option<DurationText>,
}

/// What a signature of an operation is over.
pub fn operation_bytes(statement: &str) -> Vec<u8> {
    [PREFIX, statement.as_bytes()].concat()
}

/// Reads `operations.json`.
///
/// # Errors
/// [`FormatError`]
pub fn read_operations(bytes: &[u8]) -> Result<Vec<PromotionEntry>, FormatError> {
    let what = "operations.json";
    let list: OperationList =
        serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })?;
    few(what, list.operations.iter().map(|one| one.signatures.len().max(1)).sum())?;
    if list.operations.len() > OPERATIONS_MAX {
        let why = format!("more than {OPERATIONS_MAX} operations");
        return Err(FormatError::Invalid { what, why });
    }
    Ok(list.operations)
}

/// The text of `operations.json`.
pub fn operations_text(operations: &[PromotionEntry]) -> String {
    let list = OperationList { operations: operations.to_vec() };
    format!("{:#}\n", serde_json::to_value(list).expect("strings only"))
}

impl OperationStatement {
    /// Reads a statement.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn read(text: &str) -> Result<Self, FormatError> {
        let what = "an operation";
        let statement: Self =
            serde_json::from_str(text).map_err(|source| FormatError::Json { what, source })?;
        statement.check().map_err(|why| FormatError::Invalid { what, why })?;
        Ok(statement)
    }

    /// The exact text to be signed.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and JSON only")
    }

    /// Until when it may be carried out.
    pub fn expires(&self) -> Wall {
        wall(&self.expires_at).unwrap_or_default()
    }

    /// Until when the store stays.
    pub fn stays_until(&self) -> Wall {
        self.until.as_deref().and_then(wall).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        for (name, text) in [
            ("id", Some(&self.id)),
            ("storeId", Some(&self.store_id)),
            ("reason", Some(&self.reason)),
            ("ticket", Some(&self.ticket)),
            ("to", self.to.as_ref()),
        ] {
            let length = text.map_or(1, |text| text.trim().chars().count());
            if length == 0 || length > TEXT_MAX {
                return Err(format!("`{name}` must have 1 to {TEXT_MAX} characters"));
            }
            if text.is_some_and(|text| text.chars().any(char::is_control)) {
                return Err(format!("`{name}` must be one line of plain text"));
            }
        }
        let (Some(issued), Some(expires)) = (wall(&self.issued_at), wall(&self.expires_at)) else {
            return Err("`issuedAt` and `expiresAt` are times as 2026-11-20T20:58:12Z".to_owned());
        };
        let lasts = expires.0.saturating_sub(issued.0);
        if lasts == 0 || lasts > OPERATION_LASTS_MAX {
            return Err("`expiresAt` must be later than `issuedAt`, by 7 days at most".to_owned());
        }
        let stays = matches!(self.action, OperationAction::Pin | OperationAction::Rollback);
        if stays != self.until.as_deref().is_some_and(|until| wall(until).is_some()) {
            return Err("`until` is a time, and belongs to `Pin` and `Rollback`".to_owned());
        }
        if (self.action == OperationAction::Rollback) != self.to.is_some() {
            return Err("`to` belongs to `Rollback`".to_owned());
        }
        if (self.action == OperationAction::Explain) != self.question.is_some() {
            return Err("`question` belongs to `Explain`".to_owned());
        }
        Ok(())
    }
}

impl Reply {
    /// Reads what came; a newer centre may say more than is known here.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "the centre's answer";
        serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollback() -> OperationStatement {
        OperationStatement {
            id: "op-1".into(),
            store_id: "0412".into(),
            action: OperationAction::Rollback,
            issued_at: "2026-11-20T20:00:00Z".into(),
            expires_at: "2026-11-20T22:00:00Z".into(),
            reason: "cards fail".into(),
            ticket: "INC-1".into(),
            to: Some("lkg".into()),
            until: Some("2026-11-21T20:00:00Z".into()),
            question: None,
        }
    }

    #[test]
    fn a_statement_is_read_as_it_was_written_and_no_other_way() {
        let text = rollback().to_text();
        assert_eq!(OperationStatement::read(&text).unwrap(), rollback());
        let changed: [&dyn Fn(&mut OperationStatement); 9] = [
            &|one| one.id = String::new(),
            &|one| one.reason = "two\nlines".into(),
            &|one| one.ticket = "x".repeat(TEXT_MAX + 1),
            &|one| one.expires_at = "2026-11-20T20:00:00Z".into(),
            &|one| one.expires_at = "2026-11-28T20:00:00Z".into(),
            &|one| one.issued_at = "yesterday".into(),
            &|one| one.until = None,
            &|one| one.to = None,
            &|one| one.action = OperationAction::Explain,
        ];
        for (index, change) in changed.iter().enumerate() {
            let mut statement = rollback();
            change(&mut statement);
            assert!(OperationStatement::read(&statement.to_text()).is_err(), "{index}");
        }
        assert!(OperationStatement::read(&text.replace("\"id\"", "\"ID\"")).is_err());
    }

    #[test]
    fn lists_are_bounded() {
        let entry = PromotionEntry { statement: rollback().to_text(), signatures: Vec::new() };
        let text = |count: usize| operations_text(&vec![entry.clone(); count]);
        assert_eq!(read_operations(text(2).as_bytes()).unwrap().len(), 2);
        assert!(read_operations(text(OPERATIONS_MAX + 1).as_bytes()).is_err());
        assert!(read_operations(b"{}").is_err());
    }

    #[test]
    fn a_centre_may_say_more_than_is_known() {
        let reply = Reply::read(br#"{"wantDetail":true,"nextInterval":"30s","new":[1]}"#).unwrap();
        assert!(reply.want_detail && reply.challenge.is_none());
        assert_eq!(reply.next_interval.unwrap().0.as_secs(), 30);
        assert_eq!(Reply::read(b"{}").unwrap(), Reply::default());
        assert!(Reply::read(b"").is_err() && Reply::read(br#"{"nextInterval":30}"#).is_err());
    }
}
