//! TLS to backends, ready for use: certificates and authorities are read when a config is put in
//! effect, and kept where nothing of them changed.

use std::sync::Arc;

use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendId, BackendProtocol, BackendSpec};
use tillgate_net::tls::{Application, Connector, FileError, Tls};

/// TLS to the backends that have it.
pub(crate) struct Connectors(Vec<Option<Arc<Connector>>>);

impl Connectors {
    /// Reads the files of every backend's TLS; connectors of the config before are kept where
    /// nothing of them changed.
    ///
    /// # Errors
    /// [`FileError`] names the backend, the file and what to do.
    pub(crate) fn new(effective: &Effective, tls: &Tls) -> Result<Self, FileError> {
        let one = |backend: &BackendSpec| {
            let Some(spec) = &backend.tls else { return Ok(None) };
            let application = match backend.protocol {
                BackendProtocol::Http => Application::Http1,
                BackendProtocol::Http2 | BackendProtocol::Grpc => Application::Http2,
                BackendProtocol::Tcp | BackendProtocol::Udp => Application::Bytes,
            };
            tls.connector(&backend.name, spec, application).map(Some)
        };
        effective.backends.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// TLS to the servers of `backend`, if it has it.
    pub(crate) fn of(&self, backend: BackendId) -> Option<Arc<Connector>> {
        self.0.get(usize::from(backend.0))?.clone()
    }
}
