//! What is due when: one index of due times for whatever waits for a partition's clock.
//!
//! Everything is in it at most once: armed anew, it moves. It is not taken out when what it waits for is called off: whoever gets it when it
//! is due checks whether that still holds. So the index never has more entries than there are things.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
};

use hashbrown::HashMap;

use crate::vocabulary::{Millis, Partition};

/// Things by partition and due time.
#[derive(Debug)]
pub(crate) struct DueIndex<T> {
    by_partition: BTreeMap<Partition, Waiting<T>>,
}

/// The things of one partition.
#[derive(Debug)]
struct Waiting<T> {
    by_due: BTreeMap<Millis, BTreeSet<T>>,
    due_ms: HashMap<T, Millis>,
}

impl<T> Default for DueIndex<T> {
    fn default() -> Self {
        Self { by_partition: BTreeMap::new() }
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_due: BTreeMap::new(), due_ms: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash + Ord> DueIndex<T> {
    /// Something becomes due at `due_ms` of the partition's clock, and not at another time any more.
    pub(crate) fn arm(&mut self, partition: Partition, due_ms: Millis, what: T) {
        let waiting = self.by_partition.entry(partition).or_default();
        if let Some(before_ms) = waiting.due_ms.insert(what, due_ms) {
            waiting.disarm(before_ms, &what);
        }
        waiting.by_due.entry(due_ms).or_default().insert(what);
    }

    /// Takes out everything due at `clock_ms` or before, earliest first.
    pub(crate) fn take_due(&mut self, partition: Partition, clock_ms: Millis) -> Vec<(Millis, T)> {
        let Some(waiting) = self.by_partition.get_mut(&partition) else { return Vec::new() };
        if waiting.by_due.first_key_value().is_none_or(|(due_ms, _)| *due_ms > clock_ms) {
            return Vec::new(); // the common case, without splitting the tree
        }
        let later = waiting.by_due.split_off(&clock_ms.saturating_add(1));
        let due = std::mem::replace(&mut waiting.by_due, later);
        let due: Vec<_> = due.into_iter().flat_map(|(due_ms, things)| things.into_iter().map(move |thing| (due_ms, thing))).collect();
        due.iter().for_each(|(_, thing)| _ = waiting.due_ms.remove(thing));
        due
    }

    /// Forgets a partition.
    pub(crate) fn forget(&mut self, partition: Partition) {
        self.by_partition.remove(&partition);
    }
}

impl<T: Ord> Waiting<T> {
    fn disarm(&mut self, due_ms: Millis, what: &T) {
        let Some(things) = self.by_due.get_mut(&due_ms) else { return };
        things.remove(what);
        if things.is_empty() {
            self.by_due.remove(&due_ms);
        }
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

    #[test]
    fn what_is_armed_again_and_again_is_there_once() {
        let mut due = DueIndex::default();
        due.arm(1, 100, "a");
        for due_ms in (1_000..100_000).chain([500]) {
            due.arm(0, due_ms, "a");
        }
        assert_eq!(due.by_partition[&0].by_due.len(), 1, "a renewed life would fill memory");
        assert_eq!(due.take_due(0, 200_000), [(500, "a")], "the last word counts");
        assert!(due.by_partition[&0].due_ms.is_empty());
        due.arm(0, 300, "a");
        assert_eq!(due.take_due(0, 300), [(300, "a")], "and again");
        assert_eq!(due.take_due(1, 100), [(100, "a")], "partitions have nothing to do with each other");
    }
}
