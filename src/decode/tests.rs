//! Records as people and programs write them, and what they mean.

use std::time::Duration;

use proptest::prelude::*;
use statehouse_dataflows::vocabulary::{TICK_MS, due_at};

use super::*;

/// A record's parts, one after the other, as a batch holds them.
struct Sample {
    record: Record,
    bytes: Vec<u8>,
}

fn sample(value: &[u8]) -> Sample {
    let record = Record { offset: 7, timestamp_ms: 10_000, key: None, value: Some(0..value.len()), agent: None, canonical: false };
    Sample { record, bytes: value.to_vec() }
}

impl Sample {
    fn with_header(mut self, agent: &[u8]) -> Self {
        self.record.agent = Some(self.bytes.len()..self.bytes.len() + agent.len());
        self.bytes.extend_from_slice(agent);
        self
    }

    fn with_key(mut self, key: &[u8]) -> Self {
        self.record.key = Some(self.bytes.len()..self.bytes.len() + key.len());
        self.bytes.extend_from_slice(key);
        self
    }

    fn by(self, config: &SourceConfig) -> String {
        let decoder = Decoder::new(config).expect("the test's configuration is valid");
        let mut scratch = Scratch { agent: "left over".into(), state: "left over".into() };
        match decoder.decode(&self.record, &self.bytes, &mut scratch) {
            Ok(event) => shown(event),
            Err(reject) => reject.reason.as_str().to_owned(),
        }
    }
}

/// An event in few words: `a=x @ts ttl`, `a withdraws @ts`, `pin x for`, `lift`, `purge`.
fn shown(event: Event<'_>) -> String {
    let millis = |millis: Option<Millis>| millis.map_or_else(String::new, |ms| format!(" {ms}"));
    match event {
        Event::Report { agent, state, ts_ms, ttl_ms } => format!("{agent}={state} @{ts_ms}{}", millis(ttl_ms)),
        Event::Withdraw { agent, ts_ms } => format!("{agent} withdraws @{ts_ms}"),
        Event::Override { state, for_ms } => format!("pin {state}{}", millis(for_ms)),
        Event::Lift => "lift".to_owned(),
        Event::Purge => "purge".to_owned(),
    }
}

/// Checks rows of (value, what it means) under one configuration.
fn check(config: &SourceConfig, rows: &[(&str, &str)]) {
    for (value, expected) in rows {
        assert_eq!(&sample(value.as_bytes()).by(config), expected, "of {value}");
    }
}

#[test]
fn reports_and_withdrawals() {
    check(
        &SourceConfig::default(),
        &[
            (r#"{"agent":"a","state":"x","ts":9000,"ttl":"30s"}"#, "a=x @9000 30000"),
            (r#"{"agent":"a","state":"x"}"#, "a=x @10000"),
            (r#" { "state" : "x" , "agent" : "a" } "#, "a=x @10000"),
            (r#"{"agent":"a","state":"x","type":"report","ts":null,"ttl":null}"#, "a=x @10000"),
            (r#"{"agent":"a","state":"x","extra":{"state":[1,{"agent":2}]},"more":null}"#, "a=x @10000"),
            (r#"{"agent":"a","state":null,"ts":5}"#, "a withdraws @5"),
            (r#"{"agent":17,"state":"x"}"#, "17=x @10000"),
            (r#"{"agent":"a"}"#, "no_state"),
            (r#"{"agent":"a","state":""}"#, "no_state"),
            (r#"{"state":"x"}"#, "no_agent"),
            (r#"{"agent":null,"state":"x"}"#, "no_agent"),
            (r#"{"agent":"","state":"x"}"#, "no_agent"),
            (r#"{"agent":{"name":"a"},"state":"x"}"#, "bad_agent"),
            (r#"{"agent":true,"state":"x"}"#, "bad_agent"),
        ],
    );
}

#[test]
fn states_that_are_no_strings_are_their_json_text() {
    check(
        &SourceConfig::default(),
        &[
            (r#"{"agent":"a","state":1}"#, "a=1 @10000"),
            (r#"{"agent":"a","state":1.50e3}"#, "a=1.50e3 @10000"),
            (r#"{"agent":"a","state":false}"#, "a=false @10000"),
            (r#"{"agent":"a","state": { "b" : [ 1 , "c d" ] , "a" : "\" e" } }"#, r#"a={"b":[1,"c d"],"a":"\" e"} @10000"#),
            (r#"{"agent":"a","state":[]}"#, "a=[] @10000"),
        ],
    );
}

#[test]
fn times() {
    check(
        &SourceConfig { max_future_skew: Duration::from_secs(5), ..SourceConfig::default() },
        &[
            (r#"{"agent":"a","state":"x","ts":0}"#, "a=x @0"),
            (r#"{"agent":"a","state":"x","ts":1234.9}"#, "a=x @1234"),
            (r#"{"agent":"a","state":"x","ts":1.5e3}"#, "a=x @1500"),
            (r#"{"agent":"a","state":"x","ts":15000}"#, "a=x @15000"),
            (r#"{"agent":"a","state":"x","ts":15001}"#, "a=x @15000"),
            (r#"{"agent":"a","state":"x","ts":99999999999999999999999}"#, "a=x @15000"),
            (r#"{"agent":"a","state":"x","ts":1e999}"#, "a=x @15000"),
            (r#"{"agent":"a","state":"x","ts":-1}"#, "bad_ts"),
            (r#"{"agent":"a","state":"x","ts":-0.5}"#, "bad_ts"),
            (r#"{"agent":"a","state":"x","ts":-99999999999999999999999}"#, "bad_ts"),
            (r#"{"agent":"a","state":"x","ts":"9000"}"#, "bad_ts"),
            (r#"{"agent":"a","state":"x","ts":[9000]}"#, "bad_ts"),
            (r#"{"agent":"a","state":"x","ts":true}"#, "bad_ts"),
        ],
    );
    let mut late = sample(br#"{"agent":"a","state":"x","ts":9223372036854775807}"#);
    late.record.timestamp_ms = Millis::MAX;
    assert_eq!(late.by(&SourceConfig::default()), format!("a=x @{}", Millis::MAX), "no overflow");
}

#[test]
fn durations() {
    check(
        &SourceConfig::default(),
        &[
            (r#"{"agent":"a","state":"x","ttl":250}"#, "a=x @10000 250"),
            (r#"{"agent":"a","state":"x","ttl":"1h 30m"}"#, "a=x @10000 5400000"),
            (r#"{"agent":"a","state":"x","ttl":"1us"}"#, "a=x @10000 1"),
            (r#"{"agent":"a","state":"x","ttl":"\u0033s"}"#, "a=x @10000 3000"),
            (r#"{"agent":"a","state":"x","ttl":9223372036854775807}"#, "a=x @10000 3155760000000"),
            (r#"{"agent":"a","state":"x","ttl":"9999years"}"#, "a=x @10000 3155760000000"),
            (r#"{"agent":"a","state":"x","ttl":0}"#, "bad_ttl"),
            (r#"{"agent":"a","state":"x","ttl":"0s"}"#, "bad_ttl"),
            (r#"{"agent":"a","state":"x","ttl":-5}"#, "bad_ttl"),
            (r#"{"agent":"a","state":"x","ttl":"30"}"#, "bad_ttl"),
            (r#"{"agent":"a","state":"x","ttl":"soon"}"#, "bad_ttl"),
            (r#"{"agent":"a","state":"x","ttl":{}}"#, "bad_ttl"),
        ],
    );
}

/// Whoever can write to the source can ask for any duration: none of them makes a due time overflow, or lie in the past.
#[test]
fn forged_durations_are_bounded() {
    let longest = format!("pin y {DURATION_MS_MAX}");
    let forged = ["9223372036854775807", "99999999999999999999999", "1e18", "1e999", "\"292277026596years\"", "\"18446744073709551615s\""];
    for text in forged {
        for canonical in [false, true] {
            let mut record = sample(format!(r#"{{"type":"override","state":"y","for":{text}}}"#).as_bytes());
            record.record.canonical = canonical;
            assert_eq!(record.by(&SourceConfig::default()), longest, "of {text}");
        }
    }
    for text in ["-9223372036854775808", "-1e999", "\"99999999999999999999years\"", "\"-1s\""] {
        let record = sample(format!(r#"{{"type":"override","state":"y","for":{text}}}"#).as_bytes());
        assert_eq!(record.by(&SourceConfig::default()), "bad_for", "of {text}");
    }
    let year_9999_ms = 253_402_300_799_999;
    for clock_ms in [0, year_9999_ms, Millis::MAX - DURATION_MS_MAX] {
        let due_ms = due_at(clock_ms, DURATION_MS_MAX);
        assert!(due_ms > clock_ms && due_ms - clock_ms <= DURATION_MS_MAX + TICK_MS, "{clock_ms} → {due_ms}");
    }
}

#[test]
fn overrides() {
    check(
        &SourceConfig::default(),
        &[
            (r#"{"type":"override","state":"y","for":"1h"}"#, "pin y 3600000"),
            (r#"{"type":"override","state":"y"}"#, "pin y"),
            (r#"{"type":"override","state":"y","for":null,"agent":{}}"#, "pin y"),
            (r#"{"type":"\u006fverride","state":null}"#, "lift"),
            (r#"{"type":"override"}"#, "no_state"),
            (r#"{"type":"override","state":"y","for":"ages"}"#, "bad_for"),
            (r#"{"type":"overide","state":"y"}"#, "bad_type"),
            (r#"{"type":1,"state":"y"}"#, "bad_type"),
        ],
    );
}

#[test]
fn json_as_it_comes() {
    let deep = format!(r#"{{"agent":"a","junk":{}{},"state":"x"}}"#, "[".repeat(30_000), "]".repeat(30_000));
    check(
        &SourceConfig::default(),
        &[
            // Of two fields with the same name the last counts, however it is written.
            (r#"{"agent":"a","agent":"b","state":"x","\u0073tate":"y"}"#, "b=y @10000"),
            (r#"{"ag\u0065nt":"\u0061\n\"","state":"\ud83d\ude00"}"#, "a\n\"=😀 @10000"),
            (r#"{"agent":"a","state":"\ud83d"}"#, "not_json"), // half of a character
            (&deep, "a=x @10000"),
            (&deep[..deep.len() - 1], "not_json"),
            ("", "not_json"),
            ("null", "not_json"),
            ("[]", "not_json"),
            ("\"x\"", "not_json"),
            ("{", "not_json"),
            ("{}", "no_state"),
            (r#"{"agent":"a","state":"x"}{}"#, "not_json"),
            (r#"{"agent":"a","state":"x",}"#, "not_json"),
            (r#"{'agent':'a'}"#, "not_json"),
            (r#"{"agent":"a","state":nan}"#, "not_json"),
            (r#"{"agent":"a","state":00}"#, "not_json"),
        ],
    );
}

#[test]
fn what_is_not_utf8() {
    let config = SourceConfig::default();
    assert_eq!(sample(b"{\"agent\":\"a\",\"state\":\"x\",\"junk\":\"\xff\"}").by(&config), "not_utf8");
    let text = SourceConfig { format: SourceFormat::Text, agent: AgentFrom::Header { header: "who".into() }, ..SourceConfig::default() };
    assert_eq!(sample(b"\xff").with_header(b"a").by(&text), "not_utf8");
    assert_eq!(sample(b"x").with_header(b"\xff").by(&text), "bad_agent");
}

#[test]
fn limits() {
    let config = SourceConfig { max_value_bytes: 2_000, max_agent_bytes: 3, max_key_bytes: 3, ..SourceConfig::default() };
    let with_state = |bytes: usize| sample(format!(r#"{{"agent":"abc","state":"{}"}}"#, "x".repeat(bytes)).as_bytes());
    assert_eq!(with_state(1_024).by(&config), format!("abc={} @10000", "x".repeat(1_024)));
    assert_eq!(with_state(1_025).by(&config), "state_too_large");
    assert_eq!(with_state(2_000).by(&config), "too_large");
    assert_eq!(sample(br#"{"agent":"abcd","state":"x"}"#).by(&config), "agent_too_large");

    let decoder = Decoder::new(&config).expect("valid");
    let key = |key: &[u8]| {
        let Sample { record, bytes } = sample(b"").with_key(key);
        decoder.key(&record, &bytes).map(str::to_owned).map_err(|reject| reject.reason)
    };
    assert_eq!(key(b"abc"), Ok("abc".to_owned()));
    assert_eq!(key(b""), Err(Reason::NoKey));
    assert_eq!(key(b"abcd"), Err(Reason::KeyTooLarge));
    assert_eq!(key(b"\xc3"), Err(Reason::KeyNotUtf8));
    assert_eq!(decoder.key(&sample(b"").record, b"").map_err(|reject| reject.reason), Err(Reason::NoKey));
}

#[test]
fn tombstones_and_negative_timestamps() {
    let mut tombstone = sample(b"");
    tombstone.record.value = None;
    assert_eq!(tombstone.by(&SourceConfig::default()), "purge");
    let mut before_time = sample(br#"{"agent":"a","state":"x"}"#);
    before_time.record.timestamp_ms = -1;
    assert_eq!(before_time.by(&SourceConfig::default()), "negative_timestamp");
}

#[test]
fn fields_where_the_configuration_says() {
    let nested = SourceConfig {
        agent: AgentFrom::Pointer("/meta/from/0".into()),
        state: "/data/a~1b~0".into(),
        ts: "/meta/ts".into(),
        r#type: String::new(),
        ..SourceConfig::default()
    };
    check(
        &nested,
        &[
            (r#"{"meta":{"from":["a","b"],"ts":9},"data":{"a/b~":"x"},"type":"whatever"}"#, "a=x @9"),
            (r#"{"meta":{"from":["a"]},"data":{"a/b~":"x","a/b~":null}}"#, "a withdraws @10000"),
            (r#"{"meta":{"from":[]},"data":{"a/b~":"x"}}"#, "no_agent"),
            (r#"{"meta":{"from":"a"},"data":{"a/b~":"x"}}"#, "no_agent"),
            (r#"{"meta":{"from":["a"]},"data":"x"}"#, "no_state"),
            (r#"{"meta":{"from":["a"]},"data":{"a/b~":"x"},"meta":7}"#, "no_agent"), // the last one counts
        ],
    );
    let header = SourceConfig { agent: AgentFrom::Header { header: "who".into() }, ..SourceConfig::default() };
    assert_eq!(sample(br#"{"agent":"other","state":"x"}"#).with_header(b"a").by(&header), "a=x @10000");
    assert_eq!(sample(br#"{"type":"override","state":"x"}"#).by(&header), "pin x", "an override needs no agent");
    check(&header, &[(r#"{"agent":"other","state":"x"}"#, "no_agent")]);
    let fixed = SourceConfig { agent: AgentFrom::Fixed { fixed: "me".into() }, ..SourceConfig::default() };
    check(&fixed, &[(r#"{"state":"x","ttl":5}"#, "me=x @10000 5")]);
}

#[test]
fn texts() {
    let text = SourceConfig { format: SourceFormat::Text, agent: AgentFrom::Fixed { fixed: "me".into() }, ..SourceConfig::default() };
    let long = "x".repeat(1_025);
    check(
        &text,
        &[
            ("up", "me=up @10000"),
            (" {\"state\":1}\n", "me= {\"state\":1}\n @10000"),
            ("", "me withdraws @10000"),
            (&long, "state_too_large"),
        ],
    );
    let mut tombstone = sample(b"");
    tombstone.record.value = None;
    assert_eq!(tombstone.by(&text), "purge");
}

#[test]
fn http_writes_are_json_in_the_default_mapping() {
    let text = SourceConfig { format: SourceFormat::Text, agent: AgentFrom::Fixed { fixed: "me".into() }, ..SourceConfig::default() };
    let nested = SourceConfig { state: "/a/b".into(), agent: AgentFrom::Pointer("/c".into()), ..SourceConfig::default() };
    for config in [text, nested] {
        let mut canonical = sample(br#"{"agent":"you","state":"x","ttl":"1s"}"#);
        canonical.record.canonical = true;
        assert_eq!(canonical.by(&config), "you=x @10000 1000");
    }
}

#[test]
fn configurations_that_cannot_be() {
    let refused = |config: SourceConfig| Decoder::new(&config).expect_err("refused").to_string();
    let default = SourceConfig::default;
    assert!(refused(SourceConfig { state: "state".into(), ..default() }).starts_with("source.state = \"state\": write a JSON pointer"));
    assert!(refused(SourceConfig { state: String::new(), ..default() }).starts_with("source.state"));
    assert!(refused(SourceConfig { agent: AgentFrom::Pointer("/a~2".into()), ..default() }).contains("~0 for ~"));
    assert!(
        refused(SourceConfig { format: SourceFormat::Text, ..default() }).starts_with("source.agent = \"/agent\": a text has no agent")
    );
    assert!(refused(SourceConfig { agent: AgentFrom::Fixed { fixed: String::new() }, ..default() }).starts_with("source.agent.fixed"));
}

#[test]
fn names_of_reasons_are_labels() {
    for reason in Reason::ALL {
        assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{reason:?}");
    }
    let long = Reject::new(Reason::NotJson, "é".repeat(1_000));
    assert_eq!(long.detail.chars().count(), 300);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_rejected(value in proptest::collection::vec(any::<u8>(), 0..200), timestamp_ms in any::<i64>()) {
        never_panics(&value, timestamp_ms);
    }

    #[test]
    fn nearly_json_decodes_or_is_rejected(
        value in r#"\{("agent"|"state"|"ts"|"ttl"|"type"|"for"|"\\u0061"|:|,|\[|\]|\{|\}|"a"|"30s"|-?[0-9]{1,25}|1e9|null|true|"override"| ){0,14}\}"#,
    ) {
        never_panics(value.as_bytes(), 10_000);
    }

    /// What serde_json makes of a state and what is decoded of it are the same value, however it is laid out.
    #[test]
    fn json_states_keep_their_value(numbers in proptest::collection::vec(any::<i32>(), 0..5), text in ".{0,20}") {
        let state = serde_json::json!({ "numbers": numbers, "text": text });
        let value = serde_json::to_string_pretty(&serde_json::json!({ "agent": "a", "state": state })).expect("JSON");
        let (Sample { record, bytes }, mut scratch) = (sample(value.as_bytes()), Scratch::default());
        let decoder = Decoder::new(&SourceConfig::default()).expect("valid");
        let Ok(Event::Report { state: decoded, .. }) = decoder.decode(&record, &bytes, &mut scratch) else { panic!("a report") };
        prop_assert_eq!(decoded, serde_json::to_string(&state).expect("JSON"));
    }
}

fn never_panics(value: &[u8], timestamp_ms: Millis) {
    let nested = SourceConfig { agent: AgentFrom::Pointer("/agent/0".into()), state: "/state/state".into(), ..SourceConfig::default() };
    let text = SourceConfig { format: SourceFormat::Text, agent: AgentFrom::Header { header: "who".into() }, ..SourceConfig::default() };
    for config in [SourceConfig::default(), nested, text] {
        let mut sample = sample(value).with_header(value).with_key(value);
        sample.record.timestamp_ms = timestamp_ms;
        let (decoder, mut scratch) = (Decoder::new(&config).expect("valid"), Scratch::default());
        let key = decoder.key(&sample.record, &sample.bytes);
        assert!(key.is_ok_and(|key| key.as_bytes() == value) || std::str::from_utf8(value).is_err() || value.is_empty());
        if let Ok(Event::Report { agent, state, ts_ms, ttl_ms }) = decoder.decode(&sample.record, &sample.bytes, &mut scratch) {
            assert!((1..=256).contains(&agent.len()) && (1..=STATE_BYTES_MAX).contains(&state.len()) && ts_ms >= 0);
            assert!(ttl_ms.is_none_or(|ttl_ms| (1..=DURATION_MS_MAX).contains(&ttl_ms)));
        }
    }
}
