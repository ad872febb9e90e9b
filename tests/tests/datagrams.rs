//! Datagrams to a declared backend: sessions by client, bounded; dropped by class, bulk first.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tillgate_config::effective::{ListenerProtocol, ListenerSpec};
use tillgate_core::backend::{BackendProtocol, Endpoint, Host, Location};
use tillgate_net::upstream::Resolver;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::ports::nobody_udp;
use tillgate_tests::store::Store;
use tillgate_tests::{PATIENCE, eventually};

/// A server that answers every datagram with the same one, but those that begin with `!`.
struct Echo {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    over: Arc<AtomicBool>,
}

impl Echo {
    fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"))
    }

    fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("a free port");
        let address = socket.local_addr().expect("a bound socket");
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ends.load(Ordering::SeqCst) {
                let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
                hears.lock().expect("no panic").push(buffer[..bytes].to_vec());
                if !buffer.starts_with(b"!") {
                    let _ = socket.send_to(&buffer[..bytes], from);
                }
            }
        });
        Self { address, heard, over }
    }

    fn heard(&self, datagram: &[u8]) -> bool {
        self.heard.lock().expect("no panic").iter().any(|heard| heard == datagram)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(b"!", self.address);
        }
    }
}

/// A client with a socket of its own.
struct Client(UdpSocket);

impl Client {
    fn new(gateway: &Gateway, listener: &str) -> Self {
        Self::from("127.0.0.1", gateway, listener)
    }

    fn from(address: &str, gateway: &Gateway, listener: &str) -> Self {
        let socket = UdpSocket::bind((address, 0)).expect("a free port");
        socket.connect(gateway.listeners[listener]).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        Self(socket)
    }

    fn send(&self, datagram: &[u8]) {
        self.0.send(datagram).expect("the datagram is taken");
    }

    /// Sends once, and waits for the answer: on loopback nothing is lost by itself.
    #[track_caller]
    fn ask(&self, datagram: &[u8]) {
        self.send(datagram);
        eventually("an answer", || self.hears(datagram, PATIENCE).then_some(()));
    }

    /// Sends until the answer comes, where datagrams may be lost. More than one answer may come.
    #[track_caller]
    fn insist(&self, datagram: &[u8]) {
        eventually("an answer", || {
            self.send(datagram);
            self.hears(datagram, Duration::from_millis(200)).then_some(())
        });
    }

    /// Whether this datagram comes before it is silent for so long; any other is passed over.
    fn hears(&self, datagram: &[u8], silence: Duration) -> bool {
        self.0.set_read_timeout(Some(silence)).expect("takes a timeout");
        let mut buffer = vec![0; 65_536];
        while let Ok(bytes) = self.0.recv(&mut buffer) {
            if buffer[..bytes] == *datagram {
                return true;
            }
        }
        false
    }

    /// Whether something has come.
    fn has_heard(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket does not block");
        self.0.recv(&mut [0; 16]).is_ok()
    }

    /// Waits until something comes.
    #[track_caller]
    fn expect_something(&self) {
        self.0.set_read_timeout(Some(PATIENCE)).expect("takes a timeout");
        self.0.recv(&mut [0; 16]).expect("something comes");
    }

    /// Whether something comes soon, which it must not.
    fn hears_something(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(100))).expect("takes a timeout");
        self.0.recv(&mut [0; 16]).is_ok()
    }
}

/// Asks until `to` hears it; the next one `from` does not hear.
fn moves(client: &Client, from: &Echo, to: &Echo) {
    eventually("the other server is asked", || {
        client.ask(b"where is this?");
        to.heard(b"where is this?").then_some(())
    });
    client.ask(b"and this?");
    assert!(!from.heard(b"and this?"), "the session has moved as a whole");
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { host: Host::Ip(address.ip()), port: address.port() }
}

fn store(to: SocketAddr, class: &str, change: impl FnOnce(&mut ListenerSpec)) -> Store {
    Store::default().backend("radius", Location::Cloud, BackendProtocol::Udp, to).listener(
        "radius",
        ListenerProtocol::Udp,
        Some(class),
        change,
    )
}

const OPEN: &str = r#"tillgate_connections{listener="radius"}"#;
const ACCEPTED: &str = r#"tillgate_connections_accepted_total{listener="radius"}"#;

fn dropped(reason: &str) -> String {
    format!(r#"tillgate_datagrams_dropped_total{{listener="radius",reason="{reason}"}}"#)
}

fn line_dropped(class: &str) -> String {
    let labels = format!(r#"link="primary",direction="up",class="{class}""#);
    format!("tillgate_link_datagrams_dropped_total{{{labels}}}")
}

#[test]
fn every_client_hears_its_own_answers() {
    let echo = Echo::start();
    let gateway = Gateway::start(store(echo.address, "payment", |_| ()).build());
    let clients: Vec<_> = (0..200).map(|_| Client::new(&gateway, "radius")).collect();
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            client.ask(format!("round {round} of {number}").as_bytes());
        }
    }
    gateway.expect_metric(OPEN, 200.0);
    gateway.expect_metric(ACCEPTED, 200.0);
    assert!(!clients[0].hears_something());
    assert!(clients.iter().all(|client| !client.has_heard()), "and nobody else's");
}

#[test]
fn datagrams_of_any_size_pass() {
    let echo = Echo::start();
    let gateway = Gateway::start(store(echo.address, "payment", |_| ()).build());
    let client = Client::new(&gateway, "radius");
    for size in [1, 1472, 4096, 20_000, 65_507] {
        client.ask(&vec![b'x'; size]);
    }
    // An empty one is one too.
    client.send(b"");
    client.expect_something();
}

#[test]
fn a_full_table_makes_room_but_not_of_who_waits_for_an_answer() {
    const MOST: u16 = 32;
    let echo = Echo::start();
    let limited = store(echo.address, "payment", |spec| spec.limits.sessions_max = MOST.into());
    let gateway = Gateway::start(limited.build());
    // All of them stay, so that none gets the port of another.
    let answered: Vec<_> = (0..MOST + 20).map(|_| Client::new(&gateway, "radius")).collect();
    for client in &answered {
        client.ask(b"a question");
    }
    eventually("they stay bounded", || (gateway.metric(OPEN) <= MOST.into()).then_some(()));

    // At once, so that several workers make room at the same time.
    let waiting: Vec<_> = (0..MOST).map(|_| Client::new(&gateway, "radius")).collect();
    for client in &waiting {
        client.send(b"!silence");
    }
    gateway.expect_metric(ACCEPTED, (answered.len() + waiting.len()) as f64);
    let late = Client::new(&gateway, "radius");
    late.send(b"one too many");
    gateway.expect_metric(&dropped("table_full"), 1.0);
    gateway.expect_metric(r#"tillgate_connections_refused_total{listener="radius"}"#, 1.0);
    assert!(!late.hears_something());
    waiting[2].ask(b"thank you");
    late.ask(b"now there is room");
}

#[test]
fn a_client_that_takes_its_part_takes_nobody_elses() {
    let echo = Echo::start();
    let store = store(echo.address, "payment", |spec| spec.limits.sessions_per_client_max = 3);
    let gateway = Gateway::start(store.build());
    let greedy: Vec<_> = (0..3).map(|_| Client::new(&gateway, "radius")).collect();
    for client in &greedy {
        client.send(b"!silence");
    }
    gateway.expect_metric(OPEN, 3.0);
    let other = Client::from("127.0.0.2", &gateway, "radius");
    other.ask(b"there is room for others");
    gateway.expect_metric(OPEN, 4.0);
    let fourth = Client::new(&gateway, "radius");
    // Those before it wait for answers; that protects them for some seconds, not for good.
    fourth.insist(b"and for one that asks for long enough");
    // Answered after all that it sent before.
    fourth.ask(b"thank you");
    gateway.expect_metric(OPEN, 4.0);
    other.ask(b"still here");
    assert_eq!(gateway.metric(ACCEPTED), 5.0, "the other one has kept its session");
    let others: Vec<_> = (0..20).map(|_| Client::new(&gateway, "radius")).collect();
    for client in &others {
        client.ask(b"from another port");
    }
    gateway.expect_metric(OPEN, 4.0);
    other.ask(b"and still");
    assert_eq!(gateway.metric(ACCEPTED), 25.0);
}

#[test]
fn a_client_without_a_part_is_refused_by_name() {
    let echo = Echo::start();
    let store = store(echo.address, "payment", |spec| spec.limits.sessions_per_client_max = 0);
    let gateway = Gateway::start(store.build());
    Client::new(&gateway, "radius").send(b"hello");
    gateway.expect_metric(&dropped("client_crowds"), 1.0);
    gateway.expect_metric(r#"tillgate_connections_crowded_total{listener="radius"}"#, 1.0);
    gateway.expect_metric(OPEN, 0.0);
}

#[test]
fn a_silent_session_is_over() {
    let echo = Echo::start();
    let store = store(echo.address, "payment", |spec| {
        spec.timeouts.idle = Duration::from_millis(200);
    });
    let gateway = Gateway::start(store.build());
    let client = Client::new(&gateway, "radius");
    // If the answer is late, that is silence, too.
    client.insist(b"hello");
    gateway.expect_metric(OPEN, 0.0);
    let ended = r#"tillgate_requests_total{class="payment",route="listener/radius",code="none"}"#;
    eventually("every session has ended and is counted once", || {
        let sessions = gateway.metric(ended);
        (sessions >= 1.0 && sessions == gateway.metric(ACCEPTED)).then_some(())
    });
    let down = gateway.metric(r#"tillgate_traffic_bytes_total{class="payment",direction="down"}"#);
    assert!(down >= 5.0 && down % 5.0 == 0.0, "{down} bytes of answers of five");
    client.insist(b"hello again");
}

#[test]
fn a_server_that_is_away_costs_no_session_and_the_next_one_answers() {
    let away = nobody_udp();
    let echo = Echo::start();
    let store = Store::default()
        .backend("radius", Location::Local, BackendProtocol::Udp, away)
        .change_backend(|backend| backend.endpoints.push(endpoint(echo.address)))
        .listener("radius", ListenerProtocol::Udp, Some("payment"), |_| ());
    let gateway = Gateway::start(store.build());
    let client = Client::new(&gateway, "radius");
    client.insist(b"hello");
    client.insist(b"hello again");
    assert_eq!(gateway.metric(ACCEPTED), 1.0, "in one session");
}

#[test]
fn a_reload_moves_a_session_that_never_rests() {
    let (first, second) = (Echo::start(), Echo::start());
    let gateway = Gateway::start(store(first.address, "payment", |_| ()).build());
    let client = Client::new(&gateway, "radius");
    client.ask(b"hello");
    let of = |to, class, digest| store(to, class, |_| ()).digest(digest).build();
    gateway.control.reload(of(first.address, "payment", "sha256:same")).expect("nothing new");
    client.ask(b"hello again");
    assert_eq!(gateway.metric(ACCEPTED), 1.0, "what stays as it is keeps its session");

    gateway.control.reload(of(second.address, "payment", "sha256:other")).expect("a server");
    moves(&client, &first, &second);
    gateway.control.reload(of(second.address, "metrics", "sha256:class")).expect("a class");
    client.ask(b"as what?");
    gateway.expect_metric(r#"tillgate_class_connections{class="metrics"}"#, 1.0);
    gateway.expect_metric(r#"tillgate_class_connections{class="payment"}"#, 0.0);
    gateway.expect_metric(OPEN, 1.0);
}

#[test]
fn a_session_goes_with_the_address_of_its_server() {
    let first = Echo::start();
    let port = first.address.port();
    let second = Echo::at(SocketAddr::from(([127, 0, 0, 2], port)));
    let answer: Arc<Mutex<IpAddr>> = Arc::new(Mutex::new(first.address.ip()));
    let zone = Arc::clone(&answer);
    let resolver = Resolver::new(Box::new(move |_| {
        let found = vec![*zone.lock().expect("no panic")];
        Box::pin(async move { Ok(found) })
    }));
    let store = Store::default()
        .backend("radius", Location::Cloud, BackendProtocol::Udp, first.address)
        .change_backend(|backend| {
            backend.endpoints = vec![Endpoint { host: Host::Name("radius.internal".into()), port }];
            backend.dns.refresh = Duration::from_millis(20);
        })
        .listener("radius", ListenerProtocol::Udp, Some("payment"), |_| ());
    let gateway = Gateway::start_resolving(store.build(), Arc::new(resolver));
    let client = Client::new(&gateway, "radius");
    client.ask(b"hello");
    assert!(first.heard(b"hello") && !second.heard(b"hello"));
    *answer.lock().expect("no panic") = second.address.ip();
    moves(&client, &first, &second);
}

#[test]
fn a_server_that_is_silent_is_passed_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let silent = endpoint(silent.local_addr().expect("a bound socket"));
    let echo = Echo::start();
    // The client's address picks the first one, so one of the two orders begins with silence.
    for order in [[silent.clone(), endpoint(echo.address)], [endpoint(echo.address), silent]] {
        let store = store(echo.address, "payment", |_| ())
            .change_backend(|backend| backend.endpoints = order.to_vec());
        let gateway = Gateway::start(store.build());
        let client = Client::new(&gateway, "radius");
        client.insist(b"is anybody there?");
        client.insist(b"good");
        assert_eq!(gateway.metric(ACCEPTED), 1.0, "in one session");
    }
}

#[test]
fn who_asks_each_question_from_another_port_is_not_sent_to_a_silent_server_for_ever() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let first = endpoint(silent.local_addr().expect("a bound socket"));
    let echo = Echo::start();
    for order in [[first.clone(), endpoint(echo.address)], [endpoint(echo.address), first]] {
        let store = store(echo.address, "payment", |_| ())
            .change_backend(|backend| backend.endpoints = order.to_vec());
        let gateway = Gateway::start(store.build());
        eventually("an answer", || {
            let client = Client::new(&gateway, "radius");
            client.send(b"which address?");
            client.hears(b"which address?", Duration::from_millis(200)).then_some(())
        });
    }
    // It was asked more than once, and by sockets that never came back.
    silent.set_nonblocking(true).expect("a socket does not block");
    let heard = std::iter::repeat_with(|| silent.recv_from(&mut [0; 64]));
    let from: Vec<_> = heard.map_while(|heard| heard.ok().map(|(_, from)| from)).collect();
    assert!(from.len() > 1 && from[0] != from[1], "{from:?}");
}

#[test]
fn who_is_never_answered_does_not_keep_a_session_by_asking() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("a bound socket");
    let store = store(address, "payment", |spec| {
        spec.timeouts.idle = Duration::from_millis(500);
    });
    let gateway = Gateway::start(store.build());
    let client = Client::new(&gateway, "radius");
    eventually("another session begins", || {
        client.send(b"is anybody there?");
        (gateway.metric(ACCEPTED) >= 2.0).then_some(())
    });
}

#[test]
fn bulk_is_dropped_where_the_line_is_full_and_payments_are_not() {
    let echo = Echo::start();
    let store = store(echo.address, "payment", |_| ())
        .listener("bulk", ListenerProtocol::Udp, Some("metrics"), |_| ())
        .line(2);
    let gateway = Gateway::start(store.build());
    let bulk = Client::new(&gateway, "bulk");
    let payments = Client::new(&gateway, "radius");
    for _ in 0..20 {
        // 60 KB at once on a line that carries 250 KB in a second.
        for _ in 0..50 {
            bulk.send(&[b'!'; 1200]);
        }
        // The server's socket may be full.
        payments.insist(b"pay");
    }
    eventually("bulk was dropped", || {
        (gateway.metric(&line_dropped("metrics")) > 100.0).then_some(())
    });
    assert_eq!(gateway.metric(&line_dropped("payment")), 0.0);
}

#[test]
fn a_drain_lets_who_waits_have_the_answer() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    silent.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    let address = silent.local_addr().expect("a bound socket");
    let mut gateway = Gateway::start(store(address, "payment", |_| ()).build());
    let client = Client::new(&gateway, "radius");
    client.send(b"hello");
    let mut buffer = [0; 16];
    let (_, from) = silent.recv_from(&mut buffer).expect("the datagram comes");
    gateway.control.drain();
    silent.send_to(b"late", from).expect("the session is there");
    client.expect_something();
    gateway.ended();
}
