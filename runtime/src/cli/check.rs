//! `postern check`.

use serde_json::json;

use super::{CliError, Context, OK, Streams, WRONG};
use crate::config::{self, Settings};
use crate::server::plugins;

pub(super) fn run(context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let loaded = match config::load(context.config, context.builtins) {
        Ok(loaded) => loaded,
        Err(error) if context.json => {
            writeln!(streams.out, "{}", json!({ "ok": false, "problems": error.problems }))?;
            return Ok(WRONG);
        }
        Err(error) => {
            write!(streams.err, "{error}")?;
            return Ok(WRONG);
        }
    };
    // What a start or a reload would refuse.
    let tables = loaded.settings.plugins.iter().find_map(|plugin| plugins::tables(plugin).err());
    if let Some(error) = tables {
        return Err(CliError::Failed(error.to_string()));
    }
    if context.json {
        let answer = json!({ "ok": true, "problems": loaded.warnings, "summary": summary(&loaded.settings) });
        writeln!(streams.out, "{answer}")?;
        return Ok(OK);
    }
    for warning in &loaded.warnings {
        writeln!(streams.err, "{warning}")?;
    }
    let counted: Vec<String> =
        counts(&loaded.settings).iter().map(|(n, what)| format!("{n} {what}{}", plural(*n))).collect();
    writeln!(streams.out, "{}: ok, {}", context.config.display(), counted.join(", "))?;
    Ok(OK)
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn counts(settings: &Settings) -> [(usize, &'static str); 5] {
    [
        (settings.listeners.len(), "listener"),
        (settings.directory.tenants().count(), "tenant"),
        (settings.directory.tenants().map(|tenant| tenant.domains.len()).sum(), "domain"),
        (settings.directory.users().count(), "user"),
        (settings.plugins.len(), "plugin"),
    ]
}

fn summary(settings: &Settings) -> serde_json::Value {
    counts(settings)
        .into_iter()
        .map(|(n, what)| (format!("{what}s"), json!(n)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::{Tool, run as run_tool};

    #[test]
    fn a_good_config_is_counted_and_its_warnings_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"a@example.net\"]\n\
            [spool]\ndirectory = \"spool\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n\
            [[tenant]]\nname = \"t\"\ndomains = [\"example.com\", \"example.org\"]\n";
        std::fs::write(&path, text).unwrap();
        let check = |json| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let context = Context { config: &path, json, builtins: &[] };
            let code = run_tool(
                &Tool::Check,
                &context,
                &mut Streams { input: &mut io::empty(), out: &mut out, err: &mut err },
            );
            assert_eq!(code, OK);
            (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        let (out, err) = check(false);
        assert!(out.ends_with("postern.toml: ok, 1 listener, 1 tenant, 2 domains, 0 users, 0 plugins\n"), "{out}");
        assert!(err.starts_with("warning: `t` has no destination"), "{err}");
        let json: serde_json::Value = serde_json::from_str(&check(true).0).unwrap();
        assert_eq!((&json["ok"], &json["summary"]["domains"]), (&json!(true), &json!(2)));
        assert_eq!(json["problems"][0]["places"][0]["line"], 11);
    }
}
