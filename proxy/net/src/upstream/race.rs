//! Happy eyeballs: of several addresses the first that takes a connection (RFC 8305).
//!
//! Families take turns, the one that the resolver put first begins. Each attempt has a quarter of
//! a second to itself before the next one begins beside it; one that fails makes room at once.
//! Whoever wins ends the others. What an attempt is, is the caller's affair.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::clock;

/// What RFC 8305 recommends between two attempts (section 5): long enough that a path that works
/// wins nearly always, short enough that a person does not notice one that does not.
const STAGGER: Duration = Duration::from_millis(250);

/// More addresses than this are not tried: four of each family, and then some.
const ATTEMPTS_MAX: usize = 10;

/// The order in which to try: families in turn, within each as the resolver gave them.
pub(crate) fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == begins_with_v6);
    first.reverse();
    second.reverse();
    let mut order = Vec::with_capacity(addresses.len().min(ATTEMPTS_MAX));
    while order.len() < ATTEMPTS_MAX {
        match (first.pop(), order.len()) {
            (Some(address), _) => order.push(address),
            (None, _) if second.is_empty() => break,
            (None, _) => {}
        }
        order.extend(second.pop());
    }
    order.truncate(ATTEMPTS_MAX);
    order
}

/// Runs `attempt` on `addresses` in [`interleave`]d order until one succeeds. `None` if there is
/// no address; the error of the attempt that failed last, if all fail.
pub(crate) async fn race<T, E, A>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> A,
) -> Option<Result<T, E>>
where
    A: Future<Output = Result<T, E>>,
{
    if let [only] = addresses {
        return Some(attempt(*only).await);
    }
    let mut waiting = interleave(addresses).into_iter();
    let mut running: Vec<Pin<Box<A>>> = vec![Box::pin(attempt(waiting.next()?))];
    let mut next = pin!(tokio::time::sleep(STAGGER));
    let mut last = None;
    poll_fn(|cx| {
        loop {
            let mut failed = false;
            let mut index = 0;
            while index < running.len() {
                match running[index].as_mut().poll(cx) {
                    Poll::Ready(Ok(won)) => return Poll::Ready(Some(Ok(won))),
                    Poll::Ready(Err(error)) => {
                        last = Some(error);
                        failed = true;
                        drop(running.remove(index));
                    }
                    Poll::Pending => index += 1,
                }
            }
            if !failed && next.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match waiting.next() {
                Some(address) => {
                    running.push(Box::pin(attempt(address)));
                    next.as_mut().reset((clock::now() + STAGGER).into());
                }
                None if running.is_empty() => return Poll::Ready(last.take().map(Err)),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Instant;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_the_first_begins() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let wanted = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(&given), wanted);
        let given = addresses(&["1.1.1.1:1", "[::1]:1", "[::2]:1"]);
        assert_eq!(interleave(&given), given);
        let one = addresses(&["1.1.1.1:1", "2.2.2.2:1"]);
        assert_eq!(interleave(&one), one);
        assert_eq!(interleave(&[]), []);
        let many: Vec<_> = (0..40).map(|i| SocketAddr::from(([10, 0, 0, i], 1))).collect();
        assert_eq!(interleave(&many), many[..ATTEMPTS_MAX]);
    }

    /// How an address behaves: after so many milliseconds it takes a connection, or refuses.
    fn behave(address: SocketAddr) -> (u64, bool) {
        match address.port() {
            1 => (60_000, true),
            2 => (100, true),
            3 => (10, false),
            _ => (60_000, false),
        }
    }

    async fn run(ports: &[&str]) -> (Option<Result<u16, u16>>, Duration, Vec<u16>) {
        let begun = RefCell::new(Vec::new());
        let start: Instant = tokio::time::Instant::now().into_std();
        let addresses = addresses(ports);
        let found = race(&addresses, |address| {
            begun.borrow_mut().push(address.port());
            async move {
                let (millis, takes) = behave(address);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                if takes { Ok(address.port()) } else { Err(address.port()) }
            }
        });
        let found = found.await;
        let took = tokio::time::Instant::now().into_std() - start;
        (found, took, begun.into_inner())
    }

    #[tokio::test]
    async fn a_silent_family_costs_a_quarter_of_a_second() {
        let (found, took, begun) = run(&["[::1]:1", "127.0.0.1:2"]).await;
        assert_eq!((found, begun), (Some(Ok(2)), vec![1, 2]));
        assert!(took >= STAGGER + Duration::from_millis(100), "{took:?}");
    }

    #[tokio::test]
    async fn one_that_fails_makes_room_at_once() {
        // On a busy machine one of many is quick; of none that waits for its turn.
        for _ in 0..50 {
            let (found, took, begun) = run(&["[::1]:3", "127.0.0.1:2"]).await;
            assert_eq!((found, begun), (Some(Ok(2)), vec![3, 2]));
            if took < STAGGER {
                return;
            }
        }
        panic!("the second never began before its turn");
    }

    #[tokio::test]
    async fn the_first_wins_alone_where_it_is_quick() {
        let (found, _, begun) = run(&["[::1]:2", "127.0.0.1:1"]).await;
        assert_eq!((found, begun), (Some(Ok(2)), vec![2]));
    }

    #[tokio::test]
    async fn if_all_fail_the_last_one_says_why() {
        let (found, _, begun) = run(&["[::1]:3", "127.0.0.1:3"]).await;
        assert_eq!((found, begun), (Some(Err(3)), vec![3, 3]));
        let (found, ..) = run(&[]).await;
        assert_eq!(found, None);
    }
}
