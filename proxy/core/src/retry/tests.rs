//! Stories of calls that did not go well.

use std::time::Instant;

use super::*;
use crate::schedule::tests::draw::epoch;
use crate::units::Percent;

const LOCAL: BackendId = BackendId(0);
const CLOUD: BackendId = BackendId(1);
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn spec() -> RetrySpec {
    RetrySpec {
        attempts: 1,
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        codes: vec![],
        methods: Methods::Idempotent,
        idempotency: None,
        budget: BudgetSpec { percent: Percent::new(20).unwrap(), min_per_second: 10 },
        buffer_bytes: 64 * 1024,
        hedge: None,
    }
}

fn keyed(scope: Scope) -> RetrySpec {
    RetrySpec { idempotency: Some(Idempotency { header: KEY, scope }), ..spec() }
}

fn with_key() -> HeaderMap {
    HeaderMap::from_iter([(KEY, "0412-7".parse().unwrap())])
}

fn end(course: &mut Course, ended: Ended, backend: BackendId, spec: &RetrySpec) -> Next {
    course.handle_end(ended, backend, spec, Body::Kept, || true)
}

const ANYWHERE: Next = Next::Again { only: None, number: 1 };

#[test]
fn methods_and_keys_decide_where_a_call_may_be_repeated() {
    let (none, key) = (HeaderMap::new(), with_key());
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
        assert_eq!(spec().repeat(&method, &none), Repeat::Anywhere, "{method}");
    }
    for method in [Method::POST, Method::PATCH, Method::CONNECT] {
        assert_eq!(spec().repeat(&method, &key), Repeat::Nowhere, "no key is configured");
        assert_eq!(keyed(Scope::Backend).repeat(&method, &none), Repeat::Nowhere);
        assert_eq!(keyed(Scope::Backend).repeat(&method, &key), Repeat::SameBackend);
        assert_eq!(keyed(Scope::AllBackends).repeat(&method, &key), Repeat::Anywhere);
    }
    let empty = HeaderMap::from_iter([(KEY, " ".parse().unwrap())]);
    assert_eq!(keyed(Scope::AllBackends).repeat(&Method::POST, &empty), Repeat::Nowhere);
    let allowed = RetrySpec { methods: Methods::All, ..keyed(Scope::Backend) };
    assert_eq!(allowed.repeat(&Method::POST, &none), Repeat::Anywhere);
    assert_eq!(allowed.repeat(&Method::POST, &key), Repeat::SameBackend, "a key is a promise");
}

#[test]
fn what_was_not_sent_may_always_go_elsewhere() {
    let mut course = Course::new(Repeat::Nowhere);
    assert_eq!(end(&mut course, Ended::Unsent, LOCAL, &spec()), ANYWHERE);
    assert_eq!(end(&mut course, Ended::Unsent, CLOUD, &spec()), ANYWHERE);
    assert_eq!(end(&mut course, Ended::Lost, CLOUD, &spec()), Next::Stop(Stop::Forbidden));
    let off = RetrySpec { attempts: 0, ..spec() };
    let mut course = Course::new(Repeat::Nowhere);
    let next = course.handle_end(Ended::Unsent, LOCAL, &off, Body::Kept, || panic!("no budget"));
    assert_eq!(next, ANYWHERE);
}

#[test]
fn a_payment_without_a_key_is_never_sent_twice() {
    for ended in [Ended::Lost, Ended::Answered(StatusCode::SERVICE_UNAVAILABLE)] {
        let spec = RetrySpec { codes: vec![StatusCode::SERVICE_UNAVAILABLE], ..spec() };
        let mut course = Course::new(Repeat::Nowhere);
        assert_eq!(end(&mut course, ended, LOCAL, &spec), Next::Stop(Stop::Forbidden));
    }
}

#[test]
fn a_key_stays_where_it_is_remembered() {
    let spec = keyed(Scope::Backend);
    let mut course = Course::new(Repeat::SameBackend);
    let here = Next::Again { only: Some(LOCAL), number: 1 };
    assert_eq!(end(&mut course, Ended::Lost, LOCAL, &spec), here);
    let still = Next::Again { only: Some(LOCAL), number: 2 };
    assert_eq!(end(&mut course, Ended::Unsent, LOCAL, &spec), still, "the first may have counted");
    assert_eq!(end(&mut course, Ended::Lost, LOCAL, &spec), Next::Stop(Stop::Attempts));
}

#[test]
fn an_answer_is_an_answer_unless_the_rule_says_otherwise() {
    let mut course = Course::new(Repeat::Anywhere);
    let spec = RetrySpec { codes: vec![StatusCode::SERVICE_UNAVAILABLE], ..spec() };
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY] {
        let next = end(&mut course, Ended::Answered(status), LOCAL, &spec);
        assert_eq!(next, Next::Stop(Stop::Answer), "{status}");
    }
    let unavailable = Ended::Answered(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(end(&mut course, unavailable, LOCAL, &spec), ANYWHERE);
    assert_eq!(end(&mut course, unavailable, CLOUD, &spec), Next::Stop(Stop::Attempts));
}

#[test]
fn what_cannot_be_sent_again_is_not() {
    let mut course = Course::new(Repeat::Anywhere);
    let next = course.handle_end(Ended::Lost, LOCAL, &spec(), Body::Gone, || true);
    assert_eq!(next, Next::Stop(Stop::BodyGone));
    let next = course.handle_end(Ended::Lost, LOCAL, &spec(), Body::Kept, || false);
    assert_eq!(next, Next::Stop(Stop::Budget));
    let mut course = Course::new(Repeat::Anywhere);
    let mut again = || end(&mut course, Ended::Unsent, LOCAL, &spec()) == ANYWHERE;
    let tries = (0..20).take_while(|_| again()).count();
    assert_eq!(tries, 7, "a server that only refuses does not loop us");
}

#[test]
fn pauses_grow_and_are_any_part_of_their_ceiling() {
    let spec = spec();
    for (number, ceiling) in [(1, 25), (2, 50), (4, 200), (5, 250), (60, 250)] {
        let draws = (0..1000).map(|step: u64| step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let pauses: Vec<_> = draws.map(|draw| spec.backoff(number, draw)).collect();
        let ceiling = Duration::from_millis(ceiling);
        assert!(pauses.iter().all(|pause| *pause <= ceiling));
        assert!(pauses.iter().any(|pause| *pause > ceiling * 9 / 10), "{number}");
        assert!(pauses.iter().any(|pause| *pause < ceiling / 10), "{number}");
    }
}

fn spend(budget: &mut Budget, calls: u32, now: Instant) -> usize {
    (0..10_000).take_while(|_| budget.try_withdraw(calls, now)).count()
}

#[test]
fn a_burst_may_be_repeated_and_a_permanent_failure_is_not_doubled() {
    let (spec, zero) = (spec().budget, epoch());
    let mut budget = Budget::new(spec, 0, zero);
    assert_eq!(spend(&mut budget, 0, zero), 100, "ten seconds' worth at the beginning");
    assert_eq!(spend(&mut budget, 0, zero + Duration::from_millis(500)), 5);
    // 200 calls a second for a minute, a third of which wants to be sent again.
    let (mut calls, mut spent) = (0, 0);
    for step in 1..=600 {
        calls += 20;
        let now = zero + Duration::from_millis(500 + step * 100);
        spent += (0..7).filter(|_| budget.try_withdraw(calls, now)).count();
    }
    // A fifth of 12,000 and ten a second.
    assert!((2900..=3010).contains(&spent), "{spent}");
}

#[test]
fn nothing_of_the_budget_is_lost_by_asking_often() {
    let (spec, zero) = (spec().budget, epoch());
    let mut budget = Budget::new(spec, 0, zero);
    spend(&mut budget, 0, zero);
    // Asked every 300 microseconds for two seconds: a thousandth of a try each time.
    let asks = (1..=6667).map(|step| zero + Duration::from_micros(300 * step));
    let spent = asks.filter(|now| budget.try_withdraw(0, *now)).count();
    assert!((19..=20).contains(&spent), "ten a second: {spent}");
    let mut rare =
        Budget::new(BudgetSpec { percent: Percent::new(1).unwrap(), min_per_second: 0 }, 0, zero);
    let mut calls = 0;
    let spent = (0..1000).filter(|_| {
        calls += 1;
        rare.try_withdraw(calls, zero)
    });
    assert_eq!(spent.count(), 10, "one of a hundred, one call at a time");
}

#[test]
fn a_quiet_minute_saves_no_more_than_ten_seconds_do() {
    let (spec, zero) = (spec().budget, epoch());
    let mut budget = Budget::new(spec, 0, zero);
    spend(&mut budget, 0, zero);
    assert_eq!(spend(&mut budget, 0, zero + Duration::from_secs(60)), 100);
}
