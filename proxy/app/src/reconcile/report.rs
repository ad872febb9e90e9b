//! What a store tells its centre, and how it proves who says so.
//!
//! The document is the newest status and nothing but that. With a key of the store it is signed,
//! and a challenge of the centre is answered with a signature over the challenge and what runs:
//! that proves that the process which has the key is alive and says this now. It does not prove
//! that its machine is honest.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tillgate_config::bundle::{digest, place};
use tillgate_core::reconcile::{Cadence, CadenceSpec};
use tillgate_core::tls::TrustAnchors;
use tillgate_net::clock;
use tokio::sync::mpsc;

use crate::bundle::keys::PrivateKey;
use crate::gateway::Gateway;
use crate::sources::server::Server;

/// In front of a report that is signed.
const REPORT_PREFIX: &[u8] = b"tillgate-report-v1\n";

/// In front of an attestation that is signed.
const ATTESTATION_PREFIX: &[u8] = b"tillgate-attestation-v1\n";

/// How long a report may take: its line may be busy with payments.
const PATIENCE: Duration = Duration::from_secs(30);

/// A centre has little to say.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The length of a challenge.
const CHALLENGE_BYTES: usize = 32;

/// Where a store reports to.
pub(super) struct ReportSpec {
    pub(super) url: String,
    pub(super) heartbeat: Duration,
    pub(super) spread: Duration,
    pub(super) class: Arc<str>,
    pub(super) roots: TrustAnchors,
    pub(super) key: Option<PrivateKey>,
}

impl ReportSpec {
    /// The server that takes reports.
    pub(super) fn server(&self) -> Result<Server, String> {
        Server::new("reporting", &self.url, &self.class, self.roots.clone())
    }
}

/// A report that was sent, and what came of it.
pub(super) struct Sent {
    pub(super) server: Server,
    pub(super) answer: Result<http::Response<Bytes>, String>,
}

/// Who reports.
pub(super) struct Reporter {
    pub(super) cadence: Cadence,
    /// Away while a report is.
    pub(super) server: Option<Server>,
    pub(super) ends: mpsc::Sender<Sent>,
    /// Of this process.
    pub(super) boot: String,
    pub(super) challenge: Option<[u8; CHALLENGE_BYTES]>,
    pub(super) wants_detail: bool,
    /// Digest of what the last report said, without what always changes.
    pub(super) told: Option<String>,
    /// The last outcome of an operation that is in the report under way, by its number.
    pub(super) tells: u64,
}

impl Reporter {
    pub(super) fn new(
        spec: &ReportSpec,
        store: &str,
        ends: mpsc::Sender<Sent>,
    ) -> Result<Self, String> {
        let server = spec.server()?;
        let cadence = CadenceSpec { heartbeat: spec.heartbeat, spread: spec.spread };
        Ok(Self {
            cadence: Cadence::new(cadence, place("report", store), clock::now()),
            server: Some(server),
            ends,
            boot: format!("{:08x}", fastrand::u32(..)),
            challenge: None,
            wants_detail: false,
            told: None,
            tells: 0,
        })
    }

    /// Takes a challenge of the centre; what is none is passed over.
    pub(super) fn challenged(&mut self, challenge: Option<&str>) {
        let bytes = challenge.and_then(|text| STANDARD.decode(text).ok());
        self.challenge = bytes.and_then(|bytes| bytes.try_into().ok());
    }

    /// Sends `report`; what comes of it arrives at the other end of the channel.
    pub(super) fn send(&mut self, gateway: &Arc<Gateway>, spec: &ReportSpec, report: &Value) {
        let Some(mut server) = self.server.take() else { return };
        let body = report.to_string();
        let request = request(&server, spec.key.as_ref(), body);
        let (gateway, ends) = (Arc::clone(gateway), self.ends.clone());
        tokio::spawn(async move {
            let answer = match request {
                Ok(request) => {
                    server.ask(&gateway, request, PATIENCE, PATIENCE, ANSWER_BYTES_MAX).await
                }
                Err(why) => Err(why),
            };
            // The loop may have ended.
            let _ = ends.send(Sent { server, answer }).await;
        });
    }
}

fn request(
    server: &Server,
    key: Option<&PrivateKey>,
    body: String,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = server
        .request(Method::POST)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json");
    if let Some(key) = key {
        let signature = key.sign(&[REPORT_PREFIX, body.as_bytes()].concat());
        let signature = signature.map_err(|error| error.to_string())?;
        let value = HeaderValue::try_from(signature).map_err(|error| error.to_string())?;
        request = request.header("tillgate-signature", value);
    }
    request.body(Full::new(body.into())).map_err(|error| error.to_string())
}

/// The answer to a challenge: a signature over it and over what the report says.
pub(super) fn attestation(
    key: Option<&PrivateKey>,
    challenge: &[u8; CHALLENGE_BYTES],
    report: &Value,
) -> Value {
    let Some(key) = key else {
        return json!({ "error": "this store has no `reporting.keyFile`" });
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut hash = Context::new(&SHA256);
    hash.update(challenge);
    for value in [
        &report["applied"]["effectiveDigest"],
        &report["applied"]["sequence"],
        &report["bootId"],
        &report["audit"]["head"],
    ] {
        hash.update(text(value).as_bytes());
        hash.update(b"\n");
    }
    let hash = hash.finish();
    match key.sign(&[ATTESTATION_PREFIX, hash.as_ref()].concat()) {
        Ok(signature) => {
            json!({ "challenge": STANDARD.encode(challenge), "signature": signature })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// Digest of what a report says, without what is different in every one.
pub(super) fn level(report: &Value) -> String {
    let mut said = report.clone();
    if let Some(fields) = said.as_object_mut() {
        let always = ["reportSeq", "sentAt", "trigger", "audit", "attestation", "detail"];
        always.iter().for_each(|name| drop(fields.remove(*name)));
    }
    said["clock"]["lastSync"].take();
    for link in said["links"].as_array_mut().into_iter().flatten() {
        link["utilisation"].take();
    }
    digest(said.to_string().as_bytes())
}
