//! What time it is: the real clocks, or a test's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::message::Now;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Both clocks, now.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: since_epoch.as_millis().try_into().unwrap_or(i64::MAX), monotonic: self.start.elapsed() }
    }
}
