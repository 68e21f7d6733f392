//! What is published, by slot: the arrangement `published` moves numbers, and rows stand here.
//!
//! As with ids of names: a slot is used again only after the row in it was taken back at a seq that is committed.

use std::collections::VecDeque;

use crate::{posted::Posted, vocabulary::Seq};

/// The place of a row.
pub(crate) type Slot = u32;

/// Rows by slot. Shared by publish (writes) and answers (read), on one thread.
#[derive(Default)]
pub(crate) struct Slots {
    rows: Vec<Posted>,
    free: Vec<Slot>,
    /// Slots whose row was taken back, by the seq of that, rising.
    left: VecDeque<(Seq, Slot)>,
}

impl Slots {
    /// A slot for a row.
    pub(crate) fn take(&mut self, row: Posted) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.rows[slot as usize] = row;
            return slot;
        }
        self.rows.push(row);
        Slot::try_from(self.rows.len() - 1).expect("fewer than 2^32 rows on a worker")
    }

    /// The row is taken back at `seq`.
    pub(crate) fn release(&mut self, slot: Slot, seq: Seq) {
        self.left.push_back((seq, slot));
    }

    /// Everything up to `last`, inclusive, is committed: nobody asks for what was taken back until then.
    pub(crate) fn committed(&mut self, last: Seq) {
        let ended = self.left.partition_point(|(seq, _)| *seq <= last);
        self.free.extend(self.left.drain(..ended).map(|(_, slot)| slot));
    }

    pub(crate) fn row(&self, slot: Slot) -> &Posted {
        &self.rows[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Cause;

    fn row(revision: u64) -> Posted {
        Posted { state: None, behind: None, mask: None, since_ms: 0, cause: Cause::Vote, revision }
    }

    #[test]
    fn a_slot_is_used_again_only_when_its_end_is_committed() {
        let mut slots = Slots::default();
        let (a, b) = (slots.take(row(1)), slots.take(row(2)));
        slots.release(a, 7);
        slots.committed(6);
        assert_eq!((slots.row(a).revision, slots.take(row(3))), (1, 2), "seq 7 is not committed");
        slots.committed(7);
        assert_eq!((slots.take(row(4)), slots.row(a).revision, slots.row(b).revision), (a, 4, 2));
    }
}
