//! Which partitions are ours right now. Beside the client itself the one thing that the pump's thread (which gets and lets go) and
//! the commit thread (which must not commit what is gone) share; a restore looks, too.
//!
//! The brokers check at a commit that the group member is alive and of the current generation, but not that it owns the partition. So the
//! membership is captured and the ownership checked under one lock, against which a release must go through too: what is captured while a
//! partition was ours is of a generation in which nobody else can own it.

use std::{collections::BTreeSet, sync::Mutex};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use statehouse_dataflows::vocabulary::Partition;

use super::{context::Member, lock};

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Ownership(Mutex<BTreeSet<Partition>>);

impl Ownership {
    pub(super) fn add(&self, partitions: &[Partition]) {
        lock(&self.0).extend(partitions);
    }

    pub(super) fn remove(&self, partitions: &[Partition]) {
        lock(&self.0).retain(|owned| !partitions.contains(owned));
    }

    /// Nothing is ours any more; what waits for something of ours need not wait on.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    pub(super) fn holds(&self, partition: Partition) -> bool {
        lock(&self.0).contains(&partition)
    }

    /// The membership under which these partitions may be committed now.
    ///
    /// # Errors
    /// When one of them is not ours, or may not be.
    pub(super) fn membership(
        &self,
        consumer: &BaseConsumer<Member>,
        mut partitions: impl Iterator<Item = Partition>,
    ) -> Result<ConsumerGroupMetadata, String> {
        let owned = lock(&self.0);
        if let Some(gone) = partitions.find(|partition| !owned.contains(partition)) {
            return Err(format!("partition {gone} is not ours any more"));
        }
        let membership = consumer.group_metadata().ok_or("the group member is closed")?;
        // The client answers the line above on the thread that also resets generation and member id, and it marks the assignment lost in
        // the same breath. So a membership without a valid generation, which the brokers would wave through, does not pass here: we own
        // something, hence we joined, and have not lost it since.
        if consumer.assignment_lost() {
            return Err("the group has given our partitions to others".into());
        }
        Ok(membership)
    }
}
