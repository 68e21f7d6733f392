//! The rotation of a partition's checkpoint: which rows are repeated when, and from where on the log must be read.
//!
//! Each chunk holds the rows that its epoch changed and a slice of live rows that it left as they were. Slices go through the partition in
//! the order of objects' names, round after round. Commit keeps a [`Rotation`] for each partition and puts where it stands into each chunk
//! ([`Turn`]); a restore, which reads all chunks from the start on, comes to the same, so that the next owner goes on.
//!
//! **Why the start is sound.** Every live row must have been written at or after the start. Let a chunk m of a rotation be marked with the
//! greatest object x of which any worker had passed a row before m. A rotation ends with a chunk at which every worker says, as of that
//! one epoch, that it has nothing beyond what it passed. So a row that is live then and of an object greater than x
//! was passed at m or later: sliced, or written by that epoch itself as its own. Rows that came into being later were written later. Hence,
//! once that rotation is over, **every live row of an object greater than x was written at m or later** (1).
//! Now let the next rotation's cursor be c: all workers with something left have passed every object up to c, and those with nothing left had
//! passed everything there was. So a live row of an object up to c was written in this rotation (2): it was passed in it or came
//! into being in it. With x ≤ c, m is a start: rows up to c by (2), which is later than m, rows beyond c by (1). The latest such m is
//! taken. A start stays one as the log grows, as rows are only ever written anew; so it never goes back. When the owner changes, all
//! workers of the next one begin at c; what the others had passed beyond it is passed again, which leaves (1) and (2) true of marks old and new.
//!
//! **How much is written.** Bytes of changed rows are owed, bytes of slices pay for them. In a steady state a rotation has L bytes of slices (L: the
//! live rows) and as many of changed rows, and the log holds the rest of one and the beginning of the next: about 2 L. Where nothing changes any more
//! a rotation that has begun is finished in advance, and only changes of as many bytes allow another advance: it never rotates for ever.

use statehouse_dataflows::vocabulary::{Name, Offset};

use crate::chunk::Turn;

/// A rotation has at least about so many marks, once it is that long, and at most twice as many.
const MARKS_MIN: usize = 64;

/// Where a partition's rotation stands after its last chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Which it is, from 1.
    pub number: u64,
    /// As [`Turn::cursor`].
    pub cursor: Option<Name>,
    /// Bytes of changed rows that slices have yet to match; negative: slices are ahead.
    pub owed_bytes: i64,
    /// Bytes of advances that changed rows have yet to match.
    pub advance_bytes: u64,
    /// Of this rotation.
    marks: Marks,
    /// Of the one before it.
    before: Marks,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where its first piece is.
    pub offset: Offset,
    /// Bytes of its pieces of changed rows.
    pub changed_bytes: u64,
    /// Bytes of its pieces of the slice.
    pub slice_bytes: u64,
}

/// Places in the log by what was passed before them: both rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    marks: Vec<Mark>,
    /// Of all chunks of the rotation.
    bytes: u64,
    /// Marks are no closer than this.
    spacing_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// As [`Turn::ahead`].
    ahead: Option<Name>,
    offset: Offset,
    /// Bytes of the rotation before it.
    at_bytes: u64,
}

impl Default for Rotation {
    /// The first one, before its first chunk.
    fn default() -> Self {
        Self { number: 1, cursor: None, owed_bytes: 0, advance_bytes: 0, marks: Marks::default(), before: Marks::default() }
    }
}

impl Rotation {
    /// Whether any chunk was written in it. One without could end without end.
    #[must_use]
    pub fn is_written(&self) -> bool {
        !self.marks.marks.is_empty()
    }

    /// The latest place at which a restore of the state after this turn's chunk may begin, as far as the chunks before it tell.
    #[must_use]
    pub fn start(&self, turn: &Turn) -> Option<Offset> {
        if turn.ends { self.marks.until(None) } else { self.before.until(turn.cursor.as_ref()) }.map(|mark| mark.offset)
    }

    /// About how many bytes stand in the log from a start on.
    #[must_use]
    pub fn log_bytes(&self, start: Offset) -> u64 {
        let from =
            |marks: &Marks| marks.marks.iter().rfind(|mark| mark.offset <= start).map_or(marks.bytes, |mark| marks.bytes - mark.at_bytes);
        match self.marks.marks.first() {
            Some(first) if first.offset <= start => from(&self.marks),
            _ => from(&self.before) + self.marks.bytes,
        }
    }

    /// A chunk with this turn was written, or read back.
    pub fn written(&mut self, turn: &Turn, Written { offset, changed_bytes, slice_bytes }: Written) {
        if turn.rotation == 0 {
            return; // from before there were rotations
        }
        if turn.rotation != self.number {
            let follows = self.number.checked_add(1) == Some(turn.rotation);
            let ended = std::mem::take(&mut self.marks);
            self.before = if follows { ended } else { Marks::default() };
            self.number = turn.rotation;
        }
        self.marks.put(turn.ahead.clone(), offset, changed_bytes.saturating_add(slice_bytes));
        let [changed, sliced] = [changed_bytes, slice_bytes].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let (paid, advanced_bytes) = if turn.advances { (0, slice_bytes) } else { (sliced, 0) };
        self.owed_bytes = turn.owed_bytes.saturating_add(changed).saturating_sub(paid);
        self.advance_bytes = turn.advance_bytes.saturating_sub(changed_bytes).saturating_add(advanced_bytes);
        self.moved(turn, changed);
    }

    /// An epoch with this turn needed no chunk.
    pub fn passed(&mut self, turn: &Turn) {
        self.moved(turn, 0);
    }

    fn moved(&mut self, turn: &Turn, changed: i64) {
        self.cursor = turn.cursor.clone();
        if turn.ends {
            self.before = std::mem::take(&mut self.marks);
            self.number = self.number.saturating_add(1);
            self.cursor = None;
            // Everything was passed: what was owed before this chunk is of no use to anybody.
            self.owed_bytes = self.owed_bytes.min(changed);
        }
    }
}

impl Marks {
    /// The next chunk, at this place, so long. A mark that says no more than a later one goes; any may.
    fn put(&mut self, ahead: Option<Name>, offset: Offset, bytes: u64) {
        let at_bytes = self.bytes;
        self.bytes = at_bytes.saturating_add(bytes);
        while self.marks.pop_if(|mark| mark.ahead >= ahead).is_some() {}
        if self.marks.last().is_some_and(|mark| at_bytes - mark.at_bytes < self.spacing_bytes) {
            return;
        }
        self.marks.push(Mark { ahead, offset, at_bytes });
        if self.marks.len() > 2 * MARKS_MIN {
            self.thin_out();
        }
    }

    fn thin_out(&mut self) {
        self.spacing_bytes = self.bytes / MARKS_MIN as u64;
        let (spacing_bytes, mut kept) = (self.spacing_bytes, None);
        self.marks.retain(|mark| {
            let is_kept = kept.is_none_or(|at_bytes| mark.at_bytes - at_bytes >= spacing_bytes);
            kept = if is_kept { Some(mark.at_bytes) } else { kept };
            is_kept
        });
    }

    /// The latest before which nothing beyond this object was passed.
    fn until(&self, object: Option<&Name>) -> Option<&Mark> {
        let after = self.marks.partition_point(|mark| mark.ahead.as_ref() <= object);
        after.checked_sub(1).map(|at| &self.marks[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(rotation: u64, ahead: &str, cursor: &str) -> Turn {
        let name = |name: &str| (!name.is_empty()).then(|| Name::from(name));
        Turn { rotation, ahead: name(ahead), cursor: name(cursor), ..Turn::default() }
    }

    fn written(offset: Offset, changed_bytes: u64, slice_bytes: u64) -> Written {
        Written { offset, changed_bytes, slice_bytes }
    }

    /// A first rotation of four chunks, at 10, 20, 30 and 40.
    fn one_over() -> Rotation {
        let mut rotation = Rotation::default();
        assert!(!rotation.is_written());
        rotation.written(&turn(1, "", ""), written(10, 100, 0));
        rotation.written(&turn(1, "", "b"), written(20, 10, 50));
        rotation.written(&turn(1, "d", "e"), written(30, 10, 50));
        let last = Turn { ends: true, ..turn(1, "f", "") };
        assert_eq!(rotation.start(&last), Some(20), "before 20 nothing was passed");
        rotation.written(&last, written(40, 10, 50));
        rotation
    }

    #[test]
    fn the_start_follows_the_cursor_through_the_rotation_before() {
        let rotation = one_over();
        assert_eq!((rotation.number, rotation.cursor.clone(), rotation.is_written()), (2, None, false));
        for (cursor, start) in [("", 20), ("c", 20), ("d", 30), ("e", 30), ("f", 40), ("z", 40)] {
            assert_eq!(rotation.start(&turn(2, "", cursor)), Some(start), "cursor {cursor:?}");
        }
        assert_eq!((rotation.log_bytes(20), rotation.log_bytes(40), rotation.log_bytes(0)), (180, 60, 280));
    }

    #[test]
    fn without_a_rotation_before_nothing_is_known() {
        let mut rotation = Rotation::default();
        rotation.written(&turn(9, "k", "m"), written(70, 10, 0));
        assert_eq!((rotation.number, rotation.start(&turn(9, "m", "p"))), (9, None));
        rotation.written(&Turn { ends: true, ..turn(9, "p", "") }, written(80, 10, 0));
        assert_eq!(rotation.start(&turn(10, "", "")), None, "its beginning was not seen");
        assert_eq!(rotation.start(&turn(10, "", "l")), Some(70));
        // One that is not the next: something is missing between them.
        rotation.written(&turn(12, "", ""), written(90, 10, 0));
        assert_eq!(rotation.start(&turn(12, "", "z")), None);
    }

    #[test]
    fn a_chunk_of_before_rotations_moves_nothing() {
        let mut rotation = Rotation::default();
        rotation.written(&Turn::default(), written(5, 1_000, 0));
        assert_eq!(rotation, Rotation::default());
    }

    #[test]
    fn who_falls_back_takes_back_marks() {
        let mut rotation = Rotation::default();
        for (ahead, offset) in [("", 1), ("c", 2), ("f", 3), ("c", 4), ("d", 5)] {
            rotation.written(&turn(1, ahead, ""), written(offset, 10, 10));
        }
        rotation.passed(&Turn { ends: true, ..turn(1, "z", "") });
        for (cursor, start) in [("b", 1), ("c", 4), ("d", 5), ("g", 5)] {
            assert_eq!(rotation.start(&turn(2, "", cursor)), Some(start), "cursor {cursor:?}");
        }
    }

    #[test]
    fn marks_stay_few_and_evenly_spread() {
        let mut marks = Marks::default();
        for nth in 0..10_000_u32 {
            marks.put((nth > 0).then(|| format!("{nth:06}").into()), Offset::from(nth), 1_000);
            assert!(marks.marks.len() <= 2 * MARKS_MIN, "after {nth}");
        }
        assert!(marks.marks.len() >= MARKS_MIN / 2 && marks.marks[0].offset == 0, "{} marks", marks.marks.len());
        let widest = marks.marks.windows(2).map(|pair| pair[1].at_bytes - pair[0].at_bytes).max().unwrap();
        assert!(widest <= 10_000_000 / MARKS_MIN as u64 * 2, "{widest} bytes between two marks");
    }

    #[test]
    fn slices_pay_what_changes_owe_and_advances_wait_for_changes() {
        let mut rotation = Rotation::default();
        let mut write = |advances, changed_bytes, slice_bytes, ends| {
            let (owed_bytes, advance_bytes) = (rotation.owed_bytes, rotation.advance_bytes);
            let turn = Turn { advances, ends, owed_bytes, advance_bytes, ..turn(rotation.number, "", "") };
            rotation.written(&turn, written(1, changed_bytes, slice_bytes));
            (rotation.owed_bytes, rotation.advance_bytes)
        };
        assert_eq!(write(false, 1_000, 0, false), (1_000, 0));
        assert_eq!(write(false, 300, 1_100, false), (200, 0));
        assert_eq!(write(false, 0, 900, false), (-700, 0), "slices are ahead");
        assert_eq!(write(false, 1_700, 0, false), (1_000, 0));
        assert_eq!(write(true, 0, 5_000, false), (1_000, 5_000), "an advance pays for nothing");
        assert_eq!(write(false, 2_000, 100, true), (2_000, 3_000), "what is owed from before goes with the rotation");
    }
}
