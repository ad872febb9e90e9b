//! What must be true of any division of a line, whatever the classes ask for.

use proptest::prelude::*;
use tillgate_core::share::{Claim, water_fill};
use tillgate_core::units::BitRate;

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let rate = || prop_oneof![3 => Just(0u64), 6 => 0..200_000_000u64, 1 => Just(u64::MAX)];
    let claim =
        (0u16..4, 1u32..=65_536, rate(), rate()).prop_map(|(priority, weight, low, high)| {
            let bits = BitRate::from_bits_per_second;
            Claim { priority, weight, floor: bits(low / 8), cap: bits(high) }
        });
    proptest::collection::vec(claim, 0..17)
}

fn lines() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), 1_000_000..1_000_000_000u64, Just(u64::MAX)]
}

fn fill(rate: u64, claims: &[Claim]) -> Vec<u64> {
    let shares = water_fill(BitRate::from_bits_per_second(rate), claims);
    shares.iter().map(|share| share.bits_per_second()).collect()
}

fn sum(values: impl IntoIterator<Item = u64>) -> u128 {
    values.into_iter().map(u128::from).sum()
}

fn floors(claims: &[Claim]) -> u128 {
    sum(claims.iter().map(|claim| claim.floor.min(claim.cap).bits_per_second()))
}

/// Each division rounds down once per class.
const ROUNDING: u128 = 64;

proptest! {
    #[test]
    fn no_more_is_given_than_there_is(rate in lines(), claims in claims()) {
        prop_assert!(sum(fill(rate, &claims)) <= u128::from(rate));
    }

    #[test]
    fn caps_and_floors_hold(rate in lines(), claims in claims()) {
        let shares = fill(rate, &claims);
        let floor = |claim: &Claim| claim.floor.min(claim.cap).bits_per_second();
        let floors_fit = floors(&claims) <= u128::from(rate);
        for (claim, share) in claims.iter().zip(&shares) {
            prop_assert!(*share <= claim.cap.bits_per_second());
            prop_assert!(!floors_fit || *share >= floor(claim), "{} under {}", share, floor(claim));
        }
    }

    #[test]
    fn nothing_is_left_while_somebody_wants_more(rate in lines(), claims in claims()) {
        let shares = fill(rate, &claims);
        let hungry = claims.iter().zip(&shares).any(|(c, s)| *s < c.cap.bits_per_second());
        prop_assert!(!hungry || sum(shares) + ROUNDING >= u128::from(rate));
    }

    #[test]
    fn a_faster_line_takes_from_nobody(
        rate in 1_000_000..500_000_000u64, more in 0..500_000_000u64, claims in claims(),
    ) {
        // Floors that do not fit are handed out first come, first served.
        prop_assume!(floors(&claims) <= u128::from(rate));
        for (before, after) in fill(rate, &claims).iter().zip(fill(rate + more, &claims)) {
            prop_assert!(u128::from(after) + ROUNDING >= u128::from(*before));
        }
    }

    #[test]
    fn order_does_not_matter(
        rate in lines(),
        shuffled in claims().prop_flat_map(|claims| {
            let order: Vec<usize> = (0..claims.len()).collect();
            (Just(claims), Just(order).prop_shuffle())
        }),
    ) {
        let (claims, order) = shuffled;
        let reordered: Vec<Claim> = order.iter().map(|index| claims[*index]).collect();
        let (ordered, other) = (fill(rate, &claims), fill(rate, &reordered));
        prop_assume!(floors(&claims) <= u128::from(rate));
        for (place, index) in order.iter().enumerate() {
            prop_assert!(u128::from(other[place].abs_diff(ordered[*index])) <= ROUNDING);
        }
    }

    #[test]
    fn unbounded_members_of_a_tier_share_by_weight(
        rate in 1_000_000..1_000_000_000u64, weights in proptest::collection::vec(1u32..100, 1..17),
    ) {
        let (floor, cap) = (BitRate::default(), BitRate::from_bits_per_second(u64::MAX));
        let claim = |weight: &u32| Claim { priority: 1, weight: *weight, floor, cap };
        let claims: Vec<Claim> = weights.iter().map(claim).collect();
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (share, weight) in fill(rate, &claims).iter().zip(&weights) {
            prop_assert!(share.abs_diff(rate * u64::from(*weight) / total) <= 1);
        }
    }
}
