//! Everything of a simulated world that is shared: brokers, clients, time, and what is on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use statehouse_dataflows::vocabulary::Partition;

use super::{
    Fact, Options, Topic,
    dice::Dice,
    group::Group,
    member::Member,
    partition::{Partition as Place, Transactional},
    transactions::{Offsets, Producer},
};
use crate::log::protocol::Ownership;

/// What happens at a time of its own.
#[derive(Clone, Debug)]
pub(super) enum Later {
    /// A marker arrives: in a partition, or where offsets are.
    Mark { id: String, transaction: Transactional, place: Option<(Topic, Partition)>, commit: bool },
    /// The end of a transaction that was sent twice arrives yet.
    End { id: String, epoch: u64, commit: bool },
}

/// A process.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) alive: bool,
    pub(super) ownership: Arc<Ownership>,
    pub(super) member: Member,
    /// Reaches no broker before this.
    pub(super) cut_until_us: u64,
}

/// What a client wants to go on beside everything else.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(super) struct State {
    pub(super) options: Options,
    pub(super) now_us: u64,
    pub(super) dice: Dice,
    /// Whether chance may still do harm.
    pub(super) is_calm: bool,
    logs: BTreeMap<(Topic, Partition), Place>,
    /// The register: instance and value.
    pub(super) register: Vec<(String, Option<Vec<u8>>)>,
    pub(super) group: Group,
    pub(super) producers: BTreeMap<String, Producer>,
    pub(super) transactions: Transactional,
    pub(super) offsets: Offsets,
    pub(super) instances: Vec<Instance>,
    later: BTreeMap<(u64, u64), Later>,
    numbers: u64,
    pub(super) facts: Vec<Fact>,
    /// Of the group.
    pub(super) coordinator_away_until_us: u64,
    /// Leaders of a checkpoint partition that don't know its end yet.
    pub(super) leaderless_until_us: BTreeMap<Partition, u64>,
    /// The next transaction's markers take this much longer, at one place.
    pub(super) slow_marker_us: u64,
    /// When whoever waits now wants to be woken.
    pub(super) wake_us: Option<u64>,
    pub(super) jobs: Vec<(usize, Job)>,
    pub(super) calls: u64,
    pub(super) traced: bool,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let dice = Dice::new(options.seed);
        Self {
            options,
            now_us: 0,
            dice,
            is_calm: false,
            logs: BTreeMap::new(),
            register: Vec::new(),
            group: Group::default(),
            producers: BTreeMap::new(),
            transactions: 0,
            offsets: Offsets::default(),
            instances: Vec::new(),
            later: BTreeMap::new(),
            numbers: 0,
            facts: Vec::new(),
            coordinator_away_until_us: 0,
            leaderless_until_us: BTreeMap::new(),
            slow_marker_us: 0,
            wake_us: None,
            jobs: Vec::new(),
            calls: 0,
            traced: false,
        }
    }

    pub(super) fn say(&self, who: &str, what: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>9.3} ms  {who}: {}", self.now_us as f64 / 1_000.0, what());
        }
    }

    pub(super) fn log(&mut self, topic: Topic, partition: Partition) -> &mut Place {
        self.logs.entry((topic, partition)).or_default()
    }

    pub(super) fn later(&mut self, delay_us: u64, what: Later) {
        self.numbers += 1;
        self.later.insert((self.now_us + delay_us, self.numbers), what);
    }

    /// When the next thing happens by itself.
    pub(super) fn next_due_us(&self) -> Option<u64> {
        let tended = self.instances.iter().filter(|instance| instance.alive).map(|instance| instance.member.next_us);
        let arriving = self.later.keys().next().map(|(due_us, _)| *due_us);
        arriving.into_iter().chain(tended).chain(self.next_timeout_us()).filter(|due_us| *due_us < u64::MAX).min()
    }

    /// Time passes: what is due happens. Clients of stopped processes do nothing.
    pub(super) fn pass(&mut self, now_us: u64, stopped: &BTreeSet<usize>) {
        self.now_us = self.now_us.max(now_us);
        while let Some(due) = self.later.keys().next().copied().filter(|(due_us, _)| *due_us <= self.now_us) {
            match self.later.remove(&due) {
                Some(Later::Mark { id, transaction, place, commit }) => self.mark(&id, transaction, place, commit),
                Some(Later::End { id, epoch, commit }) => {
                    let outcome = self.end_transaction(&id, epoch, commit);
                    self.say(&id, || format!("an end of a transaction arrives once more: {outcome:?}"));
                }
                None => {}
            }
        }
        self.time_out_transactions();
        let (session_us, partitions) = (self.options.session_us, self.options.partitions);
        self.group.turn(self.now_us, session_us, partitions);
        for number in 0..self.instances.len() {
            let instance = &self.instances[number];
            if instance.alive && instance.member.next_us <= self.now_us {
                if stopped.contains(&number) {
                    self.instances[number].member.next_us = self.now_us + 5_000;
                } else {
                    self.tend(number);
                }
            }
        }
    }

    /// Markers go their own ways.
    pub(super) fn marker_delay_us(&mut self, place: Option<(Topic, Partition)>) -> u64 {
        let usual_us = self.dice.from(50, 3_000);
        let is_chosen = self.slow_marker_us > 0 && (place.is_none() || self.dice.per_mille(500));
        if is_chosen && self.dice.per_mille(600) {
            return usual_us + std::mem::take(&mut self.slow_marker_us);
        }
        usual_us
    }

    /// Whether a process reaches no broker.
    pub(super) fn is_cut_off(&self, instance: usize) -> bool {
        self.instances[instance].cut_until_us > self.now_us
    }

    /// True so many times in a thousand, while chance may do harm.
    pub(super) fn harms(&mut self, per_mille: u64) -> bool {
        let drawn = self.dice.per_mille(per_mille);
        drawn && !self.is_calm
    }
}
