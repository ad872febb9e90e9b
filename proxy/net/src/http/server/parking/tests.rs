//! Clients of plain sockets whose questions wait: what they get, when, and what is left of them.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::watch::Verdict;
use super::super::{ClientIo, Entry, Limits, serve_patient};
use super::*;
use crate::clock;
use crate::drain::{Drain, Phase};
use crate::memory::Ledger;
use crate::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(60);

/// More than the kernel takes off our hands.
const LARGE: usize = 32 * 1024 * 1024;

/// Answers `/held` when it speaks, and everything else at once.
#[derive(Default)]
struct Oracle {
    speaks: watch::Sender<bool>,
    /// As many more as there are questions that wait.
    waiting: Arc<()>,
    /// It has seen more requests than the listener takes.
    is_crowded: AtomicBool,
}

impl Oracle {
    fn waiting(&self) -> usize {
        Arc::strong_count(&self.waiting) - 1
    }
}

impl Patient for Oracle {
    type Body = Full<Bytes>;

    async fn ask(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Reply<Self::Body> {
        if caller.flow.is_beyond() {
            self.is_crowded.store(true, Ordering::Relaxed);
        }
        if let Some(why) = caller.refused {
            return Reply::Now(Response::new(why.detail().into()));
        }
        match request.uri().path() {
            "/held" => {
                let (mut speaks, waits) = (self.speaks.subscribe(), Arc::clone(&self.waiting));
                Reply::Later(Box::pin(async move {
                    let _ = speaks.wait_for(|speaks| *speaks).await;
                    drop(waits);
                    Response::new("at last".into())
                }))
            }
            "/large" => Reply::Now(Response::new(vec![b'x'; LARGE].into())),
            path => {
                let path = path.to_owned();
                let _ = request.into_body().collect().await;
                Reply::Now(Response::new(path.into()))
            }
        }
    }
}

fn entry(requests_max: usize) -> Arc<Entry> {
    let limits = Limits {
        connections_max: 9,
        connections_per_client_max: 9,
        requests_max,
        ..Limits::FOR_ONE
    };
    let meter = Metrics::new("0").listener(&"config".into());
    Entry::new(limits, meter, Drain::default(), None, Ledger::new(1 << 20))
}

/// A listener, and who answers there.
struct Site {
    entry: Arc<Entry>,
    oracle: Arc<Oracle>,
    address: std::net::SocketAddr,
}

impl Site {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (entry, oracle) = (entry(9), Arc::<Oracle>::default());
        tokio::spawn(serve_patient(listener, Arc::clone(&entry), Arc::clone(&oracle)));
        Self { entry, oracle, address }
    }

    /// A client that sends `text`.
    async fn client(&self, text: &str) -> Client {
        let mut client = Client(TcpStream::connect(self.address).await.unwrap());
        client.send(text).await;
        client
    }

    /// One whose question `text` waits.
    async fn held(&self, text: &str) -> Client {
        let client = self.client(text).await;
        until(|| self.oracle.waiting() == 1 && self.in_flight() == 1).await;
        client
    }

    fn speak(&self) {
        self.oracle.speaks.send_replace(true);
    }

    fn in_flight(&self) -> usize {
        self.entry.requests.load(Ordering::Relaxed)
    }

    /// Nothing is left of any client.
    async fn is_empty(&self) {
        until(|| self.oracle.waiting() == 0 && self.in_flight() == 0).await;
        until(|| self.entry.open.load(Ordering::Relaxed) == 0).await;
        until(|| self.entry.drain.live() == 0).await;
    }
}

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next bytes are a head that has these lines, and then `body`.
    async fn gets(&mut self, lines: &[&str], body: &str) {
        let head = self.head().await;
        for line in lines {
            assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
        }
        let mut got = vec![0; body.len()];
        within(self.0.read_exact(&mut got)).await.unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), body, "{head}");
    }

    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(self.0.read_u8()).await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// There is nothing more.
    async fn ends(&mut self) {
        let mut rest = Vec::new();
        within(self.0.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn until(is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    within(async {
        while !is_so() {
            looks.tick().await;
        }
    })
    .await;
}

/// Runs `story` with a fresh listener.
fn run<F: Future<Output = ()>>(story: impl FnOnce(Site) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { story(Site::new()).await });
}

const HELD: &str = "GET /held HTTP/1.1\r\nHost: a\r\n\r\n";
const NOW: &str = "GET /now HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_answer_comes_late_and_the_connection_goes_on() {
    run(|site| async move {
        let mut client = site.held(HELD).await;
        site.speak();
        client.gets(&["HTTP/1.1 200 OK", "content-length: 7"], "at last").await;
        until(|| site.in_flight() == 0).await;
        client.send(NOW).await;
        client.gets(&[], "/now").await;
        // A question may wait again.
        site.oracle.speaks.send_replace(false);
        client.send(HELD).await;
        until(|| site.oracle.waiting() == 1).await;
        site.speak();
        client.gets(&[], "at last").await;
        drop(client);
        site.is_empty().await;
    });
}

#[test]
fn what_is_sent_beyond_a_question_is_answered_after_it() {
    run(|site| async move {
        let mut both = site.held(&format!("{HELD}{NOW}{NOW}")).await;
        site.speak();
        both.gets(&[], "at last").await;
        both.gets(&[], "/now").await;
        both.gets(&[], "/now").await;
        drop(both);
        site.is_empty().await;

        // In parts, of which the first come while it waits.
        site.oracle.speaks.send_replace(false);
        let mut parts = site.held(HELD).await;
        let body = "b".repeat(100_000);
        parts.send("POST /now HTTP/1.1\r\nHo").await;
        // There is one thread: what was sent is read before the next part.
        tokio::task::yield_now().await;
        parts.send(&format!("st: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        tokio::task::yield_now().await;
        site.speak();
        parts.gets(&[], "at last").await;
        parts.send(&body).await;
        parts.gets(&[], "/now").await;
        parts.send(NOW).await;
        parts.gets(&[], "/now").await;
        drop(parts);
        site.is_empty().await;

        // What is no request is refused in its turn.
        site.oracle.speaks.send_replace(false);
        let mut broken = site.held(&format!("{HELD}GET /now HTTP/1.1\r\nHost : a\r\n\r\n")).await;
        site.speak();
        broken.gets(&[], "at last").await;
        let why = crate::http::server::Malformed::FieldName.detail();
        broken.gets(&["connection: close"], why).await;
        drop(broken);
        site.is_empty().await;
    });
}

#[test]
fn an_earlier_answer_is_read_to_its_end() {
    run(|site| async move {
        let large = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = site.client(&format!("{large}{HELD}{NOW}")).await;
        client.gets(&[], &"x".repeat(LARGE)).await;
        until(|| site.oracle.waiting() == 1).await;
        site.speak();
        client.gets(&[], "at last").await;
        client.gets(&[], "/now").await;
    });
}

#[test]
fn a_client_that_goes_takes_its_question_along() {
    run(|site| async move {
        let client = site.held(HELD).await;
        drop(client);
        site.is_empty().await;
    });
}

#[test]
fn a_drain_waits_for_the_answer_and_then_closes() {
    run(|site| async move {
        let mut client = site.held(&format!("{HELD}{NOW}")).await;
        site.entry.drain.advance(Phase::Draining);
        // There is one thread: whoever was told has heard it.
        tokio::task::yield_now().await;
        site.speak();
        client.gets(&["connection: close"], "at last").await;
        client.ends().await;
        site.is_empty().await;
    });
}

#[test]
fn the_end_of_a_drain_does_not_wait() {
    run(|site| async move {
        let mut client = site.held(HELD).await;
        site.entry.drain.advance(Phase::CutAll);
        client.ends().await;
        site.is_empty().await;
    });
}

#[test]
fn answers_are_framed_as_the_question_wants() {
    run(|site| async move {
        site.speak();
        let mut head = site.client(&format!("{}{NOW}", HELD.replace("GET", "HEAD"))).await;
        head.gets(&["content-length: 7"], "").await;
        head.gets(&[], "/now").await;

        for (old, keeps) in [("", false), ("Connection: Keep-Alive\r\n", true)] {
            let old = format!("GET /held HTTP/1.0\r\n{old}\r\n");
            let mut client = site.client(&format!("{old}{old}")).await;
            if keeps {
                let lines = ["HTTP/1.0 200 OK", "connection: keep-alive"];
                client.gets(&lines, "at last").await;
                client.gets(&lines, "at last").await;
            } else {
                client.gets(&["HTTP/1.0 200 OK"], "at last").await;
                client.ends().await;
            }
        }

        let last = HELD.replace("Host", "Connection: x, Close\r\nHost");
        let mut last = site.client(&format!("{last}{NOW}")).await;
        last.gets(&["connection: close"], "at last").await;
        last.ends().await;

        let body = "POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        let mut body = site.client(&format!("{body}{NOW}")).await;
        body.gets(&[], "at last").await;
        body.gets(&[], "/now").await;
        drop((head, body));
        site.is_empty().await;
    });
}

#[test]
fn a_question_that_waits_is_a_request_in_flight() {
    run(|site| async move {
        let limits = Limits { requests_max: 1, ..site.entry.limits() };
        site.entry.set_limits(limits);
        let first = site.held(HELD).await;
        let mut second = site.client(NOW).await;
        second.gets(&[], "/now").await;
        assert!(site.oracle.is_crowded.swap(false, Ordering::Relaxed));
        drop((first, second));
        site.is_empty().await;
        let mut third = site.client(NOW).await;
        third.gets(&[], "/now").await;
        assert!(!site.oracle.is_crowded.load(Ordering::Relaxed));
    });
}

#[test]
fn a_connection_that_waits_keeps_little_and_is_not_judged_by_its_silence() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = || async { ClientIo::Plain(listener.accept().await.unwrap().0) };
        let (entry, oracle) = (entry(9), Arc::<Oracle>::default());
        let place = || entry.admit([127, 0, 0, 1].into()).unwrap();
        let peer = client.local_addr().unwrap();
        let spot = Arc::new(Spot::default());
        let stream_now = stream().await;
        let requests = Requests::new(peer, &stream_now, place(), entry.drain.ticket());
        let service = service_fn(|request: Request<Incoming>| {
            let (caller, switch) = requests.caller(&request);
            let turn = Turn::Question(request, caller, switch);
            settle(turn, Arc::clone(&oracle), Arc::clone(&spot))
        });
        let mut parkable = pin!(Parkable::new(requests.io(stream_now), service, &spot, &requests));
        client.write_all(HELD.as_bytes()).await.unwrap();
        within(std::future::poll_fn(|cx| {
            assert!(parkable.as_mut().poll(cx).is_pending());
            if oracle.waiting() == 1 { Poll::Ready(()) } else { Poll::Pending }
        }))
        .await;
        let State::Parked(waiting) = &parkable.state else { panic!("hyper still has it") };
        let size = std::mem::size_of_val(&**waiting);
        assert!(size <= 512, "{size} bytes");
        for hours in 1..9 {
            let then = clock::now() + Duration::from_secs(hours * 3600);
            assert_eq!(requests.watch.judge(then, &entry.limits()), Verdict::Keep);
        }

        let _second = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = super::Client { peer, stream: stream().await };
        let ticket = entry.drain.ticket();
        let connection = serve_connection(client, place(), ticket, Arc::clone(&oracle));
        // With what waits, all that its task holds of a connection.
        let size = std::mem::size_of_val(&connection);
        assert!(size <= 1536, "{size} bytes");
    });
}
