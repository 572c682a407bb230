//! `metrics`: counters of the plugin's own. Their names come from the guest, so they are capped.

use std::sync::PoisonError;

use wasmtime::Result;

use super::super::abi::interface::metrics::Host;
use super::super::state::{CallState, Environment};

const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 48;

impl Environment {
    /// The name as a label: itself, or `other` where it is one too many or none.
    fn metric_name<'a>(&self, name: &'a str) -> &'a str {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return "other";
        }
        let mut known = self.metric_names.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.enter(name.len())?;
        let label = self.environment.metric_name(&name);
        let labels = [&*self.environment.name, label];
        self.environment.services.metrics.plugin_custom.with_label_values(&labels).inc_by(by);
        Ok(())
    }
}
