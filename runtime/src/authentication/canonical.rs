//! Canonical forms (RFC 6376 §3.4) of header fields and bodies.
//!
//! Our own, because those of mail-auth 0.13.3 keep lines of white space at the end of a relaxed body as empty lines
//! (§3.4.4), count `l=` before canonicalization, and take a form feed for white space.

/// How white space is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    Simple,
    Relaxed,
}

impl Form {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case("simple") => Some(Self::Simple),
            _ if name.eq_ignore_ascii_case("relaxed") => Some(Self::Relaxed),
            _ => None,
        }
    }

    /// `c=`: that of the header, that of the body (§3.5).
    pub fn parse_both(value: &str) -> Option<(Self, Self)> {
        match value.split_once('/') {
            Some((header, body)) => Some((Self::parse(header)?, Self::parse(body)?)),
            None => Some((Self::parse(value)?, Self::Simple)),
        }
    }

    /// Appends a field as it stands in a message, its CRLF included.
    pub fn add_field(self, raw: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Simple => out.extend_from_slice(raw),
            Self::Relaxed => {
                add_relaxed(raw, out);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Appends the field that holds the signature itself: no CRLF after it (§3.7).
    pub fn add_own_field(self, raw: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Simple => out.extend_from_slice(raw.strip_suffix(b"\r\n").unwrap_or(raw)),
            Self::Relaxed => add_relaxed(raw, out),
        }
    }
}

/// §3.4.2, without the CRLF.
fn add_relaxed(raw: &[u8], out: &mut Vec<u8>) {
    let colon = raw.iter().position(|&b| b == b':').unwrap_or(raw.len());
    let (name, value) = raw.split_at(colon);
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut gap = false;
    let start = out.len();
    for &b in value.get(1..).unwrap_or_default() {
        match b {
            b'\r' | b'\n' => {}
            b' ' | b'\t' => gap = true,
            b => {
                if gap && out.len() > start {
                    out.push(b' ');
                }
                gap = false;
                out.push(b);
            }
        }
    }
}

/// The field without the value of its tag `b` (§3.5: and without the white space around it).
pub(super) fn without_signature(raw: &[u8]) -> Vec<u8> {
    let value = raw.iter().position(|&b| b == b':').map_or(raw.len(), |colon| colon + 1);
    let (name, value) = raw.split_at(value);
    let mut out = name.to_vec();
    let body = value.strip_suffix(b"\r\n").unwrap_or(value);
    let mut first = true;
    for tag in body.split(|&b| b == b';') {
        if !std::mem::replace(&mut first, false) {
            out.push(b';');
        }
        let equals = tag.iter().position(|&b| b == b'=');
        match equals.and_then(|at| tag.split_at_checked(at + 1)) {
            Some((before, _)) if before.trim_ascii().strip_suffix(b"=").is_some_and(|n| n.trim_ascii() == b"b") => {
                out.extend_from_slice(before);
            }
            _ => out.extend_from_slice(tag),
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Turns a body, piece by piece, into its canonical form. What white space at the end of what has come so far means is
/// known only when more comes: it is kept as numbers, so that no body needs memory.
#[derive(Debug, Clone)]
pub(super) struct CanonicalBody {
    form: Form,
    /// Line ends not passed on yet.
    lines: u64,
    /// Relaxed: white space not passed on yet, after those line ends.
    gap: bool,
    /// Something was passed on.
    begun: bool,
}

impl CanonicalBody {
    pub fn new(form: Form) -> Self {
        Self { form, lines: 0, gap: false, begun: false }
    }

    /// Lines end in CRLF (a session sees to that).
    pub fn write(&mut self, octets: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut rest = octets;
        while let Some(&b) = rest.first() {
            match b {
                b'\r' => rest = rest.get(1..).unwrap_or_default(),
                b'\n' => {
                    self.lines += 1;
                    // White space at the end of a line.
                    self.gap = false;
                    rest = rest.get(1..).unwrap_or_default();
                }
                b' ' | b'\t' if self.form == Form::Relaxed => {
                    self.gap = true;
                    rest = rest.get(1..).unwrap_or_default();
                }
                _ => {
                    self.pass_space(out);
                    let end = rest.iter().position(|b| self.is_space(*b)).unwrap_or(rest.len());
                    let (text, after) = rest.split_at(end);
                    out(text);
                    self.begun = true;
                    rest = after;
                }
            }
        }
    }

    fn is_space(&self, b: u8) -> bool {
        matches!(b, b'\r' | b'\n') || self.form == Form::Relaxed && matches!(b, b' ' | b'\t')
    }

    fn pass_space(&mut self, out: &mut impl FnMut(&[u8])) {
        for _ in 0..std::mem::take(&mut self.lines) {
            out(b"\r\n");
        }
        if std::mem::take(&mut self.gap) {
            out(b" ");
        }
    }

    /// §3.4.3: an empty body is a CRLF. §3.4.4: an empty body is empty, and lines of white space at the end are nothing.
    pub fn finish(self, out: &mut impl FnMut(&[u8])) {
        if self.begun || self.form == Form::Simple {
            out(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(form: Form, pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut canonical = CanonicalBody::new(form);
        let mut push = |octets: &[u8]| out.extend_from_slice(octets);
        for piece in pieces {
            canonical.write(piece.as_bytes(), &mut push);
        }
        canonical.finish(&mut push);
        String::from_utf8(out).unwrap()
    }

    /// RFC 6376 §3.4.5.
    #[test]
    fn examples_of_the_rfc() {
        let (mut relaxed, mut simple) = (Vec::new(), Vec::new());
        for field in [&b"A: X\r\n"[..], b"B : Y\t\r\n\tZ  \r\n"] {
            Form::Relaxed.add_field(field, &mut relaxed);
            Form::Simple.add_field(field, &mut simple);
        }
        assert_eq!((&relaxed[..], &simple[..]), (&b"a:X\r\nb:Y Z\r\n"[..], &b"A: X\r\nB : Y\t\r\n\tZ  \r\n"[..]));
        let text = " C \r\nD \t E\r\n\r\n\r\n";
        assert_eq!(body(Form::Relaxed, &[text]), " C\r\nD E\r\n");
        assert_eq!(body(Form::Simple, &[text]), " C \r\nD \t E\r\n");
    }

    /// What mail-auth 0.13.3 gets wrong (RFC 6376 §3.4.4).
    #[test]
    fn lines_of_white_space_at_the_end_of_a_relaxed_body_are_nothing() {
        for (text, relaxed, simple) in [
            ("a\r\n \r\n", "a\r\n", "a\r\n \r\n"),
            ("a\r\n\t\r\n \t \r\n\r\n", "a\r\n", "a\r\n\t\r\n \t \r\n"),
            ("a \t", "a\r\n", "a \t\r\n"),
            (" \r\n", "", " \r\n"),
            ("\r\n\r\n", "", "\r\n"),
            ("", "", "\r\n"),
            ("a\r\n \r\nb", "a\r\n\r\nb\r\n", "a\r\n \r\nb\r\n"),
            ("a\r\n  b", "a\r\n b\r\n", "a\r\n  b\r\n"),
            ("a\x0cb\r\n", "a\x0cb\r\n", "a\x0cb\r\n"),
        ] {
            assert_eq!(body(Form::Relaxed, &[text]), relaxed, "{text:?}");
            assert_eq!(body(Form::Simple, &[text]), simple, "{text:?}");
            for at in 0..=text.len() {
                let (first, second) = text.split_at(at);
                assert_eq!(body(Form::Relaxed, &[first, second]), relaxed, "{first:?} {second:?}");
                assert_eq!(body(Form::Simple, &[first, second]), simple, "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn the_value_of_b_goes_and_nothing_else() {
        for (with, without) in [
            ("D: v=1; b=abc\r\n def; bh=x; c=y\r\n", "D: v=1; b=; bh=x; c=y\r\n"),
            ("D: b = a=b; v=1\r\n", "D: b =; v=1\r\n"),
            ("D: v=1;\r\n\tb=abc\r\n", "D: v=1;\r\n\tb=\r\n"),
            ("D: v=1; bb=abc; nb=c\r\n", "D: v=1; bb=abc; nb=c\r\n"),
        ] {
            assert_eq!(without_signature(with.as_bytes()), without.as_bytes(), "{with}");
        }
    }
}
