//! HTTP writes into the source: an idempotent producer outside transactions, so that a write is there for every instance at once.
//!
//! Between http and the source topic. A record's partition is computed here, as the source's other producers compute it.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use statehouse_dataflows::vocabulary::Partition;

use super::{
    context::Voice,
    drop_aside, lock,
    settings::{Settings, make},
};
use crate::log::{AppendDone, AppendError, Appender, CANONICAL_HEADER, LogError};

/// At the end, writes on their way get this long.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// See the module's header.
pub(super) struct KafkaAppender {
    settings: Arc<Settings>,
    partition_of: Arc<dyn Fn(&[u8]) -> Partition + Send + Sync>,
    /// Replaced when it can't go on.
    producer: RwLock<ThreadedProducer<Receipts>>,
}

/// Calls back each writer.
#[derive(Default)]
struct Receipts(Voice);

/// A writer that waits.
struct Waiting(Mutex<Option<AppendDone>>);

impl Waiting {
    fn done(&self, result: Result<(Partition, i64), AppendError>) {
        if let Some(done) = lock(&self.0).take() {
            done(result);
        }
    }
}

impl ClientContext for Receipts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Receipts {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        waiting.done(match result {
            Ok(record) => Ok((record.partition(), record.offset())),
            Err((error, record)) => Err(undelivered(error, record.key_len() + record.payload_len())),
        });
    }
}

fn undelivered(error: &KafkaError, bytes: usize) -> AppendError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::TooLarge { bytes },
        Some(RDKafkaErrorCode::QueueFull) => AppendError::Full,
        // Never left this process, or was refused as a whole.
        Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            AppendError::Failed(error.to_string())
        }
        _ => AppendError::Maybe(error.to_string()),
    }
}

impl KafkaAppender {
    /// # Errors
    /// When the client can't be made.
    pub(super) fn new(settings: Arc<Settings>, partition_of: Arc<dyn Fn(&[u8]) -> Partition + Send + Sync>) -> Result<Self, LogError> {
        let producer = make(&settings.idempotent(), Receipts::default())?;
        Ok(Self { settings, partition_of, producer: RwLock::new(producer) })
    }

    /// An idempotent producer that lost count refuses everything from then on.
    fn replace_broken(&self) {
        let mut producer = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        let Some((_, reason)) = producer.client().fatal_error() else { return };
        match make(&self.settings.idempotent(), Receipts::default()) {
            Ok(fresh) => {
                tracing::warn!(reason, "the producer of HTTP writes starts anew");
                drop_aside(mem::replace(&mut *producer, fresh)); // writers wait for this lock
            }
            Err(error) => tracing::error!("the producer of HTTP writes can't start anew: {error}"),
        }
    }
}

impl Appender for KafkaAppender {
    fn append(&self, key: &[u8], value: Option<&[u8]>, done: AppendDone) {
        let headers = OwnedHeaders::new().insert(Header { key: CANONICAL_HEADER, value: Some("json") });
        let waiting = Box::new(Waiting(Mutex::new(Some(done))));
        let mut record: BaseRecord<'_, [u8], [u8], Box<Waiting>> =
            BaseRecord::with_opaque_to(&self.settings.topics.source, waiting).key(key).headers(headers).partition((self.partition_of)(key));
        if let Some(value) = value {
            record = record.payload(value);
        }
        let sent = self.producer.read().unwrap_or_else(PoisonError::into_inner).send(record);
        let Err((error, record)) = sent else { return };
        let error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => AppendError::Full,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::TooLarge { bytes: key.len() + value.map_or(0, <[u8]>::len) },
            Some(RDKafkaErrorCode::Fatal) => {
                self.replace_broken();
                AppendError::Full
            }
            _ => AppendError::Failed(error.to_string()),
        };
        record.delivery_opaque.done(Err(error));
    }
}

impl Drop for KafkaAppender {
    fn drop(&mut self) {
        let producer = self.producer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = producer.flush(FLUSH_PATIENCE) {
            tracing::warn!("HTTP writes on their way at the end may be lost: {error}");
        }
    }
}
