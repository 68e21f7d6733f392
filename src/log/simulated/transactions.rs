//! The simulated transaction coordinator: epochs of producers, transactions and their timeouts, markers that reach each partition at a time
//! of its own, and source offsets that wait for theirs.
//!
//! As brokers do for clients without KIP-890: the end of a transaction is told by (producer, epoch) alone, so one that comes late ends
//! the next transaction of the same epoch (KAFKA-17754).

use std::collections::{BTreeMap, BTreeSet};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    Fact, Topic,
    group::Membership,
    partition::{Stored, Transactional},
    state::{Later, State},
};
use crate::log::protocol::client::Place;

/// Why a request of a producer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The last transaction is still ending: ask again.
    Concurrent,
    /// Another producer has this id now, or the transaction took too long.
    Fenced,
    /// There is no such transaction.
    State,
    /// The group does not know this member.
    UnknownMember,
    /// The group is at another generation.
    Generation,
}

/// A transactional id.
#[derive(Debug, Default)]
pub(super) struct Producer {
    epoch: u64,
    phase: Phase,
    /// The transaction of now, or the last one.
    transaction: Transactional,
    touched: BTreeSet<(Topic, Partition)>,
    has_offsets: bool,
    /// Ends as aborted at this time.
    deadline_us: u64,
    timeout_us: u64,
    /// Markers on their way.
    markers: usize,
    /// How the last one ended.
    committed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Empty,
    Open,
    Ending,
}

/// Source offsets, committed and waiting.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    pub(super) committed: BTreeMap<Partition, (Offset, String)>,
    pending: BTreeMap<Transactional, Vec<(Place, Membership)>>,
}

impl Offsets {
    /// Whether an open transaction may still change it.
    pub(super) fn is_pending(&self, partition: Partition) -> bool {
        self.pending.values().flatten().any(|(place, _)| place.partition == partition)
    }
}

impl State {
    /// A new owner of the id; its epoch.
    pub(super) fn init_producer(&mut self, id: &str, timeout_us: u64) -> Result<u64, Refused> {
        let producer = self.producers.entry(id.to_owned()).or_default();
        match producer.phase {
            Phase::Empty => {
                producer.epoch += 1;
                producer.timeout_us = timeout_us;
                Ok(producer.epoch)
            }
            Phase::Open => {
                producer.epoch += 1;
                self.begin_end(id, false);
                Err(Refused::Concurrent)
            }
            Phase::Ending => Err(Refused::Concurrent),
        }
    }

    /// Makes sure that a transaction is open.
    fn join_transaction(&mut self, id: &str, epoch: u64) -> Result<&mut Producer, Refused> {
        let (now_us, next) = (self.now_us, self.transactions + 1);
        let producer = self.producers.get_mut(id).filter(|producer| producer.epoch == epoch).ok_or(Refused::Fenced)?;
        match producer.phase {
            Phase::Ending => return Err(Refused::Concurrent),
            Phase::Open => {}
            Phase::Empty => {
                self.transactions = next;
                (producer.phase, producer.transaction) = (Phase::Open, next);
                producer.deadline_us = now_us + producer.timeout_us;
            }
        }
        Ok(producer)
    }

    pub(super) fn produce(
        &mut self,
        (id, epoch): (&str, u64),
        topic: Topic,
        partition: Partition,
        record: Stored,
    ) -> Result<Offset, Refused> {
        let producer = self.join_transaction(id, epoch)?;
        producer.touched.insert((topic, partition));
        let transaction = producer.transaction;
        Ok(self.log(topic, partition).append(Stored { of: Some(transaction), ..record }))
    }

    pub(super) fn take_offsets(&mut self, (id, epoch): (&str, u64), offsets: Vec<Place>, membership: &Membership) -> Result<(), Refused> {
        let producer = self.join_transaction(id, epoch)?;
        producer.has_offsets = true;
        let transaction = producer.transaction;
        self.group.validate(membership)?;
        let pending = self.offsets.pending.entry(transaction).or_default();
        pending.extend(offsets.into_iter().map(|place| (place, membership.clone())));
        Ok(())
    }

    /// Told by id and epoch alone: whatever transaction is open of them ends.
    pub(super) fn end_transaction(&mut self, id: &str, epoch: u64, commit: bool) -> Result<(), Refused> {
        let producer = self.producers.get(id).filter(|producer| producer.epoch == epoch).ok_or(Refused::Fenced)?;
        match producer.phase {
            Phase::Open => {
                self.begin_end(id, commit);
                Ok(())
            }
            // Told twice.
            _ if producer.committed == commit => Ok(()),
            _ => Err(Refused::State),
        }
    }

    fn begin_end(&mut self, id: &str, commit: bool) {
        let Some(producer) = self.producers.get_mut(id) else { return };
        (producer.phase, producer.committed) = (Phase::Ending, commit);
        let transaction = producer.transaction;
        let mut marks: Vec<Option<(Topic, Partition)>> = std::mem::take(&mut producer.touched).into_iter().map(Some).collect();
        if std::mem::take(&mut producer.has_offsets) {
            marks.push(None);
        }
        producer.markers = marks.len();
        for place in marks {
            let delay_us = self.marker_delay_us(place);
            self.later(delay_us, Later::Mark { id: id.to_owned(), transaction, place, commit });
        }
        self.ended(id);
    }

    /// A marker arrives.
    pub(super) fn mark(&mut self, id: &str, transaction: Transactional, place: Option<(Topic, Partition)>, commit: bool) {
        match place {
            Some((topic, partition)) => self.log(topic, partition).mark(transaction, commit),
            None => self.mark_offsets(id, transaction, commit),
        }
        if let Some(producer) = self.producers.get_mut(id) {
            producer.markers -= 1;
        }
        self.ended(id);
    }

    fn mark_offsets(&mut self, id: &str, transaction: Transactional, commit: bool) {
        let pending = self.offsets.pending.remove(&transaction).unwrap_or_default();
        for (Place { partition, next_offset, metadata }, membership) in pending.into_iter().filter(|_| commit) {
            let at_us = self.now_us;
            self.say(id, || format!("partition {partition} is committed to {next_offset} ({metadata})"));
            self.facts.push(Fact {
                at_us,
                partition,
                next_offset,
                metadata: metadata.clone(),
                generation: membership.generation,
                member: membership.member,
            });
            self.offsets.committed.insert(partition, (next_offset, metadata));
        }
    }

    fn ended(&mut self, id: &str) {
        if let Some(producer) = self.producers.get_mut(id).filter(|producer| producer.phase == Phase::Ending && producer.markers == 0) {
            producer.phase = Phase::Empty;
        }
    }

    /// Ends what takes too long; its producer is fenced.
    pub(super) fn time_out_transactions(&mut self) {
        let now_us = self.now_us;
        let late = self.producers.iter_mut().filter(|(_, producer)| producer.phase == Phase::Open && producer.deadline_us <= now_us);
        let late: Vec<_> = late
            .map(|(id, producer)| {
                producer.epoch += 1;
                id.clone()
            })
            .collect();
        for id in late {
            self.say(&id, || "its transaction takes too long and is aborted".to_owned());
            self.begin_end(&id, false);
        }
    }

    /// When the next transaction takes too long.
    pub(super) fn next_timeout_us(&self) -> Option<u64> {
        self.producers.values().filter(|producer| producer.phase == Phase::Open).map(|producer| producer.deadline_us).min()
    }

    /// How many transactions are open or ending.
    pub(super) fn open_transactions(&self) -> usize {
        self.producers.values().filter(|producer| producer.phase != Phase::Empty).count()
    }
}
