//! The cluster's keys from its API server, kept on disk: while that is away, the last ones count.
//!
//! Asked soon after the start, every hour, and when a token names a key that is not known. What
//! comes is put in the place of what was kept only if tokens can be checked by it. The connection
//! crosses a line, if there is one between, in class `control`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, header};
use tillgate_core::endpoint::service_accounts::{JwksUrl, ServiceAccountsSpec};
use tillgate_net::clock;

use super::jwks::{FILE_BYTES_MAX, Keys};
use super::{LEAST_APART, LOOK_WITHIN};
use crate::client;
use crate::disk::{read_bounded, replace};
use crate::gateway::Gateway;
use crate::send::explain;
use crate::sources::apart::apart;
use crate::sources::relay;
use crate::sources::server::Server;

/// How long the API server itself lets others keep its keys (`max-age=3600`).
const EVERY: Duration = Duration::from_secs(3600);

/// The first and the longest pause after a failure.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// For a connection, and for an answer of some kibibytes.
const WITHIN: Duration = Duration::from_secs(4);

/// When keys were looked at, and when they are next.
#[derive(Debug, Default)]
pub(in crate::endpoint) struct Source {
    looked: Option<Instant>,
    due: Option<Instant>,
    failures: u32,
}

impl Source {
    /// Whether enough time has passed for another look because of a token.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LEAST_APART)
    }

    /// Whether it is time for another look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// Fetches keys, if they come from somewhere; `now` is when.
    pub(super) async fn look(
        &mut self,
        gateway: &Arc<Gateway>,
        spec: &ServiceAccountsSpec,
        now: Instant,
    ) {
        self.looked = Some(now);
        let Some(url) = &spec.jwks_url else { return };
        let fetched = fetch(gateway, url, &spec.jwks_file);
        let fetched = tokio::time::timeout(LOOK_WITHIN, fetched).await;
        let fetched = fetched.unwrap_or_else(|_| Err("it takes too long".to_owned()));
        let meters = &gateway.endpoint.meters;
        meters.cluster_keys(if fetched.is_ok() { "fetched" } else { "failed" });
        let failures = self.failures;
        let ended = clock::now();
        self.looked = Some(ended);
        self.due = Some(ended + self.pause(fetched.is_ok()));
        match fetched {
            Ok(()) if failures > 0 => tracing::info!("the cluster's keys can be fetched again"),
            // Once: while it lasts, nothing is new.
            Err(why) if failures == 0 => {
                tracing::warn!(why, "the cluster's keys are not fetched; those that were count");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// How long to wait after this.
    fn pause(&mut self, is_good: bool) -> Duration {
        if is_good {
            self.failures = 0;
            return EVERY;
        }
        let (first, longest) = AGAIN;
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// On a connection of its own: once an hour is too rare to keep one.
async fn fetch(gateway: &Arc<Gateway>, url: &JwksUrl, kept: &Path) -> Result<(), String> {
    let mut server = Server::new("cluster", &url.url, relay::CLASS, url.roots.clone())?;
    let accept = "application/jwk-set+json, application/json";
    let mut request = server.request(Method::GET).header(header::ACCEPT, accept);
    if let Some(file) = url.token_file.clone() {
        let bearer = apart(move || client::bearer(&file)).await??;
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let request = client::whole(request, "")?;
    let most = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
    let answer = server.ask(gateway, request, WITHIN, WITHIN, most).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{} answers {}", url.url, answer.status()));
    }
    let (kept, body) = (kept.to_path_buf(), answer.into_body());
    apart(move || keep(&kept, &body)).await?
}

/// Puts keys in the place of those that were kept, if they are others and can be used.
fn keep(kept: &Path, bytes: &[u8]) -> Result<(), String> {
    Keys::parse(bytes).map_err(|error| explain(&error))?;
    if read_bounded(kept, FILE_BYTES_MAX).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    let cannot = |error| format!("{} cannot be written: {error}", kept.display());
    replace(kept, &kept.with_extension("next"), bytes).map_err(cannot)
}
