//! Reports in: the group member that reads the source.
//!
//! Owned by the pump's thread. Each partition has a queue of its own, so a batch is one partition's records, and while the house is held
//! the queues simply fill to their bound. Rebalances wait: the group's step is answered when the pump says so ([`Source::release`]); what
//! comes is assigned at once, but paused, and read only from where [`Source::begin`] says.
//!
//! Known limit: the client tells of failing fetches by errors that name no partition, so one broker's failure makes all partitions
//! [`Polled::Behind`] for a moment, also those that it does not lead.

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    batch::{Begin, Drained, drain},
    context::{Member, Rebalance, numbers},
    lock,
    readers::Readers,
    settings::Settings,
    wake::Wake,
};
use crate::log::{LogError, Polled, Source, protocol::Ownership};

/// The client answers a seek at once, unless it is still busy assigning.
const SEEK_PATIENCE: Duration = Duration::from_secs(1);
/// While a partition waits to begin, it is tried again this often.
const BEGIN_EVERY: Duration = Duration::from_millis(5);
/// A step of a rebalance that the client refused is tried again after this.
const REBALANCE_RETRY: Duration = Duration::from_millis(200);
const TEND_EVERY: Duration = Duration::from_secs(5);
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Consumers that must not be closed: closing while the coordinator is away crashes this version of the client.
static GRAVEYARD: Mutex<Vec<Arc<BaseConsumer<Member>>>> = Mutex::new(Vec::new());

/// See the module's header.
pub(super) struct KafkaSource {
    settings: Arc<Settings>,
    ownership: Arc<Ownership>,
    consumer: Arc<BaseConsumer<Member>>,
    /// To be tended.
    readers: Vec<Arc<Mutex<Readers>>>,
    /// Of the assigned partitions.
    queues: BTreeMap<Partition, PartitionQueue<Member>>,
    /// The partitions that were begun.
    reading: BTreeMap<Partition, Reading>,
    ready: VecDeque<Polled>,
    wake: Arc<Wake>,
    /// A step of a rebalance that the client refused to take, and when to try again.
    refused: Option<(Rebalance, Instant)>,
    /// As many as the source had at the start, and the house's other topics have.
    partitions: Partition,
    /// Revoked, and still being committed.
    unreleased: Vec<Partition>,
    /// Whose turn it is to be drained first.
    turn: Partition,
    held: bool,
    /// Whether the last that was heard of the brokers was trouble.
    troubled: bool,
    tended: Instant,
}

/// A partition that was begun.
struct Reading {
    /// Not until the client was able to seek.
    started: bool,
    next_offset: Offset,
    /// Whether the last fetch answered at the end.
    caught_up: bool,
    /// Whether the pump knows that.
    told: bool,
}

impl Reading {
    /// Nothing is waiting.
    fn at_end(&mut self, partition: Partition) -> Polled {
        (self.caught_up, self.told) = (true, true);
        Polled::CaughtUp(partition)
    }
}

impl KafkaSource {
    pub(super) fn new(
        settings: Arc<Settings>,
        ownership: Arc<Ownership>,
        member: (Arc<BaseConsumer<Member>>, Arc<Wake>),
        readers: Vec<Arc<Mutex<Readers>>>,
    ) -> Self {
        let (consumer, wake) = member;
        Self {
            settings,
            ownership,
            consumer,
            readers,
            queues: BTreeMap::new(),
            reading: BTreeMap::new(),
            ready: VecDeque::new(),
            wake,
            refused: None,
            partitions: Partition::MAX,
            unreleased: Vec::new(),
            turn: 0,
            held: false,
            troubled: false,
            tended: Instant::now(),
        }
    }

    /// So many partitions has the house, and others are refused.
    pub(super) fn of(mut self, partitions: Partition) -> Self {
        self.partitions = partitions;
        self
    }

    /// Serves what concerns the group and the client as a whole.
    fn serve_group(&mut self) -> Result<(), LogError> {
        // An empty answer may also mean that a log line was served, with something else behind it.
        let mut empty = 0;
        while empty < 3 {
            match self.consumer.poll(Duration::ZERO) {
                None => empty += 1,
                Some(Ok(record)) => {
                    let partition = rdkafka::Message::partition(&record);
                    drop(record);
                    self.stray(partition)?;
                }
                Some(Err(error)) => self.hear(&error, None)?,
            }
            while let Some(rebalance) = self.next_rebalance() {
                empty = 0;
                self.rebalance(&rebalance).inspect_err(|_| self.refused = Some((rebalance, Instant::now() + REBALANCE_RETRY)))?;
            }
        }
        Ok(())
    }

    /// Steps are answered in order: the others wait for one that was refused.
    fn next_rebalance(&mut self) -> Option<Rebalance> {
        match self.refused.take() {
            None => self.consumer.context().next_rebalance(),
            Some((rebalance, again)) if again <= Instant::now() => Some(rebalance),
            waiting => {
                self.refused = waiting;
                None
            }
        }
    }

    fn rebalance(&mut self, rebalance: &Rebalance) -> Result<(), LogError> {
        match rebalance {
            Rebalance::Assign(list) => {
                self.check(&numbers(list))?;
                self.assign(list.clone())?;
                self.ready.push_back(Polled::Assigned(numbers(list)));
            }
            Rebalance::Revoke { partitions, lost } => {
                let partitions = numbers(partitions);
                if partitions.is_empty() {
                    self.consumer.incremental_unassign(&TopicPartitionList::new()).map_err(refused)?;
                } else {
                    self.unreleased.extend(&partitions);
                    self.ready.push_back(Polled::Revoked { partitions, lost: *lost });
                }
            }
        }
        Ok(())
    }

    /// A partition that came later has no checkpoint to restore from or to write to.
    fn check(&self, partitions: &[Partition]) -> Result<(), LogError> {
        let Some(new) = partitions.iter().find(|partition| **partition >= self.partitions) else { return Ok(()) };
        Err(LogError::Setting(format!(
            "the source {} has a partition {new} now, but had {} when this house started, and so have its other topics: give {}, {} and {} as \
             many partitions as the source has, and start again",
            self.settings.topics.source,
            self.partitions,
            self.settings.topics.sink,
            self.settings.topics.checkpoint,
            self.settings.topics.rejects
        )))
    }

    /// Assigns, but reads nothing before `begin`. Paused *before* the client starts it, and started at an offset that is none of the logical
    /// ones: for those the client asks the broker, and an answer that comes after the seek moves the position once more.
    fn assign(&mut self, mut list: TopicPartitionList) -> Result<(), LogError> {
        for partition in numbers(&list) {
            if self.queues.contains_key(&partition) {
                continue; // tried before, and refused then
            }
            // Also makes the partition known to the client, or it could not be paused yet.
            let topic = &self.settings.topics.source;
            let queue = self.consumer.split_partition_queue(topic, partition);
            let mut queue = queue.ok_or_else(|| LogError::Setting(format!("{topic} is no possible topic name")))?;
            let wake = self.wake.clone();
            queue.set_nonempty_callback(move || wake.ring());
            self.queues.insert(partition, queue);
        }
        self.consumer.pause(&list).map_err(refused)?;
        list.set_all_offsets(Place::Offset(0)).map_err(refused)?;
        self.consumer.incremental_assign(&list).map_err(refused)
    }

    /// A record that came by the common queue although its partition has its own: read again from the right place.
    fn stray(&mut self, partition: Partition) -> Result<(), LogError> {
        let Some(reading) = self.reading.get(&partition).filter(|reading| reading.started) else { return Ok(()) };
        tracing::debug!(partition, "a record came by the wrong queue; reading it again");
        let next_offset = reading.next_offset;
        self.read_again(partition, next_offset)
    }

    /// Reads on from `offset`. Where the client can't seek now, the partition waits to begin until it can: else what was skipped would be
    /// lost, or an end never told.
    fn read_again(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        let sought = self.seek(partition, offset)?;
        if let Some(reading) = self.reading.get_mut(&partition) {
            reading.started &= sought;
        }
        Ok(())
    }

    /// Whether the client did it; it can't yet while it is busy assigning.
    fn seek(&self, partition: Partition, offset: Offset) -> Result<bool, LogError> {
        match self.consumer.seek(&self.settings.topics.source, partition, Place::Offset(offset), SEEK_PATIENCE) {
            Ok(()) => Ok(true),
            Err(error @ KafkaError::Seek(_)) => {
                tracing::debug!(partition, offset, "seek: {error}");
                Ok(false)
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Starts what waits to begin. Whether something still does.
    fn start_begun(&mut self) -> Result<bool, LogError> {
        let waiting = self.reading.iter().filter(|(_, reading)| !reading.started);
        let waiting = waiting.map(|(partition, reading)| (*partition, reading.next_offset)).collect::<Vec<_>>();
        let mut left = false;
        for (partition, offset) in waiting {
            if !self.seek(partition, offset)? {
                left = true;
                continue;
            }
            self.consumer.resume(&self.list(&[partition])).map_err(refused)?;
            if let Some(reading) = self.reading.get_mut(&partition) {
                reading.started = true;
            }
        }
        Ok(left)
    }

    /// One batch of the next partition that has something.
    fn next_batch(&mut self) -> Result<Option<Polled>, LogError> {
        let (before, from): (Vec<_>, Vec<_>) = self.reading.keys().copied().partition(|partition| *partition < self.turn);
        for partition in from.into_iter().chain(before) {
            let Some(reading) = self.reading.get_mut(&partition) else { continue };
            let Some(queue) = self.queues.get(&partition).filter(|_| reading.started) else { continue };
            let from = Begin { partition, offset: reading.next_offset };
            let Drained { batch, end } = drain(queue, from, self.settings.agent_header.as_deref());
            if let Some(last) = batch.records.last() {
                reading.next_offset = last.offset + 1;
                reading.caught_up = false;
                self.troubled = false;
            }
            match end {
                // The client tells an end once, the pump must hear of it again after a hold.
                None if reading.caught_up && !reading.told => self.ready.push_back(reading.at_end(partition)),
                None => {}
                Some(KafkaError::PartitionEOF(_)) => {
                    self.troubled = false;
                    self.ready.push_back(reading.at_end(partition));
                }
                Some(error) => self.hear(&error, Some(partition))?,
            }
            if !batch.records.is_empty() {
                self.turn = partition + 1;
                return Ok(Some(Polled::Records(batch)));
            }
        }
        Ok(None)
    }

    /// An error of the client: an outage unless it says otherwise.
    fn hear(&mut self, error: &KafkaError, partition: Option<Partition>) -> Result<(), LogError> {
        match (error, partition) {
            (KafkaError::PartitionEOF(_), _) => Ok(()),
            (KafkaError::MessageConsumptionFatal(reason), _) => Err(LogError::Corrupt(format!("the Kafka client has given up: {reason}"))),
            (KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset), Some(partition)) => Err(self.gone(partition)),
            (KafkaError::MessageConsumption(RDKafkaErrorCode::InvalidSessionTimeout), _) => Err(LogError::Setting(format!(
                "kafka.session_timeout_ms = {}: the brokers don't take it; set it between their group.min.session.timeout.ms and \
                 group.max.session.timeout.ms",
                self.settings.session_timeout.as_millis()
            ))),
            (KafkaError::MessageConsumption(RDKafkaErrorCode::InconsistentGroupProtocol), _) => Err(LogError::Setting(format!(
                "house = {:?}: the group of that name has members of another kind; end them, or name the house otherwise",
                self.settings.house
            ))),
            _ => {
                self.troubled = true;
                self.fall_behind()
            }
        }
    }

    fn gone(&self, partition: Partition) -> LogError {
        let topic = &self.settings.topics.source;
        let offset = self.reading.get(&partition).map_or(-1, |reading| reading.next_offset);
        LogError::Corrupt(format!(
            "{topic} [{partition}] must be read on from offset {offset}, which is not there (any more): the topic's retention has deleted \
             reports before they were read, or the topic was made anew. Lengthen its retention.ms, and start a new house to go on"
        ))
    }

    fn fall_behind(&mut self) -> Result<(), LogError> {
        let fallen = self.reading.iter_mut().filter(|(_, reading)| reading.caught_up);
        let fallen = fallen.map(|(partition, reading)| {
            reading.caught_up = false;
            (*partition, reading.next_offset)
        });
        for (partition, offset) in fallen.collect::<Vec<_>>() {
            self.ready.push_back(Polled::Behind(partition));
            // The client tells an end once; asked anew, it tells it again as soon as a fetch succeeds.
            self.read_again(partition, offset)?;
        }
        Ok(())
    }

    /// Idle clients queue their log lines until somebody polls them.
    fn tend(&mut self) {
        if self.tended.elapsed() < TEND_EVERY {
            return;
        }
        self.tended = Instant::now();
        self.readers.iter().filter_map(|readers| readers.try_lock().ok()).for_each(|readers| readers.tend());
    }

    /// Steps of a rebalance that wait for an answer would hold up the close.
    fn answer_all(&mut self) -> Result<(), KafkaError> {
        if !self.unreleased.is_empty() {
            self.consumer.incremental_unassign(&self.list(&self.unreleased))?;
        }
        let refused = self.refused.take().map(|(rebalance, _)| rebalance);
        let waiting = iter::from_fn(|| self.consumer.context().next_rebalance());
        for rebalance in refused.into_iter().chain(waiting) {
            match rebalance {
                Rebalance::Assign(list) => self.consumer.incremental_assign(&list)?,
                Rebalance::Revoke { partitions, .. } => self.consumer.incremental_unassign(&partitions)?,
            }
        }
        Ok(())
    }

    fn list(&self, partitions: &[Partition]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.settings.topics.source, *partition);
        }
        list
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        let deadline = Instant::now() + wait;
        self.tend();
        loop {
            self.serve_group()?;
            let waiting = self.start_begun()?;
            if let Some(polled) = self.ready.pop_front() {
                return Ok(polled);
            }
            if !self.held
                && let Some(batch) = self.next_batch()?
            {
                return Ok(batch);
            }
            if let Some(polled) = self.ready.pop_front() {
                return Ok(polled);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(Polled::Idle);
            }
            self.wake.wait(if waiting { deadline.min(now + BEGIN_EVERY) } else { deadline });
        }
    }

    fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        self.reading.insert(partition, Reading { started: false, next_offset: offset, caught_up: false, told: false });
        self.start_begun().map(drop)
    }

    fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
        self.reading.remove(&partition);
        self.ready.retain(|polled| !matches!(polled, Polled::CaughtUp(other) | Polled::Behind(other) if *other == partition));
        // Spares fetches for nothing; what comes all the same is not read, and the next begin seeks.
        if let Err(error) = self.consumer.pause(&self.list(&[partition])) {
            tracing::debug!(partition, "pause: {error}");
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError> {
        self.ownership.remove(partitions);
        self.reading.retain(|partition, _| !partitions.contains(partition));
        self.queues.retain(|partition, _| !partitions.contains(partition));
        self.consumer.incremental_unassign(&self.list(partitions)).map_err(refused)?;
        self.unreleased.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    fn hold(&mut self, hold: bool) -> Result<(), LogError> {
        self.held = hold;
        self.ready.retain(|polled| !matches!(polled, Polled::CaughtUp(_)));
        self.reading.values_mut().for_each(|reading| reading.told = false);
        Ok(())
    }

    /// Exact where the last fetch answered at the end; otherwise as the client's last statistics had it.
    fn end(&self, partition: Partition) -> Option<Offset> {
        let reading = self.reading.get(&partition)?;
        if reading.caught_up {
            return Some(reading.next_offset);
        }
        let end = self.consumer.context().end(partition)?;
        Some(end.max(reading.next_offset))
    }

    fn heard(&mut self) -> Option<Instant> {
        self.consumer.context().pulse.take()
    }

    fn leave(&mut self) {
        self.reading.clear();
        self.queues.clear();
        let context = self.consumer.context();
        context.close();
        self.ownership.clear();
        if self.troubled {
            lock(&GRAVEYARD).push(self.consumer.clone());
            return;
        }
        if let Err(error) = self.answer_all().and_then(|()| self.consumer.close_queue()) {
            tracing::debug!("while leaving the group: {error}");
        }
        let deadline = Instant::now() + LEAVE_PATIENCE;
        while !self.consumer.closed() && Instant::now() < deadline {
            self.consumer.poll(Duration::from_millis(20));
        }
        if !self.consumer.closed() {
            lock(&GRAVEYARD).push(self.consumer.clone());
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        if !self.consumer.closed() {
            self.leave();
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: KafkaError) -> LogError {
    LogError::Unavailable(format!("the Kafka client refuses: {error}"))
}
