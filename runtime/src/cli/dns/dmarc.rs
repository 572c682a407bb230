//! DMARC records as text (RFC 9989 §4.7, RFC 7489 §6.3): what is published, and what a domain begins with (R28).

use std::fmt::Write as _;

use crate::smtp::{Domain, Mailbox};

/// Octets of a record that is read at all.
const MAX_RECORD: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Names in lower case, in their order; the version is the first.
    tags: Vec<(String, String)>,
}

/// The version comes first. One in small letters is meant to be a record, though nobody takes it for one.
pub(super) fn is_record(octets: &[u8]) -> bool {
    let mut rest = octets.iter().filter(|octet| !matches!(octet, b' ' | b'\t'));
    let begins = b"v=DMARC1".iter().all(|wanted| rest.next().is_some_and(|octet| octet.eq_ignore_ascii_case(wanted)));
    begins && matches!(rest.next(), None | Some(b';'))
}

/// To begin with: nobody's mail is refused, but everybody who can tells how it fares.
pub(super) fn fresh(reports: Option<&Mailbox>) -> String {
    let reports = reports.map(|mailbox| format!("; rua={}", mailto(mailbox))).unwrap_or_default();
    format!("v=DMARC1; p=none{reports}")
}

/// Who wants reports about a domain of others must say so in DNS, under this name (RFC 9990 §4, RFC 7489 §7.1). `None`:
/// the domains belong together.
pub(super) fn authorization(domain: &Domain, reports: &Mailbox) -> Option<String> {
    let receiver = reports.domain()?;
    let below = |one: &Domain, other: &Domain| {
        one == other || one.as_str().strip_suffix(other.as_str()).is_some_and(|rest| rest.ends_with('.'))
    };
    let related = below(domain, receiver) || below(receiver, domain);
    (!related).then(|| format!("{domain}._report._dmarc.{receiver}"))
}

/// An URI of RFC 6068; `,`, `!` and `;` have a meaning in the record.
pub(super) fn mailto(mailbox: &Mailbox) -> String {
    let mut uri = "mailto:".to_owned();
    for octet in mailbox.to_string().bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'@' | b'.' | b'-' | b'_' | b'+' | b'=' | b'\'' | b'~' => {
                uri.push(char::from(octet));
            }
            // Writing to a String can't fail.
            octet => drop(write!(uri, "%{octet:02X}")),
        }
    }
    uri
}

impl Record {
    /// The error says what is wrong, for people.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, String> {
        if octets.len() > MAX_RECORD {
            return Err(format!("it has {} octets", octets.len()));
        }
        let text =
            std::str::from_utf8(octets).ok().filter(|text| text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')));
        let text = text.ok_or("it has characters that are not printable ASCII")?;
        let tag = |part: &str| {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("`{}` is no tag", part.trim()))?;
            Ok::<_, String>((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        let parts = text.split(';').filter(|part| !part.trim().is_empty());
        Ok(Self { tags: parts.map(tag).collect::<Result<_, _>>()? })
    }

    pub(super) fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }

    /// `p`, in lower case, if it is one of those there are.
    pub(super) fn policy(&self) -> Option<&'static str> {
        let policy = self.tag("p")?;
        ["none", "quarantine", "reject"].into_iter().find(|known| policy.eq_ignore_ascii_case(known))
    }

    pub(super) fn reports_to(&self, mailbox: &Mailbox) -> bool {
        let wanted = mailto(mailbox);
        let uris = self.tag("rua").unwrap_or_default().split(',');
        // RFC 7489 §6.2: `!10m` behind it limits the size.
        uris.map(|uri| uri.split('!').next().unwrap_or_default().trim()).any(|uri| uri.eq_ignore_ascii_case(&wanted))
    }

    /// With that receiver of reports besides those that are there.
    pub(super) fn with_reports(&self, mailbox: &Mailbox) -> Self {
        let mut record = self.clone();
        if self.reports_to(mailbox) {
            return record;
        }
        let ours = mailto(mailbox);
        match record.tags.iter_mut().find(|(name, _)| name == "rua") {
            Some((_, value)) if value.is_empty() => *value = ours,
            Some((_, value)) => *value = format!("{value},{ours}"),
            None => record.tags.push(("rua".to_owned(), ours)),
        }
        record
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (name, value)) in self.tags.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(text: &str) -> Mailbox {
        text.parse().unwrap()
    }

    #[test]
    fn which_texts_are_records() {
        for (text, expected) in [
            ("v=DMARC1; p=none", true),
            ("v = DMARC1;p=none", true),
            ("v=dmarc1", true),
            ("v=DMARC10; p=none", false),
            ("p=none; v=DMARC1", false),
            ("v=spf1", false),
            ("", false),
        ] {
            assert_eq!(is_record(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn r28_a_domain_begins_without_refusing() {
        assert_eq!(fresh(None), "v=DMARC1; p=none");
        assert_eq!(fresh(Some(&mailbox("dmarc@example.net"))), "v=DMARC1; p=none; rua=mailto:dmarc@example.net");
        assert_eq!(mailto(&mailbox("a!b/c@example.net")), "mailto:a%21b%2Fc@example.net");
    }

    #[test]
    fn r29_reports_to_the_service_are_added_to_those_of_others() {
        let ours = mailbox("dmarc@example.net");
        for (before, there, after) in [
            ("v=DMARC1; p=none", false, "v=DMARC1; p=none; rua=mailto:dmarc@example.net"),
            (
                "v=DMARC1;p=reject;rua=mailto:x@y.example;",
                false,
                "v=DMARC1; p=reject; rua=mailto:x@y.example,mailto:dmarc@example.net",
            ),
            ("v=DMARC1; p=none; rua=", false, "v=DMARC1; p=none; rua=mailto:dmarc@example.net"),
            (
                "v=DMARC1; p=none; rua=mailto:a@b.example, MAILTO:DMARC@example.net!10m",
                true,
                "v=DMARC1; p=none; rua=mailto:a@b.example, MAILTO:DMARC@example.net!10m",
            ),
        ] {
            let record = Record::parse(before.as_bytes()).unwrap();
            assert_eq!(record.reports_to(&ours), there, "{before}");
            assert_eq!(record.with_reports(&ours).to_string(), after);
        }
    }

    #[test]
    fn policies() {
        for (text, policy) in
            [("p=Reject", Some("reject")), ("p=none", Some("none")), ("p=nono", None), ("sp=none", None)]
        {
            let record = Record::parse(format!("v=DMARC1; {text}").as_bytes()).unwrap();
            assert_eq!(record.policy(), policy, "{text}");
        }
        let big = [b"v=DMARC1; p=", &[b'x'; 65_000][..]].concat();
        for hostile in [&big[..], b"v=DMARC1; p=\x1b[2J", b"v=DMARC1; p"] {
            assert!(Record::parse(hostile).is_err());
        }
    }

    #[test]
    fn reports_to_strangers_must_be_allowed_by_them() {
        let name =
            |domain: &str, mailbox: &str| authorization(&Domain::parse(domain).unwrap(), &self::mailbox(mailbox));
        assert_eq!(name("company.com", "d@example.net").as_deref(), Some("company.com._report._dmarc.example.net"));
        for (domain, mailbox) in
            [("company.com", "d@company.com"), ("a.company.com", "d@company.com"), ("company.com", "d@r.company.com")]
        {
            assert_eq!(name(domain, mailbox), None, "{domain}");
        }
        assert!(name("notcompany.com", "d@company.com").is_some());
    }
}
