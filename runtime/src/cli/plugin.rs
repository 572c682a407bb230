//! `postern plugin …`: from an empty folder to a plugin that judges mail.

pub mod new;
pub mod test;

use clap::Subcommand;

use super::{CliError, Context, Streams};

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Write a new plugin's project: it builds, and its test passes, at once.
    New(new::Arguments),
    /// Run a plugin as the gateway would, with a client, a mail and a DNS from files, and show what it says and costs.
    Test(Box<test::Arguments>),
}

pub(super) fn run(plugin: &Plugin, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    match plugin {
        Plugin::New(arguments) => new::run(arguments, context, streams),
        Plugin::Test(arguments) => test::run(arguments, context, streams),
    }
}
