//! Fuzz body: records from DNS and header fields that strangers have written, read as everything that they may be.

#![expect(clippy::expect_used, reason = "a body panics when something does not hold")]

use bytes::Bytes;

use super::key::{Algorithm, Key};
use super::{arc, author, dkim, dmarc, origin, results, spf};
use crate::mail::{Body, Header, Message};

/// Nothing panics, and what is made of it stays within its bounds.
pub fn read_anything(octets: &[u8]) {
    spf::read_anything(octets);
    dmarc::read_anything(octets);
    dkim::read_anything(octets);
    for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
        if let Ok(key) = Key::parse(octets, algorithm) {
            assert!(!key.verifies(b"signed", b"signature"));
        }
    }
    let header = Header::parse(&Bytes::copy_from_slice(octets));
    for field in header.fields() {
        let _ = results::is_own(field, "gw.example.net");
    }
    let _ = author::domains(&header);
    let _ = origin::behind_relay(&["192.0.2.0/24".parse().expect("a network")], &header);
    arc::read_anything(&header);
    let message = Message { header, body: Body::from_bytes(Bytes::new()) };
    for domain in dkim::claimed_domains(&message) {
        assert!(!domain.chars().any(char::is_control), "{domain:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn n5_n6_n7_whatever_is_in_a_record_or_a_field_is_read(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            super::read_anything(&octets);
        }

        #[test]
        fn n5_n6_n7_nearly_right_ones_too(
            text in "(v=spf1|v=DMARC1|v=DKIM1|v=1|From:|ARC-Seal: i=|Received: from)([ ;=:/%{}a-z0-9.+~?@<>\\[\\]()-]|\r\n ){0,120}"
        ) {
            super::read_anything(text.as_bytes());
        }
    }
}
