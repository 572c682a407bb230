//! The config, with its defaults.

use postern_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Of all mail that leaves for a tenant.
    pub tenant: Limits,
    pub login: Limits,
    /// Of clients that have not logged in.
    pub address: Limits,
    /// Name of a table with other limits for some.
    pub overrides: Option<String>,
    /// At this part of a limit, in percent, a warning is logged; 0: never.
    pub warn_at: u64,
    /// Clients that nothing of this applies to.
    pub exempt_networks: Vec<Network>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tenant: Limits::default(),
            login: Limits::default(),
            address: Limits::default(),
            overrides: None,
            warn_at: 80,
            exempt_networks: Vec::new(),
        }
    }
}

/// Of one tenant, login or address. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub messages_per_hour: u64,
    pub messages_per_day: u64,
    pub recipients_per_hour: u64,
    pub recipients_per_day: u64,
    /// From so many times the limit on it is refused for good; 0: never.
    pub reject_at: u64,
}

impl Config {
    pub fn check(self) -> Result<Self, String> {
        if self.warn_at > 100 {
            return Err("warn_at: a part of the limit in percent, 100 at most".to_owned());
        }
        for (name, limits) in [("tenant", &self.tenant), ("login", &self.login), ("address", &self.address)] {
            if limits.reject_at == 1 {
                return Err(format!("{name}.reject_at: more than 1, or nothing is ever deferred; 0 for never"));
            }
        }
        Ok(self)
    }
}

/// What counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Messages,
    Recipients,
}

impl Measure {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Recipients => "recipients",
        }
    }
}

pub const HOUR: u32 = 3600;
pub const DAY: u32 = 24 * HOUR;

impl Limits {
    /// The limits of what is counted, with their windows in seconds.
    pub fn of(&self, measure: Measure) -> [(u64, u32); 2] {
        match measure {
            Measure::Messages => [(self.messages_per_hour, HOUR), (self.messages_per_day, DAY)],
            Measure::Recipients => [(self.recipients_per_hour, HOUR), (self.recipients_per_day, DAY)],
        }
    }

    /// With what a row of the table says otherwise: `messages_per_hour=500 recipients_per_day=0`, or `unlimited`.
    pub fn overridden(mut self, row: &str) -> Result<Self, String> {
        if row.trim().eq_ignore_ascii_case("unlimited") {
            return Ok(Self::default());
        }
        for word in row.split_ascii_whitespace() {
            let (name, number) = word.split_once('=').ok_or_else(|| format!("`{word}` is no `limit=number`"))?;
            let number = number.parse().map_err(|_| format!("`{number}` is no number"))?;
            let limit = match name {
                "messages_per_hour" => &mut self.messages_per_hour,
                "messages_per_day" => &mut self.messages_per_day,
                "recipients_per_hour" => &mut self.recipients_per_hour,
                "recipients_per_day" => &mut self.recipients_per_day,
                "reject_at" => &mut self.reject_at,
                _ => return Err(format!("there is no limit `{name}`")),
            };
            *limit = number;
        }
        Ok(self)
    }
}
