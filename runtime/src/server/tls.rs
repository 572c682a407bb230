//! TLS for the listeners (rustls over aws-lc), with certificates that can be renewed while they run.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::certificate::Facts;
use crate::config::settings::{Listener, Settings};
use crate::metrics::Metrics;

/// The certificate of a listener; handshakes that begin after it was replaced get the new one.
struct Current(ArcSwap<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The certificates of all listeners, by the listeners' names.
#[derive(Default)]
pub struct Certificates(HashMap<Arc<str>, Arc<Current>>);

impl Certificates {
    pub fn new(settings: &Settings) -> Self {
        let current = |listener: &Listener| {
            let certificate = listener.certificate.as_ref()?;
            Some((listener.name.clone(), Arc::new(Current(ArcSwap::new(certificate.certified_key.clone())))))
        };
        Self(settings.listeners.iter().filter_map(current).collect())
    }

    /// Each listener has an acceptor of its own, so a session ticket of one is worth nothing at another. `None`: it has no
    /// certificate.
    pub fn acceptor(&self, listener: &str) -> Result<Option<TlsAcceptor>, rustls::Error> {
        let Some(current) = self.0.get(listener) else { return Ok(None) };
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// Why the new ones must not take the place of those in force: one has expired, where the one it would replace has not.
    pub fn refuse(&self, settings: &Settings, now: Timestamp) -> Option<String> {
        let expires = |key: &CertifiedKey| Some(Facts::read(key.cert.first()?)?.expires);
        settings.listeners.iter().find_map(|listener| {
            let (current, new) = (self.0.get(&listener.name)?, listener.certificate.as_ref()?);
            let ended = expires(&new.certified_key).filter(|ends| *ends <= now)?;
            expires(&current.0.load()).filter(|ends| *ends > now)?;
            let (file, name) = (new.certificate.display(), &listener.name);
            Some(format!("{file}: the certificate for listener {name} has expired ({ended}), the one in force has not"))
        })
    }

    /// Until when each is good, in seconds since 1970; 0: that can't be read.
    pub fn tell(&self, metrics: &Metrics) {
        for (listener, current) in &self.0 {
            let facts = current.0.load().cert.first().and_then(|own| Facts::read(own));
            let expires = facts.map_or(0, |facts| facts.expires.as_second());
            metrics.certificate_expiry.with_label_values(&[listener]).set(expires);
        }
    }

    /// Renews those of the listeners that have had one from the start.
    pub fn replace(&self, settings: &Settings) {
        for listener in &settings.listeners {
            if let (Some(current), Some(certificate)) = (self.0.get(&listener.name), &listener.certificate) {
                current.0.store(certificate.certified_key.clone());
            }
        }
    }
}
