//! The handshake's proof that the other side knows WebSocket (RFC 6455 section 4.2.2): SHA-1 of
//! the key and a fixed text, in base64. It protects nobody from anything but mistakes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// RFC 6455 section 1.3.
const FIXED: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A new key: 16 bytes of chance in base64.
pub(super) fn key() -> HeaderValue {
    let bytes = fastrand::u128(..).to_ne_bytes();
    let never = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA==");
    HeaderValue::try_from(STANDARD.encode(bytes)).unwrap_or(never)
}

/// Whether `proof` is the one for `key`.
pub(super) fn fits(key: &HeaderValue, proof: &HeaderValue) -> bool {
    accept(key.as_bytes()).as_bytes() == proof.as_bytes()
}

/// The proof that a server gives for `key`.
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, FIXED].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_fits() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(fits(&key, &HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!fits(&key, &HeaderValue::from_static("t3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert_eq!(super::key().len(), 24);
    }
}
