//! The DMARC record (RFC 9989 §4.7). What is wrong in it is left out, but for the version, which makes it one.

use crate::mail::evidence::DmarcPolicy as Policy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Psd {
    Yes,
    No,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// `None`: it has no valid one, and wants no reports either (§4.10.1).
    pub policy: Option<Policy>,
    pub subdomain_policy: Option<Policy>,
    /// Of names that do not exist.
    pub absent_policy: Option<Policy>,
    pub strict_dkim: bool,
    pub strict_spf: bool,
    pub psd: Psd,
    /// `t=y`
    pub testing: bool,
}

/// `v=DMARC1` first.
pub(super) fn is_dmarc(text: &[u8]) -> bool {
    let first = text.split(|&b| b == b';').next().unwrap_or_default();
    let mut sides = first.splitn(2, |&b| b == b'=');
    let name = sides.next().unwrap_or_default().trim_ascii_end();
    name == b"v" && sides.next().is_some_and(|value| value.trim_ascii() == b"DMARC1")
}

impl Record {
    pub fn parse(text: &[u8]) -> Self {
        let policy = |name: &str| match find(text, name)? {
            value if value.eq_ignore_ascii_case(b"none") => Some(Policy::None),
            value if value.eq_ignore_ascii_case(b"quarantine") => Some(Policy::Quarantine),
            value if value.eq_ignore_ascii_case(b"reject") => Some(Policy::Reject),
            _ => None,
        };
        let is = |name: &str, wanted: &[u8]| find(text, name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
        // §4.10.1: one that only wants reports has the policy `none`.
        let wants_reports = || find(text, "rua").is_some_and(has_report_uri);
        Self {
            policy: policy("p").or_else(|| wants_reports().then_some(Policy::None)),
            subdomain_policy: policy("sp"),
            absent_policy: policy("np"),
            strict_dkim: is("adkim", b"s"),
            strict_spf: is("aspf", b"s"),
            psd: match () {
                () if is("psd", b"y") => Psd::Yes,
                () if is("psd", b"n") => Psd::No,
                () => Psd::Unknown,
            },
            testing: is("t", b"y"),
        }
    }
}

/// The value of the first tag of that name.
fn find<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    text.split(|&b| b == b';').find_map(|tag| {
        let at = tag.iter().position(|&b| b == b'=')?;
        let (known, value) = tag.split_at_checked(at)?;
        known
            .trim_ascii()
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

fn has_report_uri(value: &[u8]) -> bool {
    let is_mail = |uri: &[u8]| {
        let (scheme, rest) = uri.split_at_checked(7).unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"mailto:") && rest.contains(&b'@')
    };
    value.split(|&b| b == b',').any(|uri| is_mail(uri.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let record = Record::parse(b"v=DMARC1; p=Reject; sp=quarantine ;np=none; adkim=s; aspf=r; psd=n; t=y; pct=5");
        assert_eq!(
            (record.policy, record.subdomain_policy, record.absent_policy),
            (Some(Policy::Reject), Some(Policy::Quarantine), Some(Policy::None))
        );
        assert_eq!((record.strict_dkim, record.strict_spf, record.psd, record.testing), (true, false, Psd::No, true));
        assert_eq!(Record::parse(b"v=DMARC1; p=bad").policy, None);
        assert_eq!(Record::parse(b"v=DMARC1; rua=mailto:a@b.example").policy, Some(Policy::None));
        assert_eq!(Record::parse(b"v=DMARC1; p=; rua=http://b.example/").policy, None);
        for (text, is) in [
            (&b"v=DMARC1"[..], true),
            (b"v = DMARC1 ;p=none", true),
            (b"V=DMARC1; p=none", false),
            (b"v=dmarc1; p=none", false),
            (b"p=none; v=DMARC1", false),
            (b"v=DMARC10", false),
        ] {
            assert_eq!(is_dmarc(text), is, "{text:?}");
        }
    }
}
