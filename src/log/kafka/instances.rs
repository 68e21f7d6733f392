//! The register of instances on Kafka: reads and writes the compacted topic `<house>-instances`, asks who is in the group, fences. What for
//! says `protocol`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    groups::GroupInfo,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ThreadedProducer},
};
use statehouse_dataflows::vocabulary::Offset;

use super::{
    clock::Steady,
    context::{Deliveries, FIRST_PIECE, Voice},
    drop_aside, lock,
    readers::Readers,
    settings::{Settings, make},
    transactor::fence,
};
use crate::log::{
    directory::Entry,
    protocol::client::{RawEntry, Roll, Time},
};

const PATIENCE: Duration = Duration::from_secs(5);
/// The first try to fence an id. The brokers say no while they end its transaction, which takes them some ten milliseconds, and the client asks
/// again after half a second only; a new client asks at once, and is done in some 40 ms. Where brokers are slow the next tries wait longer.
const FENCE_TRY: Duration = Duration::from_millis(100);
/// The header of an entry by which instances that share a secret know it.
const SEAL_HEADER: &str = "statehouse-seal";

/// The entry in a record, if it may be followed.
pub(super) fn entry(settings: &Settings, record: &BorrowedMessage<'_>) -> Option<Entry> {
    let key = str::from_utf8(record.key()?).ok()?;
    let value = record.payload()?;
    let seal = record.headers().and_then(|headers| headers.iter().find(|header| header.key == SEAL_HEADER)?.value);
    if !settings.peer_secret.admits(key, value, seal) {
        tracing::debug!(instance = key, "an entry without the seal of http.peer_secret is not followed");
        return None;
    }
    serde_json::from_slice(value).ok()
}

/// See the module's header.
pub(super) struct KafkaRoll {
    settings: Arc<Settings>,
    readers: Arc<Mutex<Readers>>,
    clock: Steady,
    next_offset: i64,
    /// Where the last entry that was written stands.
    pub(super) written_at: Offset,
}

impl KafkaRoll {
    /// Nothing read yet.
    pub(super) fn new(settings: Arc<Settings>, readers: Arc<Mutex<Readers>>) -> Self {
        Self { settings, readers, clock: Steady::default(), next_offset: 0, written_at: -1 }
    }

    fn read_until(&mut self, reader: &BaseConsumer<Voice>, end: i64, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.next_offset < end {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    self.next_offset = record.offset() + 1;
                    each((record.key(), record.payload()));
                }
                // Compaction can leave the end without records.
                Some(Err(KafkaError::PartitionEOF(_))) => self.next_offset = end,
                // Outages end or run into the deadline.
                Some(Err(_)) | None => {}
            }
            if Instant::now() > deadline {
                return Err(format!("{} was not read to its end within {PATIENCE:?}", self.settings.topics.instances));
            }
        }
        Ok(())
    }
}

impl Time for KafkaRoll {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn pause(&self, duration: Duration) {
        self.clock.pause(duration);
    }
}

impl Roll for KafkaRoll {
    fn read_on(&mut self, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<(), String> {
        let readers = self.readers.clone();
        let reader = &lock(&readers).raw;
        let topic = self.settings.topics.instances.clone();
        let said = |error: KafkaError| format!("{topic} can't be read: {error}");
        let (low, end) = reader.fetch_watermarks(&topic, 0, PATIENCE).map_err(said)?;
        self.next_offset = self.next_offset.max(low);
        if self.next_offset >= end {
            return Ok(());
        }
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&topic, 0, Place::Offset(self.next_offset)).map_err(said)?;
        reader.assign(&from).map_err(said)?;
        let outcome = self.read_until(reader, end, each);
        reader.unassign().map_err(said)?;
        outcome
    }

    fn write(&mut self, instance: &str, value: Option<&[u8]>) -> Result<(), String> {
        let settings = &self.settings;
        let producer: ThreadedProducer<Deliveries> =
            make(&settings.registrar(), Deliveries::default()).map_err(|error| error.to_string())?;
        let mut record = BaseRecord::with_opaque_to(&settings.topics.instances, FIRST_PIECE).key(instance.as_bytes());
        if let Some(value) = value {
            record = record.payload(value);
            if let Some(seal) = settings.peer_secret.seal(instance, value) {
                record = record.headers(OwnedHeaders::new().insert(Header { key: SEAL_HEADER, value: Some(&seal) }));
            }
        }
        producer.send(record).map_err(|(error, _)| format!("the instances topic does not take our entry: {error}"))?;
        let outcome = producer.context().wait(1, PATIENCE);
        if let Some((_, offset)) = producer.context().take_first_pieces().first() {
            self.written_at = *offset;
        }
        drop_aside(producer);
        outcome
    }

    /// The client ids of the group's members.
    fn members(&mut self) -> Result<BTreeSet<String>, String> {
        let groups = lock(&self.readers).raw.fetch_group_list(Some(&self.settings.house), PATIENCE);
        let groups = groups.map_err(|error| error.to_string())?;
        let members = groups.groups().iter().flat_map(GroupInfo::members);
        Ok(members.map(|member| member.client_id().to_owned()).collect())
    }

    fn fence(&mut self, transactional_id: &str) -> Result<(), String> {
        let config = self.settings.transactional(transactional_id);
        let (began, mut patience) = (Instant::now(), FENCE_TRY);
        loop {
            let producer: BaseProducer<Deliveries> = make(&config, Deliveries::default()).map_err(|error| error.to_string())?;
            let fenced = fence(&producer, patience);
            drop_aside(producer);
            match fenced {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && began.elapsed() < PATIENCE => {
                    patience = (2 * patience).min(PATIENCE);
                }
                outcome => return outcome.map_err(|error| error.to_string()),
            }
        }
    }
}
