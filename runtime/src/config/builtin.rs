//! The default plugin set, as far as a config need not write it: what each built-in plugin is granted, and the chain that is
//! in force where the config has none. `runtime/docs/chain.md` says why each stands where it stands.

use crate::pipeline::Directions;

/// What a built-in plugin may do when its entry says nothing of `grants`: what it imports, and no more. It is the gateway's
/// own code; but a smart host must be granted by name.
pub const GRANTS: [(&str, &[&str]); 17] = [
    ("access", &["metrics", "tables"]),
    ("antispam", &["metrics", "scan"]),
    ("antivirus", &["metrics", "scan"]),
    ("arc-seal", &["authentication", "metrics", "signing"]),
    ("connection-policy", &["counters", "dns", "metrics"]),
    ("dkim", &["authentication", "metrics"]),
    ("dkim-sign", &["metrics", "signing"]),
    ("dmarc", &["authentication", "metrics"]),
    ("dnsbl", &["authentication", "dns", "metrics"]),
    ("forwarding", &["metrics"]),
    ("greylist", &["authentication", "clock", "metrics", "store"]),
    ("headers", &["metrics"]),
    ("limits", &["counters", "metrics", "tables"]),
    ("recipients", &["call-ahead", "metrics", "tables"]),
    ("routing", &["metrics", "tables"]),
    ("sender-policy", &["dns", "metrics"]),
    ("spf", &["authentication", "metrics"]),
];

/// Of one built-in plugin.
pub fn grants(builtin: &str) -> &'static [&'static str] {
    GRANTS.iter().find(|(name, _)| *name == builtin).map_or(&[], |(_, grants)| grants)
}

/// One place of the default chain.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub plugin: &'static str,
    pub directions: Directions,
    /// White lists may lift it.
    pub exemptable: bool,
}

/// Cheap and certain tests first, so that the others are asked less often; routing last, for it judges nothing.
pub const DEFAULT_CHAIN: [Place; 8] = [
    Place { plugin: "access", directions: Directions::Both, exemptable: false },
    Place { plugin: "connection-policy", directions: Directions::Both, exemptable: true },
    Place { plugin: "sender-policy", directions: Directions::Both, exemptable: true },
    Place { plugin: "spf", directions: Directions::Inbound, exemptable: true },
    Place { plugin: "dkim", directions: Directions::Inbound, exemptable: true },
    Place { plugin: "dmarc", directions: Directions::Inbound, exemptable: true },
    Place { plugin: "recipients", directions: Directions::Inbound, exemptable: false },
    Place { plugin: "routing", directions: Directions::Both, exemptable: false },
];
