//! The classes of a line by name: every name keeps its slot for as long as the process runs, so
//! that counters, flows and the scheduler's clocks survive a reload.

use std::collections::BTreeSet;
use std::sync::Arc;

use tillgate_core::class::{CLASSES_MAX, ClassSpec, ClassTable, DEFAULT_CLASS, Share};
use tillgate_core::schedule::ClassShare;
use tillgate_core::units::{BitRate, PerDirection, Percent};

/// The classes of a line.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// Classes whose ceiling does not count now.
    lifted: BTreeSet<Arc<str>>,
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

/// What a class may have whose ceiling is lifted.
const NO_CEILING: Share = Share::Percent(Percent::FULL);

impl Slots {
    pub(crate) fn new(classes: &ClassTable) -> Self {
        let slots = classes.iter().map(|(_, class)| Slot::new(class)).collect();
        Self { slots, lifted: BTreeSet::new() }
    }

    /// Ceilings of these classes do not count from now on, until it is said again. Returns whether
    /// that is another word than before.
    pub(crate) fn lift(&mut self, lifted: &BTreeSet<Arc<str>>) -> bool {
        let is_news = self.lifted != *lifted;
        if is_news {
            self.lifted.clone_from(lifted);
        }
        is_news
    }

    /// What the class of `slot` may have at most.
    pub(crate) fn ceiling(&self, slot: &Slot) -> PerDirection<Share> {
        match self.lifted.contains(&slot.name) {
            true => PerDirection { up: NO_CEILING, down: NO_CEILING },
            false => slot.ceiling,
        }
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
            self.slots.iter().map(|slot| slot.share(self.ceiling(slot), pick)).collect()
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

    fn share(
        &self,
        ceiling: PerDirection<Share>,
        pick: fn(&PerDirection<Share>) -> Share,
    ) -> ClassShare {
        if self.present {
            return ClassShare {
                priority: self.priority,
                weight: self.weight,
                guarantee: pick(&self.guarantee),
                ceiling: pick(&ceiling),
            };
        }
        // A class that is gone has no flows and must not reserve anything.
        ClassShare {
            priority: 0,
            weight: 1,
            guarantee: Share::Rate(BitRate::default()),
            ceiling: NO_CEILING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testing;

    #[test]
    fn a_lifted_ceiling_comes_back() {
        let half = Share::Percent(Percent::new(50).expect("a percentage"));
        let name: Arc<str> = "image-pull".into();
        let shares = PerDirection { up: half, down: half };
        let class = ClassSpec { guarantee: shares, ceiling: shares, ..testing::class(&name) };
        let classes = ClassTable::new(vec![class]).expect("a class");
        let mut slots = Slots::new(&classes);
        let of = |slots: &Slots| slots.shares().down[slots.find(&name)].ceiling;
        assert_eq!(of(&slots), half);
        let lifted = BTreeSet::from([Arc::clone(&name)]);
        assert!(slots.lift(&lifted) && !slots.lift(&lifted));
        assert_eq!(of(&slots), NO_CEILING);
        // A reload does not end it.
        slots.update(&classes);
        assert_eq!(of(&slots), NO_CEILING);
        assert!(slots.lift(&BTreeSet::new()));
        assert_eq!(of(&slots), half);
    }
}
