//! Another process takes over, a file changes, a service manager starts and listens: the program
//! from outside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};

use tillgate_tests::hammer::Hammer;
use tillgate_tests::origin::Origin;
use tillgate_tests::program::{Program, get, policy, scratch, signal};
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The number of the process that took over, from the log of the one before.
fn successor(program: &Program) -> u32 {
    let line = program.line(&["another process has taken over"]);
    let number = line.split("process=").nth(1).expect("its number");
    number.split_whitespace().next().expect("a word").parse().expect("a number")
}

#[test]
fn a_signal_starts_the_next_process_and_no_connection_is_lost() {
    let origin = Origin::answering(OK);
    let mut old = Program::start(PROGRAM, "usr2", &policy("a.example", origin.address), &[]);
    let (http, admin) = (old.address("http"), old.address("admin"));
    let hammer = Hammer::start(http, "a.example", 4);
    hammer.goes_on(100);
    old.signal("USR2");
    let next = successor(&old);
    assert!(old.ended(), "{}", old.log());
    hammer.goes_on(100);
    let served = hammer.served();
    let lost = hammer.end();
    // What it learnt of the policy is its own: another file content reaches the next process.
    fs::write(&old.policy, policy("b.example", origin.address)).expect("written");
    eventually("the next process reads the file", || {
        (get(http, "b.example").status == 200).then_some(())
    });
    assert_eq!(get(admin, "a.example").status, 404, "the admin listener went along");
    signal(next, "TERM");
    eventually("the next process ends", || {
        std::net::TcpStream::connect(http).is_err().then_some(())
    });
    assert!(lost.is_empty(), "{served} served, lost {lost:?}\n{}", old.log());
}

#[test]
fn a_signal_starts_what_the_link_names_by_then() {
    let origin = Origin::answering(OK);
    let folder = tempfile::TempDir::new().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        let linked = fs::hard_link(PROGRAM, place(version));
        linked.or_else(|_| fs::copy(PROGRAM, place(version)).map(drop)).expect("the program");
    }
    symlink("one", place("tillgate")).expect("a link");
    let link = place("tillgate");
    let link = link.to_str().expect("plain text");
    let mut old = Program::start(link, "link", &policy("a.example", origin.address), &[]);
    assert_eq!(old.get("a.example").status, 200);
    // As deployments do it: at once, and nobody is asked.
    symlink("two", place("next")).expect("a link");
    fs::rename(place("next"), place("tillgate")).expect("swapped");
    old.signal("USR2");
    let next = successor(&old);
    let runs = fs::read_link(format!("/proc/{next}/exe")).expect("it runs");
    assert_eq!(runs, place("two").canonicalize().expect("a path"));
    old.line(&["took over from the process before", "version="]);
    assert!(old.ended(), "{}", old.log());
    signal(next, "TERM");
}

#[test]
fn what_is_under_way_ends_in_the_process_where_it_began() {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |mut wire, number| {
        while wire.waits_for_more() {
            wire.reply();
            if number == 0 {
                let _ = wait.lock().expect("one connection").recv_timeout(PATIENCE);
            }
            wire.send(OK);
        }
    });
    let policy = policy("a.example", origin.address);
    let mut old = Program::start(PROGRAM, "under-way", &policy, &[]);
    let http = old.address("http");
    let mut busy = Wire::connect(http);
    busy.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    eventually("the request is at the server", || (origin.connections() > 0).then_some(()));
    old.signal("USR2");
    let next = successor(&old);
    old.line(&["draining", "connections=1"]);
    assert_eq!(get(http, "a.example").status, 200, "the next process serves meanwhile");
    go.send(()).expect("the origin waits");
    assert_eq!(busy.reply().status, 200);
    busy.expect_end();
    assert!(old.ended(), "{}", old.log());
    signal(next, "TERM");
}

#[test]
fn a_next_process_that_fails_changes_nothing() {
    let origin = Origin::answering(OK);
    let good = policy("a.example", origin.address);
    let program = Program::start(PROGRAM, "fails", &good, &[]);
    let hammer = Hammer::start(program.address("http"), "a.example", 2);
    hammer.goes_on(20);
    fs::write(&program.policy, "kind: Stroe\n").expect("written");
    program.signal("USR2");
    program.line(&["ERROR", "handover failed; this process goes on"]);
    hammer.goes_on(20);
    fs::write(&program.policy, &good).expect("written");
    program.signal("USR2");
    let next = successor(&program);
    hammer.goes_on(20);
    let lost = hammer.end();
    signal(next, "TERM");
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_process_that_knocks_takes_over_and_the_next_one_from_it() {
    let origin = Origin::answering(OK);
    let text = policy("a.example", origin.address);
    let door = scratch("door");
    let arguments = ["--handover", door.to_str().expect("plain text")];
    let mut first = Program::start(PROGRAM, "first", &text, &arguments);
    let http = first.address("http");
    let hammer = Hammer::start(http, "a.example", 2);
    hammer.goes_on(20);
    eventually("the door is there", || door.exists().then_some(()));
    let mut second = Program::start(PROGRAM, "second", &text, &arguments);
    second.line(&["took over from the process before"]);
    assert!(first.ended(), "{}", first.log());
    assert_eq!(second.address("http"), http, "a free port stays what it was");
    hammer.goes_on(20);
    let third = Program::start(PROGRAM, "third", &text, &arguments);
    assert!(second.ended(), "{}", second.log());
    hammer.goes_on(20);
    let lost = hammer.end();
    third.signal("TERM");
    eventually("the door is closed", || (!door.exists()).then_some(()));
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_file_that_changes_is_loaded_once_and_a_bad_one_said_once() {
    let origin = Origin::answering(OK);
    let program = Program::start(PROGRAM, "file", &policy("a.example", origin.address), &[]);
    assert_eq!(program.get("a.example").status, 200);
    // As configuration tools do it: written beside, then renamed.
    let replace = |text: &str| {
        let beside = program.policy.with_extension("next");
        fs::write(&beside, text).expect("written");
        fs::rename(&beside, &program.policy).expect("renamed");
    };
    replace("kind: Stroe\n");
    program.line(&["ERROR", "config refused, the running one stays"]);
    replace(&policy("b.example", origin.address));
    program.line(&["config reloaded"]);
    assert_eq!(program.get("b.example").status, 200);
    replace(&policy("a.example", origin.address));
    eventually("it is loaded again", || {
        (program.log().matches("config reloaded").count() == 2).then_some(())
    });
    assert_eq!(program.get("a.example").status, 200);
    let log = program.log();
    assert_eq!(log.matches("config refused").count(), 1, "{log}");
    assert_eq!(log.matches("config reloaded").count(), 2, "{log}");
}

#[test]
fn a_service_manager_binds_the_sockets_and_hears_what_happens() {
    let origin = Origin::answering(OK);
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("a bound socket");
    let name = format!("tillgate-manager-{}", std::process::id());
    let place = UnixAddress::from_abstract_name(name.as_bytes()).expect("a short name");
    let manager = UnixDatagram::bind_addr(&place).expect("a free name");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let heard = || {
        let mut buffer = [0; 300];
        let length = manager.recv(&mut buffer).expect("something is said");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // Somebody who connects before the program runs waits in the kernel's queue.
    let mut early = Wire::connect(address);
    early.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let text = policy("a.example", origin.address);
    // The shell puts the socket where a service manager would, and says for whom it is.
    let script = format!(
        "exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http NOTIFY_SOCKET=@{name} \
         exec \"$0\" \"$@\"",
        socket.as_raw_fd()
    );
    socket2::SockRef::from(&socket).set_cloexec(false).expect("a socket");
    let mut program = Program::start_with("sh", "systemd", &text, &[], |command| {
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, PROGRAM]).args(arguments);
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        *command = shell;
    });
    assert_eq!(program.address("http"), address);
    assert_eq!(early.reply().status, 200);
    let ready = heard();
    let id = program.id();
    assert!(ready.starts_with(&format!("READY=1\nMAINPID={id}\n")), "{ready}");
    program.signal("HUP");
    assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(heard().starts_with("READY=1\n"));
    program.signal("TERM");
    assert!(heard().starts_with("STOPPING=1\n"));
    early.expect_end();
    assert!(program.ended(), "{}", program.log());
}

/// A process before, in the hands of the test: hands over nothing, hears that the next one serves.
fn predecessor(name: &str) -> (UnixListener, PathBuf, Program, UnixStream) {
    let door = scratch(name);
    let listener = UnixListener::bind(&door).expect("a free name");
    let origin = Origin::answering(OK);
    let arguments = ["--handover", door.to_str().expect("plain text")];
    let next = Program::start(PROGRAM, name, &policy("a.example", origin.address), &arguments);
    let (mut stream, _) = listener.accept().expect("it knocks");
    tillgate_net::handover::give(&stream, &[]).expect("it listens");
    let mut word = [0; 5];
    stream.read_exact(&mut word).expect("it says that it serves");
    assert_eq!(word[..1], *b"S");
    (listener, door, next, stream)
}

#[test]
fn a_process_that_comes_too_late_gives_way() {
    let (listener, door, mut next, mut stream) = predecessor("late");
    stream.write_all(b"N").expect("it waits");
    drop(stream);
    next.line(&["ERROR", "the process before waits no longer and goes on"]);
    assert!(!next.ended(), "{}", next.log());
    drop(UnixStream::connect(&door).expect("the door is the one of the process before"));
    drop(listener);
    let _ = fs::remove_file(door);
}

#[test]
fn a_process_before_that_is_gone_is_replaced() {
    let (listener, door, next, stream) = predecessor("gone");
    drop((listener, stream));
    next.line(&["the process before is gone already"]);
    eventually("its own door is there", || UnixStream::connect(&door).is_ok().then_some(()));
    // Whoever knocked there has left; until that is known, the door is left for him.
    next.line(&["handover failed; this process goes on"]);
    next.signal("TERM");
    eventually("the door is closed", || (!door.exists()).then_some(()));
}
