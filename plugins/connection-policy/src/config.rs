//! The config, with its defaults.

use postern_sdk::prelude::*;

/// Counts are per client address (IPv6: per /64); 0 is no limit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// R66.
    pub max_connections: u32,
    /// R68.
    pub connections_per_minute: u64,
    /// R67, outbound.
    pub messages_per_minute: u64,
    /// R67, inbound.
    pub inbound_messages_per_minute: u64,
    /// R72, a day.
    pub max_unknown_recipients: u32,
    /// R65.
    pub require_client_name: bool,
    /// R70.
    pub require_fqdn_helo: bool,
    /// R71.
    pub require_helo_in_dns: bool,
    /// Clients that nothing of this applies to.
    pub exempt_networks: Vec<Network>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 50,
            connections_per_minute: 120,
            messages_per_minute: 600,
            inbound_messages_per_minute: 0,
            max_unknown_recipients: 50,
            require_client_name: false,
            require_fqdn_helo: true,
            require_helo_in_dns: false,
            exempt_networks: ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}
