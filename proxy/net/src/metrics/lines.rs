//! The WAN lines in a scrape: read from their snapshots, nothing is kept here.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use tillgate_core::units::Direction;

use super::Label;
use crate::link::Link;
use crate::link::snapshot::{ClassSnapshot, DirectionSnapshot, LinkSnapshot, WAIT_BUCKETS};

/// Shows the lines that `lines` names at each scrape.
pub struct LineCollector<F> {
    lines: F,
}

impl<F> LineCollector<F>
where
    F: Fn() -> Vec<Arc<Link>> + Send + Sync + 'static,
{
    /// A collector that asks `lines` for what there is.
    pub const fn new(lines: F) -> Self {
        Self { lines }
    }
}

impl<F> fmt::Debug for LineCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineCollector").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    link: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    link: Label,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    link: Label,
    direction: &'static str,
    class: Label,
}

impl<F> Collector for LineCollector<F>
where
    F: Fn() -> Vec<Arc<Link>> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshots: Vec<LinkSnapshot> =
            (self.lines)().iter().map(|link| link.snapshot()).collect();
        encode_links(&mut encoder, &snapshots)?;
        encode_directions(&mut encoder, &snapshots)?;
        encode_classes(&mut encoder, &snapshots)
    }
}

fn encode_links(encoder: &mut DescriptorEncoder<'_>, links: &[LinkSnapshot]) -> fmt::Result {
    type Value = fn(&LinkSnapshot) -> u64;
    let gauges: [(&str, &str, Option<&Unit>, Value); 4] = [
        ("link_connections", "open connections across the line", None, |l| l.connections as u64),
        ("link_dials_waiting", "connections that wait for a place on the line", None, |l| {
            l.dials_waiting as u64
        }),
        ("link_window_sum", "sum of the receive windows of bulk flows", Some(&Unit::Bytes), |l| {
            l.window_sum_bytes
        }),
        ("link_window_sum_max", "most that this sum may be", Some(&Unit::Bytes), |l| {
            l.window_sum_max_bytes
        }),
    ];
    for (name, help, unit, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for link in links {
            let labels = LinkLabels { link: Arc::clone(&link.name) };
            family.encode_family(&labels)?.encode_gauge(&value(link))?;
        }
    }
    Ok(())
}

fn encode_directions(encoder: &mut DescriptorEncoder<'_>, links: &[LinkSnapshot]) -> fmt::Result {
    type Value = fn(&DirectionSnapshot) -> u64;
    // Bytes in metrics, bits in policy: these are the policy's own numbers, so they say so.
    let gauges: [(&str, &str, Value); 2] = [
        ("link_capacity_bits_per_second", "what the line carries, by policy", |d| {
            d.capacity.bits_per_second()
        }),
        ("link_shaped_bits_per_second", "what is handed out: capacity less headroom", |d| {
            d.shaped.bits_per_second()
        }),
    ];
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for link in links {
            for direction in Direction::BOTH {
                let labels =
                    DirectionLabels { link: Arc::clone(&link.name), direction: direction.label() };
                let value = value(link.directions.get(direction));
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
    }
    Ok(())
}

fn encode_classes(encoder: &mut DescriptorEncoder<'_>, links: &[LinkSnapshot]) -> fmt::Result {
    type Value = fn(&ClassSnapshot) -> u64;
    let counters: [(&str, &str, Option<&Unit>, Value); 3] = [
        ("link_traffic", "payload moved across the line, by class", Some(&Unit::Bytes), |c| {
            c.counters.bytes
        }),
        ("link_grants", "permissions to move some bytes", None, |c| c.counters.grants),
        ("link_datagrams_dropped", "datagrams that the line had no room for", None, |c| {
            c.counters.dropped
        }),
    ];
    for (name, help, unit, value) in counters {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        each_class(links, |labels, class| {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value(class), None)
        })?;
    }
    let gauges: [(&str, &str, Value); 3] = [
        ("link_rate_bits_per_second", "wire rate over the last second", |c| {
            c.rate.bits_per_second()
        }),
        ("link_flows", "open flows", |c| c.counters.flows),
        ("link_parked", "flows that wait for their turn", |c| c.counters.parked),
    ];
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        each_class(links, |labels, class| {
            family.encode_family(labels)?.encode_gauge(&value(class))
        })?;
    }
    let mut family = encoder.encode_descriptor(
        "link_wait",
        "from asking for a grant to having it",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    each_class(links, |labels, class| {
        let waits = &class.counters.waits;
        let bounds = WAIT_BUCKETS.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(waits.buckets).collect();
        let sum = waits.sum.as_secs_f64();
        family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
            sum,
            waits.count,
            &buckets,
            None,
        )
    })
}

/// Classes that are there, or were and moved something.
fn each_class(
    links: &[LinkSnapshot],
    mut encode: impl FnMut(&ClassLabels, &ClassSnapshot) -> fmt::Result,
) -> fmt::Result {
    for link in links {
        for direction in Direction::BOTH {
            for class in &link.directions.get(direction).classes {
                let labels = ClassLabels {
                    link: Arc::clone(&link.name),
                    direction: direction.label(),
                    class: Arc::clone(&class.name),
                };
                encode(&labels, class)?;
            }
        }
    }
    Ok(())
}
