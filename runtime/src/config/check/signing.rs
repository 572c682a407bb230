//! The keys are read with the config, so that a broken one is found by `postern check` and told by a reload. It keeps
//! nobody from starting: mail that was to be signed with it waits, and all other mail does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Checker;
use crate::config::settings::{Queue, Signing, Spool};
use crate::config::value::At;
use crate::config::written;
use crate::signing::Keyring;

/// Keys told to be broken, of which there may be as many as there are domains.
const MAX_TOLD: usize = 20;

impl Checker<'_> {
    pub(super) fn signing(
        &mut self,
        written: written::Signing,
        spool: Option<&Spool>,
        queue: &Queue,
    ) -> Option<Signing> {
        let directory = match &written.directory {
            Some(directory) => self.path(directory),
            None => spool?.directory.join("keys"),
        };
        let keys = self.keys(&directory, written.directory.as_ref());
        Some(Signing {
            directory,
            keys: Arc::new(keys),
            timestamp: written.timestamp.unwrap_or(true),
            validity: written.validity.map(|validity| self.validity(validity, queue.expiry)),
        })
    }

    fn keys(&mut self, directory: &Path, written: Option<&At<PathBuf>>) -> Keyring {
        let span = written.map(|at| at.span);
        if written.is_some() && !directory.exists() {
            self.findings
                .push_warning(span, format!("the directory {} is not there, so there are no keys", directory.display()))
                .help("`postern dkim generate` makes it");
        }
        let keys = match Keyring::load(directory) {
            Ok(keys) => keys,
            Err(error) => {
                self.findings.error(span, format!("signing keys: {error}"));
                return Keyring::default();
            }
        };
        for error in keys.errors().iter().take(MAX_TOLD) {
            self.findings
                .push_fault(span, format!("signing key {error}"))
                .help("mail that is to be signed with it waits; a gateway that runs signs with what it had");
        }
        if keys.errors().len() > MAX_TOLD {
            self.findings.push_fault(span, format!("and {} more of the signing keys", keys.errors().len() - MAX_TOLD));
        }
        keys
    }

    /// A mail may wait in a queue, ours and others', before its signature is looked at.
    fn validity(&mut self, written: At<Duration>, expiry: Duration) -> Duration {
        let span = written.span;
        let validity = self.positive(Some(written), expiry);
        if validity < expiry {
            self.findings
                .push_warning(
                    Some(span),
                    "a mail that waits longer is delivered with a signature that has expired".to_owned(),
                )
                .help("make it longer than `expiry` of [queue]");
        }
        validity
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::config;

    const CONFIG: &str = "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"a@example.net\"]\n[spool]\n\
        directory = \".\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n";

    #[test]
    fn a_broken_key_is_an_error_that_stops_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let keys = directory.path().join("keys/example.com");
        fs::create_dir_all(&keys).unwrap();
        for path in [&*keys, keys.parent().unwrap()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for name in ["one.pem", "two.pem"] {
            fs::write(keys.join(name), "rubbish").unwrap();
            fs::set_permissions(keys.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        for section in ["", "[signing]\ndirectory = \"keys\"\n"] {
            fs::write(&path, format!("{CONFIG}{section}")).unwrap();
            let loaded = config::load(&path, &[]).map_err(|error| error.to_string()).unwrap();
            assert!(loaded.faults().count() == 2 && loaded.settings.signing.keys.errors().len() == 2);
            let told = loaded.warnings.iter().map(ToString::to_string).collect::<String>();
            assert!(told.contains("one.pem: it holds no private key"), "{told}");
            assert!(told.contains("two.pem: it holds no private key"), "{told}");
            assert_eq!(told.contains("postern.toml:11:13"), !section.is_empty(), "{told}");
        }
        fs::set_permissions(keys.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        let told = config::load(&path, &[]).unwrap_err().to_string();
        assert!(told.contains("can be written by others"), "{told}");
        fs::set_permissions(keys.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(&keys).unwrap();
        let loaded = config::load(&path, &[]).map_err(|error| error.to_string()).unwrap();
        assert!(loaded.settings.signing.keys.is_empty() && loaded.warnings.is_empty());
    }
}
