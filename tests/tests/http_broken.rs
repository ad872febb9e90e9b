//! Clients and servers that misbehave: the right answer, no harm to others, nothing completed
//! that was not complete.

use std::time::Duration;

use tillgate_config::effective::{Effective, ListenerLimits};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::store::Store;
use tillgate_tests::wire::Wire;
use tillgate_tests::{dawdle, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);

/// A config whose HTTP entry alone has other limits: nobody hurries who asks for metrics.
fn hurried(store: Store, change: impl FnOnce(&mut ListenerLimits)) -> Effective {
    let mut effective = store.build();
    change(&mut effective.listeners[0].limits);
    effective
}

/// Has connections judged often, which goes by the shortest limit: of requests that have no body
/// this one is none.
fn judged_often(store: Store) -> Effective {
    hurried(store, |limits| limits.body_timeout = Some(SHORT))
}

/// A connection on which something comes back for `request`; one that was closed because it was
/// not sent in time is replaced.
fn asked(gateway: &Gateway, request: &str) -> Wire {
    eventually("something comes back", || {
        let mut wire = gateway.wire();
        let comes =
            wire.try_send(request) && wire.stream().peek(&mut [0]).is_ok_and(|read| read > 0);
        comes.then_some(wire)
    })
}

fn failed(class: &str, reason: &str) -> String {
    format!(r#"tillgate_failures_total{{class="{class}",reason="{reason}"}}"#)
}

#[test]
fn a_body_cut_short_is_never_passed_on_as_complete() {
    let origin = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            let head = wire.head();
            let framing = if head.line.contains("/chunked") {
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            } else {
                "Content-Length: 1000\r\n\r\nhello"
            };
            wire.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
            if head.line.contains("/reset") {
                wire.reset();
            }
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());

    for path in ["/length", "/chunked", "/length/reset", "/chunked/reset"] {
        let mut wire = gateway.wire();
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n"));
        let reply = wire.reply();
        assert_eq!(reply.status, 200, "{path}: the head had gone through");
        assert!(!reply.complete, "{path}: {reply:?}");
    }
    gateway.expect_metric(&failed("default", "backend_body_cut"), 4.0);
}

#[test]
fn a_request_cut_short_never_reaches_the_server_as_complete() {
    let (heard, hears) = std::sync::mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            let request = wire.reply();
            let _ = heard.send(request.complete);
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    for framing in
        ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        let mut wire = gateway.wire();
        wire.send(format!("POST / HTTP/1.1\r\nHost: api.example\r\n{framing}"));
        // It has to get there before it is cut.
        gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);
        drop(wire);
        assert_eq!(hears.recv_timeout(tillgate_tests::PATIENCE), Ok(false), "{framing:?}");
        gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 0.0);
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let origin = Origin::echoing();
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    for fields in [
        "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        "Content-Length: 3, 5\r\n\r\nabcde",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: +3\r\n\r\nabc",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ] {
        let mut wire = gateway.wire();
        wire.send(format!("POST / HTTP/1.1\r\nHost: api.example\r\n{fields}"));
        let reply = wire.reply();
        assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"), "{fields:?}");
    }
}

#[test]
fn answers_that_contradict_themselves_are_refused() {
    let origin = Origin::start(|mut wire, number| {
        if wire.waits_for_more() {
            wire.head();
            wire.send(match number {
                0 => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
                1 => "SSH-2.0-OpenSSH_9.9\r\n",
                _ => "",
            });
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    for reason in ["backend_protocol", "backend_protocol", "backend_closed"] {
        let reply = gateway.ask(GET);
        assert_eq!((reply.status, &*reply.reason()), (502, reason));
    }
}

#[test]
fn the_chunks_of_an_answer_count_and_not_a_length_beside_them() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         9\r\n123456789\r\n0\r\n\r\n",
    );
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut wire = gateway.wire();
    for _ in 0..2 {
        wire.send(GET);
        let reply = wire.reply();
        assert_eq!((reply.text().as_str(), reply.complete), ("123456789", true), "{reply:?}");
        assert_eq!(reply.header("content-length"), None);
    }
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let origin = Origin::echoing();
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.limits(|limits| limits.headers_max = 20).build());

    let large = format!("GET / HTTP/1.1\r\nHost: api.example\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let mut wire = gateway.wire();
    wire.try_send(large);
    assert_eq!(wire.head().status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: api.example\r\n{}\r\n", "X: y\r\n".repeat(20));
    let mut wire = gateway.wire();
    wire.try_send(many);
    assert_eq!(wire.head().status, 431);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn half_a_head_and_an_idle_connection_are_ended_in_time() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = || Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store().build());

    let mut silent = gateway.wire();
    let mut slow = gateway.wire();
    slow.send("GET / HTTP/1.1\r\nHost: api.exa");
    let mut idle = gateway.wire();
    idle.send(GET);
    assert_eq!(idle.reply().text(), "ok");
    // Times of a new config count for connections that are there.
    let hurried = hurried(store(), |limits| {
        limits.header_timeout = SHORT;
        limits.idle_timeout = SHORT * 2;
    });
    gateway.control.reload(hurried).expect("a good config");
    silent.expect_end();
    slow.expect_end();
    idle.expect_end();
    gateway.expect_metric(r#"tillgate_connections_timed_out_total{listener="http"}"#, 3.0);
    gateway.expect_metric(r#"tillgate_connections{listener="http"}"#, 0.0);
}

#[test]
fn a_slow_answer_outlives_the_idle_limit_of_the_connection() {
    let origin = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            dawdle(SHORT * 3);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            wire.waits_for_more();
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(hurried(store, |limits| {
        limits.header_timeout = SHORT;
        limits.idle_timeout = SHORT;
    }));
    assert_eq!(asked(&gateway, GET).reply().text(), "ok");
}

#[test]
fn an_upload_goes_on_after_an_early_answer() {
    let origin = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            wire.read_exact(100);
            while wire.waits_for_more() {
                wire.reply();
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntoo");
            }
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(hurried(store, |limits| {
        limits.header_timeout = SHORT;
        limits.idle_timeout = SHORT * 10;
    }));
    let post = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100\r\n\r\n";
    let mut wire = asked(&gateway, post);
    assert_eq!(wire.reply().text(), "ok");
    // Longer than both limits together.
    for _ in 0..49 {
        wire.send([b'x'; 2]);
        dawdle(SHORT / 4);
    }
    wire.send(format!("xx{GET}"));
    assert_eq!(wire.reply().text(), "too");
}

#[test]
fn a_refused_connection_and_a_black_hole_are_told_apart() {
    let refused = nobody();
    // Its backlog is full, so the kernel drops what comes.
    let hole =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    hole.bind(&socket2::SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0))))
        .expect("a free port");
    hole.listen(0).expect("a bound socket");
    let address = hole.local_addr().expect("bound").as_socket().expect("IPv4");
    let fill: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
            })
        })
        .collect();
    let held: Vec<_> = fill.into_iter().map(std::thread::JoinHandle::join).collect();

    let store = Store::default()
        .timeouts(|timeouts| timeouts.connect = SHORT)
        .cloud("refused", "refused.example", "default", refused)
        .local("refused-here", "refused-here.example", "default", refused)
        .cloud("hole", "hole.example", "default", address)
        .local("hole-here", "hole-here.example", "default", address);
    let gateway = Gateway::start(store.build());
    for (host, status, reason) in [
        ("refused.example", 502, "connect_refused"),
        ("refused-here.example", 502, "connect_refused"),
        ("hole.example", 504, "connect_timeout"),
        ("hole-here.example", 504, "connect_timeout"),
    ] {
        let reply = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((reply.status, &*reply.reason()), (status, reason), "{host}");
    }
    drop(held);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let store = Store::default()
        .timeouts(|timeouts| timeouts.backend_request = Some(SHORT))
        .cloud("try", "try.example", "default", origin.address)
        .timeouts(|timeouts| {
            timeouts.backend_request = None;
            timeouts.request = Some(SHORT);
        })
        .cloud("whole", "whole.example", "default", origin.address)
        .timeouts(|timeouts| {
            timeouts.request = None;
            timeouts.idle = SHORT;
        })
        .cloud("idle", "idle.example", "default", origin.address);
    let gateway = Gateway::start(judged_often(store));
    for (host, reason) in [
        ("try.example", "backend_timeout"),
        ("whole.example", "request_timeout"),
        ("idle.example", "idle_timeout"),
    ] {
        let reply = gateway.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((reply.status, &*reply.reason()), (504, reason), "{host}");
    }
    // Each of them was cancelled towards the server.
    gateway.expect_metric(r#"tillgate_upstream_connections{backend="try",class="default"}"#, 0.0);
}

#[test]
fn one_dead_connection_is_enough_to_distrust_those_like_it() {
    let both = std::sync::Barrier::new(2);
    let origin = Origin::start(move |mut wire, number| {
        while wire.waits_for_more() {
            let dead = wire.reply().line.contains("/dead") && number < 2;
            if number < 2 && !dead {
                both.wait();
            }
            if dead {
                // As behind a router that has forgotten the connection.
                return while wire.waits_for_more() {
                    wire.reply();
                };
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let store = Store::default()
        .cloud("api", "api.example", "default", origin.address)
        .timeouts(|timeouts| timeouts.backend_request = Some(SHORT))
        .route("hurried", "hurried.example", Some("default"));
    let gateway = Gateway::start(store.build());
    let mut wires = [gateway.wire(), gateway.wire()];
    for wire in &mut wires {
        wire.send(GET);
    }
    for wire in &mut wires {
        assert_eq!(wire.reply().text(), "ok");
    }
    let dead = |host| gateway.ask(&format!("GET /dead HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(dead("hurried.example").reason(), "backend_timeout");
    assert_eq!(dead("api.example").text(), "ok", "on a connection of its own");
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_transfer_that_stands_still_is_ended() {
    let origin = Origin::start(|mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            wire.waits_for_more();
        }
    });
    let store = Store::default().timeouts(|timeouts| timeouts.idle = SHORT).cloud(
        "api",
        "api.example",
        "default",
        origin.address,
    );
    let gateway = Gateway::start(judged_often(store));
    let mut ended = 0.0;
    let reply = eventually("the head comes in time", || {
        let reply = gateway.ask(GET);
        ended += 1.0;
        (reply.status == 200).then_some(reply)
    });
    assert!(!reply.complete, "{reply:?}");
    gateway.expect_metric(&failed("default", "idle_timeout"), ended);
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let (left, leaves) = std::sync::mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        if wire.waits_for_more() {
            wire.head();
            wire.expect_end();
            let _ = left.send(());
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut wire = gateway.wire();
    wire.send(GET);
    gateway.expect_metric(r#"tillgate_upstream_connections{backend="api",class="default"}"#, 1.0);
    drop(wire);
    leaves.recv_timeout(tillgate_tests::PATIENCE).expect("the server sees the end");
    gateway.expect_metric(&failed("default", "client_gone"), 1.0);
}

#[test]
fn a_connection_that_closed_while_idle_costs_no_request() {
    let origin = Origin::start(|mut wire, _| {
        // One answer for each connection, then it closes without saying so.
        if wire.waits_for_more() {
            wire.reply();
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    for _ in 0..20 {
        gateway
            .expect_metric(r#"tillgate_upstream_connections{backend="api",class="default"}"#, 0.0);
        let reply =
            gateway.ask("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[test]
fn a_full_pool_waits_in_turn_and_refuses_what_does_not_fit() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            wire.reply();
            let _ = wait.lock().expect("one at a time").recv_timeout(tillgate_tests::PATIENCE);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let store = Store::default()
        .pool(|pool| {
            pool.connections_max = 1;
            pool.waiting_max = 1;
        })
        .cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let in_flight = r#"tillgate_requests_in_flight{class="default"}"#;

    let mut first = gateway.wire();
    first.send(GET);
    gateway.expect_metric(in_flight, 1.0);
    let mut second = gateway.wire();
    second.send(GET);
    gateway.expect_metric(in_flight, 2.0);
    eventually("the second waits", || {
        gateway.admin("/v1/status").text().contains("\"waiting\":1").then_some(())
    });
    let third = gateway.ask(GET);
    assert_eq!((third.status, &*third.reason()), (503, "queue_full"));
    assert_eq!(third.header("retry-after"), Some("1"));
    release.send(()).expect("the origin waits");
    assert_eq!(first.reply().text(), "ok");
    release.send(()).expect("the origin waits");
    assert_eq!(second.reply().text(), "ok");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn waiting_for_a_connection_ends_with_the_patience_of_the_class() {
    let origin = Origin::start(|mut wire, _| {
        while wire.waits_for_more() {
            wire.head();
        }
    });
    let store = Store::default().max_wait(SHORT).pool(|pool| pool.connections_max = 1).cloud(
        "api",
        "api.example",
        "default",
        origin.address,
    );
    let gateway = Gateway::start(store.build());
    let mut first = gateway.wire();
    first.send(GET);
    gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 1.0);
    let second = gateway.ask(GET);
    assert_eq!((second.status, &*second.reason()), (503, "queue_timeout"));
}

#[test]
fn who_waits_for_a_connection_does_not_stand_still() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        while wire.waits_for_more() {
            if wire.reply().header("host") == Some("slow.example") {
                let _ = asked.send(());
                dawdle(SHORT * 4);
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let store = Store::default()
        .pool(|pool| pool.connections_max = 1)
        .cloud("slow", "slow.example", "default", origin.address)
        .timeouts(|timeouts| timeouts.idle = SHORT)
        .cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(judged_often(store));
    eventually("who has waited is answered, if the server is in time then", || {
        let before = origin.connections();
        let mut slow = gateway.wire();
        slow.send("GET / HTTP/1.1\r\nHost: slow.example\r\n\r\n");
        is_asked.recv_timeout(tillgate_tests::PATIENCE).expect("the server is asked");
        let waited = gateway.ask(GET);
        assert_eq!(slow.reply().text(), "ok");
        gateway.expect_metric(r#"tillgate_requests_in_flight{class="default"}"#, 0.0);
        assert!(origin.connections() <= before + 1, "it has waited");
        (waited.text() == "ok").then_some(())
    });
}

#[test]
fn a_listener_that_is_full_closes_the_next_connection() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let store = Store::default().cloud("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.limits(|limits| limits.connections_max = 2).build());
    let mut kept = [gateway.wire(), gateway.wire()];
    for wire in &mut kept {
        wire.send(GET);
        assert_eq!(wire.reply().text(), "ok");
    }
    gateway.wire().expect_end();
    gateway.expect_metric(r#"tillgate_connections_refused_total{listener="http"}"#, 1.0);
    kept[0].send(GET);
    assert_eq!(kept[0].reply().text(), "ok");
}

#[test]
fn a_slow_client_does_not_use_up_the_servers_time() {
    let origin = Origin::echoing();
    let store = Store::default().timeouts(|timeouts| timeouts.backend_request = Some(SHORT)).cloud(
        "api",
        "api.example",
        "default",
        origin.address,
    );
    let gateway = Gateway::start(store.build());
    let reply = eventually("the server is in time", || {
        let mut wire = gateway.wire();
        wire.send("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 4\r\n\r\nha");
        // Longer than the server may take, but it is the client who is slow.
        dawdle(SHORT * 2);
        let sent = wire.try_send("lf");
        let reply = wire.reply();
        (sent && reply.status == 200).then_some(reply)
    });
    assert!(reply.text().contains("body half\n"), "{reply:?}");
}
