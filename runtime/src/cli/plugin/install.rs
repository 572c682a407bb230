//! `postern plugin install`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::control::Request;
use super::super::control::plugin::Install;
use super::super::{CliError, Context, OK, Streams};
use crate::config::source::read_text;
use crate::host::read_source;

/// Octets of the settings; the request holds them in one line.
const MAX_SETTINGS: u64 = 32 * 1024;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The component: the .wasm file that the plugin's build made.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Whose mail it judges: `platform`, `reseller:NAME` or `tenant:NAME`.
    #[arg(long, value_name = "SCOPE")]
    pub scope: String,
    /// What it is called in chains, log and metrics; without it as the file, `-` for `_`.
    #[arg(long)]
    pub name: Option<String>,
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
    /// Check and keep it, but put it into no chain.
    #[arg(long)]
    pub disabled: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", path.display()));
    let file = &arguments.file;
    let source = read_source(file).map_err(|error| failed(file, &error))?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => default_name(file).ok_or_else(|| failed(file, &"its name is none for a plugin: give --name"))?,
    };
    let (settings, settings_path) = settings(arguments)?;
    let install = Install {
        name,
        scope: arguments.scope.clone(),
        octets: source.len() as u64,
        file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        settings,
        settings_path,
        enabled: !arguments.disabled,
    };
    super::done(&Request::PluginInstall { install, source }, context, streams)?;
    Ok(OK)
}

/// `house_rules.wasm` is the plugin house-rules.
fn default_name(file: &Path) -> Option<String> {
    let name = file.file_stem()?.to_str()?.replace('_', "-").to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

/// The options, as what they stand for in TOML, then the file's own text. `None`: those of the version in force stay.
fn settings(arguments: &Arguments) -> Result<(Option<String>, PathBuf), CliError> {
    let here = std::env::current_dir().map_err(|error| CliError::Failed(format!("where are we? {error}")))?;
    let mut text = String::new();
    let quoted = |value: &String| toml::Value::String(value.clone()).to_string();
    if !arguments.grants.is_empty() {
        let grants: Vec<_> = arguments.grants.iter().map(quoted).collect();
        // Writing to a String can't fail.
        let _ = writeln!(text, "grants = [{}]", grants.join(", "));
    }
    for (key, value) in [("direction", &arguments.direction), ("on_failure", &arguments.on_failure)] {
        if let Some(value) = value {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    }
    let Some(path) = &arguments.settings else {
        let options = (!text.is_empty()).then_some(text);
        return Ok((options, here.join("the options")));
    };
    let file = read_text(path, MAX_SETTINGS);
    let file = file.map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
    Ok((Some(text + &file), here.join(path)))
}
