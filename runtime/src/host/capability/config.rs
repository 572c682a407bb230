//! `config`: the plugin's own settings, and who it is.

use wasmtime::Result;

use super::super::abi::interface::config::{self, Host};
use super::super::state::CallState;
use crate::pipeline::{Capability, Stage};

impl Host for CallState {
    fn json(&mut self) -> Result<String> {
        let config = self.environment.config.clone();
        self.enter(Capability::Config, config.len())?;
        Ok(config)
    }

    fn name(&mut self) -> Result<String> {
        self.enter(Capability::Config, 32)?;
        Ok(self.environment.name.to_string())
    }

    fn scope(&mut self) -> Result<String> {
        self.enter(Capability::Config, 32)?;
        Ok(self.environment.scope.clone())
    }

    fn skip(&mut self, stage: config::Stage, direction: config::Direction) -> Result<()> {
        self.enter(Capability::Config, 2)?;
        let stage = match stage {
            config::Stage::Connect => Stage::Connect,
            config::Stage::Helo => Stage::Helo,
            config::Stage::MailFrom => Stage::MailFrom,
            config::Stage::Rcpt => Stage::Rcpt,
            config::Stage::Data => Stage::Data,
            config::Stage::Deliver => Stage::Deliver,
            config::Stage::Event => Stage::Event,
        };
        let skipped = match direction {
            config::Direction::Inbound => &mut self.skipped.inbound,
            config::Direction::Outbound => &mut self.skipped.outbound,
        };
        *skipped = skipped.with(stage);
        Ok(())
    }
}
