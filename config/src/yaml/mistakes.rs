//! Everything that is wrong with a document, where the parser stops at the first thing.
//!
//! What cannot be read is told, left out, and the rest read again, by the same types. Nothing is
//! told of what is only wrong because something was left out, and nothing that is not certain:
//! there the parser, which is asked first, has the only word.

use serde::de::DeserializeOwned;

use super::values::{self, Otherwise, Why};
use super::{Mark, Node, Step, Tree};
use crate::suggest;

/// Something that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where.
    pub(crate) mark: Mark,
    /// What, and what to do.
    pub(crate) message: String,
}

/// More of one document nobody wants to read at once.
const MISTAKES_MAX: usize = 50;

/// Not all that is left out is told.
const ROUNDS_MAX: usize = 200;

/// What keeps `tree` from being a `T`.
pub(crate) fn of<T: DeserializeOwned>(tree: &Tree) -> Vec<Mistake> {
    if !tree.is_simple() {
        return Vec::new();
    }
    let mut search = Search { left: tree.clone(), gone: Vec::new(), found: Vec::new() };
    for _ in 0..ROUNDS_MAX {
        let Err(error) = values::read::<T>(&search.left) else { break };
        if !search.note(error) || search.found.len() >= MISTAKES_MAX {
            break;
        }
    }
    search.found
}

struct Search {
    left: Tree,
    /// What was left out: of which mapping or list, and its key.
    gone: Vec<(Mark, String)>,
    found: Vec<Mistake>,
}

impl Search {
    /// Tells what is wrong and leaves it out; whether anything is left to read.
    fn note(&mut self, error: Otherwise) -> bool {
        let Otherwise { why, mut path } = error;
        path.reverse();
        let place = || self.left.mark(&path);
        let told = match why {
            Some(Why::Missing(field)) => {
                let is_it = |key: &str| key == field || suggest::nearest(key, [field]).is_some();
                let message = || (place(), super::missing_field(field));
                (!self.lacks(&path, is_it)).then(message)
            }
            Some(Why::Value(message)) => (!self.lacks(&path, |_| true)).then(|| (place(), message)),
            Some(Why::Key(message)) => Some((self.left.key_mark(&path), message)),
            None => None,
        };
        self.found.extend(told.map(|(mark, message)| Mistake { mark, message }));
        let Some((last, around)) = path.split_last() else { return false };
        let key = match last {
            Step::Key(key) => key.clone(),
            Step::Index(_) => String::new(),
        };
        let around = self.left.find(around).map(Node::mark);
        self.gone.extend(around.map(|around| (around, key)));
        self.left.leave_out(&path)
    }

    /// Whether something was left out of what is at `path`, with such a key.
    fn lacks(&self, path: &[Step], is_it: impl Fn(&str) -> bool) -> bool {
        let here = self.left.find(path).map(Node::mark);
        self.gone.iter().any(|(around, key)| Some(*around) == here && is_it(key))
    }
}
