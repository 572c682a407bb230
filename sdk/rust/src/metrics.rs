//! Counters of the plugin's own, seen as `postern_plugin_custom_total{plugin,name}`. Grant `metrics`.

use crate::sys;

/// Names: 1 to 48 characters of a-z, 0-9, `_`; at most 32 a plugin, those beyond count as `other`.
pub fn add(name: &str, by: u64) {
    sys::metric_add(name, by);
}
