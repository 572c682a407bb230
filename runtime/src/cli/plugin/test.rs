//! `postern plugin test`: reads what a rehearsal needs from files, runs it and shows how it went.

mod show;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::settings::Options;
use crate::cli::{CliError, Context, FAILED, OK, Streams};
use crate::config::value::FromText;
use crate::config::{self, Identity, Installed, Known};
use crate::host::{Compiler, PluginSettings};
use crate::pipeline::Scope;
use crate::rehearsal::scanners::Scanners;
use crate::rehearsal::script::{Script, Step};
use crate::rehearsal::zone::Zone;
use crate::rehearsal::{self, Rehearsal, RehearsalError};
use crate::server::plugins;
use crate::smtp::{Domain, Mailbox};

/// Octets of the files that people write.
const MAX_TEXT: u64 = 4 << 20;
/// Octets of a mail.
const MAX_MAIL: u64 = 48 << 20;
/// Noon of the first day of 2026, UTC: the same in every run.
const NOW: &str = "2026-01-01T12:00:00Z";

#[derive(Debug, Args)]
pub struct Arguments {
    /// The plugin's file, as its build has made it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub options: Options,
    /// What the client says and expects to hear; without it the mail of --eml is sent from its From to its To.
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// The mail that `@ eml` of the session sends.
    #[arg(long, value_name = "FILE")]
    pub eml: Option<PathBuf>,
    /// What is in DNS: names with their records, TOML. What is not in it is not found; nobody is asked.
    #[arg(long, value_name = "FILE")]
    pub dns: Option<PathBuf>,
    /// What scanners say, by their names, TOML. One that is not in it is unavailable.
    #[arg(long, value_name = "FILE")]
    pub scanners: Option<PathBuf>,
    /// A domain of the tenant; without any, those of all recipients of the session.
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = from_text::<Domain>)]
    pub domains: Vec<Domain>,
    /// In whose chain it stands: platform, reseller:NAME or tenant:NAME.
    #[arg(long, value_name = "SCOPE", default_value = "tenant:test", value_parser = from_text::<Scope>)]
    pub scope: Scope,
    /// The name of its entry; without it, that of the file.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What the plugin takes for now; it does not go on.
    #[arg(long, value_name = "TIME", default_value = NOW)]
    pub now: jiff::Timestamp,
    /// Where compiled code is kept; without it, below the user's own cache.
    #[arg(long, value_name = "DIRECTORY")]
    pub cache: Option<PathBuf>,
}

fn from_text<T: FromText>(text: &str) -> Result<T, String> {
    T::from_text(text)
}

pub(super) fn run(arguments: &Arguments, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    run_with(arguments, Compiler::this_program(), context.json, streams)
}

/// With the compiler that production has, or a test's.
fn run_with(arguments: &Arguments, compiler: Compiler, json: bool, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let rehearsal = prepare(arguments, compiler)?;
    let failed = |error: io::Error| CliError::Failed(error.to_string());
    // One thread: what the plugin costs is not blurred by what else is going on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let report = match runtime.block_on(rehearsal::run(rehearsal)) {
        Ok(report) => report,
        Err(RehearsalError::Load(error)) => {
            return Err(CliError::Failed(format!("{} is not loaded: {error}", arguments.file.display())));
        }
        Err(error) => return Err(CliError::Failed(error.to_string())),
    };
    let sum = if json { show::as_json(&report, streams.out)? } else { show::as_text(&report, streams.out)? };
    Ok(if sum.is_well() { OK } else { FAILED })
}

fn prepare(arguments: &Arguments, compiler: Compiler) -> Result<Rehearsal, CliError> {
    let source = crate::host::read_source(&arguments.file);
    let source = source.map_err(|error| in_file(Some(&arguments.file), error.to_string()))?;
    let message = arguments.eml.as_deref().map(|path| read(path, MAX_MAIL)).transpose()?;
    let script = match (&arguments.session, &message) {
        (Some(path), _) => {
            Script::parse(&text(path)?).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?
        }
        (None, Some(message)) => send(message).map_err(|error| in_file(arguments.eml.as_deref(), error))?,
        (None, None) => return Err(CliError::Usage("give a --session, or a mail with --eml, or both".to_owned())),
    };
    match (script.wants_message(), &message) {
        (true, None) => return Err(CliError::Usage("the session says `@ eml`: give the mail with --eml".to_owned())),
        (false, Some(_)) => {
            let problem = "the session does not send the mail of --eml: write `@ eml` where it comes, after DATA";
            return Err(CliError::Usage(problem.to_owned()));
        }
        _ => {}
    }
    let zone = match &arguments.dns {
        None => Zone::default(),
        Some(path) => Zone::parse(&text(path)?).map_err(|error| in_file(Some(path), error))?,
    };
    let scanners = match &arguments.scanners {
        None => Scanners::default(),
        Some(path) => Scanners::parse(&text(path)?).map_err(|error| in_file(Some(path), error))?,
    };
    let domains = if arguments.domains.is_empty() { domains_of(&script) } else { arguments.domains.clone() };
    let declared = declared(arguments)?;
    Ok(Rehearsal {
        plugin: plugin(&declared, source.into())?,
        directions: declared.directions,
        on_failure: declared.plugin.on_failure,
        domains,
        script,
        message: message.unwrap_or_default(),
        zone,
        scanners,
        now: u64::try_from(arguments.now.as_millisecond()).unwrap_or(0),
        compiler,
        cache: cache(arguments)?,
    })
}

/// Its settings, checked as those of an entry of the config are.
fn declared(arguments: &Arguments) -> Result<Installed, CliError> {
    let name = arguments.name.clone().unwrap_or_else(|| name_of(&arguments.file));
    let written = arguments.options.text()?.unwrap_or_default();
    let identity = Identity { name: &name, scope: &arguments.scope, component: &arguments.file };
    Ok(config::declare(&written.text, &written.path, identity, Known::Anything, &[])?)
}

fn plugin(declared: &Installed, source: Arc<[u8]>) -> Result<PluginSettings, CliError> {
    let plugin = &declared.plugin;
    let tables =
        plugins::tables(plugin, crate::host::table::Kept::once).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(plugins::to_load(plugin, source, tables))
}

/// Its stem, where that is a name for a plugin.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let is_name = (1..=64).contains(&stem.len()) && stem.bytes().all(legal);
    if is_name { stem.to_owned() } else { "plugin".to_owned() }
}

fn in_file(path: Option<&Path>, error: String) -> CliError {
    CliError::Usage(path.map_or_else(|| error.clone(), |path| format!("{}: {error}", path.display())))
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut content));
    match read {
        Err(error) => Err(in_file(Some(path), error.to_string())),
        Ok(octets) if octets as u64 > max => Err(in_file(Some(path), format!("more than {max} octets"))),
        Ok(_) => Ok(content),
    }
}

fn text(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read(path, MAX_TEXT)?).map_err(|_| in_file(Some(path), "not UTF-8".to_owned()))
}

/// The session for a mail alone: from its `From` to all of its `To` and `Cc`.
fn send(message: &[u8]) -> Result<Script, String> {
    let mut addresses = addresses(message);
    let recipients = addresses.split_off(addresses.iter().take_while(|(field, _)| *field == Field::From).count());
    if recipients.is_empty() {
        return Err("no address in To or Cc: say with --session who sends it, and to whom".to_owned());
    }
    let sender = addresses.first().map(|(_, mailbox)| mailbox.to_string()).unwrap_or_default();
    let host = addresses
        .first()
        .and_then(|(_, mailbox)| mailbox.domain())
        .map_or("client.example".to_owned(), |domain| format!("mail.{domain}"));
    let line = |text: String| (0, Step::Send(format!("{text}\r\n").into_bytes()));
    let mut steps = vec![line(format!("EHLO {host}")), line(format!("MAIL FROM:<{sender}>"))];
    steps.extend(recipients.iter().map(|(_, mailbox)| line(format!("RCPT TO:<{mailbox}>"))));
    steps.extend([line("DATA".to_owned()), (0, Step::Message), line("QUIT".to_owned())]);
    Ok(Script { steps, ..Script::default() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    From,
    Recipient,
}

/// The sender first, if there is one that an envelope can have.
fn addresses(message: &[u8]) -> Vec<(Field, Mailbox)> {
    let parsed = mail_parser::MessageParser::new().with_address_headers().parse_headers(message);
    let Some(parsed) = parsed else { return Vec::new() };
    let of = |field: Field, list: Option<&mail_parser::Address<'_>>| -> Vec<_> {
        let texts = list.into_iter().flat_map(|list| list.iter()).filter_map(|one| one.address.as_deref());
        texts.filter_map(|text| Mailbox::parse(text).ok()).map(|mailbox| (field, mailbox)).collect()
    };
    let mut found = of(Field::From, parsed.from());
    found.truncate(1);
    found.extend(of(Field::Recipient, parsed.to()));
    found.extend(of(Field::Recipient, parsed.cc()));
    found
}

/// Of all that the script names as recipients: the tenant has them all.
fn domains_of(script: &Script) -> Vec<Domain> {
    let lines = script.steps.iter().filter_map(|(_, step)| match step {
        Step::Send(octets) => std::str::from_utf8(octets).ok(),
        _ => None,
    });
    let mut domains: Vec<Domain> = lines.flat_map(str::lines).filter_map(recipient_domain).collect();
    domains.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    domains.dedup();
    domains
}

fn recipient_domain(line: &str) -> Option<Domain> {
    let (verb, rest) = line.split_at_checked("RCPT TO:".len())?;
    let path = verb.eq_ignore_ascii_case("RCPT TO:").then(|| rest.trim_start())?;
    let mailbox = path.strip_prefix('<')?.split_once('>')?.0;
    Mailbox::parse(mailbox).ok()?.domain().cloned()
}

/// Below the user's cache, which is made where there is none; `None` where the user has no home.
fn cache(arguments: &Arguments) -> Result<Option<PathBuf>, CliError> {
    if let Some(directory) = &arguments.cache {
        return Ok(Some(directory.clone()));
    }
    #[expect(clippy::disallowed_methods, reason = "where a user's cache lies is no config of the gateway")]
    let (own, home) = (std::env::var("XDG_CACHE_HOME"), std::env::var("HOME"));
    // The base directory specification: what is not absolute is not obeyed.
    let absolute = |text: Result<String, _>| text.ok().map(PathBuf::from).filter(|path| path.is_absolute());
    let Some(base) = absolute(own).or_else(|| absolute(home).map(|home| home.join(".cache"))) else { return Ok(None) };
    std::fs::create_dir_all(&base).map_err(|error| in_file(Some(&base), format!("{error}; say with --cache where")))?;
    Ok(Some(base.join("postern")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::Value;

    use super::*;
    use crate::cli::plugin::Plugin;
    use crate::cli::{Cli, Command, Tool, WRONG};

    /// One of our own plugins, as `plugins/build` has left it.
    fn builtin(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/plugins/{name}.wasm"))
    }

    struct Desk {
        directory: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
            let path = self.directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        }

        /// Exit code, and all that was said.
        fn test(&self, plugin: &Path, options: &[&str]) -> (u8, String) {
            let cache = self.directory.path().join("cache");
            let arguments = ["postern", "plugin", "test", plugin.to_str().unwrap(), "--cache", cache.to_str().unwrap()];
            let cli = Cli::try_parse_from(arguments.iter().chain(options)).unwrap();
            let Command::Tool(Tool::Plugin(Plugin::Test(arguments))) = cli.command else { panic!("another command") };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
            let code = match run_with(&arguments, Compiler::InProcess, cli.json, &mut streams) {
                Ok(code) => code,
                Err(error) => crate::cli::report(&error, cli.json, &mut streams),
            };
            (code, String::from_utf8([out, err].concat()).unwrap())
        }
    }

    const CONFIG: &str = "[config]\nrequire_fqdn_helo = true\nrequire_helo_in_dns = true\nrequire_client_name = true\n";
    const ZONE: &str = "[\"mail.example.org\"]\na = \"192.0.2.7\"\n[\"192.0.2.7\"]\nptr = \"mail.example.org\"\n\
        [\"slow.example\"]\nfails = \"temporary\"\n";
    const MAIL: &str = "From: Ann <ann@example.org>\nTo: bob@example.com, Eve <eve@example.com>\nSubject: x\n\n.dot\n";

    #[test]
    fn scanners_say_what_a_file_says() {
        let desk = Desk::new();
        let mail = desk.file("a.eml", MAIL);
        let settings = desk.file("s.toml", "grants = [\"metrics\", \"scan\"]\nscanners = [\"clamav\"]\n");
        let infected = desk.file("infected.toml", "[clamav]\nvirus = \"Some.Virus\"\n");
        let given = ["--eml", &mail, "--settings", &settings];
        let (code, said) = desk.test(&builtin("antivirus"), &[&given[..], &["--scanners", &infected]].concat());
        assert_eq!(code, OK, "{said}");
        assert!(said.contains("data: reject 550 5.7.1 This mail carries a virus: Some.Virus"), "{said}");
        let (_, said) = desk.test(&builtin("antivirus"), &given);
        assert!(said.contains("data: defer 451 4.7.1") && said.contains("not in the file of --scanners"), "{said}");
        let wrong = desk.file("wrong.toml", "[clamav]\n");
        let (code, said) = desk.test(&builtin("antivirus"), &[&given[..], &["--scanners", &wrong]].concat());
        assert!(code != OK && said.contains("wrong.toml: clamav: one of"), "{said}");
    }

    #[test]
    fn a_session_is_played_and_its_expectations_are_checked() {
        let desk = Desk::new();
        let session = "@ client 192.0.2.7\nC: EHLO mail.example.org\nS...: 250\nC: MAIL FROM:<ann@example.org>\n\
            C: RCPT TO:<bob@example.com>\nS: 250 *\nS: 250 *\n@ judged mail-from next\nC: DATA\nS: 354 *\n@ eml\nS: 250 *\n\
            C: EHLO slow.example\nS...: 250\nC: MAIL FROM:<>\nS: 250 *\nC: RCPT TO:<bob@example.com>\nS: 451 4.7.0 *\n\
            C: QUIT\nS: 221 *\n@ close\n";
        let files = [
            desk.file("s.smtp", session),
            desk.file("a.eml", MAIL),
            desk.file("zone.toml", ZONE),
            desk.file("config.toml", CONFIG),
        ];
        let [session, mail, zone, config] = &files;
        let given = [
            "--eml",
            mail,
            "--dns",
            zone,
            "--settings",
            config,
            "--grant",
            "dns",
            "--grant",
            "counters",
            "--grant",
            "metrics",
        ];
        let plugin = builtin("connection-policy");
        let (code, said) = desk.test(&plugin, &[&["--session", session], &given[..]].concat());
        assert_eq!(code, OK, "{said}");
        for part in [
            "connection-policy for tenant:test: connect, mail-from, rcpt; compiled, loaded in ",
            "C: EHLO mail.example.org\n",
            "   mail-from: next   [cpu ",
            "   mail-from: defer 451 4.7.0 Your HELO name can't be looked up now   [cpu ",
            "   goes to the tenant's destination: bob@example.com\n",
            "S: 221 ",
            "   (the gateway closes)\n",
            "\n6 calls, 0 failed; ",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        let (_, again) = desk.test(&plugin, &[&["--session", session], &given[..]].concat());
        assert!(again.contains("compiled earlier"), "{again}");

        let wrong = desk.file("wrong.smtp", "C: EHLO x\n@ judged data next\n@ close\nC: NOOP\nS: 550 *\nC: RSET\n");
        let (code, said) =
            desk.test(&plugin, &["--session", &wrong, "--grant", "dns", "--grant", "counters", "--grant", "metrics"]);
        assert_eq!(code, FAILED, "{said}");
        for part in [
            "!  line 2: expected data next, got it was not asked at data",
            "!  line 3: expected a closed connection, got an open one",
            "!  line 5: expected 550 *, got 250 2.0.0 Ok",
            "3 expectations of the session did not hold",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!said.contains("RSET"), "{said}");
    }

    #[test]
    fn a_message_that_is_not_asked_for_is_not_sent() {
        let desk = Desk::new();
        let mail = desk.file("a.eml", MAIL);
        let config = desk.file("config.toml", CONFIG);
        let options =
            ["--eml", &mail, "--settings", &config, "--grant", "dns", "--grant", "counters", "--grant", "metrics"];
        let (code, said) = desk.test(&builtin("connection-policy"), &options);
        assert_eq!(code, OK, "{said}");
        assert!(said.contains("reject 550 5.7.25 Your address has no name in DNS"), "{said}");
        assert!(said.contains("S: 554 5.5.1 No valid recipients\n   (the message is not sent"), "{said}");
    }

    #[test]
    fn a_mail_alone_is_sent_to_whom_it_names() {
        let desk = Desk::new();
        let mail = desk.file("a.eml", MAIL);
        let rules = "[[config.rules]]\nname = \"eve\"\nrecipient = [\"eve@example.com\"]\nto = \"smart-host:bulk\"\n";
        let config = desk.file("config.toml", rules);
        let options = [
            "--eml",
            &mail,
            "--settings",
            &config,
            "--grant",
            "route:bulk",
            "--grant",
            "metrics",
            "--grant",
            "tables",
            "--json",
        ];
        let (code, said) = desk.test(&builtin("routing"), &options);
        assert_eq!(code, OK, "{said}");
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
        assert_eq!(of("said")[0]["text"], "EHLO mail.example.org");
        assert_eq!(of("loaded")[0]["stages"], serde_json::json!(["deliver"]));
        let hook = of("hook")[0];
        assert_eq!((&hook["stage"], &hook["verdict"]), (&"deliver".into(), &"next".into()), "{hook}");
        assert_eq!(hook["edits"][0], "sets the route smart-host:bulk for eve@example.com", "{hook}");
        let routes = &of("accepted")[0]["routes"];
        assert_eq!(routes[0]["route"], "to the tenant's destination", "{routes}");
        assert_eq!(routes[1], serde_json::json!({ "to": "eve@example.com", "route": "smart-host:bulk" }));
        assert_eq!(of("sum")[0]["ok"], true);
    }

    #[test]
    fn a_plugin_that_is_not_loaded_is_a_failure() {
        let desk = Desk::new();
        let mail = desk.file("a.eml", MAIL);
        let (code, said) = desk.test(&builtin("connection-policy"), &["--eml", &mail]);
        assert_eq!(
            (code, said.contains("does not grant: add \"counters\", \"dns\", \"metrics\"")),
            (FAILED, true),
            "{said}"
        );
        let config = desk.file("settings.toml", "config = { rulez = [] }");
        let (code, said) = desk.test(
            &builtin("routing"),
            &["--eml", &mail, "--settings", &config, "--grant", "metrics", "--grant", "tables"],
        );
        assert_eq!((code, said.contains("unknown field `rulez`")), (FAILED, true), "{said}");
    }

    #[test]
    fn files_that_can_not_be_used_are_named() {
        let desk = Desk::new();
        let (mail, nobody) = (desk.file("a.eml", MAIL), desk.file("nobody.eml", "Subject: x\n\nx\n"));
        let (bad, binary) = (desk.file("bad.smtp", "C: x\nX: y\n"), desk.file("binary.toml", b"\xff"));
        let (eml, plain) = (desk.file("eml.smtp", "@ eml\n"), desk.file("plain.smtp", "C: NOOP\n"));
        let list = desk.file("list.toml", "config = []");
        let table = desk.file("table.toml", "grants = [\"tables\"]\ntables = { x = \"t.csv\" }");
        for (options, expected) in [
            (&[][..], "give a --session, or a mail with --eml"),
            (&["--session", "/nowhere/s.smtp"], "/nowhere/s.smtp: "),
            (&["--session", &bad], "bad.smtp: line 2: no such line: X: y"),
            (&["--session", &eml], "give the mail with --eml"),
            (&["--session", &plain, "--eml", &mail], "the session does not send the mail"),
            (&["--eml", &nobody], "no address in To or Cc"),
            (&["--eml", &mail, "--dns", &binary], "binary.toml: not UTF-8"),
            (&["--eml", &mail, "--dns", &bad], "bad.smtp: TOML"),
            (&["--eml", &mail, "--settings", &list], "list.toml:1:10"),
            (&["--eml", &mail, "--settings", &table], "t.csv: No such file"),
        ] {
            let (code, said) = desk.test(&builtin("routing"), options);
            assert_eq!((code, said.contains(expected)), (WRONG, true), "{options:?}: {said}");
        }
        let (code, _) = desk.test(Path::new("/nowhere/x.wasm"), &["--eml", &mail]);
        assert_eq!(code, WRONG);
    }

    #[test]
    fn options_are_checked_when_they_are_read() {
        let parse = |options: &str| {
            Cli::try_parse_from(["postern", "plugin", "test", "x.wasm"].into_iter().chain(options.split(' ')))
        };
        for wrong in ["--scope all", "--domain a..b", "--now yesterday"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tenant_has_the_domains_of_all_recipients() {
        let script = "C: RCPT TO:<a@b.example>\nC: rcpt to: <c@d.example> NOTIFY=NEVER\nC: RCPT TO:<x@b.example>\n\
            C: RCPT TO:<x@[192.0.2.1]>\nC: RCPT TO:<postmaster>\nC: RCPT TO:\n";
        let domains = domains_of(&Script::parse(script).unwrap());
        assert_eq!(domains.iter().map(Domain::as_str).collect::<Vec<_>>(), ["b.example", "d.example"]);
    }
}
