//! `postern plugin list` and `show`.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;

use super::super::control::plugin::{Detail, State};
use super::super::control::{Request, Response};
use super::super::terminal::{printable, table};
use super::super::{CliError, Context, OK, Streams};
use super::{One, ask, condition};
use crate::config::ByteSize;
use crate::host::{Activity, BreakerState, Quantiles};

pub(super) fn list(scope: Option<&str>, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let plugins = match ask(&Request::PluginList { scope: scope.map(str::to_owned) }, context)? {
        Response::Plugins { plugins } => plugins,
        other => return Err(other.unexpected().into()),
    };
    match context.json {
        true => plugins.iter().try_for_each(|plugin| writeln!(streams.out, "{}", json!(plugin)))?,
        false => write!(streams.out, "{}", rows(&plugins))?,
    }
    Ok(OK)
}

pub(super) fn show(one: &One, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let request = Request::PluginShow { scope: one.scope.clone(), name: one.name.clone() };
    match ask(&request, context)? {
        Response::Plugin { plugin } if context.json => writeln!(streams.out, "{}", json!(plugin))?,
        Response::Plugin { plugin } => write_detail(streams.out, &plugin)?,
        other => return Err(other.unexpected().into()),
    }
    Ok(OK)
}

/// A line for each plugin, and below it why it does not work.
fn rows(plugins: &[State]) -> String {
    let heading = [
        "NAME", "SCOPE", "STATE", "CHAINS", "VERSION", "DIGEST", "CALLS", "P50", "P99", "FAILED", "MEMORY", "STAGES",
        "GRANTS",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for plugin in plugins {
        let told = |tell: fn(&Activity) -> String| plugin.activity.as_ref().map_or_else(|| "-".to_owned(), tell);
        rows.push(vec![
            plugin.name.clone(),
            plugin.scope.clone(),
            condition(plugin).to_owned(),
            chains(plugin),
            plugin.version.map_or_else(|| plugin.source.clone(), |version| version.to_string()),
            short(plugin.digest.as_deref()),
            told(|activity| activity.calls.to_string()),
            told(|activity| micros(activity.wall_us.p50)),
            told(|activity| micros(activity.wall_us.p99)),
            told(failures),
            told(|activity| ByteSize(activity.memory_peak).to_string()),
            or_dash(&plugin.stages),
            or_dash(&granted(plugin)),
        ]);
    }
    let table = table(&rows);
    let mut lines = table.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (line, plugin) in lines.zip(plugins) {
        out.push_str(line);
        out.push('\n');
        if let Some(reason) = &plugin.broken {
            out.push_str(&format!("    {}\n", printable(reason)));
        }
    }
    out
}

/// Of `scan` with those that it may ask: `scan(clamav rspamd)`.
fn granted(plugin: &State) -> Vec<String> {
    let grant = |grant: &String| match grant.as_str() {
        "scan" if !plugin.scanners.is_empty() => format!("scan({})", plugin.scanners.join(" ")),
        grant => grant.to_owned(),
    };
    plugin.grants.iter().map(grant).collect()
}

/// Where it stands: `own` for the chain of its own scope.
fn chains(plugin: &State) -> String {
    let named = plugin.chains.iter().map(|chain| if *chain == plugin.scope { "own".to_owned() } else { chain.clone() });
    or_dash(&named.collect::<Vec<_>>())
}

/// By cause: `3 (cpu 2, trap 1)`.
fn failures(activity: &Activity) -> String {
    let causes: Vec<_> = activity.failures.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    match activity.failures.values().sum::<u64>() {
        0 => "0".to_owned(),
        sum => format!("{sum} ({})", causes.join(", ")),
    }
}

fn micros(micros: f64) -> String {
    if micros < 10_000.0 { format!("{micros:.0} µs") } else { format!("{:.0} ms", micros / 1000.0) }
}

fn breaker(activity: &Activity) -> String {
    match activity.breaker {
        BreakerState::Closed => "closed".to_owned(),
        BreakerState::Trying => "open, and one call tries whether it works again".to_owned(),
        BreakerState::Open { retry_in_ms } => format!("open: it is not asked for {retry_in_ms} ms"),
    }
}

fn write_detail(out: &mut dyn Write, plugin: &Detail) -> io::Result<()> {
    let state = &plugin.state;
    let mut row = |name: &str, value: String| writeln!(out, "{:<15}{}", format!("{name}:"), printable(&value));
    row("Plugin", state.name.clone())?;
    row("Scope", state.scope.clone())?;
    row("State", condition(state).to_owned())?;
    if let Some(reason) = &state.broken {
        row("Broken", reason.clone())?;
    }
    if let Some(left) = state.on_trial {
        row("On trial", format!("{left} s more: when it fails too often, the version before comes back"))?;
    }
    row("In the chains", or_dash(&state.chains))?;
    row("Source", state.source.clone())?;
    row("Digest", state.digest.clone().unwrap_or_else(|| "-".to_owned()))?;
    row("Size", plugin.size.map_or_else(|| "-".to_owned(), |size| ByteSize(size).to_string()))?;
    row("Loaded", state.since.map_or_else(|| "-".to_owned(), rounded))?;
    row("Stages", or_dash(&state.stages))?;
    row("Imports", or_dash(&plugin.imports))?;
    row("Grants", or_dash(&state.grants))?;
    row("Scanners", or_dash(&state.scanners))?;
    row("Tables", or_dash(&plugin.tables))?;
    row("Direction", plugin.direction.clone().unwrap_or_else(|| "-".to_owned()))?;
    row("Exemptable", plugin.exemptable.to_string())?;
    row("On failure", plugin.on_failure.clone())?;
    row("Reuse", plugin.reuse.to_string())?;
    row("Config", plugin.config.to_string())?;
    if let Some(activity) = &state.activity {
        let quantiles = |quantiles: Quantiles| format!("p50 {}, p99 {}", micros(quantiles.p50), micros(quantiles.p99));
        row("Calls", activity.calls.to_string())?;
        row("Failed", failures(activity))?;
        row("Breaker", breaker(activity))?;
        row("Time", quantiles(activity.wall_us))?;
        row("CPU", quantiles(activity.cpu_us))?;
        row("Memory", ByteSize(activity.memory_peak).to_string())?;
        row("Warm", activity.warm.to_string())?;
    }
    if !plugin.versions.is_empty() {
        writeln!(out, "Versions:")?;
    }
    for version in &plugin.versions {
        let mark = if version.in_force { "*" } else { " " };
        let withdrawn = version.withdrawn.as_ref().map(|why| format!("  withdrawn: {}", printable(why)));
        writeln!(
            out,
            "  {mark} {:<4} {}  {}  {}{}",
            version.number,
            short(Some(&version.digest)),
            rounded(version.installed),
            printable(&version.file),
            withdrawn.unwrap_or_default(),
        )?;
        for line in version.settings.iter().flat_map(|settings| settings.lines()) {
            writeln!(out, "         | {}", printable(line))?;
        }
    }
    Ok(())
}

fn rounded(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn short(digest: Option<&str>) -> String {
    digest.and_then(|digest| digest.get(..12)).unwrap_or("-").to_owned()
}

fn or_dash(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}
