//! The README's tables say what the program says.
//!
//! The failure table is rendered from `tillgate_net::error::TABLE`, the metric table from a
//! scrape of a gateway that has served one request. `TILLGATE_BLESS=1` writes them anew
//! (with `--test-threads=1`: both write one file).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use tillgate_config::effective::{ListenerProtocol, ProxyTrust};
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::tls::{ClientTls, ServerTls, TlsVersion, TrustAnchors};
use tillgate_net::error::TABLE;
use tillgate_net::metrics::Metrics;
use tillgate_tests::metered;
use tillgate_tests::ports::nobody;
use tillgate_tests::store::Store;
use tillgate_tests::tls::{self, Authority, Volume};

#[test]
fn the_failure_table_is_the_one_of_the_code() {
    let mut table = String::from(
        "| `reason` | status | whose fault | may it be sent again | what it means |\n\
         |---|---|---|---|---|\n",
    );
    for row in &TABLE {
        let status = row.status.map_or("–".to_owned(), |status| status.as_str().to_owned());
        let (blame, retry) = (row.blame.label(), row.retry.label());
        let _ = writeln!(
            table,
            "| `{}` | {status} | {blame} | {retry} | {} |",
            row.reason, row.meaning
        );
    }
    compare("failures", &table);
}

#[test]
fn the_metric_table_is_the_one_of_a_scrape() {
    let families = [metered::failover(), metered::policy(), metered::rollouts()];
    let scrape = scrape_after_one_request() + &families.each_ref().map(|one| told(one)).concat();
    let mut table = String::from("| metric | type | meaning |\n|---|---|---|\n");
    let mut helps = std::collections::BTreeMap::new();
    let mut told = std::collections::BTreeSet::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            helps.insert(name.to_owned(), help.trim_end_matches('.').to_owned());
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        else {
            continue;
        };
        let shown = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        let help = helps.get(name).cloned().unwrap_or_default();
        if told.insert(shown.clone()) {
            let _ = writeln!(table, "| `{shown}` | {kind} | {help} |");
        }
    }
    compare("metrics", &table);
}

#[test]
fn the_fields_of_the_access_log_are_the_ones_of_the_code() {
    let mut table = String::from("| field | what it holds |\n|---|---|\n");
    for field in tillgate::access::FIELDS {
        let _ = writeln!(table, "| `{}` | {} |", field.name, field.meaning);
    }
    compare("access-log", &table);
}

#[test]
fn the_files_of_clients_are_those_that_the_command_prints() {
    let readme = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&readme).expect("there is a README.md");
    let begins = readme.find("kind: RegistryMirror\n").expect("the README has a mirror");
    let ends = readme[begins..].find("```").expect("the end of the block");
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("store.yaml");
    let policy = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: a}}\nspec:\n  \
         timeZone: Etc/UTC\n  links:\n    \
         - {{name: primary, capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\n{}",
        &readme[begins..begins + ends]
    );
    std::fs::write(&file, policy).expect("the folder can be written");
    let file = file.to_str().expect("a name in UTF-8");
    let words = ["tillgate", "mirror-config", file, "--address", "http://gateway:5000"];
    let answer = tillgate::cli::ask(words.map(Into::into)).expect("a command");
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    compare("mirror-config", &format!("```\n{}\n```\n", answer.stdout.trim_end()));
}

fn compare(name: &str, table: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).expect("there is a README.md");
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let from = readme.find(&start).expect("the README has the table's start mark") + start.len();
    let to = readme.find(&end).expect("the README has the table's end mark");
    if std::env::var_os("TILLGATE_BLESS").is_some() {
        let blessed = format!("{}{table}{}", &readme[..from], &readme[to..]);
        std::fs::write(&path, blessed).expect("the README can be written");
        return;
    }
    assert!(
        readme[from..to] == *table,
        "the README's table of {name} is out of date: run this test with TILLGATE_BLESS=1\n{table}"
    );
}

/// Every kind of listener and backend that has a metric of its own.
fn store(files: &Volume, origin: SocketAddr, images: &std::path::Path) -> Store {
    Store::default()
        .cloud("payments", "pay.example", "payment", origin)
        .mirror("docker.io", images, |_| ())
        .over_tls(ClientTls {
            sni: None,
            roots: TrustAnchors::File(files.file("ca.crt")),
            certificate: None,
            min_version: TlsVersion::V1_2,
        })
        .https(ServerTls {
            certificates: vec![files.key_pair()],
            client_certificates: None,
            min_version: TlsVersion::V1_2,
        })
        .listener("announced", ListenerProtocol::Http, None, |spec| {
            let trusted_sources = vec!["127.0.0.0/8".parse().expect("a network")];
            spec.proxy_protocol = Some(ProxyTrust { trusted_sources });
        })
        .cloud("closed", "closed.example", "payment", nobody())
        .backend("radius", Location::Cloud, BackendProtocol::Udp, origin)
        .listener("radius", ListenerProtocol::Udp, None, |spec| spec.limits.sessions_max = 0)
}

/// Names, types and meanings of what a scrape of `metrics` shows.
fn told(metrics: &Metrics) -> String {
    let scrape = metrics.encode().expect("text");
    let ours = |line: &&str| line.starts_with("# ");
    scrape.lines().filter(ours).map(|line| format!("{line}\n")).collect()
}

/// Families without a sample are not in a scrape, so one request goes through first, one does not,
/// one finds no server, a connection is rejected, and a datagram goes nowhere.
fn scrape_after_one_request() -> String {
    let authority = Authority::default();
    let identity = authority.issue(&["pay.example", "127.0.0.1"]);
    let files = Volume::new(&[
        ("ca.crt", &authority.pem),
        ("tls.crt", &identity.chain),
        ("tls.key", &identity.key),
    ]);
    let images = tempfile::TempDir::new().expect("a folder");
    let wants = tls::Wants { identity: Some(&identity), ..tls::Wants::default() };
    let origin = tillgate_tests::origin::Origin::echoing_tls(tls::server(&wants, None));
    let gateway = tillgate_tests::gateway::Gateway::start(
        store(&files, origin.address, &images.path().join("images")).build(),
    );
    let client = tls::client(&authority, &tls::Wants::default());
    for (host, status) in [("pay.example", 200), ("unknown", 404), ("closed.example", 502)] {
        let shaken = tls::connect(gateway.http, "pay.example", &client).expect("a handshake");
        let mut wire = shaken.wire;
        wire.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!(wire.reply().status, status);
    }
    let announced = gateway.listeners["announced"];
    tillgate_tests::wire::Wire::connect(announced).send_and_end("this is no PROXY header");
    let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.send_to(b"hello", gateway.listeners["radius"]).expect("it is taken");
    let rejected = r#"listener="announced",reason="proxy_invalid""#;
    gateway.expect_metric(&format!("tillgate_connections_rejected_total{{{rejected}}}"), 1.0);
    let dropped = r#"listener="radius",reason="table_full""#;
    gateway.expect_metric(&format!("tillgate_datagrams_dropped_total{{{dropped}}}"), 1.0);
    gateway.admin("/metrics").text()
}
