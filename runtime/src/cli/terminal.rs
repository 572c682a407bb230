//! Text from outside on a terminal: nothing that a stranger wrote may move the cursor or change colours.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::config::ByteSize;

/// Control characters, and those that turn the direction of text, become escapes.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) {
            // Writing to a String can't fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON for a pipe or a terminal: what [`printable`] would escape is escaped, so that it still says the same.
pub fn json_line(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        // Those stand in strings only, and have four digits at most.
        match is_unprintable(c) {
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Columns as wide as their widest cell, the last one free.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `s`, but for one.
pub fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The two largest units: `3d 4h`, `5m 12s`.
pub fn span(later: Timestamp, earlier: Timestamp) -> String {
    let seconds = later.as_second().saturating_sub(earlier.as_second()).max(0);
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Three or four digits, as people say it.
pub fn size(octets: u64) -> String {
    match octets {
        0..1024 => ByteSize(octets).to_string(),
        1024..0x10_0000 => format!("{} KiB", octets >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", octets >> 20),
        _ => format!("{} GiB", octets >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3600 + 5, "1h"), (90_061, "1d 1h"), (-5, "0s")] {
            assert_eq!(span(at(seconds + 10), at(10)), text, "{seconds}");
        }
        for (octets, text) in [(5, "5 B"), (2048, "2 KiB"), (1 << 20, "1 MiB"), (5 << 30, "5 GiB")] {
            assert_eq!(size(octets), text);
        }
    }

    #[test]
    fn escapes_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31m\r\nü\u{202e}"), "a\\u{1b}[31m\\r\\nü\\u{202e}");
    }

    #[test]
    fn json_says_the_same_in_escapes() {
        let value = serde_json::json!({ "a": "\u{1b}\u{9b}\u{202e}\u{7f}ü" });
        let line = json_line(&value);
        assert_eq!(line, r#"{"a":"\u001b\u009b\u202e\u007fü"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bü".to_owned(), "c".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "a     bü  c\nlong  x\n");
    }
}
