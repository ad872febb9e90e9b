//! The three network namespaces of the lab and the line between them.
//!
//! ```text
//! store: load and the proxy, 10.9.0.2 ── line: the emulator ── cloud: the origins, 10.9.0.1
//! ```
//!
//! [`enter`] must run before the program has a second thread; it makes an ordinary user root of a
//! user namespace of its own. [`Testbed::build`] then makes a fresh set of namespaces for every
//! run, so nothing (TCP metrics, queues, sockets) survives from one run into the next. The
//! namespaces end with the descriptors.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::emulator::{Emulator, Line};
use crate::netlink::{Mac, Request, Route, VethEnd};
use crate::origin::Origins;
use crate::sys;

pub const STORE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// The store's end of the line, for traffic control.
pub const STORE_DEVICE: &str = "wan0";

const STORE_MAC: Mac = [2, 0, 10, 9, 0, 2];
const CLOUD_MAC: Mac = [2, 0, 10, 9, 0, 1];
const LINE_STORE: &str = "line-store";
const LINE_CLOUD: &str = "line-cloud";
const CLOUD_DEVICE: &str = "cloud0";

/// What every kernel has and lets a namespace choose. BBR, the default of some, has four packets
/// under way for 200 ms every ten seconds (PROBE_RTT) on every connection, whether anything fails
/// or not, and keeps half as much again in front of the line: both would be charged to the proxy.
pub const RENO: &str = "reno";

/// TX checksum, scatter-gather, TSO, UFO, GSO, GRO, RX checksum: with these off, a packet socket
/// sees real packets of at most 1,514 bytes with valid checksums.
const OFFLOADS: [u32; 7] = [0x17, 0x19, 0x1f, 0x22, 0x24, 0x2c, 0x15];

/// Namespaces are refused on this machine.
#[derive(Debug)]
pub struct Refused {
    what: &'static str,
    cause: io::Error,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this machine refuses {}: {}. The lab needs network namespaces: run it as root, or \
             allow user namespaces (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), \
             or give the container --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add NET_RAW",
            self.what, self.cause
        )
    }
}

impl std::error::Error for Refused {}

/// Gets the right to make network namespaces: as root right away, otherwise in a user namespace.
pub fn enter() -> Result<(), Refused> {
    let (uid, gid) = sys::effective_ids();
    if uid == 0 {
        match sys::unshare(libc::CLONE_NEWNET) {
            Ok(()) => return Ok(()),
            // Root of a container without the capability: a user namespace may still be allowed.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(cause) => return Err(Refused { what: "a network namespace", cause }),
        }
    }
    let refused = |what| move |cause| Refused { what, cause };
    sys::unshare(libc::CLONE_NEWUSER).map_err(refused("a user namespace"))?;
    // Without this the kernel does not let an ordinary user map a group.
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Refused { what: "setgroups in a user namespace", cause: error });
        }
        _ => {}
    }
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
        .map_err(refused("a user map in a user namespace"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
        .map_err(refused("a group map in a user namespace"))?;
    sys::unshare(libc::CLONE_NEWNET).map_err(refused("a network namespace"))
}

/// A running line with origins at its far end. The calling thread is in the store.
pub struct Testbed {
    pub emulator: Emulator,
    pub origins: Origins,
    store: OwnedFd,
    cloud: OwnedFd,
}

impl Testbed {
    /// Builds namespaces, veths, emulator and origins, and moves the calling thread to the store.
    /// `congestion_control` of `None` leaves the kernel's default.
    pub fn build(line: Line, congestion_control: Option<&str>) -> Result<Self> {
        let line_ns = fresh_ns()?;
        let cloud_ns = fresh_ns()?;
        join(&line_ns, &cloud_ns, LINE_CLOUD, CLOUD_DEVICE, CLOUD_MAC)?;
        settle(CLOUD_DEVICE, CLOUD, STORE, STORE_MAC, congestion_control)?;
        let store_ns = fresh_ns()?;
        join(&line_ns, &store_ns, LINE_STORE, STORE_DEVICE, STORE_MAC)?;
        settle(STORE_DEVICE, STORE, CLOUD, CLOUD_MAC, congestion_control)?;

        sys::enter_net_ns(line_ns.as_fd()).context("enter the line's namespace")?;
        for name in [LINE_STORE, LINE_CLOUD] {
            bring_up(name).with_context(|| format!("bring {name} up"))?;
        }
        let emulator = Emulator::start(line, LINE_STORE, LINE_CLOUD).context("start emulator")?;
        sys::enter_net_ns(cloud_ns.as_fd()).context("enter the cloud's namespace")?;
        let origins = Origins::start(CLOUD).context("start origins")?;
        sys::enter_net_ns(store_ns.as_fd()).context("enter the store's namespace")?;
        Ok(Self { emulator, origins, store: store_ns, cloud: cloud_ns })
    }

    /// The namespace where proxies and load live.
    pub fn store_ns(&self) -> &OwnedFd {
        &self.store
    }

    /// The namespace at the far end of the line.
    pub fn cloud_ns(&self) -> &OwnedFd {
        &self.cloud
    }
}

/// Makes a namespace, moves the calling thread there and brings its loopback up.
fn fresh_ns() -> Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNET).context("make a network namespace")?;
    bring_up("lo").context("bring loopback up")?;
    sys::current_net_ns().context("open the new namespace")
}

/// A veth pair from the current namespace to the line's. The line's end has no address.
fn join(line_ns: &OwnedFd, here: &OwnedFd, there: &str, device: &str, mac: Mac) -> Result<()> {
    sys::enter_net_ns(here.as_fd())?;
    let mut route = Route::open()?;
    let peer_mac = [2, 0, 0, 0, 0, mac[5]];
    route
        .ask(Request::veth(
            VethEnd { name: device, mac, net_ns: None },
            VethEnd { name: there, mac: peer_mac, net_ns: Some(line_ns.as_raw_fd()) },
        ))
        .with_context(|| format!("make the veth pair {device} and {there}"))
}

/// Address, static neighbour and quiet sysctls for an end of the line.
fn settle(
    device: &str,
    address: Ipv4Addr,
    neighbour: Ipv4Addr,
    neighbour_mac: Mac,
    congestion_control: Option<&str>,
) -> Result<()> {
    bring_up(device).with_context(|| format!("bring {device} up"))?;
    let index = sys::interface_index(device)?;
    let mut route = Route::open()?;
    route.ask(Request::address(index, address, 24)).context("set an address")?;
    route
        .ask(Request::neighbour(index, neighbour, neighbour_mac))
        .context("set a static neighbour")?;
    if let Some(name) = congestion_control {
        fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name)
            .with_context(|| format!("choose congestion control {name:?}"))?;
    }
    Ok(())
}

fn bring_up(device: &str) -> Result<()> {
    let index = sys::interface_index(device)?;
    if device != "lo" {
        for offload in OFFLOADS {
            sys::offload_off(device, offload)?;
        }
        // Router solicitations would be the only packets on an idle line.
        let quiet = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
        drop(fs::write(quiet, "1"));
    }
    Ok(Route::open()?.ask(Request::link_up(index))?)
}
