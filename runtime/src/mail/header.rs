//! The header section, byte-exact (RFC 5322 §2.2): a list of fields, each with its folding and its CRLF.
//!
//! Reading is tolerant, because mail in the wild is not clean: what has no field name is kept as an
//! *unnamed* field and passed on. Writing is strict: a field that we or a plugin add obeys the grammar.

use bytes::{Bytes, BytesMut};

/// RFC 5322 §2.1.1: a line must not be longer, CRLF not counted.
const MAX_LINE: usize = 998;
/// Where added fields are folded.
const FOLD_AT: usize = 78;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    raw: Bytes,
    /// Octets of the name; 0 for an unnamed one.
    name_len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    #[error("a field name is 1 to 76 printable ASCII characters without colon")]
    Name,
    #[error("a field value must not have CR, LF, NUL or other controls")]
    Control,
    #[error("a field value must not be longer than {0} octets")]
    TooLong(usize),
    #[error("a word of the field value is longer than a line may be")]
    Unfoldable,
}

/// The longest value a field that we or a plugin add may have.
pub const MAX_VALUE: usize = 64 * 1024;

impl Field {
    /// From the octets of one field as they stand in a message, folded lines and CRLF included.
    pub fn from_raw(raw: Bytes) -> Self {
        let colon = raw.iter().position(|&b| b == b':').unwrap_or(0);
        // RFC 5322 §4.5.8 allows white space before the colon.
        let name = raw.get(..colon).unwrap_or_default().trim_ascii_end();
        let name_len = if name.iter().all(|b| matches!(b, 33..=126)) { name.len() } else { 0 };
        Self { raw, name_len }
    }

    /// A new field. The value is unfolded text; it is folded here.
    pub fn new(name: &str, value: &str) -> Result<Self, InvalidField> {
        if name.is_empty() || name.len() > 76 || !name.bytes().all(|b| matches!(b, 33..=126) && b != b':') {
            return Err(InvalidField::Name);
        }
        if value.len() > MAX_VALUE {
            return Err(InvalidField::TooLong(MAX_VALUE));
        }
        if has_controls(value) {
            return Err(InvalidField::Control);
        }
        let mut raw = BytesMut::with_capacity(name.len() + value.len() + 8);
        raw.extend_from_slice(name.as_bytes());
        raw.extend_from_slice(b":");
        fold(&mut raw, value)?;
        raw.extend_from_slice(b"\r\n");
        Ok(Self { raw: raw.freeze(), name_len: name.len() })
    }

    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Empty for an unnamed field.
    pub fn name(&self) -> &str {
        self.raw.get(..self.name_len).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }

    pub fn is(&self, name: &str) -> bool {
        self.name_len > 0 && self.name().eq_ignore_ascii_case(name)
    }

    /// What follows the colon, unfolded (RFC 5322 §2.2.3), without white space around it.
    pub fn value(&self) -> Vec<u8> {
        let after = self.raw.iter().position(|&b| b == b':').map_or(0, |colon| colon + 1);
        let value = self.raw.get(after..).unwrap_or_default();
        value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect::<Vec<_>>().trim_ascii().to_vec()
    }
}

/// Other than a tab.
fn has_controls(value: &str) -> bool {
    if value.is_ascii() {
        return value.bytes().any(|octet| octet.is_ascii_control() && octet != b'\t');
    }
    value.chars().any(|c| c.is_control() && c != '\t')
}

/// RFC 5322 §2.2.3: fold before white space, so that no line passes 78 octets where words allow.
fn fold(raw: &mut BytesMut, value: &str) -> Result<(), InvalidField> {
    let mut column = raw.len();
    // Of white space there are only blanks and tabs in it.
    for word in value.split_ascii_whitespace() {
        if word.len() >= MAX_LINE - 1 {
            return Err(InvalidField::Unfoldable);
        }
        if column + 1 + word.len() > FOLD_AT && column > 1 {
            raw.extend_from_slice(b"\r\n");
            column = 0;
        }
        raw.extend_from_slice(b" ");
        raw.extend_from_slice(word.as_bytes());
        column += 1 + word.len();
    }
    Ok(())
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    fields: Vec<Field>,
}

impl Header {
    /// From the octets before the empty line, each line with its CRLF.
    pub fn parse(raw: &Bytes) -> Self {
        let mut fields = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < raw.len() {
            let end = line_end(raw, at);
            let folded = matches!(raw.get(end), Some(b' ' | b'\t'));
            if !folded {
                fields.push(Field::from_raw(raw.slice(start..end)));
                start = end;
            }
            at = end;
        }
        Self { fields }
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn len(&self) -> u64 {
        self.fields.iter().map(|field| field.raw.len() as u64).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub fn named<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Field> {
        self.fields.iter().filter(move |field| field.is(name))
    }

    pub fn first(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.is(name))
    }

    /// The Message-ID (RFC 5322 §3.6.4) for the log: its first 998 octets, question marks for what is no printable text.
    /// In the wild it need not have the form that it should.
    pub fn message_id(&self) -> Option<String> {
        let value = self.first("Message-ID")?.value();
        let value = value.get(..value.len().min(MAX_LINE)).unwrap_or_default();
        let chunks = value.utf8_chunks().flat_map(|chunk| {
            let text = chunk.valid().chars().map(|c| if c.is_control() { '?' } else { c });
            text.chain((!chunk.invalid().is_empty()).then_some('?'))
        });
        Some(chunks.collect::<String>()).filter(|text| !text.is_empty())
    }

    /// Above all others, as a trace field must be (RFC 5321 §4.4).
    pub fn prepend(&mut self, field: Field) {
        self.fields.insert(0, field);
    }

    pub fn append(&mut self, field: Field) {
        self.fields.push(field);
    }

    /// Replaces the `nth` field (0 is the topmost) of that name; `None` removes it. False when there is none.
    pub fn replace(&mut self, name: &str, nth: usize, with: Option<Field>) -> bool {
        let Some(at) = self.fields.iter().enumerate().filter(|(_, f)| f.is(name)).map(|(at, _)| at).nth(nth) else {
            return false;
        };
        match (with, self.fields.get_mut(at)) {
            (Some(field), Some(place)) => *place = field,
            _ => drop(self.fields.remove(at)),
        }
        true
    }

    pub fn remove_all(&mut self, name: &str) {
        self.fields.retain(|field| !field.is(name));
    }

    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(usize::try_from(self.len()).unwrap_or(0));
        for field in &self.fields {
            out.extend_from_slice(&field.raw);
        }
        out.freeze()
    }
}

/// Where the line that starts at `at` ends, its LF included.
fn line_end(raw: &[u8], at: usize) -> usize {
    let rest = raw.get(at..).unwrap_or_default();
    rest.iter().position(|&b| b == b'\n').map_or(raw.len(), |lf| at + lf + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_can_be_logged() {
        let of = |raw: &[u8]| Header::parse(&Bytes::copy_from_slice(raw)).message_id();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(of(b"message-id:\r\n <a@b.example>\r\nMessage-ID: <second@b>\r\n"), text("<a@b.example>"));
        assert_eq!(of(b"Message-ID: <\x1b[2J\xff\xc3\xbc>\r\n"), text("<?[2J?ü>"));
        assert_eq!(of(&[b"Message-ID: ", &b"x".repeat(5000)[..], b"\r\n"].concat()).map(|id| id.len()), Some(MAX_LINE));
        assert_eq!((of(b"Message-ID: \r\n"), of(b"Subject: x\r\n")), (None, None));
    }

    #[test]
    fn parsing_keeps_every_octet() {
        let raw = Bytes::from_static(b"A: 1\r\n\tfolded\r\nno colon here\r\nB : 2\r\n: empty\r\nC:\xff\r\n");
        let header = Header::parse(&raw);
        assert_eq!(header.to_bytes(), raw);
        let names: Vec<_> = header.fields().iter().map(Field::name).collect();
        assert_eq!(names, ["A", "", "B", "", "C"]);
        assert_eq!(header.first("a").unwrap().value(), b"1\tfolded");
    }

    #[test]
    fn added_fields_are_folded_and_clean() {
        let field = Field::new("X-Long", &"word ".repeat(40)).unwrap();
        assert!(field.raw().split(|&b| b == b'\n').all(|line| line.len() <= 79));
        for (name, value) in
            [("X Y", "v"), ("X:", "v"), ("", "v"), ("X\r\nBcc", "v"), ("X", "a\r\nBcc: b"), ("X", "a\0")]
        {
            assert!(Field::new(name, value).is_err(), "{name:?} {value:?}");
        }
        assert_eq!(Field::new("X", &"a".repeat(2000)), Err(InvalidField::Unfoldable));
    }

    #[test]
    fn replace_counts_from_the_top() {
        let mut header = Header::parse(&Bytes::from_static(b"X: 1\r\nY: 2\r\nx: 3\r\n"));
        assert!(header.replace("X", 1, None));
        assert!(!header.replace("X", 1, None));
        assert_eq!(&header.to_bytes()[..], b"X: 1\r\nY: 2\r\n");
    }
}
