//! HTTP/2 frame by frame against the HTTP entry: the cases of h2spec by their numbers (generic,
//! http2 and hpack sections), as tables of what must follow and what is sent.
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
#[path = "h2_frames/talk.rs"]
mod talk;

use self::Expect::{Answer, Connection, Ignored, Peace, Stream};
use self::talk::{Talk, request_after, setting};

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

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const CLOSED: &[u32] = &[code::STREAM_CLOSED];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const REFUSED: &[u32] = &[code::PROTOCOL_ERROR, code::REFUSED_STREAM];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];

/// What a client does on a connection of its own.
type Act = fn(&mut Talk) -> &mut Talk;

/// A row of a table: its name, what must follow, what is sent.
struct Case(&'static str, Expect, Act);

/// Short, so that most rows are one line.
const fn case(name: &'static str, expected: Expect, act: Act) -> Case {
    Case(name, expected, act)
}

fn start() -> (Origin, Gateway) {
    let origin = Origin::echoing();
    let store = Store::default().local("api", "api.example", "default", origin.address);
    let gateway = Gateway::start(store.build());
    (origin, gateway)
}

/// Tries each case; all that went wrong are told together.
fn run(cases: &[Case]) {
    let (_origin, gateway) = start();
    let mut wrong = Vec::new();
    for Case(name, expected, act) in cases {
        let mut talk = Talk(Frames::connect(gateway.http));
        eprintln!("{name}");
        act(&mut talk);
        if let Err(seen) = follows(&mut talk.0, *expected) {
            wrong.push(format!("{name}: {seen:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let reply = gateway.ask("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n");
    assert_eq!(reply.status, 200, "it still serves");
}

/// Whether what follows is what must; else what it is.
fn follows(frames: &mut Frames, expected: Expect) -> Result<(), End> {
    let codes = match expected {
        Answer => {
            frames.answer(1);
            return Ok(());
        }
        Ignored => return frames.ping(),
        Peace => {
            return frames.ping().or_else(|end| match end {
                End::Closed | End::GoAway(code::NO_ERROR) => Ok(()),
                end @ (End::GoAway(_) | End::Reset(..)) => Err(end),
            });
        }
        Connection(codes) | Stream(codes) => codes,
    };
    let seen = frames.end();
    let fits = match seen {
        End::Closed => true,
        End::GoAway(code) => {
            let known = codes.contains(&code) || code == code::PROTOCOL_ERROR;
            known && frames.end() == End::Closed
        }
        End::Reset(_, code) => matches!(expected, Stream(_)) && codes.contains(&code),
    };
    if fits { Ok(()) } else { Err(seen) }
}

#[test]
fn what_is_no_preface_is_answered_as_http1() {
    let (_origin, gateway) = start();
    // http2/3.5/1 and /2: a server may close, or say what it thinks of it.
    let reply = gateway.ask("INVALID CONNECTION PREFACE\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
    let reply = gateway.ask("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!((reply.status, &*reply.reason()), (400, "invalid_request"));
}
