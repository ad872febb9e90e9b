//! May this image be pulled now, and may this policy be taken now?
//!
//! In: what is asked, the state of the clock, the time. Out: a [`Verdict`] with every reason
//! and the next opening. A Prohibition beats everything; what the store has is never held; then a
//! ring must be open, its ramp over, no Freeze and no window with `Deny` active, and one with
//! `Allow` if there is any. An Override suspends named Freezes and `Deny` windows, nothing else.
//! Rules of routes and of the egress policy have no rings, only windows and freezes that name
//! them. The data path, `explain` and `windows` ask this same code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::calendar::{CivilRange, Effect, Window};
use crate::civil::{Interval, Timestamp, merge, rest};
use crate::class::ClassId;
use crate::units::{BitRate, PerDirection};

mod applying;
mod approval;
mod begin;
mod blockers;
mod clock;
mod history;
mod pattern;
mod stages;
mod subject;
mod wait;

pub use applying::Applying;
pub use approval::{Approval, Purpose, RequiredApprovals, Signed};
pub use blockers::Blocker;
pub use clock::Clock;
pub use history::{History, Ran};
pub use pattern::RepositoryGlob;
pub use stages::{Promotion, Ring, SPREAD_MAX, Stages, StoreRing};
pub use subject::{AppliesTo, Passage, RolloutName, RouteName};
pub use wait::{RETRY_MAX, retry_after, spread};

use self::subject::{Subject, Whom};

/// Everything that decides when one store changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Change windows, by name.
    pub windows: Vec<NamedWindow>,
    /// Freezes, by name.
    pub freezes: Vec<Freeze>,
    /// Overrides, by name; expired ones too.
    pub overrides: Vec<Override>,
    /// Prohibitions, by name.
    pub prohibitions: Vec<Prohibition>,
    /// Rollouts, by name.
    pub rollouts: Vec<Rollout>,
    /// The rings of the policy itself; `None` = it is taken at once.
    pub policy: Option<Stages>,
}

/// A change window with what it applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedWindow {
    /// Its name.
    pub name: Arc<str>,
    /// What it applies to.
    pub applies_to: AppliesTo,
    /// When it is active.
    pub window: Window,
}

/// Some days without change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Its name.
    pub name: Arc<str>,
    /// What it applies to.
    pub applies_to: AppliesTo,
    /// From when to when.
    pub range: CivilRange,
    /// Why.
    pub reason: Arc<str>,
    /// Whether an Override may suspend it.
    pub overridable: bool,
    /// Whose signatures an Override needs.
    pub approvals: Option<RequiredApprovals>,
}

/// A signed exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Its name.
    pub name: Arc<str>,
    /// What it applies to.
    pub applies_to: AppliesTo,
    /// Names of freezes that do not hold.
    pub freezes: Vec<Arc<str>>,
    /// Names of windows with `Deny` that do not hold.
    pub windows: Vec<Arc<str>>,
    /// From when to when.
    pub valid: Interval,
    /// Why.
    pub reason: Arc<str>,
    /// The change record.
    pub ticket: Arc<str>,
    /// Who signed.
    pub signed: Signed,
}

/// Images that must not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prohibition {
    /// Its name.
    pub name: Arc<str>,
    /// The repositories.
    pub artifacts: Vec<Artifact>,
    /// Why.
    pub reason: Arc<str>,
}

/// Repositories of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Host of the registry, lower case.
    pub registry: Arc<str>,
    /// Its repositories.
    pub repositories: Vec<RepositoryGlob>,
}

/// A group of images, its release, and how that spreads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Its name.
    pub name: Arc<str>,
    /// The repositories that it is in charge of.
    pub artifacts: Vec<Artifact>,
    /// The images that are to run: repository and digest.
    pub images: Vec<(Arc<str>, Arc<str>)>,
    /// Its rings.
    pub stages: Stages,
    /// The windows with `Allow` that count; `None` = all that apply.
    pub windows: Option<Vec<Arc<str>>>,
    /// Releases before the current one that are never held.
    pub previous_releases: u8,
    /// How its pulls run.
    pub pulls: PullLimits,
}

/// How the pulls of a rollout run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullLimits {
    /// Their class.
    pub class: ClassId,
    /// The most of the line that they may take together.
    pub rate: PerDirection<Option<crate::class::Share>>,
    /// Pulls at the same time; `None` = as many as come.
    pub concurrent: Option<u16>,
    /// Bytes a day over metered links; `None` = no bound of its own.
    pub metered_bytes_per_day: Option<u64>,
    /// Whether pulls that have begun are held when their window ends.
    pub pause_on_window_close: bool,
    /// A held pull trickles at this rate; `None` = it is refused.
    pub throttle: Option<BitRate>,
    /// When a refused client may ask again.
    pub retry_after: Duration,
    /// What makes it wait for the tills.
    pub pause_while: Option<Busy>,
    /// Pull an opened release before anybody asks.
    pub prefetch: bool,
}

/// Tills that must not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The class that is watched.
    pub class: ClassId,
    /// Calls a second above which it is busy.
    pub requests_per_second: Option<u32>,
    /// Wait for the line (p99) above which it is busy.
    pub added_latency: Option<Duration>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Host of the registry, lower case.
    pub registry: &'a str,
    /// The repository.
    pub repository: &'a str,
    /// The digest that was asked for, or that the tag stands for.
    pub digest: &'a str,
    /// What the store has of it.
    pub holding: Holding,
    /// Whether the store runs anything.
    pub store: StoreState,
}

/// What a store has of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Nothing.
    New,
    /// It runs.
    Running,
    /// It ran so many releases ago; 1 is the last one.
    Previous(u8),
    /// It belongs to the last known good state.
    LastKnownGood,
    /// All of it lies on the disk.
    Cached,
}

/// Whether a store runs a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreState {
    /// It does.
    Running,
    /// It has none: it is being rebuilt and does not wait for windows.
    Restoring,
}

/// How far the gate looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At now alone, which is cheap: `next_open` is the moment before which it surely stays held.
    Now,
    /// For the next opening, through all windows and freezes on the way there.
    Ahead,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It must not run here, ever.
    Prohibited(&'a Prohibition),
    /// The store has it: it is never held.
    Kept(Holding),
    /// It is released, and this is the time.
    Open(Opening<'a>),
    /// It is released, and has to wait.
    Held(Opening<'a>),
    /// No rollout has released it; `Some` if one is in charge of its repository.
    Unknown(Option<&'a Rollout>),
}

/// How a rollout stands at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// The rollout; `None` = the policy itself, or a rule.
    pub rollout: Option<&'a Rollout>,
    /// The store's ring.
    pub ring: Option<&'a str>,
    /// What holds it; empty = it is open.
    pub held_by: Vec<Blocker>,
    /// What would hold it without an Override, and which one.
    pub suspended: Vec<(Blocker, &'a str)>,
    /// When it opens, as far as that is known.
    pub next_open: Option<Timestamp>,
}

/// One line of a store's calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarEntry {
    /// `ChangeWindow/closed-hours`.
    pub document: String,
    /// What happens in it.
    pub effect: Effect,
    /// When it is active.
    pub intervals: Vec<Interval>,
}

impl Override {
    /// When it counts by a clock of this state; never by one that nobody trusts.
    fn in_force(&self, clock: Clock) -> Option<Interval> {
        let valid = Interval::new(self.valid.from, self.valid.until.minus(clock.margin()));
        (!matches!(clock, Clock::Untrusted(_)) && !valid.is_empty()).then_some(valid)
    }

    /// Whether it is its time by such a clock, whoever has signed it.
    pub fn counts(&self, clock: Clock, now: Timestamp) -> bool {
        self.in_force(clock).is_some_and(|valid| valid.contains(now))
    }
}

impl Artifact {
    /// Whether it names this repository.
    pub fn covers(&self, registry: &str, repository: &str) -> bool {
        *self.registry == *registry && self.repositories.iter().any(|one| one.matches(repository))
    }
}

impl Rollout {
    /// Whether it is in charge of a repository.
    pub fn is_in_charge(&self, registry: &str, repository: &str) -> bool {
        self.artifacts.iter().any(|artifact| artifact.covers(registry, repository))
    }

    /// Whether its release has this image.
    pub fn releases(&self, repository: &str, digest: &str) -> bool {
        self.images.iter().any(|(name, one)| **name == *repository && **one == *digest)
    }

    /// The registry that a repository of its release is at.
    pub fn registry_of(&self, repository: &str) -> Option<&Arc<str>> {
        let names = |one: &&Artifact| one.repositories.iter().any(|glob| glob.matches(repository));
        self.artifacts.iter().find(names).map(|artifact| &artifact.registry)
    }
}

/// A document that counts at some times, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dated<'a> {
    /// A change window, and what it does while it is open.
    Window(&'a Arc<str>, Effect),
    /// A freeze.
    Freeze(&'a Arc<str>),
    /// An exception.
    Override(&'a Arc<str>),
}

impl fmt::Display for Dated<'_> {
    /// `ChangeWindow/night`, `Freeze/peak`, `Override/hotfix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Window(name, _) => ("ChangeWindow", name),
            Self::Freeze(name) => ("Freeze", name),
            Self::Override(name) => ("Override", name),
        };
        write!(f, "{kind}/{name}")
    }
}

impl Gate {
    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What forbids every image of a repository, if something does.
    pub fn prohibits(&self, registry: &str, repository: &str) -> Option<&Prohibition> {
        let covers = |one: &&Prohibition| {
            one.artifacts.iter().any(|artifact| artifact.covers(registry, repository))
        };
        self.prohibitions.iter().find(covers)
    }

    /// May this image be pulled now?
    pub fn verdict<'a>(&'a self, ask: &Ask<'a>, clock: Clock, now: Timestamp) -> Verdict<'a> {
        self.glance(ask, (clock, Look::Ahead), now)
    }

    /// The same, looking only so far.
    pub fn glance<'a>(&'a self, ask: &Ask<'a>, by: (Clock, Look), now: Timestamp) -> Verdict<'a> {
        if let Some(prohibition) = self.prohibits(ask.registry, ask.repository) {
            return Verdict::Prohibited(prohibition);
        }
        let in_charge = |one: &&Rollout| one.is_in_charge(ask.registry, ask.repository);
        let rollouts = || self.rollouts.iter().filter(in_charge);
        let kept = match ask.holding {
            Holding::New => false,
            Holding::Running | Holding::LastKnownGood | Holding::Cached => true,
            Holding::Previous(ago) => rollouts().any(|one| ago <= one.previous_releases),
        };
        if kept {
            return Verdict::Kept(ask.holding);
        }
        let releases = |one: &&Rollout| one.releases(ask.repository, ask.digest);
        let Some(rollout) = rollouts().find(releases) else {
            return Verdict::Unknown(rollouts().next());
        };
        let (whom, repository) = (Whom::Rollout(rollout), Some(ask.repository));
        let subject = Subject { whom, repository, store: ask.store };
        let opening = self.opening(&subject, Some(&rollout.stages), by, now);
        if opening.held_by.is_empty() { Verdict::Open(opening) } else { Verdict::Held(opening) }
    }

    /// How `rollout` stands now in a store of this state, for any of its images.
    pub fn of_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        store: StoreState,
        clock: Clock,
        now: Timestamp,
    ) -> Opening<'a> {
        self.of_pull(rollout, (None, store), (clock, Look::Ahead), now)
    }

    /// The same for one of its repositories (`None` = any), looking only so far.
    pub fn of_pull<'a>(
        &'a self,
        rollout: &'a Rollout,
        (repository, store): (Option<&'a str>, StoreState),
        by: (Clock, Look),
        now: Timestamp,
    ) -> Opening<'a> {
        let subject = Subject { whom: Whom::Rollout(rollout), repository, store };
        self.opening(&subject, Some(&rollout.stages), by, now)
    }

    /// May this policy be taken now? Its own rings decide, and windows and freezes that name
    /// `config`.
    pub fn of_policy(&self, clock: Clock, now: Timestamp) -> Opening<'_> {
        let subject = Subject::whole(Whom::Policy);
        self.opening(&subject, self.policy.as_ref(), (clock, Look::Ahead), now)
    }

    /// May requests pass this rule now?
    pub fn of_passage<'a>(
        &'a self,
        passage: Passage<'a>,
        clock: Clock,
        now: Timestamp,
    ) -> Opening<'a> {
        let subject = Subject::whole(Whom::Passage(passage));
        self.opening(&subject, None, (clock, Look::Ahead), now)
    }

    /// Whether any window or freeze names this rule: all others are always open.
    pub fn guards(&self, passage: Passage<'_>) -> bool {
        let windows = self.windows.iter().map(|one| &one.applies_to);
        let freezes = self.freezes.iter().map(|one| &one.applies_to);
        windows.chain(freezes).any(|one| one.covers_passage(passage))
    }

    /// When each window and freeze is active `within` a stretch of time, by document.
    pub fn calendar(&self, within: Interval) -> Vec<CalendarEntry> {
        let windows = self.windows.iter().map(|one| CalendarEntry {
            document: format!("ChangeWindow/{}", one.name),
            effect: one.window.effect,
            intervals: one.window.intervals(within),
        });
        let freezes = self.freezes.iter().map(|one| CalendarEntry {
            document: format!("Freeze/{}", one.name),
            effect: Effect::Deny,
            intervals: one.range.interval().within(within).into_iter().collect(),
        });
        windows.chain(freezes).collect()
    }

    /// Which windows, freezes and overrides count as active now by such a clock.
    pub fn active(&self, clock: Clock, now: Timestamp) -> Vec<(Dated<'_>, bool)> {
        let windows = self.windows.iter().map(|one| {
            let is_active = blockers::is_active(&one.window, clock, now);
            (Dated::Window(&one.name, one.window.effect), is_active)
        });
        let freezes = self.freezes.iter().map(|one| {
            let is_active = blockers::frozen(one, clock, now).is_some();
            (Dated::Freeze(&one.name), is_active)
        });
        let overrides = self
            .overrides
            .iter()
            .map(|one| (Dated::Override(&one.name), self.honours(one, clock, now)));
        windows.chain(freezes).chain(overrides).collect()
    }

    /// The overrides that count now by such a clock.
    pub fn active_overrides(&self, clock: Clock, now: Timestamp) -> Vec<&Arc<str>> {
        let honoured = self.overrides.iter().filter(|one| self.honours(one, clock, now));
        honoured.map(|one| &one.name).collect()
    }

    /// When `rollout` may change `within` a stretch of time, as windows and freezes have it:
    /// rings, ramps and overrides are not looked at.
    pub fn open_times(&self, rollout: &Rollout, within: Interval) -> Vec<Interval> {
        self.free_times(&Subject::whole(Whom::Rollout(rollout)), within)
    }

    /// The same for a rule.
    pub fn open_times_of(&self, passage: Passage<'_>, within: Interval) -> Vec<Interval> {
        self.free_times(&Subject::whole(Whom::Passage(passage)), within)
    }

    fn free_times(&self, subject: &Subject<'_>, within: Interval) -> Vec<Interval> {
        let mut denied = Vec::new();
        for window in self.denying(subject) {
            denied.extend(window.window.intervals(within));
        }
        let frozen = self.freezes.iter().filter(|freeze| freeze.applies_to.covers(subject));
        denied.extend(frozen.map(|freeze| freeze.range.interval()));
        let free = rest(within, &merge(denied));
        let mut allowing = self.allowing(subject).peekable();
        if allowing.peek().is_none() {
            return free;
        }
        let allowed = merge(allowing.flat_map(|one| one.window.intervals(within)).collect());
        let both =
            |one: &Interval| free.iter().filter_map(|other| one.within(*other)).collect::<Vec<_>>();
        allowed.iter().flat_map(both).collect()
    }

    /// The rollout that releases this image, else the first one in charge of its repository.
    pub fn in_charge(&self, registry: &str, repository: &str, digest: &str) -> Option<&Rollout> {
        let rollouts = || self.rollouts.iter().filter(|one| one.is_in_charge(registry, repository));
        rollouts().find(|one| one.releases(repository, digest)).or_else(|| rollouts().next())
    }
}

#[cfg(test)]
mod tests;
