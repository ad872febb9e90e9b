//! Where a try for a WebSocket goes: HTTP/2 has two ways to ask for one, and a server may take
//! neither.
//!
//! In: how requests reach a server of HTTP/2. Out: the same, or its HTTP/1.1.

use std::sync::Arc;

use tillgate_core::failover::Choice;
use tillgate_net::http::client::Target;
use tillgate_net::http::head::{HeadLimits, until_head};
use tillgate_net::http::server::InFlight;

use super::Tries;
use crate::problem::Refusal;

impl Tries<'_> {
    /// How a server of HTTP/2 is asked for a WebSocket: on a stream if it takes that, else over
    /// HTTP/1.1, which most of them speak as well.
    pub(super) async fn socket_target(
        &self,
        at: Choice,
        target: Arc<Target>,
        flow: &InFlight,
    ) -> Result<Arc<Target>, Refusal> {
        let pool = self.worker.pool(self.running.location(self.plan().backend(at)));
        let asks = pool.takes_sockets(&target, flow);
        let limits = HeadLimits { request: self.timeouts.request, backend_request: None };
        Ok(match until_head(asks, limits, flow, None).await? {
            Ok(false) => Arc::new(target.over_http1()),
            // Where there is no connection the try itself finds out why.
            Ok(true) | Err(_) => target,
        })
    }
}
