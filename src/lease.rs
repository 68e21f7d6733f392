//! For how long this instance may speak for its partitions without hearing of the group: the lease.
//!
//! The pump's thread renews it with what the log's source has heard; the desk asks about it with every answer. The group gives our
//! partitions to another only when a session has passed since it last heard of us, and that was no earlier than what we know. So one who was asleep knows
//! by its own clocks that its answers may be old, before it has heard anything of anybody.
//!
//! Two clocks, and the one that says more time has passed is believed: the steady one runs on while a process is stopped, but not while the machine
//! sleeps; the other is put right after that. Of what was heard across such a sleep nobody knows when it was said: it does not count.
//!
//! Known limits: a virtual machine that is frozen and whose clocks both stand still meanwhile knows nothing of it, until the group tells.
//! A wall-clock that is put forward by a session or more makes answers stale until the group is heard twice.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use statehouse_dataflows::vocabulary::Millis;

use crate::message::Now;

/// When the wall-clock goes ahead of the steady one by more than this, the machine may have slept.
const SLEEP_MIN_MS: Millis = 500;

/// See the module.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    last: Mutex<Option<Last>>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// The group had us then.
    heard: Now,
    /// When that was noted.
    noted: Now,
}

impl Lease {
    /// A lease that ends so long after the group was heard. It begins when it is renewed.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self { length, last: Mutex::new(None) }
    }

    /// The group had us so long ago, or later. `now` must have been read before that was known.
    pub fn renew(&self, ago: Duration, now: Now) {
        let heard = Now { wall_ms: now.wall_ms.saturating_sub(millis(ago)), monotonic: now.monotonic.saturating_sub(ago) };
        let mut last = self.lock();
        let heard = match *last {
            Some(last) if last.noted.elapsed_ms(now).0 - last.noted.elapsed_ms(now).1 > SLEEP_MIN_MS => last.heard,
            Some(last) if last.heard.monotonic > heard.monotonic => last.heard,
            _ => heard,
        };
        *last = Some(Last { heard, noted: now });
    }

    /// Since when, by the wall-clock, the group has not been known to have us, if that is too long ago.
    #[must_use]
    pub fn lapsed_since_ms(&self, now: Now) -> Option<Millis> {
        let length_ms = millis(self.length);
        let age_ms = self.lock().map_or(length_ms, |last| {
            let (wall_ms, steady_ms) = last.heard.elapsed_ms(now);
            wall_ms.max(steady_ms)
        });
        (age_ms >= length_ms).then(|| now.wall_ms.saturating_sub(age_ms))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// What has passed until then: by the wall-clock, by the steady one.
    fn elapsed_ms(self, then: Self) -> (Millis, Millis) {
        (then.wall_ms.saturating_sub(self.wall_ms), millis(then.monotonic.saturating_sub(self.monotonic)))
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: Millis, steady_ms: u64) -> Now {
        Now { wall_ms, monotonic: Duration::from_millis(steady_ms) }
    }

    fn leased(renewals: &[(u64, Now)]) -> Lease {
        let lease = Lease::new(Duration::from_millis(3_000));
        renewals.iter().for_each(|&(ago_ms, now)| lease.renew(Duration::from_millis(ago_ms), now));
        lease
    }

    #[test]
    fn it_ends_a_session_after_the_group_was_heard_by_whichever_clock_says_so() {
        let lease = leased(&[(200, at(50_000, 1_000))]);
        for (what, now, since_ms) in [
            ("at once", at(50_000, 1_000), None),
            ("just before its end", at(52_799, 3_799), None),
            ("at its end", at(52_800, 3_800), Some(49_800)),
            ("the process was stopped", at(60_000, 11_000), Some(49_800)),
            ("the machine slept", at(60_000, 1_001), Some(49_800)),
            ("the wall-clock was put back", at(20_000, 3_799), None),
            ("and it ends all the same", at(20_000, 3_800), Some(17_000)),
        ] {
            assert_eq!(lease.lapsed_since_ms(now), since_ms, "{what}");
        }
        assert_eq!(leased(&[]).lapsed_since_ms(at(9_000, 5)), Some(6_000), "none was given yet");
    }

    #[test]
    fn what_was_heard_renews_it_but_not_across_a_sleep() {
        let lapsed = |renewals: &[(u64, Now)], now| leased(renewals).lapsed_since_ms(now);
        let first = (0, at(50_000, 1_000));
        assert_eq!(lapsed(&[first, (100, at(52_000, 3_000))], at(54_800, 5_800)), None);
        assert_eq!(lapsed(&[first, (2_500, at(52_000, 3_000))], at(52_900, 3_900)), None, "older news takes nothing away");
        let woken = [first, (1, at(60_000, 1_500))];
        assert_eq!(lapsed(&woken, at(60_010, 1_510)), Some(50_000), "it may have been said before the machine slept");
        assert_eq!(lapsed(&[woken[0], woken[1], (1, at(60_500, 2_000))], at(60_510, 2_010)), None, "what comes next counts");
        assert_eq!(lapsed(&[first, (7_000, at(60_000, 11_000))], at(60_000, 11_000)), Some(53_000), "news from before a stop are old");
    }
}
