//! `config`: the plugin's own settings, and who it is.

use wasmtime::Result;

use super::super::abi::interface::config::Host;
use super::super::state::CallState;
use crate::pipeline::Capability;

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
}
