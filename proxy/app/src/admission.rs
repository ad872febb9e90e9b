//! Whether a request may begin now: as many as fit, as often as its rule says, as large as its
//! listener takes.
//!
//! In: what is known of a request once its class and rule are. A window or freeze that holds the
//! rule comes first. Out: nothing, what its client is
//! told of the rule's rate, or a refusal. Rules and classes without limits cost two comparisons.
//! Connections, heads and targets are bounded below HTTP; what waits for a server is the pool's.

use std::net::IpAddr;

use http::HeaderMap;
use http::request::Parts;
use tillgate_core::class::ClassId;
use tillgate_core::matching::RuleId;
use tillgate_core::tls::ClientIdentity;
use tillgate_net::error::Failure;
use tillgate_net::limit::{Asker, Verdict};
use tillgate_net::memory::Ledger;

use crate::outcome::Outcome;
use crate::problem::{self, Answer, Refusal};
use crate::running::Running;

/// A request that may not begin.
pub(crate) struct Turned {
    refusal: Refusal,
    rate: Option<Verdict>,
}

impl Turned {
    /// The answer that says so.
    pub(crate) fn answer(self, outcome: Outcome) -> Answer {
        let mut answer = problem::answer(&self.refusal, outcome);
        tell(self.rate, answer.headers_mut());
        answer
    }
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, rate: None }
    }
}

/// Tells the client of a limited rule what is left.
pub(crate) fn tell(rate: Option<Verdict>, headers: &mut HeaderMap) {
    if let Some(rate) = rate {
        rate.tell(headers);
    }
}

/// Whether one more of `class` fits, which is counted already, with a body of at least this size.
pub(crate) fn fits(
    running: &Running,
    class: ClassId,
    body_bytes: u64,
    outcome: &Outcome,
) -> Result<(), Refusal> {
    let (flow, class) = (outcome.flow(), running.class(class));
    flow.set_rank(class.rank);
    if flow.is_beyond() {
        let detail = "as many requests as the listener's limits.maxRequests are under way";
        return Err(Refusal::new(Failure::RequestsFull, detail));
    }
    class_has_room(&class.spec.name, outcome)?;
    if !flow.is_admitted(class.rank) {
        return Err(Failure::MemoryShed.into());
    }
    if body_bytes > flow.body_bytes_max() {
        return Err(Failure::BodyTooLarge.into());
    }
    Ok(())
}

/// Whether one more connection or session of `class` fits that is no HTTP of a client, which is
/// counted already; what it may have to hold is weighed as that of a request.
pub(crate) fn fits_beside_http(
    running: &Running,
    class: ClassId,
    memory: &Ledger,
    outcome: &Outcome,
) -> Result<(), Refusal> {
    let class = running.class(class);
    class_has_room(&class.spec.name, outcome)?;
    if memory.admits(class.rank) { Ok(()) } else { Err(Failure::MemoryShed.into()) }
}

fn class_has_room(class: &str, outcome: &Outcome) -> Result<(), Refusal> {
    let Some(failure) = outcome.is_one_too_many() else { return Ok(()) };
    let detail = if failure == Failure::ConnectionsFull {
        format!("as many connections as maxConnections of class {class} are open")
    } else {
        format!("as many requests as maxRequests of class {class} are under way")
    };
    Err(Refusal::new(failure, detail))
}

/// Who asks for what.
pub(crate) struct Request<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) body_bytes: u64,
    pub(crate) client: IpAddr,
    pub(crate) identity: Option<&'a ClientIdentity>,
}

/// Whether a request that met `rule` may begin. Its rate is asked last, so that what is refused
/// for another reason takes no token.
pub(crate) fn admit(
    running: &Running,
    (rule, class): (RuleId, ClassId),
    request: &Request<'_>,
    outcome: &Outcome,
) -> Result<Option<Verdict>, Turned> {
    running.doors.pass_route(rule)?;
    fits(running, class, request.body_bytes, outcome)?;
    let Some(limits) = running.rates(rule) else { return Ok(None) };
    let Request { head, client, identity, .. } = request;
    let asker = Asker { address: *client, identity: *identity, headers: &head.headers };
    let verdict = limits.check(asker);
    match verdict.wait {
        None => Ok(Some(verdict)),
        Some(wait) => {
            let detail = format!("too many requests; the next may come in {wait:.1?}");
            let refusal = Refusal::new(Failure::RateLimited, detail);
            Err(Turned { refusal, rate: Some(verdict) })
        }
    }
}
