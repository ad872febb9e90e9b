//! What a ring shows: the status documents of its stores, and a number of Prometheus.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tillgate_config::bundle::{Manifest, wall};
use tillgate_config::scalar::DurationText;
use tillgate_core::reconcile::{Metric, RingEvidence, Verdict, Word, judge_ring};

use super::super::bundle::{Refused, read, wall_seconds};
use super::super::policy::{FINDINGS, USAGE};
use super::Options;

/// A status document of a busy store has some hundred kilobytes.
const REPORT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the ring shows of the bundle with this `manifest`; `None` = nobody asked.
///
/// # Errors
/// If it shows no good, or not enough.
pub(super) fn of(options: &Options, manifest: &Manifest) -> Result<Option<String>, Refused> {
    let sequence = manifest.sequence;
    let answer = match &options.query_result {
        Some(file) => Some(json(file)?),
        None => options.prometheus.ask()?,
    };
    let told = answer.as_ref().map(value).transpose();
    let told = told.map_err(|why| inconclusive(sequence, &why))?;
    let metric = told.zip(options.at_most).map(|(value, most)| Metric { value, most });
    let reports = match &options.reports {
        Some(folder) => reports(folder)?,
        None if metric.is_some() => Vec::new(),
        None => return Ok(None),
    };
    let bake: DurationText = options.bake.parse().map_err(|why| (why, USAGE))?;
    let words: Vec<_> = reports.iter().map(|report| word(report, sequence)).collect();
    let first = reports.iter().filter_map(|report| taken_at(report, sequence)).min();
    // A number alone does not say since when.
    let first = if reports.is_empty() { Some(manifest.created().0) } else { first };
    let waited = first.map_or(0, |at| wall_seconds().saturating_sub(at));
    let spec = RingEvidence { bake: bake.0, percent: options.percent };
    match judge_ring(&words, metric, Duration::from_secs(waited), spec) {
        Verdict::Pass => {
            let mut shown = Vec::new();
            if !words.is_empty() {
                let good = words.iter().filter(|(_, word)| *word == Word::Good).count();
                shown.push(format!("good in {good} of {} stores", words.len()));
            }
            if let Some(Metric { value: Some(value), most }) = metric {
                let query = options.prometheus.query.as_deref().unwrap_or("the query");
                shown.push(format!("{query} is {value}, {most} allowed"));
            }
            shown.push(format!("for {waited} s"));
            Ok(Some(shown.join("; ")))
        }
        Verdict::Fail(why) => Err((format!("sequence {sequence} fails: {why}"), FINDINGS)),
        Verdict::Inconclusive(why) => Err(inconclusive(sequence, &why)),
    }
}

/// Nobody can tell yet, which is no reason to go on.
fn inconclusive(sequence: u64, why: &str) -> Refused {
    (format!("sequence {sequence} is inconclusive: {why}"), FINDINGS)
}

/// The policy part of every status document in `folder`.
fn reports(folder: &Path) -> Result<Vec<Value>, Refused> {
    let wrong = |error| (format!("cannot read {}: {error}", folder.display()), USAGE);
    let mut files: Vec<_> = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|suffix| suffix == "json") {
            files.push(path);
        }
    }
    files.sort();
    let report = |path: &std::path::PathBuf| {
        let mut report = json(path)?;
        Ok(report.get_mut("policy").map(Value::take).unwrap_or(report))
    };
    files.iter().map(report).collect()
}

fn json(file: &Path) -> Result<Value, Refused> {
    let bytes = read(file, REPORT_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| (format!("{}: {error}", file.display()), USAGE))
}

/// What one store says.
fn word(report: &Value, sequence: u64) -> (Arc<str>, Word) {
    let store = report["storeId"].as_str().unwrap_or("without a name").into();
    let is = |place: &Value| place["sequence"] == sequence;
    let denied = report["denied"].as_array().into_iter().flatten().find(|one| is(one));
    let refused = Some(&report["refused"]).filter(|one| is(one));
    // What a store reports to its centre is shorter than what it answers.
    let failed = |one: &&Value| {
        let result = one["result"].as_str().unwrap_or_default();
        is(one) && ["Rejected", "RolledBack"].contains(&result)
    };
    let attempted = Some(&report["attempted"]).filter(failed);
    let word = match denied.or(refused).or(attempted) {
        Some(bad) => {
            let why = bad["why"].as_str().or_else(|| bad["reason"].as_str());
            Word::Bad(why.unwrap_or("refused").into())
        }
        None if is(&report["applied"]) && is(&report["lastKnownGood"]) => Word::Good,
        None => Word::Pending,
    };
    (store, word)
}

/// When a store has taken it.
fn taken_at(report: &Value, sequence: u64) -> Option<u64> {
    let mut history = report["history"].as_array().into_iter().flatten();
    let taken = history.find(|one| one["sequence"] == sequence && one["result"] == "Applied");
    let applied = Some(&report["applied"]).filter(|one| one["sequence"] == sequence);
    let at = taken.map(|one| &one["at"]).or_else(|| Some(&applied?["since"]))?;
    Some(wall(at.as_str()?)?.0)
}

/// The largest value of an instant query, if each is a number; `None` if there is none.
///
/// # Errors
/// If it was not answered, or only in part.
fn value(answer: &Value) -> Result<Option<f64>, String> {
    let text = |of: &Value| of.as_str().unwrap_or("it does not say why").to_owned();
    if answer["status"] != "success" {
        return Err(format!("Prometheus does not answer the query: {}", text(&answer["error"])));
    }
    // What is behind several servers warns when it has not heard all of them.
    if let Some(warning) = answer["warnings"].get(0) {
        return Err(format!("Prometheus answers with a warning: {}", text(warning)));
    }
    let result = &answer["data"]["result"];
    let number = |pair: &Value| pair[1].as_str()?.parse::<f64>().ok().filter(|one| one.is_finite());
    Ok(match answer["data"]["resultType"].as_str() {
        Some("scalar") => number(result),
        Some("vector") => {
            let all = result.as_array().into_iter().flatten();
            let values: Option<Vec<f64>> = all.map(|one| number(&one["value"])).collect();
            values.and_then(|values| values.into_iter().reduce(f64::max))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_store_says_good_bad_or_nothing_yet() {
        let good = json!({ "storeId": "1", "applied": {"sequence": 8},
            "lastKnownGood": {"sequence": 8}, "denied": [] });
        assert_eq!(word(&good, 8), ("1".into(), Word::Good));
        assert_eq!(word(&good, 9).1, Word::Pending);
        let denied = json!({ "denied": [{"sequence": 9, "why": "it failed"}] });
        assert_eq!(word(&denied, 9).1, Word::Bad("it failed".into()));
        let refused = json!({ "refused": {"sequence": 9, "why": "no class"} });
        assert_eq!(word(&refused, 9).1, Word::Bad("no class".into()));
        let history = json!({ "history": [
            {"sequence": 9, "result": "LastKnownGood", "at": "2026-11-20T22:00:00Z"},
            {"sequence": 9, "result": "Applied", "at": "2026-11-20T20:58:12Z"}]});
        assert_eq!(taken_at(&history, 9), Some(1_795_208_292));
    }

    #[test]
    fn what_a_store_reports_to_its_centre_will_do() {
        let mut report = json!({"kind": "StoreStatus", "storeId": "1",
            "applied": {"sequence": 9, "since": "2026-11-20T20:58:12Z"},
            "lastKnownGood": {"sequence": 9}, "attempted": {"sequence": 9, "result": "Applied"}});
        assert_eq!(word(&report, 9), ("1".into(), Word::Good));
        assert_eq!(taken_at(&report, 9), Some(1_795_208_292));
        assert_eq!((word(&report, 8).1, taken_at(&report, 8)), (Word::Pending, None));
        let attempt = |result| json!({"sequence": 10, "result": result, "reason": "Invalid"});
        for (result, said) in [("Held", Word::Pending), ("Rejected", Word::Bad("Invalid".into()))] {
            report["attempted"] = attempt(result);
            assert_eq!(word(&report, 10).1, said, "{result}");
        }
    }

    #[test]
    fn prometheus_may_have_no_answer() {
        let vector = |values: &[&str]| {
            let series: Vec<_> = values.iter().map(|one| json!({"value": [1, one]})).collect();
            let data = json!({"resultType": "vector", "result": series});
            value(&json!({"status": "success", "data": data}))
        };
        assert_eq!(vector(&["0.1", "0.3", "0.2"]), Ok(Some(0.3)));
        assert_eq!(vector(&[]), Ok(None));
        assert_eq!(vector(&["0.1", "NaN"]), Ok(None), "a part that is missing is no zero");
        let mut scalar = json!({"status": "success",
            "data": {"resultType": "scalar", "result": [1, "2"]}});
        assert_eq!(value(&scalar), Ok(Some(2.0)));
        scalar["warnings"] = json!(["store-gateway 3 has not answered"]);
        assert!(value(&scalar).unwrap_err().contains("store-gateway 3"));
        let error = json!({"status": "error", "error": "parse error"});
        assert!(value(&error).unwrap_err().contains("parse error"));
    }
}
