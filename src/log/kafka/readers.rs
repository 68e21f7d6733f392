//! The two consumers outside the group that restores read with. Idle most of the time, and then tended by the pump's thread, because the
//! client queues its log lines until somebody polls. So their questions are answered at once: a broker answers each connection in turn, and one
//! that waits for records to come holds up whatever is asked behind it.

use std::{mem, sync::Arc, time::Duration};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    context::Voice,
    drop_aside,
    settings::{Isolation, Settings, make},
};
use crate::log::{LogError, protocol::client::View};

/// How many queued lines one tending serves.
const LINES_MAX: usize = 1000;

/// See the module's header.
pub(super) struct Readers {
    settings: Arc<Settings>,
    /// Sees what is committed.
    pub(super) committed: BaseConsumer<Voice>,
    /// Sees the true ends.
    pub(super) raw: BaseConsumer<Voice>,
}

impl Readers {
    /// # Errors
    /// When a client can't be made.
    pub(super) fn new(settings: &Arc<Settings>) -> Result<Self, LogError> {
        let read = |isolation| make(&settings.reader(isolation), Voice::default());
        Ok(Self { settings: Arc::clone(settings), committed: read(Isolation::Committed)?, raw: read(Isolation::Uncommitted)? })
    }

    /// The one that sees this.
    pub(super) fn in_view(&self, view: View) -> &BaseConsumer<Voice> {
        match view {
            View::Stable => &self.committed,
            View::Uncommitted => &self.raw,
        }
    }

    /// The ends of a partition. Its topic had it when the house started, so a client that knows of no such partition is mistaken: it keeps
    /// for minutes what it made of the brokers' word during a failover, and asks nobody while it believes to know. New ones ask.
    ///
    /// # Errors
    /// When its leader does not answer in time.
    pub(super) fn watermarks(
        &mut self,
        (topic, partition): (&str, Partition),
        view: View,
        patience: Duration,
    ) -> Result<(Offset, Offset), KafkaError> {
        let ends = self.in_view(view).fetch_watermarks(topic, partition, patience);
        if let Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition)) = ends
            && let Ok(renewed) = Self::new(&self.settings)
        {
            tracing::warn!(topic, partition, "the Kafka client does not know the partition any more; it is replaced");
            drop_aside(mem::replace(self, renewed));
        }
        ends
    }

    /// Serves what has queued up. Nothing is assigned while nobody reads, so no record is lost.
    pub(super) fn tend(&self) {
        for reader in [&self.committed, &self.raw] {
            for _ in 0..LINES_MAX {
                // A served line looks like nothing; two empty answers in a row cost little.
                if reader.poll(Duration::ZERO).is_none() && reader.poll(Duration::ZERO).is_none() {
                    break;
                }
            }
            debug_assert!(reader.assignment().map_or(true, |assigned| assigned.count() == 0), "readers are idle while nobody holds them");
        }
    }
}
