//! What a sealer says it has found: the field `ARC-Authentication-Results` of its set (RFC 8617 §4.1.1, RFC 8601 §2.2).
//!
//! A seal vouches for who handled a mail, not for who wrote it: a mailing list seals the mail of impostors, too.

/// Of a set of that number: what was found of the mail says that the author's domain stood behind it. `policy_domain`: where its
/// DMARC record is. Fields of other numbers say `None`.
pub fn vouches(value: &[u8], instance: u32, author: &str, policy_domain: &str) -> Option<bool> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = parts(text).into_iter();
    let first = parts.next()?;
    let [(key, number)] = first.as_slice() else { return None };
    if key != "i" || number.parse() != Ok(instance) {
        return None;
    }
    Some(parts.any(|result| stands_behind(&result, author, policy_domain)))
}

/// One result: the method with its word, then properties.
fn stands_behind(result: &[(String, String)], author: &str, policy_domain: &str) -> bool {
    let Some(((method, word), properties)) = result.split_first() else { return false };
    if !word.eq_ignore_ascii_case("pass") {
        return false;
    }
    // A version may follow the name (§2.2).
    let (wanted, exact): (&[&str], _) = match method.split('/').next().unwrap_or_default() {
        "dmarc" => (&["header.from"], true),
        // Some give the identity alone, which is within the domain (RFC 6376 §3.5).
        "dkim" => (&["header.d", "header.i"], false),
        "spf" => (&["smtp.mailfrom"], false),
        _ => return false,
    };
    let value_of =
        |property: &&str| properties.iter().find(|(name, _)| name == property).map(|(_, value)| domain(value));
    let found = wanted.iter().find_map(value_of);
    found.is_some_and(|found| found == author || !exact && is_related(&found, author, policy_domain))
}

/// In the relaxed way, as far as names tell: below the author's domain, or above it and not above its DMARC record.
fn is_related(domain: &str, author: &str, policy_domain: &str) -> bool {
    is_within(domain, author) || is_within(author, domain) && is_within(domain, policy_domain)
}

fn is_within(name: &str, domain: &str) -> bool {
    !domain.is_empty() && (name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// Of an address, or one alone.
fn domain(value: &str) -> String {
    let text = value.rsplit('@').next().unwrap_or_default();
    text.trim_matches(['<', '>', ' ']).trim_end_matches('.').to_ascii_lowercase()
}

#[derive(PartialEq)]
enum Token {
    Word(String),
    Equals,
    Semicolon,
}

/// What stands between semicolons, as names (lower case) and values. What is neither is left out: the service's own name.
fn parts(text: &str) -> Vec<Vec<(String, String)>> {
    let mut parts = Vec::new();
    for part in tokens(text).split(|token| *token == Token::Semicolon) {
        let mut pairs = Vec::new();
        let mut rest = part;
        while let Some((_, after)) = rest.split_first() {
            match rest {
                [Token::Word(name), Token::Equals, Token::Word(value), after @ ..] => {
                    pairs.push((name.to_ascii_lowercase(), value.clone()));
                    rest = after;
                }
                _ => rest = after,
            }
        }
        parts.push(pairs);
    }
    parts
}

/// Without comments and quotes; what they hold is never taken for more than a value.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ';' => tokens.push(Token::Semicolon),
            '=' => tokens.push(Token::Equals),
            '(' => {
                let mut depth = 1;
                while depth > 0 {
                    match chars.next() {
                        Some('(') => depth += 1,
                        Some(')') => depth -= 1,
                        Some('\\') => drop(chars.next()),
                        Some(_) => {}
                        // Without an end: nothing that follows is believed.
                        None => return tokens,
                    }
                }
            }
            '"' => {
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => word.extend(chars.next()),
                        Some(c) => word.push(c),
                        None => return tokens,
                    }
                }
                tokens.push(Token::Word(word));
            }
            c if c.is_ascii_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_ascii_whitespace() && !";=(\"".contains(*c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sealer_found() {
        for (results, vouched) in [
            ("dmarc=pass (p=reject) header.from=mail.example.org", true),
            ("DMARC = PASS header.From = Mail.Example.ORG", true),
            ("dmarc/1=pass header.from=mail.example.org.", true),
            ("none; dkim=fail header.d=x.example; dmarc=pass header.from=mail.example.org", true),
            ("dkim=pass header.i=@x header.b=abc= header.d=mail.example.org", true),
            ("dkim=pass header.i=@mail.example.org header.s=s1", true),
            ("dkim=pass header.i=@mail.example.org header.d=lists.example", false),
            ("dkim=pass header.d=news.mail.example.org", true),
            ("dkim=pass header.d=example.org", true),
            ("spf=pass (a (b) \\) ;c) smtp.mailfrom=joe@bounces.mail.example.org", true),
            ("spf=pass smtp.mailfrom=\"joe;x=y\"@mail.example.org", false),
            ("spf=pass smtp.mailfrom=mail.example.org", true),
            // Of somebody else, or no pass.
            ("arc=pass; dmarc=fail header.from=mail.example.org", false),
            ("dmarc=pass header.from=other.example", false),
            ("dmarc=pass header.from=example.org", false),
            ("dmarc=pass", false),
            ("dkim=pass header.d=org", false),
            ("dkim=pass header.d=evilmail.example.org", false),
            ("dkim=pass header.d=lists.example", false),
            ("spf=pass smtp.helo=mail.example.org", false),
            ("spf=softfail smtp.mailfrom=mail.example.org", false),
            // Words in comments and quotes are no results.
            ("dkim=fail (; dmarc=pass header.from=mail.example.org)", false),
            ("dkim=fail reason=\"; dmarc=pass header.from=mail.example.org\"", false),
            ("dkim=fail reason=\"x; dmarc=pass header.from=mail.example.org", false),
            ("dkim=fail (x; dmarc=pass header.from=mail.example.org", false),
            ("", false),
        ] {
            let field = format!("i=2; lists.example; {results}");
            let vouched = Some(vouched);
            assert_eq!(vouches(field.as_bytes(), 2, "mail.example.org", "example.org"), vouched, "{results}");
            assert_eq!(vouches(field.as_bytes(), 1, "mail.example.org", "example.org"), None, "{results}");
        }
        for bad in [&b"lists.example; dmarc=pass header.from=mail.example.org"[..], b"i=2\xff", b""] {
            assert_eq!(vouches(bad, 2, "mail.example.org", "example.org"), None);
        }
    }
}
