//! Instruments of TLS: how handshakes end, which files were taken, until when they are good.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Label;
use crate::tls::HandshakeEnd;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: Label,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    backend: Label,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExpiryLabels {
    side: &'static str,
    name: Label,
    index: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    side: &'static str,
    name: Label,
    result: &'static str,
}

/// Every instrument of TLS.
#[derive(Debug, Default)]
pub struct TlsMeters {
    handshakes: Family<HandshakeLabels, Counter>,
    upstream: Family<UpstreamLabels, Counter>,
    expiry: Family<ExpiryLabels, Gauge>,
    files: Family<FileLabels, Counter>,
}

impl TlsMeters {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_handshakes",
            "TLS handshakes with clients, by listener and how they ended",
            self.handshakes.clone(),
        );
        registry.register(
            "upstream_tls_handshakes",
            "completed TLS handshakes with servers, by backend; the others are failed dials",
            self.upstream.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "Unix time at which the first certificate of a chain in use ends, by place in policy",
            Unit::Seconds,
            self.expiry.clone(),
        );
        registry.register(
            "tls_file_reloads",
            "changed certificate files that were taken (accepted) or not (refused)",
            self.files.clone(),
        );
    }

    /// Handles for handshakes with the clients of one listener.
    pub(crate) fn listener(&self, listener: &Label) -> TlsListenerMeter {
        let ends = HandshakeEnd::ALL.map(|end| {
            let (listener, result) = (Arc::clone(listener), end.label());
            self.handshakes.get_or_create_owned(&HandshakeLabels { listener, result })
        });
        TlsListenerMeter { listener: Arc::clone(listener), ends }
    }

    /// Full and resumed handshakes with the servers of one backend.
    pub(crate) fn backend(&self, backend: &Label) -> (Counter, Counter) {
        let counter = |result| {
            let backend = Arc::clone(backend);
            self.upstream.get_or_create_owned(&UpstreamLabels { backend, result })
        };
        (counter("full"), counter("resumed"))
    }

    /// Handles for the files of one listener.
    pub(crate) fn listener_files(&self, name: &Label) -> TlsFileMeter {
        self.of_files("listener", name)
    }

    /// Handles for the files of one backend.
    pub(crate) fn backend_files(&self, name: &Label) -> TlsFileMeter {
        self.of_files("backend", name)
    }

    fn of_files(&self, side: &'static str, name: &Label) -> TlsFileMeter {
        let counter = |result| {
            let name = Arc::clone(name);
            self.files.get_or_create_owned(&FileLabels { side, name, result })
        };
        TlsFileMeter {
            owner: format!("{side} {name}"),
            accepted: counter("accepted"),
            refused: counter("refused"),
            expiry: self.expiry.clone(),
            side,
            name: Arc::clone(name),
        }
    }
}

/// Counts the handshakes of one listener.
#[derive(Debug)]
pub(crate) struct TlsListenerMeter {
    pub(crate) listener: Label,
    ends: [Counter; HandshakeEnd::ALL.len()],
}

impl TlsListenerMeter {
    /// Counts one handshake.
    pub(crate) fn ended(&self, end: HandshakeEnd) {
        self.ends[end as usize].inc();
    }
}

/// What is known of the files of one listener or backend.
#[derive(Debug)]
pub(crate) struct TlsFileMeter {
    /// As `listener https`, for logs and errors.
    pub(crate) owner: String,
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    expiry: Family<ExpiryLabels, Gauge>,
    side: &'static str,
    name: Label,
}

impl TlsFileMeter {
    /// Shows until when the chain at `index` in policy is good. Not a hot path.
    pub(crate) fn valid_until(&self, index: usize, end: Option<SystemTime>) {
        let Some(end) = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()) else {
            return;
        };
        let gauge = self.expiry.get_or_create_owned(&self.labels(index));
        gauge.set(i64::try_from(end.as_secs()).unwrap_or(i64::MAX));
    }

    fn labels(&self, index: usize) -> ExpiryLabels {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        ExpiryLabels { side: self.side, name: Arc::clone(&self.name), index }
    }
}

impl Drop for TlsFileMeter {
    /// What is no longer in use must not raise an alarm; whoever else shows the same, shows it
    /// again within seconds.
    fn drop(&mut self) {
        let mut index = 0;
        while self.expiry.remove(&self.labels(index)) {
            index += 1;
        }
    }
}
