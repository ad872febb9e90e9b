//! Short stories, and the bugs that earlier drafts had, by name.

use super::super::*;
use super::policy::{Appetite, Day, class, line};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Percent of the line that each class has over the next `seconds`.
fn percent(day: &mut Day, seconds: u64) -> Vec<u64> {
    let rate = day.audited.scheduler.line().shaped.bits_per_second();
    let got = day.measure(day.now + seconds * SECOND);
    got.into_iter().map(|bits| (bits * 100 + rate / 2) / rate).collect()
}

#[test]
fn a_payment_meets_saturating_pulls() {
    let mut day = Day::new(line(20), &[class(9, 1, 0, 100), class(1, 1, 5, 100)], 1);
    day.feed(1, 8, Appetite::Endless);
    day.run(3 * SECOND, |_, _| {});
    day.audited.pump(day.now, |_, _| {});
    let payment = day.audited.add_flow(0);
    day.audited.demand(payment, 700, day.now);
    assert_eq!(day.audited.poll(day.now), Some(Grant { flow: payment, bytes: 700 }));
    assert_eq!(day.audited.poll(day.now), None, "the pulls wait for the line");
}

#[test]
fn a_class_returns_from_a_night_of_silence() {
    let mut day = Day::new(line(10), &[class(5, 1, 0, 100), class(5, 1, 0, 100)], 1);
    day.feed(0, 1, Appetite::Silent);
    day.feed(1, 1, Appetite::Endless);
    assert_eq!(percent(&mut day, 30), [0, 100]);
    day.turn(0, Appetite::Endless);
    assert_eq!(percent(&mut day, 1), [50, 50], "its half at once, and not a byte for the night");
}

#[test]
fn a_floor_holds_under_a_greedy_upper_tier() {
    let mut day = Day::new(line(10), &[class(9, 1, 0, 100), class(1, 1, 19, 100)], 1);
    day.feed(0, 4, Appetite::Endless);
    day.feed(1, 2, Appetite::Endless);
    assert_eq!(percent(&mut day, 10), [80, 20]);
}

#[test]
fn a_floor_holds_after_an_hour_of_borrowing() {
    let mut day = Day::new(line(2), &[class(9, 1, 0, 100), class(1, 1, 19, 100)], 1);
    day.feed(1, 2, Appetite::Endless);
    day.run(300 * SECOND, |_, _| {});
    day.feed(0, 4, Appetite::Endless);
    assert_eq!(percent(&mut day, 10), [80, 20]);
}

#[test]
fn a_line_that_drops_to_a_tenth_keeps_its_order() {
    let classes = [class(9, 1, 0, 100), class(5, 3, 19, 100), class(5, 1, 0, 100)];
    let mut day = Day::new(line(50), &classes, 1);
    (1..3).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    day.audited.set_rate(line(5), day.now);
    day.run(day.now + 50 * MS, |_, _| {});
    assert_eq!(percent(&mut day, 5), [0, 75, 25]);
    day.audited.pump(day.now, |_, _| {});
    let payment = day.audited.add_flow(0);
    day.audited.demand(payment, 700, day.now);
    assert_eq!(day.audited.poll(day.now).map(|grant| grant.flow), Some(payment));
}

#[test]
fn absolute_floors_beyond_a_dropped_line_are_scaled_together() {
    let floor = |bits| Share::Rate(BitRate::from_bits_per_second(bits));
    let mut classes = [class(9, 1, 0, 100), class(5, 1, 0, 100), class(1, 1, 0, 100)];
    classes[1].guarantee = floor(6_000_000);
    classes[2].guarantee = floor(3_000_000);
    let mut day = Day::new(line(100), &classes, 1);
    (0..3).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    day.audited.set_rate(line(6), day.now);
    day.run(day.now + SECOND, |_, _| {});
    // 6 and 3 Mbit/s on a line of 6: the second claim is bounded first, then both fit into 80 %.
    assert_eq!(percent(&mut day, 10), [20, 53, 27]);
}

#[test]
fn a_sparse_flow_is_served_before_the_bulk_of_its_class() {
    let mut day = Day::new(line(2), &[class(5, 1, 0, 100)], 1);
    day.feed(0, 50, Appetite::Endless);
    day.run(SECOND, |_, _| {});
    let sparse = day.audited.add_flow(0);
    day.audited.demand(sparse, 100, day.now);
    let mut order = Vec::new();
    day.run(day.now + 30 * MS, |_, grant| order.push(grant.flow));
    assert!(order[..2].contains(&sparse), "{order:?}");
}

/// The first tier used its overdraft without end and starved every floor.
#[test]
fn regression_a_runaway_first_tier_starved_the_floors() {
    let classes = [class(9, 1, 0, 100), class(5, 3, 10, 100), class(1, 1, 5, 100)];
    let mut day = Day::new(line(20), &classes, 1).late(1_100_000);
    (0..3).for_each(|class| day.feed(class, 4, Appetite::Stepwise));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [84, 11, 5]);
}

/// Two classes of the first tier were each guaranteed "the rest".
#[test]
fn regression_two_first_tier_classes_each_got_the_rest() {
    let classes = [class(9, 1, 0, 100), class(9, 1, 0, 100), class(1, 1, 38, 100)];
    let mut day = Day::new(line(10), &classes, 1);
    (0..3).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [30, 30, 40]);
}

/// A class held by its ceiling kept the tier's clock back, and all weights became equal.
#[test]
fn regression_a_held_class_flattened_the_weights() {
    let classes = [class(5, 10, 0, 100), class(5, 1, 0, 100), class(5, 1, 0, 2)];
    let mut day = Day::new(line(20), &classes, 1);
    (0..3).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [89, 9, 2]);
}

/// Guaranteed service did not move the tier's clock, and weights inside the first tier were equal.
#[test]
fn regression_guaranteed_service_flattened_the_weights_of_the_first_tier() {
    let classes = [class(9, 3, 0, 100), class(9, 1, 0, 100), class(1, 1, 5, 100)];
    let mut day = Day::new(line(20), &classes, 1);
    (0..3).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [71, 24, 5]);
}

/// 20 ms of memory are less than one segment of a small floor, so part of the floor was lost.
#[test]
fn regression_a_small_floor_of_a_slow_line_lost_its_credit() {
    let classes = [class(9, 1, 0, 100), class(1, 1, 5, 100)];
    let mut day = Day::new(line(1), &classes, 1).late(1_100_000);
    (0..2).for_each(|class| day.feed(class, 2, Appetite::Endless));
    day.run(5 * SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 60), [95, 5]);
}

/// A class whose flows ask quantum by quantum counted as idle after each grant, and lost its place
/// to the tier's clock: weights of 9 to 1 became 1 to 1.
#[test]
fn regression_asking_quantum_by_quantum_flattened_the_weights() {
    let mut day = Day::new(line(10), &[class(5, 9, 0, 100), class(5, 1, 0, 100)], 1);
    (0..2).for_each(|class| day.feed(class, 1, Appetite::Stepwise));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [90, 10]);
}

/// Floors inside the first tier were ignored: weight alone decided.
#[test]
fn regression_a_floor_inside_the_first_tier_did_nothing() {
    let mut day = Day::new(line(10), &[class(9, 9, 0, 100), class(9, 1, 38, 100)], 1);
    (0..2).for_each(|class| day.feed(class, 1, Appetite::Endless));
    day.run(SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 10), [60, 40]);
}

/// Every change of rate forgave a ceiling's debt; a learnt rate changes several times a second.
#[test]
fn regression_a_ceiling_was_forgiven_with_every_change_of_rate() {
    let mut day = Day::new(line(20), &[class(5, 1, 0, 60), class(5, 1, 0, 100)], 1);
    day.feed(0, 2, Appetite::Endless);
    for step in 0..500 {
        day.run(day.now + 20 * MS, |_, _| {});
        let capacity = BitRate::from_bits_per_second(20_000_000 + step % 2);
        let rate = LineRate { capacity, shaped: capacity.scale(95, 100) };
        day.audited.set_rate(rate, day.now);
    }
    let got = day.audited.classes[0].wire;
    let most = 12_000 * (day.now / MS) / 8 + 30_000;
    assert!(got <= most, "{got} bytes where {most} are allowed");
}

/// What the first tier took of an otherwise idle line counted against its overdraft for ever, and
/// the next payment waited for the line like bulk.
#[test]
fn regression_a_night_of_replication_cost_the_next_payment_its_overdraft() {
    let mut day = Day::new(line(20), &[class(9, 1, 0, 100), class(1, 1, 40, 100)], 1);
    day.feed(0, 1, Appetite::Endless);
    day.run(60 * SECOND, |_, _| {});
    day.turn(0, Appetite::Silent);
    day.feed(1, 8, Appetite::Endless);
    day.run(day.now + 150 * MS, |_, _| {});
    day.audited.pump(day.now, |_, _| {});
    let payment = day.audited.add_flow(0);
    day.audited.demand(payment, 700, day.now);
    assert_eq!(day.audited.poll(day.now), Some(Grant { flow: payment, bytes: 700 }));
}

/// On a line without any rate a refund brought the clock back from the end of time, for one more
/// grant each; bytes that nobody asked for overflowed it.
#[test]
fn regression_a_line_without_rate_granted_after_every_refund() {
    let mut day = Day::new(line(0), &[class(9, 1, 0, 100), class(1, 1, 0, 0)], 1);
    day.feed(0, 1, Appetite::Endless);
    let mut bytes = 0;
    for _ in 0..20 {
        day.audited.unasked(1_000, day.now);
        while let Some(grant) = day.audited.poll(day.now) {
            bytes += grant.bytes - day.audited.refund(grant.flow, 700, day.now);
        }
        day.now += SECOND;
    }
    assert!(bytes <= 4 * 1_448, "{bytes} bytes over a line without rate");
    day.audited.set_rate(line(10), day.now);
    day.run(day.now + SECOND, |_, _| {});
    assert!(day.audited.classes[0].wire > 1_000_000, "the line came back");
}

/// How far a floor may lift a class ahead of its tier did not depend on its weight: with large
/// weights it paid for its floor for minutes after the others had left.
#[test]
fn regression_a_lifted_class_with_a_large_weight_paid_for_minutes() {
    let mut classes = vec![class(5, 1_000, 30, 100)];
    classes.extend([class(5, 1_000, 0, 100); 9]);
    let mut day = Day::new(line(10), &classes, 1);
    (0..10).for_each(|class| day.feed(class, 1, Appetite::Endless));
    day.run(30 * SECOND, |_, _| {});
    (2..10).for_each(|class| day.turn(class, Appetite::Silent));
    day.run(day.now + SECOND, |_, _| {});
    assert_eq!(percent(&mut day, 3)[..2], [50, 50]);
}
