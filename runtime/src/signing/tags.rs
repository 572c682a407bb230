//! A field that is a tag list (RFC 6376 §3.2), written in lines of at most 78 octets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::{Key, KeyError};
use crate::authentication::canonical::Form;
use crate::mail::Field;

/// Where lines are folded (RFC 5322 §2.1.1).
const FOLD_AT: usize = 76;
/// Characters of base64 that stay together.
const CHUNK: usize = 64;

/// A field in the making: name, then one tag after the other, `b=` last.
pub struct Tags {
    text: String,
    column: usize,
}

impl Tags {
    pub fn new(name: &str) -> Self {
        Self { text: format!("{name}:"), column: name.len() + 1 }
    }

    /// `name=value;`, in one piece.
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.word(&format!("{name}={value};"));
        self
    }

    pub fn number(self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.tag(name, &value.to_string()),
            None => self,
        }
    }

    /// `name=a:b:c;`, which may be folded between the words.
    pub fn list(mut self, name: &str, words: &[&str]) -> Self {
        let (last, others) = words.split_last().unwrap_or((&"", &[]));
        let mut begin = format!("{name}=");
        for (n, word) in others.iter().chain([last]).enumerate() {
            let end = if n == others.len() { ';' } else { ':' };
            let piece = format!("{}{word}{end}", std::mem::take(&mut begin));
            if n == 0 { self.word(&piece) } else { self.glue(&piece) }
        }
        self
    }

    /// The field with its signature over `before` and over itself without one (RFC 6376 §3.7).
    pub fn signed(mut self, mut before: Vec<u8>, key: &Key) -> Result<Field, KeyError> {
        self.word("b=");
        Form::Relaxed.add_own_field(self.text.as_bytes(), &mut before);
        let signature = BASE64.encode(key.sign(&before)?);
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at_checked(CHUNK).unwrap_or((rest, ""));
            self.glue(chunk);
            rest = after;
        }
        self.text.push_str("\r\n");
        Ok(Field::from_raw(Bytes::from(self.text)))
    }

    /// After a space, or on a new line.
    fn word(&mut self, word: &str) {
        if self.column + 1 + word.len() > FOLD_AT {
            self.text.push_str("\r\n\t");
            self.column = 1;
        } else {
            self.text.push(' ');
            self.column += 1;
        }
        self.text.push_str(word);
        self.column += word.len();
    }

    /// After what is there, or on a new line.
    fn glue(&mut self, piece: &str) {
        if self.column + piece.len() > FOLD_AT {
            self.text.push_str("\r\n\t");
            self.column = 1;
        }
        self.text.push_str(piece);
        self.column += piece.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::Algorithm;

    #[test]
    fn lines_stay_short_and_white_space_is_where_it_may_be() {
        let (key, _) = Key::generate(Algorithm::Ed25519).unwrap();
        let names = vec!["Subject"; 40];
        let tags = Tags::new("X-Signature").tag("v", "1").number("t", Some(7)).number("x", None).list("h", &names);
        let field = tags.signed(b"before".to_vec(), &key).unwrap();
        let text = std::str::from_utf8(field.raw()).unwrap();
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert!(lines.len() > 5 && lines.iter().all(|line| line.len() <= FOLD_AT + 2), "{text}");
        assert!(lines[1..].iter().all(|line| line.starts_with('\t')), "{text}");
        let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let list = names.join(":");
        assert!(bare.starts_with(&format!("X-Signature:v=1;t=7;h={list};b=")), "{bare}");
        assert_eq!(bare.len() - bare.find("b=").unwrap() - 2, 88);
    }
}
