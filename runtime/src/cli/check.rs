//! `postern check`: what is wrong with the config; with `--deep` also with what it needs from the world around it.

mod certificate;
mod chain;
mod deep;
mod machine;
pub(super) mod plugin;
mod route;
mod scanner;

use std::io;
use std::path::Path;

use serde_json::json;

use super::terminal::printable;
use super::{Check, CliError, Context, OK, Streams, WRONG};
use crate::config::{self, Problem, Settings, Severity};
use crate::host::Compiler;
use crate::host::table::Kept;
use crate::server::plugins;

pub(super) fn run(check: &Check, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
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
    let mut problems = loaded.warnings;
    let places = config::Places::read(context.config);
    let mut report = deep::Report::new(&places);
    chain::check(&loaded.settings, context.builtins, Path::new("/etc/resolv.conf"), &mut report);
    problems.extend(report.into_problems());
    if check.deep {
        problems.extend(deep::check(&loaded.settings, &places, Compiler::this_program()).map_err(failed)?);
    } else if let Some(error) =
        loaded.settings.plugins.iter().find_map(|plugin| plugins::tables(plugin, Kept::once).err())
    {
        // What a start or a reload would refuse.
        return Err(CliError::Failed(error.to_string()));
    }
    let ok = problems.iter().all(|problem| problem.severity == Severity::Warning);
    if context.json {
        let answer = json!({ "ok": ok, "problems": problems, "summary": summary(&loaded.settings) });
        writeln!(streams.out, "{answer}")?;
    } else {
        problems.iter().try_for_each(|problem| show(problem, streams))?;
        let counted: Vec<String> =
            counts(&loaded.settings).iter().map(|(n, what)| format!("{n} {what}{}", plural(*n))).collect();
        let how = if ok { "ok" } else { "not ok" };
        writeln!(streams.out, "{}: {how}, {}", context.config.display(), counted.join(", "))?;
    }
    Ok(if ok { OK } else { WRONG })
}

/// Names from DNS and words of other servers are in some of them.
fn show(problem: &Problem, streams: &mut Streams<'_>) -> io::Result<()> {
    problem.to_string().lines().try_for_each(|line| writeln!(streams.err, "{}", printable(line)))
}

fn failed(error: impl ToString) -> CliError {
    CliError::Failed(error.to_string())
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
    use super::*;
    use crate::cli::{Tool, run as run_tool};

    #[test]
    fn a_good_config_is_counted_and_its_warnings_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let text = "[server]\nhost_name = \"mx.example.net\"\nadministrators = [\"a@example.net\"]\n\
            [spool]\ndirectory = \"spool\"\n[dns]\nsystem = false\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n\
            role = \"inbound\"\n[[tenant]]\nname = \"t\"\ndomains = [\"example.com\", \"example.org\"]\n";
        std::fs::write(&path, text).unwrap();
        let check = |deep, json| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let context = Context { config: &path, json, builtins: &[] };
            let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
            let code = run_tool(&Tool::Check(Check { deep }), &context, &mut streams);
            (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        let (code, out, err) = check(false, false);
        assert_eq!(code, OK);
        assert!(out.ends_with("postern.toml: ok, 1 listener, 1 tenant, 2 domains, 0 users, 0 plugins\n"), "{out}");
        assert!(err.starts_with("warning: `t` has no destination"), "{err}");
        let json: serde_json::Value = serde_json::from_str(&check(false, true).1).unwrap();
        assert_eq!((&json["ok"], &json["summary"]["domains"]), (&json!(true), &json!(2)));
        assert_eq!(json["problems"][0]["places"][0]["line"], 13);
        // The spool is not there: only a deep look sees it, and says where it is written.
        let (code, out, err) = check(true, false);
        assert_eq!(code, WRONG);
        assert!(out.contains("postern.toml: not ok, ") && err.contains("error: the spool directory"), "{out}{err}");
        assert!(err.contains("postern.toml:5:13\n"), "{err}");
        std::fs::create_dir(directory.path().join("spool")).unwrap();
        let (code, _, err) = check(true, true);
        assert_eq!((code, err.as_str()), (OK, ""));
    }
}
