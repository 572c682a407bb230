//! TLS for the listeners (rustls over aws-lc).

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::TlsAcceptor;

/// Each listener has an acceptor of its own, so a session ticket of one is worth nothing at another.
pub fn acceptor(certified_key: &Arc<CertifiedKey>) -> Result<TlsAcceptor, rustls::Error> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(certified_key))));
    Ok(TlsAcceptor::from(Arc::new(config)))
}
