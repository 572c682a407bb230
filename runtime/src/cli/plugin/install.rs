//! `postern plugin install`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::control::Request;
use super::super::control::plugin::Install;
use super::super::{CliError, Context, OK, Streams};
use super::settings::Options;
use crate::host::read_source;

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
    #[command(flatten)]
    pub options: Options,
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
    let settings = arguments.options.text()?;
    let install = Install {
        name,
        scope: arguments.scope.clone(),
        octets: source.len() as u64,
        file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        settings_path: settings.as_ref().map(|settings| settings.path.clone()).unwrap_or_default(),
        settings: settings.map(|settings| settings.text),
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
