//! One direction of a line: drives one scheduler, wakes the streams it grants.
//!
//! A stream asks with [`LinkDirection::poll_take`] and gets bytes at once where the scheduler
//! allows it; otherwise its waker is kept and called when its grant comes. One task runs
//! [`LinkDirection::drive`], which arms one timer from the scheduler. Wakers are called after the
//! lock is released, because a waker may be the last owner of a stream of this line.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tillgate_core::schedule::{ClassShare, Demand, FlowId, LineRate, Policed, Scheduler};
use tillgate_core::units::{SEGMENT_OVERHEAD, wire_bytes};
use tokio::sync::Notify;

use crate::clock;
use crate::link::snapshot::ClassCounters;

/// One direction of a line.
#[derive(Debug)]
pub(crate) struct LinkDirection {
    state: Mutex<State>,
    rearm: Notify,
    link_overhead: u64,
}

#[derive(Debug)]
struct State {
    scheduler: Scheduler,
    flows: Vec<Flow>,
    classes: Vec<ClassCounters>,
    /// What the timer is set to.
    armed: Option<Instant>,
}

/// What this side knows of a scheduler's flow.
#[derive(Debug, Default)]
struct Flow {
    class: usize,
    /// Granted and not yet taken.
    granted: u64,
    waker: Option<Waker>,
    /// Since when it waits for a grant.
    waiting_since: Option<Instant>,
    /// Asked for while out of turn.
    held: u64,
    parked: bool,
}

impl LinkDirection {
    pub(crate) fn new(line: LineRate, link_overhead: u16, classes: &[ClassShare]) -> Self {
        let state = State {
            scheduler: Scheduler::new(line, link_overhead, classes, clock::now()),
            flows: Vec::new(),
            classes: vec![ClassCounters::default(); classes.len()],
            armed: None,
        };
        Self {
            state: Mutex::new(state),
            rearm: Notify::new(),
            link_overhead: u64::from(link_overhead),
        }
    }

    /// Runs the timer of this direction until dropped.
    pub(crate) async fn drive(&self) {
        let far = clock::now() + Duration::from_secs(3600);
        let sleep = tokio::time::sleep_until(far.into());
        tokio::pin!(sleep);
        loop {
            let armed = self.pump();
            if let Some(at) = armed {
                sleep.as_mut().reset(at.into());
            }
            tokio::select! {
                () = &mut sleep, if armed.is_some() => {}
                () = self.rearm.notified() => {}
            }
        }
    }

    pub(crate) fn add_flow(&self, class: usize) -> FlowId {
        let mut state = self.lock();
        let id = state.scheduler.add_flow(class);
        if state.flows.len() <= id.index() {
            state.flows.resize_with(id.index() + 1, Flow::default);
        }
        state.flows[id.index()] = Flow { class, ..Flow::default() };
        state.classes[class].flows += 1;
        id
    }

    /// Ends a flow; what it was granted and did not take goes back to the line.
    pub(crate) fn remove_flow(&self, flow: FlowId) {
        let mut state = self.lock();
        let entry = std::mem::take(&mut state.flows[flow.index()]);
        state.classes[entry.class].flows -= 1;
        state.classes[entry.class].parked -= u64::from(entry.parked);
        state.scheduler.handle_refund(flow, entry.granted, clock::now());
        state.scheduler.remove_flow(flow);
        let wake = state.pump(clock::now());
        self.finish(state, wake);
    }

    /// Bytes that `flow` may move now, of the `want` it could: at least 1, at most `want`.
    /// Pending = the waker of `context` is called when some are granted.
    pub(crate) fn poll_take(
        &self,
        flow: FlowId,
        want: u64,
        context: &mut Context<'_>,
    ) -> Poll<u64> {
        let now = clock::now();
        let mut state = self.lock();
        let state_ref = &mut *state;
        let entry = &mut state_ref.flows[flow.index()];
        let mut wake = Vec::new();
        if entry.granted == 0 {
            if entry.parked {
                entry.held = want;
            } else {
                state_ref.scheduler.handle_demand(Demand { flow, bytes: want }, now);
                wake = state_ref.pump_for(flow, now);
            }
        }
        let entry = &mut state_ref.flows[flow.index()];
        if entry.granted == 0 {
            entry.waiting_since.get_or_insert(now);
            if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                entry.waker = Some(context.waker().clone());
            }
            self.finish(state, wake);
            return Poll::Pending;
        }
        let bytes = entry.granted.min(want);
        entry.granted -= bytes;
        let waited = entry.waiting_since.take().map_or(Duration::ZERO, |since| now - since);
        let class = &mut state_ref.classes[entry.class];
        class.bytes += bytes;
        class.waits.observe(waited);
        self.finish(state, wake);
        Poll::Ready(bytes)
    }

    /// `unused` bytes of what [`Self::poll_take`] gave did not move.
    pub(crate) fn refund(&self, flow: FlowId, unused: u64) {
        if unused == 0 {
            return;
        }
        let mut state = self.lock();
        let class = state.flows[flow.index()].class;
        state.classes[class].bytes -= unused.min(state.classes[class].bytes);
        state.scheduler.handle_refund(flow, unused, clock::now());
        let wake = state.pump(clock::now());
        self.finish(state, wake);
    }

    /// `count` acknowledgements went over this direction for data of the other one.
    pub(crate) fn charge_acks(&self, count: u64) {
        if count > 0 {
            let wire = count * (SEGMENT_OVERHEAD + self.link_overhead);
            self.lock().scheduler.handle_unasked(wire, clock::now());
        }
    }

    /// `bytes` come, or came, without having been asked for.
    pub(crate) fn charge_unasked(&self, bytes: u64) {
        if bytes > 0 {
            let wire = wire_bytes(bytes, self.link_overhead);
            self.lock().scheduler.handle_unasked(wire, clock::now());
        }
    }

    /// Counts `bytes` of `flow` that moved without a grant.
    pub(crate) fn count_moved(&self, flow: FlowId, bytes: u64) {
        let mut state = self.lock();
        let class = state.flows[flow.index()].class;
        state.classes[class].bytes += bytes;
    }

    /// Whether a datagram of `bytes` of the class in slot `class` may pass now. Whoever waits for
    /// a grant and can have one comes first.
    pub(crate) fn police(&self, class: usize, bytes: u64) -> Policed {
        let now = clock::now();
        let mut state = self.lock();
        let state_ref = &mut *state;
        let wake = state_ref.pump(now);
        let policed = state_ref.scheduler.police(class, bytes, now);
        if let Some(counters) = state_ref.classes.get_mut(class) {
            match policed {
                Policed::Pass => counters.bytes += bytes,
                Policed::Drop => counters.dropped += 1,
            }
        }
        self.finish(state, wake);
        policed
    }

    /// A datagram of `bytes` of the class in slot `class` has come: nobody can call it back.
    pub(crate) fn came_unasked(&self, class: usize, bytes: u64) {
        self.charge_unasked(bytes.max(1));
        if let Some(counters) = self.lock().classes.get_mut(class) {
            counters.bytes += bytes;
        }
    }

    /// Holds a flow's demands back, or lets it take part again. Safe to call with the link
    /// locked: whoever is granted by it is woken by the task of [`Self::drive`].
    pub(crate) fn set_parked(&self, flow: FlowId, parked: bool) {
        let mut state = self.lock();
        let state_ref = &mut *state;
        let entry = &mut state_ref.flows[flow.index()];
        if entry.parked == parked {
            return;
        }
        entry.parked = parked;
        let now = clock::now();
        if parked {
            state_ref.classes[entry.class].parked += 1;
            entry.held = state_ref.scheduler.demand(flow);
            state_ref.scheduler.handle_demand(Demand { flow, bytes: 0 }, now);
        } else {
            state_ref.classes[entry.class].parked -= 1;
            let bytes = std::mem::take(&mut entry.held);
            state_ref.scheduler.handle_demand(Demand { flow, bytes }, now);
            self.rearm.notify_one();
        }
    }

    /// Whether the flow waits for a grant or for its turn.
    pub(crate) fn is_waiting(&self, flow: FlowId) -> bool {
        self.lock().flows[flow.index()].waiting_since.is_some()
    }

    /// New rate and classes; flows of the classes in `moved` (from, to) change over.
    pub(crate) fn reconfigure(
        &self,
        line: LineRate,
        classes: &[ClassShare],
        moved: &[(usize, usize)],
    ) {
        let now = clock::now();
        let mut state = self.lock();
        let state_ref = &mut *state;
        state_ref.classes.resize(classes.len(), ClassCounters::default());
        state_ref.scheduler.set_classes(classes, now);
        state_ref.scheduler.set_rate(line, now);
        for id in state_ref.scheduler.flow_ids() {
            let entry = &mut state_ref.flows[id.index()];
            if let Some((from, to)) = moved.iter().find(|(from, _)| *from == entry.class) {
                state_ref.classes[*from].flows -= 1;
                state_ref.classes[*to].flows += 1;
                if entry.parked {
                    state_ref.classes[*from].parked -= 1;
                    state_ref.classes[*to].parked += 1;
                }
                entry.class = *to;
                state_ref.scheduler.move_flow(id, *to, now);
            }
        }
        let wake = state_ref.pump(now);
        self.finish(state, wake);
    }

    /// The line's rate now.
    pub(crate) fn line(&self) -> LineRate {
        self.lock().scheduler.line()
    }

    /// Bytes of one grant now.
    pub(crate) fn quantum(&self) -> u64 {
        self.lock().scheduler.quantum()
    }

    /// Counters of every class, by index.
    pub(crate) fn counters(&self) -> Vec<ClassCounters> {
        self.lock().classes.clone()
    }

    /// Grants what can be granted now; when to do so again.
    fn pump(&self) -> Option<Instant> {
        let mut state = self.lock();
        let wake = state.pump(clock::now());
        state.armed = state.scheduler.poll_timeout();
        let armed = state.armed;
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        armed
    }

    /// Releases the lock, then wakes who was granted and the timer if it is set too late.
    fn finish(&self, mut state: MutexGuard<'_, State>, wake: Vec<Waker>) {
        let waits = state.scheduler.has_any_demand();
        let due = if waits { state.scheduler.poll_timeout() } else { None };
        let sooner = match (due, state.armed) {
            (Some(due), Some(armed)) => due < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            state.armed = due;
        }
        drop(state);
        if sooner {
            self.rearm.notify_one();
        }
        wake.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ended one connection; the line must go on for the others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pump(&mut self, now: Instant) -> Vec<Waker> {
        let mut wake = Vec::new();
        while let Some(grant) = self.scheduler.poll_grant(now) {
            let entry = &mut self.flows[grant.flow.index()];
            entry.granted += grant.bytes;
            self.classes[entry.class].grants += 1;
            wake.extend(entry.waker.take());
        }
        wake
    }

    /// Like [`Self::pump`] for a flow that is being polled: it needs no waking.
    fn pump_for(&mut self, flow: FlowId, now: Instant) -> Vec<Waker> {
        let own = self.flows[flow.index()].waker.take();
        let wake = self.pump(now);
        self.flows[flow.index()].waker = own;
        wake
    }
}
