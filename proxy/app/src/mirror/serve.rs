//! A request to the mirror: what it asks for, may it, from where does it come.
//!
//! In: a request of a `Registry` listener, or for one of the mirror's hostnames. Out: an answer,
//! always, with the code of the OCI specification where there is nothing to give. A pull is held
//! when its manifest is asked for; blobs of a pull that has begun are never held.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, LINK, RANGE, WARNING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tillgate_config::effective::Effective;
use tillgate_core::class::ClassId;
use tillgate_core::mirror::ask::{Ask, Reference};
use tillgate_core::mirror::range::{self, Part};
use tillgate_core::mirror::{Code, Digest, MirrorSpec, UpstreamSpec, Verdict};
use tillgate_net::error::Failure;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::server::Caller;
use tillgate_net::metrics::Served;
use tillgate_net::mirror::{Broken, Claim, Live, Reader, Source, Through};

use super::answer::{self, Refused};
use super::fetch;
use super::gate;
use super::lists;
use super::manifests::{self, Wanted};
use super::upstream::Asking;
use super::{Mirror, Place};
use crate::admission;
use crate::gateway::Worker;
use crate::outcome::{By, Kind, Outcome};
use crate::problem::{self, Answer};
use crate::running::Running;
use crate::serve::begin;

/// A blob that went away while it was opened is asked for again this often.
const TRIES_MAX: usize = 3;

/// Answers one request of the mirror.
pub(crate) async fn serve_request(
    worker: &Worker,
    request: Request<Incoming>,
    caller: Caller,
) -> Answer {
    let running = worker.gateway().running();
    // What a client sends along with a question for an image is never read.
    let (mut head, _) = request.into_parts();
    let mut outcome = begin(&running, Kind::Pull, caller.flow);
    outcome.attend(&mut head, caller.peer, &caller.place);
    if let Some(why) = caller.refused {
        return problem::answer(&why.into(), outcome);
    }
    let (Some(mirror), Some(spec)) = (worker.gateway().mirror(), &running.effective.mirror) else {
        // Taken away a moment ago.
        return problem::answer(&Failure::UnknownHost.into(), outcome);
    };
    let class = meant(&running.effective, spec, &head).2;
    outcome.classify(class, By::Mirror);
    outcome.sample(&head.headers);
    let idle = spec.fetches.patience.max(spec.fetches.first_byte);
    outcome.flow().bind(idle, running.class(class).critical());
    if let Err(refusal) = admission::fits(&running, class, 0, &outcome) {
        return problem::answer(&refusal, outcome);
    }
    let story = Story { mirror: &mirror, running: &running, spec, head: &head };
    match story.answer(&mut outcome).await {
        Ok(given) => given.with(outcome),
        Err(refused) => {
            mirror.meters.refuse(refused.code);
            answer::refuse(&refused, outcome)
        }
    }
}

/// The registry that is meant, the repository there, and the class of the rollout or the registry;
/// the first registry where none is named.
pub(crate) fn meant<'a>(
    effective: &Effective,
    spec: &'a MirrorSpec,
    head: &'a Parts,
) -> (&'a UpstreamSpec, &'a str, ClassId) {
    let ns = lists::parameter(head.uri.query(), "ns");
    let repository = Ask::read(head.uri.path()).ok().and_then(|ask| ask.repository());
    let found = spec.find(ns.as_deref(), repository.unwrap_or_default());
    let (upstream, repository) = found.unwrap_or((0, ""));
    let upstream = &spec.upstreams[upstream];
    (upstream, repository, class_of(effective, upstream, repository))
}

/// The class of an image's bytes: its rollout says, or its registry.
pub(super) fn class_of(
    effective: &Effective,
    upstream: &UpstreamSpec,
    repository: &str,
) -> ClassId {
    let rollout = effective.gate.in_charge(&upstream.registry, repository, "");
    rollout.map_or(upstream.class, |rollout| rollout.pulls.class)
}

/// Of a part of a blob: where it begins, and how long the whole is.
type Partial = Option<(u64, u64)>;

/// One request.
pub(super) struct Story<'a> {
    pub(super) mirror: &'a Arc<Mirror>,
    running: &'a Arc<Running>,
    pub(super) spec: &'a MirrorSpec,
    pub(super) head: &'a Parts,
}

/// What it is answered with.
pub(super) enum Given {
    /// In one piece.
    Whole(StatusCode, HeaderMap, Bytes),
    /// The head of so many bytes.
    Head(HeaderMap, u64),
    /// A blob, or a part of one of so many bytes.
    Blob(Digest, Box<dyn Source>, Partial),
    /// What is asked for lies behind the end.
    Beyond(u64),
}

impl Given {
    fn with(self, outcome: Outcome) -> Answer {
        match self {
            Self::Whole(status, fields, body) => answer::whole(status, fields, body, outcome),
            Self::Head(fields, length) => answer::head_only(fields, length, outcome),
            Self::Blob(digest, source, part) => answer::blob(&digest, source, part, outcome),
            Self::Beyond(total) => answer::beyond(total, outcome),
        }
    }
}

impl Story<'_> {
    async fn answer(&self, outcome: &mut Outcome) -> Result<Given, Refused> {
        if !matches!(self.head.method, Method::GET | Method::HEAD) {
            let message = "the mirror only reads: push to the registry itself";
            return Err(Refused::new(Code::Unsupported, Some(Failure::MethodUnsupported), message));
        }
        let path = self.head.uri.path();
        let ask = Ask::read(path).map_err(|code| {
            let failure =
                if code == Code::Unsupported { Failure::NoMatch } else { Failure::InvalidRequest };
            Refused::new(code, Some(failure), format!("`{path}` cannot be pulled"))
        })?;
        match ask {
            Ask::Base => {
                let fields = HeaderMap::from_iter([(CONTENT_TYPE, lists::JSON)]);
                Ok(Given::Whole(StatusCode::OK, fields, Bytes::from_static(b"{}")))
            }
            Ask::Manifest { repository, reference } => {
                let place = self.place(repository)?;
                let wanted = match reference {
                    Reference::Tag(tag) => Wanted::Tag(tag.into()),
                    Reference::Digest(digest) => Wanted::Digest(digest),
                };
                self.manifest(&place, &wanted).await
            }
            Ask::Blob { repository, digest } => {
                let place = self.place(repository)?;
                self.permit(&place)?;
                if self.has_none_of(&digest) {
                    return Ok(not_modified(&digest));
                }
                if self.head.method == Method::HEAD {
                    return self.blob_head(&place, digest).await;
                }
                self.blob(&place, digest, outcome).await
            }
            Ask::Tags { repository } => self.tags(&self.place(repository)?, repository).await,
            Ask::Referrers { repository, digest } => {
                self.referrers(&self.place(repository)?, digest).await
            }
        }
    }

    /// Where the image is that a client names so.
    fn place(&self, repository: &str) -> Result<Place, Refused> {
        let ns = lists::parameter(self.head.uri.query(), "ns");
        match self.spec.find(ns.as_deref(), repository) {
            Some((upstream, repository)) => Ok(Place {
                registry: Arc::clone(&self.spec.upstreams[upstream].registry),
                repository: repository.into(),
            }),
            None => {
                let ns = ns.unwrap_or_default();
                let message = format!("the registry `{ns}` is not mirrored here");
                Err(Refused::new(Code::NameUnknown, None, message))
            }
        }
    }

    async fn manifest(&self, place: &Place, wanted: &Wanted) -> Result<Given, Refused> {
        if let Wanted::Digest(digest) = wanted {
            // Before anything crosses the line.
            self.pass(place, digest).await?;
        }
        let found = self.mirror.manifest(place, wanted).await?;
        let digest = found.manifest.digest;
        if matches!(wanted, Wanted::Tag(_)) {
            self.pass(place, &digest).await?;
        }
        self.mirror.members.learn(&found.manifest);
        if self.head.method == Method::GET {
            self.mirror.given(self.running, place, &digest).await;
        }
        self.mirror.meters.serve(match (&found.stale, found.kept) {
            (Some(_), _) => Served::Stale,
            (None, true) => Served::Hit,
            (None, false) => Served::Miss,
        });
        if self.has_none_of(&digest) {
            return Ok(not_modified(&digest));
        }
        let media_type = HeaderValue::try_from(&*found.manifest.media_type);
        let mut fields = answer::named(&digest, media_type.unwrap_or(answer::OCTETS));
        if found.stale.is_some() {
            // RFC 7234 section 5.5.2; clients log it.
            fields
                .insert(WARNING, HeaderValue::from_static("111 tillgate \"the registry is away\""));
        }
        let body = found.manifest.body;
        if self.head.method == Method::HEAD {
            return Ok(Given::Head(fields, body.len() as u64));
        }
        Ok(Given::Whole(StatusCode::OK, fields, body))
    }

    /// Whether the gate lets a manifest pass.
    async fn pass(&self, place: &Place, digest: &Digest) -> Result<(), Refused> {
        match self.mirror.verdict(self.running, place, digest).await {
            Verdict::Allowed => Ok(()),
            verdict @ (Verdict::Held { .. } | Verdict::Prohibited { .. }) => Err(held(verdict)),
        }
    }

    async fn blob_head(&self, place: &Place, digest: Digest) -> Result<Given, Refused> {
        let fields = answer::named(&digest, answer::OCTETS);
        if let Some(size) = self.mirror.store.size(&digest) {
            self.mirror.meters.serve(Served::Hit);
            return Ok(Given::Head(fields, size));
        }
        let asking = blob_of(place, Method::HEAD, &digest);
        let got = self.ask(place, asking).await?;
        if got.head.status != StatusCode::OK {
            return Err(blob_refused(place, &got.head).into());
        }
        let length = got.head.headers.get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
        let Some(length) = length.and_then(|text| text.parse().ok()) else {
            return Err(Failure::BackendProtocol.into());
        };
        got.lease.give_back();
        self.mirror.meters.serve(Served::Passed);
        Ok(Given::Head(fields, length))
    }

    async fn blob(
        &self,
        place: &Place,
        digest: Digest,
        outcome: &mut Outcome,
    ) -> Result<Given, Refused> {
        let store = &self.mirror.store;
        for _ in 0..TRIES_MAX {
            // Asked before anybody counts on the fetch: others who want it may be let.
            let may_fetch = store.lacks(&digest);
            if may_fetch
                && let Some(held) = self.held_back(place, &digest).await
                && store.lacks(&digest)
            {
                return Err(held);
            }
            let (live, how) = match store.claim(digest) {
                Claim::Stored(total) => {
                    let Some((bytes, part)) = self.part(total) else {
                        return Ok(Given::Beyond(total));
                    };
                    // A file that went away is not there any more.
                    let Ok(reader) = store.read(digest, bytes).await else { continue };
                    self.mirror.meters.serve(Served::Hit);
                    return self.give(digest, Box::new(reader), part, outcome).await;
                }
                Claim::Join(live) => (live, Served::Joined),
                Claim::Begin(ticket) => {
                    if !may_fetch && let Some(held) = self.held_back(place, &digest).await {
                        ticket.broke(Broken::new(held.code, held.failure, &*held.message));
                        return Err(held);
                    }
                    let live = Arc::clone(ticket.live());
                    fetch::begin(self.mirror, place.clone(), ticket);
                    (live, Served::Miss)
                }
                Claim::PastDisk => return self.past_disk(place, digest).await,
            };
            match self.follow(&live, outcome).await {
                Ok(Some((reader, part))) => {
                    self.mirror.meters.serve(how);
                    return self.give(digest, Box::new(reader), part, outcome).await;
                }
                Ok(None) => return Ok(Given::Beyond(live.progress().1.unwrap_or(0))),
                Err(broken) if broken.past_disk => return self.past_disk(place, digest).await,
                Err(broken) => return Err(broken.into()),
            }
        }
        Err(Refused::new(Code::Unavailable, Some(Failure::Internal), "the disk loses blobs"))
    }

    /// Why no fetch may begin now, if so: the day's bytes are used up, or the window of a rollout
    /// that pauses has closed.
    async fn held_back(&self, place: &Place, blob: &Digest) -> Option<Refused> {
        match self.mirror.over_budget(self.running, place) {
            Some(over) => Some(over),
            None => self.mirror.closed(self.running, place, blob).await.map(held),
        }
    }

    /// Whether the policy forbids every image of a repository. Blobs are asked about, too: who
    /// has the manifest from elsewhere gets nothing of it here.
    fn permit(&self, place: &Place) -> Result<(), Refused> {
        let gate = &self.running.effective.gate;
        let found = gate.prohibits(&place.registry, &place.repository);
        found.map_or(Ok(()), |one| Err(held(gate::prohibited(one))))
    }

    /// A blob at the speed, and in the turn, that the policy gives.
    async fn give(
        &self,
        digest: Digest,
        source: Box<dyn Source>,
        part: Partial,
        outcome: &Outcome,
    ) -> Result<Given, Refused> {
        let pulls = &self.mirror.pulls;
        if pulls.are_free() {
            return Ok(Given::Blob(digest, source, part));
        }
        let limits =
            HeadLimits { request: Some(self.spec.fetches.first_byte), backend_request: None };
        let queued = outcome.flow().queue();
        let turn = until_head(pulls.turn(), limits, outcome.flow(), None).await;
        drop(queued);
        let Ok(Ok(turn)) = turn else {
            let message = "as many images are pulled as limits.concurrentPulls says";
            return Err(Refused::new(Code::TooManyRequests, Some(Failure::PullHeld), message));
        };
        Ok(Given::Blob(digest, pulls.pace(source, turn), part))
    }

    /// Waits until a blob's length is known, then reads along. `None`: beyond its end.
    async fn follow(
        &self,
        live: &Arc<Live>,
        outcome: &Outcome,
    ) -> Result<Option<(Reader, Partial)>, Broken> {
        let first_byte = Some(self.spec.fetches.first_byte);
        let limits = HeadLimits { request: first_byte, backend_request: None };
        let queued = outcome.flow().queue();
        let total = until_head(live.total(), limits, outcome.flow(), None).await;
        drop(queued);
        let total = match total {
            Ok(total) => total?,
            Err(Failure::RequestTimeout) => {
                let detail = "the blob has not begun to come yet; it is being fetched";
                let later = Broken::new(Code::TooManyRequests, Some(Failure::PullHeld), detail);
                return Err(Broken { retry_after: Some(Duration::from_secs(5)), ..later });
            }
            Err(failure) => {
                let detail = failure.row().meaning;
                return Err(Broken::new(Code::Unavailable, Some(failure), detail));
            }
        };
        let Some((bytes, part)) = self.part(total) else { return Ok(None) };
        let reader = self.mirror.store.follow_live(live, bytes);
        reader.map(|reader| Some((reader, part))).ok_or_else(|| {
            Broken::new(Code::Unavailable, Some(Failure::Internal), "the blob has no file")
        })
    }

    /// Which bytes are wanted of a blob of `total`, and what is said of a part: where it begins, of
    /// how many. `None`: what is beyond its end.
    fn part(&self, total: u64) -> Option<(Range<u64>, Partial)> {
        let field = self.head.headers.get(RANGE).and_then(|value| value.to_str().ok());
        match range::part(field, total) {
            Part::Whole => Some((0..total, None)),
            Part::Bytes(bytes) => {
                let start = bytes.start;
                Some((bytes, Some((start, total))))
            }
            Part::Beyond => None,
        }
    }

    /// A blob for this client alone, checked as it goes by.
    async fn past_disk(&self, place: &Place, digest: Digest) -> Result<Given, Refused> {
        let got = self.ask(place, blob_of(place, Method::GET, &digest)).await?;
        if got.head.status != StatusCode::OK {
            return Err(blob_refused(place, &got.head).into());
        }
        let Some(total) = fetch::head(&got.head).length else {
            let message = "nothing can be kept now, and the registry does not say how long it is";
            return Err(Refused::new(Code::Unavailable, Some(Failure::BackendProtocol), message));
        };
        self.mirror.meters.serve(Served::PastDisk);
        let fetched = self.mirror.meters.fetched.clone();
        let through = Through::new(got.body, got.lease, digest, total, fetched);
        Ok(Given::Blob(digest, Box::new(through), None))
    }

    /// Asks a registry, from the mirror's thread.
    pub(super) async fn ask(
        &self,
        place: &Place,
        asking: Asking,
    ) -> Result<super::upstream::Got, Broken> {
        let (mirror, place) = (Arc::clone(self.mirror), place.clone());
        self.mirror.run(Box::pin(async move { mirror.ask(&place, &asking).await })).await?
    }

    /// Whether the client says that it has it.
    fn has_none_of(&self, digest: &Digest) -> bool {
        let fields = self.head.headers.get_all(IF_NONE_MATCH).iter();
        let texts = fields.filter_map(|value| value.to_str().ok());
        let text = digest.to_string();
        texts.flat_map(|value| value.split(',')).any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == text
        })
    }
}

/// What a client is told of a pull that may not be.
fn held(verdict: Verdict) -> Refused {
    match verdict {
        Verdict::Held { by, reason, retry_after, opens, .. } => {
            let failure = Some(Failure::PullHeld);
            let held = Refused::new(Code::TooManyRequests, failure, reason);
            let opens = opens.map(|at| at.to_string());
            let detail = json!({"code": "HELD", "heldBy": by, "nextOpen": opens});
            Refused { detail, retry_after: Some(retry_after), ..held }
        }
        Verdict::Prohibited { by, reason } => {
            let denied = Refused::new(Code::Denied, Some(Failure::PullProhibited), reason);
            Refused { detail: json!({"prohibitedBy": by}), ..denied }
        }
        Verdict::Allowed => Refused::new(Code::Unavailable, Some(Failure::Internal), "allowed"),
    }
}

fn blob_of(place: &Place, method: Method, digest: &Digest) -> Asking {
    let path = format!("/v2/{}/blobs/{digest}", place.repository);
    Asking { method, path, accept: None, from: 0 }
}

fn blob_refused(place: &Place, head: &http::response::Parts) -> Broken {
    let refused = manifests::refused(place, head);
    if refused.code != Code::ManifestUnknown {
        return refused;
    }
    Broken::new(Code::BlobUnknown, None, format!("{} has no such blob", place.registry))
}

fn not_modified(digest: &Digest) -> Given {
    let mut fields = answer::named(digest, answer::OCTETS);
    fields.remove(CONTENT_TYPE);
    Given::Whole(StatusCode::NOT_MODIFIED, fields, Bytes::new())
}

/// Fields of a list that are the registry's own.
pub(super) const PASSED: [HeaderName; 4] =
    [CONTENT_TYPE, ETAG, LINK, HeaderName::from_static("oci-filters-applied")];
