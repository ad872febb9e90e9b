//! Webhooks: whoever has a receiver's secret may say "look now".
//!
//! The body is a hint and never config, so a message that is played again costs one look at most.
//! Its signature is over the raw body and is compared in constant time; two secrets count while
//! one replaces the other. What is said too often is remembered and done once, later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderMap;
use tillgate_core::endpoint::{HookKind, HookSpec};

use super::callers::{SecretError, secret};

/// One look in this time for each receiver.
const APART: Duration = Duration::from_secs(10);

/// How long a delivery is known by its id.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Ids that are remembered for each receiver: one a second.
const DELIVERIES_MAX: usize = 600;

/// What a delivery's id is not longer than.
const ID_BYTES_MAX: usize = 256;

/// The secrets of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receiver {
    pub(super) name: Arc<str>,
    kind: HookKind,
    secrets: Vec<String>,
}

impl Receiver {
    /// Reads its secrets.
    pub(super) fn read(spec: &HookSpec) -> Result<Self, SecretError> {
        let secrets = spec.secret_files.iter().map(|file| secret(file));
        Ok(Self {
            name: Arc::clone(&spec.name),
            kind: spec.kind,
            secrets: secrets.collect::<Result<_, _>>()?,
        })
    }

    /// Whether the message is from somebody who has a secret.
    pub(super) fn believes(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).map(http::HeaderValue::as_bytes)
        };
        let shown = match self.kind {
            HookKind::GitHub => one("x-hub-signature-256"),
            HookKind::Generic => one("x-signature"),
            HookKind::GitLab => one("x-gitlab-token"),
        };
        let Some(shown) = shown else { return false };
        let mut is_known = false;
        for secret in &self.secrets {
            is_known |= match self.kind {
                HookKind::GitHub | HookKind::Generic => signed(secret, body, shown),
                HookKind::GitLab => {
                    // Of equal length, so that not even the secret's length can be measured.
                    let (ours, theirs) =
                        (digest(&SHA256, secret.as_bytes()), digest(&SHA256, shown));
                    verify_slices_are_equal(ours.as_ref(), theirs.as_ref()).is_ok()
                }
            };
        }
        is_known
    }

    /// The id of a delivery, where its sender gives it one.
    pub(super) fn delivery<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let name = match self.kind {
            HookKind::GitHub => "x-github-delivery",
            HookKind::GitLab => "x-gitlab-event-uuid",
            HookKind::Generic => "x-delivery-id",
        };
        let id = headers.get(name)?.to_str().ok()?;
        (id.len() <= ID_BYTES_MAX).then_some(id)
    }
}

/// `sha256=<hex>`; SHA-1 is no signature any more.
fn signed(secret: &str, body: &[u8], shown: &[u8]) -> bool {
    let Some(hex) = shown.strip_prefix(b"sha256=") else { return false };
    let Some(tag) = unhex(hex) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, body, &tag).is_ok()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|one| u8::try_from(one).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// What to do about a message that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Look now.
    Look,
    /// Look when this time is over.
    LookIn(Duration),
    /// A look is due already, or the message was here before.
    Nothing,
}

/// What a receiver has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Oldest first, by the hash of its id.
    deliveries: VecDeque<(Instant, [u8; 32])>,
    /// When the last look was, or will be.
    look: Option<Instant>,
}

impl Heard {
    /// A message is believed.
    pub(super) fn hear(&mut self, delivery: Option<&str>, now: Instant) -> Then {
        while let Some((at, _)) = self.deliveries.front()
            && now.saturating_duration_since(*at) >= REMEMBERED
        {
            self.deliveries.pop_front();
        }
        if let Some(delivery) = delivery {
            let mut id = [0; 32];
            id.copy_from_slice(digest(&SHA256, delivery.as_bytes()).as_ref());
            if self.deliveries.iter().any(|(_, known)| *known == id) {
                return Then::Nothing;
            }
            if self.deliveries.len() == DELIVERIES_MAX {
                self.deliveries.pop_front();
            }
            self.deliveries.push_back((now, id));
        }
        match self.look {
            // One that is due later sees what this message is about, too.
            Some(look) if look > now => Then::Nothing,
            Some(look) if now.saturating_duration_since(look) < APART => {
                let next = look + APART;
                self.look = Some(next);
                Then::LookIn(next.saturating_duration_since(now))
            }
            _ => {
                self.look = Some(now);
                Then::Look
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(kind: HookKind, secrets: &[&str]) -> Receiver {
        let secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        Receiver { name: "flux".into(), kind, secrets }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// The example of GitHub's own documentation.
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const TAG: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn a_signature_counts_if_it_is_of_these_bytes_with_one_of_these_secrets() {
        let hub = receiver(HookKind::GitHub, &["another", SECRET]);
        let name = "x-hub-signature-256";
        assert!(hub.believes(&headers(&[(name, TAG)]), BODY));
        assert!(!hub.believes(&headers(&[(name, TAG)]), b"Hello, World"));
        assert!(!hub.believes(&headers(&[(name, TAG), (name, TAG)]), BODY));
        assert!(!receiver(HookKind::GitHub, &["another"]).believes(&headers(&[(name, TAG)]), BODY));
        let sha1 = "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59";
        let cut = &TAG[..TAG.len() - 2];
        let odd = &TAG[..TAG.len() - 1];
        for wrong in ["", "sha256=", "sha256=zz", sha1, cut, odd, &TAG[7..]] {
            assert!(!hub.believes(&headers(&[(name, wrong)]), BODY), "{wrong}");
        }
        assert!(!hub.believes(&headers(&[("x-signature", TAG)]), BODY));
        let generic = receiver(HookKind::Generic, &[SECRET]);
        assert!(generic.believes(&headers(&[("x-signature", TAG)]), BODY));
        let lab = receiver(HookKind::GitLab, &["0123456789", SECRET]);
        assert!(lab.believes(&headers(&[("x-gitlab-token", SECRET)]), BODY));
        assert!(!lab.believes(&headers(&[("x-gitlab-token", "0123456788")]), BODY));
        assert!(!lab.believes(&HeaderMap::new(), BODY));
    }

    #[test]
    fn what_is_said_often_is_done_once() {
        let start = tillgate_net::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::default();
        assert_eq!(heard.hear(Some("1"), at(0)), Then::Look);
        assert_eq!(heard.hear(Some("1"), at(1)), Then::Nothing, "it is played again");
        assert_eq!(heard.hear(Some("2"), at(4)), Then::LookIn(Duration::from_secs(6)));
        assert_eq!(heard.hear(Some("3"), at(5)), Then::Nothing, "a look is due");
        assert_eq!(heard.hear(None, at(11)), Then::LookIn(Duration::from_secs(9)));
        assert_eq!(heard.hear(None, at(60)), Then::Look);
        assert_eq!(heard.hear(Some("1"), at(600)), Then::Look, "its id is forgotten");
        for id in 0..2 * DELIVERIES_MAX {
            heard.hear(Some(&format!("many {id}")), at(601));
        }
        assert!(heard.deliveries.len() <= DELIVERIES_MAX);
    }
}
