//! Copying what is live out of a segment that is mostly dead. The copy is a record like any other, durable before the
//! segment goes; a crash between the two leaves both, and the later one counts.

use std::sync::Arc;

use bytes::Bytes;

use super::read::Failure;
use super::record::{Draft, Head, Kind};
use super::stage::Staged;
use super::store::Shared;
use crate::mail::MessageId;

/// Octets copied between two groups.
const SLICE: u64 = 1 << 20;

pub(super) struct Compaction {
    segment: u64,
    /// Messages that were in the segment at the start, the next one last.
    left: Vec<MessageId>,
}

impl Compaction {
    pub fn choose(shared: &Arc<Shared>) -> Option<Self> {
        let index = shared.index();
        let segment = index.compaction_candidate(shared.settings.segment_octets)?;
        Some(Self { segment, left: index.live_in(segment) })
    }

    pub fn is_finished(&self) -> bool {
        self.left.is_empty()
    }

    /// What is still in the segment can't be copied: it is not chosen again.
    pub fn finish(self, shared: &Shared) {
        shared.index().keep(self.segment);
    }

    /// The next records to write again. What can't be read stays where it is, and so does its segment.
    pub fn next_slice(&mut self, shared: &Shared) -> Vec<Staged> {
        let mut slice = Vec::new();
        let mut octets = 0;
        while octets < SLICE
            && let Some(id) = self.left.pop()
        {
            match self.copy(shared, id) {
                Ok(draft) => {
                    octets += draft.as_ref().map_or(0, Draft::len);
                    slice.extend(draft.map(|draft| Staged::of(vec![draft])));
                }
                Err(failure) => {
                    if let (Failure::Damaged(place), Some(located)) = (failure, shared.locate(id)) {
                        shared.set_aside(id, &located.entry, place);
                    }
                    shared.index().keep(self.segment);
                }
            }
        }
        slice
    }

    /// `None` when the message has left the segment meanwhile.
    fn copy(&self, shared: &Shared, id: MessageId) -> Result<Option<Draft>, Failure> {
        let Some(located) = shared.locate(id) else { return Ok(None) };
        let state = located.state.as_ref().map(|at| shared.read_state(id, at)).transpose()?;
        if located.record.place.segment != self.segment {
            let moved = located.state.is_some_and(|at| at.place.segment == self.segment);
            return Ok(state.filter(|_| moved).and_then(|state| Draft::state(id, &state).ok()));
        }
        let raw = shared.read_record(id, Kind::Store, &located.record)?;
        let body = if raw.header.body_file == 0 { raw.inline_body()? } else { Bytes::new() };
        let Some(head) = raw.header.split(&raw.head) else { return Err(Failure::Damaged(located.record.place)) };
        let head = Head { state: state.as_deref().or(head.state), ..head };
        // The body goes with its old CRC, so damage to it is not hidden by the copy.
        Ok(Draft::new(raw.header.clone(), head, body).ok())
    }
}
