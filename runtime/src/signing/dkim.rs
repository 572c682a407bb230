//! The DKIM signature (RFC 6376 §3.5, RFC 8463 for Ed25519).

use super::tags::Tags;
use super::{KeyError, Named, Policy};
use crate::authentication::canonical::Form;
use crate::mail::{Field, Header};

/// Signed as often as they are there and once more (RFC 6376 §8.15), so that nobody can add another one, which some
/// readers would show in place of the signed one.
const OVERSIGNED: [&str; 12] = [
    "From",
    "Subject",
    "To",
    "Cc",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// Signed where they are there (RFC 6376 §5.4.1). Mailing lists and those who resend add theirs on the way, which must
/// not break what is signed already.
const SIGNED: [&str; 19] = [
    "Sender",
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
    "Content-Language",
    "Auto-Submitted",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
];

/// `i=` is left to its default, the domain itself.
pub(super) fn signature(
    header: &Header,
    body_hash: &str,
    by: &Named<'_>,
    policy: &Policy,
    now: u64,
) -> Result<Field, KeyError> {
    let (names, before) = signed_fields(header, &[]);
    Tags::new("DKIM-Signature")
        .tag("v", "1")
        .tag("a", by.key.algorithm().name())
        .tag("c", "relaxed/relaxed")
        .tag("d", by.domain.as_str())
        .tag("s", by.selector.as_str())
        .number("t", policy.timestamp.then_some(now))
        .number("x", policy.validity.map(|validity| now.saturating_add(validity)))
        .list("h", &names)
        .tag("bh", body_hash)
        .signed(before, by.key)
}

/// What goes into `h=`, and these fields in their canonical form (RFC 6376 §5.4.2: from the lowest of each name upwards).
pub(super) fn signed_fields(header: &Header, besides: &[&'static str]) -> (Vec<&'static str>, Vec<u8>) {
    let mut names = Vec::new();
    let mut canonical = Vec::new();
    let oversigned = OVERSIGNED.into_iter().map(|name| (name, true));
    let signed = SIGNED.into_iter().chain(besides.iter().copied()).map(|name| (name, false));
    for (name, again) in oversigned.chain(signed) {
        for field in header.named(name).rev() {
            Form::Relaxed.add_field(field.raw(), &mut canonical);
            names.push(name);
        }
        if again {
            names.push(name);
        }
    }
    (names, canonical)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_signed_can_not_be_added_to() {
        let raw = b"Received: x\r\nFrom: a@x\r\nfrom: b@x\r\nX-Spam: no\r\nList-Id: <l>\r\nSubject: hi\r\n\
            DKIM-Signature: old\r\n";
        let header = Header::parse(&Bytes::from_static(raw));
        let (names, canonical) = signed_fields(&header, &["DKIM-Signature"]);
        let count = |name: &str| names.iter().filter(|other| **other == name).count();
        let counts = ["From", "Subject", "To", "List-Id", "List-Help", "DKIM-Signature"].map(count);
        assert_eq!(counts, [3, 2, 1, 1, 0, 1]);
        assert_eq!((count("Received"), count("X-Spam")), (0, 0));
        // The lowest first.
        assert_eq!(canonical, b"from:b@x\r\nfrom:a@x\r\nsubject:hi\r\nlist-id:<l>\r\ndkim-signature:old\r\n");
    }
}
