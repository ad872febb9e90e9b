//! The commands that only read policy: `validate`, `config`, `schema`; and how a policy gets
//! into the gateway, at start and at reload.
//!
//! Everything here takes paths and returns text with an exit code, so that the commands are
//! tested without a process. Nothing needs Linux. Exit codes: 0 = fine, 1 = the policy has
//! errors, 2 = a file could not be read, or the question makes no sense.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tillgate_config::effective::{Effective, ListenerProtocol, NotInEffect};
use tillgate_config::{Checked, Report, schema as schemas};

use super::files::read;
use super::fleet;

/// The policy is fine.
pub(super) const OK: u8 = 0;
/// The policy has errors.
pub(super) const FINDINGS: u8 = 1;
/// A file could not be read, or a name is unknown.
pub(super) const USAGE: u8 = 2;

/// What a command says and how it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// Exit code: 0 fine, 1 findings, 2 usage or input/output.
    pub code: u8,
}

impl Answer {
    /// What was asked for.
    pub(super) fn success(stdout: String) -> Self {
        Self { stdout, stderr: String::new(), code: OK }
    }

    /// The question makes no sense, or cannot be answered.
    pub(super) fn refusal(message: &str) -> Self {
        Self { stdout: String::new(), stderr: format!("error: {message}\n"), code: USAGE }
    }
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people, with the lines that are meant.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// The form of an effective config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfigFormat {
    /// For people: each value is followed by its origin.
    #[default]
    Yaml,
    /// For machines.
    Json,
}

/// What flags on the command line say against the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--http`.
    pub http: Option<SocketAddr>,
    /// `--forward-proxy`.
    pub forward_proxy: Option<SocketAddr>,
    /// `--admin`.
    pub admin: Option<SocketAddr>,
    /// `--workers`.
    pub workers: Option<u16>,
}

impl Overrides {
    /// `config` with what the flags say.
    #[must_use]
    pub fn apply(self, config: Effective) -> Effective {
        let flags = [
            (ListenerProtocol::Http, self.http),
            (ListenerProtocol::ForwardProxy, self.forward_proxy),
            (ListenerProtocol::Admin, self.admin),
        ];
        let config = match self.workers {
            Some(workers) => config.with_workers(workers),
            None => config,
        };
        flags.into_iter().fold(config, |config, (protocol, address)| match address {
            Some(address) => config.with_listener(protocol, address),
            None => config,
        })
    }
}

/// Reads and compiles the policy in `file`, for start and reload.
///
/// # Errors
/// Everything that is wrong with it; one error without a place if the file cannot be read.
pub fn load(file: &Path) -> Result<Effective, Report> {
    let text = read(file).map_err(Report::of_error)?;
    tillgate_config::load_text(&file.display().to_string(), &text)
}

/// Checks each of `files`, which are policies of their own; a folder is a fleet.
pub fn validate(files: &[PathBuf], output: Output) -> Answer {
    let mut answer = Answer { stdout: String::new(), stderr: String::new(), code: OK };
    let mut reports: Vec<Value> = Vec::new();
    if files.is_empty() {
        answer.stderr = "no policy file was named: write `tillgate validate FILE`\n".to_owned();
        answer.code = USAGE;
        return answer;
    }
    for file in files {
        if file.is_dir() {
            reports.extend(fleet::validate(file, output, &mut answer));
            continue;
        }
        let name = file.display().to_string();
        let (checked, code) = match read(file) {
            Ok(text) => {
                let checked = tillgate_config::check_text(&name, &text);
                let code = if checked.effective.is_some() { OK } else { FINDINGS };
                (checked, code)
            }
            Err(message) => (Checked { effective: None, report: Report::of_error(message) }, USAGE),
        };
        answer.code = answer.code.max(code);
        match output {
            Output::Text => validate_text(&mut answer, &name, &checked),
            Output::Json => reports.push(validate_json(&name, &checked)),
        }
    }
    if output == Output::Json {
        answer.stdout = format!("{:#}\n", Value::Array(reports));
    }
    answer
}

fn validate_text(answer: &mut Answer, name: &str, checked: &Checked) {
    answer.stderr.push_str(&checked.report.to_text());
    let Some(config) = &checked.effective else {
        answer.stderr.push_str(&format!("{name}: {}\n", checked.report.summary()));
        return;
    };
    for one in &config.not_in_effect {
        answer.stderr.push_str(&format!("{}\n", idle(one)));
    }
    let lints = match checked.report.lints.len() {
        0 => String::new(),
        _ => format!(", {}", checked.report.summary()),
    };
    answer.stdout.push_str(&format!("{name}: ok{lints}, {}\n", config.digest));
}

/// What is said of a field that has no effect yet.
pub(super) fn idle(one: &NotInEffect) -> String {
    format!("note: not in effect in this release: {} ({})", one.field, one.origin)
}

fn validate_json(name: &str, checked: &Checked) -> Value {
    let mut report = checked.report.to_json();
    report["file"] = json!(name);
    report["valid"] = json!(checked.effective.is_some());
    if let Some(config) = &checked.effective {
        report["digest"] = json!(&*config.digest);
        report["notInEffect"] = config
            .not_in_effect
            .iter()
            .map(|one| json!({"field": &*one.field, "origin": one.origin.to_string()}))
            .collect();
    }
    report
}

/// Shows the effective config of the policy in `file`, with the origin of every value.
pub fn config(file: &Path, output: ConfigFormat, overrides: Overrides) -> Answer {
    let name = file.display().to_string();
    let text = match read(file) {
        Ok(text) => text,
        Err(message) => {
            let stderr = Report::of_error(message).to_text();
            return Answer { stdout: String::new(), stderr, code: USAGE };
        }
    };
    let Checked { effective, report } = tillgate_config::check_text(&name, &text);
    let Some(config) = effective else {
        let stderr = format!("{}{name}: {}\n", report.to_text(), report.summary());
        return Answer { stdout: String::new(), stderr, code: FINDINGS };
    };
    let config = overrides.apply(config);
    let stdout = match output {
        ConfigFormat::Yaml => config.to_yaml(),
        ConfigFormat::Json => format!("{:#}\n", config.to_json()),
    };
    Answer { stdout, stderr: report.to_text(), code: OK }
}

/// Shows the JSON Schema of one kind, or of any document.
pub fn schema(kind: Option<&str>) -> Answer {
    match schemas::by_name(kind) {
        Ok(schema) => Answer { stdout: format!("{schema:#}\n"), stderr: String::new(), code: OK },
        Err(message) => {
            Answer { stdout: String::new(), stderr: format!("error: {message}\n"), code: USAGE }
        }
    }
}

#[cfg(test)]
mod tests;
