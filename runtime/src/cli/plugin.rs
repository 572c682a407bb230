//! `postern plugin`: one file for each verb.

pub mod inspect;

use clap::Subcommand;

use super::{CliError, Context, Streams};

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Show what a plugin's file exports, asks for, and whether it fits this gateway.
    Inspect(inspect::Inspect),
}

pub(super) fn run(plugin: &Plugin, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    match plugin {
        Plugin::Inspect(inspect) => inspect::run(inspect, context, streams),
    }
}
