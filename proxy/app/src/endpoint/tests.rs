//! Callers and configs that change while somebody looks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tillgate_net::clock::Floor;
use tillgate_net::metrics::PolicyMeters;

use super::callers::{Asker, Credential};
use super::*;

fn token(number: usize) -> String {
    format!("{number:032}")
}

fn write_token(folder: &Path, number: usize) {
    let path = folder.join("token");
    fs::write(&path, token(number)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn store(folder: &Path, down: u32) -> Arc<Effective> {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\n\
         spec:\n  timeZone: Europe/Oslo\n  links:\n    \
         - {{name: primary, capacity: {{up: 5Mbit/s, down: {down}Mbit/s}}}}\n  gateway:\n    \
         configEndpoint:\n      listen: 127.0.0.1:0\n      clientAuth: Token\n      \
         certificate: {{certFile: {}, keyFile: {}}}\n      auditDirectory: {}\n      \
         tokens: [{{name: grafana, roles: [viewer], file: {}}}]\n",
        at("tls.crt"),
        at("tls.key"),
        at("audit"),
        at("token")
    );
    Arc::new(tillgate_config::load_text("store.yaml", &text).unwrap())
}

#[test]
fn secrets_that_were_read_before_a_config_came_do_not_replace_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let write = |number| write_token(folder.path(), number);
    write(1);
    let (metrics, effective) = (Metrics::new("0"), store(folder.path(), 20));
    let clock = StoreClock::new(PolicyMeters::register(&metrics), Arc::default());
    let tls = Tls::new(&metrics);
    let endpoint = Endpoint::new(&metrics, &effective, Arc::new(clock), &tls).unwrap();
    let known = || -> Vec<usize> {
        let is_known = |number: &usize| {
            let shown = format!("Bearer {}", token(*number)).parse().unwrap();
            let shown = Credential::of(&HeaderMap::from_iter([(AUTHORIZATION, shown)]), None);
            let found = endpoint.callers.load().find(&shown, &Floor::default());
            matches!(found, Asker::Known(_))
        };
        (1..5).filter(is_known).collect()
    };
    assert_eq!(known(), [1]);
    let before = endpoint.callers.load_full();
    write(2);
    let read = Callers::read(before.spec.as_ref().unwrap(), &before).unwrap();
    // A reload is quicker than whoever has read that.
    write(3);
    endpoint.admits(endpoint.prepare(&effective).unwrap());
    endpoint.exchange(&before, read);
    assert_eq!(known(), [3]);
    write(4);
    endpoint.check_files();
    assert_eq!(known(), [4]);
}

#[test]
fn a_config_is_told_with_the_bundle_that_it_came_in() {
    let bundle = |sequence: u64| Bundle {
        digest: format!("sha256:{sequence}").into(),
        sequence: Some(sequence),
        revision: format!("main@sha1:{sequence}"),
    };
    let (old, new) = (store(Path::new("/x"), 20), store(Path::new("/x"), 30));
    let mut past = Past::default();
    let sequence = |past: &Past, of: &Effective| past.bundle_of(&of.digest)?.sequence;
    past.push(&old, Some(bundle(1)), clock::wall());
    assert_eq!((sequence(&past, &old), sequence(&past, &new)), (Some(1), None));
    // Who was shown the old one while the new one came is told the number of the old one.
    past.push(&new, Some(bundle(2)), clock::wall());
    assert_eq!((sequence(&past, &old), sequence(&past, &new)), (Some(1), Some(2)));
    past.push(&old, Some(bundle(3)), clock::wall());
    assert_eq!((sequence(&past, &old), sequence(&past, &new)), (Some(3), Some(2)));
}

#[tokio::test]
async fn who_waits_or_listens_beyond_the_bound_is_told_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    write_token(folder.path(), 1);
    let effective = store(folder.path(), 20);
    let (gateway, _orders) = Gateway::new(effective, 1, Arc::default()).unwrap();
    let router = entrance::router(&Arc::new(Desk { gateway: Arc::clone(&gateway) }));
    let ask = async |path: &str, tag: &str| {
        let request = Request::get(path)
            .header(AUTHORIZATION, format!("Bearer {}", token(1)))
            .header("if-none-match", tag)
            .body(Body::empty());
        let answer = router.clone().oneshot(request.unwrap()).await.unwrap();
        let header =
            |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), header("etag"), header("retry-after"))
    };
    let (status, tag, _) = ask("/v1/config", "").await;
    assert_eq!(status, 200);
    let tag = tag.unwrap();
    let meters = &gateway.endpoint.meters;
    for (path, gauge, most) in [
        ("/v1/config?wait=0", &meters.waiters, slices::WAITERS_MAX),
        ("/v1/config/events", &meters.streams, events::STREAMS_MAX),
    ] {
        gauge.set(most - 1);
        assert_ne!(ask(path, &tag).await.0, 429, "{path}");
        gauge.set(most);
        let (status, _, seconds) = ask(path, &tag).await;
        assert_eq!(status, 429, "{path}");
        assert!(seconds.unwrap().parse::<u64>().unwrap() > 0);
    }
    // Who does not wait is answered all the same.
    assert_eq!(ask("/v1/config", &tag).await.0, 304);
}
