//! What copies are kept warm from: the checkpoint's committed records of many partitions at once, as they come.
//!
//! Owned by the thread that keeps the copies. A client of its own: what restores read with is assigned to one partition at a time.
//! Assumes nothing of who owns a partition; what it hands out is committed, and may be behind what is.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    Message, Offset as Place, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    context::Voice,
    lock,
    readers::Readers,
    settings::{Settings, make},
};
use crate::log::{LogError, Tail, Tailed, protocol::client::View};

/// One question to the brokers: whoever keeps copies has others to serve.
const ASK: Duration = Duration::from_millis(500);
/// At most so many records are handed out by one poll.
const RECORDS_MAX: usize = 1_000;

/// See the module's header.
pub(super) struct KafkaTail {
    topic: String,
    consumer: BaseConsumer<Voice>,
    /// For questions.
    readers: Arc<Mutex<Readers>>,
    followed: BTreeSet<Partition>,
}

impl KafkaTail {
    /// # Errors
    /// When the client can't be made.
    pub(super) fn new(settings: &Arc<Settings>, readers: Arc<Mutex<Readers>>) -> Result<Self, LogError> {
        Ok(Self {
            topic: settings.topics.checkpoint.clone(),
            consumer: make(&settings.tail(), Voice::default())?,
            readers,
            followed: BTreeSet::new(),
        })
    }

    /// Something of some partition was deleted before it came, and the client does not say of which: those that can be it.
    fn lost(&self, each: &mut dyn FnMut(Tailed<'_>)) {
        let mut answers = true;
        for partition in &self.followed {
            let place = self.place(*partition); // before its end is asked, which moves on
            // Leaders that don't answer are asked once.
            let ends = answers.then(|| self.ends(*partition)).flatten();
            answers &= ends.is_some();
            let is_there = ends.zip(place).is_some_and(|((begin, end), place)| (begin..=end).contains(&place));
            if !is_there {
                each(Tailed::Lost(*partition));
            }
        }
    }

    /// Without regard to transactions: the marker of one that is committed may come later.
    fn ends(&self, partition: Partition) -> Option<(Offset, Offset)> {
        lock(&self.readers).watermarks((&self.topic, partition), View::Uncommitted, ASK).ok()
    }

    fn refused(&self, error: &KafkaError) -> LogError {
        LogError::Unavailable(format!("{} can't be followed: {error}", self.topic))
    }
}

impl Tail for KafkaTail {
    fn follow(&mut self, partition: Partition) -> Result<(), LogError> {
        let mut place = TopicPartitionList::new();
        // The client's own idea of where a partition begins may be of before, when it last read it.
        let begin = self.ends(partition).map_or(Place::Beginning, |(begin, _)| Place::Offset(begin));
        let placed = place.add_partition_offset(&self.topic, partition, begin);
        placed.and_then(|()| self.consumer.incremental_assign(&place)).map_err(|error| self.refused(&error))?;
        self.followed.insert(partition);
        Ok(())
    }

    fn leave(&mut self, partition: Partition) -> Result<(), LogError> {
        let mut place = TopicPartitionList::new();
        place.add_partition(&self.topic, partition);
        self.followed.remove(&partition);
        self.consumer.incremental_unassign(&place).map_err(|error| self.refused(&error))
    }

    fn poll(&mut self, wait: Duration, each: &mut dyn FnMut(Tailed<'_>)) {
        let (mut wait, mut is_lost) = (wait, false);
        for _ in 0..RECORDS_MAX {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => each(Tailed::Record(record.partition(), record.offset(), record.payload().unwrap_or_default())),
                Some(Err(KafkaError::PartitionEOF(partition))) => each(Tailed::End(partition)),
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => is_lost = true,
                Some(Err(_)) => {} // it goes on by itself once the brokers are there again
            }
            wait = Duration::ZERO;
        }
        if is_lost {
            self.lost(each);
        }
    }

    fn end(&mut self, partition: Partition) -> Option<Offset> {
        self.ends(partition).map(|(_, end)| end)
    }

    fn place(&self, partition: Partition) -> Option<Offset> {
        // The client counts the markers of transactions, which are not handed out.
        match self.consumer.position().ok()?.find_partition(&self.topic, partition)?.offset() {
            Place::Offset(place) => Some(place),
            _ => None,
        }
    }
}
