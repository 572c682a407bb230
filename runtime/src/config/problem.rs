//! What is wrong with a config, and where: shown like a compiler's errors.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::source::{Sources, Span};

/// Problems shown; a config that has more gets the number of the others.
const MAX_SHOWN: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake, with its places found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub message: String,
    /// The first is the mistake, the others explain it.
    pub places: Vec<Place>,
    pub help: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line, secrets and control characters masked, cut when it is long.
    pub text: String,
    /// Characters of `text` before the mark.
    pub indent: usize,
    /// Characters under the mark.
    pub width: usize,
    pub note: String,
}

/// Why a config can't be used. At least one of the problems is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.problems.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "\n… and {more} more"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        writeln!(f, "{severity}: {}", self.message)?;
        for place in &self.places {
            place.fmt(f)?;
        }
        match &self.help {
            Some(help) => writeln!(f, "help: {help}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  --> {}:{}:{}", self.file.display(), self.line, self.column)?;
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, " {number} | {}", self.text)?;
        let mark = format!("{}{} {}", " ".repeat(self.indent), "^".repeat(self.width), self.note);
        writeln!(f, " {gutter} | {}", mark.trim_end())
    }
}

/// A mistake whose places are still positions.
#[derive(Debug)]
pub struct Finding {
    severity: Severity,
    /// With it the config can't be used.
    is_fatal: bool,
    message: String,
    places: Vec<(Span, String)>,
    help: Option<String>,
}

impl Finding {
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Shows another place, where there is one.
    pub fn also(&mut self, span: impl Into<Option<Span>>, note: &str) -> &mut Self {
        self.places.extend(span.into().map(|span| (span, note.to_owned())));
        self
    }
}

/// Gathers mistakes, so that one run of `postern check` shows them all.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// For one that gets a help or a second place.
    pub fn push_error(&mut self, span: Option<Span>, message: String) -> &mut Finding {
        self.push(Severity::Error, span, message)
    }

    /// An error that costs only what it speaks of: the rest of the config can be used.
    pub fn push_fault(&mut self, span: Option<Span>, message: String) -> &mut Finding {
        let finding = self.push(Severity::Error, span, message);
        finding.is_fatal = false;
        finding
    }

    pub fn push_warning(&mut self, span: Option<Span>, message: String) -> &mut Finding {
        self.push(Severity::Warning, span, message)
    }

    pub fn error(&mut self, span: Option<Span>, message: String) {
        self.push(Severity::Error, span, message);
    }

    fn push(&mut self, severity: Severity, span: Option<Span>, message: String) -> &mut Finding {
        let places = span.map(|span| (span, String::new())).into_iter().collect();
        self.0.push_mut(Finding { severity, is_fatal: severity == Severity::Error, message, places, help: None })
    }

    /// The config can't be used.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.is_fatal)
    }

    /// In the order of the text.
    pub fn into_problems(mut self, sources: &Sources) -> Vec<Problem> {
        self.0.sort_by_key(|finding| finding.places.first().map(|(span, _)| *span));
        let resolve = |finding: Finding| Problem {
            severity: finding.severity,
            message: finding.message,
            places: finding.places.iter().filter_map(|(span, note)| sources.place(*span, note)).collect(),
            help: finding.help,
        };
        self.0.into_iter().map(resolve).collect()
    }
}
