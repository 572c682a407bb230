//! Whether every plugin loads, as the gateway would load it: compiled in a child, probed, tried out with its config.

use std::path::Path;
use std::sync::Arc;

use super::deep::Report;

use crate::config::Settings;
use crate::config::settings::ChainEntry;
use crate::dns::Resolver;
use crate::host::calendar::Calendar;
use crate::host::{self, Compiler, Host, HostError, Services};
use crate::log::EventLog;
use crate::metrics::Metrics;
use crate::server::live::{self, Refusal};
use crate::server::names::Names;
use crate::server::plugins::PluginError;
use crate::server::setup;
use crate::server::signing::Signer;

/// Plugins that are found broken in one run.
const MAX_BROKEN: usize = 20;

pub(super) async fn check(
    settings: &Settings,
    compiler: Compiler,
    resolver: Resolver,
    metrics: Arc<Metrics>,
    report: &mut Report<'_>,
) {
    // What a plugin logs while it is tried out is not for the gateway's log.
    let (log, _events) = EventLog::new(metrics.clone());
    let host = match aside(settings, compiler, resolver, log, metrics) {
        Ok(host) => Arc::new(host),
        Err(error) => return report.error(("plugin", "", ""), error.to_string(), ""),
    };
    // Loading ends at the first that does not: it is taken out, and the rest tried again, out of the cache mostly.
    let mut rest = settings.clone();
    for _ in 0..MAX_BROKEN {
        let Err(refusal) = live::try_out(&host, &rest).await else { return };
        let Some(name) = culprit(&refusal).cloned() else {
            return report.error(("plugins", "", "directory"), refusal.to_string(), "");
        };
        report.error(("plugin", &name, "source"), refusal.to_string(), "");
        let before = rest.plugins.len();
        rest.plugins.retain(|plugin| plugin.name != name);
        let without = |chain: &mut Vec<ChainEntry>| chain.retain(|entry| entry.plugin.name != name);
        without(&mut rest.chains.platform);
        rest.chains.resellers.values_mut().chain(rest.chains.tenants.values_mut()).for_each(without);
        // One that was installed can't be taken out of the config.
        if rest.plugins.len() == before {
            return;
        }
    }
}

/// A host beside the gateway's: with counters and a store of its own, and nobody to ask but DNS.
pub(in crate::cli) fn aside(
    settings: &Settings,
    compiler: Compiler,
    resolver: Resolver,
    log: EventLog,
    metrics: Arc<Metrics>,
) -> Result<Host, HostError> {
    let names = Arc::new(Names(resolver));
    let (clock, calendar) = (host::counter::system_clock(), Calendar::new(settings.server.time_zone.clone()));
    // A plugin may look for keys when it is loaded.
    let services = Services {
        keys: Arc::new(Signer::new(settings, &metrics)),
        ..Services::new(log, metrics, names, clock, calendar)
    };
    let mut host_settings = setup::host(settings, compiler);
    host_settings.cache = host_settings.cache.filter(|cache| is_ours(cache.as_path()));
    Host::new(host_settings, services)
}

/// `None`: it is not about one plugin.
fn culprit(refusal: &Refusal) -> Option<&Arc<str>> {
    match refusal {
        Refusal::Plugin(
            PluginError::NoBuiltin { name, .. }
            | PluginError::Table { name, .. }
            | PluginError::Load { name, .. }
            | PluginError::Damaged { name, .. }
            | PluginError::Interrupted { name },
        ) => Some(name),
        _ => None,
    }
}

/// Compiled code is kept for the gateway only where it could itself: a cache that root has made would shut it out.
fn is_ours(cache: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(cache).is_ok_and(|found| found.is_dir() && found.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Places};
    use crate::server::plugins;

    #[tokio::test]
    async fn every_plugin_that_does_not_load_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        let plugin = |name: &str, source: &str| {
            format!("[[plugin]]\nname = \"{name}\"\nsource = \"{source}\"\ngrants = [\"metrics\", \"tables\"]\n")
        };
        let text = format!(
            "[server]\nhost_name = \"mx.example.net\"\n[dns]\nsystem = false\n[spool]\ndirectory = \"spool\"\n\
             [[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\nrole = \"inbound\"\n\
             [chain]\nplatform = [\"noise\", \"good\", \"empty\"]\n{}{}{}{}",
            plugin("noise", "noise.wasm"),
            plugin("good", "builtin:routing"),
            plugin("empty", "empty.wasm"),
            plugin("unused", "noise.wasm"),
        );
        std::fs::write(&path, text).unwrap();
        std::fs::write(directory.path().join("noise.wasm"), b"\x7fELF\x1b[2J").unwrap();
        std::fs::write(directory.path().join("empty.wasm"), b"").unwrap();
        let settings = config::load(&path, &plugins::builtins()).unwrap().settings;
        let places = Places::read(&path);
        let mut report = Report::new(&places);
        let metrics = Arc::new(Metrics::new().unwrap());
        let resolver = Resolver::new(setup::dns(&settings), metrics.clone()).unwrap();
        check(&settings, Compiler::InProcess, resolver, metrics, &mut report).await;
        let problems = report.into_problems();
        let lines: Vec<_> = problems.iter().map(|problem| problem.places[0].line).collect();
        assert_eq!(lines, [15, 23, 27], "{problems:?}");
        assert!(problems[0].message.starts_with("plugin noise of platform: "), "{problems:?}");
        assert!(!directory.path().join("spool").exists(), "nothing is made");
    }
}
