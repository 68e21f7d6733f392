//! What a restore reads, from Kafka: the single questions. In which order they come, and what is waited for, says `protocol`.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{clock::Steady, context::Voice, lock, readers::Readers, settings::Settings};
use crate::log::{
    LogError, Start,
    protocol::client::{ReadFrom, Reader, Seen, Time, View},
};

/// One question to the brokers.
const ASK: Duration = Duration::from_secs(5);
/// One try to read the committed offset: it blocks while a transaction is pending, and meanwhile its owner may be found dead.
const OFFSET_TRY: Duration = Duration::from_secs(1);

/// See the module's header.
pub(super) struct KafkaReader {
    settings: Arc<Settings>,
    readers: Arc<Mutex<Readers>>,
    clock: Steady,
}

impl KafkaReader {
    /// Reads with these.
    pub(super) fn new(settings: Arc<Settings>, readers: Arc<Mutex<Readers>>) -> Self {
        Self { settings, readers, clock: Steady::default() }
    }

    fn watermarks(&self, topic: &str, partition: Partition, view: View) -> Result<(Offset, Offset), KafkaError> {
        lock(&self.readers).watermarks((topic, partition), view, ASK)
    }

    fn ask_offset(&self, partition: Partition, view: View) -> Result<Option<(Offset, String)>, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.settings.topics.source, partition);
        let list = lock(&self.readers).in_view(view).committed_offsets(list, OFFSET_TRY)?;
        let elements = list.elements();
        let Some(element) = elements.first() else { return Ok(None) };
        element.error()?;
        Ok(match element.offset() {
            Place::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        })
    }
}

impl Time for KafkaReader {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn pause(&self, duration: Duration) {
        self.clock.pause(duration);
    }
}

impl Reader for KafkaReader {
    fn committed_offset(&mut self, partition: Partition, view: View) -> Result<Option<(Offset, String)>, String> {
        self.ask_offset(partition, view).map_err(|error| error.to_string())
    }

    fn ends(&mut self, partition: Partition, view: View) -> Result<(Offset, Offset), LogError> {
        let topic = &self.settings.topics.checkpoint;
        self.watermarks(topic, partition, view)
            .map_err(|error| LogError::Unavailable(format!("the ends of {topic} [{partition}] are not known: {error}")))
    }

    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        let topic = &self.settings.topics.source;
        let unknown = |error: KafkaError| LogError::Unavailable(format!("where to start in {topic} [{partition}] is not known: {error}"));
        // Records of transactions that are still open count as not there yet, or they would be skipped.
        let (low, end) = self.watermarks(topic, partition, View::Stable).map_err(unknown)?;
        let timestamp_ms = match start {
            Start::Earliest => return Ok(low),
            Start::Latest => return Ok(end),
            Start::Timestamp(timestamp_ms) => timestamp_ms,
        };
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(topic, partition, Place::Offset(timestamp_ms.max(0))).map_err(unknown)?;
        let times = lock(&self.readers).committed.offsets_for_times(times, ASK).map_err(unknown)?;
        let elements = times.elements();
        let Some(element) = elements.first() else { return Ok(end) };
        element.error().map_err(unknown)?;
        Ok(match element.offset() {
            Place::Offset(offset) => offset,
            // No record is that young.
            _ => end,
        })
    }

    fn read(&mut self, from: ReadFrom, each: &mut dyn FnMut(Seen<'_>, Duration) -> ControlFlow<()>) -> Result<(), LogError> {
        let topic = &self.settings.topics.checkpoint;
        let refused = |error: KafkaError| LogError::Unavailable(format!("{topic} [{}] can't be read: {error}", from.partition));
        let readers = lock(&self.readers);
        let reader = readers.in_view(from.view);
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, from.partition, Place::Offset(from.offset)).map_err(refused)?;
        reader.assign(&place).map_err(refused)?;
        while look(reader, &mut |seen| each(seen, self.clock.now())).is_continue() {}
        reader.unassign().map_err(refused)
    }
}

/// One look at what is assigned.
fn look(reader: &BaseConsumer<Voice>, each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
    match reader.poll(Duration::from_millis(100)) {
        Some(Ok(record)) => each(Seen::Record(record.partition(), record.offset(), record.payload().unwrap_or_default())),
        Some(Err(KafkaError::PartitionEOF(_))) => each(Seen::End),
        Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => each(Seen::Gone),
        Some(Err(_)) | None => each(Seen::Nothing),
    }
}
