//! A start: what the disk has, and what is served of it.
//!
//! Any of the bundles, the two pointers and the memory may be torn, stale or gone. `current`
//! serves only if it had passed its probation, else `lkg`, else nothing (the built-in minimal
//! policy). A start never waits for a source.

use std::sync::Arc;

use super::super::wall::Wall;
use super::super::{ATTEMPTS_MAX, Digest, Revision};
use super::{Applied, Memory, SHORT_BOOTS_MAX, Stage};

/// A bundle on disk, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// What its manifest says.
    pub revision: Revision,
    /// Whether every byte is what the manifest says, and its signatures count.
    pub intact: bool,
}

/// What a start finds.
#[derive(Clone, Debug, Default)]
pub struct OnDisk {
    /// Where `current` leads.
    pub current: Option<Bundle>,
    /// Where `lkg` leads.
    pub lkg: Option<Bundle>,
    /// Every bundle that is there.
    pub present: Vec<Revision>,
    /// The memory; `None` if there is none or it is torn.
    pub memory: Option<Memory>,
    /// Whether there was a memory that could not be read.
    pub torn: bool,
}

/// What a start serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    /// The latest.
    Current(Revision),
    /// The last known good.
    Lkg(Revision),
    /// The built-in minimal policy.
    Minimal,
}

impl Serve {
    /// The bundle, if it is one.
    pub const fn revision(&self) -> Option<&Revision> {
        match self {
            Self::Current(revision) | Self::Lkg(revision) => Some(revision),
            Self::Minimal => None,
        }
    }
}

/// What a start found remarkable; each becomes a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// The process keeps dying young.
    BootLoop,
    /// The memory was torn or is gone: pin and denylist are lost.
    MemoryLost,
    /// `current` is damaged.
    CurrentDamaged,
    /// `lkg` is damaged.
    LkgDamaged,
    /// The last start died while `current` was on probation, or before that was written down.
    Unproven,
}

/// The decision of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What serves.
    pub serve: Serve,
    /// What a rollback would return to.
    pub lkg: Option<Revision>,
    /// What is known; to be written before anything is tried.
    pub memory: Memory,
    /// What people should know.
    pub remarks: Vec<Remark>,
}

impl OnDisk {
    /// Decides what a start at `wall` serves.
    pub fn boot(self, wall: Wall) -> Boot {
        let mut remarks = Vec::new();
        // Without a bundle it is the first start of all; with one, somebody took the memory away.
        if self.torn || (self.memory.is_none() && !self.present.is_empty()) {
            remarks.push(Remark::MemoryLost);
        }
        let mut memory = self.memory.unwrap_or_else(|| rebuilt(&self.present));
        let died = memory.start(wall);
        for (bundle, damaged) in
            [(&self.current, Remark::CurrentDamaged), (&self.lkg, Remark::LkgDamaged)]
        {
            if bundle.as_ref().is_some_and(|bundle| !bundle.intact) {
                remarks.push(damaged);
            }
        }
        let sound = |bundle: Option<Bundle>| Some(bundle.filter(|bundle| bundle.intact)?.revision);
        let (current, lkg) = (sound(self.current), sound(self.lkg));
        let proven = proven(current.as_ref(), lkg.as_ref(), &mut memory, &mut remarks);
        if died >= SHORT_BOOTS_MAX {
            remarks.push(Remark::BootLoop);
            give_up(died, current.as_ref(), lkg.as_ref(), &mut memory);
        }
        let allowed = |one: &Revision| memory.denial(&one.digest).is_none();
        let (current, lkg) = (current.filter(allowed), lkg.filter(allowed));
        let serve = match (current, &lkg) {
            (Some(current), _) if proven => Serve::Current(current),
            (_, Some(lkg)) => Serve::Lkg(lkg.clone()),
            (_, None) => Serve::Minimal,
        };
        Boot { serve, lkg, memory, remarks }
    }
}

/// A process that keeps dying first leaves `current`, and then, if that was not it, `lkg`. Neither
/// comes back by itself: the source would bring it at once.
fn give_up(died: u32, current: Option<&Revision>, lkg: Option<&Revision>, memory: &mut Memory) {
    let why = "the process kept dying within a minute of its start".into();
    if let Some(current) = current.filter(|current| lkg.is_none_or(|lkg| lkg != *current)) {
        memory.deny(current, &why);
    }
    if let Some(lkg) = lkg.filter(|_| died >= 2 * SHORT_BOOTS_MAX) {
        memory.deny(lkg, &why);
    }
}

/// Whether `current` had passed its probation; if it had not, that is counted against it.
fn proven(
    current: Option<&Revision>,
    lkg: Option<&Revision>,
    memory: &mut Memory,
    remarks: &mut Vec<Remark>,
) -> bool {
    let applied = memory.applied.clone();
    let is_current = |digest: &Digest| current.is_some_and(|current| current.digest == *digest);
    let is_lkg = |digest: &Digest| lkg.is_some_and(|lkg| lkg.digest == *digest);
    match applied {
        Some(Applied { digest, stage: Stage::Kept | Stage::Promoted }) if is_current(&digest) => {
            return true;
        }
        // Promoted, and that could not be written down.
        Some(Applied { digest, .. }) if is_current(&digest) && is_lkg(&digest) => return true,
        // Somebody wants just this one: no start undoes that, and none is counted against it.
        Some(Applied { digest, .. })
            if is_current(&digest)
                && memory.pin.as_ref().is_some_and(|pin| pin.digest == digest) =>
        {
            memory.settle(&digest, Stage::Kept);
            return true;
        }
        // One that `current` does not lead to any more was not tried by the last start.
        Some(Applied { digest, stage: Stage::InProbation })
            if is_current(&digest)
                && memory.denial(&digest).is_none()
                && memory.attempt(&digest) >= ATTEMPTS_MAX =>
        {
            let sequence = memory.highest.as_ref().filter(|(_, high)| *high == digest);
            let revision = Revision {
                sequence: sequence.map(|(sequence, _)| *sequence),
                digest,
                created_at: Wall::default(),
            };
            memory.deny(&revision, &"the process died twice while it was on probation".into());
        }
        _ => {}
    }
    if current.is_some() && current.map(|one| &one.digest) != lkg.map(|one| &one.digest) {
        remarks.push(Remark::Unproven);
    }
    false
}

/// The memory of a store that has lost it: no bundle older than those present comes back.
fn rebuilt(present: &[Revision]) -> Memory {
    let numbered = present.iter().filter_map(|one| Some((one.sequence?, Arc::clone(&one.digest))));
    Memory {
        highest: numbered.max(),
        floor: present.iter().map(|one| one.created_at).max().unwrap_or_default(),
        ..Memory::default()
    }
}
