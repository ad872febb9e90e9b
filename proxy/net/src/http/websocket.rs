//! WebSocket through a proxy: asked for by `Upgrade` (HTTP/1.1) or by extended CONNECT (HTTP/2,
//! RFC 8441), always passed on as an `Upgrade`, answered as it was asked.
//!
//! Here are the heads alone; the bytes of the tunnel are nobody's business. A client of HTTP/2
//! has no key, so one is made here and the server's proof for it is checked here; between two
//! parties of HTTP/1.1 key and proof pass through.

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::headers;

mod proof;

pub use proof::accept;
pub(crate) use proof::base64;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const CONNECTION_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// What a request asks of its connection.
#[derive(Debug)]
pub enum Ask {
    /// Nothing: an answer and no more.
    Answer,
    /// To become a WebSocket.
    WebSocket(WebSocket),
    /// To become something else.
    Other(String),
}

/// A request to become a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    client: OnUpgrade,
    /// Made here, for a client of HTTP/2.
    key: Option<HeaderValue>,
}

/// Takes out of `request` what it asks of its connection. A request by extended CONNECT is an
/// ordinary GET afterwards, as rules and servers know it. CONNECT itself is left as it is.
pub fn asked(request: &mut Parts) -> Ask {
    if request.extensions.is_empty() {
        return Ask::Answer;
    }
    if let Some(protocol) = request.extensions.remove::<Protocol>() {
        let Some(client) = request.extensions.remove::<OnUpgrade>() else { return Ask::Answer };
        request.method = Method::GET;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Ask::Other(protocol.as_str().to_owned());
        }
        return Ask::WebSocket(WebSocket { client, key: Some(proof::key()) });
    }
    if request.method == Method::CONNECT || request.version != Version::HTTP_11 {
        return Ask::Answer;
    }
    let Some(token) = headers::wanted_upgrade(request) else { return Ask::Answer };
    if !token.eq_ignore_ascii_case("websocket") || request.method != Method::GET {
        return Ask::Other(token.to_owned());
    }
    match request.extensions.remove::<OnUpgrade>() {
        Some(client) => Ask::WebSocket(WebSocket { client, key: None }),
        None => Ask::Answer,
    }
}

impl WebSocket {
    /// Makes a head that was prepared for a server of HTTP/1.1 ask for the upgrade.
    pub fn ask(&self, request: &mut Parts) {
        request.headers.insert(CONNECTION, CONNECTION_UPGRADE);
        request.headers.insert(UPGRADE, WEBSOCKET);
        if let Some(key) = &self.key {
            request.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
            let version = HeaderValue::from_static("13");
            request.headers.entry("sec-websocket-version").or_insert(version);
        }
    }

    /// Whether the server has agreed; to be asked before its head is prepared for the client.
    pub fn is_granted(&self, answer: &http::response::Parts) -> bool {
        let named = answer.headers.get(UPGRADE);
        let proven = self.key.as_ref().is_none_or(|key| {
            answer.headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|got| proof::fits(key, got))
        });
        answer.status == StatusCode::SWITCHING_PROTOCOLS
            && named.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && proven
    }

    /// Says yes in the client's words, after the head was prepared for it. What becomes of its
    /// connection is returned.
    pub fn grant(self, answer: &mut http::response::Parts) -> OnUpgrade {
        answer.headers.remove(CONTENT_LENGTH);
        if self.key.is_some() {
            answer.status = StatusCode::OK;
            answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            answer.headers.insert(CONNECTION, CONNECTION_UPGRADE);
            answer.headers.insert(UPGRADE, WEBSOCKET);
        }
        self.client
    }
}
