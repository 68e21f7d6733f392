//! Rotation slices: the rows of a partition that a checkpoint repeats in turn, so that nothing older than about two rounds is needed again.
//!
//! The words between whoever keeps the round and the engine that has the rows: [`SliceAsk`] in, with an epoch's end, [`Slice`] out, with what
//! the epoch left. The engine keeps nothing of it: where a round stands is in what is asked.
//!
//! Objects come in the order of their names, each whole; only one of very many agents is parted, as else a single epoch would have to take all
//! of it. Its agents come in the order of their ids, which mean nothing to another engine: that one begins such an object anew.

use crate::{
    rows::Rows,
    vocabulary::{Name, Partition},
};

/// How far a worker is in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last object passed with all its rows; none: none was.
    pub passed: Option<Name>,
    /// The object after it of which a part was passed, and the last agent in that (by its id in the engine).
    pub part: Option<(Name, u32)>,
}

impl Position {
    /// The last object of which anything was passed.
    #[must_use]
    pub fn reached(&self) -> Option<&Name> {
        self.part.as_ref().map(|(object, _)| object).or(self.passed.as_ref())
    }
}

/// A slice, asked for at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceAsk {
    /// Whose rows.
    pub partition: Partition,
    /// Which of them: those after this.
    pub after: Position,
    /// About how many rows; those of an object stay together, unless it has very many.
    pub rows_max: usize,
}

/// Rows as of the end of an epoch that did not change in it.
#[derive(Debug)]
pub struct Slice {
    /// As asked.
    pub partition: Partition,
    /// The rows. None of them is a tombstone.
    pub rows: Rows,
    /// How far they go. Rows on the way there that are not among them are among the epoch's own.
    pub reached: Position,
    /// Whether there is no row beyond.
    pub is_end: bool,
}
