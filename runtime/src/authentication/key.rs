//! Public keys in DNS (RFC 6376 §3.6.1, RFC 8463), and signatures checked with them. The only place that uses `mail-auth`.

use mail_auth::common::crypto::Algorithm as MailAuthAlgorithm;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::tag::{self, TagList};
use crate::dns::{DnsError, LiteralName, Resolver};

/// RFC 8301 §3.2.
const MIN_RSA_BITS: usize = 1024;
/// Beyond it, a check costs more than a mail is worth.
const MAX_RSA_BITS: usize = 8192;
/// RFC 8032 §5.1.5.
const ED25519_OCTETS: usize = 32;

/// `a=`. RFC 8301 §3.1: there is no `rsa-sha1` any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Algorithm {
    RsaSha256,
    Ed25519Sha256,
}

impl Algorithm {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case("rsa-sha256") => Some(Self::RsaSha256),
            _ if name.eq_ignore_ascii_case("ed25519-sha256") => Some(Self::Ed25519Sha256),
            _ => None,
        }
    }
}

/// A key that can be used.
pub(super) struct Key {
    key: DomainKey,
    algorithm: Algorithm,
    /// `t=y`.
    pub testing: bool,
    /// `t=s`: the identity must be of the very domain.
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// Nobody could say.
    Temporary(String),
    /// There is no key, or it is of no use.
    Useless(String),
    /// Too short to mean anything.
    Weak(String),
}

/// Of `SELECTOR._domainkey.DOMAIN`, for signatures of that algorithm.
pub(super) async fn look_up(
    resolver: &Resolver,
    selector: &str,
    domain: &str,
    algorithm: Algorithm,
) -> Result<Key, KeyFault> {
    let useless = |reason: &str| KeyFault::Useless(reason.to_owned());
    let name = format!("{selector}._domainkey.{domain}");
    let name = LiteralName::parse(&name).map_err(|_| useless("the key's name is no DNS name"))?;
    let records = match resolver.literal_txt(&name).await {
        Ok(records) => records,
        Err(DnsError::Temporary(reason)) => return Err(KeyFault::Temporary(format!("the key: {reason}"))),
        Err(DnsError::NotFound | DnsError::BadName) => return Err(useless("there is no such key")),
    };
    // §3.6.2.2: what several records mean is not defined. The first that is good is taken.
    let mut fault = useless("there is no such key");
    for record in &records {
        match Key::parse(record, algorithm) {
            Ok(key) => return Ok(key),
            Err(this) => fault = this,
        }
    }
    Err(fault)
}

impl Key {
    fn parse(record: &[u8], algorithm: Algorithm) -> Result<Self, KeyFault> {
        let useless = |reason: &str| KeyFault::Useless(reason.to_owned());
        let tags = TagList::parse(record).map_err(|_| useless("the key's record can't be read"))?;
        if tags.find("v").is_some() && tags.first() != Some(("v", "DKIM1")) {
            return Err(useless("the key's record is of another version"));
        }
        let material = tags.find("p").ok_or_else(|| useless("the key's record has no key"))?;
        if material.is_empty() {
            return Err(useless("the key was revoked"));
        }
        let kind = match algorithm {
            Algorithm::RsaSha256 => "rsa",
            Algorithm::Ed25519Sha256 => "ed25519",
        };
        if tags.find("k").unwrap_or("rsa") != kind {
            return Err(useless("the key is of another kind than the signature"));
        }
        if tags.find("h").is_some() && !tags.list("h").any(|hash| hash == "sha256") {
            return Err(useless("the key is not for SHA-256"));
        }
        if tags.find("s").is_some() && !tags.list("s").any(|service| matches!(service, "*" | "email")) {
            return Err(useless("the key is not for mail"));
        }
        let octets = tag::base64(material).ok_or_else(|| useless("the key is not Base64"))?;
        // Only what was checked reaches the parser of the other crate, in the form that it knows best.
        let plain = format!("v=DKIM1; k={kind}; p={}", material.split_ascii_whitespace().collect::<String>());
        let key = DomainKey::parse(plain.as_bytes()).map_err(|_| useless("the key can't be read"))?;
        check_size(algorithm, octets.len(), key.p.public_key_bits())?;
        let flag = |flag: &str| tags.list("t").any(|known| known == flag);
        Ok(Self { key, algorithm, testing: flag("y"), strict: flag("s") })
    }

    /// `signed`: the canonical octets.
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let algorithm = match self.algorithm {
            Algorithm::RsaSha256 => MailAuthAlgorithm::RsaSha256,
            Algorithm::Ed25519Sha256 => MailAuthAlgorithm::Ed25519Sha256,
        };
        self.key.p.verify_bytes(signed, signature, algorithm).is_ok()
    }
}

fn check_size(algorithm: Algorithm, octets: usize, bits: usize) -> Result<(), KeyFault> {
    match algorithm {
        Algorithm::Ed25519Sha256 if octets == ED25519_OCTETS => Ok(()),
        Algorithm::Ed25519Sha256 => Err(KeyFault::Useless("the key is no Ed25519 key".to_owned())),
        Algorithm::RsaSha256 if bits == 0 => Err(KeyFault::Useless("the key is no RSA key".to_owned())),
        Algorithm::RsaSha256 if bits < MIN_RSA_BITS => Err(KeyFault::Weak(format!("the key has only {bits} bits"))),
        Algorithm::RsaSha256 if bits > MAX_RSA_BITS => {
            Err(KeyFault::Useless(format!("the key has more than {MAX_RSA_BITS} bits")))
        }
        Algorithm::RsaSha256 => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8463 §A.2.
    const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn fault(record: &str) -> KeyFault {
        Key::parse(record.as_bytes(), Algorithm::Ed25519Sha256).err().unwrap()
    }

    #[test]
    fn records() {
        let good = Key::parse(format!("v=DKIM1; k=ed25519; t=y:s; p={ED25519}").as_bytes(), Algorithm::Ed25519Sha256);
        assert!(good.is_ok_and(|key| key.testing && key.strict));
        for (record, reason) in [
            (format!("k=ed25519; v=DKIM1; p={ED25519}"), "another version"),
            (format!("v=DKIM2; k=ed25519; p={ED25519}"), "another version"),
            (format!("v=DKIM1; p={ED25519}"), "another kind"),
            (format!("v=DKIM1; k=ed25519; h=sha1; p={ED25519}"), "not for SHA-256"),
            (format!("v=DKIM1; k=ed25519; s=tlsrpt; p={ED25519}"), "not for mail"),
            ("v=DKIM1; k=ed25519; p=".to_owned(), "revoked"),
            ("v=DKIM1; k=ed25519; p=%".to_owned(), "not Base64"),
            ("v=DKIM1; k=ed25519; p=AAAA".to_owned(), "no Ed25519 key"),
            ("hello".to_owned(), "can't be read"),
        ] {
            let KeyFault::Useless(said) = fault(&record) else { panic!("{record}") };
            assert!(said.contains(reason), "{record}: {said}");
        }
        let rsa = |octets: usize| check_size(Algorithm::RsaSha256, octets, octets * 8);
        assert!(matches!(rsa(64), Err(KeyFault::Weak(_))) && rsa(128).is_ok() && rsa(2048).is_err());
    }
}
