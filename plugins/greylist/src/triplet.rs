//! Who writes from where to whom, as a key of the store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_sdk::Address;

/// Octets of a key that the store takes.
const MAX_KEY: usize = 256;
/// A word of so many characters is a number in other clothes.
const LONG_WORD: usize = 20;

/// The network that a client's mail system tries again from: an IPv4 /24, an IPv6 /64.
pub fn network(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(ip) => format!("{}/24", Ipv4Addr::from_bits(ip.to_bits() & 0xFFFF_FF00)),
        IpAddr::V6(ip) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

/// The key of a triplet. The null sender is one like any other.
pub fn key(origin: &str, sender: Option<&Address>, recipient: &Address) -> String {
    let sender = sender.map_or_else(|| "<>".to_owned(), folded);
    bounded(format!("t/{origin}/{sender}/{}", recipient.to_string().to_ascii_lowercase()))
}

/// The key of what an origin has earned.
pub fn origin_key(origin: &str) -> String {
    bounded(format!("o/{origin}"))
}

/// Without what lists and bounce handlers make anew for each mail: of several words those with digits, very long ones (VERP, BATV),
/// and all of an SRS address but its first word.
fn folded(sender: &Address) -> String {
    let local_part = sender.local_part.to_ascii_lowercase();
    let is_separator = |c: char| "-+=._".contains(c);
    if ["srs0", "srs1"]
        .iter()
        .any(|srs| local_part.strip_prefix(srs).is_some_and(|rest| rest.starts_with(is_separator)))
    {
        return format!("srs@{}", sender.domain);
    }
    let several = local_part.contains(is_separator);
    let mut out = String::new();
    for part in local_part.split_inclusive(is_separator) {
        let word = part.trim_end_matches(is_separator);
        let changes = word.len() >= LONG_WORD || several && word.contains(|c: char| c.is_ascii_digit());
        out.push_str(if changes { "#" } else { word });
        out.push_str(part.get(word.len()..).unwrap_or_default());
    }
    format!("{out}@{}", sender.domain.to_ascii_lowercase())
}

/// A key that is too long ends in a hash of the rest of it.
fn bounded(key: String) -> String {
    if key.len() <= MAX_KEY {
        return key;
    }
    let end = (0..=MAX_KEY - 17).rev().find(|at| key.is_char_boundary(*at)).unwrap_or(0);
    let (head, tail) = key.split_at(end);
    // FNV-1a. Who finds two that are equal has written to himself twice.
    let hash = tail
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3));
    format!("{head}#{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_clients() {
        for (client, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network(client.parse().unwrap()), expected);
        }
    }

    #[test]
    fn what_changes_with_each_mail_is_folded() {
        for (sender, expected) in [
            ("Alice.Smith@example.org", "alice.smith@example.org"),
            ("bounce-1234-bob=example.com@lists.example.org", "bounce-#-bob=example.com@lists.example.org"),
            ("bounces+7781-a9c3-bob=example.com@em.example.org", "bounces+#-#-bob=example.com@em.example.org"),
            ("prvs=1234abcdef=alice@example.org", "prvs=#=alice@example.org"),
            ("SRS0=HhHh=TT=other.example=bob@example.org", "srs@example.org"),
            ("srs0+abcd=xy=other.example=bob@example.org", "srs@example.org"),
            ("srsly@example.org", "srsly@example.org"),
            ("abcdefghijklmnopqrstuvwxyz@example.org", "#@example.org"),
            ("bob2@example.org", "bob2@example.org"),
        ] {
            let (local_part, domain) = sender.rsplit_once('@').unwrap();
            let sender = Address { local_part: local_part.to_owned(), domain: domain.to_owned() };
            assert_eq!(folded(&sender), expected);
        }
    }

    #[test]
    fn keys_fit_into_the_store() {
        let address = |fill: &str| Address { local_part: fill.repeat(32), domain: format!("{}.org", "a.".repeat(120)) };
        let (one, other) = (address("x."), address("y."));
        let keys = [key("192.0.2.0/24", Some(&one), &one), key("192.0.2.0/24", Some(&one), &other)];
        assert!(keys.iter().all(|key| key.len() <= MAX_KEY), "{keys:?}");
        assert_ne!(keys[0], keys[1]);
        let wide = Address { local_part: "ü".repeat(200), domain: "example.org".to_owned() };
        assert!(key("192.0.2.0/24", Some(&wide), &wide).len() <= MAX_KEY);
        assert_eq!(key("192.0.2.0/24", None, &"A@b.org".parse().unwrap()), "t/192.0.2.0/24/<>/a@b.org");
    }
}
