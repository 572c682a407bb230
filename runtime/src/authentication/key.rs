//! Public keys in DNS (RFC 6376 §3.6.1, RFC 8463), and signatures checked with them.

use aws_lc_rs::signature::{
    ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey, VerificationAlgorithm,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

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
    octets: Vec<u8>,
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
    pub(super) fn parse(record: &[u8], algorithm: Algorithm) -> Result<Self, KeyFault> {
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
        check_size(algorithm, &octets)?;
        let flag = |flag: &str| tags.list("t").any(|known| known == flag);
        Ok(Self { octets, algorithm, testing: flag("y"), strict: flag("s") })
    }

    /// `signed`: the canonical octets.
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let verify = |algorithm: &'static dyn VerificationAlgorithm, octets: &[u8]| {
            UnparsedPublicKey::new(algorithm, &self.octets).verify(octets, signature).is_ok()
        };
        match self.algorithm {
            Algorithm::RsaSha256 => verify(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, signed),
            // RFC 8463 §3: the hash is what is signed.
            Algorithm::Ed25519Sha256 => verify(&ED25519, &Sha256::digest(signed)),
        }
    }
}

fn check_size(algorithm: Algorithm, octets: &[u8]) -> Result<(), KeyFault> {
    let useless = |reason: &str| Err(KeyFault::Useless(reason.to_owned()));
    match (algorithm, rsa_bits(octets)) {
        (Algorithm::Ed25519Sha256, _) if octets.len() == ED25519_OCTETS => Ok(()),
        (Algorithm::Ed25519Sha256, _) => useless("the key is no Ed25519 key"),
        (Algorithm::RsaSha256, None) => useless("the key is no RSA key"),
        (Algorithm::RsaSha256, Some(bits)) if bits < MIN_RSA_BITS => {
            Err(KeyFault::Weak(format!("the key has only {bits} bits")))
        }
        (Algorithm::RsaSha256, Some(bits)) if bits > MAX_RSA_BITS => useless("the key has more than 8192 bits"),
        (Algorithm::RsaSha256, Some(_)) => Ok(()),
    }
}

/// Of a key as RFC 6376 §3.6.1 has it (`SubjectPublicKeyInfo`), or bare, as many have it all the same.
fn rsa_bits(octets: &[u8]) -> Option<usize> {
    let whole = SubjectPublicKeyInfo::from_der(octets).ok().map(|(_, info)| info.subject_public_key.data.into_owned());
    let bare = whole.as_deref().unwrap_or(octets);
    let (_, key) = RSAPublicKey::from_der(bare).ok()?;
    let zeros = key.modulus.iter().take_while(|&&octet| octet == 0).count();
    Some((key.modulus.len() - zeros) * 8)
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
        assert!(matches!(check_size(Algorithm::RsaSha256, b"rubbish"), Err(KeyFault::Useless(_))));
    }
}
