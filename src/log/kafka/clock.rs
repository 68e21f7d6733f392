//! The clock by which the protocol with Kafka waits: the machine's steady one.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::log::protocol::client::Time;

/// See the module's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady(Instant);

impl Default for Steady {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Time for Steady {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, duration: Duration) {
        thread::sleep(duration);
    }
}
