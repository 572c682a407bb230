//! The config as it is written in all its files, and as it is in force: for `postern config show`.
//!
//! What is written is shown as it stands there, and every default comes out of the [`Settings`] that the gateway uses, so
//! this can't say anything else than what it does. No secret is shown: a password is named by its file or variable, and
//! a hash, or anything that sounds like a secret in a plugin's own config, is masked.

mod default;

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::problem::{ConfigError, Findings};
use super::settings::Settings;
use super::source::{Sources, Span};

/// Sections in the order of the manual, lists element by element.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// As in its header.
    pub name: &'static str,
    /// `[[name]]`.
    pub is_list: bool,
    pub keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub name: &'static str,
    /// `None`: it is not written, and there is no default.
    pub value: Option<Value>,
    /// `None`: a default.
    pub origin: Option<Origin>,
}

/// Where a value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
}

/// In place of a secret.
pub const MASK: &str = "***";
/// Keys, anywhere, whose text is masked; but for those that only say where the secret is.
const SECRETS: [&str; 6] = ["password", "secret", "token", "api_key", "apikey", "private_key"];
/// Keys whose text is a path, relative to the file where it stands.
const PATHS: [&str; 8] =
    ["certificate", "key", "directory", "authorities", "password_file", "file", "source", "tables"];

/// Reads the config as [`load`](super::load) does. `effective`: with defaults and complete paths.
pub fn show(path: &Path, builtins: &[&str], effective: bool) -> Result<Shown, ConfigError> {
    let mut findings = Findings::default();
    let sources = Sources::read(path, &mut findings);
    let settings = super::from_sources(&sources, builtins, findings)?.settings;
    let root = sources.parse(&mut Findings::default());
    Ok(Shower { sources: &sources, settings: &settings, effective }.sections(&root))
}

/// A key's value when it is not written.
enum Filled {
    /// As written, else this.
    Default(&'static str, Option<Value>),
    /// Always this, which says more than what is written: with defaults within.
    Resolved(&'static str, Option<Value>),
}

struct Shower<'a> {
    sources: &'a Sources,
    settings: &'a Settings,
    effective: bool,
}

impl Shower<'_> {
    fn sections(&self, root: &DeTable<'_>) -> Shown {
        let settings = self.settings;
        let mut sections = Vec::new();
        let one = |name: &'static str| table_of(root, name);
        let mut single = |name, written: Option<&DeTable<'_>>, filled: Vec<Filled>| {
            sections.extend(self.section(name, false, written, filled));
        };
        single("server", one("server"), default::server(settings));
        single("server.http", one("server").and_then(|server| table_of(server, "http")), default::http(settings));
        single("tls", one("tls"), default::tls());
        single("spool", one("spool"), default::spool(settings));
        single("queue", one("queue"), default::queue(settings));
        single("delivery", one("delivery"), default::delivery(settings));
        single("dns", one("dns"), default::dns(settings));
        single("call_ahead", one("call_ahead"), default::call_ahead(settings));
        single("identity", one("identity"), default::identity(settings));
        single("signing", one("signing"), default::signing(settings));
        single("authentication", one("authentication"), default::authentication(settings));
        single("log", one("log"), default::log(settings));
        single("plugins", one("plugins"), default::plugins(settings));
        single("chain", one("chain"), default::chain(settings));
        let mut list = |name: &'static str, filled: &dyn Fn(usize, &DeTable<'_>) -> Vec<Filled>| {
            for (n, element) in elements(root, name).enumerate() {
                sections.extend(self.section(name, true, Some(element), filled(n, element)));
            }
        };
        // Those that keep the order of the files are found by their number, the others by name.
        list("listener", &|n, _| default::listener(settings.listeners.get(n)));
        list("smart_host", &|n, _| default::smart_host(settings.smart_hosts.get(n)));
        list("scanner", &|n, _| default::scanner(settings.scanners.get(n)));
        list("reseller", &|_, element| default::reseller(settings, text_of(element, "name")));
        list("tenant", &|_, element| default::tenant(settings, text_of(element, "name")));
        list("user", &|_, element| default::user(settings, text_of(element, "login")));
        list("trusted_network", &|_, _| default::trusted_network());
        list("table", &|_, element| default::table(settings.tables.get(text_of(element, "name")).map(AsRef::as_ref)));
        list("plugin", &|n, _| default::plugin(settings.plugins.get(n).map(AsRef::as_ref)));
        list("blocklist", &|n, _| default::blocklist(settings.identity.blocklists.get(n).map(AsRef::as_ref)));
        Shown { sections }
    }

    /// `None` for one that is not written, when only what is written is shown.
    fn section(
        &self,
        name: &'static str,
        is_list: bool,
        written: Option<&DeTable<'_>>,
        filled: Vec<Filled>,
    ) -> Option<Section> {
        if written.is_none() && !self.effective {
            return None;
        }
        let key = |filled: Filled| {
            let (name, value, resolved) = match filled {
                Filled::Default(name, value) => (name, value, false),
                Filled::Resolved(name, value) => (name, value, true),
            };
            let entry = written.and_then(|table| table.get_key_value(name));
            let origin = entry.and_then(|(key, _)| self.origin(key.span().into()));
            let value = match entry {
                Some((key, written)) if !(self.effective && resolved) => {
                    Some(self.value(name, key.span().into(), written))
                }
                None if !self.effective => return None,
                _ => value.map(|value| masked(name, value)),
            };
            Some(Key { name, value, origin })
        };
        let keys: Vec<Key> = filled.into_iter().filter_map(key).collect();
        // `[server]` that holds only `[server.http]`.
        (self.effective || is_list || !keys.is_empty()).then_some(Section { name, is_list, keys })
    }

    fn origin(&self, span: Span) -> Option<Origin> {
        let place = self.sources.place(span, "")?;
        Some(Origin { file: place.file, line: place.line })
    }

    fn value(&self, name: &str, span: Span, written: &Spanned<DeValue<'_>>) -> Value {
        // What has been read once can be read again.
        let value = Value::deserialize(ValueDeserializer::from(written.clone())).unwrap_or(Value::Boolean(false));
        let value = masked(name, value);
        if self.effective && PATHS.contains(&name) { complete(value, self.sources.directory_at(span)) } else { value }
    }
}

fn table_of<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t DeTable<'i>> {
    table.get(name)?.get_ref().as_table()
}

fn elements<'t, 'i>(root: &'t DeTable<'i>, name: &str) -> impl Iterator<Item = &'t DeTable<'i>> {
    let list = root.get(name).and_then(|list| list.get_ref().as_array());
    list.into_iter().flat_map(|list| list.iter()).filter_map(|element| element.get_ref().as_table())
}

fn text_of<'t>(table: &'t DeTable<'_>, name: &str) -> &'t str {
    table.get(name).and_then(|value| value.get_ref().as_str()).unwrap_or_default()
}

/// Secrets by their names, however deep.
fn masked(name: &str, value: Value) -> Value {
    match value {
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, value)| (key.clone(), masked(&key, value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(|value| masked(name, value)).collect()),
        Value::String(text) if is_secret(name) => {
            // What kind of hash it is may be known, and tells one from another.
            let kind =
                text.strip_prefix('$').and_then(|rest| rest.split_once('$')).map(|(kind, _)| format!("${kind}$"));
            Value::String(format!("{}{MASK}", kind.unwrap_or_default()))
        }
        other => other,
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.contains(secret)) && !name.ends_with("_file") && !name.ends_with("_env")
}

/// Paths as they can be opened from anywhere.
fn complete(value: Value, directory: &Path) -> Value {
    match value {
        Value::String(text) if text.starts_with("builtin:") || text.starts_with("table:") => Value::String(text),
        Value::String(text) => {
            let path = directory.join(&text);
            Value::String(default::absolute(&path))
        }
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, value)| (key, complete(value, directory))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sounds_like_a_secret_is_masked() {
        let text = "\
            password_hash = \"$argon2id$v=19$m=1$abc$def\"\npassword_file = \"x/y\"\n\
            config = { smtp = { apiKey = \"canary\" }, list = [{ token = \"canary\" }], word = \"seen\" }\n";
        let Value::Table(table) = masked("", Value::Table(toml::from_str(text).unwrap())) else { panic!() };
        let shown = table.to_string();
        assert!(!shown.contains("canary") && !shown.contains("abc"), "{shown}");
        assert!(shown.contains("\"$argon2id$***\"") && shown.contains("\"x/y\"") && shown.contains("seen"), "{shown}");
    }
}
