//! What must never be shown.

use std::fmt;
use std::path::Path;

use super::FromText;
use crate::config::source::read_text;

/// Octets of a file that holds a secret.
const MAX_SECRET: u64 = 4096;

/// A password. Neither Debug nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The only way to its content: to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The file's content without the line end.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = read_text(path, MAX_SECRET).map_err(|error| format!("can't read {}: {error}", path.display()))?;
        Self::new(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)))
            .map_err(|problem| format!("{}: {problem}", path.display()))
    }

    #[expect(clippy::disallowed_methods, reason = "config is the one place that reads the environment")]
    pub fn from_environment(variable: &str) -> Result<Self, String> {
        let text = std::env::var(variable).map_err(|_| format!("the environment has no variable {variable}"))?;
        Self::new(&text).map_err(|problem| format!("{variable}: {problem}"))
    }

    /// NUL separates the fields of AUTH PLAIN (RFC 4616 §2), and a line end would end the command.
    fn new(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("the password is empty");
        }
        if text.contains(['\0', '\r', '\n']) {
            return Err("a password is one line without NUL");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A PHC string of argon2, its parameters within reason: a log-in costs what they say.
pub struct PasswordHash(pub Box<str>);

/// KiB; ten log-ins at once then need 2.5 GiB.
const MAX_MEMORY: u32 = 256 * 1024;
const MAX_ITERATIONS: u32 = 32;

impl FromText for PasswordHash {
    const WHAT: &'static str = "a password hash";

    /// The text itself is in no error.
    fn from_text(text: &str) -> Result<Self, String> {
        let help = "make one with `postern password`";
        let bad = |what: &str| format!("{what}\n{help}");
        let hash = argon2::PasswordHash::new(text).map_err(|_| bad("this is not an argon2 password hash"))?;
        if argon2::Algorithm::try_from(hash.algorithm).is_err() {
            return Err(bad("only argon2 hashes are supported"));
        }
        if hash.hash.is_none() || hash.salt.is_none() {
            return Err(bad("this hash is not complete"));
        }
        let params = argon2::Params::try_from(&hash).map_err(|_| bad("the parameters of this hash are wrong"))?;
        if params.m_cost() > MAX_MEMORY || params.t_cost() > MAX_ITERATIONS {
            return Err(bad("this hash is too expensive to check: more than 256 MiB or 32 passes"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_a_file_and_stays_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p");
        std::fs::write(&path, "hunter2\r\n").unwrap();
        let secret = Secret::from_file(&path).unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        for bad in ["", "\n", "a\nb\n", "a\0b"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Secret::from_file(&path).is_err(), "{bad:?}");
        }
        assert!(Secret::from_environment("POSTERN_NO_SUCH_VARIABLE").is_err());
    }
}
