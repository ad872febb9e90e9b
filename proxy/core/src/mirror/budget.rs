//! Bytes a day over metered lines.
//!
//! In: bytes as they come, with the number of the store's civil day. Out: whether another fetch
//! may begin. One that runs is not stopped: what is half on disk is paid for.

use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    day: i64,
    spent: u64,
}

impl Budget {
    /// What was spent on `day`, as kept over a restart.
    pub const fn new(day: i64, spent: u64) -> Self {
        Self { day, spent }
    }

    /// `bytes` came on `day`. A clock that steps back spends on the later day.
    pub fn spend(&mut self, bytes: u64, day: i64) {
        if day > self.day {
            *self = Self { day, spent: 0 };
        }
        self.spent = self.spent.saturating_add(bytes);
    }

    /// Bytes left of `limit` on `day`.
    pub fn left(&self, limit: u64, day: i64) -> u64 {
        if day > self.day { limit } else { limit.saturating_sub(self.spent) }
    }

    /// Bytes spent on the last day that something was spent on.
    pub const fn spent(&self) -> (i64, u64) {
        (self.day, self.spent)
    }
}

/// Budgets by name: of the mirror as a whole, and of each rollout that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budgets(BTreeMap<Arc<str>, Budget>);

/// The name of the whole mirror's; no document can be called so.
pub const WHOLE: &str = "*";

impl Budgets {
    /// `bytes` came on `day`, of the whole and of `rollout`.
    pub fn spend(&mut self, rollout: Option<&Arc<str>>, bytes: u64, day: i64) {
        if !self.0.contains_key(WHOLE) {
            self.0.insert(WHOLE.into(), Budget::default());
        }
        if let Some(rollout) = rollout
            && !self.0.contains_key(rollout)
        {
            self.0.insert(Arc::clone(rollout), Budget::default());
        }
        for name in std::iter::once(WHOLE).chain(rollout.map(|name| &**name)) {
            if let Some(budget) = self.0.get_mut(name) {
                budget.spend(bytes, day);
            }
        }
    }

    /// Bytes left of `limit` for `name` on `day`.
    pub fn left(&self, name: &str, limit: u64, day: i64) -> u64 {
        self.0.get(name).map_or(limit, |budget| budget.left(limit, day))
    }

    /// Only these are kept, and the whole.
    pub fn follow(&mut self, is_known: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| **name == *WHOLE || is_known(name));
    }

    /// Lines of words, to be read by [`Self::read`].
    pub fn to_text(&self) -> String {
        let line = |(name, budget): (&Arc<str>, &Budget)| {
            format!("{name} {} {}\n", budget.day, budget.spent)
        };
        self.0.iter().map(line).collect()
    }

    /// What [`Self::to_text`] wrote; lines that are none are left out.
    pub fn read(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let budget = Budget::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then(|| (name.into(), budget))
        };
        Self(text.lines().filter_map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_begins_with_all_of_it() {
        let mut budget = Budget::default();
        budget.spend(60, 1);
        assert_eq!(budget.left(100, 1), 40);
        budget.spend(60, 1);
        assert_eq!((budget.left(100, 1), budget.left(100, 2)), (0, 100));
        budget.spend(1, 2);
        assert_eq!(budget.left(100, 2), 99);
        // A clock that steps back gives nothing away.
        budget.spend(9, 1);
        assert_eq!((budget.left(100, 1), budget.left(100, 2)), (90, 90));
        budget.spend(u64::MAX, 2);
        assert_eq!(budget.left(100, 2), 0);
    }

    #[test]
    fn a_rollouts_bytes_are_the_wholes_too_and_outlive_a_restart() {
        let (mut budgets, pos) = (Budgets::default(), Arc::<str>::from("pos"));
        budgets.spend(Some(&pos), 60, 1);
        budgets.spend(None, 10, 1);
        let mut budgets = Budgets::read(&format!("{}odd\na b c\n", budgets.to_text()));
        assert_eq!((budgets.left(WHOLE, 100, 1), budgets.left("pos", 100, 1)), (30, 40));
        assert_eq!((budgets.left("other", 100, 1), budgets.left("pos", 100, 2)), (100, 100));
        budgets.follow(|_| false);
        assert_eq!((budgets.left(WHOLE, 100, 1), budgets.left("pos", 100, 1)), (30, 100));
    }
}
