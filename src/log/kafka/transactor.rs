//! One transactional producer on a thread of its own, so that no call of the client can hang the house: whoever asks waits a bounded time,
//! then abandons thread and producer together, and the next producer's start fences the abandoned one.
//!
//! Between the committer and the client. A transactor that failed once is of no use any more; that is the committer's to know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::BaseConsumer,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    context::{Deliveries, FIRST_PIECE, Member},
    ownership::Ownership,
    settings::{Settings, make},
};
use crate::log::{LogError, Part, RejectRecord, SinkRecord, TransactError, Transaction};

/// How long one try to start the producer may take; the caller tries again.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// What every transactor of a process needs.
pub(super) struct Grounds {
    pub(super) settings: Arc<Settings>,
    pub(super) ownership: Arc<Ownership>,
    pub(super) consumer: Arc<BaseConsumer<Member>>,
    /// Rejects longer than the topic takes are kept without their value.
    pub(super) reject_bytes_max: usize,
}

type Answer = Result<Vec<(Partition, Offset)>, TransactError>;

/// Where jobs go. Dropping it abandons the thread: it ends, and drops its producer, when its current call returns.
pub(super) struct Transactor {
    jobs: Sender<(Transaction, Sender<Answer>)>,
    patience: Duration,
    /// Raised by the client when it is disturbed.
    disturbed: Arc<AtomicBool>,
}

/// Why a transactor did not start.
pub(super) enum StartError {
    /// Trying again may help.
    Later(String),
    /// It won't.
    Never(LogError),
}

impl Transactor {
    /// Makes a producer and fences whatever used its transactional id before. One bounded try.
    pub(super) fn start(grounds: &Arc<Grounds>) -> Result<Self, StartError> {
        let (jobs, inbox) = bounded(1);
        let (started, outcome) = bounded(1);
        let here = grounds.clone();
        let disturbed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&disturbed);
        thread::Builder::new()
            .name("kafka-commit".into())
            .spawn(move || match start_producer(&here.settings, told) {
                Ok(producer) => {
                    drop(started.send(Ok(())));
                    serve(&here, &producer, &inbox);
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(|error| StartError::Later(format!("no thread for commits: {error}")))?;
        match outcome.recv_timeout(START_PATIENCE * 2) {
            // The transaction's own timeouts end every call that can be ended; twice that is a hang.
            Ok(Ok(())) => {
                disturbed.store(false, Ordering::Release); // nothing of a transaction was sent yet
                Ok(Self { jobs, patience: grounds.settings.transaction_timeout * 2, disturbed })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Later("the Kafka client hangs while it starts transactions".into())),
        }
    }

    /// Whether no further transaction may be run: the client repeats the end of one by itself when a connection is lost or an answer is
    /// late, and the first one, should it arrive yet, would end the transaction that comes next (KAFKA-17754).
    pub(super) fn is_worn(&self) -> bool {
        self.disturbed.load(Ordering::Acquire)
    }

    /// Runs one transaction. After an error the transactor must be dropped.
    pub(super) fn transact(&self, transaction: Transaction) -> Answer {
        let (answer, answered) = bounded(1);
        if self.jobs.send((transaction, answer)).is_err() {
            return Err(TransactError::Failed("the commit thread has ended".into()));
        }
        answered.recv_timeout(self.patience).unwrap_or_else(|error| {
            Err(TransactError::Maybe(match error {
                RecvTimeoutError::Timeout => format!("the Kafka client has hung for {:?}; it is abandoned", self.patience),
                RecvTimeoutError::Disconnected => "the commit thread has ended".into(),
            }))
        })
    }
}

fn serve(grounds: &Grounds, producer: &ThreadedProducer<Deliveries>, inbox: &Receiver<(Transaction, Sender<Answer>)>) {
    while let Ok((transaction, answer)) = inbox.recv() {
        let mut run = Run { grounds, producer, sent: producer.context().count() };
        let outcome = run.transact(&transaction);
        let failed = outcome.is_err();
        // Nobody there: we were abandoned.
        if answer.send(outcome).is_err() || failed {
            return;
        }
    }
}

fn start_producer(settings: &Settings, disturbed: Arc<AtomicBool>) -> Result<ThreadedProducer<Deliveries>, StartError> {
    let config = settings.transactional(&settings.transactional_id);
    let producer: ThreadedProducer<Deliveries> = make(&config, Deliveries::telling(disturbed)).map_err(StartError::Never)?;
    fence(&producer, START_PATIENCE).map_err(|error| match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::InvalidTransactionTimeout) => StartError::Never(LogError::Setting(format!(
            "kafka.transaction_timeout_ms = {}: more than the brokers allow (their transaction.max.timeout.ms); lower it",
            settings.transaction_timeout.as_millis()
        ))),
        Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) => StartError::Never(LogError::Setting(format!(
            "the brokers don't let this user run transactions: allow it WRITE and DESCRIBE on transactional ids with the prefix \"{}-\"",
            settings.house
        ))),
        _ => StartError::Later(format!("transactions can't start: {error}")),
    })?;
    Ok(producer)
}

/// Ends whatever transaction is open under this producer's id, and keeps its earlier owner from ever committing.
pub(super) fn fence(producer: &impl Producer<Deliveries>, patience: Duration) -> Result<(), KafkaError> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match producer.init_transactions(left) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {}
            outcome => return outcome,
        }
    }
}

/// One transaction on its way.
struct Run<'a> {
    grounds: &'a Grounds,
    producer: &'a ThreadedProducer<Deliveries>,
    /// Records given to the client since the producer started.
    sent: usize,
}

impl Run<'_> {
    fn transact(&mut self, transaction: &Transaction) -> Answer {
        let patience = self.grounds.settings.transaction_timeout;
        self.prepare(transaction).map_err(TransactError::Failed)?;
        self.producer.commit_transaction(patience).map_err(|error| match error {
            KafkaError::Transaction(reason) if reason.txn_requires_abort() => TransactError::Failed(reason.string()),
            other => TransactError::Maybe(other.to_string()),
        })?;
        Ok(self.producer.context().take_first_pieces())
    }

    /// Everything up to the commit itself.
    fn prepare(&mut self, transaction: &Transaction) -> Result<(), String> {
        let patience = self.grounds.settings.transaction_timeout;
        self.producer.begin_transaction().map_err(|error| error.to_string())?;
        for part in &transaction.parts {
            self.send_part(part)?;
        }
        // The client's own flush waits in ticks of 100 ms.
        self.producer.context().wait(self.sent, patience)?;
        // The last delivery is told a moment before the client counts it as done, and a flush that comes too early waits for such a tick.
        while self.producer.in_flight_count() > 0 {
            thread::yield_now();
        }
        let partitions = transaction.parts.iter().map(|part| part.partition);
        let membership = self.grounds.ownership.membership(&self.grounds.consumer, partitions)?;
        let offsets = self.offsets(transaction)?;
        self.producer
            .send_offsets_to_transaction(&offsets, &membership, patience)
            .map_err(|error| format!("the group does not take our offsets: {error}"))
    }

    fn offsets(&self, transaction: &Transaction) -> Result<TopicPartitionList, String> {
        let mut offsets = TopicPartitionList::with_capacity(transaction.parts.len());
        for part in &transaction.parts {
            let mut element = offsets.add_partition(&self.grounds.settings.topics.source, part.partition);
            element.set_offset(Place::Offset(part.next_offset)).map_err(|error| error.to_string())?;
            element.set_metadata(part.progress.to_string());
        }
        Ok(offsets)
    }

    fn send_part(&mut self, part: &Part) -> Result<(), String> {
        let topics = &self.grounds.settings.topics;
        for (i, piece) in part.pieces.iter().enumerate() {
            let mark = if i == 0 { FIRST_PIECE } else { 0 };
            self.send(BaseRecord::with_opaque_to(&topics.checkpoint, mark).payload(piece.as_slice()).partition(part.partition))?;
        }
        for change in &part.changes {
            self.send(sink_record(&topics.sink, change).partition(part.partition))?;
        }
        for reject in &part.rejects {
            self.send(reject_record(self.grounds, part.partition, reject))?;
        }
        Ok(())
    }

    fn send(&mut self, record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), String> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    // Room comes with deliveries; some are on their way, or the queue would not be full.
                    let some = self.producer.context().count() + 1;
                    self.producer.context().wait(some, self.grounds.settings.transaction_timeout)?;
                }
                Err((error, refused)) => return Err(format!("a record for {} is not taken: {error}", refused.topic)),
            }
        }
        self.sent += 1;
        Ok(())
    }
}

fn sink_record<'a>(topic: &'a str, change: &'a SinkRecord) -> BaseRecord<'a, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(topic, 0).key(change.key.as_bytes());
    if let Some(value) = &change.value {
        record = record.payload(value.as_slice());
    }
    if change.headers.is_empty() {
        return record;
    }
    let headers =
        change.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    record.headers(headers)
}

/// The record's bytes as they came; its place, its time and what was wrong in headers. Its time is not the reject's: of an old record the
/// topic's retention would soon delete the reject, and one of the far future the broker may not take.
fn reject_record<'a>(grounds: &'a Grounds, partition: Partition, reject: &'a RejectRecord) -> BaseRecord<'a, [u8], [u8], usize> {
    let topics = &grounds.settings.topics;
    let source = format!("{}/{partition}/{}", topics.source, reject.offset);
    let mut headers = OwnedHeaders::new()
        .insert(Header { key: "statehouse-reason", value: Some(reject.reason) })
        .insert(Header { key: "statehouse-detail", value: Some(&reject.detail) })
        .insert(Header { key: "statehouse-source", value: Some(&source) })
        .insert(Header { key: "statehouse-timestamp-ms", value: Some(&reject.timestamp_ms.to_string()) });
    let mut record = BaseRecord::with_opaque_to(&topics.rejects, 0).partition(partition);
    // One record that the topic does not take would fail its epoch for ever: better a reject without its value than a house that stands.
    let mut left = grounds.reject_bytes_max.saturating_sub(reject.detail.len() + source.len());
    if let Some(key) = &reject.key {
        if key.len() <= left {
            left -= key.len();
            record = record.key(key.as_slice());
        } else {
            headers = headers.insert(Header { key: "statehouse-key-left-out-bytes", value: Some(&key.len().to_string()) });
        }
    }
    if let Some(value) = &reject.value {
        if value.len() <= left {
            record = record.payload(value.as_slice());
        } else {
            headers = headers.insert(Header { key: "statehouse-value-left-out-bytes", value: Some(&value.len().to_string()) });
        }
    }
    record.headers(headers)
}
