//! The system calls of the lab that the standard library does not offer, each in a small safe
//! wrapper: clocks, namespaces, packet sockets, scheduling, ethtool.
//!
//! All `unsafe` of this crate lives here. Nothing in here decides anything; the wrappers turn
//! return codes into `io::Result` and keep pointers inside one function.
#![allow(unsafe_code, reason = "libc calls have no safe form; every block says why it is sound")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use libc::{c_int, c_ulong};
use socket2::{Domain, Protocol, Socket, Type};

/// A point in time or a duration, in nanoseconds of the monotonic clock of this host.
pub type Nanos = u64;

pub const NANOS_PER_US: Nanos = 1_000;
pub const NANOS_PER_MS: Nanos = 1_000_000;
pub const NANOS_PER_SEC: Nanos = 1_000_000_000;

/// Linux 4.20; missing from `libc` for some targets.
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Frames that wait on either side of the emulator: 4 MiB is some 1,800 of them, 400 ms at
/// 50 Mbit/s.
const PACKET_BUFFER: c_int = 4 << 20;

/// The monotonic clock, the same for every namespace and process of this host.
pub fn now() -> Nanos {
    clock(libc::CLOCK_MONOTONIC)
}

/// Processor time that the calling thread has used.
pub fn thread_cpu() -> Nanos {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads of this process: what a busy machine does not change much.
pub fn process_cpu() -> Nanos {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Nanos {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` outlives the call and is a valid timespec.
    let answer = unsafe { libc::clock_gettime(id, &raw mut at) };
    assert_eq!(answer, 0, "Linux has these clocks");
    at.tv_sec.unsigned_abs() * NANOS_PER_SEC + at.tv_nsec.unsigned_abs()
}

fn timespec(at: Nanos) -> libc::timespec {
    let (secs, nanos) = (at / NANOS_PER_SEC, at % NANOS_PER_SEC);
    libc::timespec {
        tv_sec: secs.try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: nanos.try_into().expect("less than a second of nanoseconds fits"),
    }
}

/// Sleeps until the monotonic clock shows `at`; signals do not end it early.
pub fn sleep_until(at: Nanos) {
    let until = timespec(at);
    loop {
        // SAFETY: `until` is valid for the call; no remainder is asked for.
        let answer = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const until,
                std::ptr::null_mut(),
            )
        };
        if answer != libc::EINTR {
            return;
        }
    }
}

/// Makes the timers of the calling thread exact (the default slack is 50 µs).
pub fn exact_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as c_ulong) };
}

/// Lets the calling thread run before ordinary ones. Returns false where that is not permitted.
pub fn real_time(priority: i32) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid for the call; 0 names the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}

/// Sets the nice value of this process (and of what it starts). Best effort.
pub fn renice(nice: i32) -> bool {
    // SAFETY: plain numbers; 0 names the calling process.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) == 0 }
}

/// Lets this process, and what it starts, have as many open files as the system permits: a
/// thousand calls that wait for a frozen server are a thousand connections. Best effort.
pub fn many_files() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return false;
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
    }
}

pub fn effective_ids() -> (u32, u32) {
    // SAFETY: these calls cannot fail and take nothing.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Moves the calling thread into new namespaces. A user namespace needs a process of one thread.
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: takes a number; affects only kernel-side state of this thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Moves the calling thread into an existing network namespace.
pub fn enter_net_ns(ns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call.
    check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Prepares a child: it starts inside `ns` and dies with the thread that started it.
pub fn confine(command: &mut Command, ns: BorrowedFd<'_>) {
    let ns: RawFd = ns.as_raw_fd();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe calls.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong))?;
            check(libc::setns(ns, libc::CLONE_NEWNET)).map(drop)
        });
    }
}

/// Prepares a child: it sees other files in the places of some of the system's. Each pair is the
/// file that is shown and the place where it is seen; both must exist.
pub fn show_files(command: &mut Command, shown: &[(&Path, &Path)]) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let mut pairs = Vec::new();
    for (file, place) in shown {
        pairs.push((text(file)?, text(place)?));
    }
    let mount = |from: Option<&CStr>, to: &CStr, flags: c_ulong| {
        let from = from.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both texts are terminated and outlive the call; type and data are not given.
        check(unsafe { libc::mount(from, to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
            .map(drop)
    };
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe calls; the
    // texts were made before.
    unsafe {
        command.pre_exec(move || {
            unshare(libc::CLONE_NEWNS)?;
            mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            pairs.iter().try_for_each(|(file, place)| mount(Some(file), place, libc::MS_BIND))
        });
    }
    Ok(())
}

/// Keeps the calling thread, and the threads it will start, on one core.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: all-zero is a valid, empty set; CPU_SET bounds the index by the set's size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    };
    // SAFETY: `set` is valid for the call; 0 names the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .map(drop)
}

/// Prepares a child: it stays on one core.
pub fn pin_child(command: &mut Command, core: usize) {
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe call.
    unsafe {
        command.pre_exec(move || pin(core));
    }
}

/// Asks a process that we started to end.
pub fn terminate(pid: u32) {
    signal(pid, libc::SIGTERM);
}

/// Ends a process that we started, whatever it does.
pub fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Asks a process that we started to read its configuration again.
pub fn hang_up(pid: u32) {
    signal(pid, libc::SIGHUP);
}

/// Stops a process that we started in the middle of whatever it does; its sockets live on.
pub fn freeze(pid: u32) {
    signal(pid, libc::SIGSTOP);
}

/// Lets a frozen process go on.
pub fn thaw(pid: u32) {
    signal(pid, libc::SIGCONT);
}

fn signal(pid: u32, signal: c_int) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: plain numbers; the pid is a child that has not been waited for.
        unsafe { libc::kill(pid, signal) };
    }
}

/// The index of an interface in the namespace of the calling thread.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a terminated string for the duration of the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A non-blocking socket that receives and sends whole Ethernet frames of one interface.
pub fn packet_socket(interface: u32) -> io::Result<Socket> {
    let every_protocol = u16::try_from(libc::ETH_P_ALL).expect("a 16-bit constant").to_be();
    let socket =
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every_protocol))))?;
    socket.set_nonblocking(true)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    // Only root of the host may exceed the system's limits, which still hold some 90 frames.
    for (forced, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        // A frame counts as unsent until the far TCP has taken it, shapers on its way included.
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if set_option(&socket, libc::SOL_SOCKET, forced, PACKET_BUFFER).is_err() {
            set_option(&socket, libc::SOL_SOCKET, plain, PACKET_BUFFER)?;
        }
    }
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
    address.sll_protocol = every_protocol;
    address.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
    let size = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("twenty bytes");
    // SAFETY: `address` is a valid sockaddr_ll of `size` bytes.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(socket)
}

fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let size = u32::try_from(size_of::<c_int>()).expect("four bytes");
    let value = &raw const value;
    // SAFETY: `value` points at one c_int for the duration of the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.cast(), size) })
        .map(drop)
}

/// Waits until one of the descriptors is readable or the clock shows `until`.
/// The answer tells which ones are readable.
pub fn wait_readable<const N: usize>(
    sources: [BorrowedFd<'_>; N],
    until: Nanos,
    now: Nanos,
) -> io::Result<[bool; N]> {
    let mut polled =
        sources.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout = timespec(until.saturating_sub(now));
    let count = libc::nfds_t::try_from(N).expect("a few descriptors");
    // SAFETY: `polled` holds `count` entries, `timeout` is valid, no signal mask is given.
    let answer =
        unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) };
    match check(answer) {
        Ok(_) => Ok(polled.map(|one| one.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
    }
}

/// One value of the old ethtool interface, such as "segmentation offload off".
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Switches an offload of an interface off. Absent offloads are fine: there is nothing to switch.
pub fn offload_off(interface: &str, command: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data: 0 };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    // SAFETY: `request` names a valid EthtoolValue that outlives the call.
    let answer = check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) });
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other.map(drop),
    }
}

/// Opens the network namespace of the calling thread.
pub fn current_net_ns() -> io::Result<OwnedFd> {
    std::fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
