//! How a simulated client reaches its brokers: requests take time, and may be lost, or their answers.

use std::time::Duration;

use super::{Cluster, Topic, state::State, transactions::Refused};

/// A client of one process.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) cluster: Cluster,
    pub(super) instance: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The process is no more.
    Dead,
    /// None came in time: it may have happened or not.
    TimedOut,
    /// It was refused.
    Refused(Refused),
}

impl Link {
    pub(super) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.cluster.lock())
    }

    pub(super) fn now_us(&self) -> u64 {
        self.state(|state| state.now_us)
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.now_us())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state(|state| !state.instances[self.instance].alive)
    }

    /// Everybody else goes on. Whoever is dead waits for nothing.
    pub(super) fn wait(&self, us: u64) {
        if !self.is_dead() {
            self.cluster.wait(us);
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        self.state(|state| state.say(&state.instances[self.instance].name, what));
    }

    /// One request; `act` is what it does at the broker.
    pub(super) fn call<T>(&self, what: &str, act: impl FnOnce(&mut State) -> T) -> Result<T, Silence> {
        let (before_us, after_us, lost) = self.state(|state| {
            state.calls += 1;
            let slow_us = if state.harms(state.options.slow_per_mille) { state.dice.from(0, state.options.slow_us) } else { 0 };
            let (before_us, after_us) = (state.dice.from(50, 1_500) + slow_us, state.dice.from(50, 1_500));
            let lost = if state.harms(state.options.lost_per_mille) { 1 + state.dice.below(2) } else { 0 };
            (before_us, after_us, lost)
        });
        self.wait(before_us);
        if self.is_dead() {
            return Err(Silence::Dead);
        }
        let is_lost = lost == 1 || self.state(|state| state.is_cut_off(self.instance));
        let timeout_us = self.state(|state| state.options.request_timeout_us);
        if is_lost {
            self.say(|| format!("{what}: lost"));
            self.wait(timeout_us);
            return Err(if self.is_dead() { Silence::Dead } else { Silence::TimedOut });
        }
        let answer = self.state(act);
        if lost == 2 {
            self.say(|| format!("{what}: its answer is lost"));
            self.wait(timeout_us);
            return Err(if self.is_dead() { Silence::Dead } else { Silence::TimedOut });
        }
        self.wait(after_us);
        if self.is_dead() { Err(Silence::Dead) } else { Ok(answer) }
    }

    /// A request that is repeated until it is answered or the deadline is over; `act` must do it once however often it comes. Whether
    /// it was sent more than once is told by `again`.
    pub(super) fn insist<T>(
        &self,
        (what, deadline_us): (&str, u64),
        again: &mut dyn FnMut(),
        mut act: impl FnMut(&mut State) -> Result<T, Refused>,
    ) -> Result<T, Silence> {
        loop {
            match self.call(what, &mut act) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Refused::Concurrent)) => self.wait(2_000),
                Ok(Err(refused)) => {
                    self.say(|| format!("{what}: refused, {refused:?}"));
                    return Err(Silence::Refused(refused));
                }
                Err(Silence::TimedOut) => again(),
                Err(silence) => return Err(silence),
            }
            if self.now_us() >= deadline_us {
                return Err(Silence::TimedOut);
            }
        }
    }

    /// The end of what is stable in a source partition.
    pub(super) fn stable_end(&self, topic: Topic, partition: i32) -> i64 {
        self.state(|state| state.log(topic, partition).stable_end())
    }
}
