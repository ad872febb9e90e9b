//! Lines on the board: whether one is down, who is to blame, and what follows for the endpoints
//! behind it.
//!
//! A line that is down takes its endpoints with it and is forgiven to them: none is ejected one
//! by one, and all are usable at once when it is back.

use std::time::Instant;

use super::{Board, Event};
use crate::failover::watched::Watched;
use crate::link::LinkId;
use crate::load::{EndpointId, Verdict};

impl Board {
    pub(super) fn is_down(&self, line: Option<LinkId>) -> bool {
        let line = line.and_then(|link| self.lines.get(&link));
        line.is_some_and(|line| line.down_since().is_some())
    }

    pub(super) fn handle_line_byte(&mut self, line: Option<LinkId>, at: Instant) {
        let Some(link) = line else { return };
        let back = self.lines.get_mut(&link).is_some_and(|line| line.handle_byte(at));
        if back {
            for one in self.endpoints.values_mut().filter(|one| one.line == Some(link)) {
                one.health.handle_outage();
            }
            self.say(Event::Line { link, down: false });
            self.settle_all(at);
        }
    }

    /// An endpoint that nothing comes from may be a dead line's.
    pub(super) fn accuse_line(&mut self, id: EndpointId, began: Instant, now: Instant) {
        let Some(watched) = self.endpoints.get(&id) else { return };
        let Some(link) = watched.line else { return };
        let behind = |one: &&Watched| one.line == Some(link) && one.next_probe.is_some();
        let count = self.endpoints.values().filter(behind).count();
        let heard = self.endpoints.values().filter(behind).filter_map(|one| one.load.heard_at());
        let heard = heard.max();
        let is_witness = watched.health.is_only_silent();
        let since = watched.silent_since.map_or(began, |since| since.min(began));
        let Some(line) = self.lines.get_mut(&link) else { return };
        if let Some(at) = heard {
            line.handle_byte(at);
        }
        if !is_witness && !line.has_witness() {
            return;
        }
        if line.handle_silence(id, since, count, now) {
            self.line_went_down(link, now);
        } else if line.down_since().is_none() {
            // The others behind the line know whether it is the line.
            let others = self.endpoints.iter_mut().filter(|(other, one)| {
                **other != id && one.line == Some(link) && one.verdict == Verdict::Usable
            });
            others.for_each(|(_, one)| one.urgent = one.next_probe.is_some());
        }
    }

    pub(super) fn line_went_down(&mut self, link: LinkId, now: Instant) {
        for one in self.endpoints.values_mut().filter(|one| one.line == Some(link)) {
            one.health.handle_outage();
            if one.health.may_be_its_line() {
                one.health.absolve();
            }
        }
        self.say(Event::Line { link, down: true });
        self.settle_all(now);
    }
}
