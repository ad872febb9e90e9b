//! HTTP/2 frame by frame against the HTTP entry: the cases of h2spec by their numbers (generic,
//! http2 and hpack sections), as a table of what is sent and what must follow.
//!
//! Where RFC 9113 allows an error of the stream to be one of the connection, both pass. Where it
//! wants an error of the connection with another code, `PROTOCOL_ERROR` passes if the connection
//! is closed, as in h2spec: the `h2` crate says that of malformed frames, settings and blocks.

use tillgate_tests::frames::{End, Frames, code, field, fields, flag, kind, request};
use tillgate_tests::gateway::Gateway;
use tillgate_tests::origin::Origin;
use tillgate_tests::store::Store;

#[path = "h2_frames/fields.rs"]
mod fields;
#[path = "h2_frames/flow.rs"]
mod flow;
#[path = "h2_frames/frames.rs"]
mod frames;
#[path = "h2_frames/generic.rs"]
mod generic;
#[path = "h2_frames/hpack.rs"]
mod hpack;
#[path = "h2_frames/states.rs"]
mod states;

use self::Expect::{Answer, Connection, Ignored, Peace, Stream};

const ALL: u8 = flag::END_HEADERS | flag::END_STREAM;

/// What must follow.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// GOAWAY with one of these codes, or the connection is closed.
    Connection(&'static [u32]),
    /// A reset of the stream with one of these codes, or an error of the connection.
    Stream(&'static [u32]),
    /// A whole answer on stream 1.
    Answer,
    /// Nothing: the connection goes on.
    Ignored,
    /// The connection goes on, or ends in peace.
    Peace,
}

type Case = (&'static str, fn(&mut Frames), Expect);

fn run(cases: &[Case]) {
    let origin = Origin::echoing();
    let store = Store::default().local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    let mut wrong = Vec::new();
    for (name, act, expected) in cases {
        let mut frames = Frames::connect(gateway.http);
        eprintln!("{name}");
        act(&mut frames);
        let seen = match expected {
            Answer => {
                frames.answer(1);
                continue;
            }
            Ignored => match frames.ping() {
                Ok(()) => continue,
                Err(end) => end,
            },
            Peace => match frames.ping() {
                Ok(()) | Err(End::Closed | End::GoAway(code::NO_ERROR)) => continue,
                Err(end) => end,
            },
            Connection(_) | Stream(_) => frames.end(),
        };
        let fits = match (&seen, expected) {
            (End::Closed, Connection(_) | Stream(_)) => true,
            (End::GoAway(code), Connection(codes) | Stream(codes)) => {
                let known = codes.contains(code) || *code == code::PROTOCOL_ERROR;
                known && frames.end() == End::Closed
            }
            (End::Reset(_, code), Stream(codes)) => codes.contains(code),
            _ => false,
        };
        if !fits {
            wrong.push(format!("{name}: {seen:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let reply = gateway.ask("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(reply.status, 200, "it still serves");
}

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const CLOSED: &[u32] = &[code::STREAM_CLOSED];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];

fn with(extra: &[(&str, &str)]) -> Vec<u8> {
    [request("GET", "/"), fields(extra)].concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

#[test]
fn what_is_no_preface_is_answered_as_http1() {
    let origin = Origin::echoing();
    let store = Store::default().local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    // http2/3.5/1 and /2: a server may close, or say what it thinks of it.
    let reply = gateway.ask("INVALID CONNECTION PREFACE\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
    let reply = gateway.ask("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
}
