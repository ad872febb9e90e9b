//! Stories, seeded simulation and properties of the scheduler.
//!
//! Every test runs in simulated time. `audit` wraps the scheduler in a reference model that sees
//! every call and checks every answer; the other files drive it. `TILLGATE_SEED=n` replays one
//! seed, `TILLGATE_SEEDS=n` runs n of them (a soak); seeds that once failed are kept in
//! `tests/seeds.txt` and run every time.
//!
//! The properties, with the numbers used in the comments:
//!
//! Safety (`audit`, driven by `chaos`): 1 charged bytes in any window stay under rate, credit,
//! overdraft and two quanta. 2 Per class: under its ceiling in every window. 3 A grant is more than
//! 0, at most a quantum and the demand, to a ready flow. 4 No flow in two lists, counts agree. 5 A
//! wake-up is in the future, not too far, and nothing could have been granted before it. 6 No
//! overflow at the limits of every number and after 400 days. 7 A clock that repeats or steps back
//! grants nothing extra.
//!
//! Work conservation and liveness: 8 no wait while an eligible class is ready (`audit`). 9 The
//! line is used to 99.9 % (`policy`). 10 A ready flow of a class with a floor waits a bounded time.
//! 11 A class without a floor starves only behind a backlogged tier (`audit`), and is next when
//! that goes idle. 12 Cancelling leaves everything true; a refund equals no grant.
//!
//! Policy: 13 strict tiers, 14 a lower tier in front of an upper one only inside its floor
//! (`audit`). 15 Floors hold, 16 totals match water filling, 17 a runaway first tier leaves the
//! floors alone, 18 several first-tier classes do not each get the rest, 19 ceilings and 20 floors
//! do not distort weights, 24 order does not matter (`policy`). 21 Borrowing and returning, 22
//! fairness between flows, sparse flows first, 23 a moved flow keeps no credit (`dynamics`).
//!
//! Dynamics: 25 rate changes, 26 a payment is granted at once, 27 a reload is no burst. (28, the
//! receive windows, is tested beside the window allocator.)

mod audit;
mod chaos;
pub(crate) mod draw;
mod dynamics;
mod latency;
mod policy;
mod stories;
