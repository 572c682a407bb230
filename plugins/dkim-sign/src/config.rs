//! The config, with its defaults.

use std::collections::BTreeMap;

use postern_sdk::address::domain_name;
use postern_sdk::prelude::*;

/// Signatures asked for in one call.
const MAX_SELECTORS: usize = 8;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which of a domain's keys sign, all of them or none; of a domain that is not here, all that there are.
    pub selectors: BTreeMap<String, Vec<String>>,
    /// Signs where the author's domain has no key; it aligns with nothing.
    pub fallback: Option<String>,
    pub missing: Missing,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    #[default]
    Pass,
    Defer,
}

impl Config {
    /// Domains as the gateway writes them.
    pub fn check(self) -> Result<Self, String> {
        let name = |key: &str, domain: &str| domain_name(domain).map_err(|error| format!("{key}: {domain:?}: {error}"));
        let fallback = self.fallback.map(|domain| name("fallback", &domain)).transpose()?;
        let mut selectors = BTreeMap::new();
        for (domain, named) in self.selectors {
            if named.is_empty() || named.len() > MAX_SELECTORS {
                return Err(format!("selectors.{domain:?}: 1 to {MAX_SELECTORS} selectors"));
            }
            selectors.insert(name("selectors", &domain)?, named);
        }
        Ok(Self { fallback, selectors, ..self })
    }
}
