//! How the policy itself reaches one store: its rings, and what this bundle says of itself.

use std::sync::Arc;
use std::time::Duration;

use tillgate_core::reconcile::{Ring, RingSpec};

use super::{Fleet, body};
use crate::compile::select;
use crate::defaults;
use crate::kinds::StoreDoc;
use crate::kinds::rollout::RingDoc;

/// What a bundle says about its own way to the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The rings, as this store sees them.
    pub rings: RingSpec,
    /// The last ring that the bundle opens by itself.
    pub released_through: Option<Arc<str>>,
    /// Whether it asks not to wait.
    pub immediate: bool,
    /// How old it may become before it is called stale.
    pub soft_expiry: Duration,
}

impl Fleet {
    /// The rings by which the policy goes out, in order.
    pub fn rings(&self) -> impl Iterator<Item = &str> + Clone {
        let rollout = self.bundle().and_then(|bundle| bundle.spec.rollout.as_ref());
        rollout.into_iter().flat_map(|rollout| &rollout.rings).map(|ring| ring.name.0.as_str())
    }

    /// How the policy reaches the store with this name or id.
    ///
    /// # Errors
    /// A sentence, if there is no such store.
    pub fn delivery(&self, name_or_id: &str) -> Result<Delivery, String> {
        let store = body(self.document(name_or_id)?);
        let bundle = self.bundle().map(|bundle| &bundle.spec);
        let expiry = bundle.and_then(|bundle| bundle.soft_expiry).map(|text| text.0);
        let mut delivery = Delivery {
            rings: RingSpec::default(),
            released_through: None,
            immediate: false,
            soft_expiry: expiry.unwrap_or(defaults::SOFT_EXPIRY),
        };
        let Some(rollout) = bundle.and_then(|bundle| bundle.rollout.as_ref()) else {
            return Ok(delivery);
        };
        let rings: Vec<Ring> = rollout.rings.iter().map(|doc| ring(doc, store)).collect();
        // What would skip every ring needs as many signatures as the strictest of them.
        let immediate_approvals = rings.iter().map(|ring| ring.approvals).max().unwrap_or(1);
        delivery.rings = RingSpec { rings, immediate_approvals };
        delivery.released_through =
            rollout.released_through.as_ref().map(|name| name.0.as_str().into());
        delivery.immediate = rollout.immediate.is_some_and(|flag| flag.0);
        Ok(delivery)
    }
}

fn ring(doc: &RingDoc, store: Option<&StoreDoc>) -> Ring {
    let approvals = doc.approvals.as_ref();
    Ring {
        name: doc.name.0.as_str().into(),
        selects: store.is_some_and(|store| select::applies(&doc.store_selector, store)),
        ramp: doc.ramp.map_or(Duration::ZERO, |ramp| ramp.over.0),
        approvals: approvals.map_or(1, |approvals| usize::from(approvals.required.fit::<u16>())),
        roles: approvals
            .map(|approvals| approvals.roles.iter().map(|role| role.0.as_str().into()).collect())
            .unwrap_or_default(),
    }
}
