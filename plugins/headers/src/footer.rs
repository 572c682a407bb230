//! A footer, put into the text of a mail in the text's own charset and transfer encoding.

use crate::encoding::{Encoding, in_charset};
use crate::mime::{Kind, Obstacle, Place};

/// Lines end in LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub text: String,
    pub html: String,
}

/// Octets of one text that is taken apart and put together again; what people write has hardly a tenth.
const MAX_TEXT: usize = 128 << 10;

/// Octets of a footer's line, its references written out: with it no line of the mail becomes too long (RFC 5322 §2.1.1).
const MAX_LINE: usize = 900;

impl Footer {
    /// Without `html`, the text is what HTML shows too.
    pub fn new(text: &str, html: Option<&str>) -> Result<Self, &'static str> {
        // `-- ` is how a signature begins, its space included (RFC 3676 §4.3).
        let lines = |text: &str| {
            let lines = text.trim_end().lines().map(|line| if line == "-- " { line } else { line.trim_end() });
            lines.collect::<Vec<_>>().join("\n")
        };
        let text = lines(text);
        let html = html.map_or_else(|| as_html(&text), lines);
        if text.is_empty() || html.is_empty() {
            return Err("must not be empty");
        }
        for part in [&text, &html] {
            if part.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                return Err("has a control character");
            }
            let ascii = in_charset(part, "us-ascii", true, true).unwrap_or_default();
            if ascii.split(|&octet| octet == b'\n').any(|line| line.len() > MAX_LINE) {
                return Err("has a line of more than 900 octets");
            }
        }
        Ok(Self { text, html })
    }
}

fn as_html(text: &str) -> String {
    let line = |line: &str| line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<div>\n{}\n</div>", text.lines().map(line).collect::<Vec<_>>().join("<br>\n"))
}

/// The body with the footers in each of the places, which are in the order of the body.
pub fn put(body: &[u8], places: &[Place], footers: &[&Footer]) -> Result<Vec<u8>, Obstacle> {
    let mut texts = Vec::new();
    for place in places {
        let content = body.get(place.content.clone()).ok_or(Obstacle::Broken)?;
        texts.push((&place.content, with_footers(place, content, footers)?));
    }
    // Measured first: a body that grows while it is written takes three times its room.
    let old: usize = texts.iter().map(|(place, _)| place.len()).sum();
    let new: usize = texts.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity((body.len() + new).saturating_sub(old));
    let mut done = 0;
    for (place, text) in texts {
        out.extend_from_slice(body.get(done..place.start).ok_or(Obstacle::Broken)?);
        out.extend_from_slice(&text);
        done = place.end;
    }
    out.extend_from_slice(body.get(done..).unwrap_or_default());
    Ok(out)
}

fn with_footers(place: &Place, content: &[u8], footers: &[&Footer]) -> Result<Vec<u8>, Obstacle> {
    if content.len() > MAX_TEXT {
        return Err(Obstacle::Broken);
    }
    let mut text = place.encoding.decode(content).ok_or(Obstacle::Broken)?;
    if text.split(|&octet| octet == b'\n').any(|line| line.starts_with(b"-----BEGIN PGP ")) {
        return Err(Obstacle::Sealed);
    }
    // As its first line ends.
    let first = text.iter().position(|&octet| octet == b'\n').and_then(|at| text.get(..at));
    let line_end = if first.is_some_and(|line| !line.ends_with(b"\r")) { "\n" } else { "\r\n" };
    for footer in footers {
        let (written, html) = match place.kind {
            Kind::Plain => (&footer.text, false),
            Kind::Html => (&footer.html, true),
        };
        let written = written.replace('\n', line_end);
        let ascii = place.encoding == Encoding::SevenBit;
        let written = in_charset(&written, &place.charset, html, ascii).ok_or(Obstacle::Broken)?;
        let at = if html { end_of_html(&text) } else { text.len() };
        let after = text.split_off(at);
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.extend_from_slice(line_end.as_bytes());
        }
        text.extend_from_slice(&written);
        text.extend_from_slice(line_end.as_bytes());
        text.extend_from_slice(&after);
    }
    // The line end before a delimiter is the delimiter's.
    let ended = content.ends_with(b"\n");
    let base64 = place.encoding == Encoding::Base64;
    if !base64 && !ended && text.ends_with(line_end.as_bytes()) {
        text.truncate(text.len() - line_end.len());
    }
    let mut encoded = place.encoding.encode(text);
    if base64 && ended {
        encoded.extend_from_slice(b"\r\n");
    }
    Ok(encoded)
}

/// Before the last `</body>`, else before the last `</html>`, else behind everything.
fn end_of_html(text: &[u8]) -> usize {
    let last = |tag: &[u8]| {
        let here = |at: usize| text.get(at..at + tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag));
        (0..text.len()).rev().find(|&at| text.get(at) == Some(&b'<') && here(at))
    };
    last(b"</body").or_else(|| last(b"</html")).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        Footer::new("--  \nÉmile & Co\n\n", None).unwrap()
    }

    fn whole(kind: Kind, charset: &str, encoding: Encoding, content: &[u8]) -> Result<Vec<u8>, Obstacle> {
        let place = Place { kind, charset: charset.into(), encoding, content: 0..content.len() };
        put(content, &[place], &[&footer()])
    }

    #[test]
    fn x1_footers_in_each_transfer_encoding() {
        use Encoding::{Base64, EightBit, QuotedPrintable, SevenBit};
        for (charset, encoding, content, expected) in [
            ("us-ascii", SevenBit, &b"hello\r\n"[..], &b"hello\r\n--\r\nEmile & Co\r\n"[..]),
            ("utf-8", SevenBit, b"hello\r\n", b"hello\r\n--\r\nEmile & Co\r\n"),
            ("utf-8", EightBit, b"hello\r\n", "hello\r\n--\r\nÉmile & Co\r\n".as_bytes()),
            ("iso-8859-1", EightBit, b"caf\xe9\r\n", b"caf\xe9\r\n--\r\n\xc9mile & Co\r\n"),
            ("iso-8859-1", QuotedPrintable, b"caf=E9\r\n", b"caf=E9\r\n--\r\n=C9mile & Co\r\n"),
            ("utf-8", QuotedPrintable, b"soft=\r\n", b"soft\r\n--\r\n=C3=89mile & Co\r\n"),
            // "hello" with its line end, without, and with a line end of LF alone.
            ("utf-8", Base64, b"aGVsbG8NCg==\r\n", b"aGVsbG8NCi0tDQrDiW1pbGUgJiBDbw0K\r\n"),
            ("utf-8", Base64, b"aGVsbG8=\r\n", b"aGVsbG8NCi0tDQrDiW1pbGUgJiBDbw0K\r\n"),
            ("utf-8", Base64, b"aGVsbG8K\r\n", b"aGVsbG8KLS0Kw4ltaWxlICYgQ28K\r\n"),
            // Before a delimiter.
            ("utf-8", EightBit, b"hello", "hello\r\n--\r\nÉmile & Co".as_bytes()),
            ("utf-8", EightBit, b"", "--\r\nÉmile & Co".as_bytes()),
        ] {
            let got = whole(Kind::Plain, charset, encoding, content).unwrap();
            assert_eq!(String::from_utf8(got.clone()), String::from_utf8(expected.to_vec()), "{charset} {encoding:?}");
        }
    }

    #[test]
    fn x1_footers_in_html() {
        let shown = "<div>\r\n--<br>\r\n&#201;mile &amp; Co\r\n</div>\r\n";
        for (content, expected) in [
            ("<html><BODY>x</BODY></html>\r\n", format!("<html><BODY>x\r\n{shown}</BODY></html>\r\n")),
            ("<html>x</html>\r\n", format!("<html>x\r\n{shown}</html>\r\n")),
            ("<p>&lt;/body&gt;</p>\r\n", format!("<p>&lt;/body&gt;</p>\r\n{shown}")),
            ("x</body>y</body >z\r\n", format!("x</body>y\r\n{shown}</body >z\r\n")),
        ] {
            let got = whole(Kind::Html, "us-ascii", Encoding::SevenBit, content.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        }
    }

    #[test]
    fn x1_what_gets_no_footer() {
        let pgp = b"-----BEGIN PGP MESSAGE-----\r\n";
        assert_eq!(whole(Kind::Plain, "utf-8", Encoding::SevenBit, pgp), Err(Obstacle::Sealed));
        assert_eq!(whole(Kind::Plain, "utf-16", Encoding::Base64, b"aGVsbG8="), Err(Obstacle::Broken));
        assert_eq!(whole(Kind::Plain, "utf-8", Encoding::Base64, b"%%%"), Err(Obstacle::Broken));
        assert_eq!(whole(Kind::Plain, "utf-8", Encoding::EightBit, &vec![b'x'; MAX_TEXT + 1]), Err(Obstacle::Broken));
    }

    #[test]
    fn a_signature_begins_with_its_space() {
        assert_eq!(Footer::new("-- \nx ", None).unwrap().text, "-- \nx");
    }

    #[test]
    fn what_is_no_footer() {
        for (text, html, expected) in [
            (" \n", None, "must not be empty"),
            ("x", Some(""), "must not be empty"),
            ("a\u{7}", None, "has a control character"),
            (&"é".repeat(200), None, "has a line of more than 900 octets"),
            ("x", Some(&*"y".repeat(901)), "has a line of more than 900 octets"),
        ] {
            assert_eq!(Footer::new(text, html), Err(expected));
        }
    }
}
