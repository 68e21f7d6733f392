//! Writes on their way in: queued by whoever appends, handed out in batches to the pump, answered when their epoch is committed.
//!
//! A write gets its timestamp when it is queued and its offset when it is handed out. It is in one of two places: *queued*, or *handed
//! out* and waiting for a commit past its offset. Both together are bounded. A failed transaction answers everyone at once, and nothing
//! more is handed out of a partition until the pump begins it anew, from what was committed.
//!
//! Assumes that after a failed transaction the pump drops what it was handed before, as the one recovery path does: that is what makes
//! "not appended" true for writes handed out but not part of the failed transaction.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

use super::WallClock;
use crate::log::{AppendDone, AppendError, Batch, Polled, Record, TransactError};

/// The largest write taken, key and value together; the same as Kafka takes by default, so that a house can move there.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Queued keys and values, all partitions together. What is handed out is the pump's to bound.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// A batch is closed at this many records or bytes, whichever comes first: the pump's steps stay short.
const BATCH_RECORDS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 1 << 20;

pub(super) struct Inbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    queue_records: usize,
    clock: WallClock,
}

struct Queue {
    lanes: Vec<Lane>,
    /// The lane to look at first: they take turns.
    turn: usize,
    /// Writes not answered yet.
    waiting: usize,
    queued_bytes: usize,
    /// Whether the pump was told which partitions there are.
    assigned: bool,
    held: bool,
    /// Why nothing is taken now.
    refusal: Option<String>,
    /// Whether that is for good.
    left: bool,
}

/// One partition's writes.
#[derive(Default)]
struct Lane {
    partition: Partition,
    /// The offset of the next record handed out; none until the pump begins.
    next: Option<Offset>,
    /// Whether the pump knows that nothing is queued.
    caught_up: bool,
    queued: VecDeque<Queued>,
    handed_out: VecDeque<(Offset, AppendDone)>,
}

#[derive(Default)]
struct Queued {
    batch: Batch,
    dones: Vec<AppendDone>,
}

/// Who is to be told what, once the lock is free.
type Answers = Vec<(AppendDone, Result<(Partition, Offset), AppendError>)>;

impl Inbox {
    pub(super) fn new(partitions: Partition, queue_records: usize, clock: WallClock) -> Self {
        let lanes = (0..partitions).map(|partition| Lane { partition, ..Lane::default() }).collect();
        let queue = Queue { lanes, turn: 0, waiting: 0, queued_bytes: 0, assigned: false, held: false, refusal: None, left: false };
        Self { queue: Mutex::new(queue), changed: Condvar::new(), queue_records, clock }
    }

    pub(super) fn append(&self, partition: Partition, record: (&[u8], Option<&[u8]>), done: AppendDone) {
        let mut queue = self.queue();
        if let Err(refusal) = queue.admit(record, self.queue_records) {
            drop(queue);
            return done(Err(refusal));
        }
        queue.push(partition, record, (self.clock)(), done);
        drop(queue);
        self.changed.notify_one();
    }

    pub(super) fn poll(&self, wait: Duration) -> Polled {
        let deadline = Instant::now() + wait;
        let mut queue = self.queue();
        loop {
            if let Some(polled) = queue.poll() {
                return polled;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Polled::Idle;
            }
            queue = self.changed.wait_timeout(queue, left).expect(UNBROKEN).0;
        }
    }

    /// Hands out from here on, as `offset` and following.
    pub(super) fn begin(&self, partition: Partition, offset: Offset) {
        let mut queue = self.queue();
        let lane = queue.lane(partition);
        lane.next = Some(offset);
        lane.caught_up = false;
        // Whatever was handed out before is either committed, by a transaction nobody told us of, or will never be.
        let answers = lane.answer_handed_out(offset, "the partition is restored anew");
        queue.waiting -= answers.len();
        drop(queue);
        answer(answers);
    }

    pub(super) fn suspend(&self, partition: Partition) {
        self.queue().lane(partition).next = None;
    }

    pub(super) fn hold(&self, hold: bool) {
        let mut queue = self.queue();
        queue.held = hold;
        queue.lanes.iter_mut().for_each(|lane| lane.caught_up = false);
        drop(queue);
        self.changed.notify_one();
    }

    /// The offset after the last that is queued; none while the partition is not begun.
    pub(super) fn end(&self, partition: Partition) -> Option<Offset> {
        let mut queue = self.queue();
        let lane = queue.lane(partition);
        let queued: usize = lane.queued.iter().map(|queued| queued.dones.len()).sum();
        lane.next.map(|next| next + queued as Offset)
    }

    /// A transaction up to these offsets is durable.
    pub(super) fn committed(&self, ends: &[(Partition, Offset)]) {
        let mut queue = self.queue();
        let mut answers = Answers::new();
        for &(partition, end) in ends {
            let lane = queue.lane(partition);
            let count = lane.handed_out.partition_point(|(offset, _)| *offset < end);
            answers.extend(lane.handed_out.drain(..count).map(|(offset, done)| (done, Ok((partition, offset)))));
        }
        queue.waiting -= answers.len();
        drop(queue);
        answer(answers);
    }

    /// A transaction up to these offsets is not known to be durable: nobody waits any longer, and nothing is taken or handed out until
    /// the log has recovered and the pump begins anew.
    pub(super) fn failed(&self, ends: &[(Partition, Offset)], error: &TransactError) {
        let why = error.to_string();
        let mut queue = self.queue();
        let mut answers = queue.drop_queued(&why);
        for lane in &mut queue.lanes {
            let maybe = matches!(error, TransactError::Maybe(_));
            let end = ends.iter().find(|(partition, _)| maybe && *partition == lane.partition).map_or(Offset::MIN, |(_, end)| *end);
            answers.extend(lane.answer_handed_out(end, &why));
            lane.next = None;
        }
        queue.waiting = 0;
        queue.refusal = Some(why);
        drop(queue);
        answer(answers);
    }

    pub(super) fn recovered(&self) {
        let mut queue = self.queue();
        if !queue.left {
            queue.refusal = None;
        }
    }

    /// Nothing will be polled any more.
    pub(super) fn leave(&self) {
        let mut queue = self.queue();
        let answers = queue.close();
        drop(queue);
        answer(answers);
    }

    /// Nothing will be committed any more.
    pub(super) fn abandon(&self) {
        let mut queue = self.queue();
        let mut answers = queue.close();
        for lane in &mut queue.lanes {
            answers.extend(lane.answer_handed_out(Offset::MIN, SHUTDOWN));
        }
        queue.waiting = 0;
        drop(queue);
        answer(answers);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(UNBROKEN)
    }
}

impl Queue {
    fn admit(&self, (key, value): (&[u8], Option<&[u8]>), queue_records: usize) -> Result<(), AppendError> {
        let bytes = key.len() + value.map_or(0, <[u8]>::len);
        if let Some(refusal) = &self.refusal {
            return Err(AppendError::Failed(refusal.clone()));
        }
        if bytes > RECORD_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes });
        }
        if self.waiting >= queue_records || self.queued_bytes + bytes > QUEUE_BYTES_MAX {
            return Err(AppendError::Full);
        }
        Ok(())
    }

    fn push(&mut self, partition: Partition, (key, value): (&[u8], Option<&[u8]>), timestamp_ms: Millis, done: AppendDone) {
        let queued = self.lane(partition).open_batch();
        let bytes = &mut queued.batch.bytes;
        let start = bytes.len();
        bytes.extend_from_slice(key);
        let key = start..bytes.len();
        let value = value.map(|value| {
            bytes.extend_from_slice(value);
            key.end..bytes.len()
        });
        let size = bytes.len() - start;
        // The offset is a place among those handed out, which are not counted yet.
        queued.batch.records.push(Record { offset: -1, timestamp_ms, key: Some(key), value, agent: None, canonical: true });
        queued.dones.push(done);
        self.waiting += 1;
        self.queued_bytes += size;
    }

    fn poll(&mut self) -> Option<Polled> {
        if !self.assigned {
            self.assigned = true;
            return Some(Polled::Assigned(self.lanes.iter().map(|lane| lane.partition).collect()));
        }
        if self.held {
            return None;
        }
        for _ in 0..self.lanes.len() {
            let lane = self.turn;
            self.turn = (lane + 1) % self.lanes.len();
            let Some(polled) = self.lanes[lane].poll() else { continue };
            if let Polled::Records(batch) = &polled {
                self.queued_bytes -= batch.bytes.len();
            }
            return Some(polled);
        }
        None
    }

    fn lane(&mut self, partition: Partition) -> &mut Lane {
        let lane = usize::try_from(partition).ok().and_then(|lane| self.lanes.get_mut(lane));
        lane.expect("only partitions that were assigned are spoken of")
    }

    /// For good. Answers those that were not handed out yet.
    fn close(&mut self) -> Answers {
        self.left = true;
        self.refusal = Some(SHUTDOWN.into());
        self.drop_queued(SHUTDOWN)
    }

    fn drop_queued(&mut self, why: &str) -> Answers {
        let queued = self.lanes.iter_mut().flat_map(|lane| lane.queued.drain(..)).flat_map(|queued| queued.dones);
        let answers: Answers = queued.map(|done| (done, Err(AppendError::Failed(why.to_owned())))).collect();
        self.waiting -= answers.len();
        self.queued_bytes = 0;
        answers
    }
}

impl Lane {
    fn open_batch(&mut self) -> &mut Queued {
        let full = |queued: &Queued| queued.batch.records.len() >= BATCH_RECORDS_MAX || queued.batch.bytes.len() >= BATCH_BYTES_MAX;
        if self.queued.back().is_none_or(full) {
            let batch = Batch { partition: self.partition, ..Batch::default() };
            self.queued.push_back(Queued { batch, dones: Vec::new() });
        }
        self.queued.back_mut().expect("one was pushed if there was none")
    }

    fn poll(&mut self) -> Option<Polled> {
        let next = self.next.as_mut()?;
        let Some(Queued { mut batch, dones }) = self.queued.pop_front() else {
            let news = !self.caught_up;
            self.caught_up = true;
            return news.then_some(Polled::CaughtUp(self.partition));
        };
        self.caught_up = false;
        for (record, done) in batch.records.iter_mut().zip(dones) {
            record.offset = *next;
            self.handed_out.push_back((*next, done));
            *next += 1;
        }
        Some(Polled::Records(batch))
    }

    /// Maybe committed below `end`, not so from there on.
    fn answer_handed_out(&mut self, end: Offset, why: &str) -> Answers {
        let say = |offset| if offset < end { AppendError::Maybe(why.to_owned()) } else { AppendError::Failed(why.to_owned()) };
        self.handed_out.drain(..).map(|(offset, done)| (done, Err(say(offset)))).collect()
    }
}

fn answer(answers: Answers) {
    for (done, answer) in answers {
        done(answer);
    }
}

const UNBROKEN: &str = "nobody panics with this lock";
const SHUTDOWN: &str = "the house is shutting down";
