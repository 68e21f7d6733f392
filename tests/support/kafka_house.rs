//! A house on Kafka for each test of the log, what its epochs look like, and what an ordinary client reads of them.
//!
//! Include it with `#[path = "support/kafka_house.rs"] mod kafka_house;`, beside the broker.
#![allow(unreachable_pub, dead_code, reason = "each test program includes the whole module and uses its part")]

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::mpsc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::{
    config::Config,
    log::{Log, LogError, Part, Polled, Progress, SinkRecord, Transaction, kafka},
};
use uuid::Uuid;

use crate::broker::{Broker, shared};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// For tests that wait for a lost member: kept short.
pub const SESSION: Duration = Duration::from_secs(3);
/// For all others: so long that nobody is taken for lost because the machine is busy.
pub const CALM_SESSION: Duration = Duration::from_secs(30);
/// Long, so that waiting for it shows.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
pub const PARTITIONS: i32 = 3;

/// A house of its own for each test, on the shared broker unless told otherwise.
pub struct House {
    pub name: String,
    pub brokers: String,
    pub session: Duration,
    pub transaction_timeout: Duration,
    pub kafka: String,
    pub properties: String,
}

impl House {
    pub fn new() -> Self {
        Self::on(shared())
    }

    pub fn on(broker: &Broker) -> Self {
        Self {
            name: format!("house-{}", Uuid::new_v4()),
            brokers: broker.address.clone(),
            session: CALM_SESSION,
            transaction_timeout: TRANSACTION_TIMEOUT,
            kafka: String::new(),
            properties: String::new(),
        }
    }

    pub fn toml(&self) -> String {
        format!(
            "house = '{}'\nlog = 'kafka'\n[kafka]\nbrokers = '{}'\npartitions = {PARTITIONS}\nsession_timeout_ms = {}\n\
             transaction_timeout_ms = {}\n{}\n[kafka.properties]\n{}\n",
            self.name,
            self.brokers,
            self.session.as_millis(),
            self.transaction_timeout.as_millis(),
            self.kafka,
            self.properties
        )
    }

    pub fn config(&self) -> Config {
        toml::from_str(&self.toml()).expect("a configuration")
    }

    pub fn open(&self) -> Log {
        kafka::open(&self.config()).expect("an open log")
    }

    pub fn topic(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    pub fn refusal(&self) -> String {
        let Err(error) = kafka::open_while(&self.config(), &kafka::Waiting::silent(&|| false)) else { panic!("the start must be refused") };
        error.to_string()
    }
}

/// Polls until `wanted` says that it has seen enough.
pub fn poll_until(log: &mut Log, mut wanted: impl FnMut(Polled) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let polled = log.source.poll(Duration::from_millis(50)).expect("polling never fails for an outage");
        if wanted(polled) {
            return;
        }
        assert!(Instant::now() < deadline, "what was waited for did not come");
    }
}

/// What a restore asks, as often as it asks: a broker that is slow to answer is asked again, everything else must be known at once.
pub fn known<T>(mut ask: impl FnMut() -> Result<T, LogError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(known) => return known,
            Err(LogError::Unavailable(why)) => {
                println!("asked again: {why}");
                assert!(Instant::now() < deadline, "{why}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Polls until this many partitions are ours.
pub fn await_partitions(log: &mut Log, count: usize) -> BTreeSet<i32> {
    let mut owned = BTreeSet::new();
    poll_until(log, |polled| {
        match polled {
            Polled::Assigned(partitions) => owned.extend(partitions),
            Polled::Revoked { partitions, .. } => owned.retain(|partition| !partitions.contains(partition)),
            _ => {}
        }
        owned.len() == count
    });
    owned
}

pub fn append(log: &Log, key: &str, value: Option<&str>) -> (i32, i64) {
    let (done, outcome) = mpsc::channel();
    log.appender.append(key.as_bytes(), value.map(str::as_bytes), Box::new(move |result| done.send(result).expect("the test waits")));
    outcome.recv_timeout(PATIENCE).expect("an answer").expect("appended")
}

pub fn part(partition: i32, next_offset: i64, n: u64) -> Part {
    Part {
        partition,
        next_offset,
        progress: Progress { n, digest: 7 * n, start: 0 },
        pieces: vec![format!("chunk {n} of {partition}").into_bytes()],
        changes: vec![SinkRecord {
            key: format!("object {partition}").into(),
            value: Some(format!("state {n}").into_bytes()),
            headers: vec![],
        }],
        rejects: vec![],
    }
}

pub fn epoch(next_offset: i64, n: u64) -> Transaction {
    Transaction { parts: (0..PARTITIONS).map(|partition| part(partition, next_offset, n)).collect() }
}

pub fn pieces(log: &mut Log, partition: i32) -> Vec<String> {
    let mut all = Vec::new();
    let broke = log
        .checkpoint
        .read(partition, 0, &mut |_, chunk| {
            all.push(String::from_utf8_lossy(chunk).into_owned());
            ControlFlow::Continue(())
        })
        .expect("read");
    assert!(!broke);
    all
}

/// A transaction with a chunk and a source offset for each of the first partitions, as their owner would write them. It stays open.
pub fn open_transaction(house: &House, transactional_id: &str, partitions: i32) -> BaseProducer {
    let producer: BaseProducer = client(house)
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("started");
    producer.begin_transaction().expect("begun");
    for partition in 0..partitions {
        let topic = house.topic("checkpoint");
        producer.send(BaseRecord::<(), _>::to(&topic).payload("an open chunk").partition(partition)).expect("sent");
    }
    producer.flush(PATIENCE).expect("delivered");
    // The membership of a consumer that never joined: the broker takes it unchecked.
    let stranger: BaseConsumer = client(house).set("group.id", &house.name).create().expect("a consumer");
    let mut offsets = TopicPartitionList::new();
    for partition in 0..partitions {
        offsets.add_partition_offset(&house.topic("reports"), partition, Place::Offset(99)).expect("an offset");
    }
    producer.send_offsets_to_transaction(&offsets, &stranger.group_metadata().expect("a group"), PATIENCE).expect("sent");
    producer
}

/// Everything committed in a topic, up to its true end, as an ordinary client reads it.
#[derive(Debug)]
pub struct Line {
    pub partition: i32,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, String)>,
    pub timestamp_ms: i64,
}

pub fn client(house: &House) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &house.brokers)
        .set("enable.partition.eof", "true")
        .set("group.id", format!("reader-{}", Uuid::new_v4()));
    client
}

pub fn committed(house: &House, topic: &str) -> Vec<Line> {
    let reader: BaseConsumer = client(house).create().expect("a reader");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Place::Beginning).expect("a partition");
    }
    reader.assign(&all).expect("assigned");
    let mut lines = Vec::new();
    let mut ended = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while ended.len() < PARTITIONS as usize {
        assert!(Instant::now() < deadline, "{topic} does not end");
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => lines.push(Line {
                partition: record.partition(),
                key: record.key().map(text),
                value: record.payload().map(text),
                headers: record.headers().map_or_else(Vec::new, |headers| {
                    headers.iter().map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default())).collect()
                }),
                timestamp_ms: record.timestamp().to_millis().unwrap_or(-1),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(_)) | None => {}
        }
    }
    lines
}

/// What the instances topic holds, in order of writing.
pub fn transactional_ids(house: &House) -> Vec<String> {
    let reader: BaseConsumer = client(house).create().expect("a reader");
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&house.topic("instances"), 0, Place::Beginning).expect("a partition");
    reader.assign(&all).expect("assigned");
    let mut live: Vec<(Vec<u8>, String)> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the instances topic does not end");
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => {
                let key = record.key().expect("a key").to_vec();
                live.retain(|(other, _)| *other != key);
                if let Some(value) = record.payload() {
                    let entry: serde_json::Value = serde_json::from_slice(value).expect("JSON");
                    live.push((key, entry["transactional_id"].as_str().expect("an id").to_owned()));
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return live.into_iter().map(|(_, id)| id).collect(),
            Some(Err(_)) | None => {}
        }
    }
}
