//! Listeners and certificates: their own, and those of the authorities that next hops are verified by.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Checker;
use crate::config::settings::{Certificate, LineEnds, Listener, ListenerTls};
use crate::config::source::Span;
use crate::config::value::At;
use crate::config::value::word::LineEndsWord;
use crate::config::written;
use crate::pipeline::Role;

impl Checker<'_> {
    pub(super) fn listeners(&mut self, written: Vec<written::Listener>, tls: &written::Tls) -> Vec<Listener> {
        if written.is_empty() {
            self.findings
                .push_error(None, "there is no [[listener]]".to_owned())
                .help("add one with `name`, `address` and `role`");
        }
        self.declared("listener", written.iter().map(|listener| &listener.name));
        self.same_address(&written);
        let default = self.certificate(tls.certificate.as_ref(), tls.key.as_ref());
        let broken = default.is_none() && (tls.certificate.is_some() || tls.key.is_some());
        written.into_iter().map(|listener| self.listener(listener, default.as_ref(), broken)).collect()
    }

    fn same_address(&mut self, written: &[written::Listener]) {
        let mut seen = std::collections::HashMap::new();
        for address in written.iter().map(|listener| &listener.address) {
            // Port 0 is a free one each time.
            if address.value.port() == 0 {
                continue;
            }
            if let Some(first) = seen.insert(address.value, address.span) {
                self.findings
                    .push_error(Some(address.span), format!("two listeners on {}", address.value))
                    .also(first, "first here");
            }
        }
    }

    /// `broken`: the default certificate could not be read, which has its own error.
    fn listener(&mut self, written: written::Listener, default: Option<&Certificate>, broken: bool) -> Listener {
        let given = broken || written.certificate.is_some() || written.key.is_some();
        let own = self.certificate(written.certificate.as_ref(), written.key.as_ref());
        let certificate = own.or_else(|| default.cloned());
        let tls = match &written.tls {
            Some(at) => at.value,
            None if certificate.is_some() || given => ListenerTls::StartTls,
            None => ListenerTls::None,
        };
        if tls != ListenerTls::None && certificate.is_none() && !given {
            self.findings
                .push_error(written.tls.as_ref().map(|at| at.span), "TLS without a certificate".to_owned())
                .help("add `certificate` and `key` to [tls] or to this listener");
        }
        let auth = self.auth(&written, tls);
        let line_ends = self.line_ends(&written);
        let networks = |list: Vec<At<_>>| list.into_iter().map(|at| at.value).collect();
        Listener {
            name: written.name.value.0,
            address: written.address.value,
            role: written.role.value,
            tls,
            certificate: certificate.filter(|_| tls != ListenerTls::None),
            auth,
            proxy_protocol_from: networks(written.proxy_protocol_from),
            xclient_from: networks(written.xclient_from),
            line_ends,
        }
    }

    /// AUTH only under TLS (RFC 4954 §4), and a submission listener never without (RFC 6409 §4.3).
    fn auth(&mut self, written: &written::Listener, tls: ListenerTls) -> bool {
        let submission = written.role.value == Role::Submission;
        let auth = written.auth.as_ref().map_or(submission, |flag| *flag.get_ref());
        let place = written.auth.as_ref().map_or(written.role.span, |flag| Span::from(flag.span()));
        if submission && !auth {
            self.findings
                .push_error(Some(place), "a submission listener without AUTH would relay for everyone".to_owned())
                .help("for clients known by their address use role = \"relay\" and [[trusted_network]]");
        } else if auth && tls == ListenerTls::None {
            self.findings
                .push_error(Some(place), "AUTH needs TLS: passwords would go over the wire in the clear".to_owned())
                .help("set `tls` to \"starttls\", \"required\" or \"implicit\", with a certificate");
        }
        auth
    }

    fn line_ends(&mut self, written: &written::Listener) -> LineEnds {
        let networks: Vec<_> = written.normalize_from.iter().map(|at| at.value).collect();
        match &written.line_ends {
            Some(at) if at.value == LineEndsWord::Normalize => {
                if written.role.value == Role::Inbound {
                    self.findings
                        .push_warning(
                            Some(at.span),
                            "strangers' bare line ends are repaired: this invites SMTP smuggling".to_owned(),
                        )
                        .help("use `normalize_from` with the networks of the clients that need it");
                }
                LineEnds::Normalize
            }
            _ if networks.is_empty() => LineEnds::Strict,
            _ => LineEnds::NormalizeFrom(networks),
        }
    }

    fn certificate(
        &mut self,
        certificate: Option<&At<std::path::PathBuf>>,
        key: Option<&At<std::path::PathBuf>>,
    ) -> Option<Certificate> {
        let (certificate_at, key_at) = match (certificate, key) {
            (None, None) => return None,
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(at), None) => {
                self.findings.error(Some(at.span), "a certificate without its `key`".to_owned());
                return None;
            }
            (None, Some(at)) => {
                self.findings.error(Some(at.span), "a key without its `certificate`".to_owned());
                return None;
            }
        };
        let certificate = self.file(certificate_at);
        let key = self.file(key_at);
        let (certificate, key) = (certificate?, key?);
        match certified_key(&certificate, &key) {
            Ok(certified_key) => {
                self.warn_of_readers(&key, key_at.span);
                Some(Certificate { certificate, key, certified_key: Arc::new(certified_key) })
            }
            Err((in_key, problem)) => {
                let at = if in_key { key_at } else { certificate_at };
                self.findings.error(Some(at.span), problem);
                None
            }
        }
    }

    /// Certificates that vouch for next hops. Each is tried, so that a running gateway never finds one it can't use.
    pub(super) fn authorities(&mut self, at: &At<std::path::PathBuf>) -> Vec<CertificateDer<'static>> {
        let Some(file) = self.file(at) else { return Vec::new() };
        let usable = certificates(&file).and_then(|authorities| {
            let mut store = RootCertStore::empty();
            authorities.iter().try_for_each(|authority| store.add(authority.clone())).map_err(|e| e.to_string())?;
            Ok(authorities)
        });
        usable.unwrap_or_else(|problem| {
            self.findings.error(Some(at.span), format!("{}: {problem}", file.display()));
            Vec::new()
        })
    }

    fn warn_of_readers(&mut self, file: &Path, span: Span) {
        use std::os::unix::fs::PermissionsExt as _;
        if std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0) {
            self.findings
                .push_warning(Some(span), format!("{} can be read by every user of this machine", file.display()))
                .help(format!("chmod o= {}", file.display()));
        }
    }
}

/// At least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

/// An error says whether it is the key's.
fn certified_key(certificate: &Path, key: &Path) -> Result<CertifiedKey, (bool, String)> {
    let no_certificate = |problem: String| (false, format!("{}: {problem}", certificate.display()));
    let no_key = |problem: String| (true, format!("{}: {problem}", key.display()));
    let chain = certificates(certificate).map_err(no_certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| no_key(error.to_string()))?;
    CertifiedKey::from_der(chain, private, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| no_key(error.to_string()))
}
