//! Transfer encodings (RFC 2045 §6) and, as far as a footer needs them, charsets.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    SevenBit,
    /// 8bit or binary.
    EightBit,
    QuotedPrintable,
    Base64,
}

/// Octets of an encoded line.
const MAX_LINE: usize = 76;

/// Mail in the wild leaves padding out, and bits over.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Encoding {
    /// `None` for one that nobody knows.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "" | "7bit" => Some(Self::SevenBit),
            "8bit" | "binary" => Some(Self::EightBit),
            "quoted-printable" => Some(Self::QuotedPrintable),
            "base64" => Some(Self::Base64),
            _ => None,
        }
    }

    pub fn decode(self, content: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::SevenBit | Self::EightBit => Some(content.to_vec()),
            Self::QuotedPrintable => Some(from_quoted_printable(content)),
            Self::Base64 => from_base64(content),
        }
    }

    pub fn encode(self, content: Vec<u8>) -> Vec<u8> {
        match self {
            Self::SevenBit | Self::EightBit => content,
            Self::QuotedPrintable => to_quoted_printable(&content),
            Self::Base64 => to_base64(&content),
        }
    }
}

/// White space is passed over.
pub fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    TOLERANT.decode(text).ok()
}

fn to_base64(octets: &[u8]) -> Vec<u8> {
    let text = TOLERANT.encode(octets).into_bytes();
    text.chunks(MAX_LINE).collect::<Vec<_>>().join(&b"\r\n"[..])
}

/// What breaks the grammar stays as it is (RFC 2045 §6.7, notes).
pub fn from_quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        let content = line.trim_ascii_end();
        // Without a line end behind it, white space at the end may be meant: of an encoded word it is.
        let (content, end) = match line.ends_with(b"\n") {
            true => (content, if line.ends_with(b"\r\n") { &b"\r\n"[..] } else { b"\n" }),
            false => (line, &b""[..]),
        };
        let (content, soft) = match content.strip_suffix(b"=") {
            Some(before) => (before, true),
            None => (content, false),
        };
        let mut runs = content.split(|&octet| octet == b'=');
        out.extend_from_slice(runs.next().unwrap_or_default());
        for run in runs {
            let hex = |at: usize| run.get(at).and_then(|&digit| char::from(digit).to_digit(16));
            if let (Some(high), Some(low)) = (hex(0), hex(1)) {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                out.extend_from_slice(run.get(2..).unwrap_or_default());
            } else {
                out.push(b'=');
                out.extend_from_slice(run);
            }
        }
        if !soft {
            out.extend_from_slice(end);
        }
    }
    out
}

fn to_quoted_printable(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 8);
    let mut column = 0;
    let mut at = 0;
    while let Some(&octet) = octets.get(at) {
        let next = octets.get(at + 1).copied();
        if octet == b'\r' && next == Some(b'\n') {
            out.extend_from_slice(b"\r\n");
            (column, at) = (0, at + 2);
            continue;
        }
        let ends_line = next.is_none() || next == Some(b'\r') && octets.get(at + 2) == Some(&b'\n');
        let plain = matches!(octet, b'!'..=b'<' | b'>'..=b'~') || matches!(octet, b' ' | b'\t') && !ends_line;
        let width = if plain { 1 } else { 3 };
        if column + width > MAX_LINE - 1 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if plain {
            out.push(octet);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'=', digit(octet >> 4), digit(octet & 15)]);
        }
        (column, at) = (column + width, at + 1);
    }
    out
}

/// The text in that charset; `None` where even ASCII is written otherwise in it. `html`: what the charset lacks is written
/// as a reference, else without its accent. `ascii`: the transfer encoding knows no more.
pub fn in_charset(text: &str, charset: &str, html: bool, ascii: bool) -> Option<Vec<u8>> {
    let charset = charset.to_ascii_lowercase();
    if ["utf-16", "utf-32", "utf-7", "ucs-", "iso-10646", "ebcdic", "ibm", "cp037"]
        .iter()
        .any(|no| charset.starts_with(no))
    {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match charset.as_str() {
            _ if c.is_ascii() => out.extend(u8::try_from(c)),
            "utf-8" | "utf8" if !ascii => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            "iso-8859-1" | "iso-8859-15" | "windows-1252" if !ascii && in_latin(c, &charset).is_some() => {
                out.extend(in_latin(c, &charset));
            }
            _ if html => out.extend_from_slice(format!("&#{};", u32::from(c)).as_bytes()),
            _ => out.extend_from_slice(without_accent(c).as_bytes()),
        }
    }
    Some(out)
}

fn in_latin(c: char, charset: &str) -> Option<u8> {
    match (c, charset) {
        ('€', "iso-8859-15") => Some(0xa4),
        ('œ', "iso-8859-15") => Some(0xbd),
        ('Œ', "iso-8859-15") => Some(0xbc),
        ('¤' | '¦' | '¨' | '´' | '¸' | '¼' | '½' | '¾', "iso-8859-15") => None,
        ('€', "windows-1252") => Some(0x80),
        ('…', "windows-1252") => Some(0x85),
        ('Œ', "windows-1252") => Some(0x8c),
        ('‘', "windows-1252") => Some(0x91),
        ('’', "windows-1252") => Some(0x92),
        ('“', "windows-1252") => Some(0x93),
        ('”', "windows-1252") => Some(0x94),
        ('•', "windows-1252") => Some(0x95),
        ('–', "windows-1252") => Some(0x96),
        ('—', "windows-1252") => Some(0x97),
        ('œ', "windows-1252") => Some(0x9c),
        ('\u{a0}'..='\u{ff}', _) => u8::try_from(u32::from(c)).ok(),
        _ => None,
    }
}

/// As people write it who have no such key.
fn without_accent(c: char) -> &'static str {
    match c {
        'à' | 'á' | 'â' | 'ã' | 'å' => "a",
        'À' | 'Á' | 'Â' | 'Ã' | 'Å' => "A",
        'ä' | 'æ' => "ae",
        'Ä' | 'Æ' => "Ae",
        'ç' => "c",
        'Ç' => "C",
        'è' | 'é' | 'ê' | 'ë' => "e",
        'È' | 'É' | 'Ê' | 'Ë' => "E",
        'ì' | 'í' | 'î' | 'ï' => "i",
        'Ì' | 'Í' | 'Î' | 'Ï' => "I",
        'ñ' => "n",
        'Ñ' => "N",
        'ò' | 'ó' | 'ô' | 'õ' | 'ø' => "o",
        'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ø' => "O",
        'ö' | 'œ' => "oe",
        'Ö' | 'Œ' => "Oe",
        'ù' | 'ú' | 'û' => "u",
        'Ù' | 'Ú' | 'Û' => "U",
        'ü' => "ue",
        'Ü' => "Ue",
        'ý' | 'ÿ' => "y",
        'ß' => "ss",
        '€' => "EUR",
        '‘' | '’' => "'",
        '“' | '”' | '«' | '»' => "\"",
        '–' | '—' | '•' => "-",
        '…' => "...",
        '\u{a0}' | '\u{202f}' => " ",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_printable_is_read() {
        for (text, expected) in [
            ("a=3Db=20\r\nc", "a=b \r\nc"),
            ("soft=\r\nly", "softly"),
            ("soft=  \r\nly", "softly"),
            ("trailing   \r\nx", "trailing\r\nx"),
            ("=C3=a9", "é"),
            ("broken =zz = x", "broken =zz = x"),
            ("=", ""),
            ("a=0", "a=0"),
            ("", ""),
        ] {
            assert_eq!(from_quoted_printable(text.as_bytes()), expected.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_read_again_and_lines_are_short() {
        let all: Vec<u8> = (0..=255).cycle().take(2000).collect();
        for content in
            [&b"a=b \r\nc\t\r\n.\r\nFrom x\r\n"[..], b"", b"x", b" ", &[b'a'; 500], "é€ ".repeat(99).as_bytes(), &all]
        {
            for encoding in [Encoding::QuotedPrintable, Encoding::Base64] {
                let encoded = encoding.encode(content.to_vec());
                assert!(encoded.is_ascii());
                assert!(encoded.split(|&octet| octet == b'\n').all(|line| line.trim_ascii_end().len() <= MAX_LINE));
                assert_eq!(encoding.decode(&encoded).as_deref(), Some(content), "{encoding:?}");
            }
        }
    }

    #[test]
    fn base64_of_the_wild() {
        for (text, expected) in [
            ("aGVsbG8=", Some("hello")),
            ("aGVs\r\n bG8=\r\n", Some("hello")),
            ("aGVsbG8", Some("hello")),
            ("", Some("")),
            ("aGV%bG8=", None),
            ("a", None),
        ] {
            assert_eq!(from_base64(text.as_bytes()).as_deref(), expected.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn charsets() {
        let text = "é€ œ ‘x’ 漢";
        for (charset, html, ascii, expected) in [
            ("UTF-8", false, false, Some(text.as_bytes().to_vec())),
            ("utf-8", false, true, Some(b"eEUR oe 'x' ?".to_vec())),
            ("us-ascii", false, false, Some(b"eEUR oe 'x' ?".to_vec())),
            ("us-ascii", true, true, Some(b"&#233;&#8364; &#339; &#8216;x&#8217; &#28450;".to_vec())),
            ("ISO-8859-1", false, false, Some(b"\xe9EUR oe 'x' ?".to_vec())),
            ("iso-8859-15", false, false, Some(b"\xe9\xa4 \xbd 'x' ?".to_vec())),
            ("windows-1252", false, false, Some(b"\xe9\x80 \x9c \x91x\x92 ?".to_vec())),
            ("koi8-r", false, false, Some(b"eEUR oe 'x' ?".to_vec())),
            ("utf-16le", false, false, None),
            ("UTF-7", false, false, None),
        ] {
            assert_eq!(in_charset(text, charset, html, ascii), expected, "{charset}");
        }
    }
}
