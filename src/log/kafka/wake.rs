//! A bell between the client's threads, which ring it when something came, and the pump's, which sleeps by it.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

use super::lock;

/// Rung once, it wakes once, also when nobody slept yet.
#[derive(Debug, Default)]
pub(super) struct Wake {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Wake {
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_one();
    }

    /// Sleeps until it was rung since the last time, or until the deadline.
    pub(super) fn wait(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.bell.wait_timeout_while(lock(&self.rung), left, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}
