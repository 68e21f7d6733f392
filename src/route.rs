//! Which worker takes an object: a hash of (partition, object), keyed anew in each process so that nobody can choose keys that meet.
//!
//! Shared by the pump (records, restored rows) and by whoever asks. Never leaves the process.

use ahash::RandomState;
use statehouse_dataflows::vocabulary::Partition;

/// The keyed hash and the number of workers.
#[derive(Clone, Debug)]
pub struct Route {
    keys: RandomState,
    workers: usize,
}

impl Route {
    /// For `workers` of them, at least one; the keys of a process are random, those of a simulation come from its seed.
    #[must_use]
    pub fn new(keys: RandomState, workers: usize) -> Self {
        Self { keys, workers: workers.max(1) }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The hash of an object.
    #[must_use]
    pub fn hash(&self, partition: Partition, object: &str) -> u64 {
        self.keys.hash_one((partition, object))
    }

    /// The worker of an object with this hash.
    #[must_use]
    pub fn worker(&self, hash: u64) -> usize {
        // The high bits, as a fraction of the workers: the low ones choose buckets in the worker's own tables.
        ((u128::from(hash) * self.workers as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_its_share() {
        for workers in 1..=3 {
            let route = Route::new(RandomState::with_seeds(1, 2, 3, 4), workers);
            let mut taken = vec![0; workers];
            (0..3_000).for_each(|n| taken[route.worker(route.hash(n % 4, &format!("site-{n}")))] += 1);
            assert!(taken.iter().all(|taken| (3_000 / workers).abs_diff(*taken) < 300), "{workers} workers: {taken:?}");
        }
    }
}
