//! TLS towards next hops: with the certificate verified, or with any (RFC 7435: better than none).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::Settings;
use super::channel::Wire;
use super::failure::Failure;

/// A root certificate in config that is none, or a build without usable ciphers.
#[derive(Debug, thiserror::Error)]
#[error("TLS towards next hops can't be set up: {0}")]
pub struct TlsSetupError(#[from] rustls::Error);

pub(super) struct Connectors {
    verified: TlsConnector,
    /// Sessions of one are never resumed by the other: each has its own store.
    any: TlsConnector,
}

impl Connectors {
    pub(super) fn new(settings: &Settings) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in &settings.extra_roots {
            roots.add(root.clone())?;
        }
        let verified = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let any = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.signature_verification_algorithms)))
            .with_no_client_auth();
        Ok(Self { verified: TlsConnector::from(Arc::new(verified)), any: TlsConnector::from(Arc::new(any)) })
    }

    /// The deadline is the caller's.
    pub(super) async fn handshake(&self, wire: Wire, name: &str, verify: bool) -> Result<Wire, Failure> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Failure::Tls(format!("no certificate can be for the name {name}")))?;
        let connector = if verify { &self.verified } else { &self.any };
        match connector.connect(name, wire).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Failure::Tls(error.to_string())),
        }
    }
}

/// Takes every certificate, but the server must hold its key: who only listens stays outside.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
