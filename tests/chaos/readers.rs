//! Raw readers of a house's topics: one of what is committed, for the judge; one of everything in the checkpoint, which sees chunks of
//! transactions that are still open.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use statehouse::{chunk, config::Config};
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

use super::{
    answers::Answer,
    instances::{Life, now_ms},
    judge::{Judge, Seen, SourceRecord, Times},
    sink::Shown,
};

/// What the committed reader is told by others.
pub(crate) struct Tidings {
    pub(crate) answers: Receiver<Answer>,
    /// Nothing is written any more: end when everything is accounted for, or at last after this long without progress.
    pub(crate) ending: Arc<AtomicBool>,
    /// Whether to keep all that was seen.
    pub(crate) keep: bool,
}

/// What it came to.
pub(crate) struct Read {
    pub(crate) judge: Judge,
    pub(crate) kept: Vec<Seen>,
    /// Checkpoint records that are committed.
    pub(crate) committed: HashSet<(Partition, Offset)>,
}

/// After so long without anything new, what is missing is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads until everything that was written is accounted for.
pub(crate) fn read(config: &Config, mut judge: Judge, tidings: &Tidings) -> Read {
    let topics = config.topics();
    let consumer = consumer(config, "read_committed");
    let all = [&topics.source, &topics.checkpoint, &topics.sink, &topics.rejects];
    assign(&consumer, &all, config.kafka.partitions);
    let (mut kept, mut committed) = (Vec::new(), HashSet::new());
    let (mut heard, mut quiet) = (Instant::now(), Instant::now());
    loop {
        let mut seen: Vec<Seen> = tidings.answers.try_iter().map(Seen::Answer).collect();
        // Errors are outages, and those are a part of it.
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(20)) {
            heard = Instant::now();
            if record.topic() == topics.checkpoint {
                committed.insert((record.partition(), record.offset()));
            }
            seen.push(understand(&topics, &record));
        }
        for seen in seen {
            if tidings.keep {
                kept.push(seen.clone());
            }
            judge.see(seen);
        }
        if !tidings.ending.load(Ordering::Relaxed) || !judge.is_even() {
            quiet = Instant::now();
        }
        // A repeated record would come last of all: some time is given to it.
        let is_over = quiet.elapsed() > Duration::from_secs(3) && heard.elapsed() > Duration::from_secs(2);
        if is_over || tidings.ending.load(Ordering::Relaxed) && heard.elapsed() > PATIENCE {
            return Read { judge, kept, committed };
        }
    }
}

fn understand(topics: &statehouse::config::Topics, record: &BorrowedMessage<'_>) -> Seen {
    let (partition, offset) = (record.partition(), record.offset());
    let foreign = |what: &str| Seen::Foreign(format!("{}/{partition}/{offset}: {what}", record.topic()));
    let key = || record.key().and_then(|key| str::from_utf8(key).ok()).unwrap_or_default().to_owned();
    let timestamp_ms = record.timestamp().to_millis().unwrap_or(-1);
    let topic = record.topic();
    if topic == topics.source {
        let value = record.payload().map(<[u8]>::to_vec);
        return Seen::Source(SourceRecord { partition, offset, timestamp_ms, key: key(), value });
    }
    if topic == topics.checkpoint {
        return match chunk::decode(record.payload().unwrap_or_default()) {
            Ok(piece) => Seen::Piece {
                header: piece.header,
                index: piece.index,
                count: piece.count,
                times: Times { made_ms: timestamp_ms, seen_ms: now_ms() },
            },
            Err(error) => foreign(&error.to_string()),
        };
    }
    if topic == topics.sink {
        let shown = match record.payload() {
            Some(value) => Shown::seen(value),
            None => removed(record),
        };
        return shown.map_or_else(|| foreign("not a change"), |shown| Seen::Sink { partition, object: key(), shown });
    }
    let place = header(record, "statehouse-source").and_then(|place| place.rsplit('/').next()?.parse().ok());
    place.map_or_else(|| foreign("not a reject"), |offset| Seen::Reject(partition, offset))
}

fn removed(record: &BorrowedMessage<'_>) -> Option<Shown> {
    let revision = header(record, "statehouse-revision")?.parse().ok()?;
    Some(Shown::removed(revision, header(record, "statehouse-previous").as_deref(), &header(record, "statehouse-cause")?))
}

fn header(record: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let mut headers = record.headers()?.iter();
    let found = headers.find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// Records of the checkpoint as they come, committed or not, and who is to be killed when one comes.
#[derive(Default)]
pub(crate) struct Tail {
    /// By partition: offset and time of each.
    records: Mutex<BTreeMap<Partition, Vec<(Offset, Millis)>>>,
    trap: Mutex<Option<Trap>>,
}

/// Kills an instance just after it wrote to one of these partitions: most likely before it commits that.
struct Trap {
    partitions: Vec<Partition>,
    life: Arc<Life>,
}

impl Tail {
    /// Reads until it is over.
    pub(crate) fn follow(&self, config: &Config, over: &AtomicBool) {
        let consumer = consumer(config, "read_uncommitted");
        assign(&consumer, &[&config.topics().checkpoint], config.kafka.partitions);
        while !over.load(Ordering::Relaxed) {
            let Some(Ok(record)) = consumer.poll(Duration::from_millis(20)) else { continue };
            if !record.payload().is_some_and(|chunk| chunk.starts_with(b"SHck")) {
                continue; // a stranger's
            }
            let timestamp_ms = record.timestamp().to_millis().unwrap_or(-1);
            if now_ms() - timestamp_ms < 3_000 {
                lock(&self.trap).take_if(|trap| trap.partitions.contains(&record.partition())).inspect(|trap| trap.life.kill());
            }
            lock(&self.records).entry(record.partition()).or_default().push((record.offset(), timestamp_ms));
        }
    }

    /// Kills this instance with a transaction open, if it writes within `patience`; else as it is.
    pub(crate) fn kill(&self, life: &Arc<Life>, partitions: &[Partition], patience: Duration) {
        *lock(&self.trap) = Some(Trap { partitions: partitions.to_vec(), life: Arc::clone(life) });
        let begun = Instant::now();
        while begun.elapsed() < patience && life.runs() {
            std::thread::sleep(Duration::from_millis(2));
        }
        *lock(&self.trap) = None;
        life.kill();
    }

    /// Whether the last that was written to one of these partitions until then was never committed.
    pub(crate) fn was_open(&self, until_ms: Millis, partitions: &[Partition], committed: &HashSet<(Partition, Offset)>) -> bool {
        let records = lock(&self.records);
        partitions.iter().any(|partition| {
            let last = records.get(partition).and_then(|records| records.iter().rev().find(|(_, timestamp_ms)| *timestamp_ms <= until_ms));
            last.is_some_and(|(offset, timestamp_ms)| until_ms - timestamp_ms < 5_000 && !committed.contains(&(*partition, *offset)))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn consumer(config: &Config, isolation: &str) -> BaseConsumer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.kafka.brokers).set("group.id", format!("chaos-{isolation}"));
    client.set("isolation.level", isolation).set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    client.set("fetch.wait.max.ms", "100").set("check.crcs", "true").set("queued.max.messages.kbytes", "16384");
    client.set("log_level", "2");
    client.create().expect("a consumer")
}

fn assign(consumer: &BaseConsumer, topics: &[&String], partitions: Partition) {
    let mut places = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions {
            places.add_partition_offset(topic, partition, Place::Beginning).expect("a place");
        }
    }
    consumer.assign(&places).expect("assigned");
}
