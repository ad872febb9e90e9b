//! The grammars: published vectors, round trips, and agreement with their patterns.
//!
//! The patterns are what an editor with the JSON Schema knows; a good value that it marks as
//! wrong would teach people to ignore it.

use std::time::Duration;

use proptest::prelude::*;
use proptest::string::string_regex;
use regex::Regex;
use tillgate_core::class::Share;
use tillgate_core::units::BitRate;

use super::*;

fn duration(text: &str) -> Result<Duration, String> {
    DurationText::read(text).map(|duration| duration.0)
}

/// The vectors of GEP-2257 (Gateway API), both directions.
#[test]
fn durations_follow_gep_2257() {
    let valid = [
        ("0h", "0s"),
        ("0s", "0s"),
        ("0h0m0s", "0s"),
        ("1h", "1h"),
        ("30m", "30m"),
        ("10s", "10s"),
        ("500ms", "500ms"),
        ("2h30m", "2h30m"),
        ("150m", "2h30m"),
        ("7230s", "2h30s"),
        ("1h30m10s", "1h30m10s"),
        ("10s30m1h", "1h30m10s"),
        ("100ms200ms300ms", "600ms"),
        ("99999h", "99999h"),
    ];
    for (text, shown) in valid {
        assert_eq!(duration_text(duration(text).unwrap()), shown, "{text}");
    }
    let invalid = [
        "",
        "0",
        "1",
        "1m1",
        "1h30m10s20ms50h",
        "999999h",
        "1d",
        "1.5h",
        "-15m",
        "1 h",
        "1H",
        "h",
        "1h ",
        "PT5S",
        "5 minutes",
        "1us",
    ];
    for text in invalid {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn rates_have_bits_and_a_unit() {
    let rate = |text: &str| Rate::read(text).map(|rate| rate.0.bits_per_second());
    assert_eq!(rate("20Mbit/s"), Ok(20_000_000));
    assert_eq!(rate("1.5Mbit/s"), Ok(1_500_000));
    assert_eq!(rate("0.064Mbit/s"), Ok(64_000));
    assert_eq!(rate("1bit/s"), Ok(1));
    assert_eq!(rate("999999.999Gbit/s"), Ok(999_999_999_000_000));
    for text in [
        "20",
        "20M",
        "20Mbps",
        "20MB/s",
        "20mbit/s",
        "20Mbit",
        "20 Mbit/s",
        "Mbit/s",
        "020Mbit/s",
        "20.Mbit/s",
        ".5Mbit/s",
        "1.2345Mbit/s",
        "1000000Mbit/s",
        "-5Mbit/s",
        "0Mbit/s",
        "0.000Gbit/s",
        "1e3kbit/s",
        "1_000kbit/s",
        "20Mbit/s ",
        "0.1bit/s",
        "1.1.1Mbit/s",
    ] {
        assert!(rate(text).is_err(), "{text}");
    }
    let message = rate("20mbps").unwrap_err();
    assert!(message.contains("write it as `20Mbit/s`"), "{message}");
    let message = rate("12kB/s").unwrap_err();
    assert!(message.ends_with("write `96kbit/s`"), "{message}");
}

#[test]
fn sizes_have_a_unit_and_no_milli() {
    let size = |text: &str| Size::read(text).map(|size| size.0);
    assert_eq!(size("512Ki"), Ok(524_288));
    assert_eq!(size("20G"), Ok(20_000_000_000));
    assert_eq!(size("1k"), Ok(1000));
    for text in ["512", "512m", "0Ki", "1.5Mi", "1000000k", "512KiB", "512K", "Mi", "-1k", "01k"] {
        assert!(size(text).is_err(), "{text}");
    }
    for text in ["512Ki", "16Mi", "20G", "1k", "3M", "1023Ki", "999999k"] {
        let bytes = size(text).unwrap();
        assert_eq!(size(&size_text(bytes)), Ok(bytes), "{text}");
    }
}

#[test]
fn percentages_are_whole_and_shares_are_either() {
    let percent = |text: &str| Percentage::read(text).map(|percent| percent.0.value());
    assert_eq!(percent("0%"), Ok(0));
    assert_eq!(percent("100%"), Ok(100));
    for text in ["101%", "0.2", "20", "1.5%", "05%", "%", "-1%", "+5%", "5 %", "256%"] {
        assert!(percent(text).is_err(), "{text}");
    }
    let rate = Share::Rate(BitRate::from_mbit(2));
    assert_eq!(ShareText::read("2Mbit/s").map(|share| share.0), Ok(rate));
    assert!(ShareText::read("20").is_err());
}

#[test]
fn code_points_have_the_values_of_their_rfcs() {
    let known = [("EF", 46), ("LE", 1), ("AF11", 10), ("AF31", 26), ("AF41", 34), ("AF43", 38)];
    for (text, value) in known.into_iter().chain([("CS0", 0), ("CS1", 8), ("CS7", 56)]) {
        assert_eq!(Dscp::read(text).map(|dscp| dscp.0), Ok(value), "{text}");
        assert_eq!(dscp_text(value), text);
    }
    for text in ["ef", "AF44", "AF51", "AF1", "AF111", "CS8", "CS", "46", ""] {
        assert!(Dscp::read(text).is_err(), "{text}");
    }
}

#[test]
fn times_dates_and_zones_are_civil() {
    let minutes = |text: &str| LocalTime::read(text).map(|time| time.minutes);
    assert_eq!(minutes("07:30"), Ok(450));
    assert_eq!(minutes("24:00"), Ok(1440));
    for text in ["7:00", "24:01", "10pm", "12:60", "1200", "12:00:00", "+1:00", ""] {
        assert!(minutes(text).is_err(), "{text}");
    }
    assert!(CivilDate::read("2026-12-24").is_ok());
    for text in ["2026-02-30", "2026-2-03", "20261224", "2026-12-24T00:00", "+026-12-24"] {
        assert!(CivilDate::read(text).is_err(), "{text}");
    }
    for text in ["Europe/Oslo", "UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5"] {
        assert!(ZoneName::read(text).is_ok(), "{text}");
    }
    for text in ["CET", "EST5EDT", "+02:00", "", "Europe/", "/Oslo", "europe/Oslo"] {
        assert!(ZoneName::read(text).is_err(), "{text}");
    }
}

#[test]
fn hosts_have_one_form() {
    use tillgate_core::matching::HostPattern::{Any, Exact, Suffix};
    let host = |text: &str| HostText::read(text).map(|host| host.0);
    assert_eq!(host("Pay.Example."), Ok(Exact("pay.example".into())));
    assert_eq!(host("*.Example"), Ok(Suffix("example".into())));
    assert_eq!(host("*"), Ok(Any));
    assert_eq!(host("[2001:DB8::1]"), Ok(Exact("2001:db8::1".into())));
    assert_eq!(host("10.9.0.1"), Ok(Exact("10.9.0.1".into())));
    for text in [
        "",
        ".",
        "a..b",
        "-a.b",
        "a-.b",
        "*.",
        "**.b",
        "a.*",
        "*.10.9.0.1",
        "10.9.0",
        "10.9.0.256",
        "pay.example:80",
        "http://a",
        "a/b",
        "a b",
        "é.example",
        "[::1",
        "a.b..",
    ] {
        assert!(host(text).is_err(), "{text}");
    }
    let long = format!("{}.example", "a".repeat(64));
    assert!(host(&long).is_err());
}

#[test]
fn paths_below_a_group_are_whole_segments() {
    let path = |text: &str| StorePath::read(text).unwrap();
    assert!(path("/geo/no/oslo").is_under(&path("/geo/no")));
    assert!(path("/geo/no").is_under(&path("/geo/no")));
    assert!(!path("/geo/norway").is_under(&path("/geo/no")));
    assert!(!path("/geo").is_under(&path("/geo/no")));
}

/// What the parser takes, the pattern of the schema takes: an editor never marks a good value.
fn agrees<T: Text>(text: &str) {
    if T::read(text).is_ok() {
        let pattern = Regex::new(T::PATTERN).unwrap();
        assert!(pattern.is_match(text), "{} takes `{text}`, its pattern does not", T::SCHEMA);
    }
}

fn agree_all(text: &str) {
    agrees::<Rate>(text);
    agrees::<Size>(text);
    agrees::<Percentage>(text);
    agrees::<ShareText>(text);
    agrees::<Dscp>(text);
    agrees::<DurationText>(text);
    agrees::<LocalTime>(text);
    agrees::<CivilDate>(text);
    agrees::<ZoneName>(text);
    agrees::<Name>(text);
    agrees::<LabelKey>(text);
    agrees::<LabelValue>(text);
    agrees::<StorePath>(text);
    agrees::<DeviceName>(text);
    agrees::<HostText>(text);
    agrees::<Fqdn>(text);
    agrees::<Address>(text);
    agrees::<Cidr>(text);
    agrees::<ListenAddress>(text);
    agrees::<UrlPath>(text);
    agrees::<HeaderField>(text);
    agrees::<HeaderText>(text);
}

/// What the pattern takes, the parser takes too.
fn exact<T: Text>(text: &str) {
    assert!(
        T::read(text).is_ok(),
        "the pattern of {} takes `{text}`: {:?}",
        T::SCHEMA,
        T::read(text).err()
    );
}

proptest! {
    #[test]
    fn patterns_never_refuse_what_the_parser_takes(
        text in "[-0-9A-Za-z.:/%*_+ \\[\\]]{0,20}",
        rate in string_regex("[0-9]{0,7}\\.?[0-9]{0,4}[kMG]?b?it?/?s?").unwrap(),
        time in "[0-9]{0,6}[hmsd.]{0,3}[0-9]{0,6}[hms]{0,2}",
        address in "\\[?[0-9a-f:.]{1,20}\\]?[:/]?[0-9]{0,6}",
    ) {
        for text in [text, rate, time, address] {
            agree_all(&text);
        }
    }

    #[test]
    fn simple_patterns_are_the_whole_grammar(
        size in string_regex("[1-9][0-9]{0,5}(Ki|Mi|Gi|k|M|G)").unwrap(),
        percent in string_regex("(100|[1-9]?[0-9])%").unwrap(),
        time in string_regex("([0-9]{1,5}(h|m|s|ms)){1,4}").unwrap(),
        clock in string_regex("([01][0-9]|2[0-3]):[0-5][0-9]").unwrap(),
        name in string_regex("[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?").unwrap(),
        path in string_regex("(/[a-z0-9-]{1,5}){1,4}").unwrap(),
        dscp in string_regex("(EF|LE|AF[1-4][1-3]|CS[0-7])").unwrap(),
        rate in string_regex("[1-9][0-9]{0,5}(\\.[0-9]{1,3})?(bit|kbit|Mbit|Gbit)/s").unwrap(),
    ) {
        exact::<Size>(&size);
        exact::<Percentage>(&percent);
        exact::<DurationText>(&time);
        exact::<LocalTime>(&clock);
        exact::<Name>(&name);
        exact::<StorePath>(&path);
        exact::<Dscp>(&dscp);
        exact::<Rate>(&rate);
    }

    #[test]
    fn what_is_shown_can_be_read_again(
        rate in string_regex("[1-9][0-9]{0,5}(\\.[0-9]{1,3})?(bit|kbit|Mbit|Gbit)/s").unwrap(),
        size in string_regex("[1-9][0-9]{0,5}(Ki|Mi|Gi|k|M|G)").unwrap(),
        millis in 0..1_000_000_000u64,
    ) {
        let rate = Rate::read(&rate).unwrap();
        prop_assert_eq!(Rate::read(&rate.0.to_string()), Ok(rate));
        let size = Size::read(&size).unwrap();
        prop_assert_eq!(Size::read(&size_text(size.0)), Ok(size));
        let time = Duration::from_millis(millis);
        prop_assert_eq!(duration(&duration_text(time)), Ok(time));
    }
}
