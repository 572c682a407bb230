//! Private keys: RSA (RFC 6376 §3.3.1, RFC 8301) and Ed25519 (RFC 8463), as PEM, and the records that publish them.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

/// RFC 8301 §3.2: longer ones need not be verified by anybody.
const MAX_RSA_BITS: usize = 4096;
/// The object identifier 1.3.101.112 in DER (RFC 8410 §3), which tells one kind of PKCS#8 from the other.
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
/// Octets of PKCS#8 within which it stands.
const HEAD: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// 2048 bits when it is made here.
    Rsa,
    Ed25519,
}

impl Algorithm {
    /// `a=` of a signature.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }

    /// `k=` of the record.
    pub const fn key_type(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it holds no private key in PEM: {0}")]
    NoPem(String),
    #[error("it is neither an RSA nor an Ed25519 key in PKCS#8: {0}")]
    Unusable(String),
    #[error("an RSA key of {0} bits; those of 2048 to 4096 can be used")]
    Length(usize),
    #[error("the key could not be made")]
    Generation,
    #[error("the signature could not be made")]
    Signature,
}

/// Debug shows which kind it is and nothing else.
pub struct Key(Pair);

/// Signs with a key that is too short for any but a test.
#[cfg(test)]
type Weak = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
    /// RSA of 1024 bits, with which `aws-lc-rs` does not sign: the key of the ARC suite.
    #[cfg(test)]
    Weak(Box<Weak>),
}

impl Key {
    /// A new key, and its PEM.
    pub fn generate(algorithm: Algorithm) -> Result<(Self, String), KeyError> {
        let failed = |_| KeyError::Generation;
        Ok(match algorithm {
            Algorithm::Rsa => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                let pem = pem(der.as_ref());
                (Self(Pair::Rsa(Box::new(pair))), pem)
            }
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(failed)?;
                // Version 1, which OpenSSL reads too.
                let pem = pem(pair.to_pkcs8v1().map_err(failed)?.as_ref());
                (Self(Pair::Ed25519(pair)), pem)
            }
        })
    }

    /// PKCS#8, or for RSA also PKCS#1, as other signers keep it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| KeyError::NoPem(error.to_string()))?;
        let octets = der.secret_der();
        let pair = match &der {
            PrivateKeyDer::Pkcs8(_) if octets.windows(ED25519.len()).take(HEAD).any(|part| part == ED25519) => {
                return Ed25519KeyPair::from_pkcs8(octets).map(|pair| Self(Pair::Ed25519(pair))).map_err(unusable);
            }
            PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(octets),
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(octets),
            _ => return Err(KeyError::Unusable("unknown kind".to_owned())),
        };
        let pair = pair.map_err(unusable)?;
        match pair.public_modulus_len() * 8 {
            bits if bits > MAX_RSA_BITS => Err(KeyError::Length(bits)),
            _ => Ok(Self(Pair::Rsa(Box::new(pair)))),
        }
    }

    #[cfg(test)]
    pub fn weak(sign: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self(Pair::Weak(Box::new(sign)))
    }

    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Pair::Rsa(_) => Algorithm::Rsa,
            #[cfg(test)]
            Pair::Weak(_) => Algorithm::Rsa,
            Pair::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    pub fn bits(&self) -> usize {
        match &self.0 {
            Pair::Rsa(pair) => pair.public_modulus_len() * 8,
            Pair::Ed25519(_) => 256,
            #[cfg(test)]
            Pair::Weak(_) => 1024,
        }
    }

    /// RSASSA-PKCS1-v1_5 over SHA-256 (RFC 6376 §3.3.2); Ed25519 signs the hash (RFC 8463 §3).
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature)
                    .map_err(|_| KeyError::Signature)?;
                Ok(signature)
            }
            Pair::Ed25519(pair) => {
                let signature = pair.try_sign(digest(&SHA256, data).as_ref()).map_err(|_| KeyError::Signature)?;
                Ok(signature.as_ref().to_vec())
            }
            #[cfg(test)]
            Pair::Weak(sign) => Ok(sign(data)),
        }
    }

    /// What DNS must say of it: the text of a TXT record (RFC 6376 §3.6.1, RFC 8463 §4.2).
    pub fn record(&self) -> Result<String, KeyError> {
        let public = match &self.0 {
            Pair::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| KeyError::Generation)?;
                BASE64.encode(der.as_ref())
            }
            Pair::Ed25519(pair) => BASE64.encode(pair.public_key().as_ref()),
            #[cfg(test)]
            Pair::Weak(_) => return Err(KeyError::Length(1024)),
        };
        Ok(format!("v=DKIM1; k={}; p={public}", self.algorithm().key_type()))
    }
}

fn unusable(rejected: aws_lc_rs::error::KeyRejected) -> KeyError {
    match rejected.description_() {
        "TooSmall" => KeyError::Unusable("an RSA key of less than 2048 bits".to_owned()),
        other => KeyError::Unusable(other.to_owned()),
    }
}

/// RFC 7468 §10.
fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END PRIVATE KEY-----\n"
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm().name())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_that_was_made_can_be_read_and_signs_the_same() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let (key, pem) = Key::generate(algorithm).unwrap();
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            let again = Key::from_pem(pem.as_bytes()).unwrap();
            assert_eq!((again.algorithm(), again.record()), (algorithm, key.record()));
            assert_eq!(again.sign(b"data").unwrap(), key.sign(b"data").unwrap());
            assert!(!format!("{key:?}").contains("p="), "{key:?}");
            assert_ne!(Key::generate(algorithm).unwrap().0.record(), key.record());
        }
    }

    #[test]
    fn a_signature_fits_the_record() {
        let (key, _) = Key::generate(Algorithm::Rsa).unwrap();
        assert_eq!(key.bits(), 2048);
        let Pair::Rsa(pair) = &key.0 else { panic!() };
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
        public.verify(b"data", &key.sign(b"data").unwrap()).unwrap();
        let record = key.record().unwrap();
        // SubjectPublicKeyInfo of 2048 bits.
        assert!(record.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"), "{record}");
    }

    /// The key of RFC 8463 §A.2 and its record of §A.1; RFC 8032 §7.1 has the same.
    #[test]
    fn the_key_of_rfc_8463() {
        let seed = BASE64.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
        let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let key = Key::from_pem(pem(&[&head[..], &seed].concat()).as_bytes()).unwrap();
        let record = key.record().unwrap();
        assert_eq!(record, "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }

    #[test]
    fn what_is_no_usable_key_says_why() {
        let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for (pem, reason) in [
            ("", "no private key"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "neither"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no private key"),
            (&elliptic, "neither"),
            (WEAK, "less than 2048"),
        ] {
            let error = Key::from_pem(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    /// 1024 bits, made for this test.
    const WEAK: &str = "\
        -----BEGIN PRIVATE KEY-----\n\
        MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBANXfsb08ghuTja8P\n\
        xtOGrN68Rmm9q+T0DJmBCJL/QQ161/V4VuFDDGPDBFicjGLwqenkNIq2tqEQqwGR\n\
        s6xM1K5a5u6c4giE6+CgDVOU/YyUMYGgMuMzTFB+iXyu65jg2YpTZwhAoRwTeyzS\n\
        0y7VzLtE/Sg4m6hlA1l5vhKLkoehAgMBAAECgYBvZyK0+ISpCpXdnzEo01jOeHGQ\n\
        +LxF+R1rA/xMXWssM1W0RiezFHKqsFVeNsUlcEiBTV5U9tFwWjdJDPTzBd4ts+Av\n\
        lqc/RnZ6vLgG3+2N3CqRd/ijvu31czB6UlJHnzrnva9GvfIutqk6W+iPxbDUvkq0\n\
        s1NagPm1IpXu5r2f5QJBAO0Z6eeokzqymjyQWMUc1kPCnYVP0L2300urwTMT9VPc\n\
        2NO9NCk9XC//g4x5oWL6JLAEM8/1AWw1XwoDP5MXr4cCQQDm69JUW8wpq+vP1pz3\n\
        qlCJh2DuvQnO9xP/tvUrSA9Jr3Otq7rmYB9crY+LRoeLdd9Wk2h+/4ix9zNUpGXa\n\
        L8mXAkEAvrW7SJR1aB9EpDZO0K1zQqmFXjdm5VK46ALMsbL5/2yCEz36eLlcL1dM\n\
        jm8++ofNfq7CpiCh9lGvkjQurLe+fQJAG1iX6teIIPM0FMPUiNvJd8/pYbxPOgw2\n\
        eRTgicSZ0t8NMubgVkHR1PbUxeiPSqulzCneuRNny7N7h62ERkdcdwJBAJgTHLdv\n\
        pcr4HptoxgoSCEAYSEJ74A8U2h6pHgaVptnb21nk2zc5478KDdr15peNoCc3dwQq\n\
        STi0G1LwHzPWvCw=\n\
        -----END PRIVATE KEY-----\n";
}
