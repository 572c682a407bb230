//! The program `postern`: arguments, start, signals, exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use postern::cli::{self, Cli, Command, Localserve};
use postern::config::{self, Loaded, Settings, Severity};
use postern::host::{self, Compiler};
use postern::log::{EventLog, JsonLines, LogFile, Sink, pump};
use postern::metrics::Metrics;
use postern::server::story::Story;
use postern::server::{Server, descriptor, plugins};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let metrics = Arc::new(Metrics::new()?);
    let sinks = vec![event_sink(&loaded.settings, metrics.clone())?];
    run(loaded, path.to_owned(), metrics, sinks, |_, _| ())
}

fn localserve(arguments: &Localserve) -> anyhow::Result<()> {
    let directory = &arguments.directory;
    let spool = directory.join("spool");
    std::fs::create_dir_all(&spool).with_context(|| format!("can't make {}", spool.display()))?;
    // As a file, so that the other commands find the gateway by it; and whoever wants to play can change it.
    let path = directory.join("localserve.toml");
    if !path.exists() {
        std::fs::write(&path, config::LOCALSERVE).with_context(|| format!("can't write {}", path.display()))?;
    }
    let loaded = config::load(&path, &plugins::builtins())?;
    let metrics = Arc::new(Metrics::new()?);
    let sinks: Vec<Box<dyn Sink>> = vec![event_sink(&loaded.settings, metrics.clone())?, Box::new(Story(io::stdout()))];
    run(loaded, path.clone(), metrics, sinks, |server, settings| welcome(server, settings, &path))
}

fn run(
    loaded: Loaded,
    config: PathBuf,
    metrics: Arc<Metrics>,
    mut sinks: Vec<Box<dyn Sink>>,
    started: impl FnOnce(&Server, &Settings),
) -> anyhow::Result<()> {
    let settings = loaded.settings;
    tracing_subscriber::fmt()
        .with_max_level(settings.log.level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    for problem in &loaded.warnings {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
    descriptor::raise_limit(&settings);
    let (log, events) = EventLog::new(metrics.clone());
    let writer = std::thread::Builder::new().name("event-log".to_owned()).spawn(move || pump(&events, &mut sinks))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let start = Server::start(&settings, Some(config), log, metrics, Compiler::this_program());
        // A large spool takes a while, and a stop meanwhile is one in order: nobody is connected yet.
        let server = tokio::select! {
            server = start => server?,
            () = signals.stop() => return Ok(()),
        };
        for (name, address) in server.addresses() {
            tracing::info!(%address, "listener {name} takes mail");
        }
        if let Some(address) = server.http() {
            tracing::info!(%address, "health and metrics are served");
        }
        started(&server, &settings);
        server.supervise();
        until_stopped(&server, &mut signals).await;
        tokio::select! {
            () = server.stop() => {}
            () = signals.stop() => tracing::warn!("stopped at once, as a second signal wished"),
        }
        anyhow::Ok(())
    });
    runtime.shutdown_timeout(LAST_WORDS);
    // It ends when the last handle of the log is gone. Whoever does not read our output must not keep us here.
    let deadline = std::time::SystemTime::now() + LAST_WORDS;
    while !writer.is_finished() && std::time::SystemTime::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    result
}

/// For events that are not written yet when all else has ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// SIGHUP loads the config anew, beside whatever else goes on; SIGTERM and SIGINT end it.
async fn until_stopped(server: &Server, signals: &mut Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                let live = server.live().clone();
                tokio::spawn(async move {
                    match live.reload().await {
                        Ok(message) => tracing::info!("{message}"),
                        Err(error) => tracing::error!("the old config stays in force\n{error}"),
                    }
                });
            }
        }
    }
}

fn event_sink(settings: &Settings, metrics: Arc<Metrics>) -> anyhow::Result<Box<dyn Sink>> {
    let Some(path) = &settings.log.file else { return Ok(Box::new(JsonLines::new(io::stdout(), metrics))) };
    let file = LogFile::open(path).with_context(|| format!("can't open the log {}", path.display()))?;
    Ok(Box::new(JsonLines::new(file, metrics)))
}

/// What a newcomer needs next.
fn welcome(server: &Server, settings: &Settings, config: &Path) {
    let Some((_, smtp)) = server.addresses().first() else { return };
    let http = server.http().map(|http| format!("http://{http}/metrics")).unwrap_or_default();
    // A closed terminal must not stop mail.
    let _ = writeln!(
        io::stdout(),
        "\nPostern {version} takes mail for example.com at {smtp}, and nothing leaves this machine.\n\
         \n  mail    {maildir}\
         \n  config  {config}\
         \n  events  {events}\
         \n  metrics {http}\n\
         \nSend a first mail from another terminal:\n\
         \n  swaks --server {smtp} --from you@example.org --to someone@example.com\n\
         \n  python3 -c 'import smtplib; smtplib.SMTP(\"{ip}\", {port}).sendmail(\"you@example.org\", \
         \"someone@example.com\", \"From: you@example.org\\r\\nSubject: hello\\r\\n\\r\\nhello\\r\\n\")'\n\
         \nIts story is told here, and again by `postern --config {config} trace ID`. Ctrl-C stops.\n",
        version = env!("CARGO_PKG_VERSION"),
        maildir = config.with_file_name("maildir").join("new").display(),
        config = config.display(),
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
