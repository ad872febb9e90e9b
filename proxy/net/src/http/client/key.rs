//! What tells apart connections of a pool that may not serve the same requests.
//!
//! A key is looked for by reference, so that a request that finds its shelf allocates nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use tillgate_core::backend::Endpoint;
use tillgate_core::class::ClassId;
use tillgate_core::link::LinkId;

use super::shelf::Shelf;
use super::{Target, Wire};

/// Places that clients chose themselves and that have connections kept for them, of one pool: an
/// idle one holds a descriptor, and payments need some too.
pub(super) const CHOSEN_MAX: usize = 256;

/// What connections must have in common to serve the same requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) endpoint: Endpoint,
    /// Any of them may have been dialled, so who may not go to one of them goes another way.
    addresses: Option<Arc<[SocketAddr]>>,
    pub(super) rest: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rest {
    pub(super) class: ClassId,
    pub(super) link: Option<LinkId>,
    wire: Wire,
    /// Connections that were opened for one client serve no other.
    client: Option<SocketAddr>,
    /// Connections of two TLS identities are never mixed.
    tls: Option<u32>,
}

/// A [`Key`] to look for, which has the same hash.
#[derive(Hash)]
pub(super) struct Sought<'a> {
    endpoint: &'a Endpoint,
    pub(super) addresses: Option<&'a Arc<[SocketAddr]>>,
    rest: Rest,
}

impl<'a> Sought<'a> {
    pub(super) fn of(target: &'a Target) -> Self {
        let rest = Rest {
            class: target.class,
            link: target.link,
            wire: target.wire,
            client: target.client.map(|(_, client)| client),
            tls: target.tls.as_ref().map(|tls| tls.id()),
        };
        Self { endpoint: &target.endpoint, addresses: target.addresses.as_ref(), rest }
    }
}

impl Equivalent<Key> for Sought<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.endpoint == key.endpoint
            && self.addresses == key.addresses.as_ref()
            && self.rest == key.rest
    }
}

impl From<&Sought<'_>> for Key {
    fn from(sought: &Sought<'_>) -> Self {
        Self {
            endpoint: sought.endpoint.clone(),
            addresses: sought.addresses.cloned(),
            rest: sought.rest,
        }
    }
}

/// Takes out a shelf of a place that clients chose where nothing is under way, if there are as many
/// such places as there may be.
pub(super) fn make_room(shelves: &mut HashMap<Key, Arc<Shelf>>) -> Option<Arc<Shelf>> {
    let chosen = || shelves.iter().filter(|(key, _)| key.addresses.is_some());
    if chosen().count() < CHOSEN_MAX {
        return None;
    }
    let idle = chosen().find(|(_, shelf)| {
        let (open, idle, waiting) = shelf.counts();
        open == idle && waiting == 0
    });
    let idle = idle.map(|(key, _)| key.clone())?;
    shelves.remove(&idle)
}
