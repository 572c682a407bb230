//! Where the first text of a mail stands (RFC 2046): the parts that people read first, in all their versions.

use std::ops::Range;

use crate::encoding::Encoding;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Html,
}

/// A part with text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub kind: Kind,
    pub charset: String,
    pub encoding: Encoding,
    /// Of the body; encoded.
    pub content: Range<usize>,
}

/// Why nothing can be written into a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Signed or encrypted: it would be broken.
    Sealed,
    /// It does not begin with text.
    NoText,
    /// It can't be taken apart.
    Broken,
}

/// The fields that say what an entity is (RFC 2045 §3).
#[derive(Debug, Default)]
pub struct Fields {
    pub content_type: Vec<u8>,
    pub encoding: Vec<u8>,
    pub disposition: Vec<u8>,
}

/// Multiparts inside each other.
const MAX_DEPTH: usize = 10;
/// Versions of one text.
const MAX_VERSIONS: usize = 10;
/// Octets of a part's header.
const MAX_HEADER: usize = 16 * 1024;

impl Obstacle {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sealed => "signed or encrypted",
            Self::NoText => "does not begin with text",
            Self::Broken => "can't be taken apart",
        }
    }
}

/// In the order of the body.
pub fn first_text(fields: &Fields, body: &[u8]) -> Result<Vec<Place>, Obstacle> {
    let mut places = Vec::new();
    walk(fields, body, 0..body.len(), 0, &mut places)?;
    if places.is_empty() { Err(Obstacle::NoText) } else { Ok(places) }
}

fn walk(
    fields: &Fields,
    body: &[u8],
    content: Range<usize>,
    depth: usize,
    places: &mut Vec<Place>,
) -> Result<(), Obstacle> {
    if depth > MAX_DEPTH {
        return Err(Obstacle::Broken);
    }
    let value = Value::parse(&fields.content_type);
    match value.main.split_once('/').unwrap_or((value.main.as_str(), "")) {
        ("", _) => leaf(Kind::Plain, fields, &value, content, places),
        ("text", "plain") => leaf(Kind::Plain, fields, &value, content, places),
        ("text", "html") => leaf(Kind::Html, fields, &value, content, places),
        ("multipart", "signed" | "encrypted") => Err(Obstacle::Sealed),
        ("application", "pkcs7-mime" | "x-pkcs7-mime" | "pgp-encrypted") => Err(Obstacle::Sealed),
        // A report is read by machines, too; a digest has messages.
        ("multipart", "report" | "digest") => Err(Obstacle::NoText),
        ("multipart", kind) => {
            let count = if kind == "alternative" { MAX_VERSIONS } else { 1 };
            let boundary =
                value.parameter("boundary").filter(|boundary| !boundary.is_empty()).ok_or(Obstacle::Broken)?;
            for part in parts(body, content, boundary, count) {
                let (fields, content) = entity(body, part);
                match walk(&fields, body, content, depth + 1, places) {
                    // Of several versions one may be a picture.
                    Err(Obstacle::NoText) | Ok(()) => {}
                    Err(obstacle) => return Err(obstacle),
                }
            }
            Ok(())
        }
        _ => Err(Obstacle::NoText),
    }
}

fn leaf(
    kind: Kind,
    fields: &Fields,
    value: &Value,
    content: Range<usize>,
    places: &mut Vec<Place>,
) -> Result<(), Obstacle> {
    if Value::parse(&fields.disposition).main == "attachment" {
        return Err(Obstacle::NoText);
    }
    let encoding = Encoding::named(&Value::parse(&fields.encoding).main).ok_or(Obstacle::Broken)?;
    let charset = value.parameter("charset").unwrap_or("us-ascii").to_owned();
    places.push(Place { kind, charset, encoding, content });
    Ok(())
}

/// The first `count` parts of a multipart. The line end before a delimiter belongs to the delimiter (RFC 2046 §5.1.1).
fn parts(body: &[u8], content: Range<usize>, boundary: &str, count: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut begun = None;
    let mut at = content.start;
    for line in body.get(content.clone()).unwrap_or_default().split_inclusive(|&octet| octet == b'\n') {
        let rest = line.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary.as_bytes()));
        let after = rest.map(<[u8]>::trim_ascii_end);
        if let Some(b"" | b"--") = after {
            if let Some(start) = begun.take() {
                let before = body.get(start..at).unwrap_or_default();
                let trimmed = before.strip_suffix(b"\r\n").or_else(|| before.strip_suffix(b"\n")).unwrap_or(before);
                found.push(start..start + trimmed.len());
            }
            if after == Some(b"--") || found.len() >= count {
                return found;
            }
            begun = Some(at + line.len());
        }
        at += line.len();
    }
    // It was cut off.
    found.extend(begun.map(|start| start..content.end));
    found
}

/// The header of a part, and its content.
fn entity(body: &[u8], part: Range<usize>) -> (Fields, Range<usize>) {
    let mut fields = Fields::default();
    let mut at = part.start;
    let mut unfolded: Vec<u8> = Vec::new();
    for line in body.get(part.clone()).unwrap_or_default().split_inclusive(|&octet| octet == b'\n') {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if !folded {
            fields.take(&unfolded);
            unfolded.clear();
        }
        at += line.len();
        if line.trim_ascii().is_empty() && !folded || at - part.start > MAX_HEADER {
            return (fields, at..part.end);
        }
        unfolded.extend_from_slice(line.trim_ascii_end());
    }
    fields.take(&unfolded);
    (fields, part.end..part.end)
}

impl Fields {
    fn take(&mut self, field: &[u8]) {
        let Some(colon) = field.iter().position(|&octet| octet == b':') else { return };
        let (name, value) = field.split_at(colon);
        let place = match name.trim_ascii_end().to_ascii_lowercase().as_slice() {
            b"content-type" => &mut self.content_type,
            b"content-transfer-encoding" => &mut self.encoding,
            b"content-disposition" => &mut self.disposition,
            _ => return,
        };
        *place = value.get(1..).unwrap_or_default().to_vec();
    }
}

/// `text/plain; charset="utf-8"` (RFC 2045 §5.1). The main part and the parameters' names in lower case.
struct Value {
    main: String,
    parameters: Vec<(String, String)>,
}

impl Value {
    fn parse(value: &[u8]) -> Self {
        let text: String = value.iter().map(|&octet| if octet.is_ascii() { char::from(octet) } else { '?' }).collect();
        let mut pieces = split(&text).into_iter();
        let main = pieces.next().unwrap_or_default().to_ascii_lowercase();
        let parameter = |piece: String| {
            let (name, value) = piece.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), unquoted(value.trim())))
        };
        Self { main, parameters: pieces.filter_map(parameter).collect() }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// At semicolons that stand in no quotes; comments are left out.
fn split(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut quoted, mut escaped, mut comments) = (false, false, 0_usize);
    for c in text.chars() {
        let meant = !std::mem::take(&mut escaped);
        let mut keep = comments == 0;
        match c {
            '\\' if meant && (quoted || comments > 0) => escaped = true,
            '"' if meant && comments == 0 => quoted = !quoted,
            '(' if meant && !quoted => (comments, keep) = (comments + 1, false),
            ')' if meant && comments > 0 => comments -= 1,
            ';' if !quoted && comments == 0 => {
                pieces.push(String::new());
                continue;
            }
            _ => {}
        }
        if let (true, Some(piece)) = (keep, pieces.last_mut()) {
            piece.push(c);
        }
    }
    pieces.iter().map(|piece| piece.trim().to_owned()).collect()
}

fn unquoted(text: &str) -> String {
    let Some(inside) = text.strip_prefix('"') else { return text.to_owned() };
    let inside = inside.strip_suffix('"').unwrap_or(inside);
    let mut out = String::new();
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(content_type: &str, body: &str) -> Result<Vec<(Kind, String)>, Obstacle> {
        let body = body.replace('\n', "\r\n");
        let fields = Fields { content_type: content_type.into(), ..Fields::default() };
        let places = first_text(&fields, body.as_bytes())?;
        Ok(places.into_iter().map(|place| (place.kind, body[place.content].to_owned())).collect())
    }

    #[test]
    fn x1_the_first_text_and_all_its_versions() {
        use Kind::{Html, Plain};
        let mixed = "preamble\n--b\nContent-Type: multipart/alternative;\n boundary=\"c;d\"\n\n--c;d\n\nplain\n--c;d\n\
            Content-type: Text/HTML (yes; that)\n\n<p>html</p>\n--c;d\nContent-Type: image/png\n\nx\n--c;d--\n\n--b\n\n\
            second text\n--b--\n";
        let html = (Html, "<p>html</p>".to_owned());
        for (content_type, body, expected) in [
            ("", "hello\n", vec![(Plain, "hello\r\n".to_owned())]),
            ("text/plain; charset=utf-8", "hello\n", vec![(Plain, "hello\r\n".to_owned())]),
            ("multipart/mixed; boundary=b", mixed, vec![(Plain, "plain".to_owned()), html.clone()]),
            ("Multipart/Other; BOUNDARY=\"b\"", mixed, vec![(Plain, "plain".to_owned()), html.clone()]),
            (
                "multipart/related; boundary=b",
                "--b\nContent-Type: text/html\n\n<p>html</p>\n--b\nContent-Type: image/png\n\nx\n--b--\n",
                vec![html],
            ),
            // Cut off, no header, an empty part.
            ("multipart/mixed; boundary=b", "--b\n\nhello\n", vec![(Plain, "hello\r\n".to_owned())]),
            ("multipart/mixed; boundary=b", "--b\nContent-Type: text/plain\n--b--\n", vec![(Plain, String::new())]),
            // A delimiter of another, whose boundary begins alike.
            ("multipart/mixed; boundary=b", "--b  \n\nx\n--bb\ny\n--b\n", vec![(Plain, "x\r\n--bb\r\ny".to_owned())]),
        ] {
            assert_eq!(find(content_type, body), Ok(expected), "{content_type}");
        }
    }

    #[test]
    fn x1_what_is_left_alone() {
        let inside = |content_type: &str| format!("--b\nContent-Type: {content_type}\n\nx\n--b--\n");
        let nested: String =
            (0..20).map(|n| format!("--b{n}\nContent-Type: multipart/mixed; boundary=b{}\n\n", n + 1)).collect();
        for (content_type, body, expected) in [
            ("multipart/signed; boundary=b", inside("text/plain"), Obstacle::Sealed),
            ("multipart/mixed; boundary=b", inside("multipart/signed; boundary=c"), Obstacle::Sealed),
            ("multipart/alternative; boundary=b", inside("application/pkcs7-mime"), Obstacle::Sealed),
            ("multipart/encrypted; boundary=b", inside("text/plain"), Obstacle::Sealed),
            ("application/x-pkcs7-mime; smime-type=signed-data", "x".into(), Obstacle::Sealed),
            ("multipart/report; boundary=b", inside("text/plain"), Obstacle::NoText),
            ("multipart/mixed; boundary=b", inside("image/png"), Obstacle::NoText),
            (
                "multipart/mixed; boundary=b",
                inside("text/plain\nContent-Disposition: Attachment; filename=x"),
                Obstacle::NoText,
            ),
            ("multipart/mixed; boundary=b", "no delimiter at all\n".into(), Obstacle::NoText),
            ("text/calendar", "x".into(), Obstacle::NoText),
            ("multipart/mixed", inside("text/plain"), Obstacle::Broken),
            (
                "multipart/mixed; boundary=b",
                inside("text/plain\nContent-Transfer-Encoding: x-uuencode"),
                Obstacle::Broken,
            ),
            ("multipart/mixed; boundary=b0", nested, Obstacle::Broken),
        ] {
            assert_eq!(find(content_type, &body), Err(expected), "{content_type}\n{body}");
        }
    }
}
