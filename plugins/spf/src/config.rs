//! The config, with its defaults.

use postern_sdk::authentication::{Action, Outcome};
use postern_sdk::prelude::*;

/// What is done, by outcome.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub fail: Action,
    pub softfail: Action,
    pub neutral: Action,
    pub none: Action,
    pub permerror: Action,
    /// DNS could not say: `none`, `tag` or `defer`.
    pub temperror: Action,
    /// The record of the HELO name says that this client may not use it.
    pub helo_fail: Action,
    /// Writes the field `Received-SPF`.
    pub received_spf: bool,
    /// Writes the result `iprev`: whether the client's address has a name that leads back to it.
    pub iprev: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fail: Action::Reject,
            softfail: Action::Tag,
            neutral: Action::None,
            none: Action::None,
            permerror: Action::Tag,
            temperror: Action::None,
            helo_fail: Action::Tag,
            received_spf: true,
            iprev: true,
        }
    }
}

impl Config {
    pub fn check(&self) -> Result<(), String> {
        match self.temperror {
            Action::None | Action::Tag | Action::Defer => Ok(()),
            other => Err(format!("temperror can't be {}: what nobody can say refuses no mail", other.name())),
        }
    }

    pub fn action(&self, outcome: Outcome) -> Action {
        match outcome {
            Outcome::Fail => self.fail,
            Outcome::Softfail => self.softfail,
            Outcome::Neutral => self.neutral,
            Outcome::None => self.none,
            Outcome::Permerror => self.permerror,
            Outcome::Temperror => self.temperror,
            // SPF gives no `policy`.
            Outcome::Pass | Outcome::Policy => Action::None,
        }
    }
}
