//! Sidecars of pods: the token that a kubelet projects becomes a certificate of the store, checked
//! by the keys of the cluster, which come from a file or from its API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tillgate_tests::cluster::{Cluster, ISSUER};
use tillgate_tests::endpoint::NAME;
use tillgate_tests::eventually;
use tillgate_tests::operated::{self, Operated, csr};
use tillgate_tests::origin::Origin;
use tillgate_tests::program::{Program, get};
use tillgate_tests::tls::{self, Authority, Identity, Wants};
use tillgate_tests::wire::Reply;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

const BASKET: (&str, &str) = ("basket-5d8f-x2k", "shop/basket");

/// A store whose endpoint knows the accounts of a cluster; `keys` says where its keys are.
fn store(name: &str, keys: impl Fn(&Path) -> String) -> Operated {
    Operated::new(PROGRAM, name, |chain| {
        format!(
            "    enrolment:\n      serviceAccounts:\n        issuer: {ISSUER}\n        {}\n",
            keys(&chain.folder)
        )
    })
}

/// The keys of `cluster` in a file.
fn write(cluster: &Cluster, folder: &Path) -> String {
    let (file, fresh) = (folder.join("jwks.json"), folder.join("jwks.next"));
    fs::write(&fresh, cluster.jwks()).unwrap();
    fs::rename(fresh, &file).unwrap();
    format!("jwksFile: {}", file.display())
}

/// Asks for a certificate with this token.
fn enrol(store: &Operated, token: &str) -> Reply {
    operated::enrol(&store.caller(), Some(token), &csr().1)
}

fn document(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.text()))
}

#[track_caller]
fn is_basket(reply: &Reply) {
    assert_eq!(reply.status, 201, "{}", reply.text());
    let told = document(reply);
    assert_eq!(told["id"], "pod_shop.basket-5d8f-x2k");
    assert_eq!(told["workload"], "shop/basket");
}

/// The gateway knows that the pod's sidecar runs what it should.
#[track_caller]
fn is_known(store: &Operated) {
    let one = store.sidecar_in_sync();
    assert_eq!(
        (&one["id"], &one["workload"]),
        (&json!("pod_shop.basket-5d8f-x2k"), &json!("shop/basket"))
    );
}

#[test]
fn a_pods_token_becomes_a_certificate_and_what_is_not_for_this_store_does_not() {
    let mut cluster = Cluster::default();
    let store = store("pod-token", |folder| write(&cluster, folder));
    is_basket(&enrol(&store, &cluster.token(BASKET, "tillgate")));
    let foreign = cluster.token(BASKET, "vault");
    let refused = enrol(&store, &foreign);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert!(refused.text().contains("audience"), "{}", refused.text());
    store.program.line(&["WARN", "reason=\"audience\""]);
    for part in foreign.split('.').skip(1) {
        assert!(!refused.text().contains(part) && !store.program.log().contains(part));
    }
    // Of another cluster; then this one changes its keys, and its next token is good at once.
    let strange = enrol(&store, &Cluster::default().token(BASKET, "tillgate"));
    assert_eq!(strange.status, 401, "{}", strange.text());
    cluster.rotate();
    write(&cluster, &store.chain.folder);
    is_basket(&enrol(&store, &cluster.token(BASKET, "tillgate")));
    let metrics = store.metrics();
    for series in ["accepted", "audience", "signature"] {
        let series = format!("tillgate_workload_tokens_total{{result=\"{series}\"}}");
        assert!(metrics.contains(&series), "{series} in\n{metrics}");
    }
}

#[test]
fn a_sidecar_in_a_pod_enrols_with_what_the_kubelet_puts_there() {
    let cluster = Cluster::default();
    let mut store = store("pod-sidecar", |folder| write(&cluster, folder));
    store.good(1, "near.example");
    // As a kubelet does it: what is there is a link, and another file takes its place.
    let folder = store.chain.folder.clone();
    let project = |name: &str, token: &str| {
        fs::write(folder.join(name), token).unwrap();
        let link = folder.join("projected.next");
        symlink(name, &link).unwrap();
        fs::rename(link, folder.join("projected")).unwrap();
    };
    project("first", &cluster.token(BASKET, "somebody-else"));
    let at = |name: &str| folder.join(name).display().to_string();
    let gateway = format!("https://{}", store.program.address("config-endpoint"));
    let (ca, token, state) = (at("ca.crt"), at("projected"), at("beside"));
    let sidecar = Program::start_sidecar(
        PROGRAM,
        &["--config-from", &gateway, "--ca", &ca, "--enrol-token-file", &token, "--state", &state],
    );
    store.program.line(&["WARN", "reason=\"audience\""]);
    project("second", &cluster.token(BASKET, "tillgate"));
    eventually(&format!("it serves\n{}", sidecar.log()), || {
        (get(sidecar.address("http"), "near.example").status == 200).then_some(())
    });
    is_known(&store);
    // Another authority: the token is good for it, too.
    store.restart_after(|state| fs::remove_file(state.join("enrolment/authority.pem")).unwrap());
    is_known(&store);
}

#[test]
fn an_account_that_the_policy_takes_off_its_list_is_not_renewed() {
    let cluster = Cluster::default();
    let mut store = store("pod-account", |folder| {
        write(&cluster, folder) + "\n        accounts: [{name: shop/basket}]"
    });
    let (key, request) = csr();
    let token = cluster.token(BASKET, "tillgate");
    let first = operated::enrol(&store.caller(), Some(&token), &request);
    is_basket(&first);
    let chain = document(&first)["certificate"].as_str().unwrap().to_owned();
    let identity = Identity { chain, key: key.pem() };
    let renew = |store: &Operated| operated::enrol(&store.with(&identity), None, &csr().1);
    is_basket(&renew(&store));
    let mut after = |from: &str, to: &str| {
        let bootstrap = store.program.policy.clone();
        let text = fs::read_to_string(&bootstrap).unwrap();
        assert!(text.contains(from), "{text}");
        store.restart_after(|_| fs::write(&bootstrap, text.replace(from, to)).unwrap());
        renew(&store)
    };
    let moved = after("{name: shop/basket}", "{name: shop/basket, workload: shop/till}");
    assert_eq!(document(&moved)["workload"], "shop/till", "{}", moved.text());
    let refused = after("{name: shop/basket, workload", "{name: shop/robot, workload");
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("accounts"), "{}", refused.text());
    let record = store.records().pop().unwrap();
    assert_eq!(record["reason"], "service account that may not come", "{record}");
}

/// An API server that tells its keys to whoever shows the gateway's own token, while `is_up`.
fn api_server(cluster: &Cluster, authority: &Authority, is_up: &Arc<AtomicBool>) -> Origin {
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    let config = tls::server(&Wants { identity: Some(&identity), ..Wants::default() }, None);
    let (keys, is_up) = (cluster.jwks(), Arc::clone(is_up));
    Origin::start(move |wire, _| {
        if !is_up.load(Ordering::SeqCst) {
            return;
        }
        let Some(mut wire) = tls::accept(wire, &config) else { return };
        while wire.waits_for_more() {
            let asked = wire.reply();
            let body = match asked.header("authorization") {
                Some("Bearer own-token") => &*keys,
                _ => "",
            };
            let status = if body.is_empty() { "401 Unauthorized" } else { "200 OK" };
            let length = body.len();
            wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"));
        }
    })
}

#[test]
fn keys_of_an_api_server_outlive_it() {
    let (cluster, authority) = (Cluster::default(), Authority::default());
    let is_up = Arc::new(AtomicBool::new(true));
    let server = api_server(&cluster, &authority, &is_up);
    let mut store = store("pod-keys", |folder| {
        let (ca, token) = (folder.join("cluster-ca.crt"), folder.join("own-token"));
        fs::write(&ca, &authority.pem).unwrap();
        fs::write(&token, "own-token\n").unwrap();
        format!(
            "jwksUrl: https://{}/openid/v1/jwks\n        caFile: {}\n        tokenFile: {}",
            server.address,
            ca.display(),
            token.display()
        )
    });
    let token = cluster.token(BASKET, "tillgate");
    eventually("keys are fetched", || (enrol(&store, &token).status == 201).then_some(()));
    let metrics = store.metrics();
    assert!(
        !metrics.contains("tillgate_cluster_key_fetches_total{result=\"fetched\"} 0"),
        "{metrics}"
    );
    is_up.store(false, Ordering::SeqCst);
    store.restart();
    is_basket(&enrol(&store, &cluster.token(BASKET, "tillgate")));
    // Kept keys that are damaged are as good as none: the gateway starts, and asks again.
    is_up.store(true, Ordering::SeqCst);
    store.restart_after(|state| {
        let kept = state.join("enrolment/cluster-jwks.json");
        assert!(kept.is_file());
        fs::write(kept, "{\"keys\": [").unwrap();
    });
    let token = cluster.token(BASKET, "tillgate");
    eventually("the keys are there again", || (enrol(&store, &token).status == 201).then_some(()));
    // A token that names another key makes the gateway ask, in vain.
    let mut other = Cluster::default();
    other.rotate();
    let strange = enrol(&store, &other.token(BASKET, "tillgate"));
    assert_eq!(strange.status, 401, "{}", strange.text());
    assert!(store.metrics().contains("tillgate_workload_tokens_total{result=\"unknown_key\"}"));
}
