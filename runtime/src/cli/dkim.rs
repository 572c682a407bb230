//! `postern dkim …`: the keys that mail is signed with, and what DNS must say of them.
//!
//! They are files of the gateway's, so this needs none that runs; a running one learns of a new key by `postern reload`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::terminal::{json_line, printable, table};
use super::{CliError, Context, OK, Streams};
use crate::config::Settings;
use crate::dns::{DnsError, Resolver, zone};
use crate::metrics::Metrics;
use crate::server::setup;
use crate::signing::{Algorithm, Key, Selector, keyring, record_name};
use crate::smtp::Domain;

#[derive(Debug, Subcommand)]
pub enum Dkim {
    /// Make a key and show what to publish of it. Neither a key that is there nor an entry that DNS has is ever replaced.
    Generate(Generate),
    /// List the keys.
    List,
    /// Show what to publish of a domain's keys, as lines of its zone.
    Show {
        #[arg(value_name = "DOMAIN", value_parser = domain)]
        domain: Domain,
        /// Only of this one.
        #[arg(value_name = "SELECTOR", value_parser = Selector::parse)]
        selector: Option<Selector>,
    },
}

#[derive(Debug, Args)]
pub struct Generate {
    #[arg(value_name = "DOMAIN", value_parser = domain)]
    pub domain: Domain,
    /// The key's name below the domain; by default with the month in it, e.g. `postern-2026-11`.
    #[arg(long, value_name = "SELECTOR", value_parser = Selector::parse)]
    pub selector: Option<Selector>,
    /// What every verifier knows is rsa, of 2048 bits; ed25519 is shorter and known to few, so sign with both.
    #[arg(long, value_name = "ALGORITHM", value_enum, default_value_t = Kind::Rsa)]
    pub algorithm: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Rsa,
    Ed25519,
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|_| "this is not a domain".to_owned())
}

pub(super) fn run(dkim: &Dkim, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let settings = context.settings()?;
    match dkim {
        Dkim::Generate(generate) => make(generate, &settings, context.json, streams)?,
        Dkim::List => list(&settings, context.json, streams)?,
        Dkim::Show { domain, selector } => show(&settings, domain, selector.as_ref(), context.json, streams.out)?,
    }
    Ok(OK)
}

fn make(generate: &Generate, settings: &Settings, json: bool, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let directory = &settings.signing.directory;
    let algorithm = match generate.algorithm {
        Kind::Rsa => Algorithm::Rsa,
        Kind::Ed25519 => Algorithm::Ed25519,
    };
    let selector = match &generate.selector {
        Some(selector) => selector.clone(),
        None => default_selector(algorithm, jiff::Timestamp::now()).map_err(failed)?,
    };
    let domain = &generate.domain;
    let path = keyring::path(directory, domain, &selector);
    if path.symlink_metadata().is_ok() {
        return Err(failed(keyring::KeyringError::Exists { path }));
    }
    let name = record_name(domain, &selector);
    let note = match ask_dns(settings, &name)? {
        Published::Nothing => None,
        Published::Key(text) => {
            return Err(CliError::Failed(format!(
                "DNS has an entry {name} already, of a key that is not here: {}\n\
                 Whoever signs with it would be cut off by another one in its place: choose another --selector",
                printable(&text)
            )));
        }
        Published::Unknown(why) => Some(format!("nobody could say whether DNS has {name} already: {why}")),
    };
    let (key, path) = keyring::create(directory, domain, &selector, algorithm).map_err(failed)?;
    let entry = Entry { domain, selector: &selector, key: &key, path };
    if json {
        return Ok(writeln!(streams.out, "{}", json_line(&entry.to_json()?))?);
    }
    if let Some(note) = note {
        writeln!(streams.err, "warning: {}", printable(&note))?;
    }
    writeln!(streams.out, "The key is in {}. To publish:\n\n{}\n", entry.path.display(), entry.zone_line()?)?;
    writeln!(streams.out, "Then `postern reload`, and have the plugin dkim-sign use {selector} for {domain}.")?;
    Ok(())
}

/// Keys are changed every few months: the month tells them apart. Keys of both kinds stand side by side.
fn default_selector(algorithm: Algorithm, now: jiff::Timestamp) -> Result<Selector, impl ToString> {
    let month = now.strftime("%Y-%m");
    Selector::parse(&match algorithm {
        Algorithm::Rsa => format!("postern-{month}"),
        Algorithm::Ed25519 => format!("postern-{month}-ed25519"),
    })
}

fn list(settings: &Settings, json: bool, streams: &mut Streams<'_>) -> Result<(), CliError> {
    for error in settings.signing.keys.errors() {
        writeln!(streams.err, "error: {}", printable(&error.to_string()))?;
    }
    let (entries, out) = (entries(settings), &mut *streams.out);
    if json {
        return entries.iter().try_for_each(|entry| Ok(writeln!(out, "{}", json_line(&entry.to_json()?))?));
    }
    let mut rows = vec![["DOMAIN", "SELECTOR", "ALGORITHM", "BITS", "FILE"].map(str::to_owned).to_vec()];
    for Entry { domain, selector, key, path } in &entries {
        let algorithm = key.algorithm().name().to_owned();
        let file = printable(&path.display().to_string());
        rows.push(vec![domain.to_string(), selector.to_string(), algorithm, key.bits().to_string(), file]);
    }
    Ok(write!(out, "{}", table(&rows))?)
}

fn show(
    settings: &Settings,
    domain: &Domain,
    selector: Option<&Selector>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let wanted = |entry: &Entry<'_>| entry.domain == domain && selector.is_none_or(|wanted| entry.selector == wanted);
    let entries: Vec<_> = entries(settings).into_iter().filter(wanted).collect();
    if entries.is_empty() {
        let which = selector.map(|selector| format!(" {selector}")).unwrap_or_default();
        return Err(CliError::Failed(format!(
            "there is no key{which} of {domain}; `postern dkim generate {domain}` makes one"
        )));
    }
    for entry in entries {
        match json {
            true => writeln!(out, "{}", json_line(&entry.to_json()?))?,
            false => writeln!(out, "{}", entry.zone_line()?)?,
        }
    }
    Ok(())
}

/// A key and where it lies.
struct Entry<'a> {
    domain: &'a Domain,
    selector: &'a Selector,
    key: &'a Key,
    path: PathBuf,
}

fn entries(settings: &Settings) -> Vec<Entry<'_>> {
    let signing = &settings.signing;
    let path = |domain, selector| keyring::path(&signing.directory, domain, selector);
    let keys = signing.keys.iter();
    keys.map(|(domain, selector, key)| Entry { domain, selector, key, path: path(domain, selector) }).collect()
}

impl Entry<'_> {
    fn zone_line(&self) -> Result<String, CliError> {
        let record = self.key.record().map_err(failed)?;
        Ok(zone::txt(&record_name(self.domain, self.selector), record.as_bytes()))
    }

    fn to_json(&self) -> Result<Value, CliError> {
        Ok(json!({
            "domain": self.domain.as_str(),
            "selector": self.selector.as_str(),
            "algorithm": self.key.algorithm().name(),
            "bits": self.key.bits(),
            "file": self.path.display().to_string(),
            "name": record_name(self.domain, self.selector),
            "type": "TXT",
            "text": self.key.record().map_err(failed)?,
            "zone": self.zone_line()?,
        }))
    }
}

/// What DNS has where a key would be published.
#[derive(Debug, PartialEq, Eq)]
enum Published {
    /// No record, or none that is a key's: a wildcard of something else.
    Nothing,
    Key(String),
    Unknown(String),
}

fn ask_dns(settings: &Settings, name: &str) -> Result<Published, CliError> {
    let metrics = Arc::new(Metrics::new().map_err(failed)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Ok(match Resolver::new(setup::dns(settings), metrics) {
            Ok(resolver) => published(&resolver, name).await,
            Err(error) => Published::Unknown(error.to_string()),
        })
    })
}

async fn published(resolver: &Resolver, name: &str) -> Published {
    match resolver.txt(name).await {
        Ok(texts) => {
            let text = texts.iter().map(|text| text.escape_ascii().to_string()).find(|text| is_key(text));
            text.map_or(Published::Nothing, Published::Key)
        }
        Err(DnsError::NotFound) => Published::Nothing,
        Err(error) => Published::Unknown(error.to_string()),
    }
}

/// RFC 6376 §3.6.1: only `p=` must be there. An empty one says that the key was withdrawn, and is to stay.
fn is_key(text: &str) -> bool {
    text.split(';').any(|tag| tag.split_once('=').is_some_and(|(name, _)| name.trim() == "p"))
        && !text.trim_start().starts_with("v=DMARC")
}

fn failed(error: impl ToString) -> CliError {
    CliError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;

    use clap::Parser as _;
    use hickory_resolver::proto::rr::RecordType;

    use super::*;
    use crate::cli::{Cli, Command, FAILED, Tool, run as run_tool};
    use crate::dns::responder::{Answer, Responder, txt};

    /// Code, output, errors of a command line against a config whose DNS does not answer.
    fn postern(config: &std::path::Path, line: &str) -> (u8, String, String) {
        let words = ["postern"].into_iter().chain(line.split(' '));
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Tool(tool @ Tool::Dkim(_)) = cli.command else { panic!("{line}") };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let code = run_tool(&tool, &Context { config, json: cli.json, builtins: &[] }, &mut streams);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn config() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \".\"\n[dns]\nsystem = false\n\
            [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n";
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn r27_a_key_is_made_listed_and_shown() {
        let (directory, config) = config();
        let (code, out, err) = postern(&config, "dkim generate Example.com. --selector s1 --algorithm ed25519");
        assert_eq!(code, OK, "{err}");
        assert!(err.starts_with("warning: nobody could say whether DNS has s1._domainkey.example.com"), "{err}");
        let line = out.lines().find(|line| line.starts_with("s1._domainkey")).unwrap().to_owned();
        assert!(line.starts_with("s1._domainkey.example.com. 3600 IN TXT \"v=DKIM1; k=ed25519; p="), "{line}");
        let (code, out, _) = postern(&config, "dkim generate example.com --json");
        let made: Value = serde_json::from_str(&out).unwrap();
        let selector = made["selector"].as_str().unwrap();
        assert!(code == OK && selector.starts_with("postern-20") && selector.len() == 15, "{made}");
        assert!(made["zone"].as_str().unwrap().contains(" 3600 IN TXT \"v=DKIM1; k=rsa; p=MII"), "{made}");
        assert!(std::path::Path::new(made["file"].as_str().unwrap()).starts_with(directory.path()));

        let (_, out, _) = postern(&config, "dkim list");
        let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
        assert_eq!(rows[1], ["example.com", selector, "rsa-sha256", "2048"]);
        assert_eq!(rows[2], ["example.com", "s1", "ed25519-sha256", "256"]);
        assert_eq!(postern(&config, "dkim list --json").1.lines().count(), 2);
        assert_eq!(postern(&config, "dkim show example.com s1"), (OK, line + "\n", String::new()));
        assert_eq!(postern(&config, "dkim show example.com").1.lines().count(), 2);
        let shown: Value = serde_json::from_str(&postern(&config, "dkim show example.com s1 --json").1).unwrap();
        assert_eq!((&shown["name"], &shown["type"]), (&json!("s1._domainkey.example.com"), &json!("TXT")));
        let (code, _, err) = postern(&config, "dkim show example.org");
        assert!(code == FAILED && err.contains("`postern dkim generate example.org` makes one"), "{err}");
    }

    #[test]
    fn r30_nothing_that_is_there_is_replaced() {
        let (directory, config) = config();
        assert_eq!(postern(&config, "dkim generate example.com --selector s1 --algorithm ed25519").0, OK);
        let file = directory.path().join("keys/example.com/s1.pem");
        let before = std::fs::read(&file).unwrap();
        let (code, _, err) = postern(&config, "dkim generate example.com --selector S1");
        assert!(code == FAILED && err.contains("a key is never written over"), "{err}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
        // A broken one neither, but another is made beside it, which may take its place.
        std::fs::write(&file, "broken").unwrap();
        assert_eq!(postern(&config, "dkim generate example.com --selector s1").0, FAILED);
        assert_eq!(postern(&config, "dkim generate example.com --selector s2 --algorithm ed25519").0, OK);
        let (code, out, err) = postern(&config, "dkim list");
        assert!(code == OK && out.contains(" s2 ") && !out.contains(" s1 "), "{out}");
        assert!(err.starts_with("error: ") && err.contains("s1.pem: it holds no private key"), "{err}");
    }

    #[tokio::test]
    async fn r30_an_entry_that_dns_has_is_seen() {
        let dns = Responder::start().await;
        let key = "v=DKIM1; k=rsa; p=MIIB";
        let set = |name: &str, texts: &[&str]| {
            let records = texts.iter().map(|text| txt(&[text])).collect();
            dns.set(&format!("{name}._domainkey.example.com"), RecordType::TXT, Answer::Records(records));
        };
        set("old", &[key]);
        set("wild", &["v=spf1 -all"]);
        set("gone", &["p="]);
        set("two", &["x", " p = y"]);
        let resolver = dns.resolver();
        let ask = async |name: &str| published(&resolver, &format!("{name}._domainkey.example.com")).await;
        assert_eq!(ask("old").await, Published::Key(key.to_owned()));
        assert_eq!(ask("gone").await, Published::Key("p=".to_owned()));
        assert!(matches!(ask("two").await, Published::Key(_)));
        assert_eq!(ask("wild").await, Published::Nothing);
        assert_eq!(ask("new").await, Published::Nothing);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in [
            "generate",
            "generate a..b",
            "generate x.example --selector a/b",
            "generate x.example --algorithm dsa",
            "show",
        ] {
            let words = ["postern", "dkim"].into_iter().chain(wrong.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
        }
    }
}
