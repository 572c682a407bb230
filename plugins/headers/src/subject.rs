//! The subject with something before it.

use crate::word;

/// Octets of a subject that is written anew; a longer one is cut. Real ones have some hundreds.
const MAX_OCTETS: usize = 16 * 1024;

/// The longest word that a line can hold for sure (RFC 5322 §2.1.1).
const MAX_WORD: usize = 900;

/// The new value; `None` where the subject has all prefixes already, wherever in it (`Re: [EXTERNAL] …`).
pub fn with_prefixes(value: &[u8], prefixes: &[&str]) -> Option<String> {
    let text = word::decode(value.get(..2 * MAX_OCTETS).unwrap_or(value));
    let missing: Vec<_> = prefixes.iter().copied().filter(|prefix| !text.contains(prefix)).collect();
    if missing.is_empty() {
        return None;
    }
    let rest = kept(value, text);
    let prefix = missing.join(" ");
    Some(match () {
        () if rest.is_empty() => word::encode_if_needed(&prefix),
        () if prefix.is_ascii() => format!("{prefix} {rest}"),
        // Between encoded words no space is seen, so it goes into one.
        () if rest.starts_with("=?") => format!("{} {rest}", word::encode(&format!("{prefix} "))),
        () => format!("{} {rest}", word::encode(&prefix)),
    })
}

/// What was there, as it stands. What can't stand in a field that we write is encoded: a subject must not keep its tag off by
/// being odd.
fn kept(value: &[u8], decoded: String) -> String {
    let clean = |text: &str| !text.chars().any(char::is_control) && text.split(' ').all(|word| word.len() <= MAX_WORD);
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= MAX_OCTETS && clean(text) => text.trim().to_owned(),
        _ => {
            let printable = decoded.chars().map(|c| if c.is_control() { ' ' } else { c });
            let mut octets = 0;
            let short = printable.take_while(|c| {
                octets += c.len_utf8();
                octets <= MAX_OCTETS
            });
            word::encode(short.collect::<String>().trim())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x1_subjects() {
        for (value, prefixes, expected) in [
            ("hello", &["[EXT]"][..], Some("[EXT] hello")),
            ("hello", &["[EXT]", "[SPAM]"], Some("[EXT] [SPAM] hello")),
            ("Re: [EXT] hello", &["[EXT]"], None),
            ("Re: [EXT] hello", &["[EXT]", "[SPAM]"], Some("[SPAM] Re: [EXT] hello")),
            ("", &["[EXT]"], Some("[EXT]")),
            ("=?utf-8?Q?caf=C3=A9?=", &["[EXT]"], Some("[EXT] =?utf-8?Q?caf=C3=A9?=")),
            // There already, under an encoded word of another charset.
            ("=?koi8-r?Q?Re:_[EXT]_=C1?=", &["[EXT]"], None),
            ("=?utf-8?B?W0VYVF0gw6k=?=", &["[EXT]"], None),
            ("hello", &["[é]"], Some("=?utf-8?B?W8OpXQ==?= hello")),
            ("=?utf-8?Q?=C3=A0?=", &["[é]"], Some("=?utf-8?B?W8OpXSA=?= =?utf-8?Q?=C3=A0?=")),
            ("=?utf-8?B?W8OpXSA=?= =?utf-8?Q?=C3=A0?=", &["[é]"], None),
            ("", &["[é]"], Some("=?utf-8?B?W8OpXQ==?=")),
        ] {
            assert_eq!(with_prefixes(value.as_bytes(), prefixes).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn x1_no_subject_is_so_odd_that_it_gets_no_tag() {
        let long = vec![b'a'; 5000];
        let longer = vec![b'b'; 200_000];
        for (value, shown) in [
            (&b"caf\xe9 \xfc"[..], "[EXT] café ü"),
            (b"a\x01b\x00c", "[EXT] a b c"),
            (b"\xc2\x85x", "[EXT] x"),
            (b"\xe9 =?utf-8?Q?=C3=A0?=", "[EXT] é à"),
            (&long, &format!("[EXT] {}", "a".repeat(5000))),
            (&longer, &format!("[EXT] {}", "b".repeat(MAX_OCTETS))),
        ] {
            let tagged = with_prefixes(value, &["[EXT]"]).unwrap();
            assert!(
                tagged.len() < 60 * 1024 && tagged.split(' ').all(|word| word.len() <= MAX_WORD),
                "{}",
                tagged.len()
            );
            assert!(!tagged.chars().any(char::is_control));
            assert_eq!(word::decode(tagged.as_bytes()), shown);
            assert_eq!(with_prefixes(tagged.as_bytes(), &["[EXT]"]), None);
        }
    }
}
