//! WebSocket through a proxy: asked for by `Upgrade` (HTTP/1.1) or by extended CONNECT (HTTP/2,
//! RFC 8441), passed on in the words of the server's HTTP, answered as it was asked.
//!
//! Here are the heads alone; the bytes of the tunnel are nobody's business. HTTP/2 has no key: for
//! a client that has none one is made here and the server's proof for it is checked here, for a
//! server that knows none the proof is made here. Between two parties of HTTP/1.1 both pass
//! through.

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::client::Wire;
use super::headers;

mod proof;

pub use proof::accept;

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
    /// What a server of HTTP/1.1 is to prove that it understood.
    key: Option<HeaderValue>,
    /// How the client asked.
    by: Wire,
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
        return Ask::WebSocket(WebSocket { client, key: Some(proof::key()), by: Wire::Http2 });
    }
    if request.method == Method::CONNECT || request.version != Version::HTTP_11 {
        return Ask::Answer;
    }
    let Some(token) = headers::wanted_upgrade(request) else { return Ask::Answer };
    if !token.eq_ignore_ascii_case("websocket") || request.method != Method::GET {
        return Ask::Other(token.to_owned());
    }
    match request.extensions.remove::<OnUpgrade>() {
        Some(client) => {
            let key = request.headers.get(SEC_WEBSOCKET_KEY).cloned();
            Ask::WebSocket(WebSocket { client, key, by: Wire::Http1 })
        }
        None => Ask::Answer,
    }
}

impl WebSocket {
    /// Makes a head that was prepared for a server that speaks `wire` ask for a WebSocket.
    pub fn ask(&self, request: &mut Parts, wire: Wire) {
        let headers = &mut request.headers;
        match wire {
            Wire::Http1 => {
                headers.insert(CONNECTION, CONNECTION_UPGRADE);
                headers.insert(UPGRADE, WEBSOCKET);
                if let Some(key) = &self.key {
                    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
                }
            }
            Wire::Http2 => {
                headers.remove(SEC_WEBSOCKET_KEY);
                request.method = Method::CONNECT;
                request.extensions.insert(Protocol::from_static("websocket"));
            }
        }
        if self.by == Wire::Http2 {
            let version = HeaderValue::from_static("13");
            headers.entry("sec-websocket-version").or_insert(version);
        }
    }

    /// Takes back what [`Self::ask`] said, so that the head can be asked of another server.
    pub fn take_back(request: &mut Parts) {
        request.method = Method::GET;
        request.extensions.remove::<Protocol>();
        for name in [CONNECTION, UPGRADE] {
            request.headers.remove(name);
        }
    }

    /// Whether the server has agreed; to be asked before its head is prepared for the client.
    pub fn is_granted(&self, answer: &http::response::Parts) -> bool {
        if answer.version == Version::HTTP_2 {
            return answer.status.is_success();
        }
        let named = answer.headers.get(UPGRADE);
        // Between two parties of HTTP/1.1 it is the client that checks.
        let proven = self.by == Wire::Http1
            || self.key.as_ref().is_some_and(|key| {
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
        match self.by {
            Wire::Http2 => {
                answer.status = StatusCode::OK;
                answer.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
            Wire::Http1 => {
                // A server of HTTP/2 has no proof to give.
                if answer.status != StatusCode::SWITCHING_PROTOCOLS
                    && let Some(key) = &self.key
                    && let Ok(proof) = HeaderValue::try_from(proof::accept(key.as_bytes()))
                {
                    answer.headers.insert(SEC_WEBSOCKET_ACCEPT, proof);
                }
                answer.status = StatusCode::SWITCHING_PROTOCOLS;
                answer.headers.insert(CONNECTION, CONNECTION_UPGRADE);
                answer.headers.insert(UPGRADE, WEBSOCKET);
            }
        }
        self.client
    }
}
