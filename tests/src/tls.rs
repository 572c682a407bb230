//! One certificate for the whole process, and both ends of a handshake with it.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::fixture::HOST_NAME;

struct Ends {
    certificate: String,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let certified = rcgen::generate_simple_self_signed([HOST_NAME.to_owned()]).expect("a certificate");
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a key that fits");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ends { certificate: certified.cert.pem(), server: Arc::new(server), client: Arc::new(client) }
});

/// In PEM, for whoever is to trust it.
pub fn certificate() -> &'static str {
    &ENDS.certificate
}

pub fn acceptor() -> TlsAcceptor {
    TlsAcceptor::from(ENDS.server.clone())
}

pub fn connector() -> (TlsConnector, ServerName<'static>) {
    (TlsConnector::from(ENDS.client.clone()), ServerName::try_from(HOST_NAME).expect("a name"))
}
