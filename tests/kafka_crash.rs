//! The real program on a real Kafka, killed (-9) under load: an ordinary client reports, and in the end a read_committed consumer of the sink
//! must see, object by object, exactly the changes that the reference makes of the source.
//!
//! `STATEHOUSE_SEED` (a new one each time) is printed with every failure.

use std::{
    collections::BTreeMap,
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;
use statehouse::{config::Config, registry::Registry};
use statehouse_dataflows::{
    reference::Reference,
    vocabulary::{Event, Moment},
};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/program.rs"]
mod program;

use broker::shared;
use program::{Program, agent};

const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 4;
const REPORTS: u64 = 100_000;
const OBJECTS: u64 = 10_000;
const KILLS: u64 = 4;

/// A change as the sink shows it: state, previous state, cause, and its record's partition and offset.
type Shown = (Option<String>, Option<String>, String, Option<(i64, i64)>);

fn random(mut state: u64) -> impl FnMut(u64) -> u64 {
    state |= 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    }
}

fn consumer(brokers: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", group).set("isolation.level", "read_committed");
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true").set("auto.offset.reset", "error");
    config.create().expect("a consumer")
}

/// Every committed record of the topic: key, value, partition and offset; each partition in order.
fn read(brokers: &str, topic: &str) -> Vec<(String, Vec<u8>, (i32, i64))> {
    let consumer = consumer(brokers, "reader");
    let mut places = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        places.add_partition_offset(topic, partition, Place::Beginning).expect("a place");
    }
    consumer.assign(&places).expect("assigned");
    let (mut records, mut ended, begun) = (Vec::new(), 0, Instant::now());
    while ended < PARTITIONS {
        assert!(begun.elapsed() < PATIENCE, "{topic} can't be read in time");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{topic}: {error}"),
            Some(Ok(message)) => {
                let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("UTF-8");
                records.push((key, message.payload().unwrap_or_default().to_vec(), (message.partition(), message.offset())));
            }
        }
    }
    records
}

/// Sends the reports, with some pauses; the program is killed meanwhile.
fn report(brokers: &str, topic: &str, seed: u64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("partitioner", "murmur2_random").set("linger.ms", "5");
    let producer: BaseProducer = config.create().expect("a producer");
    let mut random = random(seed);
    for n in 0..REPORTS {
        let (object, agent) = (format!("site-{}", random(OBJECTS)), random(5));
        let state = ["normal", "under_attack"][random(2) as usize];
        let value = format!(r#"{{"agent":"agent-{agent}","state":"{state}","ts":{n}}}"#);
        let mut record = BaseRecord::to(topic).key(&object).payload(&value);
        while let Err((_, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(10)); // its queue is full
            record = again;
        }
        if n % 500 == 0 {
            thread::sleep(Duration::from_millis(60)); // about 8,000 a second, so that every life of the program meets some
        }
    }
    producer.flush(PATIENCE).expect("everything is delivered");
}

/// Waits until the group has committed all of the source.
fn wait_until_applied(brokers: &str, house: &str, topic: &str) {
    let (consumer, begun) = (consumer(brokers, house), Instant::now());
    let mut places = TopicPartitionList::new();
    (0..PARTITIONS).for_each(|partition| _ = places.add_partition(topic, partition));
    let is_applied = || {
        let Ok(committed) = consumer.committed_offsets(places.clone(), Duration::from_secs(5)) else { return false };
        (0..PARTITIONS).all(|partition| {
            let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks");
            committed.find_partition(topic, partition).is_some_and(|place| place.offset() == Place::Offset(end))
        })
    };
    while !is_applied() {
        assert!(begun.elapsed() < PATIENCE, "not applied in time");
        thread::sleep(Duration::from_millis(50));
    }
}

fn by_object(shown: impl IntoIterator<Item = (String, Shown)>) -> BTreeMap<String, Vec<Shown>> {
    let mut objects: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
    shown.into_iter().for_each(|(object, shown)| objects.entry(object).or_default().push(shown));
    objects
}

fn expected(config: &Config, source: Vec<(String, Vec<u8>, (i32, i64))>) -> BTreeMap<String, Vec<Shown>> {
    let mut reference = Reference::new(&config.plan(&Registry::new()).expect("a plan"));
    let mut shown = Vec::new();
    for (object, value, (partition, offset)) in source {
        let value: Value = serde_json::from_slice(&value).expect("JSON");
        let text = |name: &str| value[name].as_str().expect("text");
        let event = Event::Report { agent: text("agent"), state: text("state"), ts_ms: 0, ttl_ms: None };
        let moment = Moment { partition, event: 0, clock_ms: 0, offset: Some(offset) };
        for change in reference.apply(moment, 0, &object, event) {
            let place = change.offset.map(|offset| (i64::from(partition), offset));
            let text = |name: Option<&std::sync::Arc<str>>| name.map(ToString::to_string);
            let change = (text(change.state.as_ref()), text(change.previous.as_ref()), change.cause.as_str().to_owned(), place);
            shown.push((object.clone(), change));
        }
    }
    by_object(shown)
}

fn published(sink: Vec<(String, Vec<u8>, (i32, i64))>) -> BTreeMap<String, Vec<Shown>> {
    by_object(sink.into_iter().map(|(object, value, _)| {
        let value: Value = serde_json::from_slice(&value).expect("JSON");
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let place = value["source"]["partition"].as_i64().zip(value["source"]["offset"].as_i64());
        (object, (text("state"), text("previous"), text("cause").expect("a cause"), place))
    }))
}

#[test]
fn kills_under_load_lose_and_repeat_nothing() {
    let seed = env::var("STATEHOUSE_SEED").map_or_else(
        |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
        |text| text.parse().expect("STATEHOUSE_SEED is a number"),
    );
    let brokers = shared().address.clone();
    let house = format!("crash-{seed}");
    let toml = format!(
        "house = \"{house}\"\nlog = \"kafka\"\nworkers = 2\n[http]\nlisten = \"127.0.0.1:0\"\n[kafka]\nbrokers = \"{brokers}\"\n\
         partitions = {PARTITIONS}\nsession_timeout_ms = 3000\n[kafka.properties]\n\"heartbeat.interval.ms\" = 300\n"
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("statehouse.toml");
    std::fs::write(&file, &toml).unwrap();
    let config = Config::parse(&toml).unwrap();
    let topics = config.topics();
    let (agent, mut random, over) = (agent(), random(seed), AtomicBool::new(false));
    let mut program = Program::serve(&file);
    program.wait_until_ready(&agent); // it made the topics
    thread::scope(|scope| {
        scope.spawn(|| {
            report(&brokers, &topics.source, seed);
            over.store(true, Ordering::Relaxed);
        });
        let mut met = 0;
        for _ in 0..KILLS {
            thread::sleep(Duration::from_millis(200 + random(1500)));
            met += u64::from(!over.load(Ordering::Relaxed));
            program.kill();
            program = Program::serve(&file);
            program.wait_until_ready(&agent);
        }
        assert!(met >= 2, "STATEHOUSE_SEED={seed}: kills fell while reports came: {met}");
    });
    wait_until_applied(&brokers, &house, &topics.source);
    program.terminate();
    let expected = expected(&config, read(&brokers, &topics.source));
    let published = published(read(&brokers, &topics.sink));
    let changes = |objects: &BTreeMap<String, Vec<Shown>>| objects.values().map(Vec::len).sum::<usize>();
    println!("{} objects, {} changes, seed {seed}", published.len(), changes(&published));
    for (object, expected) in &expected {
        assert_eq!(published.get(object), Some(expected), "STATEHOUSE_SEED={seed}: changes of {object}");
    }
    assert_eq!(published.len(), expected.len(), "STATEHOUSE_SEED={seed}");
    assert!(changes(&expected) > 10_000, "much happens");
}
