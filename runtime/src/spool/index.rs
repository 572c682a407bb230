//! What is where: the spool's memory of its segments. Recovery and the committer change it by the same rules, record
//! by record, in the order in which they stand on disk.

use std::collections::{BTreeMap, HashMap};

use super::record::{Kind, RecordHeader};
use super::segment::Name;
use crate::mail::MessageId;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    /// Octets of the whole record.
    pub len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub place: Place,
    /// A state that came after the message was stored, in a record of its own.
    pub state: Option<Place>,
    /// Number of the file that holds the body, or 0, and its octets.
    pub body_file: u64,
    pub body_len: u64,
    /// Octets of the message.
    pub size: u64,
    /// The lowest segment that may hold any version of this message.
    oldest: u64,
}

impl Entry {
    fn file_octets(&self) -> u64 {
        if self.body_file == 0 { 0 } else { self.body_len }
    }
}

/// A body file that no message refers to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unused {
    pub id: MessageId,
    pub body_file: u64,
}

#[derive(Debug)]
struct Segment {
    name: Name,
    octets: u64,
    /// Octets of the records that a reader may still ask for.
    live: u64,
    /// A `done` in here hides records of segments from this one on: it must not go before they are gone.
    hides_from: u64,
    /// Takes no more records.
    sealed: bool,
    /// It holds what could not be read or set aside: never removed.
    kept: bool,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<MessageId, Entry>,
    segments: BTreeMap<u64, Segment>,
    body_octets: u64,
}

impl Index {
    pub fn find(&self, id: MessageId) -> Option<Entry> {
        self.entries.get(&id).copied()
    }

    pub fn name(&self, segment: u64) -> Option<Name> {
        self.segments.get(&segment).map(|segment| segment.name)
    }

    pub fn entries(&self) -> impl Iterator<Item = (MessageId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// Of segments and body files.
    pub fn octets(&self) -> u64 {
        self.segments.values().map(|segment| segment.octets).sum::<u64>() + self.body_octets
    }

    pub fn add_segment(&mut self, name: Name) {
        let segment = Segment { name, octets: 0, live: 0, hides_from: u64::MAX, sealed: false, kept: false };
        self.segments.insert(name.number, segment);
    }

    pub fn remove_segment(&mut self, number: u64) {
        self.segments.remove(&number);
    }

    pub fn grow(&mut self, number: u64, octets: u64) {
        self.change(number, |segment| segment.octets = octets);
    }

    pub fn seal(&mut self, number: u64) {
        self.change(number, |segment| segment.sealed = true);
    }

    pub fn keep(&mut self, number: u64) {
        self.change(number, |segment| segment.kept = true);
    }

    /// Applies a record that is durable at this place. Gives the body file that it makes useless.
    pub fn apply(&mut self, segment: u64, offset: u64, header: &RecordHeader) -> Option<Unused> {
        let place = Place { segment, offset, len: header.record_len() };
        match header.kind {
            Kind::Store => self.store(place, header),
            Kind::State => {
                self.set_state(header.id, place);
                None
            }
            Kind::Done => {
                let entry = self.remove(header.id)?;
                if entry.oldest < segment {
                    self.change(segment, |segment| segment.hides_from = segment.hides_from.min(entry.oldest));
                }
                (entry.body_file != 0).then_some(Unused { id: header.id, body_file: entry.body_file })
            }
            Kind::Index => None,
        }
    }

    fn store(&mut self, place: Place, header: &RecordHeader) -> Option<Unused> {
        let before = self.remove(header.id);
        let entry = Entry {
            place,
            state: None,
            body_file: header.body_file,
            body_len: header.body_len,
            size: header.message_len(),
            oldest: before.map_or(place.segment, |before| before.oldest.min(place.segment)),
        };
        self.body_octets += entry.file_octets();
        self.change(place.segment, |segment| segment.live += place.len);
        self.entries.insert(header.id, entry);
        let before = before.filter(|before| before.body_file != 0 && before.body_file != entry.body_file)?;
        Some(Unused { id: header.id, body_file: before.body_file })
    }

    fn set_state(&mut self, id: MessageId, place: Place) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = entry.state.replace(place);
        self.change(place.segment, |segment| segment.live += place.len);
        self.kill(before);
    }

    /// Forgets a message, as if it had never been.
    pub fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.body_octets = self.body_octets.saturating_sub(entry.file_octets());
        self.kill(Some(entry.place));
        self.kill(entry.state);
        Some(entry)
    }

    fn kill(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.change(place.segment, |segment| segment.live = segment.live.saturating_sub(place.len));
        }
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut Segment)) {
        if let Some(segment) = self.segments.get_mut(&number) {
            change(segment);
        }
    }

    /// No more than a quarter of it is live.
    pub fn is_mostly_dead(&self, number: u64) -> bool {
        self.segments.get(&number).is_some_and(|segment| segment.live <= segment.octets / 4)
    }

    /// Nothing that a `done` of this segment hides is on disk any more.
    fn hides_nothing(&self, number: u64, segment: &Segment) -> bool {
        segment.hides_from >= number || self.segments.range(segment.hides_from..number).next().is_none()
    }

    /// Segments that can be removed now.
    pub fn dead_segments(&self) -> Vec<Name> {
        let dead = |number: u64, segment: &Segment| {
            segment.sealed && !segment.kept && segment.live == 0 && self.hides_nothing(number, segment)
        };
        self.segments.iter().filter(|(number, segment)| dead(**number, segment)).map(|(_, s)| s.name).collect()
    }

    /// The segment that is best copied out of, if that is worth while: one that is three quarters dead, or, when more
    /// than half of the spool is garbage, the oldest. So at most one octet is copied for each that is written.
    pub fn compaction_candidate(&self, segment_octets: u64) -> Option<u64> {
        let sealed = || self.segments.iter().filter(|(_, segment)| segment.sealed && !segment.kept);
        let mostly_dead = sealed()
            .filter(|(number, segment)| segment.live <= segment.octets / 4 && self.hides_nothing(**number, segment))
            .min_by_key(|(_, segment)| segment.live);
        if let Some((number, _)) = mostly_dead {
            return Some(*number);
        }
        let (octets, live) = sealed().fold((0, 0), |(o, l), (_, s)| (o + s.octets, l + s.live));
        let garbage = octets - live.min(octets);
        let oldest = sealed().find(|(number, segment)| self.hides_nothing(**number, segment))?;
        (garbage > live.max(segment_octets.saturating_mul(2))).then_some(*oldest.0)
    }

    /// The messages of which a segment holds the content or the state.
    pub fn live_in(&self, number: u64) -> Vec<MessageId> {
        let in_it =
            |entry: &Entry| entry.place.segment == number || entry.state.is_some_and(|state| state.segment == number);
        self.entries.iter().filter(|(_, entry)| in_it(entry)).map(|(id, _)| *id).collect()
    }
}
