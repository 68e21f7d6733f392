//! The log on Kafka: a consumer group reads the source, one transactional producer commits epochs, and whoever takes over a partition
//! restores it from the checkpoint topic. The only module that names the Kafka client.
//!
//! What makes it exactly-once is the order of steps in `protocol`; here are the steps.
//!
//! What of the checkpoint no restore needs any more is deleted ([`trimmer`]). Assumes brokers of 2.5 or newer, and that nobody else writes to the
//! checkpoint and instances topics or deletes from them.

mod appender;
mod batch;
mod checkpoint;
mod clock;
mod context;
mod directory;
mod instances;
mod peers;
mod pulse;
mod readers;
mod settings;
mod source;
mod steps;
mod tail;
mod timing;
mod topics;
mod transactor;
mod trimmer;
mod wake;

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer};
use statehouse_dataflows::vocabulary::Partition;

use self::{
    appender::KafkaAppender,
    checkpoint::KafkaReader,
    context::Member,
    directory::{KafkaDirectory, Own},
    instances::KafkaRoll,
    peers::KafkaPeers,
    readers::Readers,
    settings::{Settings, make},
    source::KafkaSource,
    tail::KafkaTail,
    transactor::{Grounds, KafkaTransactors},
    wake::Wake,
};
use crate::{
    config::{Config, Partitioner},
    log::{
        Checkpoint, Committer, Log, LogError, StandbyLog,
        partitioner::{crc32_partition, murmur2_partition},
        protocol::{GroupCheckpoint, GroupCommitter, Names, Ownership, Register},
    },
};

/// Opens the log: waits for the brokers, creates or verifies the topics, starts transactions and joins the group.
///
/// # Errors
/// When a setting or a topic is not as it must be, or the brokers refuse the user. Brokers that can't be reached are waited for.
pub fn open(config: &Config) -> Result<Log, LogError> {
    open_while(config, &Waiting::silent(&|| true))
}

/// How one waits for brokers.
pub struct Waiting<'a> {
    /// Whether to go on.
    pub keep_trying: &'a dyn Fn() -> bool,
    /// Told what is waited for, and why, in a sentence.
    pub tell: &'a dyn Fn(&str),
}

impl<'a> Waiting<'a> {
    /// Nobody is told anything.
    #[must_use]
    pub fn silent(keep_trying: &'a dyn Fn() -> bool) -> Self {
        Self { keep_trying, tell: &|_| () }
    }
}

/// As [`open`], but tells what it waits for, and gives up when asked to.
///
/// # Errors
/// As [`open`], and when it gave up.
pub fn open_while(config: &Config, waiting: &Waiting<'_>) -> Result<Log, LogError> {
    let settings = Arc::new(Settings::new(config)?);
    let readers = Readers::new(&settings)?;
    let facts = topics::prepare(&settings, &readers.raw, waiting)?;
    for warning in &facts.warnings {
        tracing::warn!("{warning}");
    }
    let readers = Arc::new(Mutex::new(readers));
    let more_readers = (1..config.restore.readers).map(|_| Ok(Arc::new(Mutex::new(Readers::new(&settings)?))));
    let more_readers = more_readers.collect::<Result<Vec<_>, LogError>>()?;
    let ownership = Arc::new(Ownership::default());
    let (consumer, wake) = member(&settings, &ownership)?;
    let grounds = Grounds {
        settings: settings.clone(),
        ownership: ownership.clone(),
        consumer: consumer.clone(),
        reject_bytes_max: facts.reject_bytes_max,
    };
    let roll = || KafkaRoll::new(settings.clone(), readers.clone());
    let own = Arc::new(Own::new(settings.clone(), roll()));
    let directory = KafkaDirectory::follow(own.clone(), facts.partitions)?;
    let transactors = KafkaTransactors::new(Arc::new(grounds), own);
    let mut committer = GroupCommitter::new(transactors, ownership.clone());
    let tended = iter::once(readers.clone()).chain(more_readers.iter().cloned()).collect();
    let source = KafkaSource::new(settings.clone(), ownership.clone(), (consumer.clone(), wake), tended).of(facts.partitions);
    (waiting.tell)("the topics are as they must be; transactions are being started");
    committer.recover(waiting.keep_trying)?;
    let partition_of = partition_of(settings.partitioner, facts.partitions);
    let standby = (config.standby.copies > 0).then(|| standby(&settings, &ownership)).transpose()?;
    let more_checkpoints = more_readers.iter().map(|readers| checkpoint(&settings, &ownership, readers)).collect();
    let checkpoint = checkpoint(&settings, &ownership, &readers);
    let appender = KafkaAppender::new(settings.clone(), partition_of.clone())?;
    // Last, so that nobody hands us partitions while we can't take them.
    consumer.context().pulse.begin();
    consumer
        .subscribe(&[&settings.topics.source])
        .map_err(|error| LogError::Setting(format!("topics.source = {:?}: {error}", settings.topics.source)))?;
    Ok(Log {
        partitions: facts.partitions,
        partition_of,
        source: Box::new(source),
        committer: Box::new(committer),
        checkpoint,
        more_checkpoints,
        appender: Arc::new(appender),
        standby,
        lease: Some(settings.session_timeout),
        directory: Arc::new(directory),
    })
}

fn checkpoint(settings: &Arc<Settings>, ownership: &Arc<Ownership>, readers: &Arc<Mutex<Readers>>) -> Box<dyn Checkpoint> {
    let roll = KafkaRoll::new(settings.clone(), readers.clone());
    Box::new(GroupCheckpoint::new(
        names(settings),
        ownership.clone(),
        KafkaReader::new(settings.clone(), readers.clone()),
        Register::new(roll, settings.instance.clone()),
    ))
}

/// With readers of its own: those of the restores are busy while a partition is restored.
fn standby(settings: &Arc<Settings>, ownership: &Arc<Ownership>) -> Result<StandbyLog, LogError> {
    let readers = Arc::new(Mutex::new(Readers::new(settings)?));
    Ok(StandbyLog {
        tail: Box::new(KafkaTail::new(settings, readers.clone())?),
        peers: Box::new(KafkaPeers::new(settings.clone(), readers.clone())),
        checkpoint: checkpoint(settings, ownership, &readers),
    })
}

/// Looks whether every client can be made as configured, without connecting to anybody: secrets are read, properties tried.
///
/// # Errors
/// As [`open`], as far as that is known without brokers.
pub fn check_settings(config: &Config) -> Result<(), LogError> {
    Settings::new(config)?.try_out()
}

/// Looks whether [`open`] would succeed, without changing anything. Waits at most `patience` for the brokers. Returns warnings.
///
/// # Errors
/// As [`open`], and when the brokers did not answer in time.
pub fn check(config: &Config, patience: Duration) -> Result<Vec<String>, LogError> {
    let settings = Arc::new(Settings::new(config)?);
    let readers = Readers::new(&settings)?;
    let deadline = Instant::now() + patience;
    topics::check(&settings, &readers.raw, &Waiting::silent(&|| Instant::now() < deadline))
}

fn member(settings: &Settings, ownership: &Arc<Ownership>) -> Result<(Arc<BaseConsumer<Member>>, Arc<Wake>), LogError> {
    let mut consumer: BaseConsumer<Member> = make(&settings.member(), Member::new(ownership.clone()))?;
    let wake = Arc::new(Wake::default());
    let bell = wake.clone();
    consumer.set_nonempty_callback(move || bell.ring());
    Ok((Arc::new(consumer), wake))
}

fn names(settings: &Settings) -> Names {
    let (house, topics) = (settings.house.clone(), &settings.topics);
    Names { house, source: topics.source.clone(), checkpoint: topics.checkpoint.clone() }
}

fn partition_of(partitioner: Partitioner, partitions: Partition) -> Arc<dyn Fn(&[u8]) -> Partition + Send + Sync> {
    match partitioner {
        Partitioner::Murmur2 => Arc::new(move |key| murmur2_partition(key, partitions)),
        Partitioner::Crc32 => Arc::new(move |key| crc32_partition(key, partitions)),
    }
}

/// A lock whose data is sound at every moment, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops a client where its last requests hold up nobody.
fn drop_aside<T: Send + 'static>(client: T) {
    // Without a thread to be had it is dropped here.
    drop(thread::Builder::new().name("kafka-drop".into()).spawn(move || drop(client)));
}
