//! WAN lines: what is known of each, and which one a connection takes.
//!
//! [`link_for`] is the one place that maps a destination and a class to a line. Today the first
//! usable `Primary` wins; switching lines later changes this function and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use crate::backend::Location;
use crate::class::ClassSpec;
use crate::units::{BitRate, PerDirection, Percent};

/// Index of a link in the store's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

/// Whether a line carries traffic by default or stands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// Used while it works.
    Primary,
    /// Stands by.
    Backup,
}

/// One WAN line of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// Name in policy, metrics and logs.
    pub name: Arc<str>,
    /// Primary or backup.
    pub role: LinkRole,
    /// Bits of IP packets per second, each way.
    pub capacity: PerDirection<BitRate>,
    /// Part of the capacity that is left unused so that the queue stays with us.
    pub headroom: Percent,
    /// Bytes of framing per packet to charge on top of IP (Ethernet 18, PPPoE 8, VPN ...).
    pub overhead_bytes: u16,
    /// Costs by the byte: only classes that allow metered links may use it.
    pub metered: bool,
    /// Network device to bind WAN sockets to.
    pub device: Option<Arc<str>>,
    /// Source address to bind WAN sockets to.
    pub source: Option<IpAddr>,
}

impl LinkSpec {
    /// The rate the scheduler may hand out: capacity less headroom.
    pub fn shaped_rate(&self) -> PerDirection<BitRate> {
        let left = Percent::new(100 - self.headroom.value().min(99)).unwrap_or(Percent::FULL);
        PerDirection { up: self.capacity.up.percent(left), down: self.capacity.down.percent(left) }
    }
}

/// Where a connection is going, as far as choosing a line is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Inside the store or across the line.
    pub location: Location,
}

/// The line a connection of `class` to `destination` takes: `None` for one that stays in the
/// store (unshaped), else the first `Primary` the class may use, else the first usable line.
/// A class denied on every line still gets the first one: refusing traffic is admission's
/// decision, and losing the line's accounting would hurt everyone.
pub fn link_for(destination: Destination, class: &ClassSpec, links: &[LinkSpec]) -> Option<LinkId> {
    if destination.location == Location::Local {
        return None;
    }
    let allowed = |link: &LinkSpec| !link.metered || class.metered == crate::class::Metered::Allow;
    let primary = |link: &LinkSpec| link.role == LinkRole::Primary;
    let position = links
        .iter()
        .position(|link| primary(link) && allowed(link))
        .or_else(|| links.iter().position(allowed))
        .or_else(|| links.iter().position(primary))
        .or(if links.is_empty() { None } else { Some(0) })?;
    u8::try_from(position).ok().map(LinkId)
}
