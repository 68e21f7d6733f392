//! What a restore asks simulated brokers, and the register of instances.

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{Topic, link::Link, partition::Stored};
use crate::log::{
    LogError, Start,
    protocol::client::{RawEntry, ReadFrom, Reader, Roll, Seen, Time, View},
};

/// One try to learn a committed offset.
const OFFSET_TRY_US: u64 = 100_000;

/// See the module.
pub(super) struct SimulatedReader(pub(super) Link);

impl Time for SimulatedReader {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn pause(&self, duration: Duration) {
        self.0.wait(duration.as_micros() as u64);
    }
}

fn unknown(what: &str, why: impl std::fmt::Debug) -> LogError {
    LogError::Unavailable(format!("{what}: {why:?}"))
}

impl Reader for SimulatedReader {
    fn committed_offset(&mut self, partition: Partition, view: View) -> Result<Option<(Offset, String)>, String> {
        let deadline_us = self.0.now_us() + OFFSET_TRY_US;
        loop {
            let answer = self.0.call("committed offset", |state| {
                let is_away = state.coordinator_away_until_us > state.now_us;
                let pending = is_away || (view == View::Stable && state.offsets.is_pending(partition));
                (!pending).then(|| state.offsets.committed.get(&partition).cloned())
            });
            match answer {
                Ok(Some(offset)) => return Ok(offset),
                Ok(None) if self.0.now_us() < deadline_us => self.0.wait(10_000),
                Ok(None) => return Err("a transaction is pending".to_owned()),
                Err(silence) => return Err(format!("{silence:?}")),
            }
        }
    }

    fn ends(&mut self, partition: Partition, view: View) -> Result<(Offset, Offset), LogError> {
        let answer = self.0.call("ends", |state| {
            let is_leaderless = state.leaderless_until_us.get(&partition).is_some_and(|until_us| *until_us > state.now_us);
            let log = state.log(Topic::Checkpoint, partition);
            let end = if view == View::Stable { log.stable_end() } else { log.end() };
            (!is_leaderless).then_some((log.low, end))
        });
        answer.map_err(|silence| unknown("ends", silence))?.ok_or_else(|| unknown("ends", "a new leader does not know them yet"))
    }

    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        let answer = self.0.call("start", |state| {
            let log = state.log(Topic::Source, partition);
            if start == Start::Earliest { log.low } else { log.stable_end() }
        });
        answer.map_err(|silence| unknown("start", silence))
    }

    fn read(&mut self, from: ReadFrom, each: &mut dyn FnMut(Seen<'_>, Duration) -> ControlFlow<()>) -> Result<(), LogError> {
        let ReadFrom { partition, mut offset, view } = from;
        loop {
            // Some at a time, so that everything else goes on between.
            let fetched = self.0.call("fetch", |state| {
                let few = 1 + state.dice.below(8);
                let log = state.log(Topic::Checkpoint, partition);
                let is_gone = offset < log.low;
                let all = view == View::Uncommitted;
                let end = if all { log.end() } else { log.stable_end() };
                let mut records: Vec<Stored> = Vec::new();
                while records.len() < few
                    && let Some(record) = log.next(records.last().map_or(offset, |last| last.offset + 1), end, all)
                {
                    records.push(record.clone());
                }
                (records, is_gone)
            });
            let now = self.0.now();
            let outcome = match fetched {
                Err(_) => each(Seen::Nothing, now),
                Ok((_, true)) => each(Seen::Gone, now),
                Ok((records, _)) if records.is_empty() => each(Seen::End, now),
                Ok((records, _)) => records.into_iter().try_for_each(|record| {
                    offset = record.offset + 1;
                    each(Seen::Record(partition, record.offset, record.value.as_deref().unwrap_or_default()), now)
                }),
            };
            if outcome.is_break() || self.0.is_dead() {
                return Ok(());
            }
        }
    }
}

/// See the module.
pub(super) struct SimulatedRoll {
    link: Link,
    next: usize,
}

impl SimulatedRoll {
    /// Nothing read yet.
    pub(super) fn new(link: Link) -> Self {
        Self { link, next: 0 }
    }
}

impl Time for SimulatedRoll {
    fn now(&self) -> Duration {
        self.link.now()
    }

    fn pause(&self, duration: Duration) {
        self.link.wait(duration.as_micros() as u64);
    }
}

impl Roll for SimulatedRoll {
    fn read_on(&mut self, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<(), String> {
        let entries = self.link.call("register", |state| state.register[self.next..].to_vec()).map_err(|silence| format!("{silence:?}"))?;
        self.next += entries.len();
        entries.iter().for_each(|(instance, value)| each((Some(instance.as_bytes()), value.as_deref())));
        Ok(())
    }

    fn write(&mut self, instance: &str, value: Option<&[u8]>) -> Result<(), String> {
        let entry = (instance.to_owned(), value.map(<[u8]>::to_vec));
        self.link.call("write entry", |state| state.register.push(entry)).map_err(|silence| format!("{silence:?}"))
    }

    fn members(&mut self) -> Result<BTreeSet<String>, String> {
        self.link.call("members", |state| state.group.instances()).map_err(|silence| format!("{silence:?}"))
    }

    fn fence(&mut self, transactional_id: &str) -> Result<(), String> {
        let (deadline_us, timeout_us) =
            self.link.state(|state| (state.now_us + state.options.request_timeout_us * 4, state.options.transaction_timeout_us));
        self.link
            .insist(("fence", deadline_us), &mut || {}, |state| state.init_producer(transactional_id, timeout_us))
            .map(drop)
            .map_err(|silence| format!("{silence:?}"))
    }
}
