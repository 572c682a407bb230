//! `postern plugin …`: from an empty folder to a plugin that judges mail.

pub mod inspect;
pub mod install;
pub mod installed;
pub mod new;
pub mod settings;
pub mod test;
pub mod usage;

use clap::{Args, Subcommand};

use super::control::plugin::State;
use super::control::{Client, Request, Response};
use super::terminal::printable;
use super::{CliError, Context, OK, Streams};
use crate::host::BreakerState;

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Write a new plugin's project: it builds, and its test passes, at once.
    New(new::Arguments),
    /// Run a plugin as the gateway would, with a client, a mail and a DNS from files, and show what it says and costs.
    Test(Box<test::Arguments>),
    /// Show what a plugin's file exports, asks for, and whether it fits this gateway.
    Inspect(inspect::Inspect),
    /// Put a component in force in the running gateway; the version before is kept.
    Install(Box<install::Arguments>),
    /// List the plugins and what each is doing.
    List {
        /// Only those of this scope, and those that stand in its chain.
        #[arg(long, value_name = "SCOPE")]
        scope: Option<String>,
    },
    /// Show one plugin: its grants, its settings, its versions.
    Show(One),
    /// Say what the plugins have used since the gateway started: calls, CPU, memory, calls to the host, by plugin and scope.
    Usage {
        /// Only those of this scope.
        #[arg(long, value_name = "SCOPE")]
        scope: Option<String>,
    },
    /// Put a plugin into the chain of a scope: its own, or an available one of a scope above.
    Enable(One),
    /// Take a plugin out of the chain of a scope; mail is not judged by it any more.
    Disable(One),
    /// Go back to the version before, at once; the version in force is withdrawn.
    Rollback(One),
    /// Forget what was installed and switched: what the config says of the plugin counts again, if it says anything.
    Remove(One),
}

#[derive(Debug, Args)]
pub struct One {
    /// The plugin's name.
    pub name: String,
    /// `platform`, `reseller:NAME` or `tenant:NAME`.
    #[arg(long, value_name = "SCOPE")]
    pub scope: String,
}

pub(super) fn run(plugin: &Plugin, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let switch =
        |one: &One, enabled| Request::PluginSwitch { scope: one.scope.clone(), name: one.name.clone(), enabled };
    let named = |one: &One| (one.scope.clone(), one.name.clone());
    match plugin {
        Plugin::New(arguments) => return new::run(arguments, context, streams),
        Plugin::Test(arguments) => return test::run(arguments, context, streams),
        Plugin::Inspect(inspect) => return inspect::run(inspect, context, streams),
        Plugin::Install(arguments) => return install::run(arguments, context, streams),
        Plugin::List { scope } => return installed::list(scope.as_deref(), context, streams),
        Plugin::Usage { scope } => return usage::run(scope.as_deref(), context, streams),
        Plugin::Show(one) => return installed::show(one, context, streams),
        Plugin::Enable(one) => done(&switch(one, true), context, streams)?,
        Plugin::Disable(one) => done(&switch(one, false), context, streams)?,
        Plugin::Rollback(one) => {
            let (scope, name) = named(one);
            done(&Request::PluginRollback { scope, name }, context, streams)?;
        }
        Plugin::Remove(one) => {
            let (scope, name) = named(one);
            done(&Request::PluginRemove { scope, name }, context, streams)?;
        }
    }
    Ok(OK)
}

fn ask(request: &Request, context: &Context<'_>) -> Result<Response, CliError> {
    Ok(Client::connect(&context.control_socket()?)?.ask(request)?)
}

/// What changes something is answered with a sentence.
fn done(request: &Request, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<(), CliError> {
    match ask(request, context)? {
        Response::Done { message, .. } if context.json => {
            writeln!(streams.out, "{}", serde_json::json!({ "ok": true, "message": message }))?;
        }
        Response::Done { message, .. } => writeln!(streams.out, "{}", printable(&message))?,
        other => return Err(other.unexpected().into()),
    }
    Ok(())
}

/// In one word, for a list.
fn condition(state: &State) -> &'static str {
    match state {
        State { broken: Some(_), .. } => "broken",
        State { chains, .. } if chains.is_empty() => "off",
        State { activity: Some(activity), .. } if activity.breaker != BreakerState::Closed => "failing",
        State { on_trial: Some(_), .. } => "on trial",
        _ => "on",
    }
}
