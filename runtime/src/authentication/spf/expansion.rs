//! Macros in SPF records (RFC 7208 §7).

use std::net::IpAddr;

/// Octets of a domain name in text (§7.3): what is longer loses labels on the left.
const MAX_DOMAIN: usize = 253;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MacroString(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `%%`, `%_`, `%-`: what they stand for.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Macro {
    /// Lower case.
    letter: char,
    /// Written as a capital: what comes out is percent-encoded.
    escaped: bool,
    /// How many parts are kept, from the right.
    parts: Option<usize>,
    reversed: bool,
    delimiters: String,
}

/// What macros stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub client: IpAddr,
    pub helo: &'a str,
    pub local: &'a str,
    /// Of the sender.
    pub sender_domain: &'a str,
    /// The one whose record is evaluated.
    pub domain: &'a str,
    /// The client's validated name.
    pub client_name: &'a str,
    /// Who asks.
    pub receiver: &'a str,
    /// Seconds since 1970.
    pub now: i64,
}

impl MacroString {
    /// `explain`: letters that only an explanation may have are allowed too.
    pub fn parse(text: &str, explain: bool) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            if c != '%' {
                // §7.1 `macro-literal`; an explanation has spaces too.
                if !(c.is_ascii_graphic() || explain && c == ' ') {
                    return Err("has a character that is not allowed".to_owned());
                }
                literal.push(c);
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            if rest.starts_with('{') {
                let (inside, after) = rest.split_once('}').ok_or("a macro has no end")?;
                pieces.push(Piece::Macro(Macro::parse(inside.get(1..).unwrap_or_default(), explain)?));
                rest = after;
                continue;
            }
            pieces.push(Piece::Escape(match rest.chars().next() {
                Some('%') => "%",
                Some('_') => " ",
                Some('-') => "%20",
                _ => return Err("a % that starts no macro".to_owned()),
            }));
            rest = rest.get(1..).unwrap_or_default();
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self(pieces))
    }

    /// §7.1 `domain-spec`: ends with a macro, or with a dot and a top label.
    pub fn parse_domain(text: &str) -> Result<Self, String> {
        let spec = Self::parse(text, false)?;
        let ends_well = match spec.0.last() {
            Some(Piece::Macro(_) | Piece::Escape(_)) => true,
            Some(Piece::Text(tail)) => {
                let tail = tail.strip_suffix('.').unwrap_or(tail);
                tail.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
            }
            None => false,
        };
        if ends_well { Ok(spec) } else { Err("its value is not a domain".to_owned()) }
    }

    /// The validated name of the client is needed, which costs look-ups.
    pub fn names_client(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Macro(part) if part.letter == 'p'))
    }

    pub fn expand(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Escape(text) => out.push_str(text),
                Piece::Macro(part) => part.expand(values, &mut out),
            }
        }
        out
    }

    pub fn expand_domain(&self, values: &Values<'_>) -> String {
        let mut name = self.expand(values);
        if name.ends_with('.') {
            name.pop();
        }
        while name.len() > MAX_DOMAIN {
            match name.split_once('.') {
                Some((_, right)) => name = right.to_owned(),
                None => break,
            }
        }
        name
    }
}

/// §7.1 `toplabel`: not all digits, and a hyphen at neither end.
fn is_top_label(label: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.bytes().all(|b| b.is_ascii_digit())
        && edge(label.chars().next())
        && edge(label.chars().last())
}

impl Macro {
    fn parse(inside: &str, explain: bool) -> Result<Self, String> {
        let letter = inside.chars().next().unwrap_or(' ');
        let lower = letter.to_ascii_lowercase();
        if !("slodipvh".contains(lower) || explain && "crt".contains(lower)) {
            return Err("there is no such macro".to_owned());
        }
        let rest = inside.get(letter.len_utf8()..).unwrap_or_default();
        let after_digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = rest.get(..rest.len() - after_digits.len()).unwrap_or_default();
        let parts = match digits {
            "" => None,
            // More parts than any name has are all of them.
            digits => Some(digits.parse::<usize>().unwrap_or(usize::MAX)),
        };
        if parts == Some(0) {
            return Err("a macro that keeps no part".to_owned());
        }
        let delimiters = after_digits.strip_prefix(['r', 'R']);
        let (reversed, delimiters) = (delimiters.is_some(), delimiters.unwrap_or(after_digits));
        if !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
            return Err("a macro with an unknown transformer".to_owned());
        }
        Ok(Self { letter: lower, escaped: letter != lower, parts, reversed, delimiters: delimiters.to_owned() })
    }

    fn expand(&self, values: &Values<'_>, out: &mut String) {
        let value = self.value(values);
        let mut parts: Vec<&str> = if self.delimiters.is_empty() {
            value.split('.').collect()
        } else {
            value.split(|c| self.delimiters.contains(c)).collect()
        };
        let plain = self.parts.is_none() && !self.reversed && self.delimiters.is_empty();
        if self.reversed {
            parts.reverse();
        }
        let first = parts.len().saturating_sub(self.parts.unwrap_or(usize::MAX));
        let text = if plain { value.clone() } else { parts.get(first..).unwrap_or_default().join(".") };
        if !self.escaped {
            out.push_str(&text);
            return;
        }
        for byte in text.bytes() {
            // RFC 3986 `unreserved`.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    fn value(&self, values: &Values<'_>) -> String {
        match self.letter {
            's' => format!("{}@{}", values.local, values.sender_domain),
            'l' => values.local.to_owned(),
            'o' => values.sender_domain.to_owned(),
            'd' => values.domain.to_owned(),
            'i' => dotted(values.client),
            'p' => values.client_name.to_owned(),
            'v' => if values.client.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            'h' => values.helo.to_owned(),
            'c' => values.client.to_string(),
            'r' => values.receiver.to_owned(),
            't' => values.now.to_string(),
            _ => String::new(),
        }
    }
}

/// §7.3: of IPv6 each hexadecimal digit apart.
fn dotted(address: IpAddr) -> String {
    match address {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => {
            let digits = format!("{:032X}", u128::from(six));
            digits.chars().map(String::from).collect::<Vec<_>>().join(".")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'static> = Values {
        client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3)),
        helo: "mx.example.org",
        local: "strong-bad",
        sender_domain: "email.example.com",
        domain: "email.example.com",
        client_name: "unknown",
        receiver: "gate.example.net",
        now: 0,
    };

    /// RFC 7208 §7.4.
    #[test]
    fn examples_of_the_rfc() {
        for (text, expanded) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l-}", "strong.bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ] {
            assert_eq!(MacroString::parse(text, false).unwrap().expand(&VALUES), expanded, "{text}");
        }
        let six = Values { client: "2001:db8::cb01".parse().unwrap(), ..VALUES };
        assert_eq!(MacroString::parse("%{i1r}", false).unwrap().expand(&six), "2");
    }

    #[test]
    fn what_is_no_macro() {
        for bad in ["%", "%x", "%{", "%{z}", "%{c}", "%{d0}", "%{d!}", "a b", "\u{200b}"] {
            assert!(MacroString::parse(bad, false).is_err(), "{bad}");
        }
        assert!(MacroString::parse("for %{c} see %{r}", true).is_ok());
    }
}
