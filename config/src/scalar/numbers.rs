//! Rates, sizes, percentages, shares, code points, counts and flags.
//!
//! Bits and bytes never mix: a rate is in bits with its unit, a size in bytes with its unit, and
//! a bare number is a count. Each type can also be written back in the language's own spelling.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use tillgate_core::class::Share;
use tillgate_core::units::{BitRate, Percent};

use super::{Text, text_types};
use crate::suggest;

const RATE_PATTERN: &str = "^(0|[1-9][0-9]{0,5})(\\.[0-9]{1,3})?(bit|kbit|Mbit|Gbit)/s$";
const PERCENT_PATTERN: &str = "^(100|[1-9]?[0-9])%$";

const RATE_UNITS: [(&str, u64); 4] =
    [("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];

const SIZE_UNITS: [(&str, u64); 6] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
];

/// A rate in bits per second with its unit: `20Mbit/s`, `1.5Mbit/s`. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub BitRate);

/// Bytes with a unit: `512Ki`, `16Mi`, `20G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A whole percentage: `5%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage(pub Percent);

/// A part of the line: a [`Percentage`] of it or a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareText(pub Share);

/// A differentiated services code point by name: `EF`, `AF41`, `CS1`, `LE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(pub u8);

text_types!(Rate, Size, Percentage, ShareText, Dscp);

impl Text for Rate {
    const EXPECTED: &'static str = "a rate such as `20Mbit/s`";
    const PATTERN: &'static str = RATE_PATTERN;
    const SCHEMA: &'static str = "Rate";

    fn read(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let Some((_, factor)) = RATE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(rate_unit_message(text, number, unit));
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str, most: usize| {
            (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let canonical = whole == "0" || !whole.starts_with('0');
        if !digits(whole, 6) || !canonical || !digits(fraction, 3) {
            return Err(format!(
                "the number of the rate `{text}` is not readable: write up to six digits and \
                 three decimals, as `1.5Mbit/s`"
            ));
        }
        let thousandths: u64 = format!("{whole}{fraction:0<3}").parse().unwrap_or(u64::MAX);
        let bits = thousandths.saturating_mul(*factor) / 1_000;
        if bits == 0 {
            return Err(format!(
                "the rate `{text}` is zero: give one above zero; to keep a class off a line say \
                 `metered: Deny`"
            ));
        }
        Ok(Self(BitRate::from_bits_per_second(bits)))
    }
}

/// Splits where the number ends.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    text.split_at(end)
}

fn rate_unit_message(text: &str, number: &str, unit: &str) -> String {
    let number = if number.is_empty() { "20" } else { number };
    if unit.is_empty() {
        return format!("the rate `{text}` has no unit: write it as `{number}Mbit/s`");
    }
    let lower = unit.to_lowercase();
    let prefix = match lower.chars().next() {
        Some('k') => "k",
        Some('g') => "G",
        Some('m') => "M",
        _ => "",
    };
    if unit.contains('B') || lower.contains("byte") {
        let bits = number.parse::<u32>().map_or_else(
            |_| format!("eight times the number with `{prefix}bit/s`"),
            |bytes| format!("`{}{prefix}bit/s`", u64::from(bytes) * 8),
        );
        return format!(
            "the rate `{text}` is in bytes, and rates are in bits per second: write {bits}"
        );
    }
    let names = RATE_UNITS.map(|(name, _)| name);
    let meant = suggest::nearest(unit, names)
        .map_or_else(|| format!("{prefix}bit/s"), |name| (*name).to_owned());
    format!("the rate `{text}` has the unknown unit `{unit}`: write it as `{number}{meant}`")
}

impl Text for Size {
    const EXPECTED: &'static str = "a size such as `512Ki`";
    const PATTERN: &'static str = "^[1-9][0-9]{0,5}(Ki|Mi|Gi|k|M|G)$";
    const SCHEMA: &'static str = "Size";

    fn read(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            let shown = if number.is_empty() { "512" } else { number };
            return Err(match unit {
                "" => format!("the size `{text}` has no unit: write it as `{shown}Ki`"),
                "m" => format!(
                    "the size `{text}` would be thousandths: write `{shown}M` or `{shown}Mi`"
                ),
                _ => format!(
                    "the size `{text}` has the unknown unit `{unit}`: use one of Ki, Mi, Gi, k, M, G"
                ),
            });
        };
        let shaped = (1..=6).contains(&number.len()) && !number.starts_with('0');
        match number.parse::<u64>() {
            Ok(value) if shaped => Ok(Self(value.saturating_mul(*factor))),
            _ => Err(format!(
                "the number of the size `{text}` is not readable: write one to six digits without \
                 decimals, above zero"
            )),
        }
    }
}

/// Bytes as a policy writes them, with the largest unit that stays exact: `512Ki`, `20G`.
/// Sizes that no unit fits are plain bytes.
pub(crate) fn size_text(bytes: u64) -> String {
    let mut units = SIZE_UNITS;
    units.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
    let fitting =
        units.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    fitting.map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// A code point as a policy writes it: `EF`, `CS1`; the number where it has no name.
pub(crate) fn dscp_text(value: u8) -> String {
    match value {
        46 => "EF".to_owned(),
        1 => "LE".to_owned(),
        _ if value.is_multiple_of(8) && value < 64 => format!("CS{}", value / 8),
        _ if (10..=38).contains(&value) && value.is_multiple_of(2) => {
            format!("AF{}{}", value / 8, value % 8 / 2)
        }
        other => other.to_string(),
    }
}

impl Text for Percentage {
    const EXPECTED: &'static str = "a percentage such as `5%`";
    const PATTERN: &'static str = PERCENT_PATTERN;
    const SCHEMA: &'static str = "Percent";

    fn read(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').ok_or_else(|| {
            format!("the percentage `{text}` has no percent sign: write it as `5%`")
        })?;
        let canonical = number == "0" || !number.starts_with('0');
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let value = number.parse().ok().filter(|_| canonical && digits).and_then(Percent::new);
        value.map(Self).ok_or_else(|| {
            format!("the percentage `{text}` is not a whole number from 0 to 100: write it as `5%`")
        })
    }
}

impl Text for ShareText {
    const EXPECTED: &'static str = "a part of the line such as `20%` or `2Mbit/s`";
    const PATTERN: &'static str =
        "^((100|[1-9]?[0-9])%|(0|[1-9][0-9]{0,5})(\\.[0-9]{1,3})?(bit|kbit|Mbit|Gbit)/s)$";
    const SCHEMA: &'static str = "Share";

    fn read(text: &str) -> Result<Self, String> {
        if text.ends_with('%') {
            return Percentage::read(text).map(|percent| Self(Share::Percent(percent.0)));
        }
        let (_, unit) = split_unit(text);
        if unit.is_empty() {
            return Err(format!(
                "the share `{text}` has no unit: write it as `20%` or as `2Mbit/s`"
            ));
        }
        Rate::read(text).map(|rate| Self(Share::Rate(rate.0)))
    }
}

impl Text for Dscp {
    const EXPECTED: &'static str = "a code point such as `EF`";
    const PATTERN: &'static str = "^(EF|LE|AF[1-4][1-3]|CS[0-7])$";
    const SCHEMA: &'static str = "Dscp";

    fn read(text: &str) -> Result<Self, String> {
        let digit = |at: usize, low: u8, high: u8| {
            let value = text.as_bytes().get(at)?.checked_sub(b'0')?;
            (low..=high).contains(&value).then_some(value)
        };
        let value = match (text, text.len()) {
            ("EF", _) => Some(46), // RFC 3246
            ("LE", _) => Some(1),  // RFC 8622
            (_, 4) if text.starts_with("AF") => {
                // RFC 2597: class in the upper three bits, drop precedence below.
                digit(2, 1, 4).zip(digit(3, 1, 3)).map(|(class, drop)| class * 8 + drop * 2)
            }
            (_, 3) if text.starts_with("CS") => digit(2, 0, 7).map(|class| class * 8), // RFC 2474
            _ => None,
        };
        value.map(Self).ok_or_else(|| {
            format!("the code point `{text}` is unknown: use EF, LE, AF11 to AF43 or CS0 to CS7")
        })
    }
}

/// A whole number from `LOW` to `HIGH`. Not in quotes, not in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whole<const LOW: u64, const HIGH: u64>(u64);

impl<const LOW: u64, const HIGH: u64> Whole<LOW, HIGH> {
    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The number as `N`, which must be wide enough for `HIGH`; the largest `N` otherwise.
    pub fn fit<N: TryFrom<u64> + Largest>(self) -> N {
        N::try_from(self.0).unwrap_or(N::LARGEST)
    }
}

/// The largest value of an integer type.
pub trait Largest {
    /// That value.
    const LARGEST: Self;
}

impl Largest for u8 {
    const LARGEST: Self = Self::MAX;
}

impl Largest for u16 {
    const LARGEST: Self = Self::MAX;
}

impl Largest for u32 {
    const LARGEST: Self = Self::MAX;
}

impl<'de, const LOW: u64, const HIGH: u64> Deserialize<'de> for Whole<LOW, HIGH> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WholeVisitor<const LOW: u64, const HIGH: u64>;

        impl<const LOW: u64, const HIGH: u64> Visitor<'_> for WholeVisitor<LOW, HIGH> {
            type Value = Whole<LOW, HIGH>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {LOW} to {HIGH}")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                if (LOW..=HIGH).contains(&value) {
                    return Ok(Whole(value));
                }
                Err(E::custom(format!(
                    "the number {value} is out of range: use one from {LOW} to {HIGH}"
                )))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::custom(format!(
                        "the number {value} is out of range: use one from {LOW} to {HIGH}"
                    ))),
                }
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                // The parser reads `0300` as the decimal fraction 300.0.
                let _ = value;
                Err(E::custom(format!(
                    "the number is not whole, or has a leading zero: use one from {LOW} to {HIGH}"
                )))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let plain = text.parse::<u64>().is_ok();
                let what = if plain { "remove the quotes" } else { "write digits alone" };
                Err(E::custom(format!("`{text}` is not a number from {LOW} to {HIGH}: {what}")))
            }
        }

        from.deserialize_any(WholeVisitor::<LOW, HIGH>)
    }
}

impl<const LOW: u64, const HIGH: u64> JsonSchema for Whole<LOW, HIGH> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Whole_{LOW}_{HIGH}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LOW, "maximum": HIGH })
    }
}

/// `true` or `false`; not in quotes, and none of YAML 1.1's other spellings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FlagVisitor;

        impl Visitor<'_> for FlagVisitor {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true` or `false`")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Flag, E> {
                Err(E::custom(match text {
                    "true" | "false" => format!("`{text}` is a text here: remove the quotes"),
                    _ => format!("`{text}` is neither `true` nor `false`: write one of them"),
                }))
            }
        }

        from.deserialize_any(FlagVisitor)
    }
}

impl JsonSchema for Flag {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Flag".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// A number of endpoints or a percentage of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthyCount {
    /// So many endpoints.
    Endpoints(u32),
    /// So much of them.
    Percent(Percent),
}

impl<'de> Deserialize<'de> for HealthyCount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct CountVisitor;

        impl Visitor<'_> for CountVisitor {
            type Value = HealthyCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of endpoints or a percentage")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<HealthyCount, E> {
                match u32::try_from(value) {
                    Ok(value) if value > 0 => Ok(HealthyCount::Endpoints(value)),
                    _ => Err(E::custom(format!(
                        "the number of endpoints {value} is out of range: use 1 or more"
                    ))),
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<HealthyCount, E> {
                self.visit_u64(u64::try_from(value).unwrap_or(0))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<HealthyCount, E> {
                Percentage::read(text)
                    .map(|percent| HealthyCount::Percent(percent.0))
                    .map_err(E::custom)
            }
        }

        from.deserialize_any(CountVisitor)
    }
}

impl JsonSchema for HealthyCount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HealthyCount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            { "type": "string", "pattern": PERCENT_PATTERN },
        ] })
    }
}
