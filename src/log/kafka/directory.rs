//! The directory on Kafka: a thread that follows the register from its start, and writes this instance's entry when what it tells changes,
//! or when somebody else has written over it. Nothing is written while nothing changes: the topic is compacted, so entries stay.
//!
//! Beside the flow. The commit thread writes the entry, too, before its first transaction ([`Own`] keeps the two apart).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};
use tokio::sync::watch;

use super::{
    context::Voice,
    instances::{self, KafkaRoll},
    lock,
    settings::{Settings, make},
    wake::Wake,
};
use crate::{
    config::PeerUrl,
    log::{
        Directory, LogError,
        directory::{Entry, Instances},
        protocol::{client::Roll, enter},
    },
};

/// The client's log lines are served, and what failed is tried again, this often.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// This instance's entry. One is written at a time, so that the last one written says what holds.
pub(super) struct Own {
    settings: Arc<Settings>,
    meant: Mutex<Entry>,
    written: Mutex<Written>,
    bell: Arc<Wake>,
}

struct Written {
    roll: KafkaRoll,
    /// Where the last one stands, and what it says.
    last: Option<(Offset, Entry)>,
    /// Somebody else has written over it.
    overwritten: bool,
    /// The planned end is told: nothing more is.
    ended: bool,
}

impl Own {
    pub(super) fn new(settings: Arc<Settings>, roll: KafkaRoll) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Entry {
            transactional_id: settings.transactional_id.clone(),
            started_ms: Millis::try_from(started.as_millis()).unwrap_or(Millis::MAX),
            config: Some(settings.config_digest.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Entry::default()
        };
        let written = Written { roll, last: None, overwritten: false, ended: false };
        Self { settings, meant: Mutex::new(entry), written: Mutex::new(written), bell: Arc::default() }
    }

    /// Writes the entry as it is meant now.
    ///
    /// # Errors
    /// When it is not known to be written.
    pub(super) fn write(&self) -> Result<(), String> {
        let mut written = lock(&self.written);
        if written.ended {
            return Err("this instance has ended".into());
        }
        let entry = lock(&self.meant).clone();
        enter(&mut written.roll, &self.settings.instance, &entry)?;
        (written.last, written.overwritten) = (Some((written.roll.written_at, entry)), false);
        Ok(())
    }

    /// Takes the entry away.
    fn end(&self) -> Result<(), String> {
        let mut written = lock(&self.written);
        if std::mem::replace(&mut written.ended, true) || written.last.is_none() {
            return Ok(());
        }
        written.roll.write(&self.settings.instance, None)
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut lock(&self.meant));
        self.bell.ring();
    }

    /// Hears what stands under this instance's key at this offset.
    fn heard(&self, offset: Offset, entry: Option<&Entry>) {
        let mut written = lock(&self.written);
        let is_later = written.last.as_ref().is_some_and(|(last, mine)| offset > *last && entry != Some(mine));
        written.overwritten |= is_later;
    }

    /// Whether the register does not say what is meant. An entry is first written when it has something to tell.
    fn is_due(&self) -> bool {
        let written = lock(&self.written);
        let meant = lock(&self.meant);
        let has_news = match &written.last {
            None => meant.url.is_some() || !meant.partitions.is_empty(),
            Some((_, entry)) => *entry != *meant,
        };
        !written.ended && (has_news || written.overwritten)
    }
}

/// See the module's header. Its thread ends when it is dropped.
pub(super) struct KafkaDirectory {
    own: Arc<Own>,
    view: watch::Receiver<Instances>,
    dropped: Arc<AtomicBool>,
}

impl KafkaDirectory {
    /// Begins to follow the register of a house with so many partitions.
    ///
    /// # Errors
    /// When a client or a thread can't be made.
    pub(super) fn follow(own: Arc<Own>, partitions: Partition) -> Result<Self, LogError> {
        let mut consumer: BaseConsumer<Voice> = make(&own.settings.follower(), Voice::default())?;
        let bell = own.bell.clone();
        consumer.set_nonempty_callback(move || bell.ring());
        let instances = Instances::new(&own.settings.instance, partitions);
        let (show, view) = watch::channel(instances);
        let dropped = Arc::new(AtomicBool::new(false));
        let follower = Follower { own: own.clone(), consumer, show, dropped: dropped.clone(), warned: BTreeSet::new() };
        let thread = thread::Builder::new().name("kafka-instances".into()).spawn(move || follower.run());
        thread.map_err(|error| LogError::Unavailable(format!("no thread for the instances topic: {error}")))?;
        Ok(Self { own, view, dropped })
    }
}

impl Directory for KafkaDirectory {
    fn watch(&self) -> watch::Receiver<Instances> {
        self.view.clone()
    }

    fn announce(&self, url: Option<PeerUrl>) {
        self.own.change(|entry| entry.url = url.map(|url| url.to_string()));
    }

    fn owns(&self, partitions: BTreeSet<Partition>) {
        self.own.change(|entry| entry.partitions = partitions);
    }

    fn leave(&self) {
        if let Err(error) = self.own.end() {
            tracing::warn!(error, "the other instances were not told that this one ends; whoever takes over finds out");
        }
    }
}

impl Drop for KafkaDirectory {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
        self.own.bell.ring();
    }
}

/// The thread's part.
struct Follower {
    own: Arc<Own>,
    consumer: BaseConsumer<Voice>,
    show: watch::Sender<Instances>,
    dropped: Arc<AtomicBool>,
    /// Of whose other configuration was warned.
    warned: BTreeSet<String>,
}

impl Follower {
    fn run(mut self) {
        self.begin_at_the_start();
        while !self.dropped.load(Ordering::Acquire) {
            self.read();
            if self.own.is_due()
                && let Err(error) = self.own.write()
            {
                tracing::debug!(error, "this instance's entry is not written yet");
            }
            self.own.bell.wait(Instant::now() + TEND_EVERY);
        }
    }

    fn begin_at_the_start(&self) {
        let mut all = TopicPartitionList::new();
        let topic = &self.own.settings.topics.instances;
        let assigned = all.add_partition_offset(topic, 0, Place::Beginning).and_then(|()| self.consumer.assign(&all));
        if let Err(error) = assigned {
            tracing::warn!(%error, topic, "the instances topic can't be followed");
        }
    }

    /// Takes what is there. A served log line looks like nothing.
    fn read(&mut self) {
        let mut empty = 0;
        while empty < 3 {
            match self.consumer.poll(Duration::ZERO) {
                None => empty += 1,
                Some(Ok(record)) => {
                    let Some(key) = record.key().and_then(|key| str::from_utf8(key).ok()) else { continue };
                    let entry = instances::entry(&self.own.settings, &record);
                    if record.payload().is_some() && entry.is_none() {
                        continue; // not one of ours
                    }
                    if key == self.own.settings.instance {
                        self.own.heard(record.offset(), entry.as_ref());
                    }
                    self.show.send_modify(|instances| instances.take(key, entry.map(|entry| entry.instance(key))));
                    self.warn();
                }
                // The topic was made anew.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => self.begin_at_the_start(),
                Some(Err(_)) => {} // its end, or an outage, which ends
            }
        }
    }

    fn warn(&mut self) {
        let instances = self.show.borrow();
        for other in
            instances.differing().filter(|other| !self.warned.contains(&other.id)).map(|other| other.id.clone()).collect::<Vec<_>>()
        {
            tracing::warn!(
                instance = other,
                "another instance of this house is configured differently (rules, [source], sink.format, partitioner or topics): the same \
                 reports can give other changes there; give all instances the same configuration"
            );
            self.warned.insert(other);
        }
    }
}
