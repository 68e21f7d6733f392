//! The simulated client's transactional producer, step by step, with the Kafka client's habits: what is not answered in time is asked
//! again, and then nobody knows how often it was sent.
//!
//! It promises less than the Kafka client: a commit takes what is acknowledged, and does not wait for the rest.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{Topic, group::Membership, link::Link, partition::Stored, reading::SimulatedRoll, state::Later};
use crate::log::{
    TransactError, Transaction, Trims,
    directory::Entry,
    protocol::{
        Fencing, Grant, Ownership,
        client::{GroupMember, Outgoing, Place, Producer, StartError, Time, Transactor, Transactors},
        enter, transact,
    },
};

/// Records that nobody needs are deleted within so long.
const TRIM_US_MAX: u64 = 5_000_000;

type Answer = Result<Vec<(Partition, Offset)>, TransactError>;

/// The group member, as a commit sees it.
pub(super) struct SimulatedMember(pub(super) Link);

impl GroupMember for SimulatedMember {
    type Membership = Membership;

    fn membership(&self) -> Option<Membership> {
        self.0.state(|state| {
            let member = &state.instances[self.0.instance].member;
            (!member.closed).then(|| member.membership.clone())
        })
    }

    fn is_lost(&self) -> bool {
        self.0.state(|state| state.instances[self.0.instance].member.lost)
    }
}

/// A started producer.
#[derive(Clone)]
pub(super) struct SimulatedProducer {
    link: Link,
    id: String,
    epoch: u64,
    /// Given to the client and not acknowledged.
    sent: Vec<(Topic, Partition, Stored, bool)>,
    first_pieces: Vec<(Partition, Offset)>,
    disturbed: Arc<AtomicBool>,
}

impl SimulatedProducer {
    fn deadline_us(&self) -> u64 {
        self.link.state(|state| state.now_us + state.options.transaction_timeout_us)
    }

    fn again(&self) -> impl FnMut() + use<> {
        let disturbed = Arc::clone(&self.disturbed);
        move || disturbed.store(true, Ordering::Relaxed)
    }

    fn deliver(&mut self, (topic, partition, record, first): (Topic, Partition, Stored, bool)) -> Result<(), String> {
        if self.link.state(|state| state.harms(state.options.refused_record_per_mille)) {
            return Err(format!("a record for {topic:?} [{partition}] was not written: the broker refuses it"));
        }
        // A record that comes twice is written once.
        let mut written = None;
        let offset = self.link.insist(("produce", self.deadline_us()), &mut self.again(), |state| match written {
            Some(offset) => Ok(offset),
            None => {
                let offset = state.produce((&self.id, self.epoch), topic, partition, record.clone())?;
                written = Some(offset);
                Ok(offset)
            }
        });
        let offset = offset.map_err(|silence| format!("a record for {topic:?} [{partition}] was not written: {silence:?}"))?;
        if first {
            self.first_pieces.push((partition, offset));
        }
        Ok(())
    }
}

impl Producer for SimulatedProducer {
    type Membership = Membership;

    fn begin(&mut self) -> Result<(), String> {
        self.sent.clear();
        Ok(())
    }

    fn send(&mut self, partition: Partition, record: &Outgoing<'_>) -> Result<(), String> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let (topic, first, key, value) = match *record {
            Outgoing::Piece { first, bytes } => (Topic::Checkpoint, first, None, Some(bytes.to_vec())),
            Outgoing::Change(change) => (Topic::Sink, false, text(&change.key), change.value.clone()),
            Outgoing::Reject(reject) => (Topic::Rejects, false, text(&reject.offset.to_string()), text(reject.reason)),
        };
        let timestamp_ms = self.link.now().as_millis() as i64;
        self.sent.push((topic, partition, Stored { timestamp_ms, key, value, ..Stored::default() }, first));
        Ok(())
    }

    fn await_deliveries(&mut self) -> Result<(), String> {
        let mut waiting: Vec<_> = std::mem::take(&mut self.sent);
        // Each partition in order, partitions in any.
        while !waiting.is_empty() {
            let at = self.link.state(|state| state.dice.below(waiting.len()));
            let (topic, partition, ..) = waiting[at];
            let first = waiting.iter().position(|record| (record.0, record.1) == (topic, partition)).unwrap_or(at);
            let record = waiting.remove(first);
            self.deliver(record)?;
        }
        Ok(())
    }

    fn send_offsets(&mut self, offsets: &[Place], membership: &Membership) -> Result<(), String> {
        if offsets.is_empty() {
            return Ok(()); // nothing is sent, and nobody fenced
        }
        let mut taken = false;
        let copy = |place: &Place| Place { metadata: place.metadata.clone(), ..*place };
        let outcome = self.link.insist(("offsets", self.deadline_us()), &mut self.again(), |state| {
            if !taken {
                state.take_offsets((&self.id, self.epoch), offsets.iter().map(copy).collect(), membership)?;
                taken = true;
            }
            Ok(())
        });
        outcome.map_err(|silence| format!("the group does not take our offsets: {silence:?}"))
    }

    fn commit(&mut self) -> Answer {
        self.link.state(|state| {
            if state.harms(state.options.double_end_per_mille) {
                // The connection was lost: sent again on a new one, while the first may arrive yet.
                self.disturbed.store(true, Ordering::Relaxed);
                let delay_us = state.dice.from(0, state.options.double_end_us);
                state.later(delay_us, Later::End { id: self.id.clone(), epoch: self.epoch, commit: true });
            }
        });
        let outcome =
            self.link.insist(("commit", self.deadline_us()), &mut self.again(), |state| state.end_transaction(&self.id, self.epoch, true));
        match outcome {
            Ok(()) => Ok(std::mem::take(&mut self.first_pieces)),
            Err(silence) => Err(TransactError::Maybe(format!("{silence:?}"))),
        }
    }
}

/// See [`Transactor`]: now and then its client hangs, and goes on long after it was given up.
pub(super) struct SimulatedTransactor {
    producer: SimulatedProducer,
    grant: Arc<Grant>,
    ownership: Arc<Ownership>,
}

impl SimulatedTransactor {
    /// The call hangs somewhere; whoever waits for it gives up.
    fn hang(&self, transaction: Transaction) -> Answer {
        let link = self.producer.link.clone();
        let (patience_us, hang_us) = link.state(|state| {
            let patience_us = state.options.transaction_timeout_us * 2;
            (patience_us, state.dice.from(0, patience_us * 2))
        });
        link.say(|| format!("its client hangs for {hang_us} us"));
        let answer: Arc<Mutex<Option<Answer>>> = Arc::default();
        let (told, here) = (Arc::clone(&answer), link.clone());
        let mut hanging = Self { producer: self.producer.clone(), grant: Arc::clone(&self.grant), ownership: Arc::clone(&self.ownership) };
        let job = Box::new(move || {
            here.wait(hang_us);
            let outcome = hanging.run(&transaction);
            if let Ok(mut told) = told.lock() {
                *told = Some(outcome);
            }
        });
        link.state(|state| state.jobs.push((link.instance, job)));
        let deadline_us = link.now_us() + patience_us;
        while link.now_us() < deadline_us && !link.is_dead() {
            link.wait(5_000);
            if let Some(outcome) = answer.lock().ok().and_then(|mut answer| answer.take()) {
                return outcome;
            }
        }
        Err(TransactError::Maybe("the client hangs; it is abandoned".to_owned()))
    }

    fn run(&mut self, transaction: &Transaction) -> Answer {
        let member = SimulatedMember(self.producer.link.clone());
        let fencing = Fencing { ownership: &self.ownership, grant: &self.grant, member: &member };
        let outcome = transact(&mut self.producer, &fencing, transaction);
        self.producer.link.say(|| match &outcome {
            Ok(_) => "committed".to_owned(),
            Err(error) => error.to_string(),
        });
        outcome
    }
}

impl Transactor for SimulatedTransactor {
    fn transact(&mut self, transaction: Transaction) -> Answer {
        if self.producer.link.state(|state| state.harms(state.options.hang_per_mille)) {
            return self.hang(transaction);
        }
        self.run(&transaction)
    }

    fn is_worn(&self) -> bool {
        self.producer.disturbed.load(Ordering::Relaxed)
    }
}

/// Makes producers.
pub(super) struct SimulatedTransactors {
    pub(super) link: Link,
    pub(super) id: String,
    pub(super) ownership: Arc<Ownership>,
}

impl Time for SimulatedTransactors {
    fn now(&self) -> Duration {
        self.link.now()
    }

    fn pause(&self, duration: Duration) {
        self.link.wait(duration.as_micros() as u64);
    }
}

impl Transactors for SimulatedTransactors {
    type Transactor = SimulatedTransactor;

    fn start(&mut self, grant: Grant) -> Result<SimulatedTransactor, StartError> {
        let (timeout_us, deadline_us) = self.link.state(|state| {
            let timeout_us = state.options.transaction_timeout_us;
            (timeout_us, state.now_us + timeout_us)
        });
        let epoch = self.link.insist(("init", deadline_us), &mut || {}, |state| state.init_producer(&self.id, timeout_us));
        let epoch = epoch.map_err(|silence| StartError::Later(format!("transactions can't start: {silence:?}")))?;
        let (link, id) = (self.link.clone(), self.id.clone());
        let producer = SimulatedProducer { link, id, epoch, sent: Vec::new(), first_pieces: Vec::new(), disturbed: Arc::default() };
        Ok(SimulatedTransactor { producer, grant: Arc::new(grant), ownership: Arc::clone(&self.ownership) })
    }

    fn register(&mut self) -> Result<(), String> {
        let entry = Entry { transactional_id: self.id.clone(), ..Entry::default() };
        enter(&mut SimulatedRoll::new(self.link.clone()), &self.id, &entry)
    }

    /// It comes a while later, also from who has lost the partition since.
    fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims {
        if before.is_empty() {
            return Trims::default();
        }
        let (here, before) = (self.link.clone(), before.to_vec());
        let done = before.len() as u64;
        let job = Box::new(move || {
            here.wait(here.state(|state| state.dice.from(0, TRIM_US_MAX)));
            here.state(|state| {
                for (partition, offset) in before {
                    let log = state.log(Topic::Checkpoint, partition);
                    log.low = log.low.max(offset);
                }
            });
        });
        self.link.state(|state| state.jobs.push((self.link.instance, job)));
        Trims { done, failed: 0 }
    }
}
