//! A replica of `lab failover` as the process that it is: what it answers, and what its book says
//! that it did. Loopback only; no namespaces.

#![expect(clippy::unwrap_used, reason = "what cannot be had fails the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tillgate_bench::process::Scratch;
use tillgate_bench::sys;

/// For a process to start, on a machine that does other things as well.
const PATIENCE_SECONDS: u64 = 20;

struct Replica {
    process: Child,
    address: SocketAddr,
    scratch: Scratch,
}

impl Drop for Replica {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Until `what` gives something.
fn eventually<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let patience = sys::now() + PATIENCE_SECONDS * sys::NANOS_PER_SEC;
    loop {
        match what() {
            Some(found) => return found,
            None => assert!(sys::now() < patience, "it takes too long"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Replica {
    fn start() -> Self {
        let scratch = Scratch::new().unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(["replica-role", &address.to_string(), "local"]);
        command.args([scratch.path().join("book"), scratch.path().join("control")]).arg("0");
        let replica = Self { process: command.spawn().unwrap(), address, scratch };
        eventually(|| TcpStream::connect(address).ok());
        replica
    }

    /// Tells it how to behave, and waits until `seen` says that it does.
    fn behave(&self, word: &str, seen: impl Fn(&Self) -> bool) {
        let socket = UnixDatagram::unbound().unwrap();
        let to = self.scratch.path().join("control");
        socket.send_to(format!("{word:?}").as_bytes(), to).unwrap();
        eventually(|| seen(self).then_some(()));
    }

    /// A POST over HTTP/1.1: everything that comes back, and how it ended.
    fn post(&self, call: u64) -> (String, Option<ErrorKind>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(PATIENCE_SECONDS))).unwrap();
        let head = "POST /pay HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n";
        write!(stream, "{head}x-call: {call}\r\n\r\nab").unwrap();
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        (String::from_utf8_lossy(&answer).into_owned(), end.err().map(|error| error.kind()))
    }

    /// What the book says about a call.
    fn events(&self, call: u64) -> Vec<String> {
        let book = std::fs::read_to_string(self.scratch.path().join("book")).unwrap();
        let of = |line: &str| {
            let (event, rest) = line.split_once(' ')?;
            (rest.split(' ').next()? == call.to_string()).then(|| event.to_owned())
        };
        book.lines().filter_map(of).collect()
    }
}

#[test]
fn a_call_is_read_executed_and_answered() {
    let replica = Replica::start();
    let (answer, end) = replica.post(7);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:.200}");
    assert!(answer.contains("x-tier: local\r\n"), "{answer:.200}");
    assert_eq!(end, None);
    assert_eq!(replica.events(7), ["read", "executed", "answered"]);
    replica.post(0);
    assert_eq!(replica.events(0), Vec::<String>::new(), "not part of a load");
}

#[test]
fn what_goes_wrong_is_in_the_book_as_it_was() {
    let replica = Replica::start();
    let health = |replica: &Replica| {
        let mut stream = TcpStream::connect(replica.address).unwrap();
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.contains(" 200 ")
    };
    replica.behave("unavailable", |replica| replica.post(0).0.contains(" 503 "));
    assert!(replica.post(1).0.starts_with("HTTP/1.1 503 "));
    assert_eq!(replica.events(1), ["read"], "it was refused, not executed");
    assert!(health(&replica), "health says yes while calls are refused");

    replica.behave("reset-after-read", |replica| replica.post(0).0.is_empty());
    assert_eq!(replica.post(2), (String::new(), Some(ErrorKind::ConnectionReset)));
    assert_eq!(replica.events(2), ["read", "executed"]);

    replica.behave("reset-mid-body", |replica| !replica.post(0).0.is_empty());
    let (answer, end) = replica.post(3);
    assert!(answer.contains("content-length: 900\r\n"), "{answer:.200}");
    assert_eq!(end, Some(ErrorKind::ConnectionReset), "{answer:.200}");
    assert_eq!(replica.events(3), ["read", "executed"]);

    replica.behave("closed", |replica| TcpStream::connect(replica.address).is_err());
    replica.behave("well", |replica| TcpStream::connect(replica.address).is_ok());
    replica.post(4);
    assert_eq!(replica.events(4), ["read", "executed", "answered"]);
}

#[tokio::test(flavor = "current_thread")]
async fn grpc_on_the_same_port() {
    let replica = Replica::start();
    let stream = tokio::net::TcpStream::connect(replica.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for path in ["/grpc.health.v1.Health/Check", "/lab.Payments/Pay"] {
        let request = hyper::Request::post(format!("http://a{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-call", "5")
            .body(Full::new(&[0_u8; 5][..]))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc", "{path}");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0", "{path}");
        let bytes = body.to_bytes();
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap() + 5, bytes.len(), "{path}");
    }
    // Health is no call; the last frame of an answer is noted when it has been handed over.
    assert_eq!(replica.events(5), ["read", "executed", "answered"]);
}
