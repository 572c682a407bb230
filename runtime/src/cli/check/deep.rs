//! The world around a config that is right by itself: plugins, next hops, scanners, certificates, disk, log, ports.
//!
//! Nothing is changed, and no mail is touched; a gateway that runs goes on meanwhile.

use std::sync::Arc;

use super::{certificate, machine, plugin, route, scanner};
use crate::config::{Place, Places, Problem, Settings, Severity};
use crate::dns::Resolver;
use crate::host::Compiler;
use crate::metrics::Metrics;
use crate::server::setup;

/// Gathers what is found.
pub(super) struct Report<'a> {
    places: &'a Places,
    problems: Vec<Problem>,
}

/// Where a finding belongs: section, name of the element (empty for what is no list), key.
pub(super) type At<'a> = (&'a str, &'a str, &'a str);

impl<'a> Report<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Self { places, problems: Vec::new() }
    }

    pub(super) fn is_written(&self, section: &str, name: &str, key: &str) -> bool {
        self.places.is_written(section, name, key)
    }

    pub(super) fn error(&mut self, at: At<'_>, message: String, help: &str) {
        self.push(Severity::Error, at, message, help);
    }

    pub(super) fn warning(&mut self, at: At<'_>, message: String, help: &str) {
        self.push(Severity::Warning, at, message, help);
    }

    fn push(&mut self, severity: Severity, (section, name, key): At<'_>, message: String, help: &str) {
        let places: Vec<Place> = self.places.of(section, name, key).into_iter().collect();
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.problems.push(Problem { severity, message, places, help });
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// In bounded time. `compiler`: where plugins are compiled.
pub(super) fn check(settings: &Settings, places: &Places, compiler: Compiler) -> Result<Vec<Problem>, String> {
    let mut report = Report::new(places);
    machine::spool(settings, &mut report);
    machine::log(settings, &mut report);
    machine::ports(settings, &mut report);
    certificate::check(settings, jiff::Timestamp::now(), &mut report);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
        scanner::check(settings, &metrics, &mut report).await;
        match Resolver::new(setup::dns(settings), metrics.clone()) {
            Ok(resolver) => {
                route::check(settings, &resolver, &mut report).await;
                plugin::check(settings, compiler, resolver, metrics, &mut report).await;
            }
            // Without it nothing starts.
            Err(error) => report.error(("dns", "", "system"), error.to_string(), "name servers with `servers`"),
        }
        Ok::<_, String>(())
    })?;
    Ok(report.into_problems())
}
