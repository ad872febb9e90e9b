//! How many certificates one sidecar gets in a time: each is a signature and a record in the audit
//! log, which one that asks again and again must not fill.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// In a part of a certificate's life, which a sidecar that is well spends with one in twelve.
const MOST: u32 = 8;

/// That part: an hour of a day.
const PART: u32 = 24;

/// Sidecars that are known; those whose time has passed are forgotten first.
const KNOWN_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    known: HashMap<Arc<str>, (Instant, u32)>,
}

impl Allowance {
    /// Takes one for `id`, whose certificates are good for `lifetime`.
    ///
    /// # Errors
    /// When to ask again.
    pub(super) fn take(
        &mut self,
        id: &Arc<str>,
        lifetime: Duration,
        now: Instant,
    ) -> Result<(), Duration> {
        let part = lifetime / PART;
        let left = |began: Instant| part.saturating_sub(now.saturating_duration_since(began));
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, (began, _)| !left(*began).is_zero());
        }
        if let Some((began, count)) = self.known.get_mut(id) {
            if left(*began).is_zero() {
                (*began, *count) = (now, 0);
            } else if *count >= MOST {
                return Err(left(*began));
            }
            *count += 1;
        } else if self.known.len() < KNOWN_MAX {
            self.known.insert(Arc::clone(id), (now, 1));
        } else {
            return Err(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tillgate_net::clock;

    use super::*;

    #[test]
    fn each_has_its_own_and_gets_it_again() {
        let (mut all, began) = (Allowance::default(), clock::now());
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let mut take = |id: &str, after: Duration| all.take(&id.into(), day, began + after);
        for _ in 0..MOST {
            assert_eq!(take("pos-1", Duration::ZERO), Ok(()));
        }
        assert_eq!(take("pos-1", hour / 4), Err(hour * 3 / 4));
        assert_eq!(take("pos-2", hour / 4), Ok(()));
        assert_eq!(take("pos-1", hour), Ok(()));
        for number in all.known.len()..KNOWN_MAX {
            all.take(&number.to_string().into(), day, began + hour).unwrap();
        }
        // Who is known has what is his; whoever is new takes the place of one whose time is over.
        assert_eq!(all.take(&"pos-1".into(), day, began + hour), Ok(()));
        assert_eq!(all.take(&"new".into(), day, began + hour), Err(hour));
        let later = began + hour * 5 / 4;
        assert_eq!(all.take(&"new".into(), day, later), Ok(()), "pos-2 is forgotten");
        assert_eq!(all.take(&"next".into(), day, later), Err(hour));
        assert_eq!(all.take(&"next".into(), day, began + 2 * hour), Ok(()));
    }
}
