//! Failover of gRPC: calls that a server did not look at, streams, answers that are failures in
//! gRPC's words.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tillgate_tests::eventually;
use tillgate_tests::frames::{End, Frames, code, field, flag, grpc_request, kind};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::h2;
use tillgate_tests::origin::Origin;

use super::scene::{SHARED_KEY, compiled, policy, single};

/// One call, with an empty message.
fn pay(host: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{host}/s/Pay"))
        .header("content-type", "application/grpc")
        .body(Full::from(&b"\0\0\0\0\0"[..]))
        .expect("a valid request")
}

/// `:status: 200`, then the field.
fn grpc_answer(name: &str, value: &str) -> Vec<u8> {
    let kind = field("content-type", "application/grpc");
    [vec![0x88], kind, field(name, value)].concat()
}

/// Answers probes, which have no body; the next call's stream, when its request is there.
fn next_call(frames: &mut Frames) -> Option<u32> {
    loop {
        let frame = frames.frame()?;
        let is_whole = frame.flags & flag::END_STREAM != 0;
        if frame.kind == kind::HEADERS && is_whole {
            let all = flag::END_HEADERS | flag::END_STREAM;
            frames.send(kind::HEADERS, all, frame.stream, grpc_answer("x-probe", "1"));
        } else if frame.kind == kind::DATA && is_whole {
            return Some(frame.stream);
        }
    }
}

#[test]
fn a_call_that_its_only_server_did_not_look_at_goes_there_on_a_new_connection() {
    for refuses in [false, true] {
        let (tell, told) = mpsc::channel();
        let (turned_away, tell) = (AtomicBool::new(false), Mutex::new(tell));
        let server = Origin::in_frames(move |mut frames, number| {
            while let Some(stream) = next_call(&mut frames) {
                let _ = tell.lock().expect("no panic").send(number);
                let first = !turned_away.swap(true, Ordering::SeqCst);
                match (first, refuses) {
                    (true, true) => {
                        let refused = code::REFUSED_STREAM.to_be_bytes();
                        frames.send(kind::RST_STREAM, flag::NONE, stream, refused);
                    }
                    (true, false) => {
                        // The last one that it has looked at is none of ours.
                        frames.send(kind::GOAWAY, flag::NONE, 0, [0; 8]);
                        return;
                    }
                    (false, _) => {
                        let all = flag::END_HEADERS | flag::END_STREAM;
                        let answer = grpc_answer("grpc-status", "0");
                        frames.send(kind::HEADERS, all, stream, answer);
                    }
                }
            }
        });
        let gateway = Gateway::start(compiled(&single(server.address, "GRPC")));
        let answer = h2::Client::connect(gateway.http).ask(pay("rpc.example"));
        assert_eq!(answer.head.headers["grpc-status"], "0", "refuses {refuses}: {answer:?}");
        let connections: Vec<usize> = told.try_iter().collect();
        assert_eq!(connections.len(), 2, "it was sent twice and executed once");
        assert_ne!(connections[0], connections[1], "refuses {refuses}");
    }
}

#[test]
fn a_stream_on_a_server_that_is_out_ends_though_its_client_talks() {
    let frozen = Arc::<AtomicBool>::default();
    let freezes = Arc::clone(&frozen);
    let server = Origin::in_frames(move |mut frames, _| {
        while let Some(frame) = frames.frame() {
            if frame.kind != kind::HEADERS || freezes.load(Ordering::SeqCst) {
                continue;
            }
            let is_probe = frame.flags & flag::END_STREAM != 0;
            let flags = flag::END_HEADERS | if is_probe { flag::END_STREAM } else { flag::NONE };
            frames.send(kind::HEADERS, flags, frame.stream, grpc_answer("x-probe", "1"));
        }
    });
    let gateway = Gateway::start(compiled(&single(server.address, "GRPC")));
    let mut client = Frames::connect(gateway.http);
    client.send(kind::HEADERS, flag::END_HEADERS, 1, grpc_request("/s/Pay", &[]));
    client.until(kind::HEADERS);
    frozen.store(true, Ordering::SeqCst);
    let series = "tillgate_failures_total{class=\"payment\",reason=\"backend_ejected\"}";
    eventually("the stream is ended", || {
        client.send(kind::DATA, flag::NONE, 1, [0, 0, 0, 0, 0]);
        (gateway.metric(series) > 0.5).then_some(())
    });
    assert_eq!(client.ping().err().filter(|end| *end == End::Closed), None, "the client's own");
}

/// A server of gRPC that answers calls with this status, as soon as it may.
fn status_server(status: &'static str, may: mpsc::Receiver<()>) -> Origin {
    let may = Mutex::new(may);
    Origin::in_frames(move |mut frames, _| {
        while let Some(stream) = next_call(&mut frames) {
            let _ = may.lock().expect("no panic").recv_timeout(tillgate_tests::PATIENCE);
            let all = flag::END_HEADERS | flag::END_STREAM;
            frames.send(kind::HEADERS, all, stream, grpc_answer("grpc-status", status));
        }
    })
}

/// What the status says of what failed last at the second server.
fn status_of_cloud(gateway: &Gateway) -> String {
    let text = gateway.admin("/v1/status").text();
    text[text.find("pricing-cloud").unwrap_or(0)..].to_owned()
}

#[test]
fn a_hedge_that_fails_in_grpcs_words_does_not_win() {
    let (answer_slow, slow) = mpsc::channel();
    let (answer_fast, fast) = mpsc::channel();
    let [local, cloud] =
        [("0", slow), ("14", fast)].map(|(status, may)| status_server(status, may));
    let rule = format!("{SHARED_KEY}      retry: {{hedge: {{after: 100ms}}}}\n");
    let text = policy(local.address, cloud.address, &rule);
    let gateway = Gateway::start(compiled(&text.replace("protocol: HTTP", "protocol: GRPC")));
    let (http, hedges) =
        (gateway.http, "tillgate_retries_total{route=\"pricing\",reason=\"hedge\"}");
    let asked = std::thread::spawn(move || {
        let mut request = pay("pay.example");
        request.headers_mut().insert("idempotency-key", HeaderValue::from_static("7"));
        h2::Client::connect(http).ask(request)
    });
    gateway.expect_metric(hedges, 1.0);
    answer_fast.send(()).expect("the second server waits");
    eventually("the second answer has come", || {
        status_of_cloud(&gateway).contains("gateway_errors").then_some(())
    });
    answer_slow.send(()).expect("the first server waits");
    let answer = asked.join().expect("no panic");
    assert_eq!(answer.head.headers["grpc-status"], "0", "{answer:?}");
}
