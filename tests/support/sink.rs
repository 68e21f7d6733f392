//! What a house on Kafka has published, and what it must have: the sink as a read_committed consumer sees it, and the changes that the
//! reference makes of the source, object by object.
//!
//! Assumes that the source holds reports only, and that nobody writes to it any more.
#![allow(dead_code, reason = "each program uses its part")]

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use serde_json::Value;
use statehouse::{config::Config, registry::Registry};
use statehouse_dataflows::{
    reference::Reference,
    vocabulary::{Change, Event, Moment, Name},
};

/// How long the brokers may be silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// A change as the sink shows it: state, previous state, cause, and its record's partition and offset.
pub(crate) type Shown = (Option<String>, Option<String>, String, Option<(i64, i64)>);
/// Every object's changes, in order.
pub(crate) type Changes = BTreeMap<String, Vec<Shown>>;

/// How many there are.
pub(crate) fn count(changes: &Changes) -> usize {
    changes.values().map(Vec::len).sum()
}

/// Fails, with the first object that is not as it must be, unless both are the same.
pub(crate) fn compare(published: &Changes, expected: &Changes, context: &str) {
    for (object, expected) in expected {
        assert_eq!(published.get(object), Some(expected), "{context}: changes of {object}");
    }
    assert_eq!(published.len(), expected.len(), "{context}: objects");
}

/// What the reference makes of the house's source.
pub(crate) fn expected(config: &Config) -> Changes {
    let mut reference = Reference::new(&config.plan(&Registry::new()).expect("a plan"));
    let mut changes = Changes::new();
    read(config, &config.topics().source, |record| {
        let (object, value) = (key(record), json(record));
        let text = |name: &str| value[name].as_str().expect("text");
        let event = Event::Report { agent: text("agent"), state: text("state"), ts_ms: 0, ttl_ms: None };
        let moment = Moment { partition: record.partition(), event: 0, clock_ms: 0, offset: Some(record.offset()) };
        for change in reference.apply(moment, 0, object, event) {
            push(&mut changes, object, shown(&change));
        }
    });
    changes
}

/// What the house's sink holds.
pub(crate) fn published(config: &Config) -> Changes {
    let mut changes = Changes::new();
    read(config, &config.topics().sink, |record| {
        let value = json(record);
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let place = value["source"]["partition"].as_i64().zip(value["source"]["offset"].as_i64());
        push(&mut changes, key(record), (text("state"), text("previous"), text("cause").expect("a cause"), place));
    });
    changes
}

fn push(changes: &mut Changes, object: &str, shown: Shown) {
    match changes.get_mut(object) {
        Some(shown_before) => shown_before.push(shown),
        None => _ = changes.insert(object.to_owned(), vec![shown]),
    }
}

fn shown(change: &Change) -> Shown {
    let text = |name: &Option<Name>| name.as_ref().map(ToString::to_string);
    let place = change.offset.map(|offset| (i64::from(change.partition), offset));
    (text(&change.state), text(&change.previous), change.cause.as_str().to_owned(), place)
}

/// Every committed record of the topic; each partition in order.
fn read(config: &Config, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
    let consumer = consumer(config, "reader");
    let mut places = TopicPartitionList::new();
    for partition in 0..config.kafka.partitions {
        places.add_partition_offset(topic, partition, Place::Beginning).expect("a place");
    }
    consumer.assign(&places).expect("assigned");
    let (mut ended, mut heard) = (0, Instant::now());
    while ended < config.kafka.partitions {
        assert!(heard.elapsed() < PATIENCE, "{topic} can't be read");
        match consumer.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{topic}: {error}"),
            Some(Ok(record)) => each(&record),
        }
        heard = Instant::now();
    }
}

fn key<'a>(record: &'a BorrowedMessage<'_>) -> &'a str {
    str::from_utf8(record.key().expect("a key")).expect("UTF-8")
}

fn json(record: &BorrowedMessage<'_>) -> Value {
    serde_json::from_slice(record.payload().unwrap_or_default()).expect("JSON")
}

fn consumer(config: &Config, group: &str) -> BaseConsumer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.kafka.brokers).set("group.id", group).set("isolation.level", "read_committed");
    client.set("enable.auto.commit", "false").set("enable.partition.eof", "true").set("auto.offset.reset", "error");
    client.create().expect("a consumer")
}

/// Watches how far the house has committed.
pub(crate) struct Watch {
    consumer: BaseConsumer,
    source: String,
    partitions: i32,
}

impl Watch {
    pub(crate) fn new(config: &Config) -> Self {
        Self { consumer: consumer(config, &config.house), source: config.topics().source, partitions: config.kafka.partitions }
    }

    /// How many records of the source are done with. None: not to be known now.
    pub(crate) fn committed(&self) -> Option<i64> {
        let mut places = TopicPartitionList::new();
        (0..self.partitions).for_each(|partition| _ = places.add_partition(&self.source, partition));
        let committed = self.consumer.committed_offsets(places, Duration::from_secs(5)).ok()?;
        let offsets = committed.elements().into_iter().map(|place| match place.offset() {
            Place::Offset(offset) => offset,
            _ => 0, // nothing yet
        });
        Some(offsets.sum())
    }

    /// How many records the source has.
    pub(crate) fn end(&self) -> i64 {
        let ends = (0..self.partitions).map(|partition| self.consumer.fetch_watermarks(&self.source, partition, PATIENCE));
        ends.map(|ends| ends.expect("watermarks").1).sum()
    }

    /// Waits until the house has committed all of the source.
    pub(crate) fn wait_until_applied(&self) {
        let (begun, end) = (Instant::now(), self.end());
        while self.committed() != Some(end) {
            assert!(begun.elapsed() < PATIENCE, "not applied in time: {:?} of {end}", self.committed());
            thread::sleep(Duration::from_millis(50));
        }
    }
}
