//! Lists: the tags of a repository, what refers to a manifest. They are passed on, in pages.
//!
//! A list is the registry's own and not kept. However many tags there are, one page has a thousand
//! at most and one answer 4 MiB; where the next page is, is said in our own words, because the
//! registry's would lead past us.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tillgate_core::mirror::challenge::escape;
use tillgate_core::mirror::{Code, Digest};
use tillgate_net::metrics::Served;

use super::Place;
use super::answer::Refused;
use super::manifests;
use super::serve::{Given, PASSED, Story};
use super::upstream::{Asking, Got};

/// Tags of one page: what registries give at most.
const PAGE_MAX: u32 = 1000;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Story<'_> {
    /// The tags of a repository that the client calls `repository`.
    pub(super) async fn tags(&self, place: &Place, repository: &str) -> Result<Given, Refused> {
        let query = self.head.uri.query();
        let page = Page::asked(query);
        let path = format!("/v2/{}/tags/list?{}", place.repository, page.query());
        let got = self.list(place, path).await?;
        let link = got.head.headers.get(LINK).and_then(|value| value.to_str().ok());
        let next = link.and_then(Page::next);
        let mut given = self.pass_on(place, got).await?;
        if let (Given::Whole(_, fields, _), Some(next)) = (&mut given, next) {
            let mut target = format!("/v2/{repository}/tags/list?{}", next.query());
            if let Some(ns) = parameter(query, "ns") {
                target.push_str("&ns=");
                escape(&ns, &mut target);
            }
            if let Ok(value) = HeaderValue::try_from(format!("<{target}>; rel=\"next\"")) {
                fields.insert(LINK, value);
            }
        }
        Ok(given)
    }

    /// What refers to a manifest.
    pub(super) async fn referrers(&self, place: &Place, digest: Digest) -> Result<Given, Refused> {
        let mut path = format!("/v2/{}/referrers/{digest}", place.repository);
        if let Some(kind) = parameter(self.head.uri.query(), "artifactType") {
            path.push_str("?artifactType=");
            escape(&kind, &mut path);
        }
        let got = self.list(place, path).await?;
        self.pass_on(place, got).await
    }

    async fn list(&self, place: &Place, path: String) -> Result<Got, Refused> {
        let asking = Asking { method: Method::GET, path, accept: None, from: 0 };
        let got = self.ask(place, asking).await?;
        if got.head.status == StatusCode::OK {
            return Ok(got);
        }
        let mut refused = manifests::refused(place, &got.head);
        if refused.code == Code::ManifestUnknown {
            let detail = format!("{} has no such repository", place.registry);
            (refused.code, refused.detail) = (Code::NameUnknown, detail.into());
        }
        Err(refused.into())
    }

    async fn pass_on(&self, place: &Place, got: Got) -> Result<Given, Refused> {
        let mut fields = HeaderMap::new();
        for name in PASSED {
            let known = got.head.headers.get(&name).filter(|_| name != LINK);
            if let Some(value) = known {
                fields.insert(name, value.clone());
            }
        }
        fields.entry(CONTENT_TYPE).or_insert(JSON);
        let body = self.mirror.small(got).await?;
        self.mirror.meters.serve(Served::Passed);
        tracing::trace!(registry = &*place.registry, bytes = body.len(), "a list is passed on");
        if self.head.method == Method::HEAD {
            return Ok(Given::Head(fields, body.len() as u64));
        }
        Ok(Given::Whole(StatusCode::OK, fields, body))
    }
}

/// Which page of a list.
struct Page {
    count: u32,
    last: Option<String>,
}

impl Page {
    fn asked(query: Option<&str>) -> Self {
        let count = parameter(query, "n").and_then(|text| text.parse().ok());
        let last = parameter(query, "last").map(Cow::into_owned);
        Self { count: count.unwrap_or(PAGE_MAX).min(PAGE_MAX), last }
    }

    /// The page after this one, as a registry's `Link` says.
    fn next(link: &str) -> Option<Self> {
        let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        if !rest.contains("next") {
            return None;
        }
        let page = Self::asked(target.split_once('?').map(|(_, query)| query));
        page.last.is_some().then_some(page)
    }

    fn query(&self) -> String {
        let mut query = format!("n={}", self.count);
        if let Some(last) = &self.last {
            query.push_str("&last=");
            escape(last, &mut query);
        }
        query
    }
}

/// The value of a query parameter.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| unescape(value))
}

/// A value as it is meant; `None` if it is no text.
fn unescape(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_small_and_lead_to_us() {
        let query = |text: &str| Page::asked(Some(text)).query();
        assert_eq!(Page::asked(None).query(), "n=1000");
        assert_eq!(query("n=10000&last=1.0%2Bb"), "n=1000&last=1.0%2Bb");
        assert_eq!(query("n=5&last=a&n=6"), "n=5&last=a");
        assert_eq!(query("n=x&last=%zz&last=%"), "n=1000");
        let next = |link: &str| Page::next(link).map(|page| page.query());
        let link = "<https://registry.example/v2/a/tags/list?last=1.2&n=100>; rel=\"next\"";
        assert_eq!(next(link).as_deref(), Some("n=100&last=1.2"));
        assert_eq!(next("</v2/a/tags/list?n=100>; rel=\"next\""), None);
        assert_eq!(next("</v2/a/tags/list?last=x>; rel=\"prev\""), None);
        assert_eq!(next("nonsense"), None);
    }

    #[test]
    fn parameters_are_texts() {
        let of = |query: &str| parameter(Some(query), "ns").map(Cow::into_owned);
        assert_eq!(of("ns=docker.io"), Some("docker.io".into()));
        assert_eq!(of("a=b&ns=registry.example%3A5000"), Some("registry.example:5000".into()));
        assert_eq!(of("ns=%ff"), None);
        assert_eq!(of("ms=docker.io"), None);
    }
}
