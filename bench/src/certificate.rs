//! The lab's own certificate authority: TLS between the store's devices, the proxy and the cloud.
//!
//! Made once for each start of the program, never stored but as files for a proxy under test. Both
//! ends check it like any other: a measurement with TLS does all the work that TLS is.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::origin::Service;

/// One certificate for all names of the lab, and who trusts it.
pub struct Certificate {
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The servers' certificate, in PEM.
    pub chain: String,
    /// Its key, in PEM.
    pub key: String,
    /// For the origins.
    pub server: Arc<ServerConfig>,
    /// For the devices.
    pub client: Arc<ClientConfig>,
}

impl Certificate {
    /// The one of this program.
    pub fn of_the_lab() -> Result<&'static Self> {
        static MADE: OnceLock<Certificate> = OnceLock::new();
        if let Some(made) = MADE.get() {
            return Ok(made);
        }
        let made = Self::make().context("make the lab's certificate")?;
        Ok(MADE.get_or_init(|| made))
    }

    fn make() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let names = Service::ALL.map(|service| service.host().to_owned());
        let key = KeyPair::generate()?;
        let chain = CertificateParams::new(names.to_vec())?.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { authority, chain, key, server: Arc::new(server), client: Arc::new(client) })
    }
}
