//! What must hold over all scenes: each demand of the design's table, and whether it did.
//!
//! In: the rows that were measured. Out: a line for each demand. A demand that no scene has
//! measured is neither kept nor missed, and is said to be that. Pure.

use super::figures::Figures;
use super::scene::{Contender, Fault, Keying};
use super::table::Row;

/// One demand.
struct Demand {
    text: &'static str,
    /// Which scenes show it.
    of: fn(&Row) -> bool,
    /// Whether one did not keep it.
    is_missed: fn(&Row, &Figures) -> bool,
}

/// Of one fault: whatever is asked of its scenes.
const fn fault(text: &'static str, of: fn(&Row) -> bool) -> Demand {
    Demand { text, of, is_missed: |row, _| row.is_missed() }
}

const DEMANDS: [Demand; 17] = [
    fault("kill: none fails but what was under way; slowest 50 ms above the cloud", |row| {
        row.scene.fault == Fault::Kill
    }),
    fault("freeze: 0.4 s of calls fail, none with a key that all know", |row| {
        row.scene.fault == Fault::Freeze
    }),
    fault("line cut: 0.2 s of calls fail, none with such a key", |row| {
        row.scene.fault == Fault::LineCut
    }),
    fault("503: 0.12 s of calls fail, none with such a key and retry.codes", |row| {
        row.scene.fault == Fault::Unavailable
    }),
    fault("flapping: none fails, one change of tier, slowest 500 ms with a key", |row| {
        row.scene.fault == Fault::Flap
    }),
    fault("slow answers: none fails", |row| row.scene.fault == Fault::Slow),
    fault("reset after the request was read: 0.12 s of calls fail, none with a key", |row| {
        row.scene.fault == Fault::ResetAfterRead
    }),
    fault("reset in mid-body: 0.12 s of calls fail", |row| row.scene.fault == Fault::ResetMidBody),
    fault("refused for 30 s: none fails; slowest 50 ms above the cloud", |row| {
        row.scene.fault == Fault::Refuse
    }),
    fault("both down: none fails from 0.5 s after one is back", |row| {
        row.scene.fault == Fault::BothDown
    }),
    fault("the cloud's DNS gone: as if it were there", |row| row.scene.fault == Fault::DnsGone),
    fault("reboot: none fails once the proxy is ready", |row| row.scene.fault == Fault::Reboot),
    fault("return: back within dwell and ramp, two changes of tier", |row| {
        row.scene.fault == Fault::Return
    }),
    Demand {
        text: "read or executed again without permission: 0, by the ledgers",
        of: |_| true,
        is_missed: |_, seen| seen.repeats.without_permission > 0,
    },
    Demand {
        text: "a key of one backend: no call in both tiers",
        of: |row| row.scene.keying == Keying::Backend,
        is_missed: |_, seen| seen.repeats.both_tiers > 0,
    },
    Demand {
        text: "no call lost that had a usable endpoint and permission",
        of: |row| had_both(row.scene.fault) && row.scene.keying == Keying::AllBackends,
        is_missed: |_, seen| seen.failed > 0,
    },
    Demand {
        text: "every answer is in a ledger",
        of: |_| true,
        is_missed: |_, seen| seen.unaccounted > 0,
    },
];

/// Whether a keyed call always had somewhere to go and could be sent again: not with both tiers
/// down, and not once a part of its answer has been passed on.
const fn had_both(fault: Fault) -> bool {
    !matches!(fault, Fault::BothDown | Fault::ResetMidBody)
}

/// A line for each demand; Tillgate's scenes count.
pub(super) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for demand in &DEMANDS {
        let ours = |row: &&Row| row.scene.contender == Contender::Tillgate && (demand.of)(row);
        let of: Vec<&Row> = rows.iter().filter(ours).collect();
        let missed = of.iter().filter(|row| {
            // What could not be measured did not hold.
            row.figures.as_ref().is_none_or(|seen| (demand.is_missed)(row, seen))
        });
        let missed: Vec<String> = missed.map(|row| row.scene.to_string()).collect();
        let scenes = of.len();
        let line = match (scenes, missed.is_empty()) {
            (0, _) => format!("–       {} (no such scene was played)", demand.text),
            (_, true) => format!("ok      {} ({scenes} scenes)", demand.text),
            (_, false) => format!("MISSED  {}: {}", demand.text, missed.join("; ")),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::ledger::Repeats;
    use crate::failover::scene::{Protocol, Scene};

    fn row(fault: Fault, keying: Keying, figures: Figures) -> Row {
        let (protocol, contender) = (Protocol::H1, Contender::Tillgate);
        let mut row = Row::new(Scene { fault, rate: 25, protocol, keying, contender });
        row.add(figures);
        row
    }

    fn line<'a>(text: &'a str, of: &str) -> &'a str {
        text.lines().find(|line| line.contains(of)).unwrap()
    }

    #[test]
    fn each_demand_has_its_line() {
        let good = || Figures { calls: 100, ..Figures::default() };
        let lost = Figures { failed: 1, ..good() };
        let rows = [
            row(Fault::Freeze, Keying::None, Figures { failed: 9, ..good() }),
            row(Fault::Kill, Keying::AllBackends, lost.clone()),
            row(Fault::BothDown, Keying::AllBackends, lost),
        ];
        let text = text(&rows);
        assert_eq!(text.lines().count(), DEMANDS.len());
        assert!(line(&text, "freeze:").starts_with("ok      freeze: 0.4 s"), "{text}");
        assert!(line(&text, "kill:").starts_with("MISSED  kill:"), "{text}");
        let lost = line(&text, "usable endpoint and permission");
        assert!(lost.starts_with("MISSED") && lost.ends_with("kill, 25/s h1, key, Tillgate"));
        assert!(line(&text, "both down").starts_with("ok"), "{text}");
        assert!(line(&text, "flapping").starts_with("–"), "{text}");
        assert!(line(&text, "without permission").starts_with("ok"), "{text}");
    }

    #[test]
    fn one_forbidden_execution_anywhere_is_one_too_many() {
        let repeats = Repeats { without_permission: 1, both_tiers: 1, executed_twice: 0 };
        let figures = Figures { repeats, ..Figures::default() };
        let text = text(&[row(Fault::Freeze, Keying::Backend, figures)]);
        assert!(line(&text, "without permission").starts_with("MISSED"), "{text}");
        assert!(line(&text, "key of one backend").starts_with("MISSED"), "{text}");
    }

    #[test]
    fn what_could_not_be_measured_did_not_hold() {
        let good = row(Fault::Slow, Keying::None, Figures::default());
        let lost = Row { figures: None, error: Some("no line".into()), ..good };
        assert!(line(&text(&[lost]), "every answer").starts_with("MISSED"));
    }
}
