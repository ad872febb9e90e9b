//! Stories of one endpoint.

use super::*;
use crate::breaker::BreakerSpec;
use crate::schedule::tests::draw::epoch;
use crate::stall::StallSpec;
use crate::units::Percent;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn spec() -> HealthSpec {
    HealthSpec {
        active: Some(ProbeSpec {
            kind: ProbeKind::Tcp,
            interval: ms(1000),
            timeout: ms(500),
            unhealthy_threshold: 2,
            healthy_threshold: 2,
        }),
        passive: PassiveSpec {
            gateway_errors: 3,
            server_errors: 5,
            local_failures: 2,
            window: ms(10_000),
            ratio: Percent::new(50).unwrap(),
            volume: 20,
            ejected_max: Percent::FULL,
            breaker: BreakerSpec { base: ms(1000), max: ms(60_000), trials: 3 },
            stall: StallSpec { floor: ms(100), multiplier: 2 },
        },
        data_age: None,
    }
}

struct Story {
    health: Health,
    good: u32,
    now: Instant,
}

impl Story {
    fn new(spec: HealthSpec) -> Self {
        let now = epoch();
        Self { health: Health::new(Arc::new(spec), now), good: 0, now }
    }

    fn passes(&mut self, millis: u64) -> &mut Self {
        self.now += ms(millis);
        self.health.handle_timeout(self.now);
        self
    }

    fn probe(&mut self, probed: Probed) -> &mut Self {
        self.health.handle_probe(probed, self.now, 0, self.now);
        self
    }

    fn call(&mut self, outcome: Outcome) -> &mut Self {
        if outcome == Outcome::Good {
            self.good += 1;
        }
        self.health.handle_outcome(outcome, (self.good, Others::Enough), 0, self.now);
        self
    }

    #[track_caller]
    fn is(&mut self, verdict: Verdict) -> &mut Self {
        assert_eq!(self.health.verdict(), verdict, "{:?}", self.health);
        self
    }
}

const TIMEOUT: Probed = Probed::Lost(Loss::Timeout);
const RESET: Outcome = Outcome::Lost(Loss::Reset);

#[test]
fn two_failed_probes_take_it_out_and_probes_alone_do_not_bring_it_back() {
    let mut story = Story::new(spec());
    story.probe(TIMEOUT).is(Verdict::Usable).probe(TIMEOUT).is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Probe(TIMEOUT)));
    story.passes(5000).probe(Probed::Good).is(Verdict::Out).probe(Probed::Good);
    story.is(Verdict::Trial).probe(Probed::Good).passes(60_000).is(Verdict::Trial);
    story.call(Outcome::Good).call(Outcome::Good).is(Verdict::Trial);
    story.call(Outcome::Good).is(Verdict::Usable);
}

#[test]
fn calls_win_over_a_health_path_that_always_says_yes() {
    let mut story = Story::new(spec());
    story.probe(Probed::Good).call(Outcome::GatewayError).probe(Probed::Good);
    story.call(Outcome::GatewayError).is(Verdict::Usable).probe(Probed::Good);
    story.call(Outcome::GatewayError).is(Verdict::Out);
    story.probe(Probed::Good).probe(Probed::Good).is(Verdict::Out);
    story.passes(1000).is(Verdict::Trial).call(Outcome::GatewayError).is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Trial));
    story.probe(Probed::Good).probe(Probed::Good).passes(1999).is(Verdict::Out);
    story.passes(1).is(Verdict::Trial);
}

#[test]
fn a_health_path_that_always_says_no_is_believed() {
    let mut story = Story::new(spec());
    let unwell = Probed::Unwell(StatusCode::INTERNAL_SERVER_ERROR);
    story.probe(unwell).call(Outcome::Good).probe(unwell).is(Verdict::Out);
    for _ in 0..20 {
        story.call(Outcome::Good).passes(1000).probe(unwell);
    }
    story.is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Probe(unwell)));
}

#[test]
fn a_good_answer_in_between_clears_a_row() {
    let mut story = Story::new(spec());
    for _ in 0..5 {
        story.call(RESET).call(Outcome::Good).call(Outcome::GatewayError);
        story.call(Outcome::GatewayError).call(Outcome::Good).passes(5000);
    }
    story.call(RESET).is(Verdict::Usable).call(RESET).is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Lost(Loss::Reset)));
}

#[test]
fn lost_calls_and_errors_are_counted_apart() {
    let mut story = Story::new(spec());
    for _ in 0..3 {
        story.call(RESET).call(Outcome::ServerError);
    }
    story.is(Verdict::Usable);
    for _ in 0..5 {
        story.call(Outcome::ServerError);
    }
    story.is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::ServerErrors));
}

#[test]
fn the_ratio_needs_a_sample_and_forgets() {
    let mut story = Story::new(spec());
    for _ in 0..9 {
        story.call(Outcome::Good).call(RESET);
    }
    story.is(Verdict::Usable).call(Outcome::Good).call(RESET).is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Ratio));

    let mut story = Story::new(spec());
    for _ in 0..100 {
        story.call(Outcome::Good).call(RESET).passes(2000);
    }
    story.is(Verdict::Usable);
}

#[test]
fn good_answers_of_the_past_do_not_outweigh_failures_of_today() {
    let mut story = Story::new(spec());
    for _ in 0..100 {
        story.call(Outcome::Good);
    }
    for _ in 0..12 {
        story.passes(1000);
        let (good, now) = (story.good, story.now);
        story.health.handle_good(good, now);
    }
    // Not three in a row of a kind, but 15 of 20 in the window.
    for _ in 0..5 {
        story.call(Outcome::Good).call(RESET).call(Outcome::ServerError).call(Outcome::ServerError);
    }
    story.is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Ratio));
}

#[test]
fn a_probe_from_before_the_failure_says_nothing_of_the_time_after() {
    let mut story = Story::new(spec());
    let before = story.now;
    story.passes(10).call(RESET).call(RESET).is(Verdict::Out).passes(1000);
    let now = story.now;
    story.health.handle_probe(Probed::Good, before, 0, now);
    story.probe(Probed::Good).is(Verdict::Out).probe(Probed::Good).is(Verdict::Trial);
}

#[test]
fn a_suspicion_that_no_probe_can_settle_ends() {
    let mut story = Story::new(spec());
    story.health.handle_habit(50, Some(ms(2)), Heard::No);
    for _ in 0..5 {
        assert!(story.health.handle_silence(story.now));
        story.is(Verdict::Suspect).health.handle_undecided();
        story.is(Verdict::Usable);
    }
    assert!(!story.health.stall().is_hollow(), "nothing was shown by that");
}

#[test]
fn silence_is_decided_by_one_probe() {
    let mut story = Story::new(spec());
    assert!(story.health.handle_silence(story.now), "a probe is wanted");
    assert!(!story.health.handle_silence(story.now), "one is under way");
    story.is(Verdict::Suspect).probe(TIMEOUT).is(Verdict::Out);
    assert_eq!(story.health.cause(), Some(Cause::Stall));

    let mut story = Story::new(spec());
    assert!(story.health.handle_silence(story.now));
    story.probe(Probed::Good).is(Verdict::Usable);
}

#[test]
fn what_the_line_did_is_not_held_against_it() {
    let mut story = Story::new(spec());
    assert!(story.health.handle_silence(story.now));
    story.probe(TIMEOUT).is(Verdict::Out);
    assert!(story.health.is_only_silent());
    story.health.absolve();
    story.is(Verdict::Usable);

    let mut story = Story::new(spec());
    for _ in 0..3 {
        story.call(Outcome::GatewayError);
    }
    assert!(!story.health.is_only_silent(), "somebody answered");
}

#[test]
fn without_probes_real_calls_decide_alone() {
    let mut story = Story::new(HealthSpec { active: None, ..spec() });
    assert!(!story.health.handle_silence(story.now));
    story.call(RESET).call(RESET).is(Verdict::Out).passes(1000).is(Verdict::Trial);
    story.call(Outcome::Good).call(Outcome::Good).call(Outcome::Good).is(Verdict::Usable);
}

#[test]
fn when_nothing_else_is_left_good_calls_bring_it_back_too() {
    let mut story = Story::new(HealthSpec { active: None, ..spec() });
    story.call(RESET).call(RESET).is(Verdict::Out);
    story.call(Outcome::Good).call(Outcome::Good).call(RESET).call(Outcome::Good);
    story.is(Verdict::Out).call(Outcome::Good).call(Outcome::Good).is(Verdict::Usable);
}
