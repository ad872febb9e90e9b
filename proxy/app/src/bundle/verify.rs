//! Whether a bundle may be believed: enough signatures, exactly its files, meant for this store.
//!
//! The manifest's bytes are signed, the manifest has the hash of every file, so nothing else needs
//! a signature. A signature without a configured key fails, and so does a configured key without a
//! signature. Whether the bundle is *taken* (its sequence, its ring) is the reconcile loop's word.

use std::collections::BTreeSet;
use std::sync::Arc;

use tillgate_config::bundle::{self as format, FormatError, Manifest, SignatureEntry};
use tillgate_config::kinds::bootstrap::{KeyDoc, KeyRole as RoleText, TrustDoc};
use tillgate_config::scalar::Name;
use tillgate_core::reconcile::{Approval, Digest, Promotion};

use super::keys::PublicKey;
use super::{Archive, entries};

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRole {
    Bundle,
    RingPromotion,
    Override,
    Operation,
}

/// A key that counts.
#[derive(Clone, Debug)]
pub(crate) struct TrustedKey {
    pub(crate) id: Arc<str>,
    pub(crate) key: PublicKey,
    pub(crate) roles: Vec<KeyRole>,
    /// Roles of people that it speaks for; `None` = any.
    pub(crate) approves_as: Option<Vec<Arc<str>>>,
}

/// Whose signatures count, and how many a bundle needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    pub(crate) threshold: usize,
    pub(crate) keys: Vec<TrustedKey>,
}

/// Why a bundle is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(
        "it has {found} of {needed} signatures that count; sign it with a key of role `bundle`"
    )]
    Signatures { found: usize, needed: usize },
    #[error("its files are not those of its manifest: {0}")]
    Files(String),
    #[error("it is of store {theirs}, this is {ours}; check the source's address")]
    OtherStore { theirs: String, ours: String },
    #[error("it needs Tillgate {0} or a newer language; upgrade this gateway")]
    NeedsUpgrade(String),
}

/// A bundle that is believed.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) manifest: Manifest,
    pub(crate) digest: Digest,
    /// Ids of the keys that signed it.
    pub(crate) signers: Vec<Arc<str>>,
    /// Of those, how many may speak of an emergency.
    pub(crate) emergency: usize,
    /// What opens rings for it.
    pub(crate) promotions: Vec<Promotion>,
}

impl Trust {
    /// That of a Bootstrap.
    ///
    /// # Errors
    /// Everything that is wrong with its keys, for people.
    pub(crate) fn of(document: &TrustDoc) -> Result<Self, Vec<String>> {
        let (mut keys, mut wrong) = (Vec::<TrustedKey>::new(), Vec::new());
        for one in &document.keys {
            match TrustedKey::of(one) {
                Ok(key) if keys.iter().all(|known| known.id != key.id) => keys.push(key),
                Ok(key) => wrong.push(format!("the key `{}` is there twice: rename one", key.id)),
                Err(why) => wrong.push(why),
            }
        }
        let threshold = usize::from(document.threshold.fit::<u16>());
        if wrong.is_empty() { Ok(Self { threshold, keys }) } else { Err(wrong) }
    }

    /// Believes `archive` for `store`, or says why not; `None` = whichever store it is for.
    pub(crate) fn verify(
        &self,
        archive: &Archive,
        store: Option<&str>,
    ) -> Result<Verified, VerifyError> {
        let signers = self.signers(archive)?;
        let bundle = |key: &&&TrustedKey| key.roles.contains(&KeyRole::Bundle);
        let found = signers.iter().filter(bundle).count();
        let needed = self.threshold.max(1);
        if found < needed {
            return Err(VerifyError::Signatures { found, needed });
        }
        let emergency = |key: &&&TrustedKey| key.roles.contains(&KeyRole::Override);
        let emergency = signers.iter().filter(emergency).count();
        let signers = signers.iter().map(|key| Arc::clone(&key.id)).collect();
        let manifest = check(archive, store)?;
        let digest = archive.digest();
        let promotions = self.promotions(archive, &manifest, &digest)?;
        Ok(Verified { manifest, digest, signers, emergency, promotions })
    }

    /// Looks at an archive that nobody has signed, because the store's operator allows that or
    /// because somebody else vouches for it.
    pub(crate) fn unsigned(archive: &Archive, store: &str) -> Result<Verified, VerifyError> {
        let manifest = check(archive, Some(store))?;
        let (digest, signers) = (archive.digest(), Vec::new());
        Ok(Verified { manifest, digest, signers, emergency: 0, promotions: Vec::new() })
    }

    /// Different keys that have signed the manifest.
    fn signers(&self, archive: &Archive) -> Result<Vec<&TrustedKey>, VerifyError> {
        if archive.signatures.is_empty() {
            return Ok(Vec::new());
        }
        let signatures = format::read_signatures(&archive.signatures)?;
        Ok(self.valid(&signatures, &format::signed_bytes(&archive.manifest)))
    }

    pub(crate) fn valid(&self, signatures: &[SignatureEntry], message: &[u8]) -> Vec<&TrustedKey> {
        let mut seen = BTreeSet::new();
        let key = |entry: &SignatureEntry| {
            let key = self.keys.iter().find(|key| *key.id == *entry.key_id)?;
            let counts = key.key.verifies(message, &entry.signature);
            (counts && seen.insert(Arc::clone(&key.id))).then_some(key)
        };
        signatures.iter().filter_map(key).collect()
    }

    /// Promotions of this very bundle, each with the signatures of it that count.
    fn promotions(
        &self,
        archive: &Archive,
        manifest: &Manifest,
        digest: &Digest,
    ) -> Result<Vec<Promotion>, VerifyError> {
        if archive.promotions.is_empty() {
            return Ok(Vec::new());
        }
        let mut promotions = Vec::new();
        for entry in format::read_promotions(&archive.promotions)? {
            let statement = format::PromotionStatement::read(&entry.statement)?;
            if statement.sequence != manifest.sequence || *statement.digest != **digest {
                continue;
            }
            let signed = self.valid(&entry.signatures, &format::promotion_bytes(&entry.statement));
            let may = |key: &&TrustedKey| key.roles.contains(&KeyRole::RingPromotion);
            let approval = |key: &TrustedKey| Approval {
                key: Arc::clone(&key.id),
                roles: key.approves_as.clone(),
            };
            promotions.push(Promotion {
                sequence: statement.sequence,
                through: statement.through.as_str().into(),
                at: statement.since(),
                approvals: signed.into_iter().filter(may).map(approval).collect(),
            });
        }
        Ok(promotions)
    }
}

impl TrustedKey {
    fn of(document: &KeyDoc) -> Result<Self, String> {
        let id: Arc<str> = document.id.0.as_str().into();
        let key = PublicKey::read(&document.public_key.0)
            .map_err(|error| format!("the key `{id}`: {error}"))?;
        let role = |role: &RoleText| match role {
            RoleText::Bundle => KeyRole::Bundle,
            RoleText::RingPromotion => KeyRole::RingPromotion,
            RoleText::Override => KeyRole::Override,
            RoleText::Operation => KeyRole::Operation,
        };
        let names = |list: &Vec<Name>| list.iter().map(|name| name.0.as_str().into()).collect();
        let approves_as = document.approves_as.as_ref().map(names);
        Ok(Self { id, key, roles: document.roles.iter().map(role).collect(), approves_as })
    }
}

/// What needs no key: the manifest is well formed, has exactly these files, and is meant for us.
fn check(archive: &Archive, store: Option<&str>) -> Result<Manifest, VerifyError> {
    let manifest = Manifest::read(&archive.manifest)?;
    if manifest.needs_upgrade(env!("CARGO_PKG_VERSION")) {
        return Err(VerifyError::NeedsUpgrade(manifest.min_gateway_version));
    }
    let found = entries(&archive.files);
    let mut listed = manifest.files.clone();
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(odd) = listed.iter().find(|entry| !found.contains(entry)) {
        return Err(VerifyError::Files(format!("{} is missing, or has other content", odd.path)));
    }
    if let Some(odd) = found.iter().find(|entry| !listed.contains(entry)) {
        return Err(VerifyError::Files(format!("{} is not listed", odd.path)));
    }
    if let (Some(scope), Some(ours)) = (&manifest.scope, store)
        && scope.store_id != ours
    {
        let theirs = scope.store_id.clone();
        return Err(VerifyError::OtherStore { theirs, ours: ours.to_owned() });
    }
    Ok(manifest)
}

#[cfg(test)]
pub(crate) mod tests {
    use tillgate_config::bundle::{PromotionEntry, PromotionStatement, SCHEMA_VERSION, Scope};

    use super::*;
    use crate::bundle::keys::PrivateKey;

    /// A key of its own for each name.
    pub(crate) struct Signer {
        pub(crate) id: Arc<str>,
        private: PrivateKey,
        public: PublicKey,
    }

    impl Signer {
        pub(crate) fn new(id: &str) -> Self {
            use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
            use base64::Engine as _;
            let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
            let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
                .expect("a key");
            let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key");
            let public = PublicKey::read(&encode(pair.public_key().as_ref())).expect("a key");
            Self { id: id.into(), private: PrivateKey::Ed25519(pair), public }
        }

        pub(crate) fn trusted(&self, roles: &[KeyRole]) -> TrustedKey {
            let (id, key) = (Arc::clone(&self.id), self.public.clone());
            TrustedKey { id, key, roles: roles.to_vec(), approves_as: None }
        }

        pub(crate) fn sign(&self, message: &[u8]) -> SignatureEntry {
            let signature = self.private.sign(message).expect("it signs");
            SignatureEntry { key_id: self.id.to_string(), signature }
        }
    }

    /// An unsigned bundle of one file for store 0412.
    pub(crate) fn bundle(sequence: u64, text: &str) -> Archive {
        let files = [("policy/store.yaml".to_owned(), text.as_bytes().to_vec())].into();
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION.into(),
            revision: format!("main@sha1:{sequence:040}"),
            sequence,
            created_at: "2026-11-20T20:58:12Z".into(),
            scope: Some(Scope { store_id: "0412".into() }),
            min_gateway_version: "0.1.0".into(),
            files: entries(&files),
            effective_digest: None,
            compiler_version: None,
        };
        let manifest = manifest.to_text().into_bytes();
        Archive { manifest, files, ..Archive::default() }
    }

    pub(crate) fn signed(archive: &Archive, signers: &[&Signer]) -> Archive {
        let message = format::signed_bytes(&archive.manifest);
        let signatures: Vec<_> = signers.iter().map(|signer| signer.sign(&message)).collect();
        let signatures = format::signatures_text(&signatures).into_bytes();
        Archive { signatures, ..archive.clone() }
    }

    fn trust(threshold: usize, keys: Vec<TrustedKey>) -> Trust {
        Trust { threshold, keys }
    }

    #[test]
    fn signatures_count_once_by_key_and_by_role() {
        let (ann, bob, eve) = (Signer::new("ann"), Signer::new("bob"), Signer::new("eve"));
        let bundle_role = [KeyRole::Bundle];
        let two = trust(2, vec![ann.trusted(&bundle_role), bob.trusted(&bundle_role)]);
        let plain = bundle(7, "kind: Store");
        let found = |archive: &Archive| match two.verify(archive, Some("0412")) {
            Err(VerifyError::Signatures { found, .. }) => found,
            Ok(verified) => verified.signers.len(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found(&plain), 0);
        assert_eq!(found(&signed(&plain, &[&ann, &ann])), 1);
        assert_eq!(found(&signed(&plain, &[&ann, &eve])), 1);
        assert_eq!(found(&signed(&plain, &[&ann, &bob])), 2);
        let promoter = trust(1, vec![ann.trusted(&[KeyRole::RingPromotion])]);
        assert!(promoter.verify(&signed(&plain, &[&ann]), None).is_err(), "not its role");
        assert!(Trust::default().verify(&signed(&plain, &[&ann]), None).is_err(), "no key");
        let mut forged = signed(&plain, &[&ann, &bob]);
        forged.manifest.push(b' ');
        assert_eq!(found(&forged), 0);
    }

    #[test]
    fn every_byte_and_every_file_is_what_was_signed() {
        let ann = Signer::new("ann");
        let one = trust(1, vec![ann.trusted(&[KeyRole::Bundle])]);
        let good = signed(&bundle(7, "kind: Store"), &[&ann]);
        assert!(one.verify(&good, Some("0412")).is_ok());
        let why = |archive: &Archive, store| one.verify(archive, store).unwrap_err().to_string();
        let mut changed = good.clone();
        changed.files.insert("policy/store.yaml".into(), b"kind: Storf".to_vec());
        assert!(why(&changed, None).contains("other content"));
        let mut more = good.clone();
        more.files.insert("policy/more.yaml".into(), Vec::new());
        assert!(why(&more, None).contains("not listed"));
        let mut fewer = good.clone();
        fewer.files.clear();
        assert!(why(&fewer, None).contains("missing"));
        assert!(why(&good, Some("0977")).contains("store 0412, this is 0977"));
        let mut newer = bundle(7, "x");
        let text = String::from_utf8(newer.manifest).unwrap();
        newer.manifest = text.replace("\"0.1.0\"", "\"99.0.0\"").into_bytes();
        let newer = signed(&newer, &[&ann]);
        assert!(matches!(one.verify(&newer, None), Err(VerifyError::NeedsUpgrade(_))));
    }

    #[test]
    fn promotions_are_of_this_bundle_and_by_keys_that_may() {
        let (ci, bot) = (Signer::new("ci"), Signer::new("bot"));
        let keys = vec![ci.trusted(&[KeyRole::Bundle]), bot.trusted(&[KeyRole::RingPromotion])];
        let one = trust(1, keys);
        let mut archive = signed(&bundle(7, "kind: Store"), &[&ci]);
        let statement = |digest: &str, through: &str| PromotionStatement {
            digest: digest.to_owned(),
            sequence: 7,
            through: through.to_owned(),
            at: "2026-11-20T22:00:00Z".into(),
            evidence: String::new(),
        };
        let promotion = |digest: &str, through: &str| {
            let text = statement(digest, through).to_text();
            let message = format::promotion_bytes(&text);
            let signatures = vec![bot.sign(&message), ci.sign(&message)];
            PromotionEntry { statement: text, signatures }
        };
        let digest = archive.digest();
        let all = [promotion(&digest, "pilot"), promotion("sha256:other", "fleet")];
        archive.promotions = format::promotions_text(&all).into_bytes();
        let verified = one.verify(&archive, None).unwrap();
        let [found] = &verified.promotions[..] else { panic!("{:?}", verified.promotions) };
        assert_eq!(&*found.through, "pilot");
        let signers: Vec<_> = found.approvals.iter().map(|approval| &*approval.key).collect();
        assert_eq!(signers, ["bot"], "ci may not promote");
        assert_eq!(archive.digest(), digest, "a promotion does not make another bundle");
    }
}
