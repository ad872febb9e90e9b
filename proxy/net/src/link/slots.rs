//! The classes of a line by name: every name keeps its slot for as long as the process runs, so
//! that counters, flows and the scheduler's clocks survive a reload.

use std::sync::Arc;

use tillgate_core::class::{CLASSES_MAX, ClassSpec, ClassTable, DEFAULT_CLASS, Share};
use tillgate_core::schedule::ClassShare;
use tillgate_core::units::{BitRate, PerDirection, Percent};

/// The classes of a line.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
}

/// One class.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: Arc<str>,
    pub(crate) present: bool,
    pub(crate) critical: bool,
    pub(crate) priority: u16,
    pub(crate) weight: u32,
    pub(crate) guarantee: PerDirection<Share>,
    pub(crate) ceiling: PerDirection<Share>,
}

impl Slots {
    pub(crate) fn new(classes: &ClassTable) -> Self {
        Self { slots: classes.iter().map(|(_, class)| Slot::new(class)).collect() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    pub(crate) fn get(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of the class called `name`; a class that is gone is `default`.
    pub(crate) fn find(&self, name: &str) -> usize {
        let named =
            |name: &str| self.slots.iter().position(|slot| slot.present && &*slot.name == name);
        named(name).or_else(|| named(DEFAULT_CLASS)).unwrap_or(0)
    }

    /// Takes over `classes`. Returns the slots whose class is gone, each with the slot where its
    /// flows go on.
    pub(crate) fn update(&mut self, classes: &ClassTable) -> Vec<(usize, usize)> {
        let was_present: Vec<bool> = self.slots.iter().map(|slot| slot.present).collect();
        for slot in &mut self.slots {
            slot.present = false;
        }
        // Names that stay first, so that a new one never takes the place of one that comes later.
        let mut new = Vec::new();
        for (_, class) in classes.iter() {
            match self.slots.iter().position(|slot| slot.name == class.name) {
                Some(index) => self.slots[index] = Slot::new(class),
                None => new.push(Slot::new(class)),
            }
        }
        let mut taken_over = Vec::new();
        for fresh in new {
            if self.slots.len() < CLASSES_MAX {
                self.slots.push(fresh);
            } else if let Some(index) = self.slots.iter().position(|slot| !slot.present) {
                self.slots[index] = fresh;
                taken_over.push(index);
            }
        }
        let default = self.find(DEFAULT_CLASS);
        (0..was_present.len())
            .filter(|index| was_present[*index])
            .filter(|index| !self.slots[*index].present || taken_over.contains(index))
            .map(|index| (index, default))
            .collect()
    }

    /// What the scheduler must know, by slot and the same in both directions of the table.
    pub(crate) fn shares(&self) -> PerDirection<Vec<ClassShare>> {
        let of = |pick: fn(&PerDirection<Share>) -> Share| {
            self.slots.iter().map(|slot| slot.share(pick)).collect()
        };
        PerDirection { up: of(|share| share.up), down: of(|share| share.down) }
    }
}

impl Slot {
    fn new(class: &ClassSpec) -> Self {
        Self {
            name: class.name.clone(),
            present: true,
            critical: class.critical,
            priority: class.priority,
            weight: class.weight,
            guarantee: class.guarantee,
            ceiling: class.ceiling,
        }
    }

    fn share(&self, pick: fn(&PerDirection<Share>) -> Share) -> ClassShare {
        if self.present {
            return ClassShare {
                priority: self.priority,
                weight: self.weight,
                guarantee: pick(&self.guarantee),
                ceiling: pick(&self.ceiling),
            };
        }
        // A class that is gone has no flows and must not reserve anything.
        ClassShare {
            priority: 0,
            weight: 1,
            guarantee: Share::Rate(BitRate::default()),
            ceiling: Share::Percent(Percent::FULL),
        }
    }
}
