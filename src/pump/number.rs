//! From a batch to runs and each worker's records: every record gets its seq, its clock's ticks before it, and its worker.

use std::sync::Arc;

use statehouse_dataflows::vocabulary::{Millis, Run, Seq};

use super::line::Line;
use crate::{
    decode::{Decoder, Reason, Reject},
    log::{Batch, Record},
    message::Routed,
    route::Route,
};

/// What the pump looks at in a record.
pub(super) struct Checked<'a> {
    /// The object, if the key names one.
    object: Option<&'a str>,
    /// Where the clock goes, if the timestamp is usable.
    time_ms: Option<Millis>,
    /// Why the record can't be used, if that is known already.
    reject: Option<Box<Reject>>,
}

/// Numbers the records of one partition's batch.
pub(super) struct Numbering<'a> {
    line: &'a mut Line,
    next: &'a mut Seq,
    route: &'a Route,
    runs: Vec<Run>,
    shares: Vec<Vec<Routed>>,
    bytes: usize,
}

/// What the pump can say of a record: only its timestamp and its key. A timestamp ahead of the wall-clock counts as the wall-clock; one
/// that is later than any wall-clock allows, or negative, moves no clock.
pub(super) fn check<'a>(record: &Record, bytes: &'a [u8], decoder: &Decoder, (wall_ms, latest_ms): (Millis, Millis)) -> Checked<'a> {
    let timestamp_ms = record.timestamp_ms;
    let bad_time = if timestamp_ms < 0 {
        Some(Reject::new(Reason::NegativeTimestamp, format!("the record's timestamp is {timestamp_ms}")))
    } else if timestamp_ms > latest_ms {
        let beyond_ms = timestamp_ms - latest_ms;
        let detail = format!(
            "the record's timestamp {timestamp_ms} is ahead of the wall-clock, by {beyond_ms} ms more than source.max_future_skew allows"
        );
        Some(Reject::new(Reason::FutureTimestamp, detail))
    } else {
        None
    };
    let time_ms = bad_time.is_none().then(|| timestamp_ms.min(wall_ms));
    let (object, bad_key) = match decoder.key(record, bytes) {
        Ok(object) => (Some(object), None),
        Err(reject) => (None, Some(reject)),
    };
    Checked { object, time_ms, reject: bad_time.or(bad_key).map(Box::new) }
}

impl<'a> Numbering<'a> {
    pub(super) fn new(line: &'a mut Line, next: &'a mut Seq, route: &'a Route) -> Self {
        let shares = (0..route.workers()).map(|_| Vec::new()).collect();
        Self { line, next, route, runs: Vec::new(), shares, bytes: 0 }
    }

    /// Numbers records from place `from` on, while there is room for (records, bytes). Returns the place it came to.
    pub(super) fn take<'b>(
        &mut self,
        batch: &'b Batch,
        from: usize,
        room: (usize, usize),
        check: impl Fn(&Record, &'b [u8]) -> Checked<'b>,
    ) -> usize {
        let (records_max, bytes_max) = room;
        let mut to = from;
        for (index, record) in batch.records.iter().enumerate().skip(from).take(records_max) {
            if self.bytes >= bytes_max {
                break;
            }
            self.record(index, record, check(record, &batch.bytes));
            to = index + 1;
        }
        to
    }

    /// The runs, each worker's records, and how many bytes the records have.
    pub(super) fn done(self) -> (Arc<[Run]>, Vec<Vec<Routed>>, usize) {
        (self.runs.into(), self.shares, self.bytes)
    }

    fn record(&mut self, index: usize, record: &Record, checked: Checked<'_>) {
        if let Some(time_ms) = checked.time_ms {
            self.runs.extend(self.line.advance(time_ms, self.next));
        }
        let seq = self.line.record(record.offset, self.next, &mut self.runs);
        self.bytes += [&record.key, &record.value].into_iter().flatten().map(ExactSizeIterator::len).sum::<usize>();
        // Records without an object go to some worker, to be kept as rejects.
        let hash = checked.object.map_or(0, |object| self.route.hash(self.line.partition, object));
        let index = u32::try_from(index).expect("a batch has fewer than 4 G records");
        self.shares[self.route.worker(hash)].push(Routed { index, seq, hash, reject: checked.reject });
    }
}
