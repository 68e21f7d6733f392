//! Reports in, from simulated brokers: what the pump sees of its group member and of the partitions it reads.
//!
//! As with Kafka: steps of a rebalance are answered when the pump says so, a partition is read from where it is begun, and what is told of
//! partitions by brokers that can't be reached is nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{Topic, link::Link, member::Step, partition::Stored};
use crate::log::{Batch, LogError, Polled, Record, Source, protocol::Ownership};

/// Between two looks.
const LOOK_EVERY_US: u64 = 5_000;

/// See the module.
pub(super) struct SimulatedSource {
    link: Link,
    ownership: Arc<Ownership>,
    reading: BTreeMap<Partition, Reading>,
    ready: VecDeque<Polled>,
    held: bool,
    turn: Partition,
}

struct Reading {
    next_offset: Offset,
    caught_up: bool,
    told: bool,
}

impl SimulatedSource {
    pub(super) fn new(link: Link, ownership: Arc<Ownership>) -> Self {
        Self { link, ownership, reading: BTreeMap::new(), ready: VecDeque::new(), held: false, turn: 0 }
    }

    fn serve_group(&mut self) {
        while let Some(step) = self.link.state(|state| state.instances[self.link.instance].member.steps.pop_front()) {
            match step {
                Step::Assign(partitions) => {
                    self.ownership.add(&partitions);
                    self.link.state(|state| state.instances[self.link.instance].member.assigned(&partitions));
                    self.ready.push_back(Polled::Assigned(partitions));
                }
                Step::Revoke { partitions, lost } => {
                    if lost {
                        self.ownership.remove(&partitions);
                    }
                    self.ready.push_back(Polled::Revoked { partitions, lost });
                }
            }
        }
    }

    fn next_batch(&mut self) -> Option<Polled> {
        let is_cut_off = self.link.state(|state| state.is_cut_off(self.link.instance));
        let (before, from): (Vec<_>, Vec<_>) = self.reading.keys().copied().partition(|partition| *partition < self.turn);
        for partition in from.into_iter().chain(before) {
            let Some(reading) = self.reading.get_mut(&partition) else { continue };
            if is_cut_off {
                if std::mem::take(&mut reading.caught_up) {
                    return Some(Polled::Behind(partition));
                }
                continue;
            }
            let records = self.link.state(|state| {
                let few = 1 + state.dice.below(12);
                let log = state.log(Topic::Source, partition);
                let (mut records, end): (Vec<Stored>, _) = (Vec::new(), log.stable_end());
                while records.len() < few
                    && let Some(record) = log.next(records.last().map_or(reading.next_offset, |last| last.offset + 1), end, false)
                {
                    records.push(record.clone());
                }
                records
            });
            if let Some(last) = records.last() {
                (reading.next_offset, reading.caught_up) = (last.offset + 1, false);
                self.turn = partition + 1;
                return Some(Polled::Records(batch(partition, &records)));
            }
            if !(reading.caught_up && reading.told) {
                (reading.caught_up, reading.told) = (true, true);
                return Some(Polled::CaughtUp(partition));
            }
        }
        None
    }
}

fn batch(partition: Partition, records: &[Stored]) -> Batch {
    let mut batch = Batch { partition, ..Batch::default() };
    for stored in records {
        let mut put = |bytes: &Option<Vec<u8>>| {
            bytes.as_ref().map(|bytes| {
                let from = batch.bytes.len();
                batch.bytes.extend(bytes);
                from..batch.bytes.len()
            })
        };
        let (key, value) = (put(&stored.key), put(&stored.value));
        let (offset, timestamp_ms) = (stored.offset, stored.timestamp_ms);
        batch.records.push(Record { offset, timestamp_ms, key, value, agent: None, canonical: false });
    }
    batch
}

impl Source for SimulatedSource {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        let deadline_us = self.link.now_us() + wait.as_micros() as u64;
        loop {
            self.serve_group();
            if let Some(polled) = self.ready.pop_front() {
                return Ok(polled);
            }
            if !self.held
                && let Some(polled) = self.next_batch()
            {
                return Ok(polled);
            }
            let left_us = deadline_us.saturating_sub(self.link.now_us());
            if left_us == 0 || self.link.is_dead() {
                return Ok(Polled::Idle);
            }
            self.link.wait(left_us.min(LOOK_EVERY_US));
        }
    }

    fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        self.reading.insert(partition, Reading { next_offset: offset, caught_up: false, told: false });
        Ok(())
    }

    fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
        self.reading.remove(&partition);
        self.ready.retain(|polled| !matches!(polled, Polled::CaughtUp(other) | Polled::Behind(other) if *other == partition));
        Ok(())
    }

    fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError> {
        self.ownership.remove(partitions);
        self.reading.retain(|partition, _| !partitions.contains(partition));
        self.link.state(|state| {
            let now_us = state.now_us;
            state.instances[self.link.instance].member.unassigned(partitions, now_us);
        });
        Ok(())
    }

    fn hold(&mut self, hold: bool) -> Result<(), LogError> {
        self.held = hold;
        self.ready.retain(|polled| !matches!(polled, Polled::CaughtUp(_)));
        self.reading.values_mut().for_each(|reading| reading.told = false);
        Ok(())
    }

    fn end(&self, partition: Partition) -> Option<Offset> {
        Some(self.link.stable_end(Topic::Source, partition))
    }

    fn leave(&mut self) {
        self.reading.clear();
        self.ownership.clear();
        self.link.state(|state| state.leave(self.link.instance));
    }
}
