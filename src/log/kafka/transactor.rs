//! One transactional producer on a thread of its own, so that no call of the client can hang the house: whoever asks waits a bounded time,
//! then abandons thread and producer together, and the next producer's start fences the abandoned one.
//!
//! Between the committer and the client. A transactor that failed once is of no use any more; that is the committer's to know. One that was
//! abandoned may still do what it has begun, but takes no membership any more: its grant is over.

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
    consumer::BaseConsumer,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{Producer, ThreadedProducer},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    clock::Steady,
    context::{Deliveries, Member},
    directory::Own,
    settings::{Settings, make},
    steps::Steps,
    timing::given_up_after,
    trimmer::Trimmer,
};
use crate::log::{
    LogError, TransactError, Transaction, Trims,
    protocol::{
        Fencing, Grant, Ownership,
        client::{StartError, Time, Transactor, Transactors},
        transact,
    },
};

/// How long the first try to start a producer may take; the caller tries again.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// Each further try may take twice as long, up to this: brokers that are slow or far away are reached in the end.
const START_PATIENCE_MAX: Duration = Duration::from_secs(12);

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
pub(super) struct KafkaTransactor {
    jobs: Sender<(Transaction, Sender<Answer>)>,
    patience: Duration,
    /// Raised by the client when it is disturbed.
    disturbed: Arc<AtomicBool>,
}

/// Makes them.
pub(super) struct KafkaTransactors {
    pub(super) grounds: Arc<Grounds>,
    own: Arc<Own>,
    clock: Steady,
    /// For the next try to start.
    start_patience: Duration,
    trimmer: Trimmer,
}

impl KafkaTransactors {
    pub(super) fn new(grounds: Arc<Grounds>, own: Arc<Own>) -> Self {
        let trimmer = Trimmer::new(Arc::clone(&grounds.settings));
        Self { grounds, own, clock: Steady::default(), start_patience: START_PATIENCE, trimmer }
    }
}

impl Time for KafkaTransactors {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn pause(&self, duration: Duration) {
        self.clock.pause(duration);
    }
}

impl Transactors for KafkaTransactors {
    type Transactor = KafkaTransactor;

    fn start(&mut self, grant: Grant) -> Result<KafkaTransactor, StartError> {
        let (jobs, inbox) = bounded(1);
        let (started, outcome) = bounded(1);
        let here = self.grounds.clone();
        let disturbed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&disturbed);
        let patience = self.start_patience;
        self.start_patience = (patience * 2).min(START_PATIENCE_MAX);
        thread::Builder::new()
            .name("kafka-commit".into())
            .spawn(move || match start_producer(&here.settings, told, patience) {
                Ok(producer) => {
                    drop(started.send(Ok(())));
                    serve(&here, &grant, &producer, &inbox);
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(|error| StartError::Later(format!("no thread for commits: {error}")))?;
        match outcome.recv_timeout(patience * 2) {
            Ok(Ok(())) => {
                self.start_patience = START_PATIENCE;
                disturbed.store(false, Ordering::Release); // nothing of a transaction was sent yet
                Ok(KafkaTransactor { jobs, patience: given_up_after(self.grounds.settings.transaction_timeout), disturbed })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Later("the Kafka client hangs while it starts transactions".into())),
        }
    }

    fn register(&mut self) -> Result<(), String> {
        self.own.write()
    }

    fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims {
        self.trimmer.trim(before)
    }
}

impl Transactor for KafkaTransactor {
    fn transact(&mut self, transaction: Transaction) -> Answer {
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

    fn is_worn(&self) -> bool {
        self.disturbed.load(Ordering::Acquire)
    }
}

fn serve(grounds: &Grounds, grant: &Grant, producer: &ThreadedProducer<Deliveries>, inbox: &Receiver<(Transaction, Sender<Answer>)>) {
    let fencing = Fencing { ownership: &grounds.ownership, grant, member: &*grounds.consumer };
    while let Ok((transaction, answer)) = inbox.recv() {
        let mut steps = Steps { grounds, producer, sent: producer.context().count() };
        let outcome = transact(&mut steps, &fencing, &transaction);
        let failed = outcome.is_err();
        // Nobody there: we were abandoned.
        if answer.send(outcome).is_err() || failed {
            return;
        }
    }
}

fn start_producer(settings: &Settings, disturbed: Arc<AtomicBool>, patience: Duration) -> Result<ThreadedProducer<Deliveries>, StartError> {
    let config = settings.transactional(&settings.transactional_id);
    let producer: ThreadedProducer<Deliveries> = make(&config, Deliveries::telling(disturbed)).map_err(StartError::Never)?;
    fence(&producer, patience).map_err(|error| match error.rdkafka_error_code() {
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
