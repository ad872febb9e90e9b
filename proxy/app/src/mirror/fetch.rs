//! One blob from a registry to the disk.
//!
//! The core's machine says what to do next; here it is done: a turn is waited for, requests are
//! sent, what comes is gathered while more is there and written when it is not, so that readers see
//! progress on a slow line and a fast one is written in large pieces. Whatever happens, whoever
//! waits for the blob is told how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName};
use http::{Method, response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tillgate_config::defaults;
use tillgate_core::mirror::fetch::{End, Fetch, Head, Step, Why};
use tillgate_core::mirror::{Code, range};
use tillgate_net::clock;
use tillgate_net::error::Failure;
use tillgate_net::http::flow::Flow;
use tillgate_net::http::retry_after::retry_after;
use tillgate_net::mirror::{Broken, Discard, Part, Ticket};

use super::lanes::Lane;
use super::upstream::Asking;
use super::{Mirror, Place};

/// How often a body that stands still is looked at: the stall timeout is exact to that.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Fetches the blob of `ticket`, on the mirror's thread.
pub(super) fn begin(mirror: &Arc<Mirror>, place: Place, ticket: Ticket) {
    let lane = mirror.lane(&place);
    let wanted_at = clock::now();
    let job = Job { mirror: Arc::clone(mirror), place, lane, last: None, wanted_at };
    mirror.handle.spawn(Box::pin(job.run(ticket)));
}

struct Job {
    mirror: Arc<Mirror>,
    place: Place,
    /// That of the rollout in charge.
    lane: Option<Arc<Lane>>,
    /// What the last try ended with, for people.
    last: Option<Broken>,
    /// When somebody was seen last who waits for it.
    wanted_at: Instant,
}

/// The disk took nothing.
type Disk = std::io::Error;

impl Job {
    async fn run(mut self, ticket: Ticket) {
        let lane = self.lane.as_ref().map(|lane| Arc::clone(&lane.turns));
        // Its rollout's turn first: one that waits for that takes no place from others.
        let lane_turn = match lane {
            Some(turns) => turns.wait().await.map(Some),
            None => Ok(None),
        };
        let turns = Arc::clone(&self.mirror.turns);
        let (Ok(_lane_turn), Ok(_turn)) = (lane_turn, turns.wait().await) else {
            let detail = "as many blobs wait to be fetched as fetches.maxWaiting says";
            let failure = Some(Failure::PullHeld);
            let broken = Broken::new(Code::TooManyRequests, failure, detail);
            ticket.broke(Broken { retry_after: Some(Duration::from_secs(10)), ..broken });
            return;
        };
        let mut part = match Part::open(ticket).await {
            Ok(part) => part,
            Err(error) => return self.mirror.store.degrade(&error),
        };
        if let Err(error) = self.fetch(&mut part).await.finish(&self, part).await {
            self.mirror.store.degrade(&error);
        }
    }

    /// Until it is whole and right, or will not be.
    async fn fetch(&mut self, part: &mut Part) -> Ended {
        let digest = part.live().digest;
        let patience = self.spec(|spec| spec.patience);
        let (mut fetch, mut step) =
            Fetch::begin(part.written(), part.total(), patience, clock::now());
        loop {
            if self.is_abandoned(part) {
                return Ended::Failed(Why::Abandoned);
            }
            let done = match step {
                Step::Send { from } => self.exchange(&mut fetch, part, from).await,
                Step::Restart => part.restart().await.map(|()| fetch.restarted()),
                Step::Wait(pause) => {
                    let place = (&*self.place.registry, &*self.place.repository);
                    let why = self.last.as_ref().map(|last| &*last.detail);
                    tracing::debug!(?place, %digest, ?pause, why, "a fetch is gone on with later");
                    tokio::time::sleep(pause).await;
                    self.mirror.meters.resumed.inc();
                    Ok(fetch.again())
                }
                Step::Check | Step::Take => part.check().await.map(|right| fetch.checked(right)),
                Step::Done => return Ended::Right,
                Step::Failed(why) => return Ended::Failed(why),
            };
            match done {
                Ok(next) => step = next,
                Err(error) => return Ended::Disk(error),
            }
        }
    }

    /// One request and what comes of it.
    async fn exchange(
        &mut self,
        fetch: &mut Fetch,
        part: &mut Part,
        from: u64,
    ) -> Result<Step, Disk> {
        let Place { repository, .. } = &self.place;
        let path = format!("/v2/{repository}/blobs/{}", part.live().digest);
        let asking = Asking { method: Method::GET, path, accept: None, from };
        let mut got = match self.mirror.ask(&self.place, &asking).await {
            Ok(got) => got,
            Err(broken) if broken.code == Code::Unavailable => {
                self.last = Some(broken);
                return Ok(fetch.lost(clock::now(), fastrand::u64(..)));
            }
            Err(broken) => {
                // It would be the same again.
                self.last = Some(broken);
                return Ok(Step::Failed(Why::Denied));
            }
        };
        let step = fetch.head(&head(&got.head), clock::now(), fastrand::u64(..));
        if step != Step::Take {
            let detail = format!("{} says {}", self.place.registry, got.head.status);
            self.last = Some(Broken::new(Code::Unavailable, None, detail));
            return Ok(step);
        }
        if let Some(total) = fetch.total() {
            part.is_of(total).await?;
        }
        let end = match self.take(fetch, part, (&mut got.body, &got.flow)).await? {
            Ok(end) => end,
            Err(why) => return Ok(Step::Failed(why)),
        };
        if end == End::Whole {
            got.lease.give_back();
        } else {
            let detail = format!("{} ended the body early", self.place.registry);
            let failure = Some(Failure::BackendBodyCut);
            self.last = Some(Broken::new(Code::Unavailable, failure, detail));
        }
        Ok(fetch.ended(end, clock::now(), fastrand::u64(..)))
    }

    /// Takes a body for as long as it comes.
    async fn take(
        &mut self,
        fetch: &mut Fetch,
        part: &mut Part,
        (body, flow): (&mut Incoming, &Flow),
    ) -> Result<Result<End, Why>, Disk> {
        let stall = self.spec(|spec| spec.stall);
        let ended = loop {
            let frame = if part.is_gathered() {
                None
            } else if part.is_empty() {
                Some(next(body, flow, stall).await)
            } else {
                ready(body).await
            };
            let Some(frame) = frame else {
                fetch.wrote(part.flush().await?, clock::now());
                continue;
            };
            let bytes = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(())) => break Ok(End::Cut),
                None => break Ok(End::Whole),
            };
            let came = bytes.len() as u64;
            flow.moved_down(bytes.len());
            self.count(came);
            match fetch.came(came) {
                Ok(skipped) => {
                    self.mirror.meters.repeated.inc_by(skipped);
                    part.gather(bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..));
                }
                Err(why) => break Err(why),
            }
            if self.is_abandoned(part) {
                break Err(Why::Abandoned);
            }
            if let Some(lane) = self.lane.as_ref().filter(|lane| lane.came(came)) {
                // Readers get what is there while the rest waits.
                fetch.wrote(part.flush().await?, clock::now());
                lane.wait().await;
                // It stood still because of us.
                flow.moved_down(0);
            }
        };
        fetch.wrote(part.flush().await?, clock::now());
        Ok(ended)
    }

    /// Whether the policy gives up what nobody waits for, and nobody has for so long.
    fn is_abandoned(&mut self, part: &Part) -> bool {
        let Some(after) = self.spec(|spec| spec.abandon) else { return false };
        let now = clock::now();
        if part.live().is_wanted() {
            self.wanted_at = now;
        }
        now.saturating_duration_since(self.wanted_at) >= after
    }

    fn count(&self, bytes: u64) {
        self.mirror.meters.fetched.inc_by(bytes);
        let running = self.mirror.gateway.upgrade().map(|gateway| gateway.running());
        let day = running.and_then(|running| self.mirror.metered_day(&running, &self.place));
        if let Some(day) = day {
            let rollout = self.lane.as_ref().map(|lane| &lane.rollout);
            self.mirror.spent.spend(rollout, bytes, day);
        }
    }

    /// A field of the policy as it is now.
    fn spec<T>(&self, field: impl Fn(&tillgate_core::mirror::FetchSpec) -> T) -> T {
        let running = self.mirror.gateway.upgrade().map(|gateway| gateway.running());
        let mirror = running.as_ref().and_then(|running| running.effective.mirror.as_ref());
        mirror.map_or_else(|| field(&defaults::MIRROR_FETCHES), |mirror| field(&mirror.fetches))
    }
}

/// How a fetch ended.
enum Ended {
    Right,
    Failed(Why),
    Disk(std::io::Error),
}

impl Ended {
    /// Tells whoever waits.
    async fn finish(self, job: &Job, part: Part) -> Result<(), Disk> {
        let digest = part.live().digest;
        let registry = &job.place.registry;
        match self {
            Self::Right => part.finish().await,
            Self::Failed(why) => {
                let broken = job.explain(why);
                let repository = &*job.place.repository;
                let detail = &*broken.detail;
                if why.discards() {
                    job.mirror.meters.mismatches.inc();
                    tracing::error!(%registry, repository, %digest, "a registry sent a wrong blob");
                } else {
                    tracing::warn!(%registry, repository, %digest, detail, "a blob is not fetched");
                }
                let discard = if why.discards() { Discard::All } else { Discard::Nothing };
                part.fail(broken, discard).await;
                Ok(())
            }
            Self::Disk(error) => {
                part.fail(Broken::past_disk(error.to_string()), Discard::Nothing).await;
                Err(error)
            }
        }
    }
}

impl Job {
    fn explain(&self, why: Why) -> Broken {
        let registry = &self.place.registry;
        let last =
            || self.last.as_ref().map_or_else(String::new, |last| format!(": {}", last.detail));
        let failure = self.last.as_ref().and_then(|last| last.failure);
        match why {
            Why::Unknown => {
                Broken::new(Code::BlobUnknown, None, format!("{registry} has no such blob"))
            }
            Why::Denied => match &self.last {
                Some(last) if last.code != Code::Unavailable => last.clone(),
                _ => Broken::new(Code::Denied, None, format!("{registry} refuses the blob")),
            },
            Why::Busy(wait) => {
                let detail = format!("{registry} has too many requests");
                let broken = Broken::new(Code::TooManyRequests, None, detail);
                Broken { retry_after: Some(wait.max(Duration::from_secs(1))), ..broken }
            }
            Why::Refused(status) => {
                let failure = Some(Failure::BackendProtocol);
                Broken::new(Code::Unavailable, failure, format!("{registry} answers {status}"))
            }
            Why::Mismatch | Why::Lied => {
                let detail = format!("what {registry} sent is not the blob that was asked for");
                Broken::new(Code::DigestMismatch, Some(Failure::DigestMismatch), detail)
            }
            Why::Abandoned => {
                let detail = "nobody waited for the blob any more; ask again";
                let broken = Broken::new(Code::TooManyRequests, None, detail);
                Broken { retry_after: Some(Duration::from_secs(1)), ..broken }
            }
            Why::Silent => {
                let detail = format!("nothing comes from {registry}{}", last());
                let failure = failure.or(Some(Failure::BackendTimeout));
                Broken::new(Code::Unavailable, failure, detail)
            }
        }
    }
}

type Came = Option<Result<Frame<Bytes>, ()>>;

/// The next piece of a body, if it is there already.
async fn ready(body: &mut Incoming) -> Option<Came> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Some(frame.map(|frame| frame.map_err(drop))),
            Poll::Pending => None,
        })
    })
    .await
}

/// The next piece of a body; a cut, if none comes for `stall`. Time that its connection waits for
/// the line is not the registry's doing.
async fn next(body: &mut Incoming, flow: &Flow, stall: Duration) -> Came {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        if let Ok(frame) = tokio::time::timeout(LOOK_EVERY.min(stall), frame).await {
            return frame.map(|frame| frame.map_err(drop));
        }
        let quiet = clock::now().saturating_duration_since(flow.moved_at());
        if !flow.excuse() && quiet >= stall {
            return Some(Err(()));
        }
    }
}

/// What the core wants to know of an answer.
pub(super) fn head(head: &response::Parts) -> Head {
    let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    Head {
        status: head.status,
        length: text(CONTENT_LENGTH).and_then(|text| text.parse().ok()),
        range: text(CONTENT_RANGE).and_then(range::content_range),
        retry_after: retry_after(&head.headers, Some(clock::wall())),
    }
}
