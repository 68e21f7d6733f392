//! The single steps of a transaction with the Kafka client's transactional producer, and of its group member. Nothing is decided here but what
//! the client's errors mean; in which order the steps come says `protocol`.

use std::thread;

use rdkafka::{
    Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    context::{Deliveries, FIRST_PIECE, Member},
    transactor::Grounds,
};
use crate::log::{
    RejectRecord, SinkRecord, TransactError,
    protocol::client::{self, GroupMember, Outgoing},
};

impl GroupMember for BaseConsumer<Member> {
    type Membership = ConsumerGroupMetadata;

    fn membership(&self) -> Option<ConsumerGroupMetadata> {
        self.group_metadata()
    }

    fn is_lost(&self) -> bool {
        self.assignment_lost()
    }
}

/// A started producer on its thread.
pub(super) struct Steps<'a> {
    pub(super) grounds: &'a Grounds,
    pub(super) producer: &'a ThreadedProducer<Deliveries>,
    /// Records given to the client since the producer started.
    pub(super) sent: usize,
}

impl client::Producer for Steps<'_> {
    type Membership = ConsumerGroupMetadata;

    fn begin(&mut self) -> Result<(), String> {
        self.producer.begin_transaction().map_err(|error| error.to_string())
    }

    fn send(&mut self, partition: Partition, record: &Outgoing<'_>) -> Result<(), String> {
        let topics = &self.grounds.settings.topics;
        let record = match *record {
            Outgoing::Piece { first, bytes } => {
                let mark = if first { FIRST_PIECE } else { 0 };
                BaseRecord::with_opaque_to(&topics.checkpoint, mark).payload(bytes).partition(partition)
            }
            Outgoing::Change(change) => sink_record(&topics.sink, change).partition(partition),
            Outgoing::Reject(reject) => reject_record(self.grounds, partition, reject),
        };
        self.send_record(record)
    }

    fn await_deliveries(&mut self) -> Result<(), String> {
        // The client's own flush waits in ticks of 100 ms.
        self.producer.context().wait(self.sent, self.grounds.settings.transaction_timeout)?;
        // The last delivery is told a moment before the client counts it as done, and a flush that comes too early waits for such a tick.
        while self.producer.in_flight_count() > 0 {
            thread::yield_now();
        }
        Ok(())
    }

    fn send_offsets(&mut self, offsets: &[client::Place], membership: &ConsumerGroupMetadata) -> Result<(), String> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for place in offsets {
            let mut element = list.add_partition(&self.grounds.settings.topics.source, place.partition);
            element.set_offset(Place::Offset(place.next_offset)).map_err(|error| error.to_string())?;
            element.set_metadata(&place.metadata);
        }
        self.producer
            .send_offsets_to_transaction(&list, membership, self.grounds.settings.transaction_timeout)
            .map_err(|error| format!("the group does not take our offsets: {error}"))
    }

    fn commit(&mut self) -> Result<Vec<(Partition, Offset)>, TransactError> {
        self.producer.commit_transaction(self.grounds.settings.transaction_timeout).map_err(|error| match error {
            KafkaError::Transaction(reason) if reason.txn_requires_abort() => TransactError::Failed(reason.string()),
            other => TransactError::Maybe(other.to_string()),
        })?;
        Ok(self.producer.context().take_first_pieces())
    }
}

impl Steps<'_> {
    fn send_record(&mut self, record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), String> {
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
