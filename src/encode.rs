//! From a change to the record of the sink, and from an HTTP write to the source value that [`crate::decode`] reads back.
//!
//! On the workers, after the dataflow; the source values in http. The same change gives the same bytes.

use serde::{Serialize, Serializer};
use statehouse_dataflows::{
    changes::{ChangeRef, VotesRef},
    vocabulary::{Millis, Name, Offset, Partition},
};

use crate::{config::SinkFormat, log::SinkRecord};

/// The header of a tombstone that says why.
pub const CAUSE_HEADER: &str = "statehouse-cause";
/// The header of a tombstone that says what was published before; absent where nothing was.
pub const PREVIOUS_HEADER: &str = "statehouse-previous";
/// The header of a tombstone that says its revision.
pub const REVISION_HEADER: &str = "statehouse-revision";

/// A change lists the weights of this many states at most, the heaviest. Else enough long states on one object would make a record that
/// the sink does not take, and its epoch would fail for ever.
const STATES_LISTED_MAX: usize = 64;

/// Writes changes as the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    format: SinkFormat,
}

impl Encoder {
    /// An encoder for this format.
    #[must_use]
    pub fn new(format: SinkFormat) -> Self {
        Self { format }
    }

    /// The change's record: what is published as a JSON object or as the plain state, "not published" as a null value with headers.
    #[must_use]
    pub fn encode(&self, change: &ChangeRef<'_>) -> SinkRecord {
        let key = Name::from(change.object);
        let Some(state) = change.state else { return SinkRecord { key, value: None, headers: headers(change) } };
        let value = match self.format {
            SinkFormat::Full => full(change, state),
            SinkFormat::State => state.as_bytes().to_vec(),
        };
        SinkRecord { key, value: Some(value), headers: Vec::new() }
    }
}

fn headers(change: &ChangeRef<'_>) -> Vec<(&'static str, String)> {
    let previous = change.previous.map(|previous| (PREVIOUS_HEADER, previous.to_string()));
    let mut headers = vec![(CAUSE_HEADER, change.cause.as_str().to_owned())];
    headers.extend(previous);
    headers.push((REVISION_HEADER, change.revision.to_string()));
    headers
}

/// A change on the sink. The order of the fields is part of the format, for people's eyes.
#[derive(Serialize)]
struct Full<'a> {
    object: &'a str,
    state: &'a str,
    previous: Option<&'a str>,
    since: Millis,
    at: Millis,
    cause: &'a str,
    rule: &'a str,
    tally: Tally<'a>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
}

#[derive(Serialize)]
struct Tally<'a> {
    #[serde(serialize_with = "weights")]
    votes: VotesRef<'a>,
    live: i64,
    /// How many states are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
}

#[derive(Serialize)]
struct Source {
    partition: Partition,
    offset: Offset,
}

fn full(change: &ChangeRef<'_>, state: &str) -> Vec<u8> {
    let full = Full {
        object: change.object,
        state,
        previous: change.previous,
        since: change.since_ms,
        at: change.at_ms,
        cause: change.cause.as_str(),
        rule: change.rule,
        tally: Tally {
            votes: change.tally,
            live: change.tally.live,
            more: change.tally.weights.len().checked_sub(STATES_LISTED_MAX).filter(|more| *more > 0),
        },
        revision: change.revision,
        source: change.offset.map(|offset| Source { partition: change.partition, offset }),
    };
    written(&full)
}

fn weights<S: Serializer>(votes: &VotesRef<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(votes.weights().take(STATES_LISTED_MAX))
}

/// A report as a source value; no state withdraws. `ttl` is a duration with a unit, such as `"30s"`.
#[must_use]
pub fn report_json(agent: &str, state: Option<&str>, ts_ms: Option<Millis>, ttl: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Report<'a> {
        agent: &'a str,
        state: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ts: Option<Millis>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl: Option<&'a str>,
    }
    written(&Report { agent, state, ts: ts_ms, ttl })
}

/// An override as a source value; no state lifts. `for_` is a duration with a unit, such as `"1h"`.
#[must_use]
pub fn override_json(state: Option<&str>, for_: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Override<'a> {
        r#type: &'a str,
        state: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#for: Option<&'a str>,
    }
    written(&Override { r#type: "override", state, r#for: for_ })
}

fn written(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(320); // a change with two states and names of ordinary length
    serde_json::to_writer(&mut bytes, value).expect("strings and numbers are always JSON, and memory takes it");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use statehouse_dataflows::vocabulary::{Cause, Event};

    use super::*;
    use crate::{
        chunk::PIECE_BYTES_MAX,
        config::{STATE_BYTES_MAX, SourceConfig},
        decode::{Decoder, Scratch},
        log::Record,
    };

    /// A change whose tally names these states.
    fn change(states: &[Name]) -> ChangeRef<'_> {
        ChangeRef {
            seq: 7,
            partition: 3,
            object: "site \"1\"",
            state: Some("attack"),
            previous: None,
            since_ms: 1_000,
            at_ms: 1_100,
            cause: Cause::Vote,
            rule: "majority",
            tally: VotesRef { weights: &[(1, 2), (0, 1)], states, live: 4 },
            revision: 42,
            offset: Some(99),
        }
    }

    fn states() -> [Name; 2] {
        ["a\nb".into(), "attack".into()]
    }

    fn text(record: SinkRecord) -> String {
        String::from_utf8(record.value.expect("a value")).expect("UTF-8")
    }

    #[test]
    fn full_says_everything_in_order() {
        let encoder = Encoder::new(SinkFormat::Full);
        let record = encoder.encode(&change(&states()));
        assert_eq!((&*record.key, record.headers.len()), ("site \"1\"", 0));
        let expected = r#"{"object":"site \"1\"","state":"attack","previous":null,"since":1000,"at":1100,"cause":"vote","rule":"majority","tally":{"votes":{"attack":2,"a\nb":1},"live":4},"revision":42,"source":{"partition":3,"offset":99}}"#;
        assert_eq!(text(record), expected);

        let states = states();
        let by_tick = ChangeRef { offset: None, previous: Some("calm"), cause: Cause::Override, ..change(&states) };
        let expected = r#"{"object":"site \"1\"","state":"attack","previous":"calm","since":1000,"at":1100,"cause":"override","rule":"majority","tally":{"votes":{"attack":2,"a\nb":1},"live":4},"revision":42}"#;
        assert_eq!(text(encoder.encode(&by_tick)), expected);
    }

    #[test]
    fn a_change_fits_its_record_whatever_is_claimed() {
        let state = |n: usize| Name::from(format!("{n:04}{}", "\u{1}".repeat(STATE_BYTES_MAX - 4))); // six bytes each in JSON
        let states: Vec<Name> = (0..5_000).map(state).collect();
        let weights: Vec<(u32, i64)> = (0..5_000).map(|n| (n, 1)).collect();
        let tally = |count| VotesRef { weights: &weights[..count], states: &states, live: 5_000 };
        let object = "\u{1}".repeat(32 << 10);
        let long = ChangeRef { object: &object, state: Some(&states[0]), previous: Some(&states[1]), ..change(&states) };
        let record = Encoder::new(SinkFormat::Full).encode(&ChangeRef { tally: tally(5_000), ..long });
        assert!(record.key.len() + record.value.as_ref().map_or(0, Vec::len) <= PIECE_BYTES_MAX, "what the sink is required to take");
        assert!(text(record).contains("\"live\":5000,\"more\":4936}"));
        assert!(!text(Encoder::new(SinkFormat::Full).encode(&ChangeRef { tally: tally(64), ..long })).contains("more"));
    }

    #[test]
    fn state_is_the_plain_label() {
        assert_eq!(text(Encoder::new(SinkFormat::State).encode(&change(&states()))), "attack");
    }

    #[test]
    fn not_published_is_a_tombstone_with_headers() {
        for format in [SinkFormat::Full, SinkFormat::State] {
            let states = states();
            let removal = ChangeRef { state: None, previous: Some("attack"), cause: Cause::Purge, ..change(&states) };
            let record = Encoder::new(format).encode(&removal);
            let expected = [("statehouse-cause", "purge"), ("statehouse-previous", "attack"), ("statehouse-revision", "42")]
                .map(|(k, v)| (k, v.to_owned()));
            assert_eq!((record.value, record.headers), (None, expected.to_vec()));
        }
    }

    fn decoded(value: &[u8], check: impl FnOnce(Event<'_>)) {
        let decoder = Decoder::new(&SourceConfig::default()).expect("defaults are valid");
        let record = Record { offset: 1, timestamp_ms: 5_000, key: None, value: Some(0..value.len()), agent: None, canonical: true };
        check(decoder.decode(&record, value, &mut Scratch::default()).expect("what we write we can read"));
    }

    proptest! {
        #[test]
        fn what_http_writes_is_what_is_read(agent in ".{1,40}", state in proptest::option::of(".{1,40}"), ts_ms in 0..9_000_i64, ttl_s in 1..99_i64) {
            let ttl = format!("{ttl_s}s");
            decoded(&report_json(&agent, state.as_deref(), Some(ts_ms), Some(&ttl)), |event| match &state {
                Some(state) => assert_eq!(event, Event::Report { agent: &agent, state, ts_ms, ttl_ms: Some(ttl_s * 1_000) }),
                None => assert_eq!(event, Event::Withdraw { agent: &agent, ts_ms }),
            });
            decoded(&report_json(&agent, Some("x"), None, None), |event| {
                assert_eq!(event, Event::Report { agent: &agent, state: "x", ts_ms: 5_000, ttl_ms: None });
            });
            decoded(&override_json(state.as_deref(), Some(&ttl)), |event| match &state {
                Some(state) => assert_eq!(event, Event::Override { state, for_ms: Some(ttl_s * 1_000) }),
                None => assert_eq!(event, Event::Lift),
            });
            decoded(&override_json(Some("x"), None), |event| assert_eq!(event, Event::Override { state: "x", for_ms: None }));
        }
    }
}
