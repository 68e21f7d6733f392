//! How the client's times hang together: those that follow from `kafka.session_timeout_ms` and `kafka.transaction_timeout_ms`, and those
//! of `[kafka.properties]` that would not go with them.
//!
//! From [`settings`](super::settings). A call of the client that takes too long is given up by whoever waits for it:
//!
//! | call | thread | given up after |
//! |---|---|---|
//! | all of a transaction | `kafka-commit`, of its own | twice the transaction timeout; thread and producer are abandoned, and fenced by the next |
//! | start of a producer | the same | 6 s, and more with each try that fails, up to 24 s; the same |
//! | registration; its end after a death | commit; restore | 5 s; some 8 s in four tries; the clients are dropped on a thread of their own |
//! | committed offset | restore | 1 s a try; asked again, for 30 s, then by a new restore |
//! | ends of a partition, offsets of a time, members of the group | restore | 5 s each, by the client; then by a new restore |
//! | records of the checkpoint, an open transaction before its end | restore | 30 s of silence; then by a new restore |
//! | poll, assign, pause, seek, membership | pump, commit | at once: the client asks nobody for them |
//! | an HTTP write | the client's | 30 s; its writer hears "maybe" |
//! | members of the group and ends of partitions, for copies | standby | 1 s, 0.5 s; asked again |
//! | leaving the group | pump | 5 s; not closed, but left to the end of the process |
//! | topics, at the start | whoever opens the log | 5 s or 10 s each; asked again |

use std::{collections::BTreeMap, time::Duration};

use crate::log::LogError;

/// Members learn of a rebalance by heartbeat: 0.2 s for a handover instead of the default's 1 s, 1.1 s to join instead of 4.
const HEARTBEAT_MS: u128 = 300;
/// They are long texts where there are many partitions.
const STATISTICS_MS: u128 = 1_000;
/// The client's default.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// How often the member says that it lives: several times within a session, however short.
pub(super) fn heartbeat_ms(session: Duration) -> u128 {
    (session.as_millis() / 4).min(HEARTBEAT_MS)
}

/// How often it is looked whether the group still has us: with a few heartbeats, several times within a session.
pub(super) fn statistics_ms(session: Duration) -> u128 {
    (session.as_millis() / 10).min(STATISTICS_MS)
}

/// After so long without a poll, or without an answer to a rebalance, the group lets go of us. An epoch that hangs may keep a rebalance waiting
/// until it is given up.
pub(super) fn max_poll_interval(session: Duration, transaction: Duration) -> Duration {
    MAX_POLL_INTERVAL.max(session).max(given_up_after(transaction) + Duration::from_secs(30))
}

/// When a transaction that does not end is abandoned: its own timeout ends every call that can be ended; twice that is a hang.
pub(super) fn given_up_after(transaction: Duration) -> Duration {
    transaction * 2
}

/// Looks whether the times among the passed-through properties go with ours.
///
/// # Errors
/// When one doesn't.
pub(super) fn check(properties: &BTreeMap<String, String>, session: Duration, transaction: Duration) -> Result<(), LogError> {
    let (session_ms, transaction_ms) = (session.as_millis(), transaction.as_millis());
    // What is no number the client refuses itself.
    let given = |name: &str| properties.get(name).and_then(|value| value.parse::<u128>().ok());
    let refuse = |name: &str, value: u128, fix: String| {
        Err(LogError::Setting(format!("kafka.properties: \"{name}\" = {value}: {fix}, or remove it")))
    };
    match given("heartbeat.interval.ms") {
        Some(value) if value * 3 > session_ms => {
            let fix = format!("set at most a third of kafka.session_timeout_ms ({session_ms}), or a single late heartbeat loses the group");
            return refuse("heartbeat.interval.ms", value, fix);
        }
        _ => {}
    }
    match given("max.poll.interval.ms") {
        Some(value) if value < session_ms => {
            return refuse("max.poll.interval.ms", value, format!("set at least kafka.session_timeout_ms ({session_ms})"));
        }
        _ => {}
    }
    match given("socket.timeout.ms") {
        Some(value) if value > transaction_ms => {
            let fix = format!("set at most kafka.transaction_timeout_ms ({transaction_ms}), or a lost answer outlasts its transaction");
            refuse("socket.timeout.ms", value, fix)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_do_not_go_together_are_refused() {
        const SESSION: Duration = Duration::from_secs(3);
        const TRANSACTION: Duration = Duration::from_secs(2);
        for (name, value, refused) in [
            ("heartbeat.interval.ms", "1000", None),
            ("heartbeat.interval.ms", "1001", Some("at most a third of kafka.session_timeout_ms (3000)")),
            ("max.poll.interval.ms", "3000", None),
            ("max.poll.interval.ms", "2999", Some("at least kafka.session_timeout_ms (3000)")),
            ("socket.timeout.ms", "2000", None),
            ("socket.timeout.ms", "2001", Some("at most kafka.transaction_timeout_ms (2000)")),
            ("socket.timeout.ms", "soon", None),
        ] {
            let properties = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let said = check(&properties, SESSION, TRANSACTION).err().map(|error| error.to_string());
            match refused {
                None => assert_eq!(said, None, "{name} = {value}"),
                Some(why) => {
                    let said = said.expect("refused");
                    assert!(said.contains(why) && said.contains(name) && said.contains(value), "{said}");
                }
            }
        }
    }

    #[test]
    fn a_rebalance_outlasts_an_epoch_that_hangs() {
        for (session_s, transaction_s) in [(1, 1), (10, 10), (1_800, 10), (10, 900)] {
            let (session, transaction) = (Duration::from_secs(session_s), Duration::from_secs(transaction_s));
            assert!(heartbeat_ms(session) * 3 <= session.as_millis());
            let longest = max_poll_interval(session, transaction);
            assert!(longest >= session && longest > given_up_after(transaction), "{session_s} {transaction_s}");
        }
    }
}
