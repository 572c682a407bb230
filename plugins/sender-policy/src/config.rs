//! The config, with its defaults.

use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// R63.
    pub require_fqdn: bool,
    /// An address literal (`ann@[192.0.2.1]`, RFC 5321 §4.1.3) is good enough.
    pub allow_address_literals: bool,
    /// R64.
    pub require_in_dns: When,
    /// Recipients that are local to whoever may send mail out, too.
    pub local_recipients: Vec<Pattern>,
    /// Clients that nothing of this applies to.
    pub exempt_networks: Vec<Network>,
}

/// When the sender's domain is looked for in DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    Never,
    /// The recipient is not local: R64 as it stands.
    NotLocal,
    Always,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            require_fqdn: true,
            allow_address_literals: true,
            require_in_dns: When::NotLocal,
            local_recipients: Vec::new(),
            exempt_networks: ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}
