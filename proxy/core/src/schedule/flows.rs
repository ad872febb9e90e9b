//! Flows in a slab, and the two lists of ready flows that every class has.
//!
//! A flow whose demand is met stays at the end of the old list for one round: a socket asks again
//! a moment after each grant, and must neither jump the queue as a new flow nor lose its next turn.
//! Only a flow that comes up without a demand goes idle. The lists are linked through
//! the slab, so adding, serving and ending a flow cost the same with ten flows and ten thousand.

/// A flow of one scheduler. Ids of ended flows are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(u32);

impl FlowId {
    /// As an index: ids are dense, so a caller can keep what it knows of a flow in a `Vec`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    New,
    Old,
}

/// One flow.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) class: usize,
    pub(super) want: u64,
    pub(super) deficit: i64,
    /// Its last grant was charged to the class it is in now.
    pub(super) charged_here: bool,
    place: Place,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// The ready flows of one class: those that just became ready, and those that had a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queues {
    new: List,
    old: List,
    /// Flows with a demand.
    waiting: usize,
}

impl Default for Queues {
    fn default() -> Self {
        let empty = List { head: NONE, tail: NONE };
        Self { new: empty, old: empty, waiting: 0 }
    }
}

impl Queues {
    /// Whether no flow has a demand.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn list(&mut self, place: Place) -> &mut List {
        if place == Place::New { &mut self.new } else { &mut self.old }
    }
}

/// All flows of a scheduler.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows {
    slab: Vec<Flow>,
    free: Vec<u32>,
}

impl Flows {
    pub(super) fn add(&mut self, class: usize) -> FlowId {
        let flow = Flow {
            class,
            want: 0,
            deficit: 0,
            charged_here: false,
            place: Place::Idle,
            prev: NONE,
            next: NONE,
        };
        if let Some(index) = self.free.pop() {
            self.slab[index as usize] = flow;
            return FlowId(index);
        }
        let index = u32::try_from(self.slab.len()).expect("fewer flows than file descriptors");
        self.slab.push(flow);
        FlowId(index)
    }

    /// Forgets an unlinked flow.
    pub(super) fn remove(&mut self, id: FlowId) {
        self.get_mut(id).class = usize::MAX;
        self.free.push(id.0);
    }

    /// Every flow that is not forgotten.
    pub(super) fn ids(&self) -> Vec<FlowId> {
        let live = (0u32..).zip(&self.slab).filter(|(_, flow)| flow.class != usize::MAX);
        live.map(|(index, _)| FlowId(index)).collect()
    }

    pub(super) fn get(&self, id: FlowId) -> &Flow {
        &self.slab[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> &mut Flow {
        &mut self.slab[id.0 as usize]
    }

    pub(super) fn set_class(&mut self, id: FlowId, class: usize) {
        let flow = self.get_mut(id);
        flow.class = class;
        flow.deficit = 0;
        flow.charged_here = false;
    }

    /// Sets a flow's demand to `want` bytes, more than 0. A flow that was idle gets the first
    /// turns of its class, with one fresh quantum.
    pub(super) fn demand(&mut self, queues: &mut Queues, id: FlowId, want: u64, quantum: u64) {
        let flow = self.get_mut(id);
        if flow.want == 0 {
            queues.waiting += 1;
        }
        flow.want = want;
        if flow.place == Place::Idle {
            flow.deficit = i64::try_from(quantum).unwrap_or(i64::MAX);
            self.push(queues, id, Place::New);
        }
    }

    /// Takes the next turn of the class: which flow, how many bytes. Some flow must have a demand.
    pub(super) fn serve(&mut self, queues: &mut Queues, quantum: u64) -> (FlowId, u64) {
        let id = loop {
            let head = if queues.new.head == NONE { queues.old.head } else { queues.new.head };
            let id = FlowId(head);
            let flow = self.get_mut(id);
            if flow.want == 0 {
                self.unlink_place(queues, id);
                continue;
            }
            // On a line that became slow nobody finishes a turn of the old size.
            flow.deficit = flow.deficit.min(i64::try_from(quantum).unwrap_or(i64::MAX));
            if flow.deficit > 0 {
                break id;
            }
            flow.deficit = flow.deficit.saturating_add_unsigned(quantum);
            self.unlink_place(queues, id);
            self.push(queues, id, Place::Old);
        };
        let flow = self.get_mut(id);
        // Whole demands: a grant cut to the rest of a deficit would send a part of a segment. What
        // is overdrawn is missing from the next turn.
        let bytes = flow.want.min(quantum);
        flow.deficit = flow.deficit.saturating_sub_unsigned(bytes);
        flow.want -= bytes;
        flow.charged_here = true;
        if flow.want == 0 {
            // Its next turn is a whole one, like that of a flow which asked for more at once.
            flow.deficit = i64::try_from(quantum).unwrap_or(i64::MAX);
            queues.waiting -= 1;
            self.unlink_place(queues, id);
            self.push(queues, id, Place::Old);
        }
        (id, bytes)
    }

    /// Takes a flow's demand back; it is idle afterwards.
    pub(super) fn withdraw(&mut self, queues: &mut Queues, id: FlowId) {
        let flow = self.get_mut(id);
        if flow.want > 0 {
            flow.want = 0;
            queues.waiting -= 1;
        }
        if flow.place != Place::Idle {
            self.unlink_place(queues, id);
        }
    }

    fn push(&mut self, queues: &mut Queues, id: FlowId, place: Place) {
        let list = queues.list(place);
        let tail = list.tail;
        list.tail = id.0;
        if tail == NONE {
            list.head = id.0;
        } else {
            self.slab[tail as usize].next = id.0;
        }
        let flow = self.get_mut(id);
        flow.place = place;
        flow.prev = tail;
        flow.next = NONE;
    }

    fn unlink_place(&mut self, queues: &mut Queues, id: FlowId) {
        let (prev, next, place) = {
            let flow = self.get_mut(id);
            let links = (flow.prev, flow.next, flow.place);
            flow.place = Place::Idle;
            flow.prev = NONE;
            flow.next = NONE;
            links
        };
        let list = queues.list(place);
        if prev == NONE {
            list.head = next;
        } else {
            self.slab[prev as usize].next = next;
        }
        if next == NONE {
            list.tail = prev;
        } else {
            self.slab[next as usize].prev = prev;
        }
    }
}

#[cfg(test)]
impl Flows {
    /// Walks both lists of a class and panics if they do not agree with the flows. Returns how
    /// many flows of the class have a demand.
    pub(super) fn check(&self, queues: &Queues, class: usize) -> usize {
        let mut seen = std::collections::BTreeSet::new();
        for (list, place) in [(queues.new, Place::New), (queues.old, Place::Old)] {
            let (mut at, mut before) = (list.head, NONE);
            while at != NONE {
                let flow = &self.slab[at as usize];
                assert!(seen.insert(at), "flow {at} is listed twice");
                assert_eq!((flow.place, flow.prev, flow.class), (place, before, class));
                assert!(!self.free.contains(&at), "flow {at} has ended and is listed");
                (before, at) = (at, flow.next);
            }
            assert_eq!(list.tail, before);
        }
        let mut waiting = 0;
        for (index, flow) in (0u32..).zip(&self.slab) {
            if flow.class != class || self.free.contains(&index) {
                continue;
            }
            assert_eq!(flow.place != Place::Idle, seen.contains(&index), "flow {index}");
            assert!(flow.want == 0 || seen.contains(&index), "flow {index} waits unlisted");
            waiting += usize::from(flow.want > 0);
        }
        assert_eq!(waiting, queues.waiting);
        waiting
    }
}
