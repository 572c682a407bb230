//! The exchange of AUTH (RFC 4954): PLAIN (RFC 4616) and LOGIN.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::smtp::Reply;

/// RFC 4616 §2 gives no bound; longer ones are refused before anything is hashed.
const MAX_CREDENTIAL: usize = 1024;

/// What a client claims. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub login: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

/// An exchange that waits for the client's next line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    Plain,
    LoginUser,
    LoginPassword(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Say this and wait for a line.
    Challenge(Exchange, Reply),
    /// All is there: verify.
    Verify(Credentials),
    Refuse(Reply),
}

/// `AUTH mechanism [initial]`.
pub fn begin(mechanism: &str, initial: Option<&str>) -> Step {
    match (mechanism, initial) {
        ("PLAIN", None) => Step::Challenge(Exchange::Plain, Reply::challenge("")),
        ("PLAIN", Some(initial)) => go_on(Exchange::Plain, initial),
        ("LOGIN", None) => Step::Challenge(Exchange::LoginUser, Reply::challenge("VXNlcm5hbWU6")),
        ("LOGIN", Some(initial)) => go_on(Exchange::LoginUser, initial),
        _ => Step::Refuse(Reply::mechanism_unknown()),
    }
}

/// The client's next line, base64.
pub fn go_on(exchange: Exchange, line: &str) -> Step {
    // RFC 4954 §4: `*` cancels.
    if line == "*" {
        return Step::Refuse(Reply::authentication_cancelled());
    }
    // `=` is an empty initial response.
    let encoded = if line == "=" { "" } else { line };
    let Some(octets) = STANDARD.decode(encoded).ok().filter(|octets| octets.len() <= 3 * MAX_CREDENTIAL) else {
        return Step::Refuse(Reply::syntax("Bad base64"));
    };
    let Ok(text) = String::from_utf8(octets) else {
        return Step::Refuse(Reply::authentication_failed());
    };
    match exchange {
        Exchange::Plain => plain(&text),
        Exchange::LoginUser => Step::Challenge(Exchange::LoginPassword(text), Reply::challenge("UGFzc3dvcmQ6")),
        Exchange::LoginPassword(login) => verify(login, text),
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
fn plain(text: &str) -> Step {
    let mut parts = text.split('\0');
    let (Some(authorize), Some(login), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Step::Refuse(Reply::authentication_failed());
    };
    // Nobody acts for somebody else here.
    if !authorize.is_empty() && authorize != login {
        return Step::Refuse(Reply::authentication_failed());
    }
    verify(login.to_owned(), password.to_owned())
}

fn verify(login: String, password: String) -> Step {
    if login.is_empty() || login.len() > MAX_CREDENTIAL || password.len() > MAX_CREDENTIAL {
        return Step::Refuse(Reply::authentication_failed());
    }
    Step::Verify(Credentials { login, password })
}

/// Compares a password with an argon2 hash. Slow by design: not for an async thread.
///
/// A login that does not exist is compared with a hash of the same cost, so that time does not tell who exists.
pub fn password_is_right(hash: Option<&str>, password: &str) -> bool {
    use argon2::{Argon2, PasswordHash, PasswordVerifier as _};
    const NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$4jV0gDlQ2mQ2S3JxbyVDc1TGRbx0lBGlEMVCFdyBqSA";
    let parsed = PasswordHash::new(hash.unwrap_or(NOBODY)).or_else(|_| PasswordHash::new(NOBODY));
    let right = parsed.is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
    right && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn plain_and_login() {
        let credentials = Credentials { login: "ann".into(), password: "secret".into() };
        assert_eq!(begin("PLAIN", Some(&encode("\0ann\0secret"))), Step::Verify(credentials.clone()));
        assert_eq!(begin("PLAIN", Some(&encode("ann\0ann\0secret"))), Step::Verify(credentials.clone()));
        let Step::Challenge(exchange, _) = begin("LOGIN", None) else { panic!() };
        let Step::Challenge(exchange, _) = go_on(exchange, &encode("ann")) else { panic!() };
        assert_eq!(go_on(exchange, &encode("secret")), Step::Verify(credentials));
    }

    #[test]
    fn what_is_refused() {
        for line in ["*", "not base64!", &encode("ann"), &encode("bob\0ann\0x"), &encode("\0\0x"), &encode("\0a\0b\0c")]
        {
            assert!(matches!(go_on(Exchange::Plain, line), Step::Refuse(_)), "{line}");
        }
        assert_eq!(begin("CRAM-MD5", None), Step::Refuse(Reply::mechanism_unknown()));
    }

    #[test]
    fn passwords() {
        use argon2::password_hash::{PasswordHasher as _, SaltString};
        let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hash = argon2.hash_password(b"secret", &salt).unwrap().to_string();
        assert!(password_is_right(Some(&hash), "secret"));
        assert!(!password_is_right(Some(&hash), "wrong"));
        assert!(!password_is_right(None, "secret"));
    }

    #[test]
    fn the_hash_of_nobody_costs_what_a_real_one_costs() {
        let hash = argon2::PasswordHash::new(
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$4jV0gDlQ2mQ2S3JxbyVDc1TGRbx0lBGlEMVCFdyBqSA",
        );
        assert!(hash.is_ok_and(|hash| hash.hash.is_some_and(|output| output.len() == 32)));
    }
}
