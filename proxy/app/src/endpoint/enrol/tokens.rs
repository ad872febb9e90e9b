//! Enrolment tokens: each is exchanged once for a certificate.
//!
//! What is kept is their hashes, in one file that is replaced whole, and every change is on disk
//! before anybody hears of it: a token that was exchanged before the power went is exchanged after
//! it, too. One that was exchanged is known until it would have run out, so that it can be told
//! when it is shown again; whoever shows it with the same key has not heard the answer, and gets
//! another one. Two processes of one gateway take turns, and read what the other wrote.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tillgate_config::bundle::digest;

use super::authority::turn;
use super::credential::Identity;
use crate::disk::{read_bounded, replace};

/// As many as there may be instances.
const TOKENS_MAX: usize = 1024;

/// That many, each with the longest names.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

const FILE: &str = "tokens.json";

/// So that whoever finds one knows what it is.
const PREFIX: &str = "tillgate-enrol-";

/// 256 bits cannot be guessed.
const SECRET_BYTES: usize = 32;

/// Why a token opens nothing, or there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("no such token was minted here, or it has run out long ago: have another one minted")]
    Unknown,
    #[error("this token has run out: have another one minted")]
    Expired(Identity),
    #[error("this token was exchanged before: have another one minted")]
    Used(Identity),
    #[error("there are {TOKENS_MAX} tokens that were not exchanged: wait until some have run out")]
    Full,
    #[error("the tokens cannot be read or written, see that this process may do that: {0}")]
    Disk(#[from] io::Error),
}

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    hash: String,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    /// In seconds since 1970.
    expires: u64,
    /// The hash of the key that it was exchanged for, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_for: Option<String>,
}

impl Kept {
    fn identity(&self) -> Identity {
        let workload = self.workload.as_deref().map(Into::into);
        Identity { id: self.id.as_str().into(), workload, account: None }
    }

    /// Whose it is, if it was exchanged for this very key.
    fn used_by(&self, key: &str) -> Result<Option<Identity>, TokenError> {
        match &self.used_for {
            None => Ok(None),
            Some(used_for) if used_for == key => Ok(Some(self.identity())),
            Some(_) => Err(TokenError::Used(self.identity())),
        }
    }
}

/// See the module. All of it blocks.
#[derive(Debug)]
pub(super) struct Tokens {
    directory: PathBuf,
    all: Vec<Kept>,
    /// The file as it was read or written last, by its number.
    seen: Option<(u64, i64, i64)>,
}

impl Tokens {
    /// Those that are kept in `directory`, without looking.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), all: Vec::new(), seen: None }
    }

    /// Another token for `identity`; it takes the place of one that was not exchanged.
    pub(super) fn mint(
        &mut self,
        identity: &Identity,
        lifetime: Duration,
        now: u64,
    ) -> Result<String, TokenError> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| io::Error::other("no random numbers"))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let kept = Kept {
            hash: digest(token.as_bytes()),
            id: identity.id.to_string(),
            workload: identity.workload.as_deref().map(str::to_owned),
            expires: now.saturating_add(lifetime.as_secs()),
            used_for: None,
        };
        self.change(|all| {
            all.retain(|one| one.expires > now && (one.used_for.is_some() || one.id != kept.id));
            if all.len() >= TOKENS_MAX
                && let Some(used) = all.iter().position(|one| one.used_for.is_some())
            {
                all.remove(used);
            }
            if all.len() >= TOKENS_MAX {
                return Err(TokenError::Full);
            }
            all.push(kept);
            Ok(())
        })?;
        Ok(token)
    }

    /// Whom `token` is for, if it has not run out; whether it can be exchanged depends on the key.
    pub(super) fn find(&mut self, token: &[u8], now: u64) -> Result<Identity, TokenError> {
        self.refresh()?;
        found(&mut self.all, token, now).map(|kept| kept.identity())
    }

    /// Takes `token` for the public `key`: from here on it opens nothing to any other one. Whom it
    /// is for.
    pub(super) fn exchange(
        &mut self,
        token: &[u8],
        key: &[u8],
        now: u64,
    ) -> Result<Identity, TokenError> {
        let key = digest(key);
        self.refresh()?;
        if let Some(whose) = found(&mut self.all, token, now)?.used_by(&key)? {
            return Ok(whose);
        }
        self.change(|all| {
            // Another process may have been faster.
            let kept = found(all, token, now)?;
            if kept.used_by(&key)?.is_none() {
                kept.used_for = Some(key);
            }
            Ok(kept.identity())
        })
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Vec<Kept>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _turn = turn(&self.directory)?;
        self.refresh()?;
        let mut next = self.all.clone();
        let done = change(&mut next)?;
        let text = serde_json::to_vec(&next).map_err(io::Error::other)?;
        // Whatever comes of it, what is on the disk is what counts.
        self.seen = None;
        replace(&self.path(), &self.directory.join(".tmp-tokens"), &text)?;
        Ok(done)
    }

    /// Reads what is on the disk, if that is another file than before.
    fn refresh(&mut self) -> io::Result<()> {
        let found = match fs::metadata(self.path()) {
            Ok(found) => Some((found.ino(), found.mtime(), found.mtime_nsec())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if found.is_none() {
            (self.all, self.seen) = (Vec::new(), None);
        } else if found != self.seen {
            let bytes = read_bounded(&self.path(), FILE_BYTES_MAX)?;
            self.all = serde_json::from_slice(&bytes).map_err(|error| {
                let path = self.path();
                io::Error::other(format!(
                    "{} is not what was written ({error}); move it away, and mint those tokens \
                     anew that were not exchanged",
                    path.display()
                ))
            })?;
            self.seen = found;
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }
}

/// Whether it can be a token at all: whatever else is shown costs nobody a look at the disk.
pub(super) fn is_token(shown: &[u8]) -> bool {
    let secret = shown.strip_prefix(PREFIX.as_bytes());
    secret.is_some_and(|secret| secret.len() == SECRET_BYTES.div_ceil(3) * 4 - 1)
}

/// All of them are compared, whichever is shown.
fn found<'a>(all: &'a mut [Kept], token: &[u8], now: u64) -> Result<&'a mut Kept, TokenError> {
    let shown = digest(token);
    let mut found = None;
    for kept in all {
        if verify_slices_are_equal(kept.hash.as_bytes(), shown.as_bytes()).is_ok() {
            found = Some(kept);
        }
    }
    let kept = found.ok_or(TokenError::Unknown)?;
    if kept.expires <= now { Err(TokenError::Expired(kept.identity())) } else { Ok(kept) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn who(id: &str) -> Identity {
        Identity { id: id.into(), workload: Some("pos/checkout".into()), account: None }
    }

    #[test]
    fn a_token_is_exchanged_once_whoever_looks_and_after_every_start() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Tokens::new(folder.path());
        let (mut one, mut other) = (open(), open());
        let token = one.mint(&who("pos-1"), HOUR, NOW).unwrap();
        let text = token.as_bytes();
        assert!(!token.contains('.'), "it has not the shape of a JWT");
        assert!(is_token(text) && !is_token(&text[1..]) && !is_token(&text[..text.len() - 1]));
        let kept = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!kept.contains(&token) && kept.contains("pos-1"));
        assert_eq!(other.find(text, NOW).unwrap(), who("pos-1"));
        assert!(matches!(one.find(b"tillgate-enrol-x", NOW), Err(TokenError::Unknown)));
        assert!(matches!(one.find(text, NOW + 3600), Err(TokenError::Expired(_))));
        assert_eq!(other.exchange(text, b"key", NOW + 3598).unwrap(), who("pos-1"));
        for tokens in [&mut one, &mut other, &mut open()] {
            assert!(matches!(tokens.exchange(text, b"other", NOW), Err(TokenError::Used(_))));
            // Who has the key has not heard the answer.
            assert_eq!(tokens.exchange(text, b"key", NOW + 3599).unwrap(), who("pos-1"));
            let late = tokens.exchange(text, b"key", NOW + 3600);
            assert!(matches!(late, Err(TokenError::Expired(_))));
        }
    }

    #[test]
    fn there_is_one_for_each_and_no_more_than_fit() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = Tokens::new(folder.path());
        let first = tokens.mint(&who("pos-1"), HOUR, NOW).unwrap();
        let second = tokens.mint(&who("pos-1"), HOUR, NOW).unwrap();
        assert!(matches!(tokens.find(first.as_bytes(), NOW), Err(TokenError::Unknown)));
        tokens.exchange(second.as_bytes(), b"key", NOW).unwrap();
        let all = |count: usize| {
            (0..count).map(|id| Kept {
                hash: digest(id.to_string().as_bytes()),
                id: id.to_string(),
                workload: None,
                expires: NOW + 60,
                used_for: None,
            })
        };
        tokens
            .change(|kept| {
                kept.extend(all(TOKENS_MAX - 1));
                Ok(())
            })
            .unwrap();
        // The one that was exchanged makes room, the others do not.
        tokens.mint(&who("pos-2"), HOUR, NOW).unwrap();
        assert!(matches!(tokens.mint(&who("pos-3"), HOUR, NOW), Err(TokenError::Full)));
        tokens.mint(&who("pos-3"), HOUR, NOW + 60).unwrap();
    }

    #[test]
    fn what_is_torn_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = Tokens::new(folder.path());
        let token = tokens.mint(&who("pos-1"), HOUR, NOW).unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, b"[{\"hash\":").unwrap();
        for mut tokens in [tokens, Tokens::new(folder.path())] {
            let error = tokens.exchange(token.as_bytes(), b"key", NOW).unwrap_err().to_string();
            assert!(error.contains("move it away"), "{error}");
            assert!(tokens.mint(&who("pos-1"), HOUR, NOW).is_err());
            assert_eq!(fs::read(&path).unwrap(), b"[{\"hash\":");
        }
    }
}
