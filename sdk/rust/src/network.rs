//! IP networks as rules write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and a mask, compared bit by bit: `192.0.2.1`, `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, and masks with
/// holes as `192.163.1.1/255.100.10.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    family: Family,
    bits: u128,
    mask: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Not an address or network; says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidNetwork(&'static str);

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidNetwork {}

impl Network {
    /// The network of that one address.
    pub fn of(address: IpAddr) -> Self {
        let (family, bits) = split(address);
        Self { family, bits, mask: family.full() }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (family, bits) = split(address);
        family == self.family && bits & self.mask == self.bits
    }

    /// Bits that must be equal: the greater, the more specific the network.
    pub fn specificity(&self) -> u32 {
        self.mask.count_ones()
    }

    pub fn is_single_address(&self) -> bool {
        self.mask == self.family.full()
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, mask) = match text.split_once('/') {
            Some((address, mask)) => (address, Some(mask)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork("not an IP address"))?;
        let (family, bits) = split(address);
        let mask = match mask {
            None => family.full(),
            Some(mask) => family.mask(mask)?,
        };
        Ok(Self { family, bits: bits & mask, mask })
    }
}

impl Family {
    fn width(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn full(self) -> u128 {
        u128::MAX >> (128 - self.width())
    }

    /// A count of bits, or an address of the same family.
    fn mask(self, text: &str) -> Result<u128, InvalidNetwork> {
        if let Ok(ones) = text.parse::<u32>() {
            let zeros = self.width().checked_sub(ones).ok_or(InvalidNetwork("more mask bits than the address has"))?;
            return Ok(self.full() & u128::MAX.checked_shl(zeros).unwrap_or(0));
        }
        let mask: IpAddr =
            text.parse().map_err(|_| InvalidNetwork("the mask is neither a count of bits nor a mask"))?;
        match (self, mask) {
            (Self::V4, IpAddr::V4(mask)) => Ok(u128::from(mask.to_bits())),
            (Self::V6, IpAddr::V6(mask)) => Ok(mask.to_bits()),
            _ => Err(InvalidNetwork("address and mask are of different families")),
        }
    }
}

/// An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address.
fn split(address: IpAddr) -> (Family, u128) {
    match address.to_canonical() {
        IpAddr::V4(ip) => (Family::V4, u128::from(ip.to_bits())),
        IpAddr::V6(ip) => (Family::V6, ip.to_bits()),
    }
}

from_text!(Network);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_addresses() {
        for (network, address, expected) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.77/24", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::1/ffff::ffff", "2001:1::1", true),
            // A mask with holes: the bits of 255.100.10.1 count, all others are free.
            ("192.163.1.1/255.100.10.1", "192.163.1.1", true),
            ("192.163.1.1/255.100.10.1", "192.32.0.1", true),
            ("192.163.1.1/255.100.10.1", "192.163.1.2", false),
            ("192.163.1.1/255.100.10.1", "193.163.1.1", false),
            ("192.163.1.1/255.100.10.1", "192.163.2.1", false),
        ] {
            let contains = network.parse::<Network>().unwrap().contains(address.parse().unwrap());
            assert_eq!(contains, expected, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network() {
        for text in
            ["", "192.0.2", "192.0.2.1/33", "192.0.2.1/", "192.0.2.1/ffff::", "::1/129", "192.0.2.1/24/8", "a/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
    }
}
