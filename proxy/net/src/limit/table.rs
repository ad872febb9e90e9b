//! The bounded table of keys behind one rate limit.
//!
//! Keys are hashes. Whoever asks becomes the most recently seen; a new key in a full table takes
//! the place of one whose bucket is full again among the few least recently seen (forgetting it
//! changes nothing), else of the very least recently seen. Every step is O(1). The table grows with
//! its keys and never beyond its bound: some 50 bytes a key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;

/// How many of the least recently seen are looked at for one that need not be remembered.
const LOOK_AT: usize = 4;

/// No slot.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    slots: Mutex<Slots>,
    keys_max: u32,
    refill: u64,
}

/// What one key has used, between its neighbours by time.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    /// When its bucket would be full, and one token more (GCRA's theoretical arrival time).
    full_at: u64,
    newer: u32,
    older: u32,
}

#[derive(Debug)]
struct Slots {
    places: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
}

impl Table {
    pub(super) fn new(keys_max: u32, refill: Duration) -> Self {
        let slots =
            Slots { places: HashMap::default(), slots: Vec::new(), newest: NONE, oldest: NONE };
        Self {
            slots: Mutex::new(slots),
            keys_max: keys_max.clamp(1, NONE - 1),
            refill: u64::try_from(refill.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.lock().unwrap().slots.len()
    }
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = slots.places.get(key).copied() {
            // Refused ones count as seen: a flood must not be forgotten while it lasts.
            slots.refresh(place);
            let slot = &mut slots.slots[place as usize];
            let (value, full_at) = f(Some(Nanos::new(slot.full_at)))?;
            slot.full_at = full_at.as_u64();
            return Ok(value);
        }
        let (value, full_at) = f(None)?;
        // What an unused bucket becomes with one token taken is now and a refill or two.
        let unused = full_at.as_u64().saturating_sub(self.refill);
        slots.insert(*key, full_at.as_u64(), self.keys_max, unused);
        Ok(value)
    }
}

impl Slots {
    fn insert(&mut self, key: u64, full_at: u64, keys_max: u32, unused: u64) {
        let fresh = Slot { key, full_at, newer: NONE, older: NONE };
        let place = match u32::try_from(self.slots.len()) {
            Ok(place) if place < keys_max => {
                self.slots.push(fresh);
                place
            }
            Ok(_) | Err(_) => {
                let place = self.to_forget(unused);
                self.unlink(place);
                let old = std::mem::replace(&mut self.slots[place as usize], fresh);
                self.places.remove(&old.key);
                place
            }
        };
        self.places.insert(key, place);
        self.link(place);
    }

    /// The slot that is missed least.
    fn to_forget(&self, unused: u64) -> u32 {
        let mut place = self.oldest;
        for _ in 0..LOOK_AT {
            let Some(slot) = self.slots.get(place as usize) else { break };
            if slot.full_at <= unused {
                return place;
            }
            place = slot.newer;
        }
        self.oldest
    }

    fn refresh(&mut self, place: u32) {
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
    }

    fn unlink(&mut self, place: u32) {
        let Slot { newer, older, .. } = self.slots[place as usize];
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Puts a slot before all others.
    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.newer = place,
            None => self.oldest = place,
        }
        let slot = &mut self.slots[place as usize];
        (slot.newer, slot.older) = (NONE, before);
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
