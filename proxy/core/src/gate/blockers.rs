//! What holds a rollout at some moment, and when each of it lets go.
//!
//! Every blocker holds without a gap until the moment it names, so the next opening is found by
//! going to the latest of these moments and asking again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::stages::RingState;
use super::{
    Clock, Freeze, Gate, Look, NamedWindow, Opening, Override, Stages, StoreState, Subject,
};
use crate::calendar::{Effect, Window};
use crate::civil::{Interval, Timestamp};

/// Steps of the search for the next opening: a year of nightly windows has fewer.
const STEPS_MAX: usize = 800;

/// Something that holds a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// The store is in no ring of it.
    NoRing,
    /// The store's ring is not open yet.
    Ring(Arc<str>),
    /// The ring is open; the store's turn in its ramp has not come.
    Ramp(Arc<str>),
    /// A freeze.
    Freeze(Arc<str>),
    /// A window with `Deny`.
    Window(Arc<str>),
    /// No window with `Allow` is active; the ones that count.
    OutsideWindows(Vec<Arc<str>>),
    /// The clock is not trusted, so no window can be said to be open; the ones that count.
    Clock(Vec<Arc<str>>),
}

impl fmt::Display for Blocker {
    /// `Freeze/black-friday`, `ChangeWindow/no-friday-night`, `Ring/broad`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRing => f.write_str("Ring/none"),
            Self::Ring(name) => write!(f, "Ring/{name}"),
            Self::Ramp(name) => write!(f, "Ramp/{name}"),
            Self::Freeze(name) => write!(f, "Freeze/{name}"),
            Self::Window(name) => write!(f, "ChangeWindow/{name}"),
            Self::OutsideWindows(names) => write!(f, "outside ChangeWindow/{}", names.join(",")),
            Self::Clock(names) => write!(f, "Clock, ChangeWindow/{}", names.join(",")),
        }
    }
}

/// A blocker, when it lets go (`None` = nobody knows), and the Override that suspends it.
struct Hold<'a> {
    blocker: Blocker,
    until: Option<Timestamp>,
    suspended: Option<&'a str>,
}

impl Gate {
    pub(super) fn opening<'a>(
        &'a self,
        subject: &Subject<'a>,
        stages: Option<&'a Stages>,
        (clock, look): (Clock, Look),
        now: Timestamp,
    ) -> Opening<'a> {
        let mut held_by = Vec::new();
        let mut suspended = Vec::new();
        let holds = self.holds(subject, stages, clock, now);
        let mut next_open = next(&holds, now);
        for hold in holds {
            match hold.suspended {
                Some(by) => suspended.push((hold.blocker, by)),
                None => held_by.push(hold.blocker),
            }
        }
        let steps = if look == Look::Ahead { STEPS_MAX } else { 0 };
        for _ in 0..steps {
            let Some(at) = next_open else { break };
            if at == now {
                break;
            }
            let later = next(&self.holds(subject, stages, clock, at), at);
            if later == Some(at) {
                break;
            }
            next_open = later;
        }
        let ring = stages.and_then(Stages::ring);
        Opening { rollout: subject.rollout(), ring, held_by, suspended, next_open }
    }

    /// Windows with `Allow` that count for `subject`.
    pub(super) fn allowing<'a>(
        &'a self,
        subject: &Subject<'a>,
    ) -> impl Iterator<Item = &'a NamedWindow> {
        let subject = *subject;
        let chosen = subject.rollout().and_then(|rollout| rollout.windows.as_ref());
        self.windows.iter().filter(move |one| {
            one.window.effect == Effect::Allow
                && one.applies_to.covers(&subject)
                && chosen.is_none_or(|names| names.contains(&one.name))
        })
    }

    /// Windows with `Deny` that count for `subject`.
    pub(super) fn denying<'a>(
        &'a self,
        subject: &Subject<'a>,
    ) -> impl Iterator<Item = &'a NamedWindow> {
        let subject = *subject;
        self.windows
            .iter()
            .filter(move |one| one.window.effect == Effect::Deny && one.applies_to.covers(&subject))
    }

    fn holds<'a>(
        &'a self,
        subject: &Subject<'a>,
        stages: Option<&'a Stages>,
        clock: Clock,
        now: Timestamp,
    ) -> Vec<Hold<'a>> {
        let mut holds = Vec::new();
        let ring = || stages.and_then(Stages::ring).unwrap_or_default().into();
        let hold = |blocker, until| Hold { blocker, until, suspended: None };
        match stages.map_or(RingState::Open, |stages| stages.state(now)) {
            RingState::None => holds.push(hold(Blocker::NoRing, None)),
            RingState::Closed(until) => holds.push(hold(Blocker::Ring(ring()), until)),
            RingState::Ramping(until) => holds.push(hold(Blocker::Ramp(ring()), Some(until))),
            RingState::Open => {}
        }
        let is_restored = |freeze: &Freeze| {
            // What the store ran before the freeze comes back: it is no change.
            subject.store == StoreState::Restoring
                && stages.is_some_and(|stages| stages.was_open(freeze.range.interval().from))
        };
        for freeze in self.freezes.iter().filter(|freeze| freeze.applies_to.covers(subject)) {
            if is_restored(freeze) {
                continue;
            }
            if let Some(until) = frozen(freeze, clock, now) {
                let by = |one: &Override| freeze.overridable && one.freezes.contains(&freeze.name);
                let by = |one: &Override| by(one) && one.signed.suffices(freeze.approvals.as_ref());
                let blocker = Blocker::Freeze(freeze.name.clone());
                holds.push(self.suspendable(blocker, until, (subject, clock, now), by));
            }
        }
        if subject.store == StoreState::Restoring {
            return holds;
        }
        for window in self.denying(subject) {
            if let Some(until) = denied(&window.window, clock, now) {
                let by = |one: &Override| {
                    one.windows.contains(&window.name) && one.signed.suffices(None)
                };
                let blocker = Blocker::Window(window.name.clone());
                holds.push(self.suspendable(blocker, until, (subject, clock, now), by));
            }
        }
        if !stages.and_then(|stages| stages.mine).is_some_and(|mine| mine.ignore_windows) {
            holds.extend(self.outside(subject, clock, now));
        }
        holds
    }

    /// A hold that an Override may suspend, now or from a later moment on.
    fn suspendable<'a>(
        &'a self,
        blocker: Blocker,
        until: Option<Timestamp>,
        (subject, clock, now): (&Subject<'a>, Clock, Timestamp),
        by: impl Fn(&Override) -> bool,
    ) -> Hold<'a> {
        let mut hold = Hold { blocker, until, suspended: None };
        for one in self.overrides.iter().filter(|one| one.applies_to.covers(subject) && by(one)) {
            let Some(valid) = one.in_force(clock) else { continue };
            if valid.contains(now) {
                hold.suspended = Some(&one.name);
            } else if now < valid.from {
                let later = hold.until.map_or(valid.from, |until| until.min(valid.from));
                hold.until = Some(later);
            }
        }
        hold
    }

    /// Held because no window with `Allow` is active although there are some.
    fn outside<'a>(
        &'a self,
        subject: &Subject<'a>,
        clock: Clock,
        now: Timestamp,
    ) -> Option<Hold<'a>> {
        let windows: Vec<&NamedWindow> = self.allowing(subject).collect();
        if windows.is_empty() {
            return None;
        }
        let names = || windows.iter().map(|one| one.name.clone()).collect();
        if matches!(clock, Clock::Untrusted(_)) {
            return Some(Hold { blocker: Blocker::Clock(names()), until: None, suspended: None });
        }
        let mut until: Option<Timestamp> = None;
        for window in &windows {
            match allowed_from(&window.window, clock.margin(), now) {
                Some(from) if from <= now => return None,
                Some(from) => until = Some(until.map_or(from, |until| until.min(from))),
                None => {}
            }
        }
        Some(Hold { blocker: Blocker::OutsideWindows(names()), until, suspended: None })
    }
}

/// The moment at which all of `holds` have let go; `now` if there is none.
fn next(holds: &[Hold<'_>], now: Timestamp) -> Option<Timestamp> {
    let holding = holds.iter().filter(|hold| hold.suspended.is_none());
    holding.map(|hold| hold.until).try_fold(now, |latest, until| Some(latest.max(until?)))
}

/// Whether the data path takes a window for active now.
pub(super) fn is_active(window: &Window, clock: Clock, now: Timestamp) -> bool {
    match window.effect {
        Effect::Deny => denied(window, clock, now).is_some(),
        Effect::Allow => {
            let from = || allowed_from(window, clock.margin(), now);
            !matches!(clock, Clock::Untrusted(_)) && from().is_some_and(|from| from <= now)
        }
    }
}

/// When the freeze that is active now ends; `None` if it is not active.
pub(super) fn frozen(freeze: &Freeze, clock: Clock, now: Timestamp) -> Option<Option<Timestamp>> {
    let range = freeze.range.interval();
    if let Clock::Untrusted(floor) = clock {
        // Unless it is surely over, it may be now.
        return (floor < range.until).then_some(None);
    }
    let margin = clock.margin();
    let grown = Interval::new(range.from.minus(margin), range.until.plus(margin));
    grown.contains(now).then_some(Some(grown.until))
}

/// When the window with `Deny` that is active now ends; `None` if it is not active.
fn denied(window: &Window, clock: Clock, now: Timestamp) -> Option<Option<Timestamp>> {
    if matches!(clock, Clock::Untrusted(_)) {
        return Some(None);
    }
    let margin = clock.margin();
    let around = Interval::new(now.minus(margin), now.plus(margin + Duration::from_secs(1)));
    let last = window.intervals(around).into_iter().next_back()?;
    Some(window.next_inactive(last.from).map(|end| end.plus(margin)))
}

/// From when on the window with `Allow`, less `margin` at both ends, is active: now or later.
fn allowed_from(window: &Window, margin: Duration, now: Timestamp) -> Option<Timestamp> {
    let mut at = now.minus(margin);
    // A window shorter than the margins never opens; the others do at the first or second look.
    for _ in 0..STEPS_MAX {
        let from = match window.active_at(at) {
            Some(active) => active.from,
            None => window.next_active(at)?,
        };
        let until = window.next_inactive(from).unwrap_or(Timestamp(i64::MAX));
        let shrunk = Interval::new(from.plus(margin), until.minus(margin));
        if !shrunk.is_empty() && now < shrunk.until {
            return Some(shrunk.from.max(now));
        }
        at = until;
    }
    None
}
