//! Bytes a day over metered lines.
//!
//! In: bytes as they come, with the number of the store's civil day. Out: whether another fetch
//! may begin. One that runs is not stopped: what is half on disk is paid for.

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
}
