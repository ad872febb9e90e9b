//! The kernel's own answer: HTB at 95 % of the line in both directions, payments first.
//!
//! Uplink on the store's end of the line, downlink through an intermediate device. It is told the
//! true rate and the ports, it needs root, and it sees every packet. Drives the `tc` program.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::netlink::{Request, Route};
use crate::origin::Service;
use crate::preset::LineSpec;
use crate::stats::whole;
use crate::sys;
use crate::testbed::STORE_DEVICE;

const SHARE: f64 = 0.95;
const INGRESS_DEVICE: &str = "ifb0";
/// A full Ethernet frame.
const QUANTUM: u32 = 1_514;
/// One millisecond of the line, but not less than a frame and its overhead.
const BURST_MIN: u64 = 1_749;
/// The payments' assured part; they may borrow everything and are asked first.
const PAYMENTS_PERCENT: u64 = 30;

#[derive(Clone, Copy)]
enum PortIs {
    Source,
    Destination,
}

/// Puts the shaper on the line, in the namespace of the caller (the store).
pub fn shape(line: LineSpec) -> Result<()> {
    Route::open()?
        .ask(Request::plain_link("ifb", INGRESS_DEVICE))
        .context("make an ifb device (kernel option IFB)")?;
    Route::open()?.ask(Request::link_up(sys::interface_index(INGRESS_DEVICE)?))?;
    tree(STORE_DEVICE, line.up_mbit, PortIs::Destination)?;
    tree(INGRESS_DEVICE, line.down_mbit, PortIs::Source)?;
    tc(&format!("qdisc add dev {STORE_DEVICE} handle ffff: ingress"))?;
    tc(&format!(
        "filter add dev {STORE_DEVICE} parent ffff: protocol ip u32 match u32 0 0 \
         action mirred egress redirect dev {INGRESS_DEVICE}"
    ))
}

fn tree(device: &str, mbit: f64, port: PortIs) -> Result<()> {
    let rate = whole(mbit * 1e6 * SHARE);
    let burst = (rate / 8 / 1_000).max(BURST_MIN);
    let payments = rate * PAYMENTS_PERCENT / 100;
    let bulk = rate - payments;
    let side = match port {
        PortIs::Source => "sport",
        PortIs::Destination => "dport",
    };
    let bursts = format!("burst {burst} cburst {burst} quantum {QUANTUM}");
    for command in [
        format!("qdisc add dev {device} root handle 1: htb default 20"),
        format!(
            "class add dev {device} parent 1: classid 1:1 htb rate {rate} ceil {rate} {bursts}"
        ),
        format!(
            "class add dev {device} parent 1:1 classid 1:10 htb rate {payments} ceil {rate} \
             prio 0 {bursts}"
        ),
        format!(
            "class add dev {device} parent 1:1 classid 1:20 htb rate {bulk} ceil {rate} \
             prio 1 {bursts}"
        ),
        format!("qdisc add dev {device} parent 1:10 handle 10: pfifo limit 200"),
        format!("qdisc add dev {device} parent 1:20 handle 20: pfifo limit {}", queue(mbit)),
        format!(
            "filter add dev {device} parent 1: protocol ip prio 1 u32 match ip {side} {} 0xffff \
             flowid 1:10",
            Service::Payments.port()
        ),
    ] {
        tc(&command)?;
    }
    Ok(())
}

/// 100 ms of full packets, at least 20: short enough to push back, long enough for four flows.
fn queue(mbit: f64) -> u64 {
    whole(mbit * 1e6 / 8.0 / 1_500.0 * 0.1).max(20)
}

fn tc(arguments: &str) -> Result<()> {
    let output = Command::new("tc")
        .args(arguments.split_whitespace())
        .output()
        .context("start tc (package iproute2)")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("tc {arguments}: {}", text.trim());
    }
    Ok(())
}
