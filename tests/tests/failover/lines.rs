//! Lines out of the store: one that is cut and mended, and a server across one that is well.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tillgate_core::backend::Location;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::moody::{Mood, Moody};
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, dawdle, eventually};

use super::scene::{any, compiled, single};

/// A gateway with one server, across the store's line.
fn across_a_line(address: SocketAddr) -> Gateway {
    let mut effective = compiled(&single(address, "HTTP"));
    // A policy may not say so of an address of this machine.
    effective.backends[0].location = Location::Cloud;
    Gateway::start(effective)
}

/// A server across a line that can be cut: packets of what was open then arrive nowhere any more,
/// as behind a router that was switched.
struct Far {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    /// Connections that were open before the last cut are dead.
    era: Arc<AtomicUsize>,
    /// Calls that came across one of those.
    lost: Arc<AtomicUsize>,
}

impl Far {
    fn start() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&any().into()).expect("a free port");
        // The fewer wait to be accepted, the sooner nobody else gets an answer.
        socket.listen(1).expect("a bound socket listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("a bound socket");
        let cut = Arc::<AtomicBool>::default();
        let (era, lost) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (is_cut, now, losses) = (Arc::clone(&cut), Arc::clone(&era), Arc::clone(&lost));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let born = now.load(Ordering::SeqCst);
                let (now, lost) = (Arc::clone(&now), Arc::clone(&losses));
                std::thread::spawn(move || serve_far(&mut Wire::new(stream), born, &now, &lost));
                eventually("the line is mended", || (!is_cut.load(Ordering::SeqCst)).then_some(()));
            }
        });
        Self { address, cut, era, lost }
    }

    /// Nothing comes back from here on, not even to who wants to connect.
    fn cut(&self) -> Vec<TcpStream> {
        self.cut.store(true, Ordering::SeqCst);
        self.era.fetch_add(1, Ordering::SeqCst);
        let brief = Duration::from_millis(100);
        let connect = || TcpStream::connect_timeout(&self.address, brief).ok();
        std::iter::from_fn(connect).take(64).collect()
    }

    fn mend(&self, waiting: Vec<TcpStream>) {
        drop(waiting);
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn serve_far(wire: &mut Wire, born: usize, era: &AtomicUsize, lost: &AtomicUsize) {
    while wire.waits_for_more() {
        let is_probe = wire.reply().line.contains("/health");
        if era.load(Ordering::SeqCst) != born {
            lost.fetch_add(usize::from(!is_probe), Ordering::SeqCst);
            // It keeps the connection, and nothing ever comes across it again.
            dawdle(PATIENCE);
            return;
        }
        if !wire.try_send(format!("HTTP/1.1 200 OK\r\nX-Era: {born}\r\nContent-Length: 0\r\n\r\n"))
        {
            return;
        }
    }
}

/// Connections are replaced, not asked by PING whether they live: an answer to a PING takes as
/// long as a new connection, and one that gets none has to be replaced after that.
#[test]
fn after_a_line_was_down_no_call_meets_a_connection_from_before() {
    let far = Far::start();
    let gateway = across_a_line(far.address);
    let ask = || {
        let reply = gateway.ask("GET / HTTP/1.1\r\nHost: rpc.example\r\n\r\n");
        (reply.status, reply.header("x-era").map(str::to_owned))
    };
    assert_eq!(ask(), (200, Some("0".to_owned())));
    let waiting = far.cut();
    gateway.expect_metric("tillgate_link_down{link=\"primary\"}", 1.0);
    far.mend(waiting);
    gateway.expect_metric("tillgate_link_down{link=\"primary\"}", 0.0);
    assert_eq!(ask(), (200, Some("1".to_owned())));
    assert_eq!(far.lost.load(Ordering::SeqCst), 0, "calls on connections from before");
}

#[test]
fn a_server_across_a_line_that_is_frozen_is_not_the_lines_fault() {
    let server = Moody::start("cloud");
    let gateway = across_a_line(server.address);
    let state = || gateway.admin("/v1/status").text();
    eventually("it was probed on a connection that is kept", || {
        gateway.admin("/metrics").text().contains("result=\"good\"} 2").then_some(())
    });
    server.turn(Mood::Frozen);
    eventually("it is out", || state().contains("\"state\":\"out\"").then_some(()));
    assert!(state().contains("probe_timeout"), "its kernel takes connections: {}", state());
    assert!(gateway.metric("tillgate_link_down{link=\"primary\"}") < 0.5);
}
