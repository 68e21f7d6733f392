//! How many tokens that are none came from where: bounds what is answered and logged about them, in bounded memory.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ahash::RandomState;

use crate::http::slots::network;

/// How many may come at once.
const BURST: u32 = 20;
/// How long it takes until another one may.
const EVERY: Duration = Duration::from_secs(1);
/// Addresses share so many places, by a keyed hash.
const PLACES: usize = 1_024;
/// At most one line of the log in this time.
const QUIET: Duration = Duration::from_secs(10);

/// Failures of late.
pub(super) struct Failures {
    keys: RandomState,
    state: Mutex<State>,
}

struct State {
    /// By place: when all its failures will be forgiven.
    forgiven: Vec<Option<Instant>>,
    logged: Option<Instant>,
    since_logged: u64,
}

impl Default for Failures {
    fn default() -> Self {
        let state = State { forgiven: vec![None; PLACES], logged: None, since_logged: 0 };
        Self { keys: RandomState::new(), state: Mutex::new(state) }
    }
}

impl Failures {
    /// Notes a failure; whether there were too many from there.
    pub(super) fn are_too_many(&self, from: IpAddr, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.log(from, now);
        let place = self.place(from);
        let forgiven = state.forgiven[place].filter(|forgiven| *forgiven > now).unwrap_or(now);
        if forgiven - now > EVERY * (BURST - 1) {
            return true;
        }
        state.forgiven[place] = Some(forgiven + EVERY);
        false
    }

    fn place(&self, from: IpAddr) -> usize {
        usize::try_from(self.keys.hash_one(network(from)) % PLACES as u64).expect("it is small")
    }
}

impl State {
    fn log(&mut self, from: IpAddr, now: Instant) {
        self.since_logged += 1;
        if self.logged.is_none_or(|logged| now - logged >= QUIET) {
            tracing::warn!(%from, count = self.since_logged, "refused tokens that are not valid; the last came from there");
            (self.logged, self.since_logged) = (Some(now), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let (failures, start) = (Failures::default(), Instant::now());
        let here = IpAddr::from([10, 0, 0, 1]);
        let counted = |from, now| (0..100).filter(|_| !failures.are_too_many(from, now)).count();
        assert_eq!(counted(here, start), BURST as usize);
        assert_eq!(counted(here, start + EVERY / 2), 0);
        assert_eq!(counted(here, start + EVERY * 3), 3);
        assert_eq!(counted(here, start + EVERY * 1_000), BURST as usize);
    }

    #[test]
    fn a_network_is_one_and_others_are_others() {
        let failures = Failures::default();
        let place = |text: &str| failures.place(text.parse().unwrap());
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:2"));
        assert_eq!(place("10.0.0.1"), place("::ffff:10.0.0.1"));
        let places: std::collections::BTreeSet<_> = (0..50).map(|n| place(&format!("10.0.0.{n}"))).collect();
        assert!(places.len() > 25, "{places:?}");
    }
}
