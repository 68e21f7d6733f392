//! A start on a real broker: where a first one begins, what it asks of topics, and what it refuses.

use std::time::{Duration, Instant};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::log::{LogError, Start, kafka};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;

use broker::shared;
use kafka_house::{House, PARTITIONS, PATIENCE, append, await_partitions, client, epoch, known};

#[test]
fn a_first_start_begins_where_it_is_told() {
    const FIRST_MS: i64 = 1_763_000_000_000;
    let house = House::new();
    let mut log = house.open();
    let agent: BaseProducer = client(&house).create().expect("a producer");
    for nth in 0..4 {
        let topic = house.topic("reports");
        let record = BaseRecord::to(&topic).key("o").payload("{}").partition(1).timestamp(FIRST_MS + 1_000 * nth);
        agent.send(record).expect("sent");
    }
    agent.flush(PATIENCE).expect("delivered");
    for (start, offset) in [
        (Start::Earliest, 0),
        (Start::Latest, 4),
        (Start::Timestamp(0), 0),
        (Start::Timestamp(FIRST_MS + 2_000), 2),
        (Start::Timestamp(FIRST_MS + 2_001), 3),
        (Start::Timestamp(FIRST_MS + 3_001), 4),
    ] {
        assert_eq!(known(|| log.checkpoint.start_offset(1, start)), offset, "{start:?}");
    }
}

#[test]
fn the_start_verifies_topics() {
    let mut house = House::new();
    house.kafka = "create_topics = false".into();
    let refusal = house.refusal();
    assert!(refusal.contains(&format!("--topic {} --partitions 3", house.topic("reports"))), "{refusal}");
    house.kafka.clear();
    let warnings = kafka::check(&house.config(), PATIENCE).expect("it would start");
    assert!(warnings[0].contains("will be created"), "{warnings:?}");
    drop(house.open());
    let warnings = kafka::check(&house.config(), PATIENCE).expect("it would start");
    assert!(warnings.iter().all(|warning| warning.contains("replicas")), "{warnings:?}");

    // Another house's sink has more partitions; and a sink is no checkpoint.
    let mut larger = House::new();
    larger.kafka = "replication_factor = 1".into();
    let mut config = larger.config();
    config.kafka.partitions = 5;
    drop(kafka::open(&config).expect("an open log"));
    let mut mixed = house.config();
    mixed.topics.sink = Some(larger.topic("changes"));
    let Err(error) = kafka::open(&mixed) else { panic!("refused") };
    assert!(matches!(error, LogError::Setting(_)) && error.to_string().contains("has 5 partitions, but the source"), "{error}");
    let mut mixed = house.config();
    mixed.topics.checkpoint = Some(house.topic("rejects"));
    let Err(error) = kafka::open(&mixed) else { panic!("refused") };
    assert!(error.to_string().contains("each topic of a house needs a name of its own"), "{error}");
    let other = House::new();
    drop(other.open());
    mixed.topics.checkpoint = Some(other.topic("rejects"));
    let Err(error) = kafka::open(&mixed) else { panic!("refused") };
    assert!(matches!(error, LogError::Setting(_)) && error.to_string().contains("retention.ms"), "{error}");
    let mut keyless = house.config();
    keyless.topics.rejects = Some(compacted(&house));
    let Err(error) = kafka::open(&keyless) else { panic!("refused") };
    assert!(matches!(error, LogError::Setting(_)) && error.to_string().contains("cleanup.policy=compact, but must have delete"), "{error}");
    let mut greedy = House::new();
    greedy.kafka = "replication_factor = 9".into();
    assert!(greedy.refusal().contains("kafka.replication_factor = 9"));
}

#[test]
fn a_source_that_grows_ends_the_house() {
    let mut house = House::new();
    house.properties = "'topic.metadata.refresh.interval.ms' = 200".into();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let admin: AdminClient<DefaultClientContext> = client(&house).create().expect("an admin client");
    let source = house.topic("reports");
    let grown = run(admin.create_partitions(&[NewPartitions::new(&source, 4)], &AdminOptions::new())).expect("an answer");
    assert!(grown.iter().all(Result::is_ok), "{grown:?}");
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match log.source.poll(Duration::from_millis(50)) {
            Ok(_) => assert!(Instant::now() < deadline, "nobody notices"),
            Err(error) => break error,
        }
    };
    let LogError::Setting(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("has a partition 3 now, but had 3 when") && text.contains(&house.topic("checkpoint")), "{text}");
}

fn run<T>(asked: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(asked)
}

/// A topic as a cluster makes one whose default is compaction.
fn compacted(house: &House) -> String {
    let admin: AdminClient<DefaultClientContext> = client(house).create().expect("an admin client");
    let name = house.topic("compacted");
    let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    let made = run(admin.create_topics([&topic], &AdminOptions::new())).expect("an answer");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    name
}

#[test]
fn a_broker_speaks_tls_and_must_be_who_it_says() {
    let mut house = House::new();
    house.brokers = shared().tls_address.clone();
    house.properties = format!("'security.protocol' = 'ssl'\n'ssl.ca.location' = {:?}", broker::certificate_file());
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    append(&log, "x", Some("1"));
    assert_eq!(known(|| log.checkpoint.progress(0)).map(|(offset, _)| offset), Some(1));

    // The certificate is of its own making, and nobody vouches for it.
    house.properties = "'security.protocol' = 'ssl'".into();
    let Err(error) = kafka::open(&house.config()) else { panic!("refused") };
    let said = error.to_string();
    assert!(matches!(error, LogError::Setting(_)) && said.contains("certificate") && said.contains("ssl.ca.location"), "{said}");
}

#[test]
fn brokers_that_are_away_are_waited_for() {
    let mut house = House::new();
    house.brokers = "127.0.0.1:1".into();
    let refusal = house.refusal();
    assert!(refusal.contains("127.0.0.1:1") && refusal.contains("kafka.brokers"), "{refusal}");
}
