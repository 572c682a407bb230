//! `postern plugin inspect FILE`: what is in a plugin's file. Compiles and runs nothing, and asks no gateway.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::terminal::{printable, table};
use crate::cli::{CliError, Context, FAILED, OK, Streams};
use crate::host::{self, Findings};

#[derive(Debug, Args)]
pub struct Inspect {
    /// The .wasm file that the plugin's build made.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Exit code 1 where it does not fit.
pub(super) fn run(inspect: &Inspect, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let read = host::read_source(&inspect.file).and_then(|source| host::inspect(&source));
    let findings = read.map_err(|error| CliError::Failed(format!("{}: {error}", inspect.file.display())))?;
    if context.json {
        let answer = Answer { fits: findings.fits(), findings: &findings };
        writeln!(streams.out, "{}", serde_json::json!(answer))?;
    } else {
        write!(streams.out, "{}", text(&findings))?;
    }
    Ok(if findings.fits() { OK } else { FAILED })
}

#[derive(Serialize)]
struct Answer<'a> {
    fits: bool,
    #[serde(flatten)]
    findings: &'a Findings,
}

fn text(findings: &Findings) -> String {
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let row = |name: &str, value: String| vec![name.to_owned(), printable(&value)];
    let mut text = table(&[
        row("kind", findings.kind.clone()),
        row("size", format!("{} octets", findings.size)),
        row("digest", findings.digest.clone()),
        row("contract", list(&findings.contract)),
        row("stages", list(&findings.stages)),
        row("checks config", if findings.checks_config { "yes" } else { "no" }.to_owned()),
        row("imports", list(&findings.imports)),
        row("needs grants", list(&findings.needs_grants)),
        row("may need", list(&findings.may_need_grants)),
        row("fits", if findings.fits() { "yes" } else { "no" }.to_owned()),
    ]);
    for difference in &findings.differences {
        text.push_str("  - ");
        text.push_str(&printable(difference));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::cli::plugin::Plugin;
    use crate::cli::{Tool, run as run_tool};

    /// Exit code, output and errors.
    fn inspect(source: &[u8], json: bool) -> (u8, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.wasm");
        std::fs::write(&file, source).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut io::empty(), out: &mut out, err: &mut err };
        let context = Context { config: Path::new("postern.toml"), json, builtins: &[] };
        let code = run_tool(&Tool::Plugin(Plugin::Inspect(Inspect { file })), &context, &mut streams);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_plugin_that_fits_is_shown() {
        let source = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/access.wasm"));
        let (code, out, _) = inspect(source, false);
        assert_eq!(code, OK, "{out}");
        for line in ["contract       0.1.0\n", "checks config  yes\n", "fits           yes\n"] {
            assert!(out.contains(line), "{out}");
        }
        let (code, out, _) = inspect(source, true);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &json["fits"], &json["kind"]), (OK, &json!(true), &json!("module")));
        assert_eq!((&json["size"], &json["differences"]), (&json!(source.len()), &json!([])));
    }

    #[test]
    fn one_that_does_not_fit_is_exit_code_one_with_the_reasons() {
        let source = r#"(component (import "acme:x/y" (instance)) (instance $i) (export "postern:plugin/on-rcpt@0.2.0" (instance $i)))"#;
        let source = wat::parse_str(source).unwrap();
        let (code, out, _) = inspect(&source, false);
        assert_eq!(code, FAILED);
        assert!(out.contains("fits           no\n  - it exports on-rcpt@0.2.0, this gateway knows 0.1.0"), "{out}");
        assert!(out.contains("\n  - it imports acme:x/y"), "{out}");
        let json: serde_json::Value = serde_json::from_str(&inspect(&source, true).1).unwrap();
        assert_eq!((&json["fits"], json["differences"].as_array().unwrap().len()), (&json!(false), 2));
    }

    #[test]
    fn what_is_no_plugin_is_an_error() {
        let (code, out, err) = inspect(b"\x7fELF\x02\x01\x01\0", false);
        assert!(code == FAILED && out.is_empty() && err.contains("x.wasm: precompiled code"), "{err}");
        assert!(inspect(b"hello", true).1.contains("\"error\""));
    }
}
