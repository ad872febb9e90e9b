//! What a client of the mirror asks for: the pull side of the OCI distribution API.
//!
//! In: a path below `/v2/` as it came. Out: a repository and what of it, or the code of the
//! refusal. Names are checked by the specification's grammar before anything is made of them, so
//! that no name ever is a path of ours or of a registry that we did not mean.

use super::{Code, Digest};

/// Bytes of a repository's name: what registries take.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a tag (distribution specification: 128 characters).
const TAG_BYTES_MAX: usize = 128;

/// A request to the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Whether this is a registry.
    Base,
    /// A manifest or index.
    Manifest {
        /// As the client names it, a prefix included.
        repository: &'a str,
        /// Which one.
        reference: Reference<'a>,
    },
    /// A layer or config.
    Blob {
        /// As the client names it, a prefix included.
        repository: &'a str,
        /// Which one.
        digest: Digest,
    },
    /// The tags of a repository.
    Tags {
        /// As the client names it, a prefix included.
        repository: &'a str,
    },
    /// What refers to a manifest.
    Referrers {
        /// As the client names it, a prefix included.
        repository: &'a str,
        /// The manifest.
        digest: Digest,
    },
}

/// How a manifest is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference<'a> {
    /// By a name that may mean another one tomorrow.
    Tag(&'a str),
    /// By what it is.
    Digest(Digest),
}

impl<'a> Ask<'a> {
    /// Reads the path of a request.
    ///
    /// # Errors
    /// The code that says what is wrong with it.
    pub fn read(path: &'a str) -> Result<Self, Code> {
        let rest = path.strip_prefix("/v2").ok_or(Code::Unsupported)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Base);
        }
        let rest = rest.strip_prefix('/').ok_or(Code::Unsupported)?;
        // From the end: `manifests`, `blobs` and `tags` may also be parts of a repository's name.
        let (front, last) = rest.rsplit_once('/').ok_or(Code::Unsupported)?;
        let (name, kind) = front.rsplit_once('/').ok_or(Code::Unsupported)?;
        let digest = || digest(last).ok_or(Code::DigestInvalid);
        match kind {
            "manifests" => {
                let repository = repository(name)?;
                let reference = match self::digest(last) {
                    Some(digest) => Reference::Digest(digest),
                    None if is_digest_like(last) => return Err(Code::DigestInvalid),
                    None => Reference::Tag(tag(last).ok_or(Code::ManifestInvalid)?),
                };
                Ok(Self::Manifest { repository, reference })
            }
            "blobs" => Ok(Self::Blob { repository: repository(name)?, digest: digest()? }),
            "referrers" => Ok(Self::Referrers { repository: repository(name)?, digest: digest()? }),
            "tags" if last == "list" => Ok(Self::Tags { repository: repository(name)? }),
            _ => Err(Code::Unsupported),
        }
    }
}

impl<'a> Ask<'a> {
    /// The repository that it is about, if any.
    pub const fn repository(&self) -> Option<&'a str> {
        match self {
            Self::Base => None,
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => Some(repository),
        }
    }
}

/// A digest; some clients escape its colon.
fn digest(text: &str) -> Option<Digest> {
    match text.split_once("%3A").or_else(|| text.split_once("%3a")) {
        Some(("sha256", hex)) => Digest::from_hex(hex).ok(),
        _ => text.parse().ok(),
    }
}

fn is_digest_like(text: &str) -> bool {
    text.contains(':') || text.contains("%3A") || text.contains("%3a")
}

fn tag(text: &str) -> Option<&str> {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let inner = |byte: u8| first(byte) || byte == b'.' || byte == b'-';
    let bytes = text.as_bytes();
    let fits = bytes.len() <= TAG_BYTES_MAX
        && bytes.first().is_some_and(|byte| first(*byte))
        && bytes.iter().all(|byte| inner(*byte));
    fits.then_some(text)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, one or more of them with slashes between.
fn repository(text: &str) -> Result<&str, Code> {
    let fits = text.len() <= NAME_BYTES_MAX && text.split('/').all(is_component);
    if fits { Ok(text) } else { Err(Code::NameInvalid) }
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separator = |text: &str| {
        matches!(text, "." | "_" | "__") || !text.is_empty() && text.bytes().all(|b| b == b'-')
    };
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(*first)
        && is_word(*last)
        && text.is_ascii()
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|between| {
            // Between two letters of one word there is nothing.
            between.is_empty() || separator(between)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn a_pull_is_understood() {
        let digest: Digest = format!("sha256:{}", hex()).parse().unwrap();
        let manifest = |repository, reference| Ok(Ask::Manifest { repository, reference });
        assert_eq!(Ask::read("/v2/"), Ok(Ask::Base));
        assert_eq!(Ask::read("/v2"), Ok(Ask::Base));
        assert_eq!(
            Ask::read("/v2/library/nginx/manifests/1.27"),
            manifest("library/nginx", Reference::Tag("1.27"))
        );
        let by_digest = format!("/v2/a/manifests/{digest}");
        assert_eq!(Ask::read(&by_digest), manifest("a", Reference::Digest(digest)));
        let escaped = format!("/v2/a/blobs/sha256%3A{}", hex());
        assert_eq!(Ask::read(&escaped), Ok(Ask::Blob { repository: "a", digest }));
        assert_eq!(Ask::read("/v2/a/b/c/tags/list"), Ok(Ask::Tags { repository: "a/b/c" }));
        let referrers = format!("/v2/a/referrers/{digest}");
        assert_eq!(Ask::read(&referrers), Ok(Ask::Referrers { repository: "a", digest }));
        // Words of the API are names too.
        assert_eq!(
            Ask::read("/v2/blobs/manifests/manifests/tags"),
            manifest("blobs/manifests", Reference::Tag("tags"))
        );
    }

    #[test]
    fn hostile_names_are_refused_before_anything_is_made_of_them() {
        let long = "a".repeat(256);
        for name in [
            "..", "../etc", "a/..", "a/../b", ".", "a//b", "/a", "", "A", "a_", "-a", "a..b",
            "a___b", "a._b", "a%2f..", "ä", "a b", "a\0b", "a\\b", "a:b", "a?b", "💳", &long,
        ] {
            let path = format!("/v2/{name}/manifests/latest");
            assert_eq!(Ask::read(&path), Err(Code::NameInvalid), "{name:?}");
        }
        for name in ["a-b", "a---b", "a.b", "a_b", "a__b", "0/1", &long[..255]] {
            assert!(Ask::read(&format!("/v2/{name}/tags/list")).is_ok(), "{name}");
        }
        let long_tag = "t".repeat(129);
        for tag in ["", ".", "..", "-a", "a%2e", "a b", "é", &long_tag] {
            let path = format!("/v2/a/manifests/{tag}");
            assert_eq!(Ask::read(&path), Err(Code::ManifestInvalid), "{tag:?}");
        }
        let short = "0".repeat(63);
        for digest in ["sha256:", "sha512:ab", "md5:0", "sha256:zz", &format!("sha256:{short}")] {
            let path = format!("/v2/a/blobs/{digest}");
            assert_eq!(Ask::read(&path), Err(Code::DigestInvalid), "{digest:?}");
            let path = format!("/v2/a/manifests/{digest}");
            assert_eq!(Ask::read(&path), Err(Code::DigestInvalid), "{digest:?}");
        }
    }

    #[test]
    fn what_is_no_pull_is_not_carried() {
        for path in ["/", "/v1/", "/v2x", "/v2/_catalog", "/v2/a", "/v2/a/blobs", "/v2/a/b/c/d"] {
            assert_eq!(Ask::read(path), Err(Code::Unsupported), "{path}");
        }
        assert_eq!(Ask::read("/v2/a/blobs/uploads/"), Err(Code::Unsupported));
        assert_eq!(Ask::read("/v2/a/tags/other"), Err(Code::Unsupported));
    }
}
