//! Texts of rollouts and calendars: images, moments, civil times, cron expressions.
//!
//! What looks nearly right is told how it is written: a tag where a digest belongs, an offset in a
//! civil time, none in an instant.

use tillgate_core::calendar::Cron;
use tillgate_core::civil::{Civil, Day, Timestamp};
use tillgate_core::gate::{self, RepositoryGlob};

use super::{CivilDate, Name, Text, ZoneName, text_types};

/// A point in time, as RFC 3339 writes it: `2026-11-27T18:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub Timestamp);

/// A civil date and time: `2026-11-20T00:00:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CivilDateTime(pub Civil);

/// `Store`, or the name of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowZone {
    /// The store's own.
    Store,
    /// This one.
    Named(ZoneName),
}

/// The host of a registry, with a port if it has one: `registry.example`, `localhost:5000`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegistryHost(pub String);

/// A repository: `pos/checkout`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(pub String);

/// A pattern of repositories: `pos/**`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryPattern(pub RepositoryGlob);

/// The digest of an image: `sha256:` and 64 digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageDigest(pub String);

/// A SHA-256, as 64 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sha256Text(pub String);

/// Whom a window, freeze or override applies to: a Rollout, `*`, or `config`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RolloutName(pub gate::RolloutName);

/// A ServiceRoute, or one rule of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteName(pub gate::RouteName);

/// A cron expression of five fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CronText(pub Cron);

text_types!(
    Instant,
    CivilDateTime,
    WindowZone,
    RegistryHost,
    Repository,
    RepositoryPattern,
    ImageDigest,
    Sha256Text,
    RolloutName,
    RouteName,
    CronText,
);

/// `2026-11-20T06:00:00` at the beginning of `text`, and what follows.
fn civil(text: &str) -> Option<(Civil, &str)> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix('T')?.split_at_checked(8)?;
    let date: CivilDate = date.parse().ok()?;
    let date = date.0;
    let fit = |number: i8| u8::try_from(number).ok();
    let day = Day::new(date.year().into(), fit(date.month())?, fit(date.day())?)?;
    let mut parts = time.split(':').map(|part| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| digits)
    });
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = hour < 24 && minute < 60 && second < 60 && parts.next().is_none();
    let civil = Civil(day.at_minute(hour * 60 + minute).0 + i64::from(second));
    fits.then_some((civil, rest))
}

impl Text for Instant {
    const EXPECTED: &'static str = "a moment such as \"2026-11-27T18:00:00Z\"";
    const PATTERN: &'static str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\
                                   (Z|[+-][0-9]{2}:[0-9]{2})$";
    const SCHEMA: &'static str = "Instant";

    fn read(text: &str) -> Result<Self, String> {
        let Some((civil, offset)) = civil(text) else {
            return Err(format!(
                "the moment `{text}` is not readable: write date, time and zone in quotes, as \
                 \"2026-11-27T18:00:00Z\""
            ));
        };
        if offset.is_empty() {
            return Err(format!(
                "the moment `{text}` has no zone, and here it must be the same everywhere: write \
                 \"{text}Z\" for UTC, or an offset such as `+01:00`"
            ));
        }
        let seconds = match offset {
            "Z" => Some(0),
            _ => offset_seconds(offset),
        };
        seconds.map(|seconds| Self(Timestamp(civil.0 - seconds))).ok_or_else(|| {
            format!("the offset of `{text}` is not readable: write `Z`, or one such as `+01:00`")
        })
    }
}

/// Seconds east of Greenwich of `+01:00`.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |part: &str, below: i64| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i64>().ok().filter(|number| digits && *number < below)
    };
    Some(sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60))
}

impl Text for CivilDateTime {
    const EXPECTED: &'static str = "a date and time such as \"2026-11-20T00:00:00\"";
    const PATTERN: &'static str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$";
    const SCHEMA: &'static str = "CivilDateTime";

    fn read(text: &str) -> Result<Self, String> {
        match civil(text) {
            Some((civil, "")) => Ok(Self(civil)),
            Some((civil, _)) => Err(format!(
                "the time `{text}` has a zone, and here it is that of `timeZone`: write \"{civil}\""
            )),
            None => Err(format!(
                "the time `{text}` is not readable: write date and time in quotes, as \
                 \"2026-11-20T00:00:00\""
            )),
        }
    }
}

impl Text for WindowZone {
    const EXPECTED: &'static str = "`Store`, or a time zone such as `Europe/Oslo`";
    const PATTERN: &'static str = "^(Store|UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+)$";
    const SCHEMA: &'static str = "WindowTimeZone";

    fn read(text: &str) -> Result<Self, String> {
        if text == "Store" {
            return Ok(Self::Store);
        }
        ZoneName::read(text).map(Self::Named).map_err(|_| {
            format!(
                "`{text}` is not a time zone of the form Area/City: write `Store` for the store's \
                 own, one such as `Europe/Oslo`, or `UTC`"
            )
        })
    }
}

/// One part of a repository: letters and digits, with `.`, `_` and `-` between them.
fn is_segment(text: &str, more: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
    text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || matches!(c, '.' | '_' | '-'))
}

impl Text for RegistryHost {
    const EXPECTED: &'static str = "a registry such as `registry.example`";
    const PATTERN: &'static str = "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$";
    const SCHEMA: &'static str = "RegistryHost";

    fn read(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().is_ok_and(|port| port > 0)),
            None => (text, true),
        };
        let label = |label: &str| is_segment(label, "") && !label.contains('_') && label.len() < 64;
        if port && host.len() <= 253 && host.split('.').all(label) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` cannot be the host of a registry: write it in lower case as images name it, \
             as `registry.example` or `localhost:5000`"
        ))
    }
}

impl Text for Repository {
    const EXPECTED: &'static str = "a repository such as `pos/checkout`";
    const PATTERN: &'static str =
        "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$";
    const SCHEMA: &'static str = "Repository";

    fn read(text: &str) -> Result<Self, String> {
        if text.len() <= 255 && text.split('/').all(|part| is_segment(part, "")) {
            return Ok(Self(text.to_owned()));
        }
        let advice = match text.split_once([':', '@']) {
            Some((name, _)) => format!("write it without tag and digest, as `{name}`"),
            None => "write lower case segments, as `pos/checkout`".to_owned(),
        };
        Err(format!("`{text}` cannot be a repository: {advice}"))
    }
}

impl Text for RepositoryPattern {
    const EXPECTED: &'static str = "a pattern of repositories such as `pos/**`";
    const PATTERN: &'static str =
        "^[a-z0-9*]([a-z0-9._*-]*[a-z0-9*])?(/[a-z0-9*]([a-z0-9._*-]*[a-z0-9*])?)*$";
    const SCHEMA: &'static str = "RepositoryPattern";

    fn read(text: &str) -> Result<Self, String> {
        // Two stars mean something as a whole segment only.
        let segment = |part: &str| part == "**" || (is_segment(part, "*") && !part.contains("**"));
        if text.len() <= 255 && text.split('/').all(segment) {
            return Ok(Self(RepositoryGlob(text.into())));
        }
        Err(format!(
            "`{text}` cannot be a pattern of repositories: write lower case segments, `*` for a \
             part of one and `**` for any number of them, as `pos/**`"
        ))
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Text for ImageDigest {
    const EXPECTED: &'static str = "a digest such as `sha256:` and 64 digits";
    const PATTERN: &'static str = "^sha256:[0-9a-f]{64}$";
    const SCHEMA: &'static str = "ImageDigest";

    fn read(text: &str) -> Result<Self, String> {
        if text.strip_prefix("sha256:").is_some_and(is_hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is no digest of an image: write `sha256:` and its 64 digits in lower case; a \
             tag can mean something else tomorrow"
        ))
    }
}

impl Text for Sha256Text {
    const EXPECTED: &'static str = "a SHA-256 in 64 digits";
    const PATTERN: &'static str = "^[0-9a-f]{64}$";
    const SCHEMA: &'static str = "Sha256";

    fn read(text: &str) -> Result<Self, String> {
        if is_hex(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("`{text}` is no SHA-256: write its 64 digits in lower case"))
    }
}

impl Text for RolloutName {
    const EXPECTED: &'static str = "the name of a Rollout, `*` or `config`";
    const PATTERN: &'static str = "^(\\*|[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)$";
    const SCHEMA: &'static str = "RolloutName";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self(gate::RolloutName::Every)),
            "config" => Ok(Self(gate::RolloutName::Policy)),
            _ => Name::read(text).map(|name| Self(gate::RolloutName::Named(name.0.into()))),
        }
    }
}

impl Text for RouteName {
    const EXPECTED: &'static str = "the name of a ServiceRoute, or `route/rule` for one rule of it";
    const PATTERN: &'static str = "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\
                                   (/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$";
    const SCHEMA: &'static str = "RouteName";

    fn read(text: &str) -> Result<Self, String> {
        let (route, rule) = match text.split_once('/') {
            Some((route, rule)) => (route, Some(rule)),
            None => (text, None),
        };
        let name = |text: &str| Name::read(text).map(|name| name.0.into());
        let rule = rule.map(name).transpose()?;
        Ok(Self(gate::RouteName { route: name(route)?, rule }))
    }
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Text for CronText {
    const EXPECTED: &'static str = "a cron expression such as \"30 2 * * *\"";
    const PATTERN: &'static str = "^[0-9A-Za-z*/,-]+( [0-9A-Za-z*/,-]+){4}$";
    const SCHEMA: &'static str = "Cron";

    fn read(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!(
                "the cron expression `{text}` has {} fields: write five (minute, hour, day, month, \
                 day of the week), as \"30 2 * * *\"",
                fields.len()
            ));
        };
        let set = |field: &str, (low, high), names: &[&str], what: &str| {
            cron_set(field, (low, high), names).ok_or_else(|| {
                format!(
                    "the {what} `{field}` of the cron expression is not readable: write numbers \
                     from {low} to {high}, with `,`, `-`, `/` or `*`"
                )
            })
        };
        let fit = |bits: u64| u32::try_from(bits).unwrap_or(u32::MAX);
        let of_week = set(weekday, (0, 7), &DAYS, "day of the week")?;
        // Sunday is both 0 and 7.
        let of_week = (of_week | of_week >> 7) & 0x7f;
        Ok(Self(Cron {
            minutes: set(minute, (0, 59), &[], "minute")?,
            hours: fit(set(hour, (0, 23), &[], "hour")?),
            days_of_month: fit(set(day, (1, 31), &[], "day of the month")?),
            months: u16::try_from(set(month, (1, 12), &MONTHS, "month")?).unwrap_or(u16::MAX),
            days_of_week: u8::try_from(of_week).unwrap_or(u8::MAX),
            by_day_of_month: !day.starts_with('*'),
            by_day_of_week: !weekday.starts_with('*'),
        }))
    }
}

/// The numbers of a field as bits; `None` if it is wrong.
fn cron_set(field: &str, (low, high): (u32, u32), names: &[&str]) -> Option<u64> {
    let number = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower);
        let first = if names.len() == MONTHS.len() { 1 } else { 0 };
        let named = named.and_then(|at| u32::try_from(at + first).ok());
        let digits =
            !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
        named
            .or_else(|| text.parse().ok().filter(|_| digits))
            .filter(|number| (low..=high).contains(number))
    };
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, step.parse().ok().filter(|step| (1..=high).contains(step))?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10` goes on to the end, a number alone is itself.
            None => (number(range)?, if part.contains('/') { high } else { number(range)? }),
        };
        if from > to {
            return None;
        }
        let step = usize::try_from(step).ok()?;
        bits |= (from..=to).step_by(step).fold(0u64, |bits, number| bits | 1 << number);
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_a_zone_and_civil_times_have_none() {
        let instant = |text: &str| Instant::read(text).map(|one| one.0.to_string());
        assert_eq!(instant("2026-11-27T18:00:00Z"), Ok("2026-11-27T18:00:00Z".into()));
        assert_eq!(instant("2026-11-27T18:00:00-05:30"), Ok("2026-11-27T23:30:00Z".into()));
        let civil = |text: &str| CivilDateTime::read(text).map(|one| one.0.to_string());
        assert_eq!(civil("2026-11-20T06:00:00"), Ok("2026-11-20T06:00:00".into()));
        for wrong in [
            "2026-11-27",
            "2026-11-27T18:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-27T24:00:00Z",
            "2026-11-27T18:00:00",
            "2026-11-27T18:00:00+1:00",
            "2026-11-27T18:00:00+01:60",
            "é026-11-27T18:00:00Z",
        ] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
        assert!(
            civil("2026-11-20T06:00:00Z").unwrap_err().ends_with("write \"2026-11-20T06:00:00\"")
        );
        assert!(instant("2026-11-27T18:00:00").unwrap_err().contains("\"2026-11-27T18:00:00Z\""));
    }

    #[test]
    fn cron_fields_are_sets() {
        let cron = |text: &str| CronText::read(text).map(|one| one.0);
        let nightly = cron("30 2 * * *").unwrap();
        assert_eq!((nightly.minutes, nightly.hours), (1 << 30, 1 << 2));
        assert_eq!((nightly.days_of_month, nightly.months), (0xffff_fffe, 0x1ffe));
        assert!(!nightly.by_day_of_month && !nightly.by_day_of_week);
        let other = cron("*/20 8-10,22 1/10 jan,Dec mon-FRI").unwrap();
        assert_eq!(other.minutes, 1 | 1 << 20 | 1 << 40);
        assert_eq!(other.hours, 1 << 8 | 1 << 9 | 1 << 10 | 1 << 22);
        assert_eq!(other.days_of_month, 1 << 1 | 1 << 11 | 1 << 21 | 1 << 31);
        assert_eq!((other.months, other.days_of_week), (1 << 1 | 1 << 12, 0b011_1110));
        assert_eq!(cron("0 0 * * 7").unwrap().days_of_week, 1);
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-3 * * * *",
            "*/0 * * * *",
            "@daily",
            "a * * * *",
            "1,,2 * * * *",
            "-1 * * * *",
        ] {
            assert!(cron(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn images_are_named_by_digest() {
        assert!(Repository::read("pos/checkout-2").is_ok());
        assert!(Repository::read("pos/checkout:1.2").unwrap_err().contains("as `pos/checkout`"));
        for wrong in ["", "/pos", "pos/", "POS", "pos//x", "../etc", "pos/-x"] {
            assert!(Repository::read(wrong).is_err(), "{wrong}");
        }
        for right in ["**", "pos/**", "*-app", "a/*/b"] {
            assert!(RepositoryPattern::read(right).is_ok(), "{right}");
        }
        for wrong in ["", "pos/***", "a**", "[a-z]", "pos/?"] {
            assert!(RepositoryPattern::read(wrong).is_err(), "{wrong}");
        }
        assert!(ImageDigest::read(&format!("sha256:{}", "0a".repeat(32))).is_ok());
        assert!(ImageDigest::read("latest").is_err());
        assert!(RegistryHost::read("localhost:5000").is_ok());
        for wrong in
            ["https://registry.example", "registry.example/pos", "Registry.example", "a:0", "a:x"]
        {
            assert!(RegistryHost::read(wrong).is_err(), "{wrong}");
        }
    }
}
