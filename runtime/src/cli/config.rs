//! `postern config show`: the config as it is written, or as it is in force, as TOML that can be read again.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::terminal::{json_line, printable};
use super::{CliError, Context, OK, Streams};
use crate::config::effective::{self, Key, Section, Shown};

pub(super) fn show(
    effective: bool,
    origin: bool,
    context: &Context<'_>,
    streams: &mut Streams<'_>,
) -> Result<u8, CliError> {
    let shown = effective::show(context.config, context.builtins, effective)?;
    match context.json {
        true => writeln!(streams.out, "{}", json_line(&to_json(&shown, origin)))?,
        false => write_toml(streams.out, &shown, origin)?,
    }
    Ok(OK)
}

/// What has no value stands there as a comment.
fn write_toml(out: &mut dyn Write, shown: &Shown, origin: bool) -> io::Result<()> {
    for (n, section) in shown.sections.iter().enumerate() {
        let blank = if n > 0 { "\n" } else { "" };
        let absent = !section.is_list && section.keys.iter().all(|key| key.value.is_none());
        let (open, close) = if section.is_list { ("[[", "]]") } else { ("[", "]") };
        writeln!(out, "{blank}{}{open}{}{close}", if absent { "# " } else { "" }, section.name)?;
        section.keys.iter().try_for_each(|key| write_key(out, key, origin))?;
    }
    Ok(())
}

fn write_key(out: &mut dyn Write, key: &Key, origin: bool) -> io::Result<()> {
    let Some(value) = &key.value else { return writeln!(out, "# {}: not set", key.name) };
    // A text of several lines stays one.
    let value = value.to_string();
    let lines: Vec<String> = value.split('\n').map(printable).collect();
    let comment = match &key.origin {
        _ if !origin => String::new(),
        Some(origin) => format!("   # {}:{}", printable(&origin.file.display().to_string()), origin.line),
        None => "   # default".to_owned(),
    };
    writeln!(out, "{} = {}{comment}", key.name, lines.join("\n"))
}

/// Sections as objects, lists of them as lists; with `origin` each value as `{"value": …, "origin": "FILE:LINE"}`.
fn to_json(shown: &Shown, origin: bool) -> Value {
    let mut root = Map::new();
    for section in &shown.sections {
        let object = Value::Object(section.keys.iter().filter_map(|key| json_key(key, origin)).collect());
        match section {
            Section { name, is_list: true, .. } => {
                let list = root.entry((*name).to_owned()).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(object);
                }
            }
            Section { name, .. } => match name.split_once('.') {
                Some((outer, inner)) if key_count(&object) > 0 => {
                    let outer = root.entry(outer.to_owned()).or_insert_with(|| json!({}));
                    if let Some(outer) = outer.as_object_mut() {
                        outer.insert(inner.to_owned(), object);
                    }
                }
                Some(_) => {}
                None => drop(root.insert((*name).to_owned(), object)),
            },
        }
    }
    Value::Object(root)
}

fn key_count(object: &Value) -> usize {
    object.as_object().map_or(0, Map::len)
}

fn json_key(key: &Key, origin: bool) -> Option<(String, Value)> {
    let value = serde_json::to_value(key.value.as_ref()?).unwrap_or_default();
    let value = match (origin, &key.origin) {
        (false, _) => value,
        (true, Some(at)) => json!({ "value": value, "origin": format!("{}:{}", at.file.display(), at.line) }),
        (true, None) => json!({ "value": value, "origin": "default" }),
    };
    Some((key.name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::cli::{Config, Tool, run as run_tool};
    use crate::config;

    const BUILTINS: &[&str] = &["access", "connection-policy", "routing"];

    /// The example of the manual with the files that it names beside it, and one in conf.d.
    fn example() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for folder in ["tls", "secrets", "tables", "plugins", "conf.d"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        let signed = rcgen::generate_simple_self_signed(vec!["mx.example.net".to_owned()]).unwrap();
        std::fs::write(at("tls/mx.pem"), signed.cert.pem()).unwrap();
        std::fs::write(at("tls/mx.key"), signed.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("secrets/isp"), "canary\n").unwrap();
        std::fs::write(at("tables/blocked.csv"), "").unwrap();
        std::fs::write(at("plugins/house-rules.wasm"), "").unwrap();
        let more = "[server]\nmax_errors = 7\n[[tenant]]\nname = \"more\"\ndomains = [\"more.example\"]\n\
            destination = { maildir = \"m\" }\n[[plugin]]\nname = \"own\"\nsource = \"../plugins/house-rules.wasm\"\n\
            config = { secret = \"canary\" }\n";
        std::fs::write(at("conf.d/more.toml"), more).unwrap();
        std::fs::write(at("postern.toml"), include_str!("../../postern.example.toml")).unwrap();
        let path = at("postern.toml");
        (directory, path)
    }

    fn ask(path: &Path, effective: bool, origin: bool, json: bool) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let context = Context { config: path, json, builtins: BUILTINS };
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let code = run_tool(&Tool::Config(Config::Show { effective, origin }), &context, &mut streams);
        assert_eq!((code, String::from_utf8(err).unwrap().as_str()), (OK, ""));
        String::from_utf8(out).unwrap()
    }

    /// The keys of the manual: each table's first column below the header of its section.
    fn manual() -> Vec<(String, String)> {
        let mut keys = Vec::new();
        let mut sections: Vec<String> = Vec::new();
        for line in include_str!("../../docs/config.md").lines() {
            if let Some(header) = line.strip_prefix("## ") {
                sections = header.split('`').filter(|part| part.starts_with('[')).map(bare).collect();
            }
            let Some(row) = line.strip_prefix("| ") else { continue };
            let first = row.split(" | ").next().unwrap();
            if let Some(subject) = first.strip_prefix("key of a ") {
                sections = vec![subject.to_owned()];
            } else if let Some(section) = sections.first() {
                keys.extend(first.split('`').skip(1).step_by(2).map(|key| (section.clone(), key.to_owned())));
            }
        }
        keys
    }

    fn bare(header: &str) -> String {
        header.trim_matches(['[', ']']).to_owned()
    }

    #[test]
    fn every_key_of_the_manual_is_shown() {
        let (_directory, path) = example();
        let shown = effective::show(&path, BUILTINS, true).unwrap();
        let manual = manual();
        assert!(manual.len() > 80, "only {} keys in the manual", manual.len());
        for (section, key) in manual {
            let sections: Vec<_> = shown.sections.iter().filter(|shown| shown.name == section).collect();
            let has = |name: &str| sections.iter().any(|section| section.keys.iter().any(|key| key.name == name));
            // Entries of chains are tables within.
            let nested = section == "chain" && ["plugin", "direction", "on_failure", "exemptable"].contains(&&*key);
            assert!(has(&key) || (nested && has("platform")), "[{section}] {key}");
        }
    }

    /// What the reader of the config knows beyond the manual would be an unknown key here.
    #[test]
    fn every_key_that_can_be_written_is_shown() {
        let (directory, path) = example();
        let shown = effective::show(&path, BUILTINS, true).unwrap();
        let wrong = directory.path().join("conf.d/wrong.toml");
        for section in &shown.sections {
            let header = if section.is_list { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) };
            std::fs::write(&wrong, format!("{header}\nqqqqqqqqqqqq = 1\n")).unwrap();
            let error = config::load(&path, BUILTINS).unwrap_err();
            let unknown = error.problems.iter().find(|problem| problem.message.contains("qqqqqqqqqqqq")).unwrap();
            let help = unknown.help.as_deref().unwrap_or_default();
            let known =
                help.strip_prefix("the keys here are ").map_or_else(Vec::new, |keys| keys.split(", ").collect());
            assert!(!known.is_empty(), "{header} {help}");
            for key in known {
                let nested = (section.name, key) == ("server", "http");
                assert!(nested || section.keys.iter().any(|shown| shown.name == key), "{header} {key}");
            }
        }
    }

    #[test]
    fn what_is_in_force_can_be_loaded_and_is_the_same() {
        let (directory, path) = example();
        let text = ask(&path, true, false, false);
        let elsewhere = tempfile::tempdir().unwrap();
        let again = elsewhere.path().join("postern.toml");
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tc2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        std::fs::write(&again, text.replace("$argon2id$***", hash)).unwrap();
        let settings = |path: &Path| config::load(path, BUILTINS).map_err(|error| error.to_string()).unwrap().settings;
        let (one, other) = (settings(&path), settings(&again));
        assert_eq!(format!("{:?}", one.server), format!("{:?}", other.server));
        assert_eq!(format!("{:?}", one.listeners), format!("{:?}", other.listeners));
        assert_eq!((one.spool, one.queue, one.log), (other.spool, other.queue, other.log));
        assert_eq!((one.delivery, one.dns, one.smart_hosts), (other.delivery, other.dns, other.smart_hosts));
        assert_eq!(format!("{:?}", one.chains.platform.len()), format!("{:?}", other.chains.platform.len()));
        for tenant in one.directory.tenants() {
            let same = other.directory.tenant(&tenant.name).unwrap();
            assert_eq!((&tenant.destination, &tenant.outbound), (&same.destination, &same.outbound));
        }
        // And what is shown of it is the same again.
        let rest = text.replace("\"***\"", "\"\"");
        assert_eq!(ask(&again, true, false, false).replace("\"***\"", "\"\""), rest);
        drop(directory);
    }

    #[test]
    fn no_secret_is_shown() {
        let (_directory, path) = example();
        for (effective, json) in [(false, false), (true, false), (false, true), (true, true)] {
            let text = ask(&path, effective, true, json);
            for secret in ["canary", "c29tc2FsdA", "CTFhFdXP"] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
            assert!(text.contains("$argon2id$***") && text.contains("secrets/isp"), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_shown_with_its_place() {
        let (directory, path) = example();
        let text = ask(&path, false, true, false);
        let place = format!("{}:2", directory.path().join("conf.d/more.toml").display());
        assert!(text.contains(&format!("max_errors = 7   # {place}\n")), "{text}");
        assert!(!text.contains("max_hops") && text.contains("destination = { maildir = \"m\" }"), "{text}");
        let text = ask(&path, true, true, false);
        assert!(text.contains("max_hops = 50   # default\n") && text.contains("# authorities: not set\n"), "{text}");
        let json: Value = serde_json::from_str(&ask(&path, true, true, true)).unwrap();
        assert_eq!(json["server"]["max_errors"], json!({ "value": 7, "origin": place }));
        assert_eq!(json["server"]["http"]["address"]["value"], "127.0.0.1:8025");
        assert_eq!(json["tenant"].as_array().map(Vec::len), Some(3));
    }
}
