//! Who asks: a certificate that was verified, or a token.
//!
//! Tokens lie in files that their owner alone may read, are known here by their hashes, and are
//! compared in constant time, all of them, whichever is shown. A file that changes is taken when
//! it is whole; the old token counts until then.

use std::fs::{File, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tillgate_core::endpoint::service_accounts::ServiceAccountsSpec;
use tillgate_core::endpoint::{EndpointSpec, TokenSpec, Who};
use tillgate_core::tls::ClientIdentity;
use tillgate_net::clock::Floor;
use tillgate_net::mirror::our_user;
use tillgate_net::tls;

use super::hooks::Receiver;
use super::workload_token::{KeysError, Verifier};
use crate::disk::read_open;
use crate::send::explain;

/// Fewer characters can be guessed: 32 of base64 are 192 bits.
const TOKEN_CHARS_MIN: usize = 32;

/// What no token is longer than.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a token's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("the secret {0} cannot be read; put it there")]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// Others may read it: see [`is_private`].
    #[error("the secret {0} can be read by others than its owner; run `chmod 600` on it")]
    Open(PathBuf),
    /// It is too short, too long, or not one line of plain characters.
    #[error(
        "the secret {0} is not one line of {TOKEN_CHARS_MIN} to {FILE_BYTES_MAX} plain characters; \
         make one with `openssl rand -base64 32`"
    )]
    Weak(PathBuf),
    /// It is no text, or too much of it.
    #[error(
        "{0} is not what was written there: it is no text, or more than {FILE_BYTES_MAX} bytes"
    )]
    Damaged(PathBuf),
    /// The keys that tokens of pods are checked by.
    #[error(
        "the cluster's keys {0} cannot be used; write `kubectl get --raw /openid/v1/jwks` there"
    )]
    Keys(PathBuf, #[source] KeysError),
}

type Hash = [u8; SHA256_OUTPUT_LEN];

/// What a caller shows: enough to find him again, whatever becomes of the callers meanwhile.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    /// Nothing, or nothing that could be one.
    None,
    Token(Hash),
    Certificate(Arc<ClientIdentity>),
}

impl Credential {
    /// What these headers and this certificate show. A token that is shown is what counts: a wrong
    /// one is not made good by a certificate.
    pub(super) fn of(headers: &HeaderMap, certificate: Option<&Arc<ClientIdentity>>) -> Self {
        if headers.contains_key(AUTHORIZATION) {
            return bearer(headers).map_or(Self::None, |token| Self::Token(hash(token)));
        }
        certificate.map_or(Self::None, |one| Self::Certificate(Arc::clone(one)))
    }
}

/// The token in `headers`, if that is what they have, and one alone.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (scheme, token) = shown.next()?.as_bytes().split_at_checked(7)?;
    let is_one = scheme.eq_ignore_ascii_case(b"bearer ") && shown.next().is_none();
    is_one.then(|| token.trim_ascii())
}

/// Who asks, as far as that can be told.
#[derive(Debug)]
pub(super) enum Asker {
    /// It showed nothing, or something that nobody knows.
    Nobody,
    /// It has a certificate of an authority that counts, and no role in it.
    Stranger,
    Known(Who),
}

/// The tokens that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Callers {
    /// What says so.
    pub(super) spec: Option<EndpointSpec>,
    tokens: Vec<(Hash, Who)>,
    receivers: Vec<Receiver>,
    accounts: Option<Arc<Verifier>>,
}

impl Callers {
    /// Reads the files of `spec`; keys of a cluster that can be fetched are those of `before` where
    /// their file cannot be used.
    pub(super) fn read(spec: &EndpointSpec, before: &Self) -> Result<Self, SecretError> {
        let read = |token: &TokenSpec| {
            let text = secret(&token.file)?;
            Ok((hash(text.as_bytes()), Who::of_token(token)))
        };
        let tokens = spec.tokens.iter().map(read).collect::<Result<_, _>>()?;
        let receivers = spec.hooks.iter().map(Receiver::read).collect::<Result<_, _>>()?;
        let accounts = spec.enrolment.service_accounts.as_ref();
        let accounts = accounts.map(|spec| before.keys_of_now(spec)).transpose()?;
        Ok(Self { spec: Some(spec.clone()), tokens, receivers, accounts })
    }

    /// The receiver of webhooks called `name`.
    pub(super) fn receiver(&self, name: &str) -> Option<&Receiver> {
        self.receivers.iter().find(|one| *one.name == *name)
    }

    /// Who judges tokens of pods, if they count here.
    pub(super) fn accounts(&self) -> Option<&Verifier> {
        self.accounts.as_deref()
    }

    /// Who it is that shows this; `floor` has the time.
    pub(super) fn find(&self, credential: &Credential, floor: &Floor) -> Asker {
        match credential {
            Credential::None => Asker::Nobody,
            Credential::Token(shown) => self.token(shown),
            // It may have ended since its connection began, and enrolment with it.
            Credential::Certificate(identity)
                if !tls::counts(identity, floor) || (identity.of_store && !self.enrols()) =>
            {
                Asker::Nobody
            }
            Credential::Certificate(identity) => {
                Who::of_certificate(identity).map_or(Asker::Stranger, Asker::Known)
            }
        }
    }

    /// These with the cluster's keys of now, if they are others and can be used: keys must not
    /// wait for a secret that cannot.
    pub(super) fn with_keys_of_now(&self) -> Option<Self> {
        let spec = self.spec.as_ref()?.enrolment.service_accounts.as_ref()?;
        let accounts = Some(self.keys_of_now(spec).ok()?);
        (accounts != self.accounts).then(|| Self { accounts, ..self.clone() })
    }

    fn keys_of_now(&self, spec: &ServiceAccountsSpec) -> Result<Arc<Verifier>, SecretError> {
        let known = self.accounts.as_ref().filter(|known| known.is_of(spec));
        match (Verifier::read(spec), known) {
            (Ok(verifier), _) => Ok(Arc::new(verifier)),
            (Err(error), _) if spec.jwks_url.is_none() => Err(error),
            (Err(_), Some(known)) => Ok(Arc::clone(known)),
            (Err(error), None) => {
                tracing::warn!("the cluster's keys are fetched anew: {}", explain(&error));
                Ok(Arc::new(Verifier::without_keys(spec)))
            }
        }
    }

    /// Whether the store's own certificates count.
    fn enrols(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.enrolment.directory.is_some())
    }

    fn token(&self, shown: &Hash) -> Asker {
        let mut found = None;
        for (known, who) in &self.tokens {
            if verify_slices_are_equal(known, shown).is_ok() {
                found = Some(who);
            }
        }
        found.map_or(Asker::Nobody, |who| Asker::Known(who.clone()))
    }
}

fn hash(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The secret in a file that its owner alone may read.
pub(super) fn secret(path: &Path) -> Result<String, SecretError> {
    let weak = || SecretError::Weak(path.to_owned());
    let text = private_text(path);
    let text =
        text.map_err(|why| if matches!(why, SecretError::Damaged(_)) { weak() } else { why });
    let text = text?;
    let secret = text.trim_ascii();
    let is_plain = secret.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || secret.len() < TOKEN_CHARS_MIN {
        return Err(weak());
    }
    Ok(secret.to_owned())
}

/// The text of a file that this process has written for itself alone. What mounts a volume may give
/// its files to the volume's group (`fsGroup`); that is taken back.
pub(crate) fn own_text(path: &Path) -> Result<String, SecretError> {
    read_private(path, |file| {
        let is_ours = |file: &Metadata| file.uid() == our_user() && file.mode() & 0o007 == 0;
        let taken = file.metadata().is_ok_and(|metadata| is_ours(&metadata))
            && file.set_permissions(Permissions::from_mode(0o600)).is_ok();
        if taken {
            tracing::warn!(file = %path.display(), "its group might read it: taken back");
        }
        taken
    })
}

/// The text of a file that nobody else may read; not much more than a key's.
pub(crate) fn private_text(path: &Path) -> Result<String, SecretError> {
    read_private(path, |_| false)
}

/// The same, also of a file that `takes` from all others.
fn read_private(path: &Path, takes: impl Fn(&File) -> bool) -> Result<String, SecretError> {
    let unreadable = |error| SecretError::Unreadable(path.to_owned(), error);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !is_private(metadata.mode(), metadata.uid(), our_user()) && !takes(&file) {
        return Err(SecretError::Open(path.to_owned()));
    }
    let damaged = || SecretError::Damaged(path.to_owned());
    let bytes = read_open(&file, FILE_BYTES_MAX).map_err(|error| {
        if error.kind() == ErrorKind::FileTooLarge { damaged() } else { unreadable(error) }
    })?;
    String::from_utf8(bytes).map_err(|_| damaged())
}

/// Whether its owner alone may read a file. What root owns and this process, which is not root,
/// may read by its group was put there for it: secrets of Kubernetes and of systemd look so.
const fn is_private(mode: u32, owner: u32, ours: u32) -> bool {
    let is_handed_over = owner == 0 && ours != 0;
    mode & if is_handed_over { 0o037 } else { 0o077 } == 0
}

#[cfg(test)]
mod tests {
    use tillgate_core::endpoint::{Role, Roles};

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_secret_is_its_owners_alone_and_long() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(secret(file(&format!("{good}\n"), 0o600).path()).unwrap(), good);
        for mode in [0o640, 0o644, 0o660, 0o604, 0o601] {
            let open = secret(file(good, mode).path());
            assert!(matches!(open, Err(SecretError::Open(_))), "{mode:o}");
        }
        for weak in ["short", &"x".repeat(5000), "0123456789abcdef 0123456789abcdef", ""] {
            assert!(matches!(secret(file(weak, 0o600).path()), Err(SecretError::Weak(_))));
        }
        let gone = secret(Path::new("/nonexistent/token"));
        assert!(matches!(gone, Err(SecretError::Unreadable(..))));
    }

    #[test]
    fn what_a_mount_has_given_to_a_group_is_taken_back() {
        let shared = file("a key", 0o660);
        assert_eq!(own_text(shared.path()).unwrap(), "a key");
        let mode = shared.as_file().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for mode in [0o604, 0o666] {
            assert!(matches!(own_text(file("a key", mode).path()), Err(SecretError::Open(_))));
        }
        let long = own_text(file(&"x".repeat(5000), 0o600).path()).unwrap_err().to_string();
        assert!(long.contains("not what was written"), "{long}");
    }

    #[test]
    fn a_group_reads_what_root_has_handed_over_to_it() {
        assert!(is_private(0o100_440, 0, 65532) && is_private(0o100_600, 65532, 65532));
        for (mode, owner, ours) in [
            (0o100_440, 0, 0),
            (0o100_440, 65532, 65532),
            (0o100_444, 0, 65532),
            (0o100_460, 0, 65532),
        ] {
            assert!(!is_private(mode, owner, ours), "{mode:o} of {owner} for {ours}");
        }
    }

    #[test]
    fn a_wrong_token_is_not_made_good_by_a_certificate() {
        let token = "0123456789abcdef0123456789abcdef";
        let roles = Roles::of(&[Role::Viewer]);
        let who =
            Who { actor: "token:t".into(), name: "t".into(), roles, workload: None, account: None };
        let tokens = vec![(hash(token.as_bytes()), who)];
        let callers = Callers { tokens, ..Callers::default() };
        let certificate = Arc::new(ClientIdentity {
            sans: vec!["URI:tillgate://operator/otto".into()],
            not_after: 4_102_444_800,
            ..ClientIdentity::default()
        });
        let floor = Floor::default();
        let ask = |values: &[&str], certificate: Option<&Arc<ClientIdentity>>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            match callers.find(&Credential::of(&headers, certificate), &floor) {
                Asker::Known(who) => who.actor.to_string(),
                Asker::Stranger => "stranger".to_owned(),
                Asker::Nobody => "nobody".to_owned(),
            }
        };
        let bearer = format!("Bearer {token}");
        assert_eq!(ask(&[&bearer], None), "token:t");
        assert_eq!(ask(&[&format!("bearer  {token} ")], None), "token:t");
        assert_eq!(ask(&[], Some(&certificate)), "certificate:otto");
        assert_eq!(ask(&[&bearer], Some(&certificate)), "token:t");
        for wrong in ["Bearer", "Bearer x", "Basic dXNlcjp4", "", token] {
            assert_eq!(ask(&[wrong], Some(&certificate)), "nobody", "{wrong}");
        }
        assert_eq!(ask(&[&bearer, &bearer], Some(&certificate)), "nobody");
        let nameless = ClientIdentity { not_after: 4_102_444_800, ..ClientIdentity::default() };
        assert_eq!(ask(&[], Some(&Arc::new(nameless))), "stranger");
        // Those of the store's own authority count while sidecars are enrolled here.
        let own = Arc::new(ClientIdentity { of_store: true, ..(*certificate).clone() });
        assert_eq!(ask(&[], Some(&own)), "nobody");
        floor.set(4_102_444_800);
        assert_eq!(ask(&[], Some(&certificate)), "certificate:otto", "it is its last second");
        floor.set(4_102_444_801);
        assert_eq!(ask(&[], Some(&certificate)), "nobody", "it has ended");
    }
}
