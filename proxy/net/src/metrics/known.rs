//! Families of one label whose values are known when they are made: each value's series is there
//! from the first scrape on, and whoever counts looks nothing up.

use prometheus_client::metrics::family::Family;

/// The label and a value of it.
pub(super) type OneLabel = [(&'static str, &'static str); 1];

/// A family, and its members for these values.
pub(super) fn known<M: Clone + Default, const N: usize>(
    label: &'static str,
    values: [&'static str; N],
) -> (Family<OneLabel, M>, [M; N]) {
    let family: Family<OneLabel, M> = Family::default();
    let members = values.map(|value| family.get_or_create_owned(&[(label, value)]));
    (family, members)
}
