//! What stands in a certificate (RFC 5280), as far as an operator must know it: whose it is, and until when.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Names of one certificate that are looked at.
const MAX_NAMES: usize = 1000;

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub subject: String,
    pub issuer: String,
    /// The DNS names of the subject alternative name (RFC 6125 §4.1), as written there, perhaps with `*.` before.
    pub names: Vec<String>,
    pub begins: Timestamp,
    pub expires: Timestamp,
}

impl Facts {
    /// `None`: it can't be read.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.filter_map(dns).take(MAX_NAMES).collect(),
            begins: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            expires: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }

    /// RFC 6125 §6.4: one of its names is this one, a wildcard standing for exactly one label.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(name) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(name)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_are_read() {
        let names = ["mx.example.net".to_owned(), "*.example.org".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names.to_vec()).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let der = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let facts = Facts::read(der.der()).unwrap();
        assert_eq!(facts.names, names);
        assert_eq!((facts.begins.to_string(), facts.expires.to_string()), (at("2026-01-01"), at("2026-04-01")));
        for (host, covered) in [
            ("MX.example.net", true),
            ("example.net", false),
            ("a.example.org", true),
            ("a.b.example.org", false),
            ("example.org", false),
        ] {
            assert_eq!(facts.covers(host), covered, "{host}");
        }
        assert_eq!(Facts::read(&der.der()[..100]), None);
        assert_eq!(Facts::read(b""), None);
    }

    fn at(day: &str) -> String {
        format!("{day}T00:00:00Z")
    }
}
