//! What a plugin may do and is configured with, as options of the commands that load one.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::super::CliError;
use crate::config::source::read_text;

/// Octets of the settings; a request holds them in one line.
const MAX_SETTINGS: u64 = 32 * 1024;

#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Let it use a capability, e.g. `dns`; may be given more than once.
    #[arg(long = "grant", value_name = "GRANT")]
    pub grants: Vec<String>,
    /// Judge only mail of this direction: `inbound`, `outbound`, `both`.
    #[arg(long, value_name = "DIRECTION")]
    pub direction: Option<String>,
    /// When it does not answer: `defer`, `continue`, `reject`, `quarantine`, `disconnect`.
    #[arg(long, value_name = "POLICY")]
    pub on_failure: Option<String>,
    /// Its settings as TOML: the keys of `[[plugin]]` but name, source and scope, and `direction`, `exemptable`.
    // Not `--config`, which is the gateway's.
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
}

/// TOML, and the file that it is from: for errors, and for relative paths in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    /// Absolute.
    pub path: PathBuf,
}

impl Options {
    /// The options, as what they stand for in TOML, then the file's own text. `None`: nothing was said.
    pub fn text(&self) -> Result<Option<Text>, CliError> {
        let here = std::env::current_dir().map_err(|error| CliError::Failed(format!("where are we? {error}")))?;
        let mut text = String::new();
        let quoted = |value: &String| toml::Value::String(value.clone()).to_string();
        if !self.grants.is_empty() {
            let grants: Vec<_> = self.grants.iter().map(quoted).collect();
            // Writing to a String can't fail.
            let _ = writeln!(text, "grants = [{}]", grants.join(", "));
        }
        for (key, value) in [("direction", &self.direction), ("on_failure", &self.on_failure)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = {}", quoted(value));
            }
        }
        let Some(path) = &self.settings else {
            return Ok((!text.is_empty()).then(|| Text { text, path: here.join("the options") }));
        };
        let file = read_text(path, MAX_SETTINGS);
        let file = file.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
        Ok(Some(Text { text: text + &file, path: here.join(path) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_the_file_that_may_end_in_a_table() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        std::fs::write(&path, "[config]\nlevel = 3\n").unwrap();
        let options = Options {
            grants: vec!["dns".to_owned(), "a\"b".to_owned()],
            direction: Some("inbound".to_owned()),
            on_failure: None,
            settings: Some(path.clone()),
        };
        let text = options.text().unwrap().unwrap();
        assert_eq!(text.text, "grants = [\"dns\", 'a\"b']\ndirection = \"inbound\"\n[config]\nlevel = 3\n");
        assert_eq!(text.path, path);
        assert_eq!(Options::default().text().unwrap(), None);
        let missing = Options { settings: Some("/nowhere/s.toml".into()), ..Options::default() };
        assert!(missing.text().unwrap_err().to_string().starts_with("/nowhere/s.toml: "));
    }
}
