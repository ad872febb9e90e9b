//! Which of several equal endpoints gets a call: power of two choices.
//!
//! In: the endpoints' loads, and chance. Out: of two endpoints by chance the one that costs less,
//! which is its latency (peaks count at once) times the calls it has. Two choices spread nearly
//! as well as asking everybody (Mitzenmacher 2001), and never send all calls to one favourite.

use std::sync::Arc;

use crate::load::Load;

/// The place of an endpoint that `may` take a call; `None` if none may.
pub fn choose(loads: &[Arc<Load>], draw: u64, may: impl Fn(&Load) -> bool) -> Option<usize> {
    let count = loads.len();
    let of = |draw: u64, count: usize| usize::try_from(draw % count as u64).unwrap_or(0);
    match count {
        0 => return None,
        1 => return may(&loads[0]).then_some(0),
        _ => {}
    }
    let first = of(draw & u64::from(u32::MAX), count);
    let second = (first + 1 + of(draw >> 32, count - 1)) % count;
    match (may(&loads[first]), may(&loads[second])) {
        (true, true) if loads[second].cost() < loads[first].cost() => Some(second),
        (true, _) => Some(first),
        (false, true) => Some(second),
        (false, false) => (0..count).map(|step| (first + step) % count).find(|at| may(&loads[*at])),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::{EndpointId, Verdict};
    use crate::schedule::tests::draw::{Draw, epoch};

    fn loads(count: u32) -> Vec<Arc<Load>> {
        let zero = epoch();
        (0..count).map(|id| Arc::new(Load::new(EndpointId(id), zero))).collect()
    }

    fn usable(load: &Load) -> bool {
        load.verdict() == Verdict::Usable
    }

    #[test]
    fn equals_share_equally() {
        let loads = loads(4);
        let (mut draw, mut counts) = (Draw::new(1), [0; 4]);
        for _ in 0..4000 {
            counts[choose(&loads, draw.bits(), usable).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_slow_one_gets_little_and_a_refusing_one_no_more() {
        let loads = loads(3);
        let now = epoch();
        for load in &loads {
            load.answered(Duration::from_millis(5), now);
        }
        loads[1].answered(Duration::from_millis(500), now);
        loads[2].refused(Duration::from_millis(1), now);
        let (mut draw, mut counts) = (Draw::new(2), [0; 3]);
        for _ in 0..3000 {
            counts[choose(&loads, draw.bits(), usable).unwrap()] += 1;
        }
        assert!(counts[0] > 1900 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn the_last_one_is_found_wherever_it_is() {
        let loads = loads(9);
        for load in &loads[..8] {
            load.publish(Verdict::Out);
        }
        let mut draw = Draw::new(3);
        for _ in 0..100 {
            assert_eq!(choose(&loads, draw.bits(), usable), Some(8));
        }
        loads[8].publish(Verdict::Out);
        assert_eq!(choose(&loads, 7, usable), None);
        assert_eq!(choose(&[], 7, usable), None);
    }
}
