//! Traffic classes: what a kind of traffic is worth on the line.
//!
//! A class says its priority (higher wins), its floor (`guarantee`) and its `ceiling`, and how
//! long its requests may wait. Classes are known by name in policy and by [`ClassId`] inside;
//! ids are stable by name across reloads, so that live flows keep theirs.

use std::sync::Arc;
use std::time::Duration;

use crate::units::{BitRate, PerDirection, Percent};

/// The most classes that one store may have (a `u64` bitmap of ready classes is enough).
pub const CLASSES_MAX: usize = 64;

/// The class of whatever no rule names and nothing recognises. Always present.
pub const DEFAULT_CLASS: &str = "default";

/// Index of a class in the store's [`ClassTable`]; stable by name across reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u8);

impl ClassId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A part of the line: relative to its current capacity, or absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Of the link's current capacity.
    Percent(Percent),
    /// A fixed rate.
    Rate(BitRate),
}

impl Share {
    /// The rate this share means on a line of `capacity`; never more than the capacity.
    pub fn of(self, capacity: BitRate) -> BitRate {
        match self {
            Self::Percent(percent) => capacity.percent(percent),
            Self::Rate(rate) => rate.min(capacity),
        }
    }
}

/// May this class use a link that costs by the byte?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metered {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// How long what a class sends may wait for the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// A request that has waited this long for a connection or the line is refused (503).
    pub max_wait: Duration,
}

/// Everything policy says about one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// Name in policy, metrics and logs.
    pub name: Arc<str>,
    /// 0 to 1000, higher wins. Equal priorities form one tier and share it by weight.
    pub priority: u16,
    /// Share inside its tier against classes of equal priority, 1 to 65536.
    pub weight: u32,
    /// Guards and drains protect critical classes; only the others are "bulk" on the downlink.
    pub critical: bool,
    /// The floor this class has on the line while it has traffic.
    pub guarantee: PerDirection<Share>,
    /// The most it may take even of an idle line.
    pub ceiling: PerDirection<Share>,
    /// How long and how much may wait.
    pub queue: QueueLimit,
    /// Differentiated services code point (0 to 63) set on its WAN sockets.
    pub dscp: Option<u8>,
    /// Whether it may use metered links.
    pub metered: Metered,
    /// Requests of this class at the same time, on all listeners together; the next one is
    /// answered 503. `None` = only the bounds of listeners and pools count.
    pub requests_max: Option<u32>,
    /// The same for what lasts: tunnels, WebSockets, connections of bytes, sessions of datagrams.
    /// They have a bound of their own, so that those which stay for hours take no request's place.
    pub connections_max: Option<u32>,
}

/// All classes of a store, indexed by [`ClassId`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClassTable {
    classes: Vec<ClassSpec>,
}

impl ClassTable {
    /// A table of `classes`; ids are their positions. `None` if there are more than
    /// [`CLASSES_MAX`].
    pub fn new(classes: Vec<ClassSpec>) -> Option<Self> {
        (classes.len() <= CLASSES_MAX).then_some(Self { classes })
    }

    /// The class with this id.
    ///
    /// # Panics
    /// If the id is from another table: ids are handed out by this table alone.
    pub fn get(&self, id: ClassId) -> &ClassSpec {
        &self.classes[id.index()]
    }

    /// The id of the class called `name`.
    pub fn id(&self, name: &str) -> Option<ClassId> {
        let position = self.classes.iter().position(|class| &*class.name == name)?;
        u8::try_from(position).ok().map(ClassId)
    }

    /// Every class with its id, in table order.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &ClassSpec)> {
        (0u8..).map(ClassId).zip(self.classes.iter())
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is no class at all.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }
}
