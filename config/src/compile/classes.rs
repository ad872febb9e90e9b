//! Traffic classes: the built-in ones, what replaces them, what is new.
//!
//! Built-in classes come first in their order, the others by name. Shares of one class are
//! compared with each other; the sum of all floors is compared with each line, because a rate
//! that fits on fibre may not fit on the backup.

use tillgate_core::class::{CLASSES_MAX, ClassSpec, ClassTable, Metered, QueueLimit, Share};
use tillgate_core::link::LinkSpec;
use tillgate_core::units::{BitRate, Direction, PerDirection};

use super::select::Selected;
use super::{Output, step};
use crate::defaults;
use crate::document::{Document, Spot};
use crate::kinds::TrafficClassDoc;
use crate::kinds::traffic_class::{Metered as MeteredDoc, SharePair};
use crate::report::Finding;
use crate::scalar::Whole;

/// The largest part of a line that may be promised without a warning.
const PROMISED_PERCENT_MAX: u64 = 50;

/// Floors up to this are there so that nothing starves, and are not counted as promises by the
/// warning (they are by the error).
const SMALL_FLOOR_PERCENT: u64 = 1;

/// The classes; `None` if there are too many of them.
pub(super) fn compile(selected: &Selected<'_>, out: &mut Output) -> Option<ClassTable> {
    let classes: Vec<ClassSpec> =
        selected.classes.iter().map(|(document, class)| one(document, class, out)).collect();
    let count = classes.len();
    let table = ClassTable::new(classes);
    if table.is_none() {
        let last = selected.classes.last().map(|(document, _)| document.name_spot());
        let message = format!(
            "the store has {count} traffic classes, more than {CLASSES_MAX}: give some routes the \
             same class"
        );
        out.error(match last {
            Some(spot) => spot.finding(message),
            None => Finding::new(None, message),
        });
    }
    table
}

/// The floors of all classes must fit on every line.
pub(super) fn check_promises(
    selected: &Selected<'_>,
    classes: &ClassTable,
    links: &[LinkSpec],
    out: &mut Output,
) {
    let classes: Vec<&ClassSpec> = classes.iter().map(|(_, class)| class).collect();
    for direction in Direction::BOTH {
        // Percentages say the same of every link: the link with the least left is told, once.
        let promised = |link: &&LinkSpec| {
            let capacity = *link.capacity.get(direction);
            percent_of(promised_above(&classes, direction, capacity, 0), capacity)
        };
        if let Some(link) = links.iter().rev().max_by_key(promised) {
            promises(selected, &classes, link, direction, out);
        }
    }
}

fn one(document: &Document, class: &TrafficClassDoc, out: &mut Output) -> ClassSpec {
    let spec = &class.spec;
    let spot = document.spec();
    let base = format!("classes.{}", step(&document.name));
    let queue = spec.queue.as_ref();
    let queue_spot = spot.key("queue");
    let path = |field: &str| format!("{base}.{field}");
    let metered = spec.metered.map(|metered| match metered {
        MeteredDoc::Allow => Metered::Allow,
        MeteredDoc::Deny => Metered::Deny,
    });
    let critical = spec.critical.map(|flag| flag.0);
    let dscp = spec.dscp.map(|dscp| Some(dscp.0));
    let weight = spec.weight.map(Whole::fit);
    let guarantee = shares(spec.guarantee, &spot, "guarantee", &base, defaults::GUARANTEE, out);
    let ceiling = shares(spec.ceiling, &spot, "ceiling", &base, defaults::CEILING, out);
    check_shares(&spot, guarantee, ceiling, spec.guarantee.is_some(), out);
    ClassSpec {
        name: document.name.clone(),
        priority: out.given(&path("priority"), &spot.key("priority"), spec.priority.fit()),
        weight: out.value(&path("weight"), &spot.key("weight"), weight, defaults::WEIGHT),
        critical: out.value(&path("critical"), &spot.key("critical"), critical, false),
        guarantee,
        ceiling,
        queue: QueueLimit {
            max_wait: out.positive(
                &path("queue.maxWait"),
                &queue_spot.key("maxWait"),
                queue.and_then(|queue| queue.max_wait),
                defaults::MAX_WAIT,
            ),
        },
        dscp: out.value(&path("dscp"), &spot.key("dscp"), dscp, None),
        metered: out.value(&path("metered"), &spot.key("metered"), metered, defaults::METERED),
        requests_max: out.value(
            &path("maxRequests"),
            &spot.key("maxRequests"),
            spec.max_requests.map(|most| Some(most.fit())),
            None,
        ),
        connections_max: out.value(
            &path("maxConnections"),
            &spot.key("maxConnections"),
            spec.max_connections.map(|most| Some(most.fit())),
            None,
        ),
    }
}

fn shares(
    pair: Option<SharePair>,
    spot: &Spot<'_>,
    field: &str,
    base: &str,
    default: Share,
    out: &mut Output,
) -> PerDirection<Share> {
    let up = pair.and_then(|pair| pair.up).map(|share| share.0);
    let down = pair.and_then(|pair| pair.down).map(|share| share.0);
    let spot = spot.key(field);
    PerDirection {
        up: out.value(&format!("{base}.{field}.up"), &spot.key("up"), up, default),
        down: out.value(&format!("{base}.{field}.down"), &spot.key("down"), down, default),
    }
}

fn check_shares(
    spot: &Spot<'_>,
    guarantee: PerDirection<Share>,
    ceiling: PerDirection<Share>,
    guarantee_given: bool,
    out: &mut Output,
) {
    for direction in Direction::BOTH {
        let label = direction.label();
        let (floor, ceiling) = (*guarantee.get(direction), *ceiling.get(direction));
        let field = spot.key("ceiling").key(label);
        if matches!(ceiling, Share::Percent(percent) if percent.value() == 0) {
            out.error(field.finding(
                "a ceiling of zero would stop the class for ever: give one above zero; to keep it \
                 off a line say `metered: Deny`",
            ));
        }
        let above = match (floor, ceiling) {
            (Share::Percent(floor), Share::Percent(ceiling)) => floor > ceiling,
            (Share::Rate(floor), Share::Rate(ceiling)) => floor > ceiling,
            // A percentage and a rate can only be compared on a line; the smaller one holds.
            (Share::Percent(_), Share::Rate(_)) | (Share::Rate(_), Share::Percent(_)) => false,
        };
        let zero = matches!(ceiling, Share::Percent(percent) if percent.value() == 0);
        if above && guarantee_given && !zero {
            out.error(field.finding(format!(
                "the guarantee {} is above the ceiling {} ({label}): raise the ceiling or lower \
                 the guarantee",
                share_text(floor),
                share_text(ceiling)
            )));
        }
    }
}

/// A share as a policy writes it.
pub(crate) fn share_text(share: Share) -> String {
    match share {
        Share::Percent(percent) => percent.to_string(),
        Share::Rate(rate) => rate.to_string(),
    }
}

/// The sum of all floors above `least`, in bits per second.
fn promised_above(
    classes: &[&ClassSpec],
    direction: Direction,
    capacity: BitRate,
    least: u64,
) -> u64 {
    let floors = classes.iter().map(|class| class.guarantee.get(direction).of(capacity));
    floors.map(BitRate::bits_per_second).filter(|bits| *bits > least).sum()
}

fn percent_of(bits: u64, capacity: BitRate) -> u64 {
    let whole = u128::from(capacity.bits_per_second().max(1));
    u64::try_from(u128::from(bits) * 100 / whole).unwrap_or(u64::MAX)
}

/// All floors together must fit on the line; half of it should stay free for borrowing.
fn promises(
    selected: &Selected<'_>,
    classes: &[&ClassSpec],
    link: &LinkSpec,
    direction: Direction,
    out: &mut Output,
) {
    let capacity = *link.capacity.get(direction);
    let small = capacity.scale(SMALL_FLOOR_PERCENT, 100);
    let floor = |class: &&ClassSpec| class.guarantee.get(direction).of(capacity);
    let all = promised_above(classes, direction, capacity, 0);
    let large = promised_above(classes, direction, capacity, small.bits_per_second());
    let names: Vec<String> = classes
        .iter()
        .filter(|class| floor(class) > small)
        .map(|class| format!("{} {}", class.name, share_text(*class.guarantee.get(direction))))
        .collect();
    let label = direction.label();
    // The largest floor of the policy's own classes is the one to blame.
    let spot = selected
        .classes
        .iter()
        .zip(classes)
        .filter(|((document, _), _)| !document.is_built_in())
        .max_by_key(|(_, class)| floor(class))
        .map(|((document, _), _)| document.spec().key("guarantee").key(label));
    let finding = |message: String| match &spot {
        Some(spot) => spot.finding(message),
        None => Finding::new(None, message),
    };
    // Rounding down of each floor can only make the sum smaller, never larger.
    if all > capacity.bits_per_second() {
        out.error(finding(format!(
            "the guarantees of all classes add up to {}% of the link `{}` {label} ({}, and the \
             small floors of the others): lower them to 100% or less",
            percent_of(all, capacity),
            link.name,
            names.join(", ")
        )));
    } else if percent_of(large, capacity) > PROMISED_PERCENT_MAX {
        out.report.lints.push(finding(format!(
            "the guarantees add up to {}% of the link `{}` {label} ({}): above 50% little is left \
             to share by priority, lower some",
            percent_of(large, capacity),
            link.name,
            names.join(", ")
        )));
    }
}
