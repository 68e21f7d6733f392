//! What the stages hand each other: one closed enum per queue, every queue bounded.
//!
//! ```text
//! pump ──Feed──▶ worker 0..W-1 ──Output──▶ commit ──Notice──▶ workers      restore ──Delivery──▶ pump
//!   └───────────────Cut──────────────────────▲  └──Resolved──▶ pump           ▲──Request── pump
//!                                                                          standby ──Delivery, wanted──▶ pump ──Order──▶ standby
//! ```
//! All of it flows one way but for L (`Notice`, `Resolved`), the last committed seq, and for restores and warm copies, which the pump asks and
//! which deliver to it. Values, but for two things that lead back to who
//! sent them: where a question's answer goes, and whether a restore is still wanted. Who sends what when is said by the stages.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use statehouse_dataflows::{
    engine::Counts,
    rows::Rows,
    slice::{Slice, SliceAsk},
    vocabulary::{Cause, Millis, Offset, Partition, Row, Run, Seq},
};

use crate::{
    decode::Reject,
    log::{Batch, Progress, RejectRecord, SinkRecord},
    question::Question,
    rotation::Rotation,
};

/// A point in time, read by whoever drives the stages and passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall-clock: milliseconds since the Unix epoch.
    pub wall_ms: Millis,
    /// A clock that never steps, since any fixed moment.
    pub monotonic: Duration,
}

/// Pump → one worker.
#[derive(Debug)]
pub enum Feed {
    /// Runs, and those of their records that this worker takes.
    Records(Records),
    /// Runs of ticks alone.
    Ticks(Arc<[Run]>),
    /// Restored rows, all at the one seq of the run.
    Rows {
        /// One seq at the partition's restored clock.
        run: Run,
        /// This worker's objects.
        objects: Objects,
    },
    /// All rows of the run's partition are here: compare verdicts and published states of more of its objects, each once, at its seq.
    Compare {
        /// One seq at the partition's restored clock; of all shares but the seq is the same.
        run: Run,
        /// So many objects at most.
        objects_max: usize,
    },
    /// Rows of a chunk that a copy follows, all at the one seq of the run.
    Chunk {
        /// One seq at the clock that the chunk names.
        run: Run,
        /// This worker's objects: hash of the object, rows of it. An object may come twice.
        objects: Vec<(u64, Vec<Row>)>,
    },
    /// The partition of the run is no longer ours: forget it, at its seq.
    GiveUp(Run),
    /// The epoch ends here: hand out what it brought.
    Seal {
        /// Which epoch.
        epoch: u64,
        /// The first seq not in it.
        end: Seq,
    },
    /// Drop everything but the spared copies and begin anew.
    Reset {
        /// How often everything was dropped; outputs carry it.
        generation: u64,
        /// The partitions to be restored: nothing of them is answered before.
        owned: Arc<[Partition]>,
        /// Copies that are kept, each with a seq of its own.
        spared: Arc<[Run]>,
    },
}

/// Restored objects of one partition, of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects {
    /// Of each object, in the order of their rows: the keyed hash of (partition, object).
    pub hashes: Vec<u64>,
    /// All rows of each, none of them a tombstone.
    pub rows: Rows,
}

/// One worker's share of a batch.
#[derive(Debug)]
pub struct Records {
    /// The batch, shared by all workers.
    pub batch: Arc<Batch>,
    /// The runs of all its records and of the ticks before them, the same for all workers.
    pub runs: Arc<[Run]>,
    /// This worker's records, by rising seq.
    pub routed: Vec<Routed>,
}

/// One record on its way to its worker.
#[derive(Debug)]
pub struct Routed {
    /// Its place in the batch.
    pub index: u32,
    /// Its number.
    pub seq: Seq,
    /// The keyed hash of (partition, object).
    pub hash: u64,
    /// Why it can't be used, if that is known already.
    pub reject: Option<Box<Reject>>,
}

/// Everything to commit: the pump's cut and each worker's output of the same epoch.
#[derive(Debug)]
pub enum ToCommit {
    /// From the pump.
    Cut(Cut),
    /// From a worker.
    Output(Output),
}

/// Where the pump cut the stream of events: one epoch.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The epoch's number: rises by one, over the life of the process.
    pub epoch: u64,
    /// As in [`Feed::Reset`].
    pub generation: u64,
    /// The first seq not in it.
    pub end: Seq,
    /// Commit even if nothing is in it: first start positions, or the daily sign of life.
    pub forced: bool,
    /// Every partition whose restore is complete, with or without input.
    pub parts: Vec<CutPart>,
    /// Copies of others' partitions. Nothing of them is committed; they are seen with this epoch.
    pub copies: Vec<CopyPart>,
}

/// A whole copy of another's partition at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyPart {
    /// Which.
    pub partition: Partition,
    /// Where its owner stood after the last chunk in the copy.
    pub next_offset: Offset,
    /// When, by the wall-clock, that was last known to be all that is committed.
    pub level_ms: Millis,
}

/// One partition at the end of an epoch.
#[derive(Clone, Debug)]
pub struct CutPart {
    /// Which.
    pub partition: Partition,
    /// The first offset not in the epoch or before it.
    pub next_offset: Offset,
    /// Its clock; none before the first record with a usable timestamp.
    pub clock_ms: Option<Millis>,
    /// The number of its next event.
    pub event: u64,
    /// Its records in the epoch, rejects among them.
    pub records: u64,
    /// For each record before which the clock had moved: (its offset, the clock).
    pub ticks: Vec<(Offset, Millis)>,
    /// What its restore found, in its first epoch.
    pub adopted: Option<Adopted>,
}

/// What commit goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// What is committed with the partition's offset.
    pub progress: Progress,
    /// Where its rotation stands.
    pub rotation: Arc<Rotation>,
}

/// What one worker made of an epoch.
#[derive(Debug)]
pub struct Output {
    /// Whose output it is.
    pub worker: usize,
    /// Which epoch.
    pub epoch: u64,
    /// As in [`Feed::Reset`].
    pub generation: u64,
    /// By partition; partitions with nothing may be missing.
    pub parts: Vec<OutputPart>,
    /// With `on_reject = stop`: the first reject, which forbids the epoch.
    pub refused: Option<Refused>,
    /// Its changes by cause.
    pub causes: BTreeMap<Cause, u64>,
    /// What the engine counted.
    pub counts: Counts,
}

/// One worker's output for one partition.
#[derive(Debug, Default)]
pub struct OutputPart {
    /// Which.
    pub partition: Partition,
    /// Sink records, by rising seq.
    pub changes: Vec<(Seq, SinkRecord)>,
    /// Checkpoint rows, those of one object together.
    pub rows: Rows,
    /// What the rows add to the digest, wrapping.
    pub digest_delta: u64,
    /// Rejected records, by rising offset.
    pub rejects: Vec<RejectRecord>,
    /// Live rows that the epoch left as they were, where they were asked for.
    pub slice: Option<Slice>,
}

/// A reject that stops the house.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The record's number: the least of several counts.
    pub seq: Seq,
    /// Its place.
    pub partition: Partition,
    /// Its place.
    pub offset: Offset,
    /// The reason's name.
    pub reason: &'static str,
    /// What exactly was wrong.
    pub detail: String,
}

/// Everybody → one worker, in order and before the next [`Feed`].
#[derive(Debug)]
pub enum Notice {
    /// Everything up to and with this seq is committed: L. The next output is to have these slices.
    Committed(Seq, Vec<SliceAsk>),
    /// A question, answered as of L.
    Question(Question),
}

/// Commit → pump: what became of the epoch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// It is committed.
    Committed {
        /// Which.
        epoch: u64,
        /// Whether a transaction was made for it; an epoch with nothing in it needs none.
        transacted: bool,
    },
    /// It is not known to be committed: stop reading, drop what is open.
    Failed,
    /// After [`Resolved::Failed`]: what was open is resolved either way; restore everything.
    Recovered,
}

/// Pump → restore.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which partition to restore.
    pub partition: Partition,
    /// Which assignment of it: deliveries carry it.
    pub number: u64,
    /// Set when nobody waits for it any more.
    pub cancelled: Arc<AtomicBool>,
}

/// Pump → standby.
#[derive(Clone, Debug)]
pub enum Order {
    /// Keep a copy of this partition.
    Copy(Request),
    /// The partition of this copy is ours now: prove that the copy is what is committed, and hand it over.
    TakeOver {
        /// Which.
        partition: Partition,
        /// The number of the copy.
        number: u64,
    },
}

/// Restore → pump, for one request: one `Begin`, some `Rows`, one `End`. Standby → pump, for one copy: the same; then `Chunk`s, and `Level`s; and
/// when it is taken over one `Begin` and one `End` more. [`Delivered::Doubt`] ends it at any time.
#[derive(Debug)]
pub struct Delivery {
    /// As requested.
    pub partition: Partition,
    /// As requested.
    pub number: u64,
    /// What is delivered.
    pub what: Delivered,
}

/// What a restore delivers, or a warm copy; which of it comes from whom is said at [`Delivery`].
#[derive(Debug)]
pub enum Delivered {
    /// The place to go on from.
    Begin(Standpoint),
    /// Some objects, each with all its rows, by worker.
    Rows(Vec<Objects>),
    /// That was all.
    End,
    /// A whole chunk: where its owner stood after it, and its rows, those of one object together.
    Chunk(Standpoint, Vec<Vec<Row>>),
    /// All that is committed was in the copy at this time of the wall-clock.
    Level(Millis),
    /// The copy is not what is committed, or can't be shown to be.
    Doubt,
}

/// How far the restore of a partition is: read first, then handed over to the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Chunks read, and how many there are; none before the first is read.
    pub chunks: (u64, u64),
    /// Bytes of checkpoint records read.
    pub bytes: u64,
    /// Rows read.
    pub rows: u64,
    /// Live rows handed over, and how many there are; none before all is read.
    pub handed_rows: (u64, u64),
    /// Since its reading began.
    pub elapsed_ms: u64,
}

impl RestoreProgress {
    /// How much of the work is done, in thousandths: reading is taken for one half of it, handing over for the other.
    #[must_use]
    pub fn permille(&self) -> u64 {
        let half = |(done, all): (u64, u64)| (500 * done).checked_div(all).unwrap_or(0).min(500);
        half(self.chunks) + half(self.handed_rows)
    }

    /// An estimate of how long it still takes, at the rate so far; none before there is a rate.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let done = self.permille();
        (self.elapsed_ms * (1_000 - done)).checked_div(done).map(|left_ms| left_ms.div_ceil(1_000))
    }
}

/// Where a partition stood after its last committed epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// The first source offset not applied.
    pub next_offset: Offset,
    /// What is committed with that offset; none in a fresh house.
    pub progress: Option<Progress>,
    /// Where its rotation stands.
    pub rotation: Arc<Rotation>,
    /// Its clock; none before the first record with a usable timestamp.
    pub clock_ms: Option<Millis>,
    /// The number of its next event.
    pub event: u64,
}

/// What everybody may watch, published by [`crate::board::Board`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// This partition is ours and being restored.
    Restoring(Partition),
    /// The restore of this partition is so far.
    Restore(Partition, RestoreProgress),
    /// These partitions are no longer ours, nor are there copies of them.
    Gone(Vec<Partition>),
    /// A copy of this partition is being made.
    Copying(Partition),
    /// This partition is ours, and its copy is being proven; until then the copy answers.
    TakingOver(Partition),
    /// These copies are whole, and stand there.
    Copied(Vec<CopyPart>),
    /// Everything of these partitions before these offsets is applied and committed; commits work.
    Committed(Vec<(Partition, Offset)>),
    /// Commits fail: answers stay at L.
    Stale {
        /// Since when, by the wall-clock.
        since_ms: Millis,
        /// Why, in a sentence.
        trouble: String,
    },
    /// The consumer group was lost: answers stay at L. Since when, by the wall-clock, and why, in a sentence; none: it is joined again.
    Adrift(Option<(Millis, String)>),
    /// What is wrong with the wall-clock, in a sentence; none: nothing.
    Clock(Option<String>),
    /// The house is shutting down.
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_restore_follows_from_what_is_done() {
        let restore = |chunks, handed_rows, elapsed_ms| RestoreProgress { chunks, handed_rows, elapsed_ms, ..RestoreProgress::default() };
        let rows = [
            (restore((0, 0), (0, 0), 100), 0, None),
            (restore((1, 4), (0, 0), 1_000), 125, Some(7)),
            (restore((4, 4), (0, 0), 2_000), 500, Some(2)),
            (restore((4, 4), (10, 40), 3_000), 625, Some(2)),
            (restore((4, 4), (40, 40), 3_000), 1_000, Some(0)),
        ];
        for (restore, permille, seconds_left) in rows {
            assert_eq!((restore.permille(), restore.seconds_left()), (permille, seconds_left), "{restore:?}");
        }
    }
}
