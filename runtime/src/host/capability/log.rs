//! `log`: lines into the gateway's event log.

use wasmtime::Result;

use super::super::abi::interface::log::{Host, Level};
use super::super::limits::Limits;
use super::super::state::CallState;
use super::cut;
use crate::log::Record;
use crate::pipeline::Capability;

/// Octets of the last error that a failure tells again.
const MAX_LAST_ERROR: usize = 480;

/// What a call may still write.
pub(in super::super) struct LogBudget {
    octets: usize,
    lines: usize,
    /// Lines that were cut or left out.
    cut: u64,
}

impl LogBudget {
    pub fn new(limits: &Limits) -> Self {
        Self { octets: limits.log_octets, lines: limits.log_lines, cut: 0 }
    }

    /// What of the text may be written.
    fn take<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let text_cut = cut(text, self.octets);
        if self.lines == 0 || text_cut.len() < text.len() {
            self.cut += 1;
        }
        if self.lines == 0 || text_cut.is_empty() && !text.is_empty() {
            return None;
        }
        self.lines -= 1;
        self.octets -= text_cut.len();
        Some(text_cut)
    }
}

impl CallState {
    /// At the end of a call: says what did not get into the log.
    pub(in super::super) fn finish_log(&mut self) {
        let cut = std::mem::take(&mut self.log.cut);
        if cut > 0 {
            let record = self.record("plugin-log-cut").number("lines", cut);
            self.environment.services.log.emit(record);
        }
    }

    fn record(&self, event: &'static str) -> Record {
        let mut record =
            Record::new(event).text("plugin", &self.environment.name).text("scope", &self.environment.scope);
        record.session = self.asked.as_ref().map(|asked| asked.session.id);
        record.id = self.mail_id;
        record
    }
}

impl Host for CallState {
    fn write(&mut self, level: Level, text: String) -> Result<()> {
        self.enter(Capability::Log, text.len())?;
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        if level == "error" {
            self.last_error = Some(cut(&text, MAX_LAST_ERROR).to_owned());
        }
        if let Some(text) = self.log.take(&text) {
            let record = self.record("plugin-log").text("level", level).text("text", text);
            self.environment.services.log.emit(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w4_lines_and_octets_are_bounded() {
        let mut budget = LogBudget::new(&Limits { log_octets: 10, log_lines: 3, ..Limits::default() });
        assert_eq!(budget.take("éé"), Some("éé"));
        assert_eq!(budget.take("ééééé"), Some("ééé"));
        assert_eq!(budget.take("x"), None);
        assert_eq!(budget.take(""), Some(""));
        assert_eq!(budget.take(""), None);
        assert_eq!(budget.cut, 3);
    }
}
