//! The two consumers outside the group that restores read with. Idle most of the time, and then tended by the pump's thread, because the
//! client queues its log lines until somebody polls.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{
    context::Voice,
    settings::{Isolation, Settings, make},
};
use crate::log::LogError;

/// How many queued lines one tending serves.
const LINES_MAX: usize = 1000;

/// See the module's header.
pub(super) struct Readers {
    /// Sees what is committed.
    pub(super) committed: BaseConsumer<Voice>,
    /// Sees the true ends.
    pub(super) raw: BaseConsumer<Voice>,
}

impl Readers {
    /// # Errors
    /// When a client can't be made.
    pub(super) fn new(settings: &Settings) -> Result<Self, LogError> {
        let read = |isolation| make(&settings.reader(isolation), Voice::default());
        Ok(Self { committed: read(Isolation::Committed)?, raw: read(Isolation::Uncommitted)? })
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
