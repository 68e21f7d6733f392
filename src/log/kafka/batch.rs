//! From a partition's queue to a batch: one copy of each record's bytes into one buffer, and no allocation per record.

use std::{ops::Range, time::Duration};

use rdkafka::{
    Message,
    consumer::base_consumer::PartitionQueue,
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::context::Member;
use crate::log::{Batch, CANONICAL_HEADER, Record};

/// A batch ends here, so that every partition gets its turn and memory stays bounded.
const RECORDS_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 20;

/// What was waiting.
pub(super) struct Drained {
    pub(super) batch: Batch,
    /// What ended the batch, if it was neither emptiness nor size; comes after the records.
    pub(super) end: Option<KafkaError>,
}

/// Which records are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    pub(super) partition: Partition,
    /// Earlier ones have been read.
    pub(super) offset: Offset,
}

/// Takes what is waiting, without waiting for more.
pub(super) fn drain(queue: &PartitionQueue<Member>, from: Begin, agent_header: Option<&str>) -> Drained {
    let mut batch = Batch { partition: from.partition, ..Batch::default() };
    while batch.records.len() < RECORDS_MAX && batch.bytes.len() < BYTES_MAX {
        match queue.poll(Duration::ZERO) {
            None => break,
            Some(Ok(message)) if message.offset() < from.offset => {}
            Some(Ok(message)) => push(&mut batch, &message, agent_header),
            Some(Err(error)) => return Drained { batch, end: Some(error) },
        }
    }
    Drained { batch, end: None }
}

fn push(batch: &mut Batch, message: &BorrowedMessage<'_>, agent_header: Option<&str>) {
    let mut record = Record {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1).max(-1),
        key: message.key().map(|key| append(&mut batch.bytes, key)),
        value: message.payload().map(|value| append(&mut batch.bytes, value)),
        agent: None,
        canonical: false,
    };
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            if header.key == CANONICAL_HEADER {
                record.canonical = true;
            } else if Some(header.key) == agent_header {
                record.agent = header.value.map(|agent| append(&mut batch.bytes, agent));
            }
        }
    }
    batch.records.push(record);
}

fn append(bytes: &mut Vec<u8>, more: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(more);
    start..bytes.len()
}
