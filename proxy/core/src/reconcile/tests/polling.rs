//! What sixty thousand stores are to one server: each alone, and all of them together.

use super::*;
use crate::schedule::tests::draw::Draw;

const POLL: PollSpec = PollSpec {
    interval: Duration::from_secs(300),
    long_poll: Duration::ZERO,
    spread: Duration::from_secs(600),
};

const OK: Polled = Polled::Answered { held: false };
const LOST: Polled = Polled::Failed { retry_after: None };

#[test]
fn a_store_keeps_its_phase_and_one_without_policy_asks_soon() {
    let now = epoch();
    let half = u64::MAX / 2;
    let poll = Poll::new(POLL, half, true, now);
    assert_eq!((poll.poll_timeout() - now).as_secs(), 149);
    assert!(Poll::new(POLL, half, false, now).poll_timeout() < now + Duration::from_secs(2));
    let mut poll = poll;
    for (draw, least) in [(0, 270), (half, 299), (u64::MAX, 329)] {
        poll.begin(now);
        poll.handle_polled(OK, draw, now);
        assert_eq!((poll.poll_timeout() - now).as_secs(), least);
    }
}

#[test]
fn failures_slow_down_and_success_forgets_them() {
    let start = epoch();
    let mut now = start;
    let spread = PollSpec { spread: Duration::ZERO, ..POLL };
    let mut poll = Poll::new(spread, 0, true, now);
    let mut pauses = Vec::new();
    for _ in 0..14 {
        poll.begin(now);
        poll.handle_polled(LOST, u64::MAX, now);
        pauses.push(poll.poll_timeout().duration_since(now).as_secs_f64().round());
        now = poll.poll_timeout();
    }
    let doubling = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0];
    assert_eq!(pauses[..11], doubling);
    assert_eq!(pauses[13], 600.0, "on average as often as what works, never more often");
    poll.handle_polled(OK, u64::MAX / 2, now);
    assert_eq!(poll.back_off(), Duration::ZERO);
}

#[test]
fn a_store_without_a_policy_or_alone_is_quicker() {
    let now = epoch();
    let pause = |spread, something| {
        let spec = PollSpec { spread: Duration::from_secs(spread), ..POLL };
        let mut poll = Poll::new(spec, 0, something, now);
        poll.handle_polled(LOST, u64::MAX / 2, now);
        (poll.poll_timeout() - now).as_secs()
    };
    assert_eq!((pause(600, true), pause(600, false), pause(0, true)), (299, 1, 1));
    // Whoever was answered has no hurry any more.
    let mut poll = Poll::new(POLL, 0, false, now);
    poll.handle_polled(OK, 0, now);
    poll.handle_polled(LOST, 0, now);
    assert_eq!(poll.poll_timeout() - now, Duration::from_secs(150));
}

#[test]
fn servers_may_ask_for_patience_but_not_for_ever() {
    let now = epoch();
    let mut poll = Poll::new(POLL, 0, true, now);
    let refused = |secs| Polled::Failed { retry_after: Some(Duration::from_secs(secs)) };
    poll.handle_polled(refused(120), 0, now);
    assert_eq!(poll.poll_timeout() - now, Duration::from_secs(150), "it is left alone anyway");
    poll.handle_polled(refused(200), 0, now);
    assert_eq!(poll.poll_timeout() - now, Duration::from_secs(200));
    poll.handle_polled(refused(u64::MAX), 0, now);
    assert_eq!(poll.poll_timeout() - now, Duration::from_secs(3600));
}

#[test]
fn long_polls_follow_each_other_but_never_in_a_loop() {
    let now = epoch();
    let mut poll = Poll::new(POLL, 0, true, now);
    poll.begin(now);
    let later = now + Duration::from_secs(55);
    poll.handle_polled(Polled::Answered { held: true }, 0, later);
    assert_eq!(poll.poll_timeout(), later);
    poll.begin(later);
    poll.handle_polled(Polled::Answered { held: true }, 0, later);
    assert_eq!(poll.poll_timeout(), later + Duration::from_secs(1));
    assert!(poll.hint(Hint::Webhook, later));
    assert_eq!(poll.poll_timeout(), later + Duration::from_secs(1), "it is soon enough");
    poll.handle_polled(OK, 0, later);
    assert!(poll.hint(Hint::Webhook, later));
    assert_eq!(poll.poll_timeout(), later + Duration::from_secs(10));
    poll.handle_polled(LOST, u64::MAX, later);
    poll.handle_polled(LOST, u64::MAX, later);
    let next = poll.poll_timeout();
    assert!(!poll.hint(Hint::Webhook, later));
    assert_eq!(poll.poll_timeout(), next, "a hint does not beat a back-off");
}

#[test]
fn an_operator_breaks_a_back_off_that_no_server_asked_for() {
    let now = epoch();
    let at = |seconds| now + Duration::from_secs(seconds);
    let mut poll = Poll::new(POLL, 0, true, now);
    poll.begin(at(300));
    poll.handle_polled(LOST, 0, at(301));
    let next = poll.poll_timeout();
    assert!(!poll.hint(Hint::Webhook, at(302)));
    assert_eq!(poll.poll_timeout(), next);
    assert!(poll.hint(Hint::Operator, at(302)));
    assert_eq!(poll.poll_timeout(), at(310), "not more often than that");
    poll.begin(at(310));
    let later = Polled::Failed { retry_after: Some(Duration::from_secs(1)) };
    poll.handle_polled(later, 0, at(311));
    let next = poll.poll_timeout();
    assert!(!poll.hint(Hint::Operator, at(312)));
    assert_eq!(poll.poll_timeout(), next, "it is busy, and has said so");
    poll.handle_polled(LOST, 0, at(500));
    assert!(poll.hint(Hint::Operator, at(501)), "now it says nothing");
}

#[test]
fn absurd_intervals_are_neither_floods_nor_silence() {
    let now = epoch();
    for (interval, within) in [(Duration::ZERO, 2), (Duration::MAX, 100_000)] {
        let mut poll = Poll::new(PollSpec { interval, ..POLL }, 0, true, now);
        poll.handle_polled(OK, u64::MAX, now);
        let pause = poll.poll_timeout() - now;
        assert!(pause >= Duration::from_secs(1) && pause.as_secs() <= within, "{pause:?}");
    }
}

/// Requests in each ten seconds of two hours, of `stores` with an outage between two instants.
fn requests(stores: u64, outage: std::ops::Range<u64>) -> Vec<u64> {
    let start = epoch();
    let mut buckets = vec![0; 720];
    for store in 0..stores {
        let mut draw = Draw::new(store);
        let mut poll = Poll::new(POLL, draw.bits(), true, start);
        loop {
            let now = poll.poll_timeout();
            let at = (now - start).as_secs();
            let Some(bucket) = usize::try_from(at / 10).ok().and_then(|at| buckets.get_mut(at))
            else {
                break;
            };
            *bucket += 1;
            poll.begin(now);
            poll.handle_polled(if outage.contains(&at) { LOST } else { OK }, draw.bits(), now);
        }
    }
    buckets
}

#[test]
fn the_fleet_is_a_flat_load_also_after_an_outage() {
    // 6,000 stores: 20 requests a second of plain polls, 10 while they come back.
    let buckets = requests(6000, 1800..5400);
    let rate = |from: usize, to: usize| {
        let slice = &buckets[from / 10..to / 10];
        let most = slice.iter().copied().max().unwrap_or(0);
        (slice.iter().sum::<u64>() as f64 / (to - from) as f64, most as f64 / 10.0)
    };
    let (mean, most) = rate(300, 1800);
    assert!((19.0..21.0).contains(&mean) && most < 30.0, "before: {mean} {most}");
    // Nobody retries at once: the first interval of an outage is asked as often as any other.
    let (mean, most) = rate(1800, 2400);
    assert!(mean < 20.0 && most < 30.0, "at its begin: {mean} {most}");
    let (mean, most) = rate(3000, 5400);
    assert!(mean < 11.0 && most < 17.0, "during: {mean} {most}");
    let (_, most) = rate(5400, 5700);
    assert!(most < 17.0, "when it ends they come as the spread brings them: {most}");
    // Who is back asks at its interval again, so the sum rises to the normal rate and no higher.
    let (_, most) = rate(5700, 7200);
    assert!(most < 30.0, "after: {most}");
}
