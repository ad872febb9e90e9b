//! Socket options that no safe crate offers: the one file with `unsafe`.
//!
//! Each function is one or two system calls on a borrowed, open descriptor (or the process itself)
//! with a buffer of the size the kernel is told. Failures are returned, never hidden: an option
//! that a kernel lacks is the caller's to live without.

#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tillgate_core::backend::TcpSpec;

/// `SO_MAX_PACING_RATE` (asm-generic/socket.h); the libc crate does not name it.
const SO_MAX_PACING_RATE: libc::c_int = 47;
/// Bytes of `struct tcp_info` (uapi/linux/tcp.h) that are read here: up to and including
/// `tcpi_rcv_wnd`, which is the last field needed.
const TCP_INFO_BYTES: usize = 236;

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Least round-trip time of the last five minutes; zero before the first sample.
    pub(crate) min_rtt: Duration,
    /// The receive window the peer was last told, in bytes. `None` before Linux 6.2.
    pub(crate) receive_window: Option<u32>,
    /// Segments without payload, sent and received: acknowledgements and window updates.
    /// Counted from the connection's start, wrapping.
    pub(crate) bare_acks_sent: u32,
    /// See above.
    pub(crate) bare_acks_received: u32,
}

/// Whether the kernel's clock is kept by somebody who knows the time (NTP, PTP). `false` where it
/// does not say.
pub(crate) fn is_clock_kept() -> bool {
    // SAFETY: all zeroes is a valid `timex`, whose `modes` of zero asks and changes nothing.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: `state` outlives the call; the kernel writes one `timex` into it.
    let result = unsafe { libc::adjtimex(&mut state) };
    result >= 0 && result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0
}

/// Reads `TCP_INFO`.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut buffer = [0u8; TCP_INFO_BYTES];
    let mut length = length_of(&buffer);
    // SAFETY: `buffer` outlives the call and `length` is its size; the kernel writes at most that
    // many bytes and stores how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            buffer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    check(result)?;
    let read = |at: usize| -> u32 {
        let mut word = [0u8; 4];
        word.copy_from_slice(&buffer[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    // Offsets of struct tcp_info: segs_out 136, segs_in 140, min_rtt 148, data_segs_in 152,
    // data_segs_out 156, rcv_wnd 232.
    Ok(TcpInfo {
        min_rtt: match read(148) {
            u32::MAX => Duration::ZERO,
            micros => Duration::from_micros(u64::from(micros)),
        },
        receive_window: (length as usize >= TCP_INFO_BYTES).then(|| read(232)),
        bare_acks_sent: read(136).wrapping_sub(read(156)),
        bare_acks_received: read(140).wrapping_sub(read(152)),
    })
}

/// Caps the rate at which the kernel sends, in bytes per second (header bytes not counted).
pub(crate) fn set_max_pacing_rate(socket: BorrowedFd<'_>, rate: u64) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, SO_MAX_PACING_RATE, &rate)
}

/// Bounds the receive window below what the buffer allows.
pub(crate) fn set_window_clamp(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, &bytes)
}

/// Bytes that can be read at once.
pub(crate) fn readable_bytes(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int at the given address, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) };
    check(result)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Finds out about a peer that is gone without a word: probes while nothing is said
/// (`SO_KEEPALIVE`), and a bound on how long what was said may stay unacknowledged
/// (`TCP_USER_TIMEOUT`).
pub(crate) fn keep_alive<'s>(socket: impl Into<SockRef<'s>>, tcp: &TcpSpec) -> io::Result<()> {
    let socket = socket.into();
    let probes = TcpKeepalive::new()
        .with_time(tcp.keepalive_idle)
        .with_interval(tcp.keepalive_interval)
        .with_retries(tcp.keepalive_probes);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(tcp.user_timeout))
}

/// Raises the process's soft limit of open files to its hard one; returns what it is then.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel stores one `struct rlimit` at the given address, which outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one initialised `struct rlimit`.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Room for the one descriptor of a message, aligned as its header wants it.
#[repr(C, align(8))]
struct OneDescriptor([u8; 64]);

/// Gives back the memory that the program's own code of `path` and the constants before it take,
/// until they are used again: the kernel keeps the pages of a file anyway and maps them again at a
/// touch. Returns how much that was, in bytes of address space.
pub(crate) fn release_code(path: &std::path::Path) -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(may), Some(offset)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // Constants stand at the file's beginning. What else is only read holds addresses, which
        // were written at the start and are nowhere else.
        let comes_back =
            may == "r-xp" || may == "r--p" && offset.bytes().all(|digit| digit == b'0');
        if !comes_back || fields.nth(2).is_none_or(|name| std::path::Path::new(name) != path) {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let address = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
        let (start, end) = (address(start)?, address(end)?);
        let length = end.saturating_sub(start);
        let start = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: the range is a mapping of the program's file that nothing can write to, so each
        // page comes back from the file as it was when it is next executed or read.
        check(unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) })?;
        released += length;
    }
    Ok(released)
}

/// Gives memory that the calling thread has freed, and whole pages that nobody has used for a
/// second, back to the system.
pub(crate) fn collect_freed() {
    // SAFETY: it takes no pointer, may be called on any thread, and looks only at memory that is
    // free. Where another allocator is in use, it finds nothing.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

/// The same for memory of C libraries, of all threads; returns whether there was any.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_c_heap() -> bool {
    // SAFETY: it takes a number and gives back only what is free.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Other C libraries keep nothing back, or offer no such call.
#[cfg(not(target_env = "gnu"))]
pub(crate) const fn trim_c_heap() -> bool {
    false
}

/// Bytes of one descriptor, a C `int`.
const DESCRIPTOR_BYTES: u32 = libc::c_int::BITS / 8;

/// Sends one byte over a unix socket, and `descriptor` with it.
pub(crate) fn send_descriptor(
    socket: BorrowedFd<'_>,
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let (mut byte, mut control) = ([0u8; 1], OneDescriptor([0; 64]));
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: the macros compute sizes and places inside `control`, whose 64 aligned bytes hold
    // a header and one descriptor; everything pointed to outlives the call.
    let result = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(DESCRIPTOR_BYTES) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(DESCRIPTOR_BYTES) as usize;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(descriptor.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if result == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives what [`send_descriptor`] has sent.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (mut byte, mut control) = ([0u8; 1], OneDescriptor([0; 64]));
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: as above; there is room for one descriptor, so the kernel installs one at most,
    // and it is ours alone from here on.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(DESCRIPTOR_BYTES) as usize;
        let flags = libc::MSG_CMSG_CLOEXEC;
        match libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) {
            -1 => return Err(io::Error::last_os_error()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_descriptor = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len == libc::CMSG_LEN(DESCRIPTOR_BYTES) as usize;
        if !is_descriptor {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let raw = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(raw))
    }
}

/// The open ones of `count` descriptors from `first` on, which the parent process has left for
/// this one. To be called once, before anything else could have opened a file there.
pub(crate) fn inherited(first: RawFd, count: RawFd) -> Vec<OwnedFd> {
    // SAFETY: F_GETFD only asks; an open descriptor in this range is the parent's gift, which
    // nobody else in this process owns.
    let open = |raw: &RawFd| unsafe { libc::fcntl(*raw, libc::F_GETFD) } != -1;
    // SAFETY: see above.
    (first..first.saturating_add(count))
        .filter(open)
        .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) })
        .collect()
}

/// How exactly a clock is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// To the nanosecond.
    Fine,
    /// As of the kernel's last tick.
    Coarse,
}

/// `CLOCK_MONOTONIC`, whose zero `Instant` hides.
pub(crate) fn monotonic(precision: Precision) -> Duration {
    clock(match precision {
        Precision::Fine => libc::CLOCK_MONOTONIC,
        Precision::Coarse => libc::CLOCK_MONOTONIC_COARSE,
    })
}

/// `CLOCK_REALTIME` as of the kernel's last tick; zero before 1970.
pub(crate) fn coarse_wall() -> Duration {
    clock(libc::CLOCK_REALTIME_COARSE)
}

fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel stores one `struct timespec` at the given address.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result == -1 {
        return Duration::ZERO;
    }
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The CPUs that this thread may use, in order.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is a set of bits; zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills in at most the size that it is told.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    let all = 0..libc::CPU_SETSIZE.unsigned_abs() as usize;
    // SAFETY: `cpu` is below CPU_SETSIZE.
    Ok(all.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Keeps this thread on one CPU.
pub(crate) fn stay_on(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE.unsigned_abs() as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a `cpu_set_t` is a set of bits; zero is the empty set, and `cpu` is one of them.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the kernel reads one initialised set of the size given.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Ends a process that was started as the first of its own group, and every process of it.
pub(crate) fn kill_group(leader: u32) -> io::Result<()> {
    let leader = libc::pid_t::try_from(leader).map_err(|_| io::ErrorKind::InvalidInput)?;
    if leader < 2 {
        // 0 and 1 would mean this group, or everybody.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(-leader, libc::SIGKILL) })
}

fn set<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` points to an initialised plain integer of exactly the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length_of(value),
        )
    };
    check(result)
}

/// The size of a value as the kernel wants to be told.
fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of_val(value)).expect("options are a few hundred bytes")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_goes_and_comes_back() {
        let path = std::env::current_exe().unwrap();
        assert!(release_code(&path).unwrap() > 0);
        assert_eq!(release_code(std::path::Path::new("/nowhere")).unwrap(), 0);
    }

    #[test]
    fn the_kernel_takes_the_settings_of_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = TcpSpec {
            keepalive_idle: Duration::from_secs(61),
            keepalive_interval: Duration::from_secs(11),
            keepalive_probes: 4,
            user_timeout: Duration::from_secs(31),
        };
        keep_alive(&stream, &tcp).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), tcp.keepalive_idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), tcp.keepalive_interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), tcp.keepalive_probes);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(tcp.user_timeout));
    }
}
