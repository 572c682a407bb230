//! What the gateway itself has found of a mail, read back from its `Authentication-Results` (RFC 8601). Fields that came
//! with our name from outside were removed on entry, so what bears it is ours.

use crate::authentication::results::is_own;
use crate::mail::Header;

/// Results of all our fields, the newest field first: `spf=pass smtp.mailfrom=x` and so on, as they stand there.
pub fn own_results(header: &Header, service_id: &str) -> Vec<String> {
    let mut results = Vec::new();
    for field in header.named("Authentication-Results") {
        // Ours are text.
        let Some(value) = is_own(field, service_id).then(|| String::from_utf8(field.value()).ok()).flatten() else {
            continue;
        };
        let parts = split(&value).into_iter().skip(1).map(str::trim);
        let is_result = |part: &&str| !part.is_empty() && !part.eq_ignore_ascii_case("none");
        results.extend(parts.filter(is_result).map(str::to_owned));
    }
    results
}

/// The word behind `METHOD=`, of the first result of that method.
pub fn result_of<'r>(results: &'r [String], method: &str) -> Option<&'r str> {
    results.iter().find_map(|result| {
        let (name, rest) = result.split_once('=')?;
        // A version may follow the name: `arc/1` (§2.2).
        let name = name.split('/').next().unwrap_or_default().trim();
        let end = |c: char| c.is_ascii_whitespace() || c == '(';
        name.eq_ignore_ascii_case(method).then(|| rest.trim_start().split(end).next().unwrap_or_default())
    })
}

/// At semicolons that stand neither in a comment nor in quotes (RFC 5322 §3.2.2, §3.2.4).
fn split(value: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut depth, mut quoted, mut escaped) = (0, 0_u32, false, false);
    for (at, octet) in value.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted || depth > 0,
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            b';' if !quoted && depth == 0 => {
                parts.push(value.get(begin..at).unwrap_or_default());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(value.get(begin..).unwrap_or_default());
    parts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn own(raw: &str) -> Vec<String> {
        own_results(&Header::parse(&Bytes::copy_from_slice(raw.as_bytes())), "mx.example.net")
    }

    #[test]
    fn only_our_own_results_count() {
        let raw = "Authentication-Results: MX.example.net 1; arc=pass\r\nAuthentication-Results: mx.example.net.evil;\r\n\
            \tarc=fail\r\nSubject: x\r\nauthentication-results: mx.example.net;\r\n dkim=pass (a ; b) header.d=\"x;y\";\r\n\
            \tspf=fail\r\nAuthentication-Results: mx.example.net; none\r\n";
        assert_eq!(own(raw), ["arc=pass", "dkim=pass (a ; b) header.d=\"x;y\"", "spf=fail"]);
        assert_eq!(own("Subject: x\r\n"), [""; 0]);
    }

    #[test]
    fn the_word_of_a_method() {
        for (results, word) in [
            ("arc=pass", Some("pass")),
            ("ARC = fail (bad)", Some("fail")),
            ("arc/1=none(x)", Some("none")),
            ("dkim=pass header.d=arc=fail", None),
            ("spf=pass; arc=temperror", Some("temperror")),
            ("arc", None),
            ("arc=", Some("")),
        ] {
            let field = format!("Authentication-Results: mx.example.net; {results}\r\n");
            assert_eq!(result_of(&own(&field), "arc"), word, "{results}");
        }
    }
}
