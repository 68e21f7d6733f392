//! What is due when: one index of due times for whatever waits for a partition's clock.
//!
//! Ordered by due time; entries are not taken out when what they stand for is called off. Whoever pops one checks whether it still holds,
//! which costs less than finding it.

use std::collections::BTreeMap;

use crate::vocabulary::{Millis, Partition};

/// Things by partition and due time.
#[derive(Debug)]
pub(crate) struct DueIndex<T> {
    by_partition: BTreeMap<Partition, BTreeMap<Millis, Vec<T>>>,
}

impl<T> Default for DueIndex<T> {
    fn default() -> Self {
        Self { by_partition: BTreeMap::new() }
    }
}

impl<T> DueIndex<T> {
    /// Something becomes due at `due_ms` of the partition's clock.
    pub(crate) fn arm(&mut self, partition: Partition, due_ms: Millis, what: T) {
        self.by_partition.entry(partition).or_default().entry(due_ms).or_default().push(what);
    }

    /// Takes out everything due at `clock_ms` or before, earliest first.
    pub(crate) fn take_due(&mut self, partition: Partition, clock_ms: Millis) -> Vec<(Millis, T)> {
        let Some(waiting) = self.by_partition.get_mut(&partition) else { return Vec::new() };
        if waiting.first_key_value().is_none_or(|(due_ms, _)| *due_ms > clock_ms) {
            return Vec::new(); // the common case, without splitting the tree
        }
        let later = waiting.split_off(&clock_ms.saturating_add(1));
        let due = std::mem::replace(waiting, later);
        due.into_iter().flat_map(|(due_ms, things)| things.into_iter().map(move |thing| (due_ms, thing))).collect()
    }

    /// Forgets a partition.
    pub(crate) fn forget(&mut self, partition: Partition) {
        self.by_partition.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_things_come_out_once_in_order() {
        let mut due = DueIndex::default();
        due.arm(0, 300, "c");
        due.arm(0, 100, "a");
        due.arm(1, 100, "other");
        due.arm(0, 200, "b");
        assert_eq!(due.take_due(0, 200), [(100, "a"), (200, "b")]);
        assert_eq!(due.take_due(0, 200), []);
        assert_eq!(due.take_due(0, 300), [(300, "c")]);
        assert_eq!(due.take_due(1, 99), []);
        due.forget(1);
        assert_eq!(due.take_due(1, 100), []);
    }
}
