//! Durations, civil times and dates, time zones.
//!
//! Durations are GEP-2257 (no days: a civil day has 23 to 25 hours; no decimals). Times and dates
//! are civil, in the store's zone. Whether a zone exists is asked when the store is compiled.

use std::fmt;
use std::time::Duration;

use super::{Text, text_types};

/// A duration with units, as GEP-2257 writes it: `350ms`, `1m30s`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

/// A civil time of day: `"07:30"`; `"24:00"` is the end of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime {
    /// Minutes since midnight, 0 to 1440.
    pub minutes: u16,
}

/// A civil date: `"2026-12-24"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CivilDate(pub jiff::civil::Date);

/// The name of a time zone in the IANA database: `Europe/Oslo`, `UTC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneName(pub String);

text_types!(DurationText, LocalTime, CivilDate, ZoneName);

impl Text for DurationText {
    const EXPECTED: &'static str = "a duration such as `30s`";
    const PATTERN: &'static str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
    const SCHEMA: &'static str = "Duration";

    fn read(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        let mut parts = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let millis = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(duration_message(text, number, unit)),
            };
            parts += 1;
            let value: u64 = match number.parse() {
                Ok(value) if number.len() <= 5 && parts <= 4 => value,
                _ => {
                    return Err(format!(
                        "the duration `{text}` is not readable: write one to four numbers of up to \
                         five digits, each with its unit, as `1m30s`"
                    ));
                }
            };
            total += Duration::from_millis(value * millis);
            rest = tail;
        }
        if parts == 0 {
            return Err("the duration is empty: write one such as `30s`".to_owned());
        }
        Ok(Self(total))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration_text(self.0))
    }
}

fn duration_message(text: &str, number: &str, unit: &str) -> String {
    match unit {
        "" => format!("the duration `{text}` has no unit: write it as `{number}s`"),
        "d" => {
            format!(
                "the duration `{text}` is in days: write hours, as `24h` (a day can have 23 or 25)"
            )
        }
        _ if unit.starts_with('.') => {
            format!(
                "the duration `{text}` has decimals: write a smaller unit, as `1h30m` or `500ms`"
            )
        }
        _ => {
            format!(
                "the duration `{text}` has the unknown unit `{unit}`: use h, m, s or ms, as `1m30s`"
            )
        }
    }
}

/// A duration in GEP-2257's standard form, the largest units first: `1h30m`, `500ms`, `0s`.
/// Fractions of a millisecond are dropped.
pub(crate) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
}

impl Text for LocalTime {
    const EXPECTED: &'static str = "a time of day such as \"07:30\"";
    const PATTERN: &'static str = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$";
    const SCHEMA: &'static str = "LocalTime";

    fn read(text: &str) -> Result<Self, String> {
        let two = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| digits)
        };
        let minutes = text
            .split_once(':')
            .and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)))
            .filter(|(hour, minute)| *minute < 60 && (*hour < 24 || (*hour, *minute) == (24, 0)))
            .map(|(hour, minute)| hour * 60 + minute);
        minutes.map(|minutes| Self { minutes }).ok_or_else(|| {
            format!("the time `{text}` is not readable: write four digits in quotes, as \"07:30\"")
        })
    }
}

impl Text for CivilDate {
    const EXPECTED: &'static str = "a date such as \"2026-12-24\"";
    const PATTERN: &'static str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
    const SCHEMA: &'static str = "CivilDate";

    fn read(text: &str) -> Result<Self, String> {
        let shaped = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        text.parse().ok().filter(|_| shaped).map(Self).ok_or_else(|| {
            format!(
                "the date `{text}` is not a day of the calendar: write it in quotes, as \
                 \"2026-12-24\""
            )
        })
    }
}

impl Text for ZoneName {
    const EXPECTED: &'static str = "a time zone such as `Europe/Oslo`";
    const PATTERN: &'static str = "^(UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+)$";
    const SCHEMA: &'static str = "TimeZone";

    fn read(text: &str) -> Result<Self, String> {
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
        };
        let area = text.split('/').next().unwrap_or_default();
        let area_fits = area.len() > 1
            && area.starts_with(|c: char| c.is_ascii_uppercase())
            && area.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if text == "UTC" || (area_fits && text.contains('/') && text.split('/').all(word)) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is not a time zone of the form Area/City: write one such as `Europe/Oslo`, \
             or `UTC`"
        ))
    }
}
