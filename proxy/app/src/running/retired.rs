//! Configs that were replaced, until the last request that began with them has ended.
//!
//! That request runs on a worker, which shall not be the one to take a whole config apart: whoever
//! keeps it here drops it last, on a thread that no request waits for.

use std::sync::{Arc, Mutex, PoisonError};

use super::Running;

/// See the module.
#[derive(Default)]
pub(crate) struct Retired(Mutex<Vec<Arc<Running>>>);

impl Retired {
    /// `old` is replaced; what was replaced before may be forgotten.
    pub(crate) fn push(&self, old: Arc<Running>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.forget();
    }

    /// Takes apart what no request has any more.
    pub(crate) fn forget(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = all.extract_if(.., |old| Arc::strong_count(old) == 1).collect();
        drop((all, gone));
    }
}
