//! `postern password`: from a password to what `password_hash` takes.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write};

use argon2::password_hash::{PasswordHasher as _, SaltString};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::{CliError, Context, OK, Streams};

/// Octets.
const MAX_PASSWORD: u64 = 1024;

pub(super) fn run(context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let hash = hash(&read(streams.input, streams.err)?)?;
    match context.json {
        true => writeln!(streams.out, "{}", serde_json::json!({ "password_hash": hash }))?,
        false => writeln!(streams.out, "{hash}")?,
    }
    Ok(OK)
}

/// One line. On a terminal it is asked for and not shown.
fn read(input: &mut dyn BufRead, err: &mut dyn Write) -> Result<String, CliError> {
    let hidden = if io::stdin().is_terminal() {
        write!(err, "Password: ")?;
        err.flush()?;
        Some(NoEcho::new()?)
    } else {
        None
    };
    let mut line = String::new();
    input.take(MAX_PASSWORD + 2).read_line(&mut line)?;
    if hidden.is_some() {
        writeln!(err)?;
    }
    let password = line.trim_end_matches(['\r', '\n']);
    let wrong = |what: &str| Err(CliError::Failed(what.to_owned()));
    match password.len() {
        0 => wrong("the password is empty"),
        length if length as u64 > MAX_PASSWORD => wrong("the password is longer than 1024 octets"),
        // NUL separates the fields of AUTH PLAIN (RFC 4616 §2), so nobody could log in.
        _ if password.contains('\0') => wrong("a password can't hold NUL"),
        _ => Ok(password.to_owned()),
    }
}

fn hash(password: &str) -> Result<String, CliError> {
    let failed = |error: argon2::password_hash::Error| CliError::Failed(format!("can't hash the password: {error}"));
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(failed)?;
    let hash = argon2::Argon2::default().hash_password(password.as_bytes(), &salt).map_err(failed)?;
    Ok(hash.to_string())
}

/// The terminal does not show what is typed until this is dropped.
struct NoEcho(Termios);

impl NoEcho {
    fn new() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordVerifier as _;

    use super::*;
    use crate::config::value::FromText as _;
    use crate::config::value::secret::PasswordHash;

    #[test]
    fn the_hash_is_one_that_config_takes() {
        let text = hash("pass wörd").unwrap();
        assert!(PasswordHash::from_text(&text).is_ok(), "{text}");
        let parsed = argon2::PasswordHash::new(&text).unwrap();
        assert!(argon2::Argon2::default().verify_password("pass wörd".as_bytes(), &parsed).is_ok());
        assert_ne!(hash("pass wörd").unwrap(), text, "each has a salt of its own");
    }

    #[test]
    fn one_line_is_read() {
        let mut err = Vec::new();
        assert_eq!(read(&mut &b"secret\r\nmore\n"[..], &mut err).unwrap(), "secret");
        for wrong in [&b""[..], b"\n", b"a\0b\n", &[b'x'; 2000]] {
            assert!(read(&mut &wrong[..], &mut err).is_err());
        }
    }
}
