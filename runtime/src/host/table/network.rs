//! Addresses, networks and masks, and which of them holds an address.
//!
//! Networks with a contiguous mask are laid out as ranges that don't overlap, each with the most specific network that
//! holds it, so that one binary search finds it however many masks there are. The others are hashed by mask, and each mask
//! costs a probe.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::entries::Offset;

/// Different masks that are not contiguous: each costs a look-up 10 to 30 ns.
pub(super) const MAX_MASKS: usize = 48;

/// A key of a table of addresses: an address, `NET/BITS`, or `NET/MASK`, whose mask need not be contiguous
/// (`192.163.1.1/255.100.10.1` is legal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    V4 { bits: u32, mask: u32 },
    V6 { bits: u128, mask: u128 },
}

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
        match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(address) => {
                let mask = mask.map_or(Some(u32::MAX), |mask| {
                    prefix(mask, 32).map(ones_v4).or_else(|| mask.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits))
                })?;
                Some(Self::V4 { bits: address.to_bits() & mask, mask })
            }
            IpAddr::V6(address) => {
                let mask = mask.map_or(Some(u128::MAX), |mask| {
                    prefix(mask, 128).map(ones_v6).or_else(|| mask.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits))
                })?;
                Some(Self::V6 { bits: address.to_bits() & mask, mask })
            }
        }
    }
}

fn prefix(text: &str, max: u32) -> Option<u32> {
    text.parse().ok().filter(|&bits| bits <= max)
}

fn ones_v4(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn ones_v6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

/// An address as a number: of 32 or of 128 bits.
pub(super) trait Bits: Copy + Ord + std::hash::Hash + std::ops::BitAnd<Output = Self> + std::fmt::Debug {
    fn ones(self) -> u32;
    fn is_contiguous(self) -> bool;
    /// The last address of the network that begins at `self`.
    fn last(self, mask: Self) -> Self;
    fn next(self) -> Option<Self>;
}

macro_rules! bits {
    ($($type:ty),+) => {$(
        impl Bits for $type {
            fn ones(self) -> u32 {
                self.count_ones()
            }

            fn is_contiguous(self) -> bool {
                self.leading_ones() == self.count_ones()
            }

            fn last(self, mask: Self) -> Self {
                self | !mask
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )+};
}

bits!(u32, u128);

/// A network as it was read.
#[derive(Debug, Clone, Copy)]
struct Row<T> {
    bits: T,
    mask: T,
    entry: Offset,
}

/// What can't be made into an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    TooManyMasks,
    /// These two are the same network, written differently.
    Same(Offset, Offset),
}

/// Networks while they are read.
#[derive(Debug)]
pub(super) struct Rows<T>(Vec<Row<T>>);

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Bits> Rows<T> {
    /// `bits` has no bit outside of the mask.
    pub fn push(&mut self, bits: T, mask: T, entry: Offset) {
        self.0.push(Row { bits, mask, entry });
    }

    /// `same`: whether two entries say the same, so that it does not matter that they are one network.
    pub fn finish(mut self, same: impl Fn(Offset, Offset) -> bool) -> Result<Networks<T>, Unfit> {
        // The wider network before those in it: what begins later, or ends sooner, is more specific.
        self.0.sort_unstable_by_key(|row| (row.bits, row.mask.ones(), row.mask, row.entry));
        for pair in self.0.windows(2) {
            if let [one, other] = pair
                && (one.bits, one.mask) == (other.bits, other.mask)
                && !same(one.entry, other.entry)
            {
                return Err(Unfit::Same(one.entry, other.entry));
            }
        }
        self.0.dedup_by_key(|row| (row.bits, row.mask));
        let mut layout = Layout { ranges: Ranges::default(), open: Vec::new() };
        self.0.iter().filter(|row| row.mask.is_contiguous()).for_each(|row| layout.begin(row));
        let mut groups = Vec::new();
        for row in self.0.iter().filter(|row| !row.mask.is_contiguous()) {
            add_to_group(&mut groups, row)?;
        }
        groups.sort_unstable_by_key(|group: &Group<T>| std::cmp::Reverse(group.ones));
        Ok(Networks { ranges: layout.finish(), groups })
    }
}

/// Ready to be asked.
#[derive(Debug)]
pub(super) struct Networks<T> {
    ranges: Ranges<T>,
    /// Masks with the most bits first.
    groups: Vec<Group<T>>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { ranges: Ranges::default(), groups: Vec::new() }
    }
}

impl<T: Bits> Networks<T> {
    /// The network with the most mask bits that holds the address; of two with as many the contiguous one.
    pub fn find(&self, address: T) -> Option<Offset> {
        let found = self.ranges.find(address);
        let least = found.map_or(0, |(ones, _)| ones + 1);
        let odd = self.groups.iter().take_while(|group| group.ones >= least).find_map(|group| group.find(address));
        odd.or(found.map(|(_, entry)| entry))
    }

    /// Octets of memory.
    pub fn octets(&self) -> usize {
        let range = size_of::<T>() + size_of::<u8>() + size_of::<Offset>();
        let groups: usize = self.groups.iter().map(|group| group.networks.allocation_size()).sum();
        self.ranges.starts.capacity() * range + groups
    }
}

/// Ranges that follow each other: each begins here and ends where the next begins. Three lists, because a list of
/// triples would be a third larger.
#[derive(Debug)]
struct Ranges<T> {
    starts: Vec<T>,
    /// Bits of the mask, 128 at most; `NOBODY` where no network holds the range.
    ones: Vec<u8>,
    entries: Vec<Offset>,
}

const NOBODY: u8 = u8::MAX;

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { starts: Vec::new(), ones: Vec::new(), entries: Vec::new() }
    }
}

impl<T: Bits> Ranges<T> {
    fn find(&self, address: T) -> Option<(u32, Offset)> {
        let at = self.starts.partition_point(|start| *start <= address).checked_sub(1)?;
        let ones = *self.ones.get(at)?;
        (ones != NOBODY).then_some((ones.into(), *self.entries.get(at)?))
    }
}

/// Lays out ranges from networks that come sorted, the wider before those in it.
struct Layout<T> {
    ranges: Ranges<T>,
    /// Those that have begun and not ended, each in the one before.
    open: Vec<(T, u8, Offset)>,
}

impl<T: Bits> Layout<T> {
    fn begin(&mut self, row: &Row<T>) {
        self.end_before(Some(row.bits));
        let ones = u8::try_from(row.mask.ones()).unwrap_or(NOBODY);
        self.push(row.bits, ones, row.entry);
        self.open.push((row.bits.last(row.mask), ones, row.entry));
    }

    /// Where a network ends, the one around it goes on.
    fn end_before(&mut self, start: Option<T>) {
        while let Some(&(last, ..)) = self.open.last() {
            if start.is_some_and(|start| start <= last) {
                return;
            }
            self.open.pop();
            if let Some(next) = last.next() {
                let (ones, entry) = self.open.last().map_or((NOBODY, 0), |&(_, ones, entry)| (ones, entry));
                self.push(next, ones, entry);
            }
        }
    }

    /// One that begins at the same place as the last stands in its place.
    fn push(&mut self, start: T, ones: u8, entry: Offset) {
        let ranges = &mut self.ranges;
        if ranges.starts.last() == Some(&start) {
            ranges.starts.pop();
            ranges.ones.pop();
            ranges.entries.pop();
        }
        ranges.starts.push(start);
        ranges.ones.push(ones);
        ranges.entries.push(entry);
    }

    fn finish(mut self) -> Ranges<T> {
        self.end_before(None);
        self.ranges.starts.shrink_to_fit();
        self.ranges.ones.shrink_to_fit();
        self.ranges.entries.shrink_to_fit();
        self.ranges
    }
}

/// All networks of one mask that is not contiguous.
#[derive(Debug)]
struct Group<T> {
    mask: T,
    ones: u32,
    networks: HashTable<(T, Offset)>,
    hasher: DefaultHashBuilder,
}

impl<T: Bits> Group<T> {
    fn find(&self, address: T) -> Option<Offset> {
        let bits = address & self.mask;
        self.networks.find(self.hasher.hash_one(bits), |(other, _)| *other == bits).map(|(_, entry)| *entry)
    }
}

fn add_to_group<T: Bits>(groups: &mut Vec<Group<T>>, row: &Row<T>) -> Result<(), Unfit> {
    if !groups.iter().any(|group| group.mask == row.mask) {
        if groups.len() == MAX_MASKS {
            return Err(Unfit::TooManyMasks);
        }
        let hasher = groups.first().map_or_else(DefaultHashBuilder::default, |group| group.hasher.clone());
        groups.push(Group { mask: row.mask, ones: row.mask.ones(), networks: HashTable::new(), hasher });
    }
    if let Some(Group { networks, hasher, .. }) = groups.iter_mut().find(|group| group.mask == row.mask) {
        networks.insert_unique(hasher.hash_one(row.bits), (row.bits, row.entry), |(bits, _)| hasher.hash_one(bits));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Result<Networks<u32>, Unfit> {
        let mut rows = Rows::default();
        for (entry, text) in texts.iter().enumerate() {
            let Some(Network::V4 { bits, mask }) = Network::parse(text) else { panic!("{text}") };
            rows.push(bits, mask, u32::try_from(entry).unwrap());
        }
        rows.finish(|_, _| false)
    }

    fn find(networks: &Networks<u32>, address: &str) -> Option<Offset> {
        networks.find(address.parse::<Ipv4Addr>().unwrap().to_bits())
    }

    #[test]
    fn networks_in_networks() {
        let found =
            networks(&["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.255.0/24", "255.255.255.255"]).unwrap();
        for (address, expected) in [
            ("9.255.255.255", None),
            ("10.0.0.0", Some(0)),
            ("10.1.0.0", Some(2)),
            ("10.1.1.0", Some(1)),
            ("10.1.255.255", Some(3)),
            ("10.2.0.0", Some(0)),
            ("10.255.255.255", Some(0)),
            ("11.0.0.0", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some(4)),
        ] {
            assert_eq!(find(&found, address), expected, "{address}");
        }
        assert_eq!(networks(&["0.0.0.0/0"]).unwrap().find(u32::MAX), Some(0));
        assert_eq!(networks(&[]).unwrap().find(0), None);
    }

    #[test]
    fn one_network_written_twice_is_told() {
        assert_eq!(networks(&["10.0.0.1/24", "10.0.0.2/24"]).unwrap_err(), Unfit::Same(0, 1));
        let other = networks(&["10.0.0.1/24", "10.0.0.2/25"]).unwrap();
        assert_eq!(find(&other, "10.0.0.3"), Some(1));
    }

    proptest! {
        /// Against the plain way: look at all of them.
        #[test]
        fn as_if_all_were_looked_at(
            rows in prop::collection::vec((any::<u32>(), prop_oneof![0u32..=32, 100u32..140]), 0..60),
            addresses in prop::collection::vec(any::<u32>(), 0..60),
        ) {
            // Few addresses, so that networks hold each other; from 100 on masks with holes.
            let few = |bits: u32| bits & 0xC003_0003;
            let mask = |bits: u32| if bits <= 32 { ones_v4(bits) } else { 0xFF00_0001 | bits << 8 };
            let mut all: Vec<(u32, u32)> = rows.iter().map(|(bits, ones)| (few(*bits) & mask(*ones), mask(*ones))).collect();
            all.sort_unstable();
            all.dedup();
            let mut rows = Rows::default();
            for (entry, (bits, mask)) in all.iter().enumerate() {
                rows.push(*bits, *mask, u32::try_from(entry).unwrap());
            }
            let networks = rows.finish(|_, _| false).unwrap();
            for address in addresses.into_iter().map(few) {
                let holding = all.iter().enumerate().filter(|(_, (bits, mask))| address & mask == *bits);
                let best = holding.clone().map(|(_, (_, mask))| mask.count_ones()).max();
                let found = networks.find(address).map(|entry| all[entry as usize].1.count_ones());
                prop_assert_eq!(found, best);
            }
        }
    }
}
