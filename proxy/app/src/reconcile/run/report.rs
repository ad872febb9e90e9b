//! The loop's part of reporting: when, what, and what the centre says to it.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};
use tillgate_config::bundle::{Reply, wall_text};
use tillgate_core::link::{LinkRole, LinkSpec};
use tillgate_core::reconcile::{ClockState, Reported, Trigger};
use tillgate_core::units::Direction;
use tillgate_net::clock;
use tillgate_net::http::retry_after::{date, retry_after};
use tillgate_net::link::snapshot::DirectionSnapshot;
use tokio::sync::mpsc;

use super::Loop;
use crate::admin::status;
use crate::reconcile::operations::{fitting, longest};
use crate::reconcile::report::{Reporter, Sent, attestation, level};
use crate::reconcile::shown::revision;
use crate::reconcile::wall;
use crate::state::Pointer;

/// Things that are wrong, in one report; the rest is a number.
const ITEMS_MAX: usize = 50;

/// Images that this store was given, in one report.
const IMAGES_MAX: usize = 50;

impl Loop {
    /// Begins to report, where a Bootstrap says where to.
    pub(super) fn begin_to_report(&mut self, ends: mpsc::Sender<Sent>) {
        let Some(spec) = &self.spec.reporting else { return };
        match Reporter::new(spec, &self.spec.store, ends) {
            Ok(reporter) => self.reporter = Some(reporter),
            Err(why) => tracing::error!(why, "this store can never report"),
        }
    }

    /// When the next report is due, unless one is under way.
    pub(super) fn reports_at(&self) -> Option<Instant> {
        let reporter = self.reporter.as_ref().filter(|reporter| reporter.server.is_some())?;
        Some(reporter.cadence.poll_timeout())
    }

    /// Notes whether anything is different from what the last report said.
    pub(super) fn note_changes(&mut self) {
        if self.reporter.is_none() {
            return;
        }
        let report = self.report(Trigger::Change);
        let Some(reporter) = &mut self.reporter else { return };
        if reporter.told.as_ref().is_some_and(|told| *told != level(&report)) {
            reporter.cadence.handle_change(clock::now());
        }
    }

    /// Reports, if it is time.
    pub(super) fn report_if_due(&mut self, now: Instant) {
        let Some(reporter) = self.reporter.as_mut().filter(|one| one.server.is_some()) else {
            return;
        };
        let Some(trigger) = reporter.cadence.begin(now) else { return };
        self.check();
        self.gateway.endpoint.sync_audit();
        let memory = self.machine.memory_mut();
        memory.reports += 1;
        self.remember();
        let mut report = self.report(trigger);
        self.overwritten = self.overwritten.take().map(|(item, _)| (item, true));
        let (tells, operations) = fitting(&self.results);
        let spec = Arc::clone(&self.spec);
        let (Some(spec), Some(reporter)) = (&spec.reporting, &mut self.reporter) else { return };
        reporter.told = Some(level(&report));
        (reporter.tells, report["operations"]) = (tells, operations.into());
        // Owed until the centre has it.
        if reporter.wants_detail {
            report["detail"] = status::of(&self.gateway);
        }
        if let Some(challenge) = &reporter.challenge {
            report["attestation"] = attestation(spec.key.as_ref(), challenge, &report);
        }
        reporter.send(&self.gateway, spec, &report);
    }

    /// What came of a report.
    pub(super) fn reported(&mut self, sent: Sent) {
        let Sent { server, answer } = sent;
        let gateway = Arc::clone(&self.gateway);
        let meters = &gateway.endpoint.report_meters;
        let (reported, result, failed) = match answer {
            Ok(answer) if answer.status().is_success() => {
                let reply = match answer.status() {
                    StatusCode::NO_CONTENT => Reply::default(),
                    // What is no answer of a centre is none.
                    _ => Reply::read(answer.body()).unwrap_or_default(),
                };
                self.overwritten = self.overwritten.take().filter(|(_, is_told)| !is_told);
                let next = reply.next_interval.as_ref().map(|next| next.0);
                if let Some(reporter) = &mut self.reporter {
                    reporter.challenged(reply.challenge.as_deref());
                    reporter.wants_detail = reply.want_detail;
                    let told = reporter.tells;
                    self.centre_knows(told);
                }
                meters.last_success.set(wall().0 as f64);
                (Reported::Taken { next }, "taken", None)
            }
            Ok(answer) => {
                // The store's own clock may be wrong; the server's is the one that counts here.
                let retry_after = retry_after(answer.headers(), date(answer.headers()));
                let status = answer.status();
                let is_busy = status == StatusCode::TOO_MANY_REQUESTS;
                if status == StatusCode::PAYLOAD_TOO_LARGE {
                    self.shorten();
                } else if status.is_client_error()
                    && !is_busy
                    && status != StatusCode::REQUEST_TIMEOUT
                {
                    // What it asked for may be what it cannot read: the next report has to arrive.
                    self.owes_nothing();
                }
                let result = if is_busy { "busy" } else { "refused" };
                let why = format!("the centre answers {status}");
                (Reported::Failed { retry_after }, result, Some(why))
            }
            Err(why) => (Reported::Failed { retry_after: None }, "failed", Some(why)),
        };
        meters.reported(result);
        match failed {
            Some(why) => {
                if self.conditions.raise("ReportFailed", "Unreachable", &why) {
                    tracing::warn!(why, "the centre does not take this store's report");
                }
            }
            None => drop(self.conditions.clear("ReportFailed")),
        }
        if let Some(reporter) = &mut self.reporter {
            reporter.server = Some(server);
            reporter.cadence.handle_reported(reported, fastrand::u64(..), clock::now());
        }
    }

    /// What the centre has asked for beyond the report is left out; it may ask again.
    fn owes_nothing(&mut self) {
        if let Some(reporter) = &mut self.reporter {
            (reporter.challenge, reporter.wants_detail) = (None, false);
        }
    }

    /// A report was longer than the centre takes: the detail, or else the longest outcome in it,
    /// stays here.
    fn shorten(&mut self) {
        let reporter = self.reporter.as_mut();
        if reporter.is_some_and(|reporter| std::mem::take(&mut reporter.wants_detail)) {
            return;
        }
        let told = self.reporter.as_ref().map_or(0, |reporter| reporter.tells);
        let Some(one) = longest(&mut self.results, told) else { return };
        tracing::warn!(id = &*one.id, "what came of an operation is too large for the centre");
        let why = "too large: the centre does not take a report with this outcome";
        (one.state, one.outcome) = ("Failed".into(), json!({ "why": why }));
        let (id, outcome) = (Arc::clone(&one.id), one.outcome.clone());
        self.ends(&id, "Failed", &outcome);
    }

    /// The status as it is now.
    fn report(&mut self, trigger: Trigger) -> Value {
        let (state, items) = self.tell_state();
        let memory = self.machine.memory();
        let running = self.gateway.running();
        let applied = self.running.as_ref().map(|policy| {
            let mut applied = revision(policy);
            // Computed anew from what answers requests.
            applied["effectiveDigest"] = json!(&*self.whole);
            let since = memory.runs.last().map(|run| wall_text(run.since));
            applied["since"] = json!(since);
            applied
        });
        let shown: Vec<Value> = items.iter().take(ITEMS_MAX).map(|item| item.to_json()).collect();
        json!({
            "apiVersion": "tillgate.dev/v1alpha1",
            "kind": "StoreStatus",
            "storeId": &*self.spec.store,
            "reportSeq": memory.reports,
            "bootId": self.reporter.as_ref().map(|reporter| &*reporter.boot),
            "sentAt": wall_text(wall()),
            "trigger": trigger.name(),
            "agent": {
                "version": env!("CARGO_PKG_VERSION"),
                "tzdb": tillgate_config::zones::database_version(),
            },
            "clock": self.clock(),
            "desired": self.desired,
            "applied": applied,
            "lastKnownGood": self.last_known_good(),
            "attempted": self.attempted,
            "compliance": state.name(),
            "drift": shown,
            "driftItems": items.len(),
            "instances": self.gateway.endpoint.counted(&running.effective),
            "conditions": self.conditions.brief(),
            "pin": self.pin_shown(),
            "rollouts": self.rollouts(),
            "links": self.links(),
            "audit": self.gateway.endpoint.audit_told(),
            // What came of them is long; it is put in when it is sent.
            "operations": self.results.iter().map(|one| one.number).collect::<Vec<_>>(),
        })
    }

    /// What is thought of the clock, who vouches for it, and when somebody did last.
    fn clock(&self) -> Value {
        let trust = &self.gateway.clock;
        let state = trust.state();
        let source = match state {
            _ if clock::is_kept() => Some("System"),
            ClockState::Synced => Some("Sources"),
            ClockState::Holdover | ClockState::Untrusted => None,
        };
        json!({
            "state": state.name(),
            "source": source,
            "lastSync": trust.vouched().map(wall_text),
        })
    }

    fn last_known_good(&self) -> Option<Value> {
        let mut told = revision(self.lkg.as_ref()?);
        let since = self.spec.state.pointed_at(Pointer::Lkg);
        told["since"] = json!(since.map(wall_text));
        Some(told)
    }

    fn rollouts(&self) -> Vec<Value> {
        let running = self.gateway.running();
        let Some(mirror) = self.gateway.mirror() else { return Vec::new() };
        let shown = mirror.show(&running);
        let mut left = IMAGES_MAX;
        let brief = |one: &Value| {
            let names = ["name", "release", "ring", "gate", "heldBy", "nextOpen"];
            let mut told: Value =
                names.iter().map(|name| ((*name).to_owned(), one[*name].clone())).collect();
            let name = one["name"].as_str().unwrap_or_default();
            told["imagesServed"] = mirror.served(name, &mut left);
            told
        };
        shown["rollouts"].as_array().into_iter().flatten().map(brief).collect()
    }

    fn links(&self) -> Vec<Value> {
        let running = self.gateway.running();
        let board = self.gateway.failover().board();
        let down: Vec<Arc<str>> = board
            .lines()
            .filter(|line| line.down_since.is_some())
            .map(|line| running.lines().name(line.link))
            .collect();
        drop(board);
        let all = &running.effective.links;
        let is_up = |link: &LinkSpec| !down.contains(&link.name);
        let is_served = all.iter().any(|link| link.role == LinkRole::Primary && is_up(link));
        let state = |name: &Arc<str>| match all.iter().find(|link| link.name == *name) {
            _ if down.contains(name) => "Down",
            Some(link) if link.role == LinkRole::Backup && is_served => "Standby",
            _ => "Up",
        };
        let share = |one: &DirectionSnapshot| {
            let rate: u64 = one.classes.iter().map(|class| class.rate.bits_per_second()).sum();
            let part = rate as f64 / one.shaped.bits_per_second().max(1) as f64;
            (part * 100.0).round() / 100.0
        };
        let links = running.lines().iter().map(|link| link.snapshot());
        links
            .map(|link| {
                json!({
                    "name": &*link.name,
                    "state": state(&link.name),
                    "utilisation": {
                        "up": share(link.directions.get(Direction::Up)),
                        "down": share(link.directions.get(Direction::Down)),
                    },
                })
            })
            .collect()
    }
}
