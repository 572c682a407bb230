//! Certificates of the listeners, and who can read what is secret.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::deep::Report;
use crate::cli::terminal::span;
use crate::config::Settings;
use crate::config::settings::{Certificate, Listener};
use crate::server::certificate::Facts;

/// A certificate that ends sooner is a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

pub(super) fn check(settings: &Settings, now: Timestamp, report: &mut Report<'_>) {
    let host_name = settings.server.host_name.to_string();
    let mut seen = HashSet::new();
    for listener in &settings.listeners {
        let Some(certificate) = &listener.certificate else { continue };
        if seen.insert(certificate.certificate.clone()) {
            one(listener, certificate, &host_name, now, report);
        }
        if seen.insert(certificate.key.clone()) && mode_of(&certificate.key).is_some_and(|mode| mode & 0o022 != 0) {
            let message = format!("{} can be changed by others than its owner", certificate.key.display());
            let at = place(listener, "key", report);
            report.error(at, message, "chmod go-w, or better go=");
        }
    }
}

/// The listener's own key, or that of `[tls]`.
fn place<'l>(listener: &'l Listener, key: &'static str, report: &Report<'_>) -> (&'static str, &'l str, &'static str) {
    if report.is_written("listener", &listener.name, key) {
        ("listener", &listener.name, key)
    } else {
        ("tls", "", key)
    }
}

fn one(listener: &Listener, certificate: &Certificate, host_name: &str, now: Timestamp, report: &mut Report<'_>) {
    let at = place(listener, "certificate", report);
    let file = certificate.certificate.display();
    let chain: Vec<Option<Facts>> = certificate.certified_key.cert.iter().map(|der| Facts::read(der)).collect();
    let Some(Some(own)) = chain.first() else {
        return report.warning(at, format!("{file}: the certificate can't be read"), "");
    };
    if own.expires <= now {
        report.error(at, format!("{file}: expired {} ago", span(now, own.expires)), "renew it, then `postern reload`");
    } else if now.checked_add(SOON).is_ok_and(|soon| own.expires < soon) {
        report.warning(at, format!("{file}: expires in {}", span(own.expires, now)), "renew it");
    }
    if own.begins > now {
        report.error(
            at,
            format!("{file}: is valid in {} only", span(own.begins, now)),
            "is this machine's clock right?",
        );
    }
    if !own.covers(host_name) {
        let names = if own.names.is_empty() { "no name".to_owned() } else { own.names.join(", ") };
        let message = format!("{file}: is for {names}, and this host is {host_name}");
        report.warning(at, message, "clients that verify will not trust it");
    }
    for pair in chain.windows(2) {
        if let [Some(one), Some(next)] = pair
            && one.issuer != next.subject
        {
            let message = format!("{file}: `{}` is not followed by its issuer `{}`", one.subject, one.issuer);
            return report.warning(at, message, "the host's own certificate first, then each its issuer's");
        }
    }
}

fn mode_of(file: &Path) -> Option<u32> {
    std::fs::metadata(file).ok().map(|metadata| metadata.mode())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;
    use crate::config::{self, Places, Severity};

    /// What is said of a certificate for `name`, valid in 2026, behind which stand `others`.
    fn findings(name: &str, now: &str, in_order: bool) -> Vec<(Severity, String)> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let authority = |name: &str| {
            let mut parameters = CertificateParams::new(vec![]).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(DnType::CommonName, name);
            CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
        };
        let (issuer, other) = (authority("issuer"), authority("other"));
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2026, 1, 1);
        parameters.not_after = date_time_ymd(2026, 12, 31);
        let own = parameters.signed_by(&key, &issuer).unwrap();
        let second = if in_order { issuer.pem() } else { other.pem() };
        std::fs::write(at("c.pem"), format!("{}{second}", own.pem())).unwrap();
        std::fs::write(at("k.pem"), key.serialize_pem()).unwrap();
        let text = "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"a@example.net\"]\n\
            [spool]\ndirectory = \"spool\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
            [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n";
        std::fs::write(at("postern.toml"), text).unwrap();
        let settings = config::load(&at("postern.toml"), &[]).unwrap().settings;
        let places = Places::read(&at("postern.toml"));
        let mut report = Report::new(&places);
        check(&settings, now.parse().unwrap(), &mut report);
        let problems = report.into_problems();
        assert!(problems.iter().all(|problem| problem.places[0].line == 7), "{problems:?}");
        problems.into_iter().map(|p| (p.severity, p.message.split_once(": ").unwrap().1.to_owned())).collect()
    }

    #[test]
    fn certificates_are_looked_at() {
        let noon = "2026-06-01T12:00:00Z";
        assert_eq!(findings("mx.example.net", noon, true), []);
        for (name, now, in_order, severity, says) in [
            ("mx.example.net", "2027-01-02T00:00:00Z", true, Severity::Error, "expired 2d ago"),
            ("mx.example.net", "2026-12-24T00:00:00Z", true, Severity::Warning, "expires in 7d"),
            ("mx.example.net", "2025-12-31T00:00:00Z", true, Severity::Error, "is valid in 1d only"),
            ("example.org", noon, true, Severity::Warning, "is for example.org, and this host is mx.example.net"),
            ("mx.example.net", noon, false, Severity::Warning, "` is not followed by its issuer `CN=issuer`"),
        ] {
            let found = findings(name, now, in_order);
            assert!(found.len() == 1 && found[0].0 == severity && found[0].1.contains(says), "{says}: {found:?}");
        }
    }
}
