//! One request or tunnel in flight, as seen from all sides that move its bytes.
//!
//! The client's connection, the story of the request and its two bodies share a [`Flow`]: it
//! counts bytes, remembers when something moved last, and carries the one order to end early.
//! [`Gate`] holds a request's body back until the server has asked for it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::pace::Pace;
use super::server::Malformed;
use crate::clock;
use crate::error::Failure;
use crate::memory::Account;
use crate::shaped::LineWait;

/// One request or tunnel in flight.
#[derive(Debug)]
pub struct Flow {
    born: Instant,
    /// The same by [`clock::lately_millis`].
    born_millis: u64,
    /// Milliseconds after `born`, plus one; zero = not yet.
    sent: AtomicU64,
    /// Milliseconds after `born`.
    moved: AtomicU64,
    /// The same of what came from the server.
    came: AtomicU64,
    idle: AtomicU64,
    critical: AtomicBool,
    /// Milliseconds after `born`; the largest number = never.
    deadline: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    client_cut: AtomicBool,
    /// A [`Malformed`] plus one; zero = nothing is wrong with the request's body.
    malformed: AtomicU8,
    client_owes: AtomicBool,
    queued: AtomicBool,
    /// Milliseconds.
    waited: AtomicU64,
    tries: AtomicU32,
    /// The line of the connection that it was sent on.
    line: Mutex<Option<LineWait>>,
    /// What that connection had waited for grants before, in microseconds.
    line_waited: AtomicU64,
    /// A [`Failure`] plus one; zero = goes on.
    ended: AtomicU8,
    /// Milliseconds after `born`.
    ended_at: AtomicU64,
    /// It has not ended on order, so whoever carries it drops it.
    aborted: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Of whoever carries the request's body, or sends a tunnel's bytes to its client.
    body_waker: Mutex<Option<Waker>>,
    pub(crate) pace: Pace,
    pub(crate) account: Account,
}

/// Before a rule is known: nothing may stand still for longer than this.
const IDLE_UNTIL_KNOWN: Duration = Duration::from_secs(60);

impl Flow {
    /// A flow that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            born_millis: clock::lately_millis(),
            sent: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            came: AtomicU64::new(0),
            idle: AtomicU64::new(millis(IDLE_UNTIL_KNOWN)),
            critical: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            client_cut: AtomicBool::new(false),
            malformed: AtomicU8::new(0),
            client_owes: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            tries: AtomicU32::new(0),
            line: Mutex::new(None),
            line_waited: AtomicU64::new(0),
            ended: AtomicU8::new(0),
            ended_at: AtomicU64::new(0),
            aborted: AtomicBool::new(false),
            waker: Mutex::new(None),
            body_waker: Mutex::new(None),
            pace: Pace::default(),
            account: Account::default(),
        }
    }

    /// When it began.
    pub const fn born(&self) -> Instant {
        self.born
    }

    /// What the rule says: how long nothing may move, and whether its class is critical.
    pub fn bind(&self, idle: Duration, critical: Critical) {
        self.idle.store(millis(idle), Ordering::Relaxed);
        self.critical.store(critical == Critical::Yes, Ordering::Relaxed);
    }

    /// Its client waits until this long after its beginning for its very end.
    pub fn bind_deadline(&self, deadline: Duration) {
        self.deadline.store(millis(deadline), Ordering::Relaxed);
    }

    /// How much longer its client waits; `None`: as long as it takes.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        let deadline = self.deadline.load(Ordering::Relaxed);
        let left = Duration::from_millis(deadline).saturating_sub(now.duration_since(self.born));
        (deadline != u64::MAX).then_some(left)
    }

    /// Whether nobody waits for it any more.
    pub fn is_late(&self, now: Instant) -> bool {
        self.age(now) > self.deadline.load(Ordering::Relaxed)
    }

    /// Whether drains give it all the time there is.
    pub fn is_critical(&self) -> bool {
        self.critical.load(Ordering::Relaxed)
    }

    /// How long nothing may move.
    pub fn idle_limit(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    /// `bytes` left for the server.
    pub fn moved_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    /// `bytes` came from the server.
    pub fn moved_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
        self.came.store(self.moved.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// When something came from the server last; its beginning, if nothing did.
    pub fn came_at(&self) -> Instant {
        self.born + Duration::from_millis(self.came.load(Ordering::Relaxed))
    }

    /// Bytes that left for the server.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that came from the server.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Something moved now.
    pub fn touch(&self) {
        let age = clock::lately_millis().saturating_sub(self.born_millis);
        self.moved.store(age, Ordering::Relaxed);
    }

    /// When something moved last.
    pub fn moved_at(&self) -> Instant {
        self.born + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// It waits for a connection until the guard is dropped; nobody stands still meanwhile. Who
    /// lets it wait limits how long.
    pub fn queue(&self) -> Queued<'_> {
        self.queued.store(true, Ordering::Relaxed);
        Queued { flow: self, since: self.moved.load(Ordering::Relaxed) }
    }

    /// Whether it waits for a connection.
    pub fn is_queued(&self) -> bool {
        self.queued.load(Ordering::Relaxed)
    }

    /// How long it has waited for connections.
    pub fn queued_for(&self) -> Duration {
        Duration::from_millis(self.waited.load(Ordering::Relaxed))
    }

    /// How long bytes on its connection have waited for the line since it was sent; of a
    /// connection that is gone, nothing is known.
    pub fn line_waited(&self) -> Duration {
        let now = self.line().as_ref().map_or(Duration::ZERO, LineWait::waited);
        now.saturating_sub(Duration::from_micros(self.line_waited.load(Ordering::Relaxed)))
    }

    /// Connections that it was sent on.
    pub fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }

    /// Whether it waits for us, not for a peer: for a connection, or for its line. Then now is
    /// when something moved last. Returns whether that is so.
    pub fn excuse(&self) -> bool {
        let waits = self.queued.load(Ordering::Relaxed)
            || self.line().as_ref().is_some_and(LineWait::is_waiting);
        if waits {
            self.touch();
        }
        waits
    }

    /// Whether it crosses a line.
    pub fn has_line(&self) -> bool {
        self.line().is_some()
    }

    /// A try was handed to a connection (across this line, if any) now: from here on the server's
    /// time runs.
    pub fn mark_sent(&self, line: Option<LineWait>) {
        if let Some(line) = &line {
            let waited = u64::try_from(line.waited().as_micros()).unwrap_or(u64::MAX);
            self.line_waited.store(waited, Ordering::Relaxed);
        }
        *self.line() = line;
        // One task writes this: no need to add in one step.
        self.tries.store(self.tries() + 1, Ordering::Relaxed);
        let age = self.age(clock::now());
        self.sent.store(age + 1, Ordering::Relaxed);
        self.moved.store(age, Ordering::Relaxed);
    }

    /// Since when the server has been owing an answer: since the try was sent, or since the last
    /// piece of the request's body left (a piece that waits for the line does not count against
    /// the server). `None` before that, and while the client owes a piece.
    pub fn owed_since(&self) -> Option<Instant> {
        if self.client_owes.load(Ordering::Relaxed) {
            return None;
        }
        let sent = self.sent.load(Ordering::Relaxed).checked_sub(1)?;
        Some((self.born + Duration::from_millis(sent)).max(self.moved_at()))
    }

    /// Whether the next piece of the request's body is wanted and has not come.
    pub fn client_owes(&self, owes: Owes) {
        self.client_owes.store(owes == Owes::Yes, Ordering::Relaxed);
    }

    /// The client's side of the request's body broke.
    pub fn cut_by_client(&self) {
        self.client_cut.store(true, Ordering::Relaxed);
    }

    /// The request's body is not one.
    pub fn malformed_by_client(&self, why: Malformed) {
        self.malformed.store(why as u8 + 1, Ordering::Relaxed);
    }

    /// What is wrong with the request's body, if something is.
    pub fn malformed(&self) -> Option<Malformed> {
        Malformed::from_number(self.malformed.load(Ordering::Relaxed).checked_sub(1)?)
    }

    /// Whether the client's side of the request's body broke.
    pub fn is_cut_by_client(&self) -> bool {
        self.client_cut.load(Ordering::Relaxed)
    }

    /// Orders the flow to end with `failure`, once; the first order stands.
    pub fn end(&self, failure: Failure) {
        let code = failure as u8 + 1;
        if self.ended.load(Ordering::Acquire) == 0 {
            self.ended_at.store(self.age(clock::now()), Ordering::Relaxed);
        }
        let _ = self.ended.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        self.wake();
    }

    /// For how long it has been told to end.
    pub fn is_ending_for(&self, now: Instant) -> Duration {
        let since = Duration::from_millis(self.ended_at.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born + since)
    }

    /// It has not ended on order: whoever carries it shall drop it. A peer that takes nothing
    /// cannot be told anything.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether it shall be dropped.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// Ready once it shall be dropped; else whoever polled last is woken.
    pub fn poll_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        keep_waker(&self.waker, cx);
        if self.is_aborted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The same for what sends a tunnel's bytes to its client, which is another task than the
    /// tunnel's; no body is on its way any more.
    pub(super) fn poll_tunnel_aborted(&self, cx: &Context<'_>) -> Poll<()> {
        keep_waker(&self.body_waker, cx);
        if self.is_aborted() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// [`Self::poll_ended`] for whoever carries the request's body, which may be another task.
    pub fn poll_body_ended(&self, cx: &Context<'_>) -> Poll<Failure> {
        keep_waker(&self.body_waker, cx);
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    fn wake(&self) {
        for slot in [&self.waker, &self.body_waker] {
            let waker = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whether the next piece of the request's body is wanted and has not come.
    pub(crate) fn does_client_owe(&self) -> bool {
        self.client_owes.load(Ordering::Relaxed)
    }

    /// How long it has lived.
    pub(crate) fn lives_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// The order to end, if there is one.
    pub fn ended(&self) -> Option<Failure> {
        let code = self.ended.load(Ordering::Acquire).checked_sub(1)?;
        crate::error::TABLE.get(usize::from(code)).map(|row| row.failure)
    }

    /// Ready with the order to end; else whoever polled last is woken when it comes.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Failure> {
        if let Some(failure) = self.ended() {
            return Poll::Ready(failure);
        }
        keep_waker(&self.waker, cx);
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    fn age(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born))
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Option<LineWait>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_waker(slot: &Mutex<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

/// While this lives, its flow waits for a connection.
#[derive(Debug)]
pub struct Queued<'a> {
    flow: &'a Flow,
    /// Milliseconds after the flow was born: when something moved last, which is close enough.
    since: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let flow = self.flow;
        flow.queued.store(false, Ordering::Relaxed);
        flow.touch();
        let waited = flow.moved.load(Ordering::Relaxed).saturating_sub(self.since);
        if waited > 0 {
            flow.waited.store(flow.waited.load(Ordering::Relaxed) + waited, Ordering::Relaxed);
        }
    }
}

/// Whether somebody is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owes {
    /// He is.
    Yes,
    /// He is not.
    No,
}

/// Whether a class is critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Critical {
    /// It is.
    Yes,
    /// It is not.
    No,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Holds a request's body back until the server has said `100 Continue`.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The body may pass.
    Free,
    /// The server has answered without wanting it.
    Unwanted,
}

impl Gate {
    /// Lets the body pass.
    pub fn open(&self) {
        self.settle(OPEN);
    }

    /// The body is not wanted any more. Nothing happens if it passes already.
    pub fn give_up(&self) {
        self.settle(GIVEN_UP);
    }

    /// Whether the body still waits.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Ready once the gate has been opened or given up.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Passage> {
        let verdict = || match self.state.load(Ordering::Acquire) {
            CLOSED => Poll::Pending,
            OPEN => Poll::Ready(Passage::Free),
            _ => Poll::Ready(Passage::Unwanted),
        };
        if verdict().is_ready() {
            return verdict();
        }
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *waker = Some(cx.waker().clone());
        verdict()
    }

    fn settle(&self, state: u8) {
        let _ = self.state.compare_exchange(CLOSED, state, Ordering::AcqRel, Ordering::Acquire);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}
