//! Manifests, and the tags that mean them.
//!
//! In: a place and a tag or digest. Out: the manifest, from disk or from the registry, each asked
//! for once however many want it. A manifest is what its digest says or it is none. Where the
//! registry cannot be asked, a tag means what it meant: a box can be rebuilt while the line is
//! down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, StatusCode, response};
use tillgate_core::mirror::tags::Known;
use tillgate_core::mirror::{Code, Digest};
use tillgate_net::error::Failure;
use tillgate_net::mirror::{Broken, Manifest, digest_of, tag_of};
use tokio::sync::watch;

use super::fetch::head as read_head;
use super::upstream::{self, Asking, Got};
use super::{Mirror, Place};

pub(super) use super::contents::{Contents, Platform, contents, pieces, platforms};

/// What registries take (distribution specification, "Pushing Manifests").
pub(super) const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Manifests that are asked for at one time; more are told to come again.
const FLIGHTS_MAX: usize = 1024;

/// All that runtimes understand. Always the same, so that what is kept does not depend on who asked
/// first.
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json",
);

pub(super) const DOCKER_CONTENT_DIGEST: HeaderName =
    HeaderName::from_static("docker-content-digest");

/// Which manifest of a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Tag(Box<str>),
    Digest(Digest),
}

/// A manifest, and whether it is what a tag meant before.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) manifest: Manifest,
    /// The registry could not be asked, for this reason.
    pub(super) stale: Option<Arc<str>>,
    /// It lay on disk, and nobody was asked.
    pub(super) kept: bool,
}

type Answer = Result<Found, Broken>;
type Key = (Place, Wanted);

/// What is asked for at this moment.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, watch::Receiver<Option<Answer>>>>);

impl Flights {
    fn known(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Answer>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its flight away at the end, however that comes.
struct Landing {
    mirror: Arc<Mirror>,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.mirror.flights.known().remove(&self.key);
    }
}

impl Mirror {
    /// The manifest that is wanted.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn manifest(self: &Arc<Self>, place: &Place, wanted: &Wanted) -> Answer {
        let digest = match wanted {
            Wanted::Digest(digest) => Some(*digest),
            Wanted::Tag(tag) => match self.known(place, tag) {
                Known::Fresh(digest) => Some(digest),
                Known::Stale(_) | Known::Nothing => None,
            },
        };
        let Some(digest) = digest else { return self.once(place, wanted.clone()).await };
        match self.store.manifest(digest).await {
            Some(manifest) => Ok(Found { manifest, stale: None, kept: true }),
            None => self.once(place, Wanted::Digest(digest)).await,
        }
    }

    fn known(&self, place: &Place, tag: &str) -> Known {
        let running = self.gateway.upgrade().map(|gateway| gateway.running());
        let spec = running.as_ref().and_then(|running| running.effective.mirror.as_ref());
        let Some(spec) = spec else { return Known::Nothing };
        self.store.tag(&tag_of(&place.registry, &place.repository, tag), &spec.tags)
    }

    /// Asks for it, or joins those who do.
    async fn once(self: &Arc<Self>, place: &Place, wanted: Wanted) -> Answer {
        let key = (place.clone(), wanted);
        let mut flight = {
            let mut flights = self.flights.known();
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None if flights.len() >= FLIGHTS_MAX => {
                    let failure = Some(Failure::PullHeld);
                    let detail = "too many manifests are asked for at this moment";
                    return Err(Broken::new(Code::TooManyRequests, failure, detail));
                }
                None => {
                    let (tell, told) = watch::channel(None);
                    flights.insert(key.clone(), told.clone());
                    let mirror = Arc::clone(self);
                    self.handle.spawn(Box::pin(async move {
                        let landing = Landing { mirror: Arc::clone(&mirror), key };
                        let answer = mirror.fetch_wanted(&landing.key.0, &landing.key.1).await;
                        drop(landing);
                        tell.send_replace(Some(answer));
                    }));
                    told
                }
            }
        };
        let landed = flight.wait_for(Option::is_some).await;
        let answer = landed.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| {
            Err(Broken::new(Code::Unavailable, Some(Failure::Internal), "it broke off"))
        })
    }

    async fn fetch_wanted(&self, place: &Place, wanted: &Wanted) -> Answer {
        match wanted {
            Wanted::Digest(digest) => {
                let manifest = self.fetch_manifest(place, &digest.to_string()).await?;
                if manifest.digest != *digest {
                    return Err(self.mismatch(place));
                }
                Ok(Found { manifest, stale: None, kept: false })
            }
            Wanted::Tag(tag) => self.fetch_tag(place, tag).await,
        }
    }

    async fn fetch_tag(&self, place: &Place, tag: &str) -> Answer {
        let name = || tag_of(&place.registry, &place.repository, tag);
        let before = match self.known(place, tag) {
            Known::Fresh(digest) | Known::Stale(digest) => self.store.manifest(digest).await,
            Known::Nothing => None,
        };
        // Registries count pulls by GET, and a HEAD is small.
        let asked = match &before {
            Some(manifest) => match self.digest_now(place, tag).await {
                Ok(Some(now)) if now == manifest.digest => Ok(manifest.clone()),
                Ok(_) => self.fetch_manifest(place, tag).await,
                Err(broken) => Err(broken),
            },
            None => self.fetch_manifest(place, tag).await,
        };
        match asked {
            Ok(manifest) => {
                self.store.learn_tag(name(), manifest.digest).await;
                Ok(Found { manifest, stale: None, kept: false })
            }
            Err(broken) if broken.code == Code::ManifestUnknown => {
                self.store.forget_tag(name()).await;
                Err(broken)
            }
            Err(broken) => match before {
                Some(manifest) if broken.code != Code::Denied => {
                    let detail = &*broken.detail;
                    let Place { registry, repository } = place;
                    tracing::warn!(%registry, %repository, tag, detail, "a tag means what it did");
                    Ok(Found { manifest, stale: Some(broken.detail), kept: true })
                }
                _ => Err(broken),
            },
        }
    }

    /// What a tag is now, if the registry says so in the head of its answer.
    async fn digest_now(&self, place: &Place, tag: &str) -> Result<Option<Digest>, Broken> {
        let got = self.ask(place, &manifest_of(place, Method::HEAD, tag)).await?;
        if got.head.status != StatusCode::OK {
            return Err(refused(place, &got.head));
        }
        let digest = told(&got.head);
        got.lease.give_back();
        Ok(digest)
    }

    async fn fetch_manifest(&self, place: &Place, reference: &str) -> Result<Manifest, Broken> {
        let got = self.ask(place, &manifest_of(place, Method::GET, reference)).await?;
        if got.head.status != StatusCode::OK {
            return Err(refused(place, &got.head));
        }
        let told = told(&got.head);
        let media_type = got.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(Arc::<str>::from);
        let body = self.small(got).await?;
        let digest = digest_of(&body);
        if told.is_some_and(|told| told != digest) {
            return Err(self.mismatch(place));
        }
        let media_type = media_type.or_else(|| type_in(&body)).ok_or_else(|| {
            let failure = Some(Failure::BackendProtocol);
            let detail = format!("what {} sent is no manifest", place.registry);
            Broken::new(Code::Unavailable, failure, detail)
        })?;
        let manifest = Manifest { digest, media_type, body };
        self.store.keep_manifest(&manifest).await;
        Ok(manifest)
    }

    /// A body of at most a manifest's size, counted.
    pub(super) async fn small(&self, got: Got) -> Result<bytes::Bytes, Broken> {
        let body = upstream::whole(got, MANIFEST_BYTES_MAX, None).await?;
        self.meters.fetched.inc_by(body.len() as u64);
        Ok(body)
    }

    fn mismatch(&self, place: &Place) -> Broken {
        self.meters.mismatches.inc();
        let Place { registry, repository } = place;
        tracing::error!(%registry, %repository, "the registry sent a wrong manifest");
        let detail = format!("what {registry} sent is not the manifest that was asked for");
        Broken::new(Code::DigestMismatch, Some(Failure::DigestMismatch), detail)
    }
}

fn manifest_of(place: &Place, method: Method, reference: &str) -> Asking {
    let path = format!("/v2/{}/manifests/{reference}", place.repository);
    Asking { method, path, accept: Some(ACCEPT), from: 0 }
}

fn told(head: &response::Parts) -> Option<Digest> {
    head.headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// The type that a manifest says of itself.
fn type_in(body: &[u8]) -> Option<Arc<str>> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(value.get("mediaType")?.as_str()?.into())
}

/// What a client is told of an answer that is not the one that was wanted.
pub(super) fn refused(place: &Place, head: &response::Parts) -> Broken {
    let registry = &place.registry;
    let status = head.status;
    match status {
        StatusCode::NOT_FOUND => {
            let detail = format!("{registry} has no such manifest");
            Broken::new(Code::ManifestUnknown, None, detail)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Broken::new(Code::Denied, None, format!("{registry} refuses: {status}"))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let detail = format!("{registry} has too many requests");
            let retry_after = read_head(head).retry_after;
            Broken { retry_after, ..Broken::new(Code::TooManyRequests, None, detail) }
        }
        status => {
            let failure = Some(Failure::BackendProtocol);
            Broken::new(Code::Unavailable, failure, format!("{registry} answers {status}"))
        }
    }
}
