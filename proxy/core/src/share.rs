//! Water filling: what each class gets of a line when all of them want more.
//!
//! The scheduler does not need this to share a line; the window allocator does, because a receive
//! window must be sized for the rate that a flow is about to get. It is also the oracle that the
//! scheduler's tests are measured against. Totals are max-min fair with floors, ceilings, strict
//! tiers and weights: inside a tier `share = clamp(level * weight, floor, cap)`.

use crate::units::BitRate;

/// One class that wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Higher wins; equal priorities are one tier.
    pub priority: u16,
    /// Share inside the tier, at least 1.
    pub weight: u32,
    /// Floor.
    pub floor: BitRate,
    /// The least of the ceiling and what the class can use at all.
    pub cap: BitRate,
}

/// What each of `claims` gets of `rate`, in the same order.
///
/// The sum is at most `rate` unless the floors alone exceed it (then floors are handed out from
/// the highest priority down). Runs in `O(n^2)` for at most 64 claims.
pub fn water_fill(rate: BitRate, claims: &[Claim]) -> Vec<BitRate> {
    let mut shares = vec![BitRate::default(); claims.len()];
    let mut priorities: Vec<u16> = claims.iter().map(|claim| claim.priority).collect();
    priorities.sort_unstable_by(|a, b| b.cmp(a));
    priorities.dedup();
    let mut left = rate.bits_per_second();
    for priority in priorities {
        let floors_below: u64 = claims
            .iter()
            .filter(|claim| claim.priority < priority)
            .map(floor)
            .fold(0, u64::saturating_add);
        let members: Vec<usize> =
            (0..claims.len()).filter(|index| claims[*index].priority == priority).collect();
        let own_floors: u64 =
            members.iter().map(|index| floor(&claims[*index])).fold(0, u64::saturating_add);
        let available = left.saturating_sub(floors_below).max(own_floors).min(left);
        fill_tier(available, claims, &members, &mut shares);
        let used: u64 = members.iter().map(|index| shares[*index].bits_per_second()).sum();
        left = left.saturating_sub(used);
    }
    shares
}

/// The same, and what nobody claims is lent by the same rules: each class takes it up to its
/// `ceilings` entry, the share included. A class that borrows has claimed nothing more, so it
/// takes from nobody.
pub fn water_fill_lending(rate: BitRate, claims: &[Claim], ceilings: &[BitRate]) -> Vec<BitRate> {
    let shares = water_fill(rate, claims);
    let used: u64 = shares.iter().map(|share| share.bits_per_second()).sum();
    let left = BitRate::from_bits_per_second(rate.bits_per_second().saturating_sub(used));
    let room = |index: usize| {
        let ceiling = ceilings.get(index).copied().unwrap_or_default().bits_per_second();
        BitRate::from_bits_per_second(ceiling.saturating_sub(shares[index].bits_per_second()))
    };
    let borrowers: Vec<Claim> = claims
        .iter()
        .enumerate()
        .map(|(index, claim)| Claim { floor: BitRate::default(), cap: room(index), ..*claim })
        .collect();
    let sum = |share: &BitRate, lent: &BitRate| {
        BitRate::from_bits_per_second(share.bits_per_second() + lent.bits_per_second())
    };
    shares.iter().zip(&water_fill(left, &borrowers)).map(|(share, lent)| sum(share, lent)).collect()
}

fn floor(claim: &Claim) -> u64 {
    claim.floor.min(claim.cap).bits_per_second()
}

/// Divides `available` among `members`: classes pinned at their floor or cap are taken out one
/// round at a time, the rest share by weight.
fn fill_tier(available: u64, claims: &[Claim], members: &[usize], shares: &mut [BitRate]) {
    let mut open: Vec<usize> = members.to_vec();
    let mut left = available;
    while !open.is_empty() {
        let weights: u64 = open.iter().map(|index| u64::from(claims[*index].weight.max(1))).sum();
        let level = |index: usize| {
            let weight = u128::from(claims[index].weight.max(1));
            u64::try_from(u128::from(left) * weight / u128::from(weights)).unwrap_or(u64::MAX)
        };
        let over: u64 = open
            .iter()
            .map(|i| level(*i).saturating_sub(claims[*i].cap.bits_per_second()))
            .fold(0, u64::saturating_add);
        let under: u64 = open
            .iter()
            .map(|i| floor(&claims[*i]).saturating_sub(level(*i)))
            .fold(0, u64::saturating_add);
        if over == 0 && under == 0 {
            for index in open {
                shares[index] = BitRate::from_bits_per_second(level(index));
            }
            return;
        }
        // Whichever side binds harder is settled first (Bertsekas & Gallager's progressive
        // filling with both bounds): the other side may still move after it.
        let pinned: Vec<(usize, u64)> = open
            .iter()
            .filter_map(|index| {
                let (claim, at) = (&claims[*index], level(*index));
                let cap = claim.cap.bits_per_second();
                if over >= under && at > cap {
                    return Some((*index, cap));
                }
                (over < under && at < floor(claim)).then(|| (*index, floor(claim)))
            })
            .collect();
        for (index, rate) in pinned {
            let rate = rate.min(left);
            shares[index] = BitRate::from_bits_per_second(rate);
            left -= rate;
            open.retain(|other| *other != index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(priority: u16, weight: u32, floor: u64, cap: u64) -> Claim {
        let rate = BitRate::from_mbit;
        Claim { priority, weight, floor: rate(floor), cap: rate(cap) }
    }

    fn megabits(rate: u64, claims: &[Claim]) -> Vec<u64> {
        water_fill(BitRate::from_mbit(rate), claims)
            .iter()
            .map(|share| share.bits_per_second() / 1_000_000)
            .collect()
    }

    #[test]
    fn weights_share_what_floors_and_caps_leave() {
        assert_eq!(megabits(10, &[claim(1, 3, 0, 99), claim(1, 1, 0, 99)]), [7, 2]);
        let mixed = [claim(1, 8, 0, 99), claim(1, 1, 2, 99), claim(1, 1, 0, 1)];
        assert_eq!(megabits(10, &mixed), [7, 2, 0]);
    }

    #[test]
    fn an_upper_tier_takes_all_but_the_floors_below() {
        let tiers = [claim(9, 1, 0, 99), claim(5, 3, 2, 99), claim(1, 1, 1, 99)];
        assert_eq!(megabits(20, &tiers), [17, 2, 1]);
    }

    #[test]
    fn what_an_upper_tier_cannot_use_flows_down() {
        let tiers = [claim(9, 1, 0, 4), claim(5, 3, 1, 99), claim(1, 1, 1, 99)];
        assert_eq!(megabits(10, &tiers), [4, 5, 1]);
    }
    #[test]
    fn what_nobody_claims_is_lent_and_taken_from_nobody() {
        let rate = BitRate::from_mbit;
        let lent = |claims: &[Claim], ceilings: &[u64]| -> Vec<u64> {
            let ceilings: Vec<BitRate> = ceilings.iter().copied().map(rate).collect();
            let shares = water_fill_lending(rate(10), claims, &ceilings);
            shares.iter().map(|share| share.bits_per_second() / 1_000_000).collect()
        };
        let little = claim(9, 1, 0, 1);
        assert_eq!(lent(&[little, claim(1, 1, 0, 99)], &[99, 99]), [1, 9], "all of it is wanted");
        assert_eq!(lent(&[little, claim(1, 1, 0, 2)], &[99, 99]), [8, 2], "the first class first");
        assert_eq!(lent(&[little, claim(1, 1, 0, 2)], &[4, 3]), [4, 3], "nobody above a ceiling");
        assert_eq!(lent(&[little, claim(1, 1, 0, 2)], &[0, 0]), [1, 2], "nor who does not borrow");
    }
}
