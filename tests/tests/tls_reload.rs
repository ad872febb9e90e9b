//! Certificates that change under a running gateway: what is whole is taken, the rest is refused,
//! and no connection notices.

use tillgate_core::tls::{
    ClientAuth, ClientCertificates, ClientTls, ServerTls, TlsVersion, TrustAnchors,
};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::hammer::Hammer;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Identity, NOT_AFTER_UNIX, Shaken, Volume, Wants};

const GET: &str = "GET / HTTP/1.1\r\nHost: pay.example\r\n\r\n";
const ACCEPTED: &str =
    r#"tillgate_tls_file_reloads_total{side="listener",name="http",result="accepted"}"#;
const REFUSED: &str =
    r#"tillgate_tls_file_reloads_total{side="listener",name="http",result="refused"}"#;
const EXPIRY: &str =
    r#"tillgate_tls_certificate_expiry_timestamp_seconds{side="listener",name="http",index="0"}"#;

struct Entry {
    authority: Authority,
    volume: Volume,
    origin: Origin,
}

impl Entry {
    fn new() -> Self {
        let authority = Authority::default();
        let volume = Volume::pair(&authority.issue(&["pay.example"]));
        Self { authority, volume, origin: Origin::echoing() }
    }

    fn tls(&self) -> ServerTls {
        ServerTls {
            certificates: vec![self.volume.key_pair()],
            client_certificates: None,
            min_version: TlsVersion::V1_2,
        }
    }

    fn store(&self) -> Store {
        Store::default().local("pay", "pay.example", "payment", self.origin.address)
    }

    fn connect(&self, gateway: &Gateway) -> Shaken {
        let config = tls::client(&self.authority, &Wants::default());
        tls::connect(gateway.http, "pay.example", &config).expect("a handshake")
    }

    fn shows(&self, gateway: &Gateway, identity: &Identity) -> bool {
        self.connect(gateway).shown == tls::certificate(identity)
    }
}

/// What SIGHUP does: the same config once more, which looks at the files at once.
fn look(gateway: &Gateway, entry: &Entry) {
    gateway.control.reload(entry.store().https(entry.tls()).build()).expect("a good config");
}

#[test]
fn a_symlink_swap_is_served_and_drops_no_connection() {
    let mut entry = Entry::new();
    let gateway = Gateway::start(entry.store().https(entry.tls()).build());
    gateway.expect_metric(EXPIRY, NOT_AFTER_UNIX);
    let mut old = entry.connect(&gateway);
    old.wire.send(GET);
    assert_eq!(old.wire.reply().status, 200);

    let fresh = entry.authority.issue_until(&["pay.example"], (2048, 1, 1));
    entry.volume.swap_pair(&fresh);
    // Nobody tells it: it looks by itself. Meanwhile every handshake succeeds.
    eventually("the new certificate is shown", || entry.shows(&gateway, &fresh).then_some(()));
    gateway.expect_metric(ACCEPTED, 1.0);
    gateway.expect_metric(EXPIRY, NOT_AFTER_UNIX - 367.0 * 86_400.0);
    old.wire.send(GET);
    assert_eq!(old.wire.reply().status, 200, "the old connection lives");
    gateway.expect_metric(REFUSED, 0.0);
}

#[test]
fn a_pair_that_is_not_whole_is_refused_once_and_taken_when_it_is() {
    let entry = Entry::new();
    let gateway = Gateway::start(entry.store().https(entry.tls()).build());
    let first = entry.connect(&gateway).shown;
    let fresh = entry.authority.issue(&["pay.example"]);
    let running = || entry.connect(&gateway).shown == first;

    // An edit in place, caught between its two files; looked at twice, said once.
    entry.volume.edit("tls.crt", &fresh.chain);
    look(&gateway, &entry);
    look(&gateway, &entry);
    gateway.expect_metric(REFUSED, 1.0);
    assert!(running(), "the old pair serves");
    // A key of which half is written.
    entry.volume.edit("tls.key", &fresh.key[..fresh.key.len() / 2]);
    look(&gateway, &entry);
    gateway.expect_metric(REFUSED, 2.0);
    assert!(running());
    // Truncated to nothing.
    entry.volume.edit("tls.crt", "");
    look(&gateway, &entry);
    gateway.expect_metric(REFUSED, 3.0);
    // Gone.
    std::fs::remove_file(entry.volume.path("tls.key")).unwrap();
    look(&gateway, &entry);
    look(&gateway, &entry);
    gateway.expect_metric(REFUSED, 4.0);
    assert!(running());
    gateway.expect_metric(ACCEPTED, 0.0);

    std::fs::write(entry.volume.path("tls.key"), &fresh.key).unwrap();
    entry.volume.edit("tls.crt", &fresh.chain);
    look(&gateway, &entry);
    assert!(entry.shows(&gateway, &fresh));
    gateway.expect_metric(ACCEPTED, 1.0);
}

#[test]
fn new_authorities_end_the_sessions_of_the_old_ones() {
    let entry = Entry::new();
    let (old, new) = (Authority::default(), Authority::default());
    let till = old.issue(&["till.example"]);
    let mut files = Volume::new(&[("ca.crt", &old.pem)]);
    let tls = ServerTls {
        client_certificates: Some(ClientCertificates {
            mode: ClientAuth::Required,
            ca_file: files.file("ca.crt"),
        }),
        ..entry.tls()
    };
    let gateway = Gateway::start(entry.store().https(tls.clone()).build());
    let wants = Wants { identity: Some(&till), ..Wants::default() };
    let config = tls::client(&entry.authority, &wants);
    let ask = || {
        let shaken = tls::connect(gateway.http, "pay.example", &config);
        let Ok(mut shaken) = shaken else { return (None, false) };
        let asked = shaken.wire.try_send(GET) && shaken.wire.waits_for_more();
        (asked.then(|| shaken.wire.reply().status), shaken.resumed)
    };
    assert_eq!(ask(), (Some(200), false));
    assert_eq!(ask(), (Some(200), true), "taken up again");
    files.swap(&[("ca.crt", &new.pem)]);
    gateway.control.reload(entry.store().https(tls).build()).expect("a good config");
    assert_eq!(ask(), (None, false), "the ticket is worth nothing, nor is the certificate");
}

#[test]
fn a_config_that_names_a_missing_file_changes_nothing() {
    let entry = Entry::new();
    let gateway = Gateway::start(entry.store().https(entry.tls()).digest("sha256:one").build());
    let missing = entry.volume.file("nowhere.crt");
    let tls = ClientTls {
        sni: None,
        roots: TrustAnchors::File(missing),
        certificate: None,
        min_version: TlsVersion::V1_2,
    };
    let next = entry.store().https(entry.tls()).over_tls(tls).digest("sha256:two");
    let refused = gateway.control.reload(next.build()).expect_err("a file is missing").to_string();
    assert!(refused.starts_with("backend pay: ") && refused.contains("nowhere.crt"), "{refused}");
    assert_eq!(&*gateway.control.digest(), "sha256:one");
    let mut wire = entry.connect(&gateway).wire;
    wire.send(GET);
    assert_eq!(wire.reply().status, 200);
}

#[test]
fn nobody_who_connects_after_a_reload_is_served_on_the_old_terms() {
    let reply = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let entry = Entry { origin: Origin::answering(reply), ..Entry::new() };
    let (clear, secure) = (|| entry.store().build(), || entry.store().https(entry.tls()).build());
    let gateway = Gateway::start(clear());
    for _ in 0..20 {
        gateway.control.reload(clear()).expect("a good config");
        let before = Hammer::start(gateway.http, "pay.example", 3);
        eventually("it is served in the clear", || (before.served() > 20).then_some(()));
        gateway.control.reload(secure()).expect("a good config");
        for _ in 0..20 {
            let mut wire = gateway.wire();
            wire.send(GET);
            let said = wire.read_to_end().unwrap_or_else(|cut| cut);
            let said = String::from_utf8_lossy(&said);
            assert!(!said.starts_with("HTTP/"), "in the clear after the reload: {said}");
        }
        let shaken = entry.connect(&gateway);
        drop((shaken, before));
    }
}
