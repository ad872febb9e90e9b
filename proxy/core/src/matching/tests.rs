//! Stories of matching, and the index against a reference that tries everything.
//!
//! The reference knows nothing but the words of the module: every rule is tried, and the most
//! precise one that matches wins.

use std::cmp::Reverse;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;

const TIMEOUTS: Timeouts = Timeouts {
    request: None,
    backend_request: None,
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(300),
};

fn host(text: &str) -> HostPattern {
    match text.strip_prefix("*.") {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None if text == "*" => HostPattern::Any,
        None => HostPattern::Exact(text.into()),
    }
}

fn rule(hosts: &[&str], matches: Vec<RequestMatch>) -> Rule {
    let tiers = vec![vec![BackendRef { backend: BackendId(0), weight: 1 }]];
    let hosts = hosts.iter().map(|text| host(text)).collect();
    Rule::forward(("route", "rule"), hosts, matches, tiers, TIMEOUTS)
}

fn on(path: PathMatch, method: Option<Method>, headers: &[(&str, &str)]) -> RequestMatch {
    let headers = headers
        .iter()
        .map(|(name, value)| HeaderMatch {
            name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value: HeaderValue::from_str(value).unwrap(),
        })
        .collect();
    RequestMatch { path, method, headers, query: Vec::new(), client: None }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn facts<'a>(
    (host, path): (&'a str, &'a str),
    method: &'a Method,
    headers: &'a HeaderMap,
) -> RequestFacts<'a> {
    RequestFacts { host, path, query: "", method, headers, client: None }
}

fn find(table: &RouteTable, host: &str, path: &str) -> Result<u16, NoRule> {
    let headers = HeaderMap::new();
    let facts = facts((host, path), &Method::GET, &headers);
    table.find(facts).map(|id| id.0)
}

#[test]
fn hosts_are_tried_from_the_most_precise_to_any() {
    let all = |hosts: &[&str]| rule(hosts, vec![on(prefix("/"), None, &[])]);
    let table = RouteTable::new(vec![
        all(&["*"]),
        all(&["*.example"]),
        all(&["*.pay.example"]),
        all(&["a.pay.example", "10.9.0.1"]),
    ])
    .unwrap();
    assert_eq!(find(&table, "a.pay.example", "/"), Ok(3));
    assert_eq!(find(&table, "b.pay.example", "/"), Ok(2));
    assert_eq!(find(&table, "c.b.pay.example", "/"), Ok(2));
    assert_eq!(find(&table, "pay.example", "/"), Ok(1));
    assert_eq!(find(&table, "example", "/"), Ok(0));
    assert_eq!(find(&table, ".example", "/"), Ok(0));
    assert_eq!(find(&table, "10.9.0.1", "/"), Ok(3));
    assert_eq!(find(&table, "10.9.0.2", "/"), Ok(0));
}

#[test]
fn a_precise_host_without_a_matching_rule_leaves_the_request_to_the_next() {
    let table = RouteTable::new(vec![
        rule(&["pay.example"], vec![on(prefix("/v1"), None, &[])]),
        rule(&["*.example"], vec![on(prefix("/v2"), None, &[])]),
    ])
    .unwrap();
    assert_eq!(find(&table, "pay.example", "/v2/x"), Ok(1));
    assert_eq!(find(&table, "pay.example", "/v3"), Err(NoRule::NoMatch));
    assert_eq!(find(&table, "other.test", "/v1"), Err(NoRule::UnknownHost));
}

#[test]
fn prefixes_match_whole_segments_and_the_longest_wins() {
    let table = RouteTable::new(vec![
        rule(&["h"], vec![on(prefix("/"), None, &[])]),
        rule(&["h"], vec![on(prefix("/v1/"), None, &[])]),
        rule(&["h"], vec![on(prefix("/v1/quote"), None, &[])]),
        rule(&["h"], vec![on(exact("/v1/quote"), None, &[])]),
    ])
    .unwrap();
    assert_eq!(find(&table, "h", "/v10"), Ok(0));
    assert_eq!(find(&table, "h", "*"), Ok(0));
    assert_eq!(find(&table, "h", "/v1"), Ok(1));
    assert_eq!(find(&table, "h", "/v1/"), Ok(1));
    assert_eq!(find(&table, "h", "/v1/quotes"), Ok(1));
    assert_eq!(find(&table, "h", "/v1/quote"), Ok(3));
    assert_eq!(find(&table, "h", "/v1/quote/7"), Ok(2));
}

#[test]
fn methods_come_before_headers_and_headers_by_number() {
    let table = RouteTable::new(vec![
        rule(&["h"], vec![on(prefix("/"), None, &[("a", "1"), ("b", "2")])]),
        rule(&["h"], vec![on(prefix("/"), Some(Method::POST), &[])]),
        rule(&["h"], vec![on(prefix("/"), None, &[("a", "1")])]),
        rule(&["h"], vec![on(prefix("/"), None, &[])]),
    ])
    .unwrap();
    let find = |method: &Method, headers: &[(&str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let facts = facts(("h", "/"), method, &map);
        table.find(facts).map(|id| id.0)
    };
    assert_eq!(find(&Method::POST, &[("a", "1"), ("b", "2")]), Ok(1));
    assert_eq!(find(&Method::GET, &[("a", "1"), ("b", "2")]), Ok(0));
    assert_eq!(find(&Method::GET, &[("a", "0"), ("a", "1")]), Ok(2));
    assert_eq!(find(&Method::GET, &[("a", "2")]), Ok(3));
}

#[test]
fn hosts_have_one_canonical_form() {
    assert_eq!(canonical_host("Pay.Example."), "pay.example");
    assert_eq!(canonical_host("[2001:DB8::0:1]"), "2001:db8::1");
    assert_eq!(canonical_host("10.9.0.1"), "10.9.0.1");
    assert!(matches!(canonical_host("pay.example"), Cow::Borrowed(_)));
}

#[test]
fn natural_shapes_are_recognised_and_strangers_are_not() {
    let class = |method: &Method, path: &str, headers: &[(&str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        natural_class(facts(("h", path), method, &map))
    };
    let (get, post) = (&Method::GET, &Method::POST);
    let protobuf = [("content-type", "application/x-protobuf")];
    for path in [
        "/v2/",
        "/v2/app/manifests/1.0",
        "/v2/team/app/blobs/sha256:ab",
        "/v2/a/tags/list",
        "/v2/a/referrers/sha256:ab",
        "/v2/blobs/blobs/sha256:ab",
    ] {
        assert_eq!(class(get, path, &[]), Some(Natural::ImagePull), "{path}");
    }
    for path in
        ["/v2", "/v2/quote", "/v2/orders/7", "/v2/App/blobs/x", "/v2//blobs/x", "/v1/a/blobs/x"]
    {
        assert_eq!(class(get, path, &[]), None, "{path}");
    }
    assert_eq!(class(post, "/v2/a/blobs/uploads", &[]), None);
    assert_eq!(class(post, "/api/v1/write", &[]), Some(Natural::Metrics));
    let version = [("x-prometheus-remote-write-version", "0.1.0")];
    assert_eq!(class(post, "/receive", &version), Some(Natural::Metrics));
    assert_eq!(class(get, "/receive", &version), None);
    assert_eq!(class(post, "/v1/traces", &protobuf), Some(Natural::Metrics));
    let json = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(class(post, "/otlp/v1/logs", &json), Some(Natural::Metrics));
    assert_eq!(class(post, "/v1/traces", &[]), None);
    assert_eq!(class(post, "/v1/orders", &protobuf), None);
    let grpc = [("content-type", "application/grpc+proto")];
    let export = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    assert_eq!(class(post, export, &grpc), Some(Natural::Metrics));
    assert_eq!(class(post, "/pos.v1.Till/Sale", &grpc), None);
}

fn destination(hosts: &[&str], networks: &[&str], ports: &[u16]) -> EgressRule {
    EgressRule {
        name: "rule".into(),
        destinations: vec![EgressDestination {
            hosts: hosts.iter().map(|text| host(text)).collect(),
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports.to_vec(),
        }],
        class: None,
        location: Location::Cloud,
    }
}

#[test]
fn egress_goes_from_host_to_network_to_any() {
    use EgressVerdict::{Allowed, AskAddress, Denied, Rule};
    let table = EgressTable::new(
        TrafficPolicy::Deny,
        vec![
            destination(&["*"], &[], &[80]),
            destination(&["*.example"], &[], &[]),
            destination(&["pay.example"], &[], &[443]),
            destination(&[], &["10.0.0.0/8"], &[]),
            destination(&[], &["10.9.0.1/32"], &[9000]),
        ],
    );
    assert_eq!(table.by_host("pay.example", 443), Rule(2));
    assert_eq!(table.by_host("pay.example", 80), Rule(1));
    assert_eq!(table.by_host("other.test", 80), AskAddress);
    let at = |address: &str, port| table.by_address(address.parse().unwrap(), port);
    assert_eq!(at("10.9.0.1", 9000), Rule(4));
    assert_eq!(at("::ffff:10.9.0.1", 9000), Rule(4));
    assert_eq!(at("10.9.0.1", 9001), Rule(3));
    assert_eq!(at("192.0.2.1", 80), Rule(0));
    assert_eq!(at("192.0.2.1", 81), Denied);
    let open = EgressTable::new(TrafficPolicy::Allow, Vec::new());
    assert_eq!(open.by_host("x", 1), Allowed);
}

/// How precise a match is, by the words of the module: larger wins.
fn precision(pattern: &HostPattern, one: &RequestMatch) -> impl Ord {
    let host = match pattern {
        HostPattern::Exact(_) => (2, 0),
        HostPattern::Suffix(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    };
    let path = match &one.path {
        PathMatch::Exact(_) => (1, 0),
        PathMatch::Prefix(_) => (0, one.path.key().len()),
    };
    let rest = (one.headers.len(), one.query.len(), one.client_precision());
    (host, path, one.method.is_some(), rest)
}

fn reference(rules: &[Rule], facts: RequestFacts<'_>) -> Result<u16, NoRule> {
    let mut known = false;
    let mut best = None;
    for (rule, index) in rules.iter().zip(0u16..) {
        for pattern in rule.hosts.iter().filter(|pattern| pattern.matches(facts.host)) {
            known = true;
            for one in rule.matches.iter().filter(|one| one.matches(facts)) {
                let key = (precision(pattern, one), Reverse(index));
                if best.as_ref().is_none_or(|(held, _)| key > *held) {
                    best = Some((key, index));
                }
            }
        }
    }
    match best {
        Some((_, index)) => Ok(index),
        None => Err(if known { NoRule::NoMatch } else { NoRule::UnknownHost }),
    }
}

const HOSTS: [&str; 7] = ["*", "*.b", "*.a.b", "a.b", "c.a.b", "b", "10.9.0.1"];
const ASKED: [&str; 8] = ["a.b", "c.a.b", "d.c.a.b", "b", "x.b", ".b", "10.9.0.1", "zz"];
const PATHS: [&str; 8] = ["/", "/x", "/x/", "/x/y", "/xy", "/x/y/z", "/x//y", "*"];
const METHODS: [Method; 2] = [Method::GET, Method::POST];

const CLIENTS: [&[&str]; 4] =
    [&[], &["DNS:a.till"], &["DNS:b.a.till", "URI:x"], &["URI:x", "DNS:till"]];

fn any_client() -> impl Strategy<Value = SanMatch> {
    let all = vec![
        SanMatch::Exact("DNS:a.till".into()),
        SanMatch::Exact("URI:x".into()),
        SanMatch::DnsSuffix("till".into()),
        SanMatch::DnsSuffix("a.till".into()),
    ];
    proptest::sample::select(all)
}

fn any_match() -> impl Strategy<Value = RequestMatch> {
    let path = (0..7usize, any::<bool>())
        .prop_map(|(path, whole)| if whole { exact(PATHS[path]) } else { prefix(PATHS[path]) });
    let method =
        proptest::option::of(0..2usize).prop_map(|method| method.map(|at| METHODS[at].clone()));
    let headers = proptest::sample::subsequence(vec![("a", "1"), ("b", "1"), ("a", "2")], 0..=2);
    let query = proptest::sample::subsequence(vec![("a", "1"), ("b", ""), ("c", "x y")], 0..=2);
    let client = proptest::option::weighted(0.3, any_client());
    (path, method, headers, query, client).prop_map(|(path, method, headers, query, client)| {
        let query = query
            .into_iter()
            .map(|(name, value)| QueryMatch { name: name.into(), value: value.into() })
            .collect();
        RequestMatch { query, client, ..on(path, method, &headers) }
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let hosts = proptest::sample::subsequence(HOSTS.to_vec(), 1..=3);
    (hosts, proptest::collection::vec(any_match(), 1..4)).prop_map(|(hosts, all)| rule(&hosts, all))
}

proptest! {
    #[test]
    fn the_index_finds_what_trying_everything_finds(
        rules in proptest::collection::vec(any_rule(), 0..12),
        host in proptest::sample::select(ASKED.to_vec()),
        path in proptest::sample::select(PATHS.to_vec()),
        query in proptest::sample::subsequence(vec!["a=1", "b", "c=x%20y", "a=2", "c=x+y"], 0..=3),
        method in 0..2usize,
        headers in proptest::sample::subsequence(vec![("a", "1"), ("b", "1"), ("a", "2")], 0..=3),
        client in proptest::option::of(0..CLIENTS.len()),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = client.map(|index| ClientIdentity {
            sans: CLIENTS[index].iter().map(|san| (*san).into()).collect(),
            ..ClientIdentity::default()
        });
        let query = query.join("&");
        let facts = RequestFacts {
            query: &query,
            client: client.as_ref(),
            ..facts((host, path), &METHODS[method], &map)
        };
        let table = RouteTable::new(rules.clone()).unwrap();
        let found = table.find_match(facts);
        prop_assert_eq!(found.map(|found| found.rule.0), reference(&rules, facts));
        if let Ok(found) = found {
            prop_assert!(table.alternative(found).matches(facts));
        }
    }
}

#[test]
fn query_parameters_come_after_headers_and_names_of_clients_last() {
    let any = || RequestMatch::on_path(prefix("/"));
    let a_is_1 = || vec![QueryMatch { name: "a".into(), value: "1".into() }];
    let client = |san| RequestMatch { client: Some(san), ..any() };
    let table = RouteTable::new(vec![
        rule(&["h"], vec![any()]),
        rule(&["h"], vec![client(SanMatch::DnsSuffix("tills".into()))]),
        rule(&["h"], vec![client(SanMatch::Exact("DNS:a.tills".into()))]),
        rule(&["h"], vec![RequestMatch { query: a_is_1(), ..any() }]),
        rule(&["h"], vec![on(prefix("/"), None, &[("x", "1")])]),
    ])
    .unwrap();
    let (plain, mut with) = (HeaderMap::new(), HeaderMap::new());
    with.insert("x", HeaderValue::from_static("1"));
    let find = |headers: &HeaderMap, query: &str, san: Option<&str>| {
        let client = san.map(|san| ClientIdentity { sans: vec![san.into()], ..Default::default() });
        let about = facts(("h", "/"), &Method::GET, headers);
        table.find(RequestFacts { query, client: client.as_ref(), ..about }).map(|id| id.0)
    };
    let san = Some("DNS:a.tills");
    assert_eq!(find(&with, "a=1", san), Ok(4));
    assert_eq!(find(&plain, "b=2&a=1", san), Ok(3));
    assert_eq!(find(&plain, "a=2", san), Ok(2));
    assert_eq!(find(&plain, "", Some("DNS:b.tills")), Ok(1));
    assert_eq!(find(&plain, "", Some("DNS:tills")), Ok(0));
    assert_eq!(find(&plain, "", None), Ok(0));
}

#[test]
fn a_rule_names_a_place_only_by_its_whole_name_or_a_network() {
    let rule = |destinations| EgressRule {
        name: "one".into(),
        destinations,
        class: None,
        location: Location::Local,
    };
    let hosts = |one: HostPattern, ports: &[u16]| EgressDestination {
        hosts: vec![one],
        networks: vec![],
        ports: ports.to_vec(),
    };
    let networks = |network: &str| EgressDestination {
        hosts: vec![],
        networks: vec![network.parse().unwrap()],
        ports: vec![],
    };
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let names = |destinations, name| rule(destinations).names(name, 9900, loopback);
    let exact = |ports: &[u16]| hosts(host("here.example"), ports);
    assert!(names(vec![exact(&[])], "here.example"));
    assert!(names(vec![networks("127.0.0.0/8")], "127.0.0.1"));
    assert!(!names(vec![exact(&[443])], "here.example"), "another port");
    assert!(!names(vec![exact(&[])], "there.example"), "another name for loopback");
    assert!(!names(vec![hosts(host("*"), &[])], "here.example"));
    assert!(!names(vec![hosts(host("*.example"), &[])], "here.example"));
    assert!(!names(vec![networks("0.0.0.0/0")], "127.0.0.1"));
    assert!(!names(vec![networks("0.0.0.0/0"), exact(&[])], "127.0.0.1"), "it is another's host");
}

#[test]
fn segments_that_servers_resolve_are_seen() {
    for path in [
        "/..",
        "/../etc",
        "/v1/../admin",
        "/v1/./pay",
        "/v1/.",
        "/%2e%2e/admin",
        "/v1/.%2E",
        "/v1/%2e",
        "/v1/..;/admin",
        "/v1/..;v=1/admin",
        "/.;x",
    ] {
        assert!(has_dot_segment(path), "{path}");
    }
    for path in [
        "/",
        "*",
        "/v1/pay",
        "/.well-known/openid",
        "/v1/...",
        "/v1/..a",
        "/v1/a..",
        "/a.b/c",
        "/v1/%2ehidden",
        "/%2f",
        "/v1/;..",
        "//v1",
        "/%2e%2e%2e",
    ] {
        assert!(!has_dot_segment(path), "{path}");
    }
}
