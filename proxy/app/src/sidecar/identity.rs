//! Who a sidecar is: its key and its certificate, in one file that is replaced whole.
//!
//! ```text
//! renew-after: <seconds since 1970>
//! -----BEGIN PRIVATE KEY----- …  -----BEGIN CERTIFICATE----- …
//! ```
//!
//! PEM lets words stand before a block, so TLS reads the same file. What the key is has never left
//! this machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tillgate_config::bundle::wall;
use tillgate_core::endpoint::{Role, Who};
use tillgate_net::tls::{OwnKey, shown};

use crate::disk::{remove, replace, sync, write_new};
use crate::endpoint::SecretError;
use crate::endpoint::own_text;
use crate::send::explain;

const FILE: &str = "identity.pem";

/// The key of a certificate that is asked for with a token.
const NEXT_KEY: &str = "next-key.pem";

const RENEW: &str = "renew-after: ";

/// A certificate that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: Arc<str>,
    pub(super) workload: Option<Arc<str>>,
    /// Both in seconds since 1970.
    pub(super) not_after: u64,
    pub(super) renew_after: u64,
}

impl Identity {
    /// Half of its life, in seconds.
    pub(super) const fn half(&self) -> u64 {
        self.not_after.saturating_sub(self.renew_after)
    }

    fn of(text: &str) -> Option<Self> {
        let renew_after = text.strip_prefix(RENEW)?.lines().next()?.parse().ok()?;
        let certificate = shown(text)?;
        let who = Who::of_certificate(&certificate)?;
        let not_after = certificate.not_after;
        let known = Self { id: who.name, workload: who.workload, not_after, renew_after };
        who.roles.has(Role::Sidecar).then_some(known)
    }
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.to_owned() }
    }

    /// The file.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What is there, if anything.
    ///
    /// # Errors
    /// If it is not what [`Place::keep`] wrote: another one has to be asked for.
    pub(super) fn read(&self) -> Result<Option<Identity>, String> {
        match own_text(&self.file()) {
            Err(SecretError::Unreadable(_, error)) if error.kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(explain(&error)),
            Ok(text) => match Identity::of(&text) {
                Some(identity) => Ok(Some(identity)),
                None => Err(format!(
                    "{} is damaged: put it back as it was, or a token of `tillgate enrol` where \
                     this sidecar looks for one",
                    self.file().display()
                )),
            },
        }
    }

    /// The key to show a token with. It is on the disk before, and the same until there is a
    /// certificate for it: who has not heard the answer asks again, and is known by it.
    pub(super) fn next_key(&self) -> Result<OwnKey, String> {
        let path = self.next_key_file();
        if let Some(key) = own_text(&path).ok().and_then(|text| OwnKey::read(&text)) {
            return Ok(key);
        }
        let key = OwnKey::generate().map_err(|error| explain(&error))?;
        let kept = remove(&path).and_then(|()| write_new(&path, key.pem().as_bytes()));
        let kept = kept.and_then(|()| sync(&self.folder));
        kept.map_err(|error| format!("no key can be kept in {}: {error}", self.folder.display()))?;
        Ok(key)
    }

    /// Keeps `key` and what the gateway has `told` of its certificate.
    pub(super) fn keep(&self, key: &OwnKey, told: &Value) -> Result<Identity, String> {
        let certificate = told["certificate"].as_str().unwrap_or_default();
        let renew_after = told["renewAfter"].as_str().and_then(wall);
        let renew_after = renew_after.ok_or("the gateway does not say when to renew")?;
        let text = format!("{RENEW}{}\n{}{certificate}", renew_after.0, key.pem());
        let identity = Identity::of(&text).ok_or("the gateway sends no sidecar's certificate")?;
        replace(&self.file(), &self.beside(), text.as_bytes()).map_err(|error| {
            format!("the certificate cannot be kept in {}: {error}", self.folder.display())
        })?;
        // One that is left is asked for again, and nothing else comes of it.
        drop(remove(&self.next_key_file()));
        Ok(identity)
    }

    fn next_key_file(&self) -> PathBuf {
        self.folder.join(NEXT_KEY)
    }

    fn beside(&self) -> PathBuf {
        self.folder.join(".tmp-identity")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;
    use tillgate_net::tls::{Authority, RequestedKey};

    use super::*;

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn what_is_kept_is_read_again_and_what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        assert_eq!(place.read(), Ok(None));
        let (key, authority) =
            (place.next_key().unwrap(), Authority::read(&Authority::generate(NOW).unwrap()));
        assert_eq!(place.next_key().unwrap().pem(), key.pem(), "it is the same until it is used");
        let request = RequestedKey::of_request(&key.request().unwrap()).unwrap();
        let names = Who::sidecar_names("pos-1", Some("pos/checkout"), None);
        let certificate = authority.unwrap().issue(&request, &names, NOW + 60).unwrap();
        let told = json!({"certificate": certificate, "renewAfter": "2026-09-21T14:13:50Z"});
        let kept = place.keep(&key, &told).unwrap();
        assert_eq!((&*kept.id, kept.workload.as_deref()), ("pos-1", Some("pos/checkout")));
        assert_eq!((kept.not_after, kept.renew_after), (NOW + 60, NOW + 30));
        assert_eq!(place.read(), Ok(Some(kept)));
        let mode = fs::metadata(place.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_ne!(place.next_key().unwrap().pem(), key.pem());
        fs::write(place.next_key_file(), "torn").unwrap();
        assert_eq!(place.next_key().unwrap().pem(), place.next_key().unwrap().pem());
        let text = fs::read_to_string(place.file()).unwrap();
        for wrong in [&text[..text.len() - 60], &text[RENEW.len()..], ""] {
            fs::write(place.file(), wrong).unwrap();
            assert!(place.read().unwrap_err().contains("damaged"), "{wrong}");
        }
        assert!(place.keep(&key, &json!({"renewAfter": "2026-09-21T14:13:50Z"})).is_err());
    }
}
