//! The commands for a whole fleet: `compile`, `diff`, `plan`, and what `validate` and `config` do
//! with a folder.
//!
//! As with the other policy commands: paths in, text and an exit code out; nothing needs Linux, no
//! command opens a socket.

use std::path::Path;

use serde_json::{Map, Value, json};
use tillgate_config::effective::{Change, changes};
use tillgate_config::fleet::{self, Effect, Fleet, Happened, Plan, Survey};
use tillgate_config::{Checked, Report};

use super::files::{self, Opened};
use super::policy::{Answer, ConfigFormat, FINDINGS, OK, Output, Overrides, USAGE, idle};

/// Threads of a command: as many as the process may use.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Answer {
    fn usage(message: &str) -> Self {
        let stderr = format!("error: {message}\n");
        Self { stdout: String::new(), stderr, code: USAGE }
    }
}

/// A fleet with everything that is wrong with it.
struct Looked {
    fleet: Fleet,
    survey: Survey,
    report: Report,
}

fn look(path: &Path) -> Result<Looked, String> {
    let Opened { fleet, mut report } = files::open(path, threads())?;
    let mut survey = fleet.survey(threads());
    report.append(std::mem::take(&mut survey.report));
    report.sort();
    Ok(Looked { fleet, survey, report })
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Checks the fleet in the folder `path`: what `validate` says of it, as text and as JSON.
pub(super) fn validate(path: &Path, output: Output, answer: &mut Answer) -> Option<Value> {
    let name = path.display().to_string();
    let looked = match look(path) {
        Ok(looked) => looked,
        Err(message) => {
            let report = Report::of_error(message);
            answer.code = answer.code.max(USAGE);
            answer.stderr.push_str(&report.to_text());
            let mut value = report.to_json();
            value["file"] = json!(name);
            value["valid"] = json!(false);
            return Some(value);
        }
    };
    let valid = looked.report.errors.is_empty();
    answer.code = answer.code.max(if valid { OK } else { FINDINGS });
    let (stores, documents) = (looked.survey.stores.len(), looked.fleet.documents().len());
    if output == Output::Json {
        let mut value = looked.report.to_json();
        value["file"] = json!(name);
        value["valid"] = json!(valid);
        value["stores"] = json!(stores);
        value["documents"] = json!(documents);
        let rests = looked.survey.not_in_effect.iter().map(|(one, stores)| {
            let origin = one.origin.to_string();
            json!({"field": &*one.field, "origin": origin, "stores": stores.count})
        });
        value["notInEffect"] = rests.collect();
        return Some(value);
    }
    answer.stderr.push_str(&looked.report.to_text());
    if !valid {
        answer.stderr.push_str(&format!("{name}: {}\n", looked.report.summary()));
        return None;
    }
    for (one, of) in &looked.survey.not_in_effect {
        let of = plural(of.count, "store");
        answer.stderr.push_str(&format!("{}, in {of}\n", idle(one)));
    }
    let lints = match looked.report.lints.len() {
        0 => String::new(),
        _ => format!(", {}", looked.report.summary()),
    };
    answer.stdout.push_str(&format!(
        "{name}: ok{lints}, {} for {}\n",
        plural(documents, "document"),
        plural(stores, "store")
    ));
    None
}

/// The one store that is meant: the one that is named, or the only one.
fn the_store<'a>(fleet: &'a Fleet, named: Option<&str>) -> Result<&'a str, String> {
    match named {
        Some(name) => fleet.find(name),
        None => {
            let mut stores = fleet.stores();
            match (stores.next(), stores.len()) {
                (Some(only), 0) => Ok(only),
                (_, more) => {
                    Err(format!("the policy has {} stores: name one with --store", more + 1))
                }
            }
        }
    }
}

/// One store of the policy in `path`, with everything that is wrong for it.
pub(super) fn one(path: &Path, store: Option<&str>) -> Result<(Fleet, Checked), Answer> {
    let Opened { fleet, report } =
        files::open(path, threads()).map_err(|message| Answer::usage(&message))?;
    let refuse = |report: &Report| Answer {
        stdout: String::new(),
        stderr: format!("{}{}: {}\n", report.to_text(), path.display(), report.summary()),
        code: FINDINGS,
    };
    if !report.errors.is_empty() {
        return Err(refuse(&report));
    }
    let name = the_store(&fleet, store).map_err(|message| Answer::usage(&message))?.to_owned();
    let checked = fleet.compile(&name).map_err(|message| Answer::usage(&message))?;
    if checked.effective.is_none() {
        return Err(refuse(&checked.report));
    }
    Ok((fleet, checked))
}

/// Shows the effective config of one store of a fleet.
pub fn config(
    path: &Path,
    store: Option<&str>,
    output: ConfigFormat,
    overrides: Overrides,
) -> Answer {
    let (_, checked) = match one(path, store) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let Some(effective) = checked.effective else { return Answer::usage("there is no config") };
    let effective = overrides.apply(effective);
    let stdout = match output {
        ConfigFormat::Yaml => effective.to_yaml(),
        ConfigFormat::Json => format!("{:#}\n", effective.to_json()),
    };
    Answer { stdout, stderr: checked.report.to_text(), code: OK }
}

/// Digests of all stores, or of the one that is named.
pub fn compile(path: &Path, store: Option<&str>, output: Output) -> Answer {
    let looked = match look(path) {
        Ok(looked) => looked,
        Err(message) => return Answer::usage(&message),
    };
    let wanted = match store.map(|name| looked.fleet.find(name)).transpose() {
        Ok(wanted) => wanted,
        Err(message) => return Answer::usage(&message),
    };
    let shown =
        looked.survey.stores.iter().filter(|one| wanted.is_none_or(|name| *one.store == *name));
    let code = if looked.report.errors.is_empty() { OK } else { FINDINGS };
    if output == Output::Json {
        let digests: Map<String, Value> =
            shown.map(|one| (one.store.to_string(), json!(one.digest.as_deref()))).collect();
        let mut value = looked.report.to_json();
        value["stores"] = Value::Object(digests);
        return Answer { stdout: format!("{value:#}\n"), stderr: String::new(), code };
    }
    let mut stdout = String::new();
    for one in shown {
        stdout.push_str(&format!("{} {}\n", one.store, one.digest.as_deref().unwrap_or("-")));
    }
    let mut stderr = looked.report.to_text();
    stderr.push_str(&format!(
        "{} in {}, {}\n",
        plural(looked.survey.stores.len(), "store"),
        plural(looked.survey.groups, "group"),
        looked.report.summary()
    ));
    Answer { stdout, stderr, code }
}

fn change_text(change: &Change) -> String {
    let short = |text: &String| {
        // A whole backend in one line is no help; `config` shows it.
        if text.chars().count() <= 160 {
            return text.clone();
        }
        format!("{}…", text.chars().take(160).collect::<String>())
    };
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {}: {}", change.path, short(after)),
        (Some(before), None) => format!("- {}: {}", change.path, short(before)),
        (before, after) => format!(
            "~ {}: {} -> {}",
            change.path,
            before.as_ref().map(short).unwrap_or_default(),
            after.as_ref().map(short).unwrap_or_default()
        ),
    }
}

fn change_json(change: &Change) -> Value {
    json!({"path": change.path, "before": change.before, "after": change.after})
}

fn effect_json(effect: &Effect) -> Value {
    let changes: Vec<Value> = effect.changes.iter().map(change_json).collect();
    json!({"stores": effect.stores, "first": &*effect.first, "changes": changes})
}

fn effect_text(effect: &Effect) -> String {
    let mut text = match effect.stores {
        1 => format!("{}:\n", effect.first),
        count => format!("{count} stores, such as {}:\n", effect.first),
    };
    for change in &effect.changes {
        text.push_str(&format!("  {}\n", change_text(change)));
    }
    text
}

/// What is different between two policies, for one store or for all of them.
pub fn diff(old: &Path, new: &Path, store: Option<&str>, output: Output) -> Answer {
    let effects = match store {
        Some(_) => one(old, store).and_then(|(_, before)| Ok((before, one(new, store)?.1))).map(
            |(before, after)| match (before.effective, after.effective) {
                (Some(before), Some(after)) => {
                    let changes = changes(&before, &after);
                    let effect = Effect { stores: 1, first: after.store.clone(), changes };
                    if effect.changes.is_empty() { Vec::new() } else { vec![effect] }
                }
                _ => Vec::new(),
            },
        ),
        None => both(old, new).map(|(old, new)| fleet::effects(&old.fleet, &new.fleet, threads())),
    };
    let effects = match effects {
        Ok(effects) => effects,
        Err(answer) => return answer,
    };
    // As `diff` does it: 1 says that there is a difference.
    let code = if effects.is_empty() { OK } else { FINDINGS };
    let stdout = match output {
        Output::Json => {
            format!("{:#}\n", Value::Array(effects.iter().map(effect_json).collect()))
        }
        Output::Text if effects.is_empty() => "no difference\n".to_owned(),
        Output::Text => effects.iter().map(effect_text).collect::<Vec<_>>().join("\n"),
    };
    Answer { stdout, stderr: String::new(), code }
}

/// Two policies without errors of their own.
fn both(old: &Path, new: &Path) -> Result<(Opened, Opened), Answer> {
    let open = |path: &Path| {
        let opened = files::open(path, threads()).map_err(|message| Answer::usage(&message))?;
        if opened.report.errors.is_empty() {
            return Ok(opened);
        }
        let report = &opened.report;
        let stderr = format!("{}{}: {}\n", report.to_text(), path.display(), report.summary());
        Err(Answer { stdout: String::new(), stderr, code: FINDINGS })
    };
    Ok((open(old)?, open(new)?))
}

/// What `new` would do after `old`.
pub fn plan(old: &Path, new: &Path, max_stores: Option<usize>, output: Output) -> Answer {
    let (old, new) = match both(old, new) {
        Ok(opened) => opened,
        Err(answer) => return answer,
    };
    let mut plan = fleet::plan(&old.fleet, &new.fleet, threads());
    if let Some(most) = max_stores {
        let wide = fleet::too_wide(&plan, most);
        plan.report.errors.extend(wide);
    }
    let code = if plan.report.errors.is_empty() { OK } else { FINDINGS };
    match output {
        Output::Json => {
            Answer { stdout: format!("{:#}\n", plan_json(&plan)), stderr: String::new(), code }
        }
        Output::Text => {
            let mut stderr = plan.report.to_text();
            if code == FINDINGS {
                stderr.push_str(&format!("this change is refused: {}\n", plan.report.summary()));
            }
            Answer { stdout: plan_text(&plan), stderr, code }
        }
    }
}

const fn happened(happened: Happened) -> (&'static str, &'static str) {
    match happened {
        Happened::Added => ("+", "added"),
        Happened::Changed => ("~", "changed"),
        Happened::Removed => ("-", "removed"),
    }
}

fn plan_json(plan: &Plan) -> Value {
    let documents = plan.documents.iter().map(|one| {
        json!({
            "document": one.document, "place": one.place, "change": happened(one.happened).1,
            "selects": one.selects, "counts": one.counts,
        })
    });
    let names = |names: &[std::sync::Arc<str>]| -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    };
    let mut value = plan.report.to_json();
    value["documents"] = documents.collect();
    value["storesAdded"] = json!(names(&plan.stores_added));
    value["storesRemoved"] = json!(names(&plan.stores_removed));
    value["storesUnchanged"] = json!(plan.unchanged);
    value["effects"] = plan.effects.iter().map(effect_json).collect();
    value
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for one in &plan.documents {
        let (sign, _) = happened(one.happened);
        let counts = if one.counts == one.selects {
            String::new()
        } else {
            format!(", counts in {}", one.counts)
        };
        text.push_str(&format!(
            "{sign} {} selects {}{counts} ({})\n",
            one.document,
            plural(one.selects, "store"),
            one.place
        ));
    }
    for (sign, stores) in [("+", &plan.stores_added), ("-", &plan.stores_removed)] {
        if let Some(first) = stores.first() {
            let others = match stores.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            text.push_str(&format!("{sign} Store/{first}{others}\n"));
        }
    }
    if !text.is_empty() && !plan.effects.is_empty() {
        text.push('\n');
    }
    text.push_str(&plan.effects.iter().map(effect_text).collect::<Vec<_>>().join("\n"));
    text.push_str(&format!("{} unchanged\n", plural(plan.unchanged, "store")));
    text
}
