//! Where a gateway is found, also by a config that is half written: commands must reach the one that runs.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Findings;
use super::source::Sources;

/// What could be read of the config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The directory of the spool, which holds the control socket.
    pub spool: Option<PathBuf>,
    /// The event log.
    pub log: Option<PathBuf>,
}

impl Whereabouts {
    /// Whatever else is wrong with the config.
    pub fn read(path: &Path) -> Self {
        let sources = Sources::read(path, &mut Findings::default());
        let mut found = Self::default();
        sources.each_recovered(|directory, root| {
            let at = |section: &str, key: &str| text(root, section, key).map(|path| directory.join(path));
            found.spool = found.spool.take().or_else(|| at("spool", "directory"));
            found.log = found.log.take().or_else(|| at("log", "file"));
        });
        found
    }

    pub fn control_socket(&self) -> Option<PathBuf> {
        self.spool.as_ref().map(|spool| spool.join("control.sock"))
    }
}

fn text<'t>(root: &'t DeTable<'_>, section: &str, key: &str) -> Option<&'t str> {
    let value: &Spanned<DeValue<'_>> = root.get(section)?.get_ref().as_table()?.get(key)?;
    value.get_ref().as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_with_mistakes_still_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let at = |name: &str| Some(directory.path().join(name));
        for (text, spool, log) in [
            ("[spool]\ndirectory = \"spool\"\n[log]\nfile = \"e\"\ngarbage ===", at("spool"), at("e")),
            ("garbage ===\n[spool]\ndirectory = \"spool\"\n", at("spool"), None),
            ("[server]\nhostname = 1\n[spool]\ndirectory = \"spool\"\nwrong = 1\n", at("spool"), None),
            ("[spool]\ndirectory = 7\n", None, None),
            ("", None, None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Whereabouts::read(&path), Whereabouts { spool, log }, "{text}");
        }
        assert_eq!(Whereabouts::read(Path::new("/nowhere/postern.toml")), Whereabouts::default());
    }
}
