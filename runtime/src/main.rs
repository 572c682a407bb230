//! The program `postern`: arguments, start, signals, exit code.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use postern::cli::{self, Cli, Command, Localserve};
use postern::config::{self, Loaded, Settings};
use postern::host::{self, Compiler};
use postern::log::{EventLog, JsonLines, LogFile, Sink, pump};
use postern::metrics::Metrics;
use postern::server::story::Story;
use postern::server::{Server, plugins};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Serve => serve(&cli.config),
        Command::Localserve(arguments) => localserve(arguments),
        Command::CompilePlugin => return host::compile_child_main(),
        Command::Tool(tool) => return run_tool(tool, &cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A config error is a text of its own, with places and marks.
            match error.downcast_ref::<config::ConfigError>() {
                Some(config) => eprint!("{config}"),
                None => eprintln!("postern: {}", told(&error)),
            }
            let wrong = error.is::<config::ConfigError>();
            ExitCode::from(if wrong { cli::WRONG } else { cli::FAILED })
        }
    }
}

/// What went wrong and why, each cause once: many an error's text ends with that of its cause already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.ends_with(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

fn run_tool(tool: &cli::Tool, cli: &Cli) -> ExitCode {
    let builtins = plugins::builtins();
    let context = cli::Context { config: &cli.config, json: cli.json, builtins: &builtins };
    let (mut input, mut out, mut err) = (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
    let mut streams = cli::Streams { input: &mut input, out: &mut out, err: &mut err };
    ExitCode::from(cli::run(tool, &context, &mut streams))
}

fn serve(path: &Path) -> anyhow::Result<()> {
    let loaded = config::load(path, &plugins::builtins())?;
    let sinks = vec![event_sink(&loaded.settings)?];
    run(loaded, Some(path.to_owned()), sinks, |_, _| ())
}

fn localserve(arguments: &Localserve) -> anyhow::Result<()> {
    let directory = &arguments.directory;
    let spool = directory.join("spool");
    std::fs::create_dir_all(&spool).with_context(|| format!("can't make {}", spool.display()))?;
    let loaded = config::localserve(directory, &plugins::builtins())?;
    let sinks: Vec<Box<dyn Sink>> = vec![event_sink(&loaded.settings)?, Box::new(Story(io::stdout()))];
    run(loaded, None, sinks, |server, settings| welcome(server, settings, directory))
}

fn run(
    loaded: Loaded,
    config: Option<PathBuf>,
    mut sinks: Vec<Box<dyn Sink>>,
    started: impl FnOnce(&Server, &Settings),
) -> anyhow::Result<()> {
    let settings = loaded.settings;
    tracing_subscriber::fmt()
        .with_max_level(settings.log.level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let metrics = Arc::new(Metrics::new()?);
    let (log, events) = EventLog::new(metrics.clone());
    let writer = std::thread::Builder::new().name("event-log".to_owned()).spawn(move || pump(&events, &mut sinks))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let server = Server::start(&settings, config.clone(), log, metrics, compiler()).await?;
        started(&server, &settings);
        until_stopped(&server, config).await?;
        server.stop().await;
        anyhow::Ok(())
    });
    drop(runtime);
    // Ends when the last handle of the log is gone, so that the last events are written.
    let _ = writer.join();
    result
}

/// Plugins are compiled by a child of this same program, so that one made to hurt a compiler hurts nobody.
fn compiler() -> Compiler {
    match std::env::current_exe() {
        Ok(program) => Compiler::Child { program },
        // Without /proc there is no knowing who we are.
        Err(_) => Compiler::InProcess,
    }
}

/// SIGHUP loads the config anew; SIGTERM and SIGINT end it.
async fn until_stopped(server: &Server, config: Option<PathBuf>) -> anyhow::Result<()> {
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reloader = server.reloader(config);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => match reloader.reload().await {
                Ok(message) => tracing::info!("{message}"),
                Err(error) => tracing::error!("the old config stays in force\n{error}"),
            },
        }
    }
}

fn event_sink(settings: &Settings) -> anyhow::Result<Box<dyn Sink>> {
    let Some(path) = &settings.log.file else { return Ok(Box::new(JsonLines(io::stdout()))) };
    let file = LogFile::open(path).with_context(|| format!("can't open the log {}", path.display()))?;
    Ok(Box::new(JsonLines(file)))
}

/// What a newcomer needs next.
fn welcome(server: &Server, settings: &Settings, directory: &Path) {
    let Some((_, smtp)) = server.addresses().first() else { return };
    let http = server.http().map(|http| format!("http://{http}/metrics")).unwrap_or_default();
    println!(
        "\nPostern {version} takes mail for example.com at {smtp}, and nothing leaves this machine.\n\
         \n  mail    {maildir}\
         \n  events  {events}\
         \n  metrics {http}\n\
         \nSend a first mail from another terminal:\n\
         \n  swaks --server {smtp} --from you@example.org --to someone@example.com\n\
         \n  python3 -c 'import smtplib; smtplib.SMTP(\"{ip}\", {port}).sendmail(\"you@example.org\", \
         \"someone@example.com\", \"Subject: hello\\r\\n\\r\\nhello\\r\\n\")'\n\
         \nIts story is told here. Ctrl-C stops.\n",
        version = env!("CARGO_PKG_VERSION"),
        maildir = directory.join("maildir/new").display(),
        events = settings.log.file.as_deref().unwrap_or(Path::new("-")).display(),
        ip = smtp.ip(),
        port = smtp.port(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern::server::ServerError;
    use postern::spool::SpoolError;

    #[test]
    fn a_cause_is_told_once() {
        let spool = ServerError::Spool(SpoolError::Full);
        assert_eq!(told(&spool.into()), "spool: no space left for the spool");
        let log = anyhow::Error::from(io::Error::other("no such directory")).context("can't open the log");
        assert_eq!(told(&log), "can't open the log: no such directory");
    }
}
