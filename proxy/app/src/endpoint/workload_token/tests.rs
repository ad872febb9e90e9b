//! Tokens made here, with keys made here: what counts, and why the rest does not.

use std::sync::LazyLock;

use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tillgate_core::endpoint::service_accounts::AccountSpec;

use super::*;

const NOW: u64 = 1_795_208_700;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const UID: &str = "2c9e8b1a-5a3f-4a52-9a7e-0f6f2d1b7c44";

/// A key of a cluster.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
}

static RSA: LazyLock<Signer> = LazyLock::new(|| {
    let size = rcgen::RsaKeySize::_2048;
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
    // PKCS#8 of this size is 26 bytes around PKCS#1.
    let private = EncodingKey::from_rsa_der(&key.serialize_der()[26..]);
    Signer { id: "rsa", algorithm: Algorithm::RS256, private }
});
static EC: LazyLock<Signer> = LazyLock::new(|| ec("ec"));

fn ec(id: &'static str) -> Signer {
    let private = EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der());
    Signer { id, algorithm: Algorithm::ES256, private }
}

impl Signer {
    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(self.algorithm, self.id, claims)
    }

    fn sign_as(&self, algorithm: Algorithm, id: &str, claims: &Value) -> String {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }
}

/// As the API server writes them.
fn claims() -> Value {
    json!({
        "aud": ["tillgate"],
        "exp": NOW + 3600,
        "iat": NOW,
        "iss": ISSUER,
        "jti": "7d3f1c52-1f5a-4f2e-8f0c-2a86d1d7e0b9",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "till-1", "uid": UID},
            "pod": {"name": "basket-5d8f-x2k", "uid": UID},
            "serviceaccount": {"name": "basket", "uid": UID},
        },
        "nbf": NOW,
        "sub": "system:serviceaccount:shop:basket",
    })
}

/// The same, with another value there.
fn but(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

fn without(parent: &str, name: &str) -> Value {
    let mut claims = claims();
    claims.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn keys(jwks: &[Value]) -> Result<Keys, KeysError> {
    Keys::parse(json!({ "keys": jwks }).to_string().as_bytes())
}

fn verifier() -> Verifier {
    let spec = ServiceAccountsSpec {
        issuer: ISSUER.into(),
        audience: "tillgate".into(),
        jwks_file: std::path::Path::new("/jwks.json").into(),
        jwks_url: None,
        accounts: Vec::new(),
    };
    Verifier { spec, keys: keys(&[RSA.jwk(), EC.jwk()]).unwrap() }
}

const KEPT: Shown = Shown { state: ClockState::Synced, wall: NOW, floor: NOW - 3600 };

fn verify(token: &str) -> Result<Identity, Refusal> {
    verifier().verify(token.as_bytes(), KEPT)
}

fn status(why: Refusal) -> StatusCode {
    Problem::from(why).into_response().status()
}

/// What base64 makes of it, without a signature.
fn parts(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

#[test]
fn a_pods_token_says_what_its_sidecar_stands_beside() {
    let basket = Identity {
        id: "pod_shop.basket-5d8f-x2k".into(),
        workload: Some("shop/basket".into()),
        account: Some("shop/basket".into()),
    };
    for signer in [&*RSA, &*EC] {
        assert_eq!(verify(&signer.sign(&claims())).as_ref(), Ok(&basket), "{}", signer.id);
    }
    // The audience may be a text, and one of several.
    for audience in [json!("tillgate"), json!(["vault", "tillgate"])] {
        assert_eq!(verify(&EC.sign(&but("/aud", audience))).as_ref(), Ok(&basket));
    }
    let uid = format!("pod_shop..{UID}");
    let long = but("/kubernetes.io/pod/name", json!("p".repeat(253)));
    assert_eq!(*verify(&EC.sign(&long)).unwrap().id, uid);
}

#[test]
fn what_is_not_for_this_store_has_one_reason() {
    for (claims, why) in [
        (but("/aud", json!(["https://kubernetes.default.svc"])), Refusal::Audience),
        (but("/aud", json!("tillgate2")), Refusal::Audience),
        (but("/aud", json!([])), Refusal::Audience),
        (but("/aud", json!(null)), Refusal::Malformed),
        (without("", "aud"), Refusal::Malformed),
        (but("/iss", json!("https://another")), Refusal::Issuer),
        (without("", "iss"), Refusal::Malformed),
        (without("", "exp"), Refusal::Malformed),
        (but("/exp", json!("never")), Refusal::Malformed),
        (but("/exp", json!(-1)), Refusal::Malformed),
        (but("/nbf", json!("long ago")), Refusal::Malformed),
        (without("", "kubernetes.io"), Refusal::Malformed),
        (without("/kubernetes.io", "pod"), Refusal::NoPod),
        (but("/kubernetes.io/namespace", json!("../shop")), Refusal::Malformed),
        (but("/kubernetes.io/serviceaccount/name", json!("a/b")), Refusal::Malformed),
        (but("/kubernetes.io/pod", json!({"name": "a b", "uid": ""})), Refusal::Malformed),
    ] {
        for signer in [&*RSA, &*EC] {
            assert_eq!(verify(&signer.sign(&claims)), Err(why), "{claims}");
        }
    }
}

#[test]
fn time_is_judged_by_a_clock_that_is_believed() {
    let token = EC.sign(&claims());
    let at = |state, wall, floor| verifier().verify(token.as_bytes(), Shown { state, wall, floor });
    let (begin, end) = (NOW, NOW + 3600);
    for state in [ClockState::Synced, ClockState::Holdover] {
        for good in [begin - LEEWAY, begin, end, end + LEEWAY] {
            assert!(at(state, good, 0).is_ok(), "{good}");
        }
        assert_eq!(at(state, begin - LEEWAY - 1, 0), Err(Refusal::Early));
        assert_eq!(at(state, end + LEEWAY + 1, 0), Err(Refusal::Expired));
    }
    for wall in [0, begin, end + 86_400] {
        assert_eq!(at(ClockState::Untrusted, wall, begin), Err(Refusal::Clock), "{wall}");
    }
    // That it has expired is certain all the same.
    assert_eq!(at(ClockState::Untrusted, begin, end + LEEWAY + 1), Err(Refusal::Expired));
    assert_eq!(status(Refusal::Clock), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_key_checks_what_it_is_for_and_nothing_else() {
    let claims = claims();
    let stranger = ec("ec");
    assert_eq!(verify(&stranger.sign(&claims)), Err(Refusal::Signature));
    assert_eq!(verify(&ec("other").sign(&claims)), Err(Refusal::UnknownKey));
    let nameless = encode(&Header::new(Algorithm::ES256), &claims, &EC.private).unwrap();
    assert_eq!(verify(&nameless), Err(Refusal::UnknownKey));
    // The algorithm of a key of another kind, and another one of the same kind.
    assert_eq!(verify(&EC.sign_as(Algorithm::ES256, "rsa", &claims)), Err(Refusal::Algorithm));
    assert_eq!(verify(&RSA.sign_as(Algorithm::RS256, "ec", &claims)), Err(Refusal::Algorithm));
    assert_eq!(verify(&RSA.sign_as(Algorithm::PS256, "rsa", &claims)), Err(Refusal::Algorithm));
    // What is public is nobody's secret: not as it is written, and not as it is.
    for signer in [&*RSA, &*EC] {
        let jwk = signer.jwk();
        let public = jwk.get("n").or(jwk.get("x")).unwrap().as_str().unwrap();
        let raw = BASE64_URL_SAFE_NO_PAD.decode(public).unwrap();
        for secret in [jwk.to_string().as_bytes(), public.as_bytes(), &raw] {
            let private = EncodingKey::from_secret(secret);
            let forged = Signer { id: signer.id, algorithm: Algorithm::HS256, private };
            assert_eq!(verify(&forged.sign(&claims)), Err(Refusal::Algorithm));
        }
    }
    for none in ["none", "None", "NONE", ""] {
        let parts = parts(&json!({"alg": none, "kid": "ec"}), &claims);
        let signature = EC.sign(&claims).rsplit_once('.').unwrap().1.to_owned();
        for signature in [String::new(), signature] {
            assert_eq!(verify(&format!("{parts}.{signature}")), Err(Refusal::Malformed), "{none}");
        }
    }
}

#[test]
fn what_is_no_token_is_refused_and_breaks_nothing() {
    let long = but("/jti", json!("x".repeat(TOKEN_BYTES_MAX)));
    assert_eq!(verify(&EC.sign(&long)), Err(Refusal::TooLong));
    for garbage in ["", ".", "..", "a.b.c", "a.b.c.d", "ключ.ключ.ключ", "\u{0}.\u{0}."]
    {
        assert_eq!(verify(garbage), Err(Refusal::Malformed), "{garbage:?}");
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let deep = BASE64_URL_SAFE_NO_PAD.encode(deep);
    assert_eq!(verify(&format!("{deep}.{deep}.a")), Err(Refusal::TooLong));
    assert_eq!(verify(&format!("{}..a", &deep[..4000])), Err(Refusal::Malformed));
    let good = EC.sign(&claims());
    for at in 0..good.len() {
        assert!(verify(&good[..at]).is_err(), "cut at {at}");
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        // The last letter has bits that mean nothing.
        let changed = verifier().verify(&bytes, KEPT);
        assert!(changed.is_err() || at == good.len() - 1, "changed at {at}");
        bytes[at] = 0xff;
        assert!(verifier().verify(&bytes, KEPT).is_err(), "no text at {at}");
    }
}

#[test]
fn a_policy_may_name_the_accounts_and_their_workloads() {
    let account =
        |name: &str, workload: &str| AccountSpec { name: name.into(), workload: workload.into() };
    let mut verifier = verifier();
    let token = EC.sign(&claims());
    verifier.spec.accounts = vec![account("shop/basket", "shop/checkout")];
    let admitted = verifier.verify(token.as_bytes(), KEPT).unwrap();
    assert_eq!(admitted.workload.as_deref(), Some("shop/checkout"));
    verifier.spec.accounts = vec![account("shop/other", "shop/basket")];
    assert_eq!(verifier.verify(token.as_bytes(), KEPT), Err(Refusal::Account));
    assert_eq!(status(Refusal::Account), StatusCode::FORBIDDEN);
    assert_eq!(status(Refusal::Audience), StatusCode::UNAUTHORIZED);
}

#[test]
fn keys_that_cannot_check_a_token_are_passed_over() {
    let change = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let rsa = RSA.jwk();
    let odd = [
        json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}),
        json!({"kty": "AKP", "kid": "new", "alg": "ML-DSA-65", "pub": "AAAA"}),
        json!({"kty": "EC", "kid": "curve", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!("no key"),
        change(rsa.clone(), "use", json!("enc")),
        change(rsa.clone(), "alg", json!("HS256")),
        change(rsa.clone(), "alg", json!("ES256")),
        change(rsa.clone(), "alg", json!("RSA-OAEP")),
        change(rsa.clone(), "n", json!("!!")),
        change(rsa.clone(), "kid", json!(null)),
    ];
    assert!(matches!(keys(&odd), Err(KeysError::NoKey)));
    let mut with = odd.to_vec();
    with.push(EC.jwk());
    let known = keys(&with).unwrap();
    assert!(known.find("ec").is_some());
    for id in ["oct", "new", "curve", "rsa", ""] {
        assert!(known.find(id).is_none(), "{id}");
    }
    // Without `alg` a key is for what its kind is used for most.
    let silent = change(rsa.clone(), "alg", json!(null));
    assert_eq!(keys(&[silent]).unwrap().find("rsa").unwrap().algorithm, Algorithm::RS256);
    let said = change(rsa.clone(), "alg", json!("PS512"));
    assert_eq!(keys(&[said]).unwrap().find("rsa").unwrap().algorithm, Algorithm::PS512);
    assert!(matches!(keys(&[rsa.clone(), rsa.clone()]), Err(KeysError::Twice(_))));
    assert!(matches!(keys(&vec![rsa; 33]), Err(KeysError::TooMany(33))));
    for text in ["", "{", "[]", "{}", "{\"keys\": 1}", "<html>"] {
        assert!(matches!(Keys::parse(text.as_bytes()), Err(KeysError::Json(_))), "{text}");
    }
}

#[test]
fn a_file_with_other_keys_is_another_verifier() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = ServiceAccountsSpec { jwks_file: file.path().into(), ..verifier().spec };
    let write = |jwks: &[Value]| {
        std::fs::write(file.path(), json!({ "keys": jwks }).to_string()).unwrap();
    };
    assert!(Verifier::read(&spec).is_err(), "it is empty");
    write(&[EC.jwk()]);
    let before = Verifier::read(&spec).unwrap();
    assert_eq!(Verifier::read(&spec).unwrap(), before);
    let next = ec("next");
    let token = next.sign(&claims());
    assert_eq!(before.verify(token.as_bytes(), KEPT), Err(Refusal::UnknownKey));
    write(&[EC.jwk(), next.jwk()]);
    let after = Verifier::read(&spec).unwrap();
    assert_ne!(before, after);
    assert!(after.verify(token.as_bytes(), KEPT).is_ok());
    assert!(after.verify(EC.sign(&claims()).as_bytes(), KEPT).is_ok(), "both count meanwhile");
    std::fs::File::create(file.path()).unwrap().set_len(1 << 30).unwrap();
    let error = crate::send::explain(&Verifier::read(&spec).unwrap_err());
    assert!(error.contains("more than 65536 bytes") && error.contains("kubectl"), "{error}");
}

#[test]
fn nothing_of_a_token_is_told() {
    let token = EC.sign(&but("/iss", json!("https://twin.example")));
    let told = verify(&token).unwrap_err();
    for part in token.split('.').chain(["twin", "basket", "shop"]) {
        assert!(!told.to_string().contains(part), "{told}");
    }
}
