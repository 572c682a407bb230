//! The config, with its defaults.

use std::fmt;
use std::time::Duration;

use postern_sdk::prelude::*;
use serde::de::{Deserializer, Error, Visitor};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long who is new must wait.
    #[serde(deserialize_with = "duration")]
    pub delay: Duration,
    /// Who has not come back after that long is new again.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// How long who came back is known.
    #[serde(deserialize_with = "duration")]
    pub keep: Duration,
    /// Triplets after which an origin is let in without one; 0: never.
    pub auto_allow_after: u32,
    pub spf: SpfPass,
    /// Clients that nothing of this applies to.
    pub exempt_networks: Vec<Network>,
}

/// What a mail that SPF passes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpfPass {
    /// Known by its domain instead of the client's network: large senders try again from other networks.
    Domain,
    /// Let in.
    Skip,
    /// As any other.
    Ignore,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(5 * MINUTE),
            window: Duration::from_secs(4 * HOUR),
            keep: Duration::from_secs(36 * DAY),
            auto_allow_after: 5,
            spf: SpfPass::Domain,
            exempt_networks: ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}

impl Config {
    pub fn check(self) -> Result<Self, String> {
        if self.window <= self.delay {
            return Err("window: it must be longer than delay, or nobody ever passes".to_owned());
        }
        if self.keep < self.window {
            return Err("keep: it must not be shorter than window".to_owned());
        }
        if self.keep > Duration::from_secs(365 * DAY) {
            return Err("keep: a year at most".to_owned());
        }
        Ok(self)
    }
}

/// `"5m"`, `"36d"`, or seconds.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration like \"5m\", \"4h\" or \"36d\", or seconds")
        }

        fn visit_u64<E: Error>(self, seconds: u64) -> Result<Duration, E> {
            Ok(Duration::from_secs(seconds))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            let units = [("s", 1), ("m", MINUTE), ("h", HOUR), ("d", DAY)];
            let seconds = units
                .iter()
                .find_map(|(unit, seconds)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*seconds));
            let wrong = || E::custom(format_args!("{text:?}: no duration like \"5m\", \"4h\" or \"36d\""));
            seconds.map(Duration::from_secs).ok_or_else(wrong)
        }
    }
    deserializer.deserialize_any(Text)
}
