//! What is different between two effective configs, by path.
//!
//! Made from the same tree as the digest, so that two configs differ here if and only if their
//! digests do. Names are keys, so nothing moves; a thing that is new or gone is one change.

use super::Effective;
use super::render::{inline, join};
use super::tree::{self, Value};

/// A value that is new, gone, or another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Path in the effective config, as `classes.payment.guarantee.up`.
    pub path: String,
    /// What it was; `None` = it is new.
    pub before: Option<String>,
    /// What it is; `None` = it is gone.
    pub after: Option<String>,
}

/// Every difference between `old` and `new`, in the order of the YAML text; the store's name is
/// none.
pub fn changes(old: &Effective, new: &Effective) -> Vec<Change> {
    let mut found = Vec::new();
    compare(Some(&tree::of(old)), Some(&tree::of(new)), "", &mut found);
    found.retain(|change| change.path != "store");
    found
}

fn compare(old: Option<&Value>, new: Option<&Value>, path: &str, found: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Map(before)), Some(Value::Map(after))) => {
            let get = |entries: &'_ [(String, Value)], key: &str| {
                entries.iter().position(|(name, _)| name == key)
            };
            for (key, value) in before {
                let other = get(after, key).map(|at| &after[at].1);
                compare(Some(value), other, &join(path, key), found);
            }
            for (key, value) in after.iter().filter(|(key, _)| get(before, key).is_none()) {
                compare(None, Some(value), &join(path, key), found);
            }
        }
        (Some(Value::List(before)), Some(Value::List(after)))
            if before.iter().chain(after).any(|item| matches!(item, Value::Map(_))) =>
        {
            for at in 0..before.len().max(after.len()) {
                compare(before.get(at), after.get(at), &format!("{path}[{at}]"), found);
            }
        }
        _ => found.push(Change {
            path: path.to_owned(),
            before: old.map(inline),
            after: new.map(inline),
        }),
    }
}
