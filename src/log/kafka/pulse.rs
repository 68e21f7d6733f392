//! Since when the group is proven to have had us: read from the client's statistics, as it does not tell of its heartbeats.
//!
//! Part of the member's context; the pump takes what is new. Every answer on the coordinator's own connection is to a heartbeat, a join or a sync, and
//! with each of them the brokers let our session begin anew, no earlier than when we sent it. The client tells when the last answer came and
//! how long the slowest took: the difference is a moment at which we had surely not lost the group. After a sleep the answer that waited in
//! the socket is such a slow one, so it proves nothing that was not true before.
//!
//! What does not count: an answer while the client does not take itself for a settled member (it may have learned of its loss, and told nobody
//! yet); those of a connection that was made meanwhile (it says hello first). One that came this moment (nobody may have read yet what it says)
//! counts with the next statistics, if the client still is a settled member then: the client's clocks can go so that every answer comes right
//! before the statistics, for a minute and longer.
//!
//! Known limits: while a rebalance waits for other members nothing is proven, so one that takes longer than the session makes answers stale. A
//! process that is stopped between handing a request to the kernel and reading the clock seems to have sent it later.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::{Statistics, statistics::Broker};

use super::lock;

/// By then the client has read what an answer says.
const READ_AFTER_US: i64 = 20_000;

/// See the module.
pub(super) struct Pulse {
    /// Not after the client was made, by whose age it tells the time.
    created: Instant,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    statistics: Window,
    /// Not taken yet.
    heard: Option<Instant>,
}

/// Where the last statistics ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    age_us: i64,
    answers: u64,
    /// What the last answer proves as soon as it is surely read.
    unread_us: Option<i64>,
}

impl Pulse {
    /// Of a client that is made next.
    pub(super) fn new() -> Self {
        Self { created: Instant::now(), last: Mutex::default() }
    }

    /// We are about to join: whatever the group grants us first, it grants after this moment.
    pub(super) fn begin(&self) {
        lock(&self.last).heard = Some(Instant::now());
    }

    pub(super) fn hear(&self, statistics: &Statistics) {
        let mut last = lock(&self.last);
        let (window, proven_us) = read(last.statistics, statistics);
        last.statistics = window;
        if let Some(proven_us) = proven_us {
            last.heard = Some(self.created + Duration::from_micros(proven_us));
        }
    }

    /// The last moment at which the group is proven to have had us, if it is new.
    pub(super) fn take(&self) -> Option<Instant> {
        lock(&self.last).heard.take()
    }
}

/// The client's age at the moment that these statistics prove, if they prove one; and where they end.
fn read(before: Window, statistics: &Statistics) -> (Window, Option<u64>) {
    let coordinator = statistics.brokers.values().find(|broker| broker.source == "logical");
    let answers = coordinator.map_or(0, |coordinator| coordinator.rx);
    let mut window = Window { age_us: statistics.age, answers, unread_us: None };
    let settled = statistics.cgrp.as_ref().is_some_and(|group| group.state == "up" && group.join_state == "steady");
    let coordinator = coordinator.filter(|coordinator| settled && was_connected(before, window, coordinator));
    let Some(coordinator) = coordinator else { return (window, None) };
    let sent_us = sent_us(before, window, coordinator);
    let is_read = coordinator.rxidle >= READ_AFTER_US;
    window.unread_us = sent_us.filter(|_| !is_read);
    let proven_us = sent_us.filter(|_| is_read).or(before.unread_us);
    (window, proven_us.and_then(|proven_us| u64::try_from(proven_us).ok()))
}

/// On one connection ever since the last statistics.
fn was_connected(before: Window, window: Window, coordinator: &Broker) -> bool {
    coordinator.state == "UP" && coordinator.stateage >= window.age_us - before.age_us
}

/// Not after the request was sent whose answer came last.
fn sent_us(before: Window, window: Window, coordinator: &Broker) -> Option<i64> {
    let times = coordinator.rtt.as_ref()?;
    // What is counted on one side only is being received right now.
    let answers = u64::try_from(times.cnt).ok().filter(|answers| *answers > 0 && before.answers + answers == window.answers);
    answers.map(|_| window.age_us - coordinator.rxidle - times.max)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rdkafka::statistics::{self, ConsumerGroup};

    use super::*;

    /// A second after the last statistics, three more answers, the last 200 ms ago, the slowest after 5 ms.
    fn calm() -> (Broker, ConsumerGroup) {
        let rtt = Some(statistics::Window { cnt: 3, max: 5_000, ..statistics::Window::default() });
        let (source, state) = ("logical".to_owned(), "UP".to_owned());
        let coordinator = Broker { source, state, stateage: 7_000_000, rx: 13, rxidle: 200_000, rtt, ..Broker::default() };
        (coordinator, ConsumerGroup { state: "up".into(), join_state: "steady".into(), ..ConsumerGroup::default() })
    }

    fn proven_us(change: impl FnOnce(&mut Broker, &mut ConsumerGroup)) -> Option<u64> {
        let (mut coordinator, mut group) = calm();
        change(&mut coordinator, &mut group);
        let reader = Broker { source: "learned".into(), rx: 99, ..Broker::default() };
        let brokers = HashMap::from([("b:9092/1".to_owned(), reader), ("GroupCoordinator".to_owned(), coordinator)]);
        let statistics = Statistics { age: 9_000_000, brokers, cgrp: Some(group), ..Statistics::default() };
        let (window, proven_us) = read(Window { age_us: 8_000_000, answers: 10, unread_us: None }, &statistics);
        assert_eq!(window.age_us, 9_000_000);
        proven_us
    }

    #[test]
    fn an_answer_proves_the_moment_of_its_request_and_doubtful_ones_nothing() {
        assert_eq!(proven_us(|_, _| ()), Some(8_795_000));
        let slept = |broker: &mut Broker, _: &mut ConsumerGroup| broker.rtt.as_mut().unwrap().max = 6_000_000;
        assert_eq!(proven_us(slept), Some(2_800_000), "an answer that waited while we slept is as old as its request");
        let none = |what: &str, change: fn(&mut Broker, &mut ConsumerGroup)| assert_eq!(proven_us(change), None, "{what}");
        none("the member has been told of its loss", |_, group| group.join_state = "wait-unassign-call".into());
        none("nobody knows the coordinator", |_, group| group.state = "query-coord".into());
        none("no connection", |broker, _| broker.state = "TRY_CONNECT".into());
        none("a new connection", |broker, _| broker.stateage = 999_999);
        none("no answer", |broker, _| (broker.rx, broker.rtt) = (10, Some(statistics::Window::default())));
        none("half received", |broker, _| broker.rx = 14);
        none("not read yet", |broker, _| broker.rxidle = 19_999);
        none("no coordinator", |broker, _| broker.source = "learned".into());
        none("before there was a client", |broker, _| broker.rxidle = 9_000_001);
    }

    #[test]
    fn an_answer_that_came_this_moment_counts_with_the_next_statistics() {
        let (calm, group) = calm();
        let statistics = |second: i64, rx, join_state: &str, stateage| {
            let coordinator = Broker { rx, rxidle: 1_000, stateage, ..calm.clone() };
            let cgrp = Some(ConsumerGroup { join_state: join_state.to_owned(), ..group.clone() });
            Statistics {
                age: second * 1_000_000,
                brokers: HashMap::from([("GroupCoordinator".to_owned(), coordinator)]),
                cgrp,
                ..Statistics::default()
            }
        };
        let first = Window { age_us: 8_000_000, answers: 10, unread_us: None };
        let (window, proven_us) = read(first, &statistics(9, 13, "steady", 7_000_000));
        assert_eq!(proven_us, None, "nobody may have read it yet");
        let then = |statistics| read(window, &statistics).1;
        assert_eq!(then(statistics(10, 16, "steady", 8_000_000)), Some(8_994_000), "it was read, as all the time one comes this moment");
        assert_eq!(then(statistics(10, 16, "wait-join", 8_000_000)), None, "it may have told of the loss");
        assert_eq!(then(statistics(10, 16, "steady", 900_000)), None, "a new connection");
    }

    #[test]
    fn what_was_heard_is_taken_once() {
        let pulse = Pulse::new();
        assert_eq!(pulse.take(), None);
        let before = Instant::now();
        pulse.begin();
        let begun = pulse.take().expect("we joined no earlier");
        assert!(begun >= before);
        assert_eq!(pulse.take(), None);
        let (coordinator, group) = calm();
        let brokers = HashMap::from([("GroupCoordinator".to_owned(), coordinator)]);
        let statistics = |age, rx| {
            let mut brokers = brokers.clone();
            brokers.get_mut("GroupCoordinator").unwrap().rx = rx;
            Statistics { age, brokers, cgrp: Some(group.clone()), ..Statistics::default() }
        };
        pulse.hear(&statistics(5_000_000, 10));
        assert_eq!(pulse.take(), None, "the first ones have nothing before them to compare with");
        pulse.hear(&statistics(6_000_000, 13));
        assert_eq!(pulse.take(), Some(pulse.created + Duration::from_micros(5_795_000)));
    }
}
