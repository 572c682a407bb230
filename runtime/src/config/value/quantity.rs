//! Durations, sizes and counts.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::FromText;

/// No timeout or interval of mail is longer.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

impl FromText for Duration {
    const WHAT: &'static str = "a duration like \"30s\" or \"1h 30m\"";

    /// Numbers with the units `ms`, `s`, `m`, `h` and `d`, largest first or not; spaces are free.
    fn from_text(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{}` is not a duration\nwrite it like \"250ms\", \"30s\", \"5m\", \"1h 30m\" or \"5d\"",
                text.escape_debug()
            )
        };
        let mut rest = text.trim();
        let mut total = Self::ZERO;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let (number, after) = leading_number(rest).ok_or_else(bad)?;
            let after = after.trim_start();
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let millis = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            let part = Self::from_millis(number.checked_mul(millis).ok_or_else(bad)?);
            total = total.saturating_add(part);
            rest = after.trim_start();
        }
        if total > MAX_DURATION {
            return Err(format!("`{}` is more than a year", text.escape_debug()));
        }
        Ok(total)
    }
}

/// Octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl FromText for ByteSize {
    const WHAT: &'static str = "a size like \"25 MiB\"";

    /// A whole number and a unit: `B`; `kB`, `MB`, `GB`, `TB` of 1000; `KiB`, `MiB`, `GiB`, `TiB` of 1024.
    fn from_text(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{}` is not a size\nwrite it like \"512 B\", \"256 KiB\", \"25 MiB\" or \"10 MB\"",
                text.escape_debug()
            )
        };
        let (number, unit) = leading_number(text.trim()).ok_or_else(bad)?;
        let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
            "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1_u64 << 40,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit of 1024 that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >> shift > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// How many of something, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u32);

const MAX_COUNT: u32 = 1_000_000_000;

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Count, E> {
                match u32::try_from(number) {
                    Ok(number @ 1..=MAX_COUNT) => Ok(Count(number)),
                    _ => Err(E::custom(format!("{number} is not between 1 and {MAX_COUNT}"))),
                }
            }
        }
        deserializer.deserialize_i64(Number)
    }
}

/// Of a whole; not nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u32);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Count::deserialize(deserializer)? {
            Count(percent @ 1..=100) => Ok(Self(percent)),
            Count(percent) => Err(D::Error::custom(format!("{percent} is not between 1 and 100"))),
        }
    }
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
                match u16::try_from(number) {
                    Ok(number @ 1..) => Ok(Port(number)),
                    _ => Err(E::custom(format!("{number} is not a port: those are 1 to 65535"))),
                }
            }
        }
        deserializer.deserialize_i64(Number)
    }
}

/// Of an MX record; the lowest is the best (RFC 5321 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference(pub u16);

impl<'de> Deserialize<'de> for Preference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Preference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a preference")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Preference, E> {
                let legal = u16::try_from(number).map(Preference);
                legal.map_err(|_| E::custom(format!("{number} is not a preference: those are 0 to 65535")))
            }
        }
        deserializer.deserialize_i64(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("5d", 432_000), ("1h30m", 5400), ("1h 30 m", 5400), ("0s", 0)]
        {
            assert_eq!(Duration::from_text(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(Duration::from_text("250ms"), Ok(Duration::from_millis(250)));
        for bad in
            ["", "5", "m", "5 minutes", "-5s", "1.5h", "5s5", "400d", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(Duration::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, octets) in
            [("25 MiB", 25 << 20), ("10MB", 10_000_000), ("512 B", 512), ("1 gib", 1 << 30), ("0B", 0)]
        {
            assert_eq!(ByteSize::from_text(text), Ok(ByteSize(octets)), "{text}");
        }
        for bad in ["", "25", "MiB", "1.5 MiB", "-1 B", "25 Mi", "25 MiB 3", "99999999999 TiB"] {
            assert!(ByteSize::from_text(bad).is_err(), "{bad}");
        }
        assert_eq!(ByteSize(25 << 20).to_string(), "25 MiB");
        assert_eq!(ByteSize(10_000_000).to_string(), "10000000 B");
    }
}
