//! What the Kafka clients tell us: log lines, errors, rebalances, deliveries. The contexts record, and whoever polls the client decides;
//! they wait for nothing but the ownership lock (held for one question to the client), and answer a rebalance themselves only while leaving.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{lock, pulse::Pulse};
use crate::log::protocol::Ownership;

/// A client in trouble repeats itself with every try to connect: one line in this time is enough, the others are for debugging.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Passes on what a client logs, and remembers why it was refused.
#[derive(Default)]
pub(super) struct Voice {
    last_warning: Mutex<Option<Instant>>,
    refusal: Mutex<Option<String>>,
}

impl Voice {
    /// Why the brokers refused this client's user, or it refused them, if that came to pass.
    pub(super) fn refusal(&self) -> Option<String> {
        lock(&self.refusal).clone()
    }

    fn may_warn(&self) -> bool {
        let mut last = lock(&self.last_warning);
        let now = Instant::now();
        if last.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            return false;
        }
        *last = Some(now);
        true
    }

    fn hear_log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            // Producer options told to a consumer and the like: properties go to every client.
            _ if facility == "CONFWARN" => tracing::debug!(facility, "{line}"),
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(facility, "{line}"),
            _ if self.may_warn() => tracing::warn!(facility, "{line}"),
            _ => tracing::debug!(facility, "{line}"),
        }
    }

    fn hear_error(&self, error: &KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // Not an error: the end of a partition was reached.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            Some(RDKafkaErrorCode::Authentication) => {
                *lock(&self.refusal) = Some(reason.to_owned());
                if self.may_warn() {
                    tracing::error!("Kafka refuses this client: {reason}");
                }
            }
            // What the client can't verify stays so until somebody mends a certificate or a setting; other failures of TLS may be outages.
            Some(RDKafkaErrorCode::SSL) if reason.contains("certificate verify failed") => {
                *lock(&self.refusal) = Some(reason.to_owned());
                if self.may_warn() {
                    tracing::error!("this client refuses Kafka: {reason}");
                }
            }
            _ if self.may_warn() => tracing::warn!("Kafka: {reason}"),
            _ => tracing::debug!("Kafka: {reason}"),
        }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.hear_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear_error(&error, reason);
    }
}

impl ConsumerContext for Voice {}

/// The partitions of a list; there is only one topic.
pub(super) fn numbers(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(TopicPartitionListElem::partition).collect()
}

/// One step of a rebalance, waiting to be answered by assigning or unassigning.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(TopicPartitionList),
    Revoke {
        partitions: TopicPartitionList,
        /// Another member may own them already.
        lost: bool,
    },
}

/// The group member's context: rebalances are recorded, and answered when the house is ready.
pub(super) struct Member {
    voice: Voice,
    ownership: Arc<Ownership>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Nobody answers any more: revocations are granted at once, so that closing comes to an end.
    closing: AtomicBool,
    /// The partitions' ends, as of the client's last statistics.
    ends: Mutex<BTreeMap<Partition, Offset>>,
    pub(super) pulse: Pulse,
}

impl Member {
    pub(super) fn new(ownership: Arc<Ownership>) -> Self {
        Self {
            voice: Voice::default(),
            ownership,
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            ends: Mutex::default(),
            pulse: Pulse::new(),
        }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    /// Where the partition's stable records end, if the client has told.
    pub(super) fn end(&self, partition: Partition) -> Option<Offset> {
        lock(&self.ends).get(&partition).copied()
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Member {
    fn stats(&self, statistics: Statistics) {
        self.pulse.hear(&statistics);
        // There is one topic; the client doesn't know the end before the first fetch (negative).
        let partitions = statistics.topics.into_values().flat_map(|topic| topic.partitions);
        *lock(&self.ends) = partitions.map(|(number, partition)| (number, partition.ls_offset)).filter(|(_, end)| *end >= 0).collect();
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.voice.hear_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.hear_error(&error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, step: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let assigned = step == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        // The client frees its list when this returns.
        let partitions = partitions.clone();
        let numbers = numbers(&partitions);
        if self.closing.load(Ordering::Acquire) {
            self.ownership.remove(&numbers);
            let answered = if assigned { consumer.incremental_assign(&partitions) } else { consumer.incremental_unassign(&partitions) };
            if let Err(error) = answered {
                tracing::debug!("while leaving the group: {error}");
            }
            return;
        }
        if assigned {
            self.ownership.add(&numbers);
            lock(&self.rebalances).push_back(Rebalance::Assign(partitions));
            return;
        }
        let lost = consumer.assignment_lost();
        if lost {
            // From this moment nothing of them may be committed, whatever is on its way.
            self.ownership.remove(&numbers);
        }
        lock(&self.rebalances).push_back(Rebalance::Revoke { partitions, lost });
    }
}

/// A transactional producer's context: counts deliveries for the thread that waits for all of them.
#[derive(Default)]
pub(super) struct Deliveries {
    voice: Voice,
    /// Raised when a connection is lost, or an answer does not come in time.
    disturbed: Arc<AtomicBool>,
    delivered: Mutex<Delivered>,
    reached: Condvar,
}

#[derive(Default)]
struct Delivered {
    count: usize,
    /// Somebody sleeps until this many are in.
    awaited: Option<usize>,
    /// Why the first one that failed did.
    failure: Option<String>,
    /// The places of each partition's first piece.
    first_pieces: Vec<(Partition, Offset)>,
}

impl Deliveries {
    /// Raises this flag when the client is disturbed: it may have sent requests twice then, and the first ones may still arrive.
    pub(super) fn telling(disturbed: Arc<AtomicBool>) -> Self {
        Self { disturbed, ..Self::default() }
    }

    /// The count so far.
    pub(super) fn count(&self) -> usize {
        lock(&self.delivered).count
    }

    /// Waits until `count` records are delivered.
    ///
    /// # Errors
    /// When one of them was not, or not all were in time.
    pub(super) fn wait(&self, count: usize, patience: Duration) -> Result<(), String> {
        let mut delivered = lock(&self.delivered);
        delivered.awaited = Some(count);
        let (mut delivered, waited) = self
            .reached
            .wait_timeout_while(delivered, patience, |delivered| delivered.count < count && delivered.failure.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        delivered.awaited = None;
        if let Some(failure) = delivered.failure.take() {
            return Err(failure);
        }
        if waited.timed_out() {
            return Err(format!("{} of {count} records were not acknowledged within {patience:?}", count - delivered.count));
        }
        Ok(())
    }

    /// The places of the chunks' first pieces since the last call.
    pub(super) fn take_first_pieces(&self) -> Vec<(Partition, Offset)> {
        std::mem::take(&mut lock(&self.delivered).first_pieces)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.voice.hear_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.disturbed.store(true, Ordering::Release);
        self.voice.hear_error(&error, reason);
    }
}

/// Whether a record is the first piece of its partition's chunk in the transaction.
pub(super) const FIRST_PIECE: usize = 1;

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let mut delivered = lock(&self.delivered);
        delivered.count += 1;
        match result {
            // A retry that the broker had already written is told without its place; restores begin at the places of first pieces.
            Ok(record) if mark == FIRST_PIECE && record.offset() < 0 => {
                let place = format!("a record for {} [{}]", record.topic(), record.partition());
                delivered.failure.get_or_insert_with(|| format!("{place} was written twice by the client, and its place is not known"));
            }
            Ok(record) if mark == FIRST_PIECE => delivered.first_pieces.push((record.partition(), record.offset())),
            Ok(_) => {}
            Err((error, record)) => {
                let place = format!("a record for {} [{}]", record.topic(), record.partition());
                delivered.failure.get_or_insert_with(|| format!("{place} was not written: {error}"));
            }
        }
        if delivered.awaited.is_some_and(|awaited| delivered.count >= awaited) || delivered.failure.is_some() {
            self.reached.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_told() {
        let disturbed = Arc::new(AtomicBool::new(false));
        let deliveries = Deliveries::telling(Arc::clone(&disturbed));
        assert!(!disturbed.load(Ordering::Acquire));
        deliveries.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "the broker went away");
        assert!(disturbed.load(Ordering::Acquire));
    }
}
