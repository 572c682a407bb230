//! The command line: what can be asked, and one file for each command that needs no server of its own.
//!
//! Noun, then verb; `--json` everywhere. Exit codes: 0 done, 1 not done, 2 wrong arguments or a wrong config,
//! 3 nobody could say (DNS had no answer).
//! What runs the gateway (`serve`, `localserve`) and what it runs (`compile-plugin`) is `main`'s.

pub mod check;
pub mod completions;
pub mod config;
pub mod control;
pub mod dkim;
pub mod dns;
pub mod man;
pub mod password;
pub mod plugin;
pub mod queue;
pub mod reload;
pub mod route;
pub mod status;
pub mod terminal;
pub mod trace;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Settings, Whereabouts};
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
    Check(Check),
    /// Show the config.
    #[command(subcommand)]
    Config(Config),
    /// Show how the running gateway is: whether it takes mail, its queue, its disk, its plugins.
    Status,
    /// Let the running gateway read its config again; a wrong one changes nothing.
    Reload,
    /// Look after the plugins of the running gateway.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Look at waiting mail and change what becomes of it.
    #[command(subcommand)]
    Queue(Queue),
    /// Ask where mail goes.
    #[command(subcommand)]
    Route(route::Route),
    /// Compare DNS with what it should say, and tell what to publish.
    #[command(subcommand)]
    Dns(dns::Dns),
    /// Look after the keys that mail is signed with.
    #[command(subcommand)]
    Dkim(dkim::Dkim),
    /// Tell the story of one message, from the event log; or follow the log.
    Trace(Trace),
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

#[derive(Debug, Default, Args)]
pub struct Check {
    /// Also load all plugins, resolve all routes, and look at certificates, disk, log and ports.
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print the config as it is written in all its files, in TOML; what is secret is masked.
    Show {
        /// With the defaults of everything that is not written, and complete paths.
        #[arg(long)]
        effective: bool,
        /// Say where each value is written.
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Debug, Args)]
pub struct Trace {
    /// A message's id, its Message-ID, or an address that it came from or goes to; with --live also a session, a tenant or
    /// a plugin.
    #[arg(value_name = "WHAT", required_unless_present = "live")]
    pub what: Option<String>,
    /// Show events as they come, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["limit", "since"])]
    pub live: bool,
    /// List at most so many messages, the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Only what has happened in this time, e.g. `2h`.
    #[arg(long, value_name = "DURATION", value_parser = control::seconds)]
    pub since: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List the messages, oldest first.
    List {
        #[command(flatten)]
        selection: control::Selection,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Show one message: envelope, what became of each recipient, header.
    Show(One),
    /// Try to deliver now.
    Flush(Which),
    /// Keep messages back until they are released.
    Hold(Which),
    /// Let held or quarantined messages go.
    Release(Which),
    /// Remove messages for good; nobody is told.
    Delete(Which),
}

/// Which messages a verb is for. Nothing defaults to all.
#[derive(Debug, Default, Args)]
pub struct Which {
    /// These messages.
    #[arg(value_name = "ID", value_parser = message_id, conflicts_with = "Selection")]
    pub ids: Vec<MessageId>,
    #[command(flatten)]
    pub selection: control::Selection,
    /// All messages.
    #[arg(long, conflicts_with_all = ["ids", "Selection"])]
    pub all: bool,
    /// Only show which messages would be touched.
    #[arg(long)]
    pub dry_run: bool,
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
        Ok(crate::config::load(self.config, self.builtins)?.settings)
    }

    /// Of the running gateway, which a config that is wrong by now must not cut us off from.
    fn control_socket(&self) -> Result<PathBuf, CliError> {
        match Whereabouts::read(self.config).control_socket() {
            Some(socket) => Ok(socket),
            None => Ok(self.settings()?.control_socket()),
        }
    }

    /// The event log; `None`: the config names none.
    fn event_log(&self) -> Result<Option<PathBuf>, CliError> {
        match Whereabouts::read(self.config).log {
            Some(log) => Ok(Some(log)),
            None => Ok(self.settings()?.log.file),
        }
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
    /// The arguments make no sense together, or a file that they name can't be used.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// Another time there may be an answer.
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Done.
pub const OK: u8 = 0;
/// Understood, but it could not be done.
pub const FAILED: u8 = 1;
/// Wrong arguments (clap's code too) or a wrong config.
pub const WRONG: u8 = 2;
/// What was asked could not be found out: right or wrong, nobody knows.
pub const UNKNOWN: u8 = 3;

/// Runs one tool; the exit code.
pub fn run(tool: &Tool, context: &Context<'_>, streams: &mut Streams<'_>) -> u8 {
    let result = match tool {
        Tool::Check(check) => check::run(check, context, streams),
        Tool::Config(Config::Show { effective, origin }) => config::show(*effective, *origin, context, streams),
        Tool::Status => status::run(context, streams),
        Tool::Reload => reload::run(context, streams),
        Tool::Plugin(plugin) => plugin::run(plugin, context, streams),
        Tool::Queue(queue) => queue::run(queue, context, streams),
        Tool::Route(route) => route::run(route, context, streams),
        Tool::Dns(dns) => dns::run(dns, context, streams),
        Tool::Dkim(dkim) => dkim::run(dkim, context, streams),
        Tool::Trace(trace) => trace::run(trace, context, streams),
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
    let _ = if let (true, CliError::Config(config)) = (json, error) {
        let answer = serde_json::json!({ "error": "the config can't be used", "problems": config.problems });
        writeln!(streams.out, "{answer}")
    } else if json {
        writeln!(streams.out, "{}", serde_json::json!({ "error": error.to_string() }))
    } else if matches!(error, CliError::Config(_)) {
        write!(streams.err, "{error}")
    } else {
        writeln!(streams.err, "postern: {error}")
    };
    let invalid =
        matches!(error, CliError::Control(control::ControlError::Refused { kind: control::ErrorKind::Invalid, .. }));
    match error {
        _ if invalid => WRONG,
        CliError::Config(_) | CliError::Usage(_) => WRONG,
        CliError::Unknown(_) => UNKNOWN,
        _ => FAILED,
    }
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
        let options = "--state|waiting|--tenant|acme|--from|<>|--to|@example.org|--domain|@Example.ORG|--destination|mx:example.org|\
             --age|1h 30m|--error|greylisted";
        let text = |text: &str| Some(text.to_owned());
        let expected = control::Selection {
            state: Some(control::State::Waiting),
            tenant: text("acme"),
            from: text("<>"),
            to: text("@example.org"),
            domain: text("example.org"),
            destination: text("mx:example.org"),
            age: Some(5400),
            error: text("greylisted"),
        };
        for verb in ["list", "flush", "hold", "release", "delete|--dry-run"] {
            let command = parse(&format!("postern|queue|{verb}|{options}")).unwrap();
            let Command::Tool(Tool::Queue(queue)) = command else { panic!("{command:?}") };
            let selection = match queue {
                Queue::List { selection, .. } => selection,
                Queue::Flush(w) | Queue::Hold(w) | Queue::Release(w) | Queue::Delete(w) => w.selection,
                Queue::Show(_) => panic!("{verb}"),
            };
            assert_eq!(selection, expected, "{verb}");
        }
        for right in ["flush|--all", "hold|0FN0VKRTBG000|0fn0vkrtbg001", "list|--limit|5"] {
            assert!(parse(&format!("postern|queue|{right}")).is_ok(), "{right}");
        }
        for wrong in [
            "list|--age|soon",
            "list|0FN0VKRTBG000",
            "flush|0FN0VKRTBG000|--tenant|acme",
            "delete|--all|--tenant|acme",
            "delete|--all|0FN0VKRTBG000",
            "list|--error|",
            "list|--domain|a b",
        ] {
            assert!(parse(&format!("postern|queue|{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_config_is_exit_code_two() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("postern.toml");
        std::fs::write(&config, "[server]\nhostname = 1\n").unwrap();
        for (tool, json) in
            [(Tool::Check(Check::default()), false), (Tool::Check(Check::default()), true), (Tool::Reload, false)]
        {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
            let context = Context { config: &config, json, builtins: &[] };
            assert_eq!(run(&tool, &context, &mut streams), WRONG);
            let text = String::from_utf8([out, err].concat()).unwrap();
            assert!(text.contains("unknown key `hostname`"), "{text}");
        }
    }
}
