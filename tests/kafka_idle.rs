//! A house that nobody reports to, on a real broker: it writes nothing but one keep-alive a day, whatever its clock does.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::{
    board::PartitionStanding,
    house::{Surroundings, start},
    metrics::{Metrics, Staleness},
    registry::Registry,
};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;
#[path = "support/sink.rs"]
mod sink;
#[path = "support/world.rs"]
mod world;

use kafka_house::{House, PARTITIONS, PATIENCE, client};
use sink::Watch;
use world::ShiftedClock;

const HOUR_MS: u64 = 60 * 60 * 1000;
/// After so many epochs without anything in them the house counts as settled. The clock makes one every 100 ms.
const QUIET_EPOCHS: u64 = 20;

/// What is on the broker: all that a house may write to, and where its offsets are committed.
struct Broker {
    reader: BaseConsumer,
    topics: Vec<(String, i32)>,
}

impl Broker {
    fn of(house: &House) -> Self {
        let mut topics: Vec<_> = ["reports", "changes", "checkpoint", "rejects"].map(|topic| (house.topic(topic), PARTITIONS)).into();
        topics.extend([(house.topic("instances"), 1), (OFFSETS.to_owned(), 4)]); // as scripts/kafka has it
        Self { reader: client(house).set("isolation.level", "read_uncommitted").create().expect("a reader"), topics }
    }

    /// Every topic's records and markers so far.
    fn ends(&self) -> BTreeMap<&str, i64> {
        let end = |topic: &str, partition| self.reader.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks").1;
        let ends = |topic: &str, partitions| (0..partitions).map(|partition| end(topic, partition)).sum();
        self.topics.iter().map(|(topic, partitions)| (topic.as_str(), ends(topic, *partitions))).collect()
    }
}

const OFFSETS: &str = "__consumer_offsets";

fn count(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.scrape(None, Staleness { age_ms: None });
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is not counted:\n{text}"));
    line.trim().parse().expect("a number")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the house has moved its clocks on and on.
fn epochs_pass(metrics: &Metrics) {
    let before = count(metrics, "statehouse_epochs_total");
    eventually("epochs pass", || count(metrics, "statehouse_epochs_total") >= before + QUIET_EPOCHS);
}

#[test]
fn a_settled_house_writes_one_keep_alive_a_day() {
    let house = House::new();
    let config = house.config();
    let plan = Arc::new(config.plan(&Registry::new()).expect("a plan"));
    let clock = ShiftedClock::default();
    let around = Surroundings { clock: Arc::new(clock.clone()), ..Surroundings::default() };
    let metrics = Arc::clone(&around.metrics);
    let running = start(&config, &plan, house.open(), around).expect("started");
    let standing = running.standing();
    let is_live = |standing: &PartitionStanding| matches!(standing, PartitionStanding::Live { .. });
    eventually("every partition is live", || {
        let partitions = &standing.borrow().partitions;
        partitions.len() == PARTITIONS as usize && partitions.values().all(is_live)
    });
    let agent: BaseProducer = client(&house).set("partitioner", "murmur2_random").create().expect("a producer");
    for n in 0..300 {
        let value = format!(r#"{{"agent":"agent-{}","state":"{}"}}"#, n % 3, ["up", "down"][n % 2]);
        agent.send(BaseRecord::to(&house.topic("reports")).key(&format!("site-{}", n % 20)).payload(&value)).expect("sent");
    }
    agent.flush(PATIENCE).expect("delivered");
    let watch = Watch::new(&config);
    watch.wait_until_applied();

    let broker = Broker::of(&house);
    let mut settled = BTreeMap::new();
    eventually("it settles", || {
        let before = std::mem::replace(&mut settled, broker.ends());
        epochs_pass(&metrics);
        settled == before
    });
    let committed = "statehouse_transactions_total{outcome=\"committed\"}";
    let transactions = count(&metrics, committed);
    for _ in 0..2 {
        clock.forward(12 * HOUR_MS - 60_000);
        epochs_pass(&metrics);
        assert_eq!((broker.ends(), count(&metrics, committed)), (settled.clone(), transactions), "not a day yet");
    }
    clock.forward(120_000);
    eventually("it says that it lives", || count(&metrics, committed) > transactions);
    epochs_pass(&metrics);
    clock.forward(12 * HOUR_MS);
    epochs_pass(&metrics);
    assert_eq!(count(&metrics, committed), transactions + 1, "once");
    let mut expected = settled;
    // Each partition's offset, and the mark that they are committed.
    *expected.get_mut(OFFSETS).expect("it is among them") += i64::from(PARTITIONS) + 1;
    assert_eq!(broker.ends(), expected, "offsets and nothing else");
    assert_eq!(watch.committed(), Some(watch.end()), "which are the same");
    running.stop();
    running.wait().expect("a clean end");
}
