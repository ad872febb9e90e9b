//! Names of backends: looked up ahead of need, remembered for ever, by the families they may have.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tillgate_config::effective::ListenerProtocol;
use tillgate_core::backend::{
    AddressFamily, BackendProtocol, BackendSpec, Endpoint, Host, Location,
};
use tillgate_net::upstream::Resolver;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually};

/// What a resolver says of every name, and how often it was asked.
#[derive(Clone, Default)]
struct Zone {
    answer: Arc<Mutex<Vec<IpAddr>>>,
    asked: Arc<AtomicUsize>,
}

impl Zone {
    fn of(addresses: &[IpAddr]) -> Self {
        let zone = Self::default();
        zone.say(addresses);
        zone
    }

    fn say(&self, addresses: &[IpAddr]) {
        *self.answer.lock().expect("no panic") = addresses.to_vec();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn resolver(&self) -> Arc<Resolver> {
        let zone = self.clone();
        Arc::new(Resolver::new(Box::new(move |_| {
            zone.asked.fetch_add(1, Ordering::SeqCst);
            let found = zone.answer.lock().expect("no panic").clone();
            Box::pin(async move {
                let down = || Err(io::Error::other("the resolver is down"));
                if found.is_empty() { down() } else { Ok(found) }
            })
        })))
    }
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// Reserved for documentation: nobody is there. Whether that is told at once or never depends on
/// the machine's routes.
const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

fn store(port: u16, location: Location, change: impl FnOnce(&mut BackendSpec)) -> Store {
    let any = std::net::SocketAddr::new(HERE, port);
    // Who waits for an address that is silent waits longer than for any answer here.
    Store::default()
        .timeouts(|timeouts| timeouts.connect = PATIENCE * 2)
        .backend("pay", location, BackendProtocol::Http, any)
        .change_backend(|backend| {
            backend.endpoints = vec![Endpoint { host: Host::Name("pay.internal".into()), port }];
            backend.dns.refresh = Duration::from_millis(20);
            change(backend);
        })
        .route("pay", "pay.example", Some("payment"))
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: pay.example\r\nConnection: close\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_resolver_that_is_down_stops_nobody() {
    let origin = Origin::answering(ANSWER);
    let zone = Zone::of(&[HERE]);
    let store = store(origin.address.port(), Location::Cloud, |_| ());
    let gateway = Gateway::start_resolving(store.build(), zone.resolver());
    eventually("the name is asked for before anybody needs it", || {
        (zone.asked() > 0).then_some(())
    });
    zone.say(&[]);
    let before = zone.asked();
    eventually("lookups fail", || (zone.asked() > before + 2).then_some(()));
    for _ in 0..5 {
        assert_eq!(gateway.ask(REQUEST).status, 200);
    }
    assert!(origin.connections() >= 5, "each on a connection of its own");
}

#[test]
fn a_name_that_moves_is_followed() {
    let first = Origin::answering(ANSWER);
    let zone = Zone::of(&[NOWHERE]);
    let store = store(first.address.port(), Location::Local, |backend| {
        backend.dns.family = AddressFamily::Ipv4;
    });
    let gateway = Gateway::start_resolving(store.build(), zone.resolver());
    let reply = gateway.ask(REQUEST);
    assert_eq!((reply.status, &*reply.reason()), (502, "resolve_failed"), "the wrong family");
    zone.say(&[HERE]);
    eventually("the name has moved", || (gateway.ask(REQUEST).status == 200).then_some(()));
}

#[test]
fn a_family_that_leads_nowhere_costs_a_moment() {
    for location in [Location::Cloud, Location::Local] {
        let origin = Origin::answering(ANSWER);
        let zone = Zone::of(&[NOWHERE, HERE]);
        let store = store(origin.address.port(), location, |_| ());
        let gateway = Gateway::start_resolving(store.build(), zone.resolver());
        assert_eq!(gateway.ask(REQUEST).status, 200);
    }
}

#[test]
fn a_listener_of_bytes_finds_its_backend_by_name() {
    let origin = Origin::start(|mut wire, _| wire.send("welcome\n"));
    let zone = Zone::of(&[HERE]);
    let store = store(origin.address.port(), Location::Cloud, |backend| {
        backend.protocol = BackendProtocol::Tcp;
    });
    let store = store.listener("pos", ListenerProtocol::Tcp, Some("payment"), |_| ());
    let gateway = Gateway::start_resolving(store.build(), zone.resolver());
    let mut wire = Wire::connect(gateway.listeners["pos"]);
    assert_eq!(wire.read_until("\n"), "welcome\n");
}
