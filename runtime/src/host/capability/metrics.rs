//! `metrics`: counters of the plugin's own. Their names come from the guest, so they are capped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::Result;

use super::super::abi::interface::metrics::Host;
use super::super::state::CallState;
use crate::pipeline::Capability;

const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 48;

/// The names that a plugin has used so far, in whatever scope and version.
#[derive(Clone, Default)]
pub(in super::super) struct MetricNames(Arc<Mutex<HashSet<String>>>);

impl MetricNames {
    /// The name as a label: itself, or `other` where it is one too many or none.
    fn label<'a>(&self, name: &'a str) -> &'a str {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return "other";
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name;
        }
        if known.len() >= MAX_NAMES {
            return "other";
        }
        known.insert(name.to_owned());
        name
    }
}

impl Host for CallState {
    fn add(&mut self, name: String, by: u64) -> Result<()> {
        self.enter(Capability::Metrics, name.len())?;
        let label = self.environment.metric_names.label(&name);
        let labels = [&*self.environment.name, label];
        self.environment.services.metrics.plugin_custom.with_label_values(&labels).inc_by(by);
        Ok(())
    }
}
