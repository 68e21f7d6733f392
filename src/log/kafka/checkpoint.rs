//! What a restore reads: committed offsets and progress, and the checkpoint partition's committed records.
//!
//! Owned by the restore thread. Nothing waits longer than one question to the brokers ([`ASK`]) for a partition that is not ours any more,
//! which is every partition once the group is left. The order is the proof: first the committed offset, whose fetch waits until no transaction that could
//! still change it is open; only then the end of the checkpoint, asked without regard to transactions, because a transaction's markers
//! reach the checkpoint later than the offsets; and reading waits until everything before that end is resolved.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{context::Voice, instances::Register, lock, ownership::Ownership, readers::Readers, settings::Settings};
use crate::log::{Checkpoint, LogError, Progress, Start};

/// One question to the brokers.
const ASK: Duration = Duration::from_secs(5);
/// One try to read the committed offset: it blocks while a transaction is pending, and meanwhile its owner may be found dead.
const OFFSET_TRY: Duration = Duration::from_secs(1);
/// After this a caller hears that it has to ask again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at an end that does not move yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// See the module's header.
pub(super) struct KafkaCheckpoint {
    settings: Arc<Settings>,
    ownership: Arc<Ownership>,
    readers: Arc<Mutex<Readers>>,
    register: Register,
}

impl KafkaCheckpoint {
    pub(super) fn new(settings: Arc<Settings>, ownership: Arc<Ownership>, readers: Arc<Mutex<Readers>>) -> Self {
        Self { register: Register::new(settings.clone()), readers, ownership, settings }
    }

    /// The committed offset and its metadata, once nothing can change them any more.
    fn committed_offset(&mut self, partition: Partition) -> Result<Option<(Offset, String)>, LogError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check_ours(partition)?;
            if let Err(reason) = self.register.end_the_dead(&lock(&self.readers).raw) {
                tracing::warn!(reason, "lost instances' transactions can't be ended; offsets may have to wait for their timeout");
            }
            let reason = match self.ask_offset(partition) {
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            };
            tracing::info!(partition, %reason, "the committed offset is not known yet");
            if Instant::now() > deadline {
                return Err(LogError::Unavailable(format!("the committed offset of partition {partition} is not known: {reason}")));
            }
        }
    }

    fn check_ours(&self, partition: Partition) -> Result<(), LogError> {
        if self.ownership.holds(partition) {
            return Ok(());
        }
        Err(LogError::Unavailable(format!("partition {partition} is not ours any more")))
    }

    fn ask_offset(&self, partition: Partition) -> Result<Option<(Offset, String)>, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.settings.topics.source, partition);
        let list = lock(&self.readers).committed.committed_offsets(list, OFFSET_TRY)?;
        let elements = list.elements();
        let Some(element) = elements.first() else { return Ok(None) };
        element.error()?;
        Ok(match element.offset() {
            Place::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        })
    }

    /// Without a committed offset there must be no committed chunk either.
    fn check_fresh(&mut self, partition: Partition) -> Result<(), LogError> {
        let mut found = None;
        let (low, _) = self.watermarks(&lock(&self.readers).raw, partition)?;
        self.read(partition, low, &mut |offset, _| {
            found = Some(offset);
            ControlFlow::Break(())
        })?;
        let Some(offset) = found else { return Ok(()) };
        Err(LogError::Corrupt(format!(
            "partition {partition} of {} holds committed state (offset {offset}), but the group \"{}\" has no committed offset for {} [{partition}]: \
             the group's offsets have expired (offsets.retention.minutes) or were deleted, or another house uses this topic. Restore the \
             group's offsets, or start a new house with new topics",
            self.settings.topics.checkpoint, self.settings.house, self.settings.topics.source
        )))
    }

    fn watermarks(&self, client: &BaseConsumer<Voice>, partition: Partition) -> Result<(Offset, Offset), LogError> {
        let topic = &self.settings.topics.checkpoint;
        client
            .fetch_watermarks(topic, partition, ASK)
            .map_err(|error| LogError::Unavailable(format!("the ends of {topic} [{partition}] are not known: {error}")))
    }

    /// Waits until every transaction that wrote before `end` is resolved.
    fn wait_resolved(&self, readers: &Readers, partition: Partition, end: Offset) -> Result<(), LogError> {
        let began = Instant::now();
        let mut said = began;
        loop {
            self.check_ours(partition)?;
            let (_, stable) = self.watermarks(&readers.committed, partition)?;
            if stable >= end {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(LogError::Unavailable(format!(
                    "a transaction that is still open holds {} [{partition}] at offset {stable}, before its end {end}",
                    self.settings.topics.checkpoint
                )));
            }
            if said.elapsed() > ASK {
                said = Instant::now();
                tracing::warn!(partition, stable, end, "the restore waits for an open transaction on the checkpoint");
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// What is being read.
struct Span<'a> {
    topic: &'a str,
    partition: Partition,
    from: Offset,
    end: Offset,
}

impl Span<'_> {
    fn gone(&self) -> LogError {
        LogError::Corrupt(format!(
            "{} [{}] must be read from offset {}, which is not there any more: something deleted records that the state is restored from",
            self.topic, self.partition, self.from
        ))
    }
}

impl Checkpoint for KafkaCheckpoint {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        let Some((offset, metadata)) = self.committed_offset(partition)? else {
            self.check_fresh(partition)?;
            return Ok(None);
        };
        let progress = metadata.parse().map_err(|reason| {
            LogError::Corrupt(format!(
                "the group \"{}\" has an offset for {} [{partition}] that is not of this house: {reason}. Is the group used by another program?",
                self.settings.house, self.settings.topics.source
            ))
        })?;
        Ok(Some((offset, progress)))
    }

    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        let topic = &self.settings.topics.source;
        let unknown = |error: KafkaError| LogError::Unavailable(format!("where to start in {topic} [{partition}] is not known: {error}"));
        // Records of transactions that are still open count as not there yet, or they would be skipped.
        let readers = lock(&self.readers);
        let (low, end) = readers.committed.fetch_watermarks(topic, partition, ASK).map_err(unknown)?;
        let timestamp_ms = match start {
            Start::Earliest => return Ok(low),
            Start::Latest => return Ok(end),
            Start::Timestamp(timestamp_ms) => timestamp_ms,
        };
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(topic, partition, Place::Offset(timestamp_ms.max(0))).map_err(unknown)?;
        let times = readers.committed.offsets_for_times(times, ASK).map_err(unknown)?;
        let elements = times.elements();
        let Some(element) = elements.first() else { return Ok(end) };
        element.error().map_err(unknown)?;
        Ok(match element.offset() {
            Place::Offset(offset) => offset,
            // No record is that young.
            _ => end,
        })
    }

    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        let topic = self.settings.topics.checkpoint.clone();
        let readers = lock(&self.readers);
        let (low, end) = self.watermarks(&readers.raw, partition)?;
        let span = Span { topic: &topic, partition, from, end };
        if from < low {
            return Err(span.gone());
        }
        if from >= end {
            return Ok(false);
        }
        self.wait_resolved(&readers, partition, end)?;
        let refused = |error: KafkaError| LogError::Unavailable(format!("{topic} [{partition}] can't be read: {error}"));
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&topic, partition, Place::Offset(from)).map_err(refused)?;
        readers.committed.assign(&place).map_err(refused)?;
        let outcome = read_until(&readers.committed, &span, &|| self.check_ours(partition), each);
        readers.committed.unassign().map_err(refused)?;
        outcome
    }
}

/// The assigned partition's records up to `end`, of which everything is resolved: the first end-of-partition is behind all of them.
fn read_until(
    reader: &BaseConsumer<Voice>,
    span: &Span<'_>,
    check: &dyn Fn() -> Result<(), LogError>,
    each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
) -> Result<bool, LogError> {
    let mut heard = Instant::now();
    loop {
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                heard = Instant::now();
                if record.partition() != span.partition || record.offset() < span.from {
                    continue;
                }
                if record.offset() >= span.end {
                    return Ok(false);
                }
                if each(record.offset(), record.payload().unwrap_or_default()).is_break() {
                    return Ok(true);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return Err(span.gone()),
            // Outages end, or run into the patience below.
            Some(Err(_)) | None => check()?,
        }
        if heard.elapsed() > PATIENCE {
            return Err(LogError::Unavailable(format!("{} [{}] does not answer", span.topic, span.partition)));
        }
    }
}
