//! A centre that takes reports of a store, in the hands of a test.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::eventually;
use crate::origin::Origin;

/// A report as it came.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// What it says.
    pub report: Value,
    /// Its bytes.
    pub body: Vec<u8>,
    /// `Tillgate-Signature`.
    pub signature: Option<String>,
}

/// See the module.
pub struct Collector {
    server: Origin,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    next: Arc<Mutex<VecDeque<String>>>,
}

/// An answer that wants the next report in a second.
fn soon(more: &Value) -> String {
    let mut answer = json!({"nextInterval": "1s"});
    for (name, value) in more.as_object().into_iter().flatten() {
        answer[name] = value.clone();
    }
    let text = answer.to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

impl Default for Collector {
    fn default() -> Self {
        let (arrived, next) =
            (Arc::<Mutex<Vec<Arrived>>>::default(), Arc::<Mutex<VecDeque<String>>>::default());
        let (taken, answers) = (Arc::clone(&arrived), Arc::clone(&next));
        let server = Origin::start(move |mut wire, _| {
            while wire.waits_for_more() {
                let request = wire.reply();
                let answer = answers.lock().expect("no panic").pop_front();
                let is_busy = answer.as_ref().is_some_and(|answer| !answer.contains(" 200 "));
                if !is_busy {
                    taken.lock().expect("no panic").push(Arrived {
                        report: serde_json::from_slice(&request.body).expect("JSON"),
                        signature: request.header("tillgate-signature").map(str::to_owned),
                        body: request.body.to_vec(),
                    });
                }
                wire.send(answer.unwrap_or_else(|| soon(&json!({}))));
            }
        });
        Self { server, arrived, next }
    }
}

impl Collector {
    /// What a Bootstrap says to report here; `more` fields in one line.
    pub fn reporting(&self, more: &str) -> String {
        let address = self.server.address;
        format!("  reporting: {{url: \"http://{address}/status\", heartbeat: 2s{more}}}\n")
    }

    /// The next report that has no answer yet is answered with these fields beside the usual one.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn answers(&self, more: &Value) {
        self.next.lock().expect("no panic").push_back(soon(more));
    }

    /// The next report that has no answer yet is answered with this, and not taken.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn refuses(&self, answer: &str) {
        self.next.lock().expect("no panic").push_back(answer.to_owned());
    }

    /// Waits for a report, after the first `after`, of which `wanted` is true.
    #[track_caller]
    pub fn report(&self, what: &str, after: usize, wanted: impl Fn(&Value) -> bool) -> Arrived {
        let newest = || self.arrived.lock().expect("no panic").last().cloned();
        eventually(&format!("a report: {what}; the last is {:#?}", newest()), || {
            let arrived = self.arrived.lock().expect("no panic");
            arrived.iter().skip(after).find(|one| wanted(&one.report)).cloned()
        })
    }

    /// The outcome of an operation, in a report after the first `after`.
    #[track_caller]
    pub fn outcome(&self, after: usize, id: &str) -> Value {
        let all = |report: &Value| report["operations"].as_array().cloned().unwrap_or_default();
        let has = |report: &Value| all(report).iter().any(|one| one["id"] == id);
        let report = self.report(id, after, has).report;
        all(&report).into_iter().find(|one| one["id"] == id).unwrap_or_default()
    }

    /// The reasons of drift in all reports after the first `after`.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn reasons(&self, after: usize) -> Vec<String> {
        let arrived = self.arrived.lock().expect("no panic");
        arrived.iter().skip(after).flat_map(|one| reasons(&one.report["drift"])).collect()
    }

    /// How many have come.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn count(&self) -> usize {
        self.arrived.lock().expect("no panic").len()
    }
}

/// The reasons of items of drift.
pub fn reasons(items: &Value) -> Vec<String> {
    let all = items.as_array().into_iter().flatten();
    all.filter_map(|item| item["reason"].as_str()).map(str::to_owned).collect()
}
