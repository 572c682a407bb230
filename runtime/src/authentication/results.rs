//! `Authentication-Results` (RFC 8601) that bear the gateway's own name: nobody else may write them, so they are removed
//! on entry (§5), however they are folded, commented or spelled (N8).

use crate::mail::{Field, Header};

const NAME: &str = "Authentication-Results";

/// Removes those that came in under our name. How many there were.
pub fn remove_own(header: &mut Header, service_id: &str) -> usize {
    let own: Vec<usize> =
        header.named(NAME).enumerate().filter(|(_, field)| is_own(field, service_id)).map(|(nth, _)| nth).collect();
    // From below, so that the numbers of those above stay.
    for nth in own.iter().rev() {
        header.replace(NAME, *nth, None);
    }
    own.len()
}

/// A field of that name whose `authserv-id` is ours.
pub fn is_own(field: &Field, service_id: &str) -> bool {
    if !field.is(NAME) {
        return false;
    }
    let value = field.value();
    match authserv_id(&value) {
        Some(id) => same(&id, service_id),
        // Nobody knows what the next reader makes of it: it goes if it so much as names us.
        None => names(&value, service_id),
    }
}

fn same(id: &[u8], service_id: &str) -> bool {
    let id = id.strip_suffix(b".").unwrap_or(id);
    id.eq_ignore_ascii_case(service_id.as_bytes())
}

fn names(value: &[u8], service_id: &str) -> bool {
    !service_id.is_empty()
        && value.windows(service_id.len()).any(|part| part.eq_ignore_ascii_case(service_id.as_bytes()))
}

/// §2.2: a token or a quoted string, after comments. `None` where there is none.
fn authserv_id(value: &[u8]) -> Option<Vec<u8>> {
    let mut rest = value.trim_ascii_start();
    while let Some(inner) = rest.strip_prefix(b"(") {
        rest = after_comment(inner)?.trim_ascii_start();
    }
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let end = rest.iter().position(|b| !is_of_token(*b)).unwrap_or(rest.len());
        return rest.get(..end).filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
    };
    let mut id = Vec::new();
    let mut octets = quoted.iter();
    loop {
        match octets.next()? {
            b'"' => return Some(id),
            b'\\' => id.push(*octets.next()?),
            b => id.push(*b),
        }
    }
}

/// RFC 2045 §5.1, and whatever is beyond ASCII. What ends a token ends it for us too, though the field is broken then: the
/// next reader may take what stands before it for the name.
fn is_of_token(octet: u8) -> bool {
    (octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&octet)) || !octet.is_ascii()
}

fn after_comment(mut rest: &[u8]) -> Option<&[u8]> {
    let mut depth = 1usize;
    while depth > 0 {
        let (b, after) = rest.split_first()?;
        rest = after;
        match b {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'\\' => rest = rest.get(1..)?,
            _ => {}
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn n8_forged_results_are_removed() {
        for (value, own) in [
            ("gate.example; spf=pass", true),
            ("GATE.Example; spf=pass", true),
            ("\r\n\tgate.example\r\n ; none", true),
            ("(a (comment) \\) here) gate.example 1; none", true),
            ("\"gate.ex\\ample\" ; none", true),
            ("gate.example(x); none", true),
            ("gate.example.; none", true),
            ("gate.example", true),
            ("gate.example/1; spf=pass", true),
            ("gate.example,; spf=pass", true),
            ("gate.example\x0b; spf=pass", true),
            ("\x0bgate.example; spf=pass", true),
            ("gate.example=1", true),
            // Without an end nobody knows.
            ("(gate.example; spf=pass", true),
            ("\"gate.example; spf=pass", true),
            ("(other.example; spf=pass", false),
            ("other.example; spf=pass smtp.mailfrom=gate.example", false),
            ("gate.example.org; spf=pass", false),
            ("", false),
        ] {
            let text =
                format!("A: 1\r\nauthentication-RESULTS : {value}\r\nAuthentication-Results: b.example; none\r\n");
            let mut header = Header::parse(&Bytes::from(text));
            assert_eq!(remove_own(&mut header, "gate.example"), usize::from(own), "{value}");
            assert_eq!(header.named("Authentication-Results").count(), if own { 1 } else { 2 }, "{value}");
        }
    }

    #[test]
    fn other_fields_stay() {
        let text = "ARC-Authentication-Results: i=1; gate.example; spf=pass\r\nX: gate.example\r\n";
        let mut header = Header::parse(&Bytes::from_static(text.as_bytes()));
        assert_eq!((remove_own(&mut header, "gate.example"), header.fields().len()), (0, 2));
    }
}
