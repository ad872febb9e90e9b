//! What clients of one listener may ask of it, as the data plane takes it.
//!
//! Copied when a connection begins, so that nothing is looked up on the way of a request; the
//! times alone follow a reload at once.

use std::time::Duration;

use tillgate_core::units::BitRate;

/// Bounds on the clients of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, of all workers together.
    pub connections_max: usize,
    /// Of these, from one address.
    pub connections_per_client_max: usize,
    /// A head must be complete this long after its first byte.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// Bytes of a head.
    pub header_bytes_max: u32,
    /// Fields of a head.
    pub headers_max: usize,
    /// Bytes of a request's target.
    pub uri_bytes_max: usize,
    /// Streams of one HTTP/2 connection.
    pub streams_max: u32,
    /// Streams of one HTTP/2 connection that the client may reset in a while.
    pub stream_resets_max: u32,
    /// Requests at the same time, of all workers together.
    pub requests_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: Option<u64>,
    /// How fast a body of announced length must come.
    pub body_rate_min: Option<BitRate>,
    /// How long nothing of a body may come.
    pub body_timeout: Option<Duration>,
}

#[cfg(test)]
impl Limits {
    /// For one connection with one request at a time.
    pub(super) const FOR_ONE: Self = Self {
        connections_max: 1,
        connections_per_client_max: 1,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        header_bytes_max: 8192,
        headers_max: 10,
        uri_bytes_max: 8192,
        streams_max: 1,
        stream_resets_max: 1,
        requests_max: 1,
        body_bytes_max: None,
        body_rate_min: None,
        body_timeout: None,
    };
}
