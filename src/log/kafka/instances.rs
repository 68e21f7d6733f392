//! The register of instances: the compacted topic `<house>-instances` tells which transactional id each process start uses.
//!
//! An instance that dies in the middle of a transaction leaves it open until its timeout, and its partitions' offsets can't be read that
//! long. Whoever takes over ends it at once: every registered id whose instance is no member of the group (any more) is fenced, which ends
//! its transaction, and its entry is removed. Fencing one that lives after all costs it one recovery and nothing else, so an outdated
//! list of members does no harm; and without the register everything still holds, only slower.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    groups::GroupInfo,
    producer::{BaseProducer, BaseRecord, Producer, ThreadedProducer},
};
use serde::{Deserialize, Serialize};

use super::{
    context::{Deliveries, Voice},
    drop_aside,
    settings::{Settings, make},
    transactor::fence,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// An entry's value; its key is the instance.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    transactional_id: String,
    started_ms: u64,
}

/// Writes this instance's entry.
///
/// # Errors
/// When it is not known to be written.
pub(super) fn register(settings: &Settings) -> Result<(), String> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started_ms = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
    let entry = Entry { transactional_id: settings.transactional_id.clone(), started_ms };
    let value = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
    write(settings, &settings.instance, Some(&value))
}

fn write(settings: &Settings, instance: &str, value: Option<&[u8]>) -> Result<(), String> {
    let producer: ThreadedProducer<Deliveries> = make(&settings.idempotent(), Deliveries::default()).map_err(|error| error.to_string())?;
    let mut record = BaseRecord::with_opaque_to(&settings.topics.instances, 0).key(instance.as_bytes());
    if let Some(value) = value {
        record = record.payload(value);
    }
    producer.send(record).map_err(|(error, _)| format!("the instances topic does not take our entry: {error}"))?;
    let outcome = producer.context().wait(1, PATIENCE);
    drop_aside(producer);
    outcome
}

/// Reads the register on and on, and ends the dead.
pub(super) struct Register {
    settings: Arc<Settings>,
    /// By instance: its transactional id.
    entries: BTreeMap<String, String>,
    /// Whose end is done; an entry comes back at most as its own tombstone.
    ended: BTreeSet<String>,
    next_offset: i64,
}

impl Register {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, entries: BTreeMap::new(), ended: BTreeSet::new(), next_offset: 0 }
    }

    /// Ends every open transaction of instances that are no members of the group.
    ///
    /// # Errors
    /// When that can't be known or done now. Nothing depends on it but the time until offsets can be read.
    pub(super) fn end_the_dead(&mut self, reader: &BaseConsumer<Voice>) -> Result<(), String> {
        self.read_on(reader)?;
        let strangers = self.entries.keys().filter(|instance| **instance != self.settings.instance && !self.ended.contains(*instance));
        if strangers.count() == 0 {
            return Ok(());
        }
        let members = members(reader, &self.settings.house).map_err(|error| format!("the group's members are not known: {error}"))?;
        let dead = self.entries.iter().filter(|(instance, _)| {
            **instance != self.settings.instance && !members.contains(*instance) && !self.ended.contains(*instance)
        });
        for (instance, id) in dead.map(|(instance, id)| (instance.clone(), id.clone())).collect::<Vec<_>>() {
            self.end(&instance, &id)?;
        }
        Ok(())
    }

    fn end(&mut self, instance: &str, transactional_id: &str) -> Result<(), String> {
        let began = Instant::now();
        let config = self.settings.transactional(transactional_id);
        let producer: BaseProducer<Deliveries> = make(&config, Deliveries::default()).map_err(|error| error.to_string())?;
        let fenced = fence(&producer, PATIENCE).map_err(|error| format!("the transaction of {instance} can't be ended: {error}"));
        drop_aside(producer);
        fenced?;
        // Only after the fence: the entry must stand as long as there may be something to end.
        write(&self.settings, instance, None)?;
        self.ended.insert(instance.to_owned());
        tracing::info!(instance, ms = began.elapsed().as_millis(), "made sure that an earlier instance left nothing open");
        Ok(())
    }

    /// Reads to the end as of this call.
    fn read_on(&mut self, reader: &BaseConsumer<Voice>) -> Result<(), String> {
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
        let outcome = self.read_until(reader, end);
        reader.unassign().map_err(said)?;
        outcome
    }

    fn read_until(&mut self, reader: &BaseConsumer<Voice>, end: i64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.next_offset < end {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    self.next_offset = record.offset() + 1;
                    self.take(record.key(), record.payload());
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

    fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        let Some(instance) = key.and_then(|key| str::from_utf8(key).ok()) else { return };
        match value.and_then(|value| serde_json::from_slice::<Entry>(value).ok()) {
            Some(entry) => {
                // It lives (again): it registers anew after each recovery.
                self.ended.remove(instance);
                self.entries.insert(instance.to_owned(), entry.transactional_id);
            }
            None => {
                self.ended.remove(instance);
                self.entries.remove(instance);
            }
        }
    }
}

/// The client ids of the group's members.
fn members(reader: &BaseConsumer<Voice>, group: &str) -> Result<BTreeSet<String>, KafkaError> {
    let groups = reader.fetch_group_list(Some(group), PATIENCE)?;
    let members = groups.groups().iter().flat_map(GroupInfo::members);
    Ok(members.map(|member| member.client_id().to_owned()).collect())
}
