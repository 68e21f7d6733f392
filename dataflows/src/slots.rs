//! What is arranged, by slot: arrangements sort, merge and keep numbers, and what these stand for is here, once.
//!
//! As with ids of names: a slot is used again only after the row in it was taken back at a seq that is committed.

use std::collections::VecDeque;

use prefetch_index::prefetch_index;

use crate::vocabulary::Seq;

/// The place of a row.
pub(crate) type Slot = u32;

/// How many slots before it is taken a free one is prefetched.
const AHEAD: usize = 16;

/// Rows by slot. Shared on one thread: by the stage that makes them and, for rows that come from the checkpoint, the engine (they write),
/// those that read its arrangement, and answers.
pub(crate) struct Slots<T> {
    rows: Vec<T>,
    free: Vec<Slot>,
    /// Slots whose row was taken back, by the seq of that, rising.
    left: VecDeque<(Seq, Slot)>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), left: VecDeque::new() }
    }
}

impl<T> Slots<T> {
    /// A slot for a row.
    #[inline]
    pub(crate) fn take(&mut self, row: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            if let Some(soon) = self.free.len().checked_sub(AHEAD) {
                self.prefetch(self.free[soon]);
            }
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

    /// How many are taken, or not free again yet.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// Prefetches a row ahead of its use. Has no effect but on time.
    #[inline]
    pub(crate) fn prefetch(&self, slot: Slot) {
        prefetch_index(&self.rows, slot as usize);
    }

    #[inline]
    pub(crate) fn row(&self, slot: Slot) -> &T {
        &self.rows[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_only_when_its_end_is_committed() {
        let mut slots = Slots::default();
        let (a, b) = (slots.take(1), slots.take(2));
        slots.release(a, 7);
        slots.committed(6);
        let c = slots.take(3);
        assert_eq!([a, b, c].map(|slot| *slots.row(slot)), [1, 2, 3], "seq 7 is not committed");
        slots.committed(7);
        assert_eq!((slots.take(4), *slots.row(a), *slots.row(b)), (a, 4, 2));
    }
}
