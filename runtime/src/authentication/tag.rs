//! Tag lists (RFC 6376 §3.2), as signatures, keys and DMARC records have them.

/// Names and values, in order; the values without white space around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagList<'a>(Vec<(&'a str, &'a str)>);

impl<'a> TagList<'a> {
    /// The text unfolded. The error says what is wrong.
    pub fn parse(text: &'a [u8]) -> Result<Self, &'static str> {
        // RFC 8616 §5: values may be UTF-8.
        let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
        let mut tags: Vec<(&str, &str)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut specs = text.split(';').peekable();
        while let Some(spec) = specs.next() {
            let Some((name, value)) = spec.split_once('=') else {
                // Only after the last semicolon may there be nothing.
                if trim(spec).is_empty() && specs.peek().is_none() && !tags.is_empty() {
                    break;
                }
                return Err("it is no list of tags");
            };
            let name = trim(name);
            if !name.starts_with(|c: char| c.is_ascii_alphabetic())
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            {
                return Err("it has a tag without a proper name");
            }
            if !seen.insert(name) {
                return Err("it has a tag twice");
            }
            tags.push((name, trim(value)));
        }
        Ok(Self(tags))
    }

    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    pub fn first(&self) -> Option<(&'a str, &'a str)> {
        self.0.first().copied()
    }

    /// The parts between colons.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.find(name).into_iter().flat_map(|value| value.split(':').map(trim))
    }
}

/// `FWS` around a value.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// The octets of a value in Base64, white space in it or not.
pub(super) fn base64(value: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let dense: Vec<u8> = value.bytes().filter(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')).collect();
    base64::engine::general_purpose::STANDARD.decode(dense).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let tags = TagList::parse(b" v=1; h = a : b ;\tb_2=x=y ; ").unwrap();
        assert_eq!((tags.first(), tags.find("b_2")), (Some(("v", "1")), Some("x=y")));
        assert_eq!(tags.list("h").collect::<Vec<_>>(), ["a", "b"]);
        for bad in ["", ";", "v=1;;a=2", "v=1; v=2", "1v=1", "v", "v=1; x", "=1"] {
            assert!(TagList::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(TagList::parse(b"v=\xff").is_err());
        assert_eq!(base64("aGVs\tbG8="), Some(b"hello".to_vec()));
    }
}
