//! Simulated Kafka: brokers and clients in memory, in a time that only moves when told, all chance from one seed. Whole histories of several
//! instances under faults run in milliseconds, and run again the same.
//!
//! The third implementation of the door to the world. What is modelled is what brokers and clients do: partitions with open transactions and
//! markers, the two coordinators, the background of a group member, requests that take time and get lost. What keeps an epoch from being lost
//! or repeated is not in here: that is the shipped [`protocol`](super), driven step by step.
//!
//! A [`Cluster`] is one world; whoever made it moves time ([`Cluster::pass`]) and lets each process go on in turn. A client that waits calls
//! what the cluster was made with, which must let the others go on and come back when it is time ([`Cluster::take_wake_us`]).
//!
//! Not modelled: the new group protocol, replicas of their own (a new leader knows all, if later), several brokers (what one of them
//! would do to some clients, a client that is cut off sees), compaction, the sizes of things.

mod dice;
mod group;
mod link;
mod member;
mod partition;
mod reading;
mod source;
mod state;
mod steps;
mod tail;
mod transactions;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

pub use self::{dice::Dice, partition::Stored};
use self::{
    link::Link,
    reading::{SimulatedReader, SimulatedRoll},
    source::SimulatedSource,
    state::{Instance, State},
    steps::SimulatedTransactors,
    tail::{SimulatedPeers, SimulatedTail},
};
use super::{
    AppendDone, AppendError, Appender, Checkpoint, Committer, Log, LogError, StandbyLog,
    directory::Alone,
    protocol::{GroupCheckpoint, GroupCommitter, Names, Ownership, Register},
};

/// A topic of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Reports in.
    Source,
    /// Chunks.
    Checkpoint,
    /// Changes out.
    Sink,
    /// What can't be used.
    Rejects,
}

/// What a world is like. Times are in microseconds, chances are times in a thousand.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of all chance.
    pub seed: u64,
    /// Of each topic.
    pub partitions: Partition,
    /// A member that is not heard of for so long is thrown out of the group.
    pub session_us: u64,
    /// Between two heartbeats.
    pub heartbeat_us: u64,
    /// A transaction may take so long.
    pub transaction_timeout_us: u64,
    /// A request without answer is given up after this.
    pub request_timeout_us: u64,
    /// A request, or its answer, is lost.
    pub lost_per_mille: u64,
    /// A request takes longer.
    pub slow_per_mille: u64,
    /// By at most so much.
    pub slow_us: u64,
    /// The end of a transaction is sent twice.
    pub double_end_per_mille: u64,
    /// And the first arrives at most so much later.
    pub double_end_us: u64,
    /// A client hangs in a transaction.
    pub hang_per_mille: u64,
    /// A broker refuses a record.
    pub refused_record_per_mille: u64,
}

/// Source offsets that were committed: what really happened, for whoever judges.
#[derive(Clone, Debug)]
pub struct Fact {
    /// When.
    pub at_us: u64,
    /// Whose.
    pub partition: Partition,
    /// The first offset not committed.
    pub next_offset: Offset,
    /// What was committed with it.
    pub metadata: String,
    /// The group's generation that was shown.
    pub generation: i32,
    /// The member that was shown.
    pub member: String,
}

/// A world. A clone is the same world.
#[derive(Clone)]
pub struct Cluster(Arc<World>);

struct World {
    state: Mutex<State>,
    others_go_on: Box<dyn Fn() + Send + Sync>,
}

impl Cluster {
    /// A world without any process yet. `others_go_on` is called by a client that waits.
    pub fn new(options: Options, others_go_on: Box<dyn Fn() + Send + Sync>) -> Self {
        Self(Arc::new(World { state: Mutex::new(State::new(options)), others_go_on }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Others go on for so long.
    pub fn wait(&self, us: u64) {
        let mut state = self.lock();
        state.wake_us = Some(state.now_us + us);
        drop(state);
        (self.0.others_go_on)();
    }

    /// When the client that waited last wants to go on.
    pub fn take_wake_us(&self) -> Option<u64> {
        self.lock().wake_us.take()
    }

    /// What clients want to go on beside everything else, and whose they are.
    #[must_use]
    pub fn take_jobs(&self) -> Vec<(usize, Box<dyn FnOnce() + Send>)> {
        std::mem::take(&mut self.lock().jobs)
    }

    /// What time it is.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.lock().now_us
    }

    /// When brokers or clients do something by themselves.
    #[must_use]
    pub fn next_due_us(&self) -> Option<u64> {
        self.lock().next_due_us()
    }

    /// It becomes this late; processes that are `stopped` notice nothing.
    pub fn pass(&self, now_us: u64, stopped: &BTreeSet<usize>) {
        self.lock().pass(now_us, stopped);
    }

    /// A new process, by its number.
    #[must_use]
    pub fn process(&self, name: &str) -> usize {
        let mut state = self.lock();
        let (name, ownership) = (name.to_owned(), Arc::new(Ownership::default()));
        let mut member = member::Member::default();
        member.next_us = u64::MAX;
        state.instances.push(Instance { name, alive: true, ownership, member, cut_until_us: 0 });
        state.instances.len() - 1
    }

    /// Opens a process's log; waits until transactions can be run.
    ///
    /// # Errors
    /// When, and only when, the process is killed meanwhile.
    pub fn open(&self, process: usize) -> Result<Log, LogError> {
        let link = Link { cluster: self.clone(), instance: process };
        let (partitions, id, ownership) = link.state(|state| {
            let instance = &state.instances[process];
            (state.options.partitions, instance.name.clone(), Arc::clone(&instance.ownership))
        });
        let transactors = SimulatedTransactors { link: link.clone(), id: id.clone(), ownership: Arc::clone(&ownership) };
        let mut committer = GroupCommitter::new(transactors, Arc::clone(&ownership));
        committer.recover(&|| !link.is_dead())?;
        let checkpoint = || -> Box<dyn Checkpoint> {
            let names = Names { house: "simulated".to_owned(), source: "source".to_owned(), checkpoint: "checkpoint".to_owned() };
            let register = Register::new(SimulatedRoll::new(link.clone()), id.clone());
            Box::new(GroupCheckpoint::new(names, Arc::clone(&ownership), SimulatedReader(link.clone()), register))
        };
        let (name, restores) = (id.clone(), checkpoint());
        let standby = StandbyLog {
            tail: Box::new(SimulatedTail::new(link.clone())),
            peers: Box::new(SimulatedPeers::new(link.clone(), id.clone())),
            checkpoint: checkpoint(),
        };
        link.state(|state| {
            let now_us = state.now_us;
            state.instances[process].member.subscribe(now_us);
        });
        Ok(Log {
            partitions,
            partition_of: Arc::new(|_| 0),
            source: Box::new(SimulatedSource::new(link, ownership)),
            committer: Box::new(committer),
            checkpoint: restores,
            more_checkpoints: Vec::new(),
            appender: Arc::new(NoAppender),
            standby: Some(standby),
            lease: None, // it tells of no clock that anybody could hold against its time
            directory: Arc::new(Alone::named(&name, partitions)),
        })
    }

    /// The process ends in the middle of whatever it does. What is on its way to brokers arrives.
    pub fn kill(&self, process: usize) {
        let mut state = self.lock();
        let instance = &mut state.instances[process];
        instance.alive = false;
        instance.ownership.clear();
        state.say(&state.instances[process].name, || "killed".to_owned());
    }

    /// Whether it was not killed.
    #[must_use]
    pub fn is_alive(&self, process: usize) -> bool {
        self.lock().instances[process].alive
    }

    /// It reaches no broker for so long.
    pub fn cut_off(&self, process: usize, us: u64) {
        let mut state = self.lock();
        let until_us = state.now_us + us;
        state.instances[process].cut_until_us = until_us;
    }

    /// The group's coordinator moves, and is not there for so long.
    pub fn move_coordinator(&self, us: u64) {
        let mut state = self.lock();
        state.coordinator_away_until_us = state.now_us + us;
    }

    /// A checkpoint partition has a new leader, which does not know its end for so long.
    pub fn change_leader(&self, partition: Partition, us: u64) {
        let mut state = self.lock();
        let until_us = state.now_us + us;
        state.leaderless_until_us.insert(partition, until_us);
    }

    /// The markers of a transaction to come reach one place so much later than the others.
    pub fn slow_marker(&self, us: u64) {
        self.lock().slow_marker_us = us;
    }

    /// All members must join again.
    pub fn rebalance(&self) {
        let mut state = self.lock();
        let now_us = state.now_us;
        state.group.rebalance(now_us);
    }

    /// Somebody else writes to a partition in a transaction, and leaves it open for so long.
    pub fn write_foreign(&self, topic: Topic, partition: Partition, us: u64) {
        let mut state = self.lock();
        let id = format!("foreign-{}", state.now_us);
        let record = Stored { value: Some(b"not of this house".to_vec()), ..Stored::default() };
        if let Ok(epoch) = state.init_producer(&id, us) {
            let _placed = state.produce((&id, epoch), topic, partition, record);
        }
    }

    /// A record outside of any transaction, as agents append theirs. Returns its place.
    pub fn append(&self, (topic, partition): (Topic, Partition), timestamp_ms: Millis, key: Option<&str>, value: Option<&[u8]>) -> Offset {
        let (key, value) = (key.map(|key| key.as_bytes().to_vec()), value.map(<[u8]>::to_vec));
        self.lock().log(topic, partition).append(Stored { timestamp_ms, key, value, ..Stored::default() })
    }

    /// Lets a test change what lies in a committed record: the last of the topic's partition that has a value. Returns its place.
    pub fn damage(&self, topic: Topic, partition: Partition, change: &mut dyn FnMut(&mut Vec<u8>)) -> Option<Offset> {
        let mut state = self.lock();
        let log = state.log(topic, partition);
        let offset = log.committed().iter().rfind(|record| record.value.is_some())?.offset;
        change(log.records[usize::try_from(offset).ok()?].value.as_mut()?);
        Some(offset)
    }

    /// The group's offset of a partition expires. Returns it.
    #[must_use]
    pub fn forget_offset(&self, partition: Partition) -> Option<(Offset, String)> {
        self.lock().offsets.committed.remove(&partition)
    }

    /// And somebody brings it back.
    pub fn set_offset(&self, partition: Partition, offset: (Offset, String)) {
        self.lock().offsets.committed.insert(partition, offset);
    }

    /// From here on chance does no harm any more.
    pub fn calm(&self) {
        let mut state = self.lock();
        state.is_calm = true;
        (state.coordinator_away_until_us, state.slow_marker_us) = (0, 0);
        state.leaderless_until_us.clear();
        state.instances.iter_mut().for_each(|instance| instance.cut_until_us = 0);
    }

    /// What is committed in a partition, up to the first open transaction.
    #[must_use]
    pub fn committed(&self, topic: Topic, partition: Partition) -> Vec<Stored> {
        self.lock().log(topic, partition).committed()
    }

    /// The group's offset of a partition, and what was committed with it.
    #[must_use]
    pub fn offset(&self, partition: Partition) -> Option<(Offset, String)> {
        self.lock().offsets.committed.get(&partition).cloned()
    }

    /// All that was committed, in order.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        self.lock().facts.clone()
    }

    /// How many transactions are open, or ending.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.lock().open_transactions()
    }

    /// How many requests there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Prints what happens.
    pub fn trace(&self) {
        self.lock().traced = true;
    }

    /// Prints a line beside it.
    pub fn say(&self, who: &str, what: impl FnOnce() -> String) {
        self.lock().say(who, what);
    }
}

/// Agents write to the source; there is nobody who asks over HTTP.
struct NoAppender;

impl Appender for NoAppender {
    fn append(&self, _: &[u8], _: Option<&[u8]>, done: AppendDone) {
        done(Err(AppendError::Failed("a simulated house has no HTTP writes".to_owned())));
    }
}
