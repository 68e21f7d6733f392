//! Asks workers for slices of a partition, at the pace that its [`Rotation`] says, and turns what they answer into where it stands.
//!
//! Within commit: what is asked for after one epoch comes with the outputs of the next. Workers keep nothing of it; how far each is stands here.
//! A worker with nothing left is asked all the same, as a rotation ends only when all say so of one epoch.
//!
//! Known limit: how large a row is when written is learned from slices, and anew by every owner.

use std::time::Duration;

use statehouse_dataflows::{
    rows::Rows,
    slice::{Position, Slice, SliceAsk},
    vocabulary::{Name, Offset, Partition},
};

use crate::{
    chunk::Turn,
    message::Now,
    rotation::{Rotation, Written},
};

/// Where nothing changed for so long, a rotation that has begun is finished in advance, at this pace.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
/// A row until slices show how large one is.
const ROW_BYTES: f64 = 12.0;
/// So few rows show nothing.
const TELLING_ROWS: usize = 16;

/// One partition's rotation, with who is how far in it.
pub(super) struct Slicing {
    rotation: Rotation,
    workers: Vec<Standing>,
    row_bytes: f64,
    /// What the next outputs answer.
    asked: Option<Reason>,
    /// What the epoch that is being committed makes of it.
    turn: Turn,
    slice_rows: usize,
    changed_at: Duration,
    advanced_at: Duration,
    /// The rotation that is being finished in advance.
    advancing: u64,
}

/// Why slices are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// So many bytes are owed.
    Owed(u64),
    /// Nothing happens any more.
    Advance,
}

#[derive(Clone, Default)]
struct Standing {
    position: Position,
    /// Whether it had nothing left, at some time in this rotation. What came to it since came in this rotation.
    has_ended: bool,
}

impl Slicing {
    /// Goes on from where the rotation stands: every worker from the cursor on.
    pub(super) fn new(rotation: Rotation, workers: usize, now: Now) -> Self {
        let position = Position { passed: rotation.cursor.clone(), part: None };
        Self {
            rotation,
            workers: vec![Standing { position, has_ended: false }; workers],
            row_bytes: ROW_BYTES,
            asked: None,
            turn: Turn::default(),
            slice_rows: 0,
            changed_at: now.monotonic,
            advanced_at: now.monotonic,
            advancing: 0,
        }
    }

    /// Takes the workers' slices, each with its worker. Returns their rows, and what to say in the epoch's chunk.
    pub(super) fn answered(&mut self, slices: Vec<(usize, Slice)>) -> (Vec<Rows>, Turn) {
        let ahead = self.workers.iter().filter_map(|worker| worker.position.reached()).max().cloned();
        let Rotation { number: rotation, owed_bytes, advance_bytes, .. } = self.rotation;
        let cursor = self.rotation.cursor.clone();
        self.turn = Turn { rotation, ahead, cursor, owed_bytes, advance_bytes, ..Turn::default() };
        let reason = self.asked.take();
        self.slice_rows = slices.iter().map(|(_, slice)| slice.rows.len()).sum();
        let Some(reason) = reason.filter(|_| slices.len() == self.workers.len()) else {
            debug_assert!(slices.is_empty(), "every worker answers what all were asked");
            self.slice_rows = 0;
            return (Vec::new(), self.turn.clone());
        };
        self.turn.advances = reason == Reason::Advance;
        self.turn.ends = slices.iter().all(|(_, slice)| slice.is_end);
        let mut rows = Vec::with_capacity(slices.len());
        for (worker, slice) in slices {
            let worker = &mut self.workers[worker];
            worker.position = slice.reached;
            worker.has_ended |= slice.is_end;
            rows.push(slice.rows);
        }
        self.turn.cursor = self.cursor();
        if self.turn.ends {
            self.turn.cursor = None;
            self.workers.fill(Standing::default());
        }
        (rows, self.turn.clone())
    }

    /// The least object up to which every worker has passed everything. One that had nothing left is past all objects.
    fn cursor(&self) -> Option<Name> {
        let behind = self.workers.iter().filter(|worker| !worker.has_ended);
        let least = behind.map(|worker| worker.position.passed.as_ref()).min();
        least.unwrap_or_else(|| self.workers.iter().filter_map(|worker| worker.position.passed.as_ref()).max()).cloned()
    }

    /// As [`Rotation::start`], for the chunk that is being written.
    pub(super) fn start(&self) -> Option<Offset> {
        self.rotation.start(&self.turn)
    }

    /// As [`Rotation::log_bytes`].
    pub(super) fn log_bytes(&self, start: Offset) -> u64 {
        self.rotation.log_bytes(start)
    }

    /// The epoch is committed: its chunk was written here, if it needed one.
    pub(super) fn committed(&mut self, written: Option<Written>, now: Now) {
        let Some(written) = written else { return self.rotation.passed(&self.turn) };
        self.rotation.written(&self.turn, written);
        if written.changed_bytes > 0 {
            self.changed_at = now.monotonic;
        }
        if self.slice_rows >= TELLING_ROWS {
            self.row_bytes = (written.slice_bytes as f64 / self.slice_rows as f64).max(1.0);
        }
    }

    /// Why a slice is wanted now, if one is. Less than so many bytes is not worth pieces of its own, with their headers and lists of names.
    pub(super) fn wants(&self, slice_bytes_min: u64, now: Now) -> Option<Reason> {
        let rotation = &self.rotation;
        if !rotation.is_written() {
            return None;
        }
        let owed_bytes = u64::try_from(rotation.owed_bytes).unwrap_or(0);
        if owed_bytes >= slice_bytes_min {
            return Some(Reason::Owed(owed_bytes));
        }
        let has_begun = self.workers.iter().any(|worker| worker.has_ended || worker.position.reached().is_some());
        let since = |moment: Duration| now.monotonic.saturating_sub(moment);
        let is_quiet = since(self.changed_at) >= ADVANCE_EVERY && since(self.advanced_at) >= ADVANCE_EVERY;
        let may = rotation.advance_bytes == 0 || self.advancing == rotation.number;
        (has_begun && is_quiet && may).then_some(Reason::Advance)
    }

    /// What to ask each worker, for this reason; an advance of so many bytes.
    pub(super) fn ask(&mut self, partition: Partition, (reason, advance_bytes): (Reason, u64), now: Now) -> Vec<SliceAsk> {
        self.asked = Some(reason);
        let bytes = match reason {
            Reason::Owed(bytes) => bytes,
            Reason::Advance => {
                self.advanced_at = now.monotonic;
                self.advancing = self.rotation.number;
                advance_bytes
            }
        };
        let behind = self.workers.iter().filter(|worker| !worker.has_ended).count().max(1);
        let rows_max = ((bytes as f64 / self.row_bytes) as usize / behind).max(1);
        let ask = |worker: &Standing| SliceAsk { partition, after: worker.position.clone(), rows_max };
        self.workers.iter().map(ask).collect()
    }
}

#[cfg(test)]
mod tests {
    use statehouse_dataflows::vocabulary::{Row, RowValue};

    use super::*;

    const NOW: Now = Now { wall_ms: 0, monotonic: Duration::ZERO };

    fn slice(passed: &str, is_end: bool) -> Slice {
        let rows = Rows::of(&[Row { partition: 0, object: passed.into(), value: RowValue::Object(None) }]);
        Slice { partition: 0, rows, reached: Position { passed: Some(passed.into()), part: None }, is_end }
    }

    /// One epoch, in which the workers passed this much: what its chunk says of (ahead, cursor, whether the rotation ends).
    fn epoch(slicing: &mut Slicing, passed: &[(&str, bool)]) -> (String, String, bool) {
        slicing.ask(0, (Reason::Owed(1), 0), NOW);
        let slices = passed.iter().map(|(object, is_end)| slice(object, *is_end)).enumerate().collect();
        let (rows, turn) = slicing.answered(slices);
        assert_eq!(rows.len(), passed.len());
        slicing.committed(Some(Written { offset: 1, changed_bytes: 10, slice_bytes: 10 }), NOW);
        let name = |name: Option<Name>| name.map_or_else(String::new, |name| name.to_string());
        (name(turn.ahead), name(turn.cursor), turn.ends)
    }

    #[test]
    fn a_rotation_ends_when_all_say_of_one_epoch_that_nothing_is_left() {
        let mut slicing = Slicing::new(Rotation::default(), 2, NOW);
        let rows = [
            ([("c", false), ("b", false)], ("", "b", false)),
            ([("f", true), ("d", false)], ("c", "d", false)), // who has nothing left holds nobody up
            ([("h", false), ("k", true)], ("f", "k", false)), // something came to the first meanwhile: not over
            ([("m", true), ("l", true)], ("k", "", true)),
            ([("a", false), ("b", false)], ("", "a", false)),
        ];
        for (passed, (ahead, cursor, ends)) in rows {
            assert_eq!(epoch(&mut slicing, &passed), (ahead.to_owned(), cursor.to_owned(), ends), "{passed:?}");
        }
        assert_eq!(slicing.rotation.number, 2);
    }

    #[test]
    fn the_next_owner_begins_at_the_cursor_with_all_workers() {
        let mut rotation = Rotation::default();
        rotation.cursor = Some("g".into());
        let mut slicing = Slicing::new(rotation, 3, NOW);
        let asks = slicing.ask(0, (Reason::Owed(1_200), 0), NOW);
        let expected = SliceAsk { partition: 0, after: Position { passed: Some("g".into()), part: None }, rows_max: 33 };
        assert_eq!(asks, vec![expected; 3], "1,200 bytes are 100 rows");
    }
}
