//! The real program on a real Kafka, killed (-9) under load: an ordinary client reports, and in the end a read_committed consumer of the sink
//! must see, object by object, exactly the changes that the reference makes of the source.
//!
//! `STATEHOUSE_SEED` (a new one each time) is printed with every failure.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::config::Config;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/program.rs"]
mod program;
#[path = "support/sink.rs"]
mod sink;

use broker::shared;
use program::{Program, agent};
use sink::Watch;

const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 4;
const REPORTS: u64 = 100_000;
const OBJECTS: u64 = 10_000;
const KILLS: u64 = 4;

fn random(mut state: u64) -> impl FnMut(u64) -> u64 {
    state |= 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    }
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
    Watch::new(&config).wait_until_applied();
    program.terminate();
    let (expected, published) = (sink::expected(&config), sink::published(&config));
    println!("{} objects, {} changes, seed {seed}", published.len(), sink::count(&published));
    sink::compare(&published, &expected, &format!("STATEHOUSE_SEED={seed}"));
    assert!(sink::count(&expected) > 10_000, "much happens");
}
