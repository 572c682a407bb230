//! One line of what was found: how it is, what was expected, what to do.

use std::io;

use serde::Serialize;

use super::super::Streams;
use super::super::terminal::printable;
use super::super::{FAILED, OK, UNKNOWN};
use crate::dns::DnsError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    Ok,
    /// It works, but not as well as it should.
    Warn,
    /// There is no such record.
    Missing,
    /// There is one, and it is not right.
    Wrong,
    /// DNS had no answer: there may be a record or not.
    Unknown,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

/// Texts hold no octet that a stranger wrote but in escapes ([`super::zone::shown`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// `MX`, `SPF` …
    pub(super) record: &'static str,
    /// Whose.
    pub(super) name: String,
    pub(super) status: Status,
    pub(super) found: Vec<String>,
    pub(super) expected: Vec<String>,
    /// What to do, or what to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn new(record: &'static str, name: impl ToString, status: Status) -> Self {
        Self { record, name: name.to_string(), status, found: Vec::new(), expected: Vec::new(), advice: None }
    }

    /// DNS could not say; why.
    pub(super) fn unknown(record: &'static str, name: impl ToString, error: &DnsError) -> Self {
        Self::new(record, name, Status::Unknown).advising(format!("ask again later: {}", cause(error)))
    }

    pub(super) fn found(mut self, found: impl IntoIterator<Item = impl ToString>) -> Self {
        self.found = found.into_iter().map(|text| text.to_string()).collect();
        self
    }

    pub(super) fn expecting(mut self, expected: impl IntoIterator<Item = impl ToString>) -> Self {
        self.expected = expected.into_iter().map(|text| text.to_string()).collect();
        self
    }

    pub(super) fn advising(mut self, advice: impl Into<String>) -> Self {
        let advice = advice.into();
        self.advice = (!advice.is_empty()).then_some(advice);
        self
    }

    pub(super) fn print(&self, streams: &mut Streams<'_>) -> io::Result<()> {
        let brief = self.status == Status::Ok;
        let found = if brief { self.found.join(", ") } else { String::new() };
        let line = format!("  {:8}{:12}{}  {found}", self.status.word(), self.record, self.name);
        writeln!(streams.out, "{}", printable(line.trim_end()))?;
        let lists = [("found", &self.found), ("expected", &self.expected)];
        for (what, texts) in lists.into_iter().filter(|_| !brief) {
            for (number, text) in texts.iter().enumerate() {
                let what = if number == 0 { what } else { "" };
                writeln!(streams.out, "          {what:10}{}", printable(text))?;
            }
        }
        match &self.advice {
            Some(advice) => {
                writeln!(streams.out, "          {:10}{}", if brief { "note" } else { "do" }, printable(advice))
            }
            None => Ok(()),
        }
    }
}

/// Why DNS could not say.
pub(super) fn cause(error: &DnsError) -> String {
    match error {
        DnsError::Temporary(cause) => cause.clone(),
        other => other.to_string(),
    }
}

/// The worst of them: wrong before unknown, for it is certain.
pub(super) fn exit_code<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> u8 {
    let code = |status| match status {
        Status::Ok | Status::Warn => OK,
        Status::Missing | Status::Wrong => FAILED,
        Status::Unknown => UNKNOWN,
    };
    let codes: Vec<u8> = findings.into_iter().map(|finding| code(finding.status)).collect();
    [FAILED, UNKNOWN].into_iter().find(|code| codes.contains(code)).unwrap_or(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_outweighs_what_is_not_known() {
        for (statuses, expected) in [
            (&[][..], 0),
            (&[Status::Ok, Status::Warn], 0),
            (&[Status::Ok, Status::Unknown], 3),
            (&[Status::Unknown, Status::Missing], 1),
            (&[Status::Wrong, Status::Unknown], 1),
        ] {
            let findings: Vec<_> = statuses.iter().map(|status| Finding::new("MX", "x", *status)).collect();
            assert_eq!(exit_code(&findings), expected, "{statuses:?}");
        }
    }
}
