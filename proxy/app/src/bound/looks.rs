//! A policy's file is read again when somebody asks for that, and he is told what came of it.
//!
//! Sources have a loop of their own, which tells the same of each of them; this is for a gateway
//! whose policy is one file.

use std::time::Instant;

use tillgate_core::reconcile::Hint;

use super::Control;
use crate::endpoint::Look;

impl Control {
    /// What it starts with came from a policy's file.
    pub(crate) fn reads_a_file(&self) {
        crate::reload::succeeded(&self.gateway);
    }

    /// Returns when somebody asks to look for another policy, with who that is.
    pub(crate) async fn asked(&self) -> Hint {
        self.gateway.endpoint.asked().await
    }

    /// It is looked for now.
    pub(crate) fn looks(&self) {
        self.gateway.endpoint.looks();
    }

    /// What came of the one look that began then.
    pub(crate) fn looked(&self, began: Instant, outcome: Result<(), &str>) {
        let (digest, look) = (self.digest(), Look { source: 0, of: 1, began });
        self.gateway.endpoint.looked(look, outcome.map(|()| (&*digest, None)));
    }
}
