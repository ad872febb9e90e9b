//! A client of our own small errands (telemetry, policy) to one server, on one kept-alive
//! connection.
//!
//! It is a client like others on the line: its connection has a class and is shaped. What fails
//! is the caller's to try again; the next message finds a fresh connection.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::shaped::LineWait;
use crate::tls::{Refusal, unless_late};
use crate::upstream::Upstream;

/// Bytes of an answer that are read, so that the connection can be used again.
const ANSWER_MAX: usize = 64 * 1024;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// The answer did not end.
    #[error("the answer breaks off, or is longer than it may be")]
    Answer,
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// A connection to post on.
#[derive(Debug)]
pub struct Post {
    sender: SendRequest<Full<Bytes>>,
    /// The line that it waits for, if it crosses one.
    line: Option<LineWait>,
    /// Whether the server refuses our certificate, if it is one of TLS.
    refusal: Option<Refusal>,
}

impl Post {
    /// Begins to speak HTTP/1.1 on `stream`; its task runs on this runtime.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub async fn begin(stream: Upstream) -> Result<Self, PostError> {
        let (line, refusal) = (stream.line_wait(), stream.refusal());
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever sends learns of it.
            let _ = connection.await;
        });
        Ok(Self { sender, line, refusal })
    }

    /// Whether another message can be sent.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Whether the server has ended it because of our certificate, or its absence.
    pub fn is_refused(&self) -> bool {
        self.refusal.as_ref().is_some_and(Refusal::is_known)
    }

    /// Sends one message and waits for its answer; what it waits for its line does not count.
    ///
    /// # Errors
    /// [`PostError`]; the connection is not to be used again then.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<StatusCode, PostError> {
        self.ask(request, timeout, ANSWER_MAX).await.map(|answer| answer.status())
    }

    /// Sends one message and reads its answer, of at most so many bytes; what it waits for its
    /// line does not count.
    ///
    /// # Errors
    /// [`PostError`]; the connection is not to be used again then.
    pub async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, PostError> {
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let rest = Limited::new(body, bytes_max).collect().await;
            let rest = rest.map_err(|_| PostError::Answer)?;
            Ok(Response::from_parts(head, rest.to_bytes()))
        };
        let done = unless_late(exchange, timeout, self.line.as_ref()).await;
        done.unwrap_or(Err(PostError::TimedOut(timeout)))
    }
}
