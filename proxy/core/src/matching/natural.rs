//! Traffic that shows by its shape what it is.
//!
//! Shapes are narrow on purpose: a till that happens to have a path called `/v2` must not be
//! taken for an image pull. A rule that names a class always wins over this.

use http::{Method, header};

use super::{Natural, RequestFacts};
use crate::class::{ClassId, ClassTable, DEFAULT_CLASS};

/// The classes of traffic that no rule names one for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NaturalClasses {
    image_pull: Option<ClassId>,
    metrics: Option<ClassId>,
    default: ClassId,
}

impl NaturalClasses {
    /// Those of a store.
    pub fn of(classes: &ClassTable) -> Self {
        Self {
            image_pull: classes.id("image-pull"),
            metrics: classes.id("metrics"),
            default: classes.id(DEFAULT_CLASS).unwrap_or(ClassId(0)),
        }
    }

    /// Whichever a request may get.
    pub fn all(self) -> impl Iterator<Item = ClassId> {
        [Some(self.default), self.image_pull, self.metrics].into_iter().flatten()
    }

    /// The class of traffic that nothing is known of.
    pub const fn default(self) -> ClassId {
        self.default
    }

    /// What its shape tells, else the default.
    pub fn class(self, facts: RequestFacts<'_>) -> ClassId {
        let known = match natural_class(facts) {
            Some(Natural::ImagePull) => self.image_pull,
            Some(Natural::Metrics) => self.metrics,
            None => None,
        };
        known.unwrap_or(self.default)
    }
}

/// Recognises traffic by its shape: see [`Natural`].
///
/// - OCI distribution 1.1: GET or HEAD of `/v2/`, and of
///   `/v2/<name>/(blobs|manifests|tags|referrers)/…`.
/// - Prometheus remote write: POST with `X-Prometheus-Remote-Write-Version`, or to `/api/v1/write`.
/// - OTLP 1.x: POST of protobuf or JSON to a path that ends in `/v1/(metrics|traces|logs)`, and
///   gRPC of the collector's services.
pub fn natural_class(facts: RequestFacts<'_>) -> Option<Natural> {
    if facts.method == Method::GET || facts.method == Method::HEAD {
        return is_oci(facts.path).then_some(Natural::ImagePull);
    }
    if facts.method != Method::POST {
        return None;
    }
    (is_remote_write(facts) || is_otlp(facts)).then_some(Natural::Metrics)
}

fn is_oci(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v2/") else {
        return false;
    };
    if rest.is_empty() {
        return true;
    }
    // The name may have several segments, so the last occurrence of a known word decides.
    ["/blobs/", "/manifests/", "/tags/", "/referrers/"].iter().any(|word| {
        rest.rfind(word).is_some_and(|at| {
            let (name, reference) = (&rest[..at], &rest[at + word.len()..]);
            is_repository(name) && !reference.is_empty() && !reference.contains('/')
        })
    })
}

/// A repository name of the distribution specification: lower case segments.
fn is_repository(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    !name.is_empty()
        && name.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.bytes().all(inner)
        })
}

fn is_remote_write(facts: RequestFacts<'_>) -> bool {
    facts.path == "/api/v1/write" || facts.headers.contains_key("x-prometheus-remote-write-version")
}

fn is_otlp(facts: RequestFacts<'_>) -> bool {
    let kind = facts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let is = |name: &str| kind.eq_ignore_ascii_case(name);
    if kind.get(..16).is_some_and(|start| start.eq_ignore_ascii_case("application/grpc")) {
        return facts.path.strip_prefix("/opentelemetry.proto.collector.").is_some_and(|rest| {
            ["metrics.v1.MetricsService/", "trace.v1.TraceService/", "logs.v1.LogsService/"]
                .iter()
                .any(|service| rest.starts_with(service))
        });
    }
    let signal = ["/v1/metrics", "/v1/traces", "/v1/logs"];
    (is("application/x-protobuf") || is("application/json"))
        && signal.iter().any(|path| facts.path.ends_with(path))
}
