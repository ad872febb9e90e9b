//! Days of one store: bundles of all kinds, power cuts between any two writes, clocks that lie.

use std::collections::BTreeMap;

use super::*;
use crate::schedule::tests::draw::{Draw, each_seed};

/// What a bundle does to the store that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Good,
    /// Payments fail.
    Bad,
    /// The process dies of it, sooner or later.
    Deadly,
}

/// What survives a power cut.
#[derive(Clone, Default)]
struct Disk {
    bundles: BTreeMap<Digest, Revision>,
    current: Option<Digest>,
    lkg: Option<Digest>,
    memory: Option<Memory>,
    torn: bool,
}

impl Disk {
    fn found(&self) -> OnDisk {
        let bundle = |digest: &Option<Digest>| {
            let revision = self.bundles.get(digest.as_ref()?)?.clone();
            Some(Bundle { revision, intact: true })
        };
        OnDisk {
            current: bundle(&self.current),
            lkg: bundle(&self.lkg),
            present: self.bundles.values().cloned().collect(),
            memory: self.memory.clone().filter(|_| !self.torn),
            torn: self.torn,
        }
    }
}

struct Day {
    draw: Draw,
    disk: Disk,
    store: Reconciler,
    natures: BTreeMap<Digest, Nature>,
    offered: Option<Revision>,
    facts: Facts,
    now: Instant,
    wall: Wall,
    up: Duration,
    /// How often each digest was swapped in.
    tries: BTreeMap<Digest, u32>,
    highest: u64,
}

impl Day {
    fn new(seed: u64) -> Self {
        Self {
            draw: Draw::new(seed),
            disk: Disk::default(),
            store: fresh(),
            natures: BTreeMap::new(),
            offered: None,
            facts: Facts::default(),
            now: epoch(),
            wall: NOW,
            up: Duration::ZERO,
            tries: BTreeMap::new(),
            highest: 0,
        }
    }

    /// A day on which a good bundle came first.
    fn that_began_well(seed: u64) -> Self {
        let mut day = Self::new(seed);
        day.publish(Nature::Good);
        day.steps(300);
        day
    }

    fn publish(&mut self, nature: Nature) {
        self.highest += 1;
        let revision = revision(self.highest);
        self.natures.insert(Arc::clone(&revision.digest), nature);
        self.offered = Some(revision);
    }

    /// The nature of what runs.
    fn nature(&self) -> Nature {
        let running = self.store.running().map(|one| &one.digest);
        running.map_or(Nature::Good, |digest| self.natures[digest])
    }

    /// Does what the loop says; the power may go between any two writes. Whether it stayed.
    fn write(&mut self, cuts: u64) -> bool {
        while let Some(effect) = self.store.poll_effect() {
            if self.draw.chance(cuts) {
                // A memory under way is old or new, never half: that is the write rule's word.
                self.disk.torn = self.draw.chance(5);
                return false;
            }
            match effect {
                Effect::PointCurrent(digest) => self.disk.current = Some(digest),
                Effect::PointLkg(digest) => {
                    assert_ne!(self.natures[&digest], Nature::Bad, "a bad one called good");
                    self.disk.lkg = Some(digest);
                }
                Effect::Remember => {
                    self.disk.memory = Some(self.store.memory().clone());
                    self.disk.torn = false;
                }
                Effect::RollBack(digest) => {
                    assert!(self.disk.bundles.contains_key(&digest), "back to what is not there");
                    self.store.handle_rolled_back(true);
                }
                Effect::Say(_) => {}
            }
        }
        true
    }

    fn restart(&mut self) {
        self.wall = if self.draw.chance(10) { Wall(self.draw.between(0, 100)) } else { self.wall };
        let boot = self.disk.found().boot(self.wall);
        let clean = boot.remarks.is_empty();
        assert!(!clean || boot.serve != Serve::Minimal || self.disk.current.is_none());
        self.disk.memory = Some(boot.memory.clone());
        self.disk.torn = false;
        self.store = Reconciler::new(&boot, SPEC);
        self.facts = Facts::default();
        self.up = Duration::ZERO;
        self.wall = NOW;
    }

    /// So many times ten seconds without a power cut.
    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step(0));
    }

    /// Ten seconds of life.
    fn step(&mut self, cuts: u64) {
        let second = Duration::from_secs(10);
        self.now += second;
        self.up += second;
        self.wall = Wall(self.wall.0 + 10);
        if self.up >= Duration::from_secs(60) {
            self.store.memory_mut().lived();
        }
        let taken = self.offered.clone().filter(|one| self.store.examine(one).is_ok());
        if let Some(offered) = taken {
            self.disk.bundles.insert(Arc::clone(&offered.digest), offered.clone());
            *self.tries.entry(Arc::clone(&offered.digest)).or_default() += 1;
            self.store.handle_swapped(offered, &self.facts.clone(), self.now);
        }
        let nature = self.nature();
        let requests = self.draw.between(0, 20);
        self.facts.requests += requests;
        self.facts.errors += if nature == Nature::Bad { requests } else { 0 };
        let facts = self.facts.clone();
        self.store.handle_facts(&facts, self.now);
        let dies = nature == Nature::Deadly && self.draw.chance(30);
        if !self.write(cuts) || dies || self.draw.chance(cuts) {
            self.restart();
        }
        self.check();
    }

    fn check(&self) {
        let (running, memory) = (self.store.running(), self.store.memory());
        if let Some(lkg) = self.store.lkg() {
            assert_ne!(self.natures[&lkg.digest], Nature::Bad, "a bad one called good");
        }
        if let (Some(running), Some((highest, _))) = (running, &memory.highest) {
            assert!(running.sequence.expect("all have one") <= *highest);
        }
        assert!(memory.denied.len() <= DENIED_MAX && memory.attempts.len() <= 4);
        assert!(self.disk.current.as_ref().is_none_or(|one| self.disk.bundles.contains_key(one)));
        assert!(self.disk.lkg.as_ref().is_none_or(|one| self.disk.bundles.contains_key(one)));
    }
}

fn nature(draw: &mut Draw) -> Nature {
    draw.pick(&[Nature::Good, Nature::Good, Nature::Bad, Nature::Deadly])
}

#[test]
fn whatever_happens_a_good_bundle_wins_in_the_end() {
    each_seed("reconcile", 300, |seed| {
        let mut day = Day::that_began_well(seed);
        assert_eq!(day.store.lkg(), Some(&revision(1)), "seed {seed}");
        for _ in 0..600 {
            if day.draw.chance(4) {
                let next = nature(&mut day.draw);
                day.publish(next);
            }
            day.step(3);
        }
        day.publish(Nature::Good);
        day.steps(400);
        let last = revision(day.highest);
        assert_eq!(day.store.running(), Some(&last), "seed {seed}");
        assert_eq!(day.store.lkg(), Some(&last), "seed {seed}");
        assert_eq!(day.disk.current, Some(Arc::clone(&last.digest)));
        assert_eq!(day.disk.lkg, Some(last.digest));
    });
}

#[test]
fn a_bad_bundle_is_not_tried_for_ever() {
    each_seed("reconcile-bad", 200, |seed| {
        let mut day = Day::that_began_well(seed);
        for nature in [Nature::Bad, Nature::Deadly] {
            day.publish(nature);
            day.steps(2000);
            let tries = day.tries[&revision(day.highest).digest];
            assert!(tries <= 2, "seed {seed}: {nature:?} was tried {tries} times");
            assert!(nature == Nature::Deadly || day.store.running() == Some(&revision(1)));
        }
    });
}
