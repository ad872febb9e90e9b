//! What a rule changes about a request or an answer, or answers by itself.
//!
//! Values that policy compiles to, with names from Gateway API's HTTPRoute, and the one piece of
//! arithmetic in them: what becomes of a path. Who applies them is the shell; the order is
//! request headers, then rewrite; an own answer (redirect or response) comes after rate limits
//! and instead of a backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::matching::PathMatch;

/// Changes to the headers of one message; applied in the order remove, set, add.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeaderChanges {
    /// Fields of these names go.
    pub remove: Vec<HeaderName>,
    /// Replaced, or added where absent.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The matched prefix is replaced by this; only in rules that match by prefix alone.
    Prefix(Arc<str>),
    /// The whole path is replaced; the query stays.
    Full(Arc<str>),
}

impl PathRewrite {
    /// The new path (without query) of a request to `path` that met `matched`.
    ///
    /// Prefixes are replaced by whole segments, as Gateway API's table has it: `/foo` → `/xyz`
    /// makes `/foo/bar` to `/xyz/bar`, and `/foo` → `/` makes it to `/bar`, never `//bar`.
    pub fn apply(&self, path: &str, matched: &PathMatch) -> String {
        let new = match self {
            Self::Full(path) => return path.to_string(),
            Self::Prefix(new) => new,
        };
        // `rest` is empty or begins with a slash.
        let rest = path.strip_prefix(matched.key()).unwrap_or(path);
        if rest.is_empty() {
            return if new.is_empty() { "/".to_owned() } else { new.to_string() };
        }
        let slash = if rest.starts_with('/') { "" } else { "/" };
        format!("{}{slash}{rest}", new.trim_end_matches('/'))
    }
}

/// Changes to a request's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The new `Host` (`:authority`).
    pub host: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// An answer that sends the client elsewhere. What is `None` is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The new scheme.
    pub scheme: Option<Scheme>,
    /// The new host.
    pub host: Option<Arc<str>>,
    /// The new port; `None` = that of the new scheme where one is given, else the request's.
    pub port: Option<u16>,
    /// The new path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// An answer that policy gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// Its status, 200 to 599.
    pub status: StatusCode,
    /// Type of its body; `None` exactly if there is no body.
    pub content_type: Option<HeaderValue>,
    /// Its body; bounded by the language.
    pub body: Bytes,
}

/// Who answers the requests of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A backend of the rule's tiers, which are not empty.
    Forward,
    /// The gateway, with a redirect; the rule has no tiers.
    Redirect(Redirect),
    /// The gateway; the rule has no tiers.
    Respond(DirectResponse),
}

/// Changes that a rule makes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filters {
    /// To requests, before they are sent.
    pub request_headers: HeaderChanges,
    /// To answers, also to the gateway's own of this rule.
    pub response_headers: HeaderChanges,
    /// To the target of requests.
    pub rewrite: Option<Rewrite>,
}

impl Filters {
    /// Whether nothing changes: the common case, to be asked first.
    pub fn is_empty(&self) -> bool {
        self.request_headers.is_empty()
            && self.response_headers.is_empty()
            && self.rewrite.is_none()
    }
}

/// What carries a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie of this name, which the gateway sets.
    Cookie(Arc<str>),
    /// A header of this name, which the gateway sends with its answer and the client sends back.
    Header(HeaderName),
}

/// Requests of one session stay on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// What carries it.
    pub carrier: SessionCarrier,
    /// A session ends this long after it began; `None` = with the client.
    pub absolute_timeout: Option<Duration>,
    /// A session ends after this long without a request; `None` = never.
    pub idle_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Gateway API's `HTTPPathModifier`.
    #[test]
    fn prefixes_are_replaced_by_whole_segments() {
        for (path, matched, new, result) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
        ] {
            let rewrite = PathRewrite::Prefix(new.into());
            let matched = PathMatch::Prefix(matched.into());
            assert_eq!(rewrite.apply(path, &matched), result, "{path} {matched:?} {new}");
        }
        let full = PathRewrite::Full("/all".into());
        assert_eq!(full.apply("/foo/bar", &PathMatch::Exact("/foo/bar".into())), "/all");
    }
}
