//! One owned partition as the pump sees it: its clock, its event numbers, its place in the source. Turns records and ticks into runs.
//!
//! Pure: seqs come out of the one counter passed in, time is passed in. Only ticks move the clock, and it never runs back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition, Run, Seq, TICK_MS};

use crate::message::{Adopted, CutPart, Objects, Request, Standpoint};

/// How far a partition is on its way to being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for the recovery to end before it is restored.
    Waiting,
    /// Its rows are being read back.
    Restoring,
    /// There was a copy of it, which is being proven to be what is committed.
    Proving,
    /// All its rows are back, and what is published is compared with what the rules of today make of it, some objects at a time.
    Comparing,
    /// A fresh house: its first start position waits for its commit.
    Starting,
    /// Its records are read.
    Live,
}

/// An owned partition.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) partition: Partition,
    pub(crate) phase: Phase,
    /// Which assignment or restore of it: deliveries for another are stale.
    pub(crate) number: u64,
    /// Whether the last fetch answered at the end of the partition.
    pub(crate) caught_up: bool,
    /// Revoked: nothing of it is fed any more.
    pub(crate) leaving: bool,
    pub(crate) next_offset: Offset,
    clock_ms: Option<Millis>,
    event: u64,
    records: u64,
    ticks: Vec<(Offset, Millis)>,
    told_ms: Option<Millis>,
    adopted: Option<Adopted>,
    /// By worker: objects restored and not compared yet.
    restored: Vec<usize>,
    cancelled: Arc<AtomicBool>,
}

impl Line {
    /// A partition just assigned.
    pub(crate) fn new(partition: Partition) -> Self {
        Self {
            partition,
            phase: Phase::Waiting,
            number: 0,
            caught_up: false,
            leaving: false,
            next_offset: 0,
            clock_ms: None,
            event: 1,
            records: 0,
            ticks: Vec::new(),
            told_ms: None,
            adopted: None,
            restored: Vec::new(),
            cancelled: Arc::default(),
        }
    }

    /// Begins a restore, called `number`.
    pub(crate) fn request(&mut self, number: u64) -> Request {
        self.cancel();
        self.cancelled = Arc::default();
        self.number = number;
        self.restored.clear();
        self.phase = Phase::Restoring;
        Request { partition: self.partition, number, cancelled: Arc::clone(&self.cancelled) }
    }

    /// Whoever restores it may stop.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Stands where the last committed epoch left it.
    pub(crate) fn stand(&mut self, at: Standpoint) {
        self.next_offset = at.next_offset;
        self.clock_ms = at.clock_ms;
        self.told_ms = at.clock_ms;
        self.event = at.event;
        self.records = 0;
        self.ticks.clear();
        self.adopted = Some(Adopted { progress: at.progress.unwrap_or_default(), rotation: at.rotation });
        self.caught_up = false;
    }

    /// Whether records may be fed.
    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live && !self.leaving
    }

    /// Whether its rows are on their way: nothing of it is in any epoch, and deliveries are for it.
    pub(crate) fn is_coming_back(&self) -> bool {
        matches!(self.phase, Phase::Restoring | Phase::Proving)
    }

    /// Whether its restore is complete, so that it belongs in every epoch.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Starting | Phase::Comparing)
    }

    /// Whether its first start position is still to be put into an epoch.
    pub(crate) fn is_to_start(&self) -> bool {
        self.phase == Phase::Starting && self.adopted.is_some()
    }

    /// Whether its first start position was in the last epoch.
    pub(crate) fn has_started(&self) -> bool {
        self.phase == Phase::Starting && self.adopted.is_none()
    }

    /// Whether the wall-clock moves its clock. A partition without any record yet has no clock to move.
    pub(crate) fn ticks_by_wall(&self) -> bool {
        self.is_live() && self.caught_up && self.clock_ms.is_some()
    }

    /// Moves the clock to the last multiple at or before `time_ms`; one seq for each multiple crossed. A first clock is set, in one tick.
    pub(crate) fn advance(&mut self, time_ms: Millis, next: &mut Seq) -> Option<Run> {
        let target_ms = time_ms.div_euclid(TICK_MS) * TICK_MS;
        let first_ms = self.clock_ms.map_or(target_ms, |clock_ms| clock_ms + TICK_MS);
        if target_ms < first_ms {
            return None;
        }
        let count = ((target_ms - first_ms) / TICK_MS) as u64 + 1;
        let run = Run { first: *next, count, partition: self.partition, event: self.event, clock_ms: first_ms, offset: None };
        *next += count;
        self.event += count;
        self.clock_ms = Some(target_ms);
        Some(run)
    }

    /// Numbers the record at `offset`: the last of `runs` grows, or a new one begins.
    pub(crate) fn record(&mut self, offset: Offset, next: &mut Seq, runs: &mut Vec<Run>) -> Seq {
        let seq = *next;
        let clock_ms = self.clock_ms.unwrap_or(0); // without a clock only rejects come this far
        match runs.last_mut() {
            Some(run) if run.offset.is_some_and(|first| first + run.count as Offset == offset) => run.count += 1,
            _ => runs.push(Run { first: seq, count: 1, partition: self.partition, event: self.event, clock_ms, offset: Some(offset) }),
        }
        if self.clock_ms != self.told_ms {
            self.told_ms = self.clock_ms;
            self.ticks.push((offset, clock_ms));
        }
        *next += 1;
        self.event += 1;
        self.records += 1;
        self.next_offset = offset + 1;
        seq
    }

    /// A seq for something that is no event of the source: at the clock, with the next event's number, which it doesn't use up.
    pub(crate) fn aside(&self, next: &mut Seq) -> Run {
        let first = *next;
        *next += 1;
        Run { first, count: 1, partition: self.partition, event: self.event, clock_ms: self.clock_ms.unwrap_or(0), offset: None }
    }

    /// A seq for these restored objects, by worker.
    pub(crate) fn restored(&mut self, shares: &[Objects], next: &mut Seq) -> Run {
        self.restored.resize(self.restored.len().max(shares.len()), 0);
        self.restored.iter_mut().zip(shares).for_each(|(restored, objects)| *restored += objects.hashes.len());
        self.aside(next)
    }

    /// A seq for the comparison of so many more objects of each worker, and how many these are. All shares are one event, with a number of
    /// its own, as what they publish has a revision; that number is used up with the first, so that nothing later can have it.
    pub(crate) fn compare(&mut self, objects_max: usize, next: &mut Seq) -> (Run, usize) {
        if self.phase != Phase::Comparing {
            self.phase = Phase::Comparing;
            self.event += 1;
        }
        let run = Run { event: self.event - 1, ..self.aside(next) };
        let share = |left: &mut usize| {
            let taken = objects_max.min(*left);
            *left -= taken;
            taken
        };
        (run, self.restored.iter_mut().map(share).sum())
    }

    /// Whether all its objects are compared.
    pub(crate) fn is_compared(&self) -> bool {
        self.restored.iter().all(|left| *left == 0)
    }

    /// The end of an epoch.
    pub(crate) fn cut(&mut self) -> CutPart {
        CutPart {
            partition: self.partition,
            next_offset: self.next_offset,
            clock_ms: self.clock_ms,
            event: self.event,
            records: std::mem::take(&mut self.records),
            ticks: std::mem::take(&mut self.ticks),
            adopted: self.adopted.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use statehouse_dataflows::rows::Rows;

    use super::*;

    fn line(clock_ms: Option<Millis>) -> Line {
        let mut line = Line::new(3);
        line.stand(Standpoint { next_offset: 10, progress: None, rotation: Arc::default(), clock_ms, event: 7 });
        line
    }

    fn run(first: Seq, count: u64, event: u64, clock_ms: Millis, offset: Option<Offset>) -> Run {
        Run { first, count, partition: 3, event, clock_ms, offset }
    }

    #[test]
    fn a_tick_for_every_multiple_crossed() {
        // clock, time → first multiple and count of the run
        let rows = [
            (None, 1_784_000_000_123, Some((1_784_000_000_100, 1))), // no ticking from 1970
            (Some(1_000), 1_099, None),
            (Some(1_000), 1_100, Some((1_100, 1))), // at exactly a multiple: after its tick
            (Some(1_000), 1_350, Some((1_100, 3))),
            (Some(1_000), 900, None), // never back
            (Some(0), 100_000_000_000, Some((100, 1_000_000_000))),
        ];
        for (clock_ms, time_ms, expected) in rows {
            let (mut line, mut next) = (line(clock_ms), 50);
            let got = line.advance(time_ms, &mut next);
            assert_eq!(got, expected.map(|(first_ms, count)| run(50, count, 7, first_ms, None)), "from {clock_ms:?} to {time_ms}");
            assert_eq!(next, 50 + expected.map_or(0, |(_, count)| count));
        }
    }

    #[test]
    fn runs_break_at_ticks_and_gaps() {
        let (mut line, mut next, mut runs) = (line(Some(1_000)), 50, Vec::new());
        for (offset, time_ms) in [(10, 1_000), (11, 1_050), (13, 1_010), (14, 1_200), (15, 1_100)] {
            runs.extend(line.advance(time_ms, &mut next));
            line.record(offset, &mut next, &mut runs);
        }
        let expected = [
            run(50, 2, 7, 1_000, Some(10)),
            run(52, 1, 9, 1_000, Some(13)), // a gap
            run(53, 2, 10, 1_100, None),    // two ticks
            run(55, 2, 12, 1_200, Some(14)),
        ];
        assert_eq!(runs, expected);
        let cut = line.cut();
        assert_eq!((cut.next_offset, cut.event, cut.clock_ms, cut.records), (16, 14, Some(1_200), 5));
        assert_eq!(cut.ticks, [(14, 1_200)], "only ticks that a record followed are listed");
    }

    #[test]
    fn a_tick_is_listed_with_the_record_that_follows_even_epochs_later() {
        let (mut line, mut next) = (line(Some(1_000)), 50);
        line.advance(1_500, &mut next);
        assert_eq!(line.cut().ticks, [], "nothing followed yet");
        line.advance(1_700, &mut next);
        line.record(10, &mut next, &mut Vec::new());
        line.record(11, &mut next, &mut Vec::new());
        assert_eq!(line.cut().ticks, [(10, 1_700)]);
    }

    #[test]
    fn restored_rows_take_a_seq_but_no_event_number() {
        let (mut line, mut next) = (line(Some(1_000)), 50);
        assert_eq!(line.aside(&mut next), run(50, 1, 7, 1_000, None));
        assert_eq!(line.aside(&mut next), run(51, 1, 7, 1_000, None));
        assert_eq!(line.compare(9, &mut next), (run(52, 1, 7, 1_000, None), 0));
        assert!(line.is_compared());
        assert_eq!((next, line.cut().event), (53, 8));
    }

    #[test]
    fn all_shares_of_a_comparison_are_one_event() {
        let (mut line, mut next) = (line(Some(1_000)), 50);
        let objects = |count| Objects { hashes: vec![0; count], rows: Rows::default() };
        assert_eq!(line.restored(&[objects(3), objects(5)], &mut next), run(50, 1, 7, 1_000, None));
        line.restored(&[objects(1), objects(0)], &mut next);
        let mut shares = Vec::new();
        while !line.is_compared() {
            shares.push(line.compare(2, &mut next));
            assert_eq!(line.cut().event, 8, "used up with the first");
        }
        assert_eq!(
            shares,
            [4, 4, 1].into_iter().zip(52..).map(|(objects, seq)| (run(seq, 1, 7, 1_000, None), objects)).collect::<Vec<_>>()
        );
    }
}
