//! Stories of the tiers of one rule.

use std::time::{Duration, Instant};

use crate::failover::{Shift, TierState, Tiers, stretch};
use crate::schedule::tests::draw::epoch;

use TierState::{Out, Ready, Usable};

const DWELL: Duration = Duration::from_secs(30);
const RAMP: Duration = Duration::from_secs(10);

struct Story {
    tiers: Tiers,
    now: Instant,
}

impl Story {
    fn new(count: usize) -> Self {
        let now = epoch();
        Self { tiers: Tiers::new(count, DWELL, RAMP, now), now }
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    fn are(&mut self, states: &[TierState]) -> Option<(Shift, usize)> {
        let shifted = self.tiers.handle_states(states, self.now)?;
        assert_eq!(shifted.to, self.tiers.active());
        Some((shifted.shift, shifted.to))
    }

    #[track_caller]
    fn stay(&mut self, states: &[TierState]) -> &mut Self {
        assert_eq!(self.are(states), None);
        self
    }

    #[track_caller]
    fn goes(&mut self, states: &[TierState], shift: Shift, to: usize) -> &mut Self {
        assert_eq!(self.are(states), Some((shift, to)));
        self
    }
}

#[test]
fn out_at_once_and_back_after_dwell_and_ramp() {
    let mut story = Story::new(2);
    story.goes(&[Out, Usable], Shift::Failover, 1);
    story.after(5).stay(&[Usable, Usable]).after(29).stay(&[Usable, Usable]);
    assert_eq!(story.tiers.ramp(), None);
    assert_eq!(story.tiers.poll_timeout(story.now), Some(story.now + Duration::from_secs(1)));
    story.after(1).stay(&[Usable, Usable]);
    let ramp = (0, story.now, RAMP);
    assert_eq!(story.tiers.ramp(), Some(ramp));
    assert_eq!(story.tiers.poll_timeout(story.now), Some(story.now + RAMP));
    story.after(9).stay(&[Usable, Usable]);
    story.after(1).goes(&[Usable, Usable], Shift::Failback, 0);
    assert_eq!(story.tiers.poll_timeout(story.now), None);
}

#[test]
fn trials_begin_after_the_dwell_and_the_ramp_after_good_ones() {
    let mut story = Story::new(2);
    story.goes(&[Out, Usable], Shift::Failover, 1).stay(&[Ready, Usable]);
    assert_eq!(story.tiers.on_trial(story.now), None);
    story.after(30).stay(&[Ready, Usable]);
    assert_eq!(story.tiers.on_trial(story.now), Some(0));
    story.after(1).stay(&[Usable, Usable]);
    assert!(story.tiers.ramp().is_some());
}

#[test]
fn a_failure_begins_the_dwell_anew() {
    let mut story = Story::new(2);
    story.goes(&[Out, Usable], Shift::Failover, 1).stay(&[Ready, Usable]).after(29);
    story.tiers.handle_failure(0, story.now);
    story.after(29).stay(&[Ready, Usable]);
    assert_eq!(story.tiers.on_trial(story.now), None);
    story.after(1).stay(&[Out, Usable]).stay(&[Ready, Usable]);
    story.after(29).stay(&[Ready, Usable]);
    assert_eq!(story.tiers.on_trial(story.now), None);
}

#[test]
fn each_flap_doubles_the_dwell_up_to_ten_minutes() {
    let mut story = Story::new(2);
    let mut dwells = Vec::new();
    for _ in 0..8 {
        story.goes(&[Out, Usable], Shift::Failover, 1).stay(&[Usable, Usable]);
        dwells.push(story.tiers.dwell().as_secs());
        story.now += story.tiers.dwell();
        story.stay(&[Usable, Usable]).after(10).goes(&[Usable, Usable], Shift::Failback, 0);
    }
    assert_eq!(dwells, [30, 60, 120, 240, 480, 600, 600, 600], "it does not begin anew");
    story.after(600).goes(&[Out, Usable], Shift::Failover, 1);
    assert_eq!(story.tiers.dwell(), DWELL, "ten minutes were well");
}

#[test]
fn a_tier_that_fails_on_the_ramp_has_flapped() {
    let mut story = Story::new(2);
    story.goes(&[Out, Usable], Shift::Failover, 1).stay(&[Usable, Usable]);
    story.after(30).stay(&[Usable, Usable]).after(3).stay(&[Out, Usable]);
    assert_eq!((story.tiers.ramp(), story.tiers.dwell().as_secs()), (None, 60));
}

#[test]
fn a_better_tier_is_taken_at_once_where_the_active_one_is_lost() {
    let mut story = Story::new(3);
    story.goes(&[Out, Usable, Usable], Shift::Failover, 1);
    story.goes(&[Out, Out, Usable], Shift::Failover, 2).stay(&[Ready, Out, Usable]);
    story.after(1).goes(&[Ready, Out, Out], Shift::Failback, 0).stay(&[Usable, Out, Out]);
}

#[test]
fn when_all_is_lost_nothing_moves_and_the_first_to_return_has_it() {
    let mut story = Story::new(2);
    story.goes(&[Out, Usable], Shift::Failover, 1).stay(&[Out, Out]);
    assert!(story.tiers.is_lost());
    story.after(3).goes(&[Ready, Out], Shift::Failback, 0);
}

#[test]
fn stores_do_not_return_together() {
    let stretched: Vec<_> = (0..201).map(|seed| stretch(DWELL, seed)).collect();
    assert_eq!((stretched[0], stretched[200]), (DWELL, DWELL * 6 / 5));
    assert!(stretched.windows(2).all(|pair| pair[0] < pair[1]));
}
