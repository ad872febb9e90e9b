//! Rates told by a clock in hand: bursts, refills, keys, what clients hear, and a table that stays
//! within its bound whoever asks.

use governor::clock::FakeRelativeClock;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn spec(key: RateKey, requests: u32, burst: u32, keys_max: u32) -> RateLimit {
    RateLimit { requests, interval: SECOND, burst, key, keys_max }
}

fn by_address(clock: &FakeRelativeClock, keys_max: u32) -> RuleLimits<FakeRelativeClock> {
    RuleLimits::new(&[spec(RateKey::ClientAddress, 2, 4, keys_max)], clock)
}

fn from(limits: &RuleLimits<FakeRelativeClock>, address: &str) -> Verdict {
    let headers = HeaderMap::new();
    let address = address.parse().unwrap();
    limits.check(Asker { address, identity: None, headers: &headers })
}

#[test]
fn a_burst_passes_then_one_for_each_refill() {
    let clock = FakeRelativeClock::default();
    let limits = by_address(&clock, 10);
    for left in (0..4).rev() {
        let verdict = from(&limits, "10.0.0.1");
        assert_eq!(verdict.wait, None);
        assert!(verdict.left.starts_with(&format!("\"address\";r={left};")), "{verdict:?}");
    }
    let refused = from(&limits, "10.0.0.1");
    assert_eq!(refused.wait, Some(SECOND / 2));
    assert_eq!(from(&limits, "10.0.0.2").wait, None, "another client has its own");
    clock.advance(SECOND / 2);
    assert_eq!(from(&limits, "10.0.0.1").wait, None);
    assert!(from(&limits, "10.0.0.1").wait.is_some());
    clock.advance(SECOND * 60);
    let passed = (0..10).filter(|_| from(&limits, "10.0.0.1").wait.is_none()).count();
    assert_eq!(passed, 4, "a pause does not save up more than a burst");
}

#[test]
fn clients_are_told() {
    let clock = FakeRelativeClock::default();
    let limits = by_address(&clock, 10);
    let mut headers = HeaderMap::new();
    from(&limits, "10.0.0.1").tell(&mut headers);
    assert_eq!(headers["ratelimit-policy"], "\"address\";q=4;w=2");
    assert_eq!(headers["ratelimit"], "\"address\";r=3;t=1");
    assert!(!headers.contains_key("retry-after"));
    for _ in 0..4 {
        from(&limits, "10.0.0.1").tell(&mut headers);
    }
    assert_eq!(headers["ratelimit"], "\"address\";r=0;t=1");
    assert_eq!(headers["retry-after"], "1", "half a second is one in whole seconds");
}

#[test]
fn a_device_has_many_addresses_and_one_bucket() {
    let clock = FakeRelativeClock::default();
    let limits = by_address(&clock, 10);
    for host in 1..=4 {
        assert_eq!(from(&limits, &format!("2001:db8:0:7::{host}")).wait, None);
    }
    assert!(from(&limits, "2001:db8:0:7:ffff::9").wait.is_some());
    assert_eq!(from(&limits, "2001:db8:0:8::1").wait, None);
    // IPv4 inside IPv6 is IPv4.
    for _ in 0..4 {
        from(&limits, "::ffff:10.0.0.1");
    }
    assert!(from(&limits, "10.0.0.1").wait.is_some());
}

#[test]
fn headers_certificates_and_the_route_are_keys_of_their_own() {
    let clock = FakeRelativeClock::default();
    let name = HeaderName::from_static("x-till");
    let keys = [RateKey::Header(name.clone()), RateKey::ClientCertificate, RateKey::Route];
    for key in keys {
        let limits = RuleLimits::new(&[spec(key.clone(), 1, 1, 10)], &clock);
        let ask = |till: &'static str, certificate: Option<&str>, address: &str| {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(till))]);
            let identity = certificate
                .map(|print| ClientIdentity { fingerprint: print.into(), ..Default::default() });
            let address = address.parse().unwrap();
            let passes =
                limits.check(Asker { address, identity: identity.as_ref(), headers: &headers });
            passes.wait.is_none()
        };
        assert!(ask("1", Some("a"), "10.0.0.1"), "{key:?}");
        assert_eq!(ask("2", Some("a"), "10.0.0.1"), matches!(key, RateKey::Header(_)), "{key:?}");
        let by_certificate = key == RateKey::ClientCertificate;
        assert_eq!(ask("1", Some("b"), "10.0.0.1"), by_certificate, "{key:?}");
        assert_eq!(ask("1", None, "10.0.0.1"), by_certificate, "{key:?}");
        assert_eq!(ask("1", None, "10.0.0.2"), by_certificate, "{key:?}");
        assert!(!ask("1", None, "10.0.0.2"), "{key:?}");
    }
}

#[test]
fn the_first_limit_without_a_token_refuses() {
    let clock = FakeRelativeClock::default();
    let address = spec(RateKey::ClientAddress, 1, 1, 10);
    let route = RateLimit { interval: SECOND * 10, ..spec(RateKey::Route, 1, 2, 10) };
    let limits = RuleLimits::new(&[address.clone(), route, address], &clock);
    let mut headers = HeaderMap::new();
    let verdict = from(&limits, "10.0.0.1");
    verdict.tell(&mut headers);
    assert_eq!(verdict.wait, None);
    let policies = "\"address\";q=1;w=1, \"route\";q=2;w=20, \"address-2\";q=1;w=1";
    assert_eq!(headers["ratelimit-policy"], policies);
    let left = "\"address\";r=0;t=1, \"route\";r=1;t=10, \"address-2\";r=0;t=1";
    assert_eq!(headers["ratelimit"], left);
    assert_eq!(from(&limits, "10.0.0.1").wait, Some(SECOND));
    assert_eq!(from(&limits, "10.0.0.2").wait, None);
    assert_eq!(from(&limits, "10.0.0.3").wait, Some(SECOND * 10));
}

#[test]
fn the_table_is_bounded_and_forgets_who_has_lost_nothing_first() {
    let clock = FakeRelativeClock::default();
    let limits = by_address(&clock, 3);
    for _ in 0..4 {
        from(&limits, "10.0.0.1");
    }
    from(&limits, "10.0.0.2");
    from(&limits, "10.0.0.3");
    // The first is the oldest, but the second is whole again and the first is not.
    clock.advance(SECOND / 2);
    from(&limits, "10.0.0.4");
    assert_eq!(limits.limits[0].bucket.clock().now(), Nanos::from(SECOND / 2));
    let used = (0..4).filter(|_| from(&limits, "10.0.0.1").wait.is_none()).count();
    assert_eq!(used, 1, "it is remembered");
    // A crowd drives it out in the end, and the table stays what it is.
    for host in 0..=255 {
        for _ in 0..4 {
            from(&limits, &format!("10.1.0.{host}"));
        }
    }
    let Limit { bucket, .. } = limits.limits.into_iter().next().unwrap();
    assert_eq!(bucket.into_state_store().len(), 3);
}

#[test]
fn a_flood_of_keys_stays_in_order() {
    // Against a plain list: who is remembered is who came last.
    let table = Table::new(8, Duration::from_nanos(1));
    let mut seen: Vec<u64> = Vec::new();
    let mut draw = 1_u64;
    for step in 0..5_000_u64 {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (draw >> 33) % 20;
        use governor::state::StateStore as _;
        let was = table
            .measure_and_replace(&key, |old| {
                Ok::<_, ()>((old.is_some(), Nanos::new(1 << 40 | step)))
            })
            .unwrap();
        assert_eq!(was, seen.contains(&key), "step {step}");
        seen.retain(|known| *known != key);
        seen.push(key);
        if seen.len() > 8 {
            seen.remove(0);
        }
    }
}

#[test]
fn a_reload_keeps_the_buckets_of_limits_that_stay() {
    let book = Book::new(clock::now());
    let limits = [spec(RateKey::Route, 1, 1, 1)];
    let of = |rule: &str, limits: &[RateLimit]| book.of(&"shop".into(), &rule.into(), limits);
    let first = of("all", &limits).unwrap();
    assert!(Arc::ptr_eq(&first, &of("all", &limits).unwrap()));
    assert!(!Arc::ptr_eq(&first, &of("other", &limits).unwrap()));
    let other = [spec(RateKey::Route, 2, 1, 1)];
    assert!(!Arc::ptr_eq(&first, &of("all", &other).unwrap()));
    assert!(of("all", &[]).is_none());
    assert_eq!(book.rules.lock().unwrap().len(), 2, "what nobody uses is gone");
}
