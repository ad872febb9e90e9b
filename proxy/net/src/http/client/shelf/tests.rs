//! Who waits for a connection, and who dials for whom.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tillgate_core::backend::{AddressFamily, DnsSpec, Endpoint, Host, TcpSpec};
use tillgate_core::class::ClassId;

use super::*;
use crate::error::Failure;
use crate::http::client::key::CHOSEN_MAX;
use crate::http::client::{Pool, Wire};
use crate::metrics::Metrics;

const LONG: Duration = Duration::from_secs(60);

fn target(address: SocketAddr) -> Target {
    Target {
        endpoint: Endpoint { host: Host::Ip(address.ip()), port: address.port() },
        addresses: None,
        class: ClassId(0),
        link: None,
        lane: None,
        wire: Wire::Http1,
        tls: None,
        limit: PoolLimit { connections_max: 4, waiting_max: 4, idle_timeout: LONG, age_max: LONG },
        spares: 0,
        max_wait: LONG,
        connect_timeout: LONG,
        dns: DnsSpec { family: AddressFamily::Auto, refresh: LONG, timeout: LONG },
        tcp: TcpSpec {
            keepalive_idle: LONG,
            keepalive_interval: LONG,
            keepalive_probes: 1,
            user_timeout: LONG,
        },
        client: None,
        meter: Arc::new(Metrics::new("0").upstream(&"pay".into(), &"payment".into())),
    }
}

/// Where nobody listens.
fn deserted() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn resolver() -> Arc<Resolver> {
    Arc::new(Resolver::new(Box::new(|_| Box::pin(async { Err(io::ErrorKind::NotFound.into()) }))))
}

#[test]
fn whoever_gave_up_its_connection_is_dialled_for_when_that_dial_fails() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (target, shelf) = (Arc::new(target(deserted())), Arc::<Shelf>::default());
        let resolver = resolver();
        let wait = || match shelf.reserve(&target, &resolver, clock::now()).0 {
            Next::Wait { id, dials: true, told } => (id, told),
            Next::Wait { .. } | Next::Take(_) | Next::Full(_) => panic!("there is room for a dial"),
        };
        let ((first, told_first), (_, told_second)) = (wait(), wait());
        // The second one's connection goes to the first, who waited longer.
        let served = {
            let mut state = shelf.lock();
            let served = state.waiting.pop_front().unwrap();
            state.dial_ended();
            served
        };
        drop((served, told_first));
        // Then the first one's dial fails: its place is free, nobody dials for the second.
        shelf.lock().open -= 1;
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = DialError::Resolve { name: "pay.example".to_owned(), source: refused };
        shelf.dial_failed((&target, &resolver), Some(first), error);
        let told = told_second.await.expect("somebody dials for it");
        assert!(matches!(told, Err(error) if error.failure() == Failure::ConnectRefused));
    });
}

#[test]
fn a_connection_serves_only_those_who_may_go_to_every_address_it_may_have() {
    let (pool, first) = (Pool::new(resolver()), deserted());
    let second = SocketAddr::new(first.ip(), first.port() ^ 1);
    let among =
        |addresses: &[SocketAddr]| Target { addresses: Some(addresses.into()), ..target(first) };
    let shelf = |addresses: &[SocketAddr]| pool.shelf(&among(addresses));
    assert!(Arc::ptr_eq(&shelf(&[first, second]), &shelf(&[first, second])));
    assert!(!Arc::ptr_eq(&shelf(&[first, second]), &shelf(&[first])));
    assert!(!Arc::ptr_eq(&shelf(&[first]), &pool.shelf(&target(first))), "a backend's own");
}

#[test]
fn places_that_clients_choose_are_bounded() {
    let pool = Pool::new(resolver());
    pool.shelf(&target(deserted()));
    for last in 0..=u8::MAX {
        for more in 0..2 {
            let address = SocketAddr::from((Ipv4Addr::new(10, 0, more, last), 80));
            pool.shelf(&Target { addresses: Some([address].into()), ..target(address) });
        }
    }
    assert_eq!(pool.snapshot().len(), CHOSEN_MAX + 1);
}
