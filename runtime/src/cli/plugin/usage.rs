//! `postern plugin usage`: what a reseller's and a tenant's code costs.

use serde_json::json;

use super::super::control::{Request, Response};
use super::super::terminal::table;
use super::super::{CliError, Context, OK, Streams};
use super::ask;
use crate::config::ByteSize;
use crate::host::{Accounts, Used};

pub(super) fn run(scope: Option<&str>, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let usage = match ask(&Request::PluginUsage { scope: scope.map(str::to_owned) }, context)? {
        Response::Usage { usage } => usage,
        other => return Err(other.unexpected().into()),
    };
    match context.json {
        true => writeln!(streams.out, "{}", json!(usage))?,
        false => write!(streams.out, "{}", text(&usage))?,
    }
    Ok(OK)
}

/// A line for each plugin, then one for each scope.
fn text(usage: &Accounts) -> String {
    let heading = ["SCOPE", "PLUGIN", "CALLS", "FAILED", "CPU", "MEMORY", "HOST CALLS", "OCTETS"].map(str::to_owned);
    let plugins = usage.plugins.iter().map(|account| row(&account.scope, &account.plugin, &account.used));
    let scopes = usage.scopes.iter().map(|sum| row(&sum.scope, &format!("= {} in all", sum.plugins), &sum.used));
    let rows: Vec<_> = std::iter::once(heading.to_vec()).chain(plugins).chain(scopes).collect();
    table(&rows)
}

fn row(scope: &str, plugin: &str, used: &Used) -> Vec<String> {
    vec![
        scope.to_owned(),
        plugin.to_owned(),
        used.calls.to_string(),
        used.failures.values().sum::<u64>().to_string(),
        format!("{:.3} s", used.cpu_seconds),
        ByteSize(used.memory_peak).to_string(),
        used.host_calls.to_string(),
        ByteSize(used.octets).to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Account, ScopeAccount};

    #[test]
    fn plugins_then_sums() {
        let used = Used { calls: 3, cpu_seconds: 0.0015, memory_peak: 2 << 20, host_calls: 9, ..Used::default() };
        let usage = Accounts {
            plugins: vec![Account { scope: "tenant:a".to_owned(), plugin: "x".to_owned(), used: used.clone() }],
            scopes: vec![ScopeAccount { scope: "tenant:a".to_owned(), plugins: 1, used }],
        };
        let text = text(&usage);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "tenant:a x 3 0 0.002 s 2 MiB 9 0 B");
        assert_eq!(lines[2], "tenant:a = 1 in all 3 0 0.002 s 2 MiB 9 0 B");
    }
}
