//! The files of a config as one text: `postern.toml`, then `conf.d/*.toml` beside it by name.
//!
//! Every file has its own range of positions, so a [`Span`] alone says file, line and column, however the tables of
//! the files were merged.

use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Findings, Place};

/// Octets of all files together. A thousand tenants need about 200 KiB.
const MAX_TEXT: u64 = 64 << 20;
/// Files in `conf.d`.
const MAX_FILES: usize = 10_000;
/// Characters of a line that are shown around its error.
const MAX_SHOWN: usize = 160;

/// A range of octets in the text of all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    base: usize,
    text: String,
}

impl File {
    fn not_toml(&self, error: &toml::de::Error, findings: &mut Findings) {
        let shift = |range: Range<usize>| Span { start: range.start + self.base, end: range.end + self.base };
        let twice = error.span().filter(|_| error.message().starts_with("duplicate key"));
        let Some(key) = twice else {
            findings.error(error.span().map(shift), error.message().replace('\n', ", "));
            return;
        };
        let name = self.text.get(key.clone()).unwrap_or_default();
        let finding = findings.push_error(Some(shift(key.clone())), format!("`{}` is set twice", name.escape_debug()));
        // The parser keeps the first key, which is the nearest of that name before the second, but the second header.
        let (kept, _) = DeTable::parse_recoverable(&self.text);
        let header = || {
            let at = self.text.get(..key.start)?.rfind(&format!("[{name}]"))? + 1;
            Some(at..at + name.len())
        };
        if let Some(first) = last_key(kept.get_ref(), name, key.start).or_else(header) {
            finding.also(shift(first), "first here");
        }
    }
}

/// The place of the last key of that name before a position.
fn last_key(table: &DeTable<'_>, name: &str, before: usize) -> Option<Range<usize>> {
    let within = |value: &DeValue<'_>| match value {
        DeValue::Table(table) => last_key(table, name, before),
        DeValue::Array(list) => {
            let tables = list.iter().filter_map(|element| element.get_ref().as_table());
            tables.filter_map(|table| last_key(table, name, before)).max_by_key(|range| range.start)
        }
        _ => None,
    };
    let own = table.keys().filter(|key| key.get_ref() == name && key.span().end <= before).map(Spanned::span);
    own.chain(table.values().filter_map(|value| within(value.get_ref()))).max_by_key(|range| range.start)
}

#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<File>,
}

impl Sources {
    /// One text under a name.
    pub fn from_text(path: &Path, text: &str) -> Self {
        let mut sources = Self::default();
        sources.push(path.to_owned(), text.to_owned());
        sources
    }

    /// What can't be read becomes a finding; the rest is there.
    pub fn read(path: &Path, findings: &mut Findings) -> Self {
        let mut sources = Self::default();
        sources.read_file(path, findings);
        let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
        match more_files(&directory) {
            Ok(files) => files.iter().for_each(|file| sources.read_file(file, findings)),
            Err(error) => findings.error(None, format!("can't read {}: {error}", directory.display())),
        }
        sources
    }

    fn read_file(&mut self, path: &Path, findings: &mut Findings) {
        match read_text(path, MAX_TEXT) {
            Ok(text) => self.push(path.to_owned(), text),
            Err(error) => {
                let finding = findings.push_error(None, format!("can't read {}: {error}", path.display()));
                if error.kind() == std::io::ErrorKind::NotFound {
                    finding.help("say with `--config FILE` where the config is");
                }
            }
        }
    }

    fn push(&mut self, path: PathBuf, text: String) {
        // One more than the text, so that the position after the last octet still belongs to this file.
        let base = self.files.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.files.push(File { path, base, text });
    }

    fn file_at(&self, position: usize) -> Option<&File> {
        let after = self.files.partition_point(|file| file.base <= position);
        self.files.get(after.checked_sub(1)?)
    }

    /// The directory against which a path written there is resolved.
    pub fn directory_at(&self, span: Span) -> &Path {
        self.file_at(span.start).and_then(|file| file.path.parent()).unwrap_or(Path::new(""))
    }

    /// What can be made out of each file, however much is wrong with it, and the file's directory.
    pub fn each_recovered(&self, mut then: impl FnMut(&Path, &DeTable<'_>)) {
        for file in &self.files {
            let (root, _) = DeTable::parse_recoverable(&file.text);
            then(file.path.parent().unwrap_or(Path::new("")), root.get_ref());
        }
    }

    /// Merges the tables of all files. What is wrong becomes a finding; a file that is no TOML is left out.
    pub fn parse(&self, findings: &mut Findings) -> DeTable<'_> {
        let mut merged = DeTable::new();
        for file in &self.files {
            match DeTable::parse(&file.text) {
                Ok(table) => merge(&mut merged, shifted_table(table.into_inner(), file.base), true, findings),
                Err(error) => file.not_toml(&error, findings),
            }
        }
        merged
    }

    /// What a human needs to find the place.
    pub fn place(&self, span: Span, note: &str) -> Option<Place> {
        let file = self.file_at(span.start)?;
        let start = floor_char_boundary(&file.text, span.start - file.base);
        let end = floor_char_boundary(&file.text, span.end.saturating_sub(file.base)).max(start);
        let (before, after) = file.text.split_at_checked(start)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = after.find('\n').map_or(file.text.len(), |at| start + at);
        let line = file.text.get(line_start..line_end)?.trim_end_matches('\r');
        let marked = file.text.get(start..end.min(line_end))?.trim_end();
        let indent = before.get(line_start..)?.chars().count();
        let (shown, hidden) = window(&mask(line), indent);
        Some(Place {
            file: file.path.clone(),
            line: before.matches('\n').count() + 1,
            column: indent + 1,
            text: shown,
            indent: indent - hidden,
            width: marked.chars().count().clamp(1, MAX_SHOWN),
            note: note.to_owned(),
        })
    }
}

/// Reads a text file of at most `limit` octets.
pub fn read_text(path: &Path, limit: u64) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is larger than {limit} octets")));
    }
    Ok(text)
}

fn more_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // An editor's or an installer's half-written file begins with a dot.
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Stars for what someone wrote where only `password_file` belongs, and spaces for control characters, one for one.
fn mask(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut quote = None;
    let mut seen = String::new();
    for c in line.chars() {
        let secret = ["password", "secret"].iter().any(|word| seen.contains(word))
            && !["_file", "_env"].iter().any(|elsewhere| seen.contains(elsewhere));
        match quote {
            Some(q) if c == q => {
                quote = None;
                seen.clear();
                out.push(c);
            }
            Some(_) if secret => out.push('*'),
            Some(_) => out.push(if c.is_control() { ' ' } else { c }),
            None => {
                if matches!(c, '"' | '\'') {
                    quote = Some(c);
                } else if c == ',' {
                    seen.clear();
                } else {
                    seen.push(c.to_ascii_lowercase());
                }
                out.push(if c.is_control() { ' ' } else { c });
            }
        }
    }
    out
}

/// The part of a long line around the character at `indent`, and how many characters before it are hidden.
fn window(line: &str, indent: usize) -> (String, usize) {
    let hidden = indent.saturating_sub(MAX_SHOWN / 2);
    (line.chars().skip(hidden).take(MAX_SHOWN).collect(), hidden)
}

fn shifted_table(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            (Spanned::new(span.start + base..span.end + base, key.into_inner()), shifted(value, base))
        })
        .collect()
}

fn shifted(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted_table(table, base)),
        DeValue::Array(array) => {
            let mut out = DeArray::new();
            array.into_iter().for_each(|element| out.push(shifted(element, base)));
            DeValue::Array(out)
        }
        other => other,
    };
    Spanned::new(span.start + base..span.end + base, inner)
}

/// Tables join, lists of tables at the top append; anything else that is there already is an error.
fn merge<'i>(into: &mut DeTable<'i>, from: DeTable<'i>, top: bool, findings: &mut Findings) {
    for (key, value) in from {
        let Some((first_key, first)) = into.get_key_value(key.get_ref().as_ref()).map(|(k, v)| (k.span(), v)) else {
            into.insert(key, value);
            continue;
        };
        let appends = top && is_table_list(first.get_ref()) && is_table_list(value.get_ref());
        let joins = first.get_ref().is_table() && value.get_ref().is_table();
        if !appends && !joins {
            findings
                .push_error(Some(key.span().into()), format!("`{}` is set twice", key.get_ref()))
                .also(Span::from(first_key), "first here");
            continue;
        }
        match (into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Array(list)), DeValue::Array(more)) => {
                more.into_iter().for_each(|element| list.push(element));
            }
            (Some(DeValue::Table(table)), DeValue::Table(more)) => merge(table, more, false, findings),
            _ => {}
        }
    }
}

fn is_table_list(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|element| element.get_ref().is_table()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_wrong_place_is_not_shown() {
        for (line, expected) in [
            (r#"password = "hunter2""#, r#"password = "*******""#),
            (r#"host = "x", password = 'a"b', port = 5"#, r#"host = "x", password = '***', port = 5"#),
            (r#"password_file = "x/y", user = "u""#, r#"password_file = "x/y", user = "u""#),
            (r#"password_env = "VARIABLE""#, r#"password_env = "VARIABLE""#),
            ("a\t\u{1b}[0m", "a  [0m"),
            (r#"password = "half"#, r#"password = "****"#),
        ] {
            assert_eq!(mask(line), expected);
        }
    }

    #[test]
    fn a_place_has_line_and_column_in_characters() {
        let sources = Sources::from_text(Path::new("a.toml"), "x = 1\r\nü = \"bücher\" # y\n");
        let start = "x = 1\r\nü = ".len();
        let place = sources.place(Span { start, end: start + "\"bücher\"".len() }, "").unwrap();
        assert_eq!((place.line, place.column, place.width), (2, 5, 8));
        assert_eq!(place.text, "ü = \"bücher\" # y");
        let end = sources.place(Span { start: 1000, end: 1000 }, "").unwrap();
        assert_eq!((end.line, end.column), (3, 1), "a position after the end is the end");
    }
}
