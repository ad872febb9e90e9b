//! Which line a connection takes, as a few days in the life of a store.

use std::sync::Arc;
use std::time::Duration;

use tillgate_core::backend::Location;
use tillgate_core::class::{ClassSpec, Metered, QueueLimit, Share};
use tillgate_core::link::{Destination, LinkId, LinkRole, LinkSpec, link_for};
use tillgate_core::units::{BitRate, PerDirection, Percent};

const CLOUD: Destination = Destination { location: Location::Cloud };
const LOCAL: Destination = Destination { location: Location::Local };

fn link(name: &str, role: LinkRole, metered: bool) -> LinkSpec {
    LinkSpec {
        name: Arc::from(name),
        role,
        capacity: PerDirection::both(BitRate::from_mbit(10)),
        headroom: Percent::new(5).expect("below a hundred"),
        overhead_bytes: 0,
        metered,
        device: None,
        source: None,
    }
}

fn class(metered: Metered) -> ClassSpec {
    ClassSpec {
        name: Arc::from("image-pull"),
        priority: 100,
        weight: 1,
        critical: false,
        guarantee: PerDirection::both(Share::Percent(Percent::default())),
        ceiling: PerDirection::both(Share::Percent(Percent::FULL)),
        queue: QueueLimit { max_wait: Duration::from_secs(1) },
        dscp: None,
        metered,
        requests_max: None,
        connections_max: None,
    }
}

#[test]
fn what_stays_in_the_store_takes_no_line() {
    let links = [link("dsl", LinkRole::Primary, false)];
    assert_eq!(link_for(LOCAL, &class(Metered::Allow), &links), None);
    assert_eq!(link_for(CLOUD, &class(Metered::Allow), &[]), None);
}

#[test]
fn the_first_primary_is_the_default() {
    let links = [
        link("lte", LinkRole::Backup, true),
        link("dsl", LinkRole::Primary, false),
        link("fibre", LinkRole::Primary, false),
    ];
    assert_eq!(link_for(CLOUD, &class(Metered::Allow), &links), Some(LinkId(1)));
    assert_eq!(link_for(CLOUD, &class(Metered::Deny), &links), Some(LinkId(1)));
}

#[test]
fn a_class_that_may_not_cost_money_avoids_metered_lines_where_it_can() {
    let links = [link("lte", LinkRole::Primary, true), link("dsl", LinkRole::Backup, false)];
    assert_eq!(link_for(CLOUD, &class(Metered::Allow), &links), Some(LinkId(0)));
    assert_eq!(link_for(CLOUD, &class(Metered::Deny), &links), Some(LinkId(1)));
    let only_metered = [link("sat", LinkRole::Backup, true), link("lte", LinkRole::Primary, true)];
    let chosen = link_for(CLOUD, &class(Metered::Deny), &only_metered);
    assert_eq!(chosen, Some(LinkId(1)), "refusing it is not this function's decision");
}
