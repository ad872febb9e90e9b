//! `tillgate rollouts`: how the rollouts of a running gateway stand, and how far their images are.
//!
//! In a terminal a table that follows, with a bar for each image; otherwise one look. It asks the
//! admin listener and shows what that says.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{StatusCode, Uri};
use serde_json::Value;
use tillgate_core::tls::TlsVersion;

use super::client::Server;
use super::policy::{Answer, Output};
use crate::client;

/// The table follows this often.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// An answer's bytes: thousands of images.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Cells of a bar.
const BAR: u64 = 24;

/// To the upper left, and nothing below what is written then.
const HOME: &str = "\x1b[H";
const REST: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The gateway's admin listener.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
    /// Look once, also in a terminal.
    #[arg(long)]
    once: bool,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Options {
    /// Whether the table follows until the user has seen enough.
    pub(crate) fn follows(&self) -> bool {
        !self.once && self.output == Output::Text && io::stdout().is_terminal()
    }
}

/// One look.
pub(crate) fn look(options: &Options) -> Answer {
    match ask(options.admin) {
        Ok(told) => Answer::success(match options.output {
            Output::Text => table(&told),
            Output::Json => format!("{told:#}\n"),
        }),
        Err(error) => Answer::refusal(&format!(
            "no gateway answers at {}: {error}; name its admin listener with --admin",
            options.admin
        )),
    }
}

/// A look every second, until the terminal is gone or the user interrupts.
pub(crate) fn follow(options: &Options) -> ExitCode {
    let mut out = io::stdout();
    let mut begin = CLEAR;
    loop {
        let answer = look(options);
        let text = if answer.stderr.is_empty() { answer.stdout } else { answer.stderr };
        let lines = text.replace('\n', "\x1b[K\n");
        if write!(out, "{begin}{HOME}{lines}{REST}").and_then(|()| out.flush()).is_err() {
            return ExitCode::SUCCESS;
        }
        begin = "";
        thread::sleep(FOLLOW_EVERY);
    }
}

fn ask(admin: SocketAddr) -> Result<Value, String> {
    let uri = Uri::try_from(format!("http://{admin}")).map_err(|error| error.to_string())?;
    let server =
        Server { uri: &uri, name: None, ca: (None, ""), pair: None, oldest: TlsVersion::V1_3 };
    let request = client::question(&admin.to_string(), "/v1/rollouts");
    let answer = server.ask(client::whole(request, Bytes::new())?, BYTES_MAX)?;
    let odd = || "it is no admin listener".to_owned();
    if answer.status() != StatusCode::OK {
        return Err(odd());
    }
    serde_json::from_slice(answer.body()).map_err(|_| odd())
}

fn table(told: &Value) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let store = word(told, "store");
    if !store.is_empty() {
        let _ = writeln!(text, "{store}, clock {}", word(told, "clock"));
    }
    if let Some(why) = told.pointer("/cache/why").and_then(Value::as_str) {
        let _ = writeln!(text, "no image is kept: {why}");
    }
    let rollouts = list(told, "rollouts");
    if rollouts.is_empty() {
        text.push_str("no rollouts: the policy has none, or no RegistryMirror\n");
    }
    for rollout in rollouts {
        head(rollout, &mut text);
        let images = list(rollout, "images");
        let widest = images.iter().map(|one| word(one, "repository").len()).max().unwrap_or(0);
        for image in images {
            let _ = writeln!(text, "  {:widest$}  {}", word(image, "repository"), far(image));
        }
    }
    text
}

fn head(rollout: &Value, text: &mut String) {
    let (name, release) = (word(rollout, "name"), word(rollout, "release"));
    let ring = rollout.get("ring").and_then(Value::as_str).unwrap_or("none");
    let _ = write!(text, "\n{name} {release}, ring {ring}: {}", word(rollout, "gate"));
    let held: Vec<&str> = list(rollout, "heldBy").iter().filter_map(Value::as_str).collect();
    if !held.is_empty() {
        let _ = write!(text, " by {}", held.join(", "));
        match rollout.get("nextOpen").and_then(Value::as_str) {
            Some(at) => {
                let _ = write!(text, ", opens {at}");
            }
            None => text.push_str(", nothing says when it opens"),
        }
    }
    for one in list(rollout, "suspended") {
        let _ = write!(text, ", {} suspends {}", word(one, "by"), word(one, "document"));
    }
    if let Some(at) = rollout.get("prefetchFrom").and_then(Value::as_str) {
        let _ = write!(text, ", fetched ahead from {at}");
    }
    if let Some(why) = rollout.get("slowedBy").and_then(Value::as_str) {
        let bits = number(rollout, "bitsPerSecondMax").unwrap_or(0);
        let _ = write!(text, ", slowed to {} ({why})", rate(bits));
    }
    let pulls = rollout.get("pulls").cloned().unwrap_or_default();
    let (running, waiting) = (number(&pulls, "running"), number(&pulls, "waiting"));
    if let (Some(running), Some(waiting)) = (running, waiting)
        && running + waiting > 0
    {
        let _ = write!(text, ", {running} fetched, {waiting} waiting");
    }
    text.push('\n');
}

fn far(image: &Value) -> String {
    let here = number(image, "bytes").unwrap_or(0);
    let Some(total) = number(image, "totalBytes") else {
        return format!("[{}]  not looked at yet", " ".repeat(usize::try_from(BAR).unwrap_or(0)));
    };
    let part = |of: u64| here.min(total).saturating_mul(of).checked_div(total).unwrap_or(of);
    let full = usize::try_from(part(BAR)).unwrap_or(0);
    let empty = usize::try_from(BAR).unwrap_or(0).saturating_sub(full);
    let bar = format!("[{}{}]", "#".repeat(full), ".".repeat(empty));
    let mut text = format!("{bar} {:>3} %  {} of {} MB", part(100), mega(here), mega(total));
    let bytes = number(image, "bytesPerSecond").unwrap_or(0);
    if here < total && bytes > 0 {
        let _ = write!(text, "  {}", rate(bytes.saturating_mul(8)));
        if let Some(left) = number(image, "secondsLeft") {
            let _ = write!(text, "  {}:{:02} left", left / 60, left % 60);
        }
    }
    text
}

/// `12.3`, of bytes.
fn mega(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn rate(bits: u64) -> String {
    if bits < 1_000_000 {
        format!("{} kbit/s", bits / 1000)
    } else {
        format!("{} Mbit/s", mega(bits))
    }
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name)?.as_u64()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_says_what_holds_and_how_far_it_is() {
        let image = |state: &str, here: u64, total: Option<u64>, rate: u64| {
            json!({
                "repository": "pos/checkout", "state": state, "bytes": here, "totalBytes": total,
                "bytesPerSecond": rate,
                "secondsLeft": total.map(|total| (total - here) / rate.max(1)),
            })
        };
        let told = json!({
            "store": "store-0412",
            "clock": "Synced",
            "cache": {"keeps": false, "why": "the disk is full"},
            "rollouts": [
                {
                    "name": "pos", "release": "pos-47", "ring": "pilot", "gate": "Held",
                    "heldBy": ["Freeze/peak"], "nextOpen": "2026-12-01T05:00:00Z",
                    "images": [image("Unknown", 0, None, 0)],
                },
                {
                    "name": "hot", "release": "hot-1", "gate": "Open", "slowedBy": "busy",
                    "prefetchFrom": "2026-12-01T05:10:00Z",
                    "bitsPerSecondMax": 64_000, "pulls": {"running": 1, "waiting": 2},
                    "images": [image("Coming", 50_000_000, Some(200_000_000), 2_000_000)],
                },
            ],
        });
        let empty = " ".repeat(24);
        let expected = format!(
            "store-0412, clock Synced\nno image is kept: the disk is full\n\n\
             pos pos-47, ring pilot: Held by Freeze/peak, opens 2026-12-01T05:00:00Z\n  \
             pos/checkout  [{empty}]  not looked at yet\n\n\
             hot hot-1, ring none: Open, fetched ahead from 2026-12-01T05:10:00Z, \
             slowed to 64 kbit/s (busy), 1 fetched, 2 waiting\n  \
             pos/checkout  [######..................]  25 %  50.0 of 200.0 MB  \
             16.0 Mbit/s  1:15 left\n"
        );
        assert_eq!(table(&told), expected);
        assert!(table(&json!({})).contains("no rollouts"));
        assert_eq!((rate(999_000), rate(1_550_000)), ("999 kbit/s".into(), "1.5 Mbit/s".into()));
    }
}
