//! The command line: what can be asked, and one file for each command that needs no server of its own.
//!
//! Noun, then verb; `--json` everywhere. Exit codes: 0 done, 1 not done, 2 wrong arguments or a wrong config.
//! What runs the gateway (`serve`, `localserve`) and what it runs (`compile-plugin`) is `main`'s.

pub mod check;
pub mod completions;
pub mod control;
pub mod man;
pub mod password;
pub mod plugin;
pub mod queue;
pub mod reload;
pub mod terminal;
pub mod trace;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, ConfigError, Settings};
use crate::mail::MessageId;

/// Postern, a programmable mail gateway.
#[derive(Debug, Parser)]
#[command(name = "postern", version, about, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// The config; the files of conf.d beside it belong to it.
    #[arg(long, global = true, value_name = "FILE", default_value = "postern.toml")]
    pub config: PathBuf,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway.
    Serve,
    /// Run a gateway to try things out: no config, loopback only, mail for example.com goes into a Maildir.
    Localserve(Localserve),
    /// Compile a component from standard input to standard output, in a process of its own.
    #[command(hide = true)]
    CompilePlugin,
    #[command(flatten)]
    Tool(Tool),
}

#[derive(Debug, Args)]
pub struct Localserve {
    /// Where spool and Maildir are made.
    #[arg(long, value_name = "DIRECTORY", default_value = "postern-data")]
    pub directory: PathBuf,
}

/// The commands that [`run`] does.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Check the config and say what is wrong with it.
    Check,
    /// Let the running gateway read its config again; a wrong one changes nothing.
    Reload,
    /// Look after the plugins of the running gateway.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Look at waiting mail and change what becomes of it.
    #[command(subcommand)]
    Queue(Queue),
    /// Tell the story of one message, from the event log.
    Trace {
        #[arg(value_name = "ID", value_parser = message_id)]
        id: MessageId,
    },
    /// Read a password from standard input and print its hash, for `password_hash`.
    Password,
    /// Print what lets a shell complete the commands: bash, zsh, fish, elvish or powershell.
    #[command(hide = true)]
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the manual, a page for each command, into a directory that is there.
    #[command(hide = true)]
    Man {
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List the messages, oldest first.
    List {
        #[command(flatten)]
        selection: control::Selection,
    },
    /// Show one message: envelope, what became of each recipient, header.
    Show(One),
    /// Try to deliver now.
    Flush {
        /// These messages; without any, all that wait and that the options select.
        #[arg(value_name = "ID", value_parser = message_id, conflicts_with = "Selection")]
        ids: Vec<MessageId>,
        #[command(flatten)]
        selection: control::Selection,
    },
    /// Keep a message back until it is released.
    Hold(One),
    /// Let a held or quarantined message go.
    Release(One),
    /// Remove a message for good; nobody is told.
    Delete {
        #[command(flatten)]
        one: One,
        /// Only show what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub struct One {
    #[arg(value_name = "ID", value_parser = message_id)]
    pub id: MessageId,
}

/// Ids are in capitals, people are not always.
fn message_id(text: &str) -> Result<MessageId, crate::mail::id::InvalidMessageId> {
    text.to_ascii_uppercase().parse()
}

/// What every tool gets.
pub struct Context<'a> {
    pub config: &'a Path,
    pub json: bool,
    /// The plugins that are compiled in.
    pub builtins: &'a [&'a str],
}

impl Context<'_> {
    fn settings(&self) -> Result<Settings, CliError> {
        Ok(config::load(self.config, self.builtins)?.settings)
    }
}

/// Standard input, output and error, or a test's.
pub struct Streams<'a> {
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Control(#[from] control::ControlError),
    #[error("{0}")]
    Failed(String),
    /// The arguments, or a file that they name, can't be used.
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Done.
pub const OK: u8 = 0;
/// Understood, but it could not be done.
pub const FAILED: u8 = 1;
/// Wrong arguments (clap's code too) or a wrong config.
pub const WRONG: u8 = 2;

/// Runs one tool; the exit code.
pub fn run(tool: &Tool, context: &Context<'_>, streams: &mut Streams<'_>) -> u8 {
    let result = match tool {
        Tool::Check => check::run(context, streams),
        Tool::Reload => reload::run(context, streams),
        Tool::Plugin(plugin) => plugin::run(plugin, context, streams),
        Tool::Queue(queue) => queue::run(queue, context, streams),
        Tool::Trace { id } => trace::run(*id, context, streams),
        Tool::Password => password::run(context, streams),
        Tool::Completions { shell } => completions::run(*shell, streams),
        Tool::Man { directory } => man::run(directory, streams),
    };
    match result {
        Ok(code) => code,
        // Whoever reads us has seen enough, `head` for one.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(error) => report(&error, context.json, streams),
    }
}

fn report(error: &CliError, json: bool, streams: &mut Streams<'_>) -> u8 {
    // When even this can't be written there is nobody to tell.
    let _ = if json {
        writeln!(streams.out, "{}", serde_json::json!({ "error": error.to_string() }))
    } else if matches!(error, CliError::Config(_)) {
        write!(streams.err, "{error}")
    } else {
        writeln!(streams.err, "postern: {error}")
    };
    if matches!(error, CliError::Config(_) | CliError::Wrong(_)) { WRONG } else { FAILED }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_noun_then_verb() {
        let cli = Cli::try_parse_from(["postern", "queue", "show", "0fn0vkrtbg000", "--json"]).unwrap();
        assert!(cli.json);
        let Command::Tool(Tool::Queue(Queue::Show(one))) = cli.command else { panic!("{cli:?}") };
        assert_eq!(one.id.to_string(), "0FN0VKRTBG000");
        let cli = Cli::try_parse_from(["postern", "localserve"]).unwrap();
        assert!(matches!(cli.command, Command::Localserve(l) if l.directory == Path::new("postern-data")));
        for wrong in [&["postern", "queue", "show", "../../etc/x"][..], &["postern", "queue"], &["postern", "trace"]] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn messages_are_selected_by_options() {
        let parse = |text: &str| Cli::try_parse_from(text.split('|')).map(|cli| cli.command);
        let options =
            "--state|waiting|--tenant|acme|--from|<>|--to|@example.org|--destination|mx:example.org|--age|1h 30m";
        let text = |text: &str| Some(text.to_owned());
        let expected = control::Selection {
            state: Some(control::State::Waiting),
            tenant: text("acme"),
            from: text("<>"),
            to: text("@example.org"),
            destination: text("mx:example.org"),
            age: Some(5400),
        };
        for verb in ["list", "flush"] {
            let command = parse(&format!("postern|queue|{verb}|{options}")).unwrap();
            let Command::Tool(Tool::Queue(Queue::List { selection } | Queue::Flush { selection, .. })) = command else {
                panic!("{command:?}")
            };
            assert_eq!(selection, expected, "{verb}");
        }
        for wrong in ["list|--age|soon", "list|0FN0VKRTBG000", "flush|0FN0VKRTBG000|--tenant|acme"] {
            assert!(parse(&format!("postern|queue|{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_config_is_exit_code_two() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("postern.toml");
        std::fs::write(&config, "[server]\nhostname = 1\n").unwrap();
        for (tool, json) in [(Tool::Check, false), (Tool::Check, true), (Tool::Reload, false)] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
            let context = Context { config: &config, json, builtins: &[] };
            assert_eq!(run(&tool, &context, &mut streams), WRONG);
            let text = String::from_utf8([out, err].concat()).unwrap();
            assert!(text.contains("unknown key `hostname`"), "{text}");
        }
    }
}
