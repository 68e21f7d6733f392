//! From what a client wants written to a source record, judged by the decoder that will read it back: what is accepted here is no reject
//! there, and means the same as if an agent had sent it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::problem::{self, Problem};
use crate::{
    decode::{Decoder, Reason, Reject, Scratch},
    encode::{override_json, report_json},
    log,
};

/// A record that the source will take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) object: String,
    /// None: a purge.
    pub(super) value: Option<Vec<u8>>,
}

/// A source value in the default mapping, as typed, perhaps with its object. Stricter than the source in one thing: a field that is not
/// known, stands twice or has no effect is refused, as it is likely a mistake that somebody can still correct.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Typed<'a> {
    #[serde(skip_serializing)]
    object: Option<String>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    agent: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    state: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    ts: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    ttl: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    r#for: Option<&'a RawValue>,
}

/// Keeps a null apart from a field that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Write {
    /// The body of `PUT …/reports/{agent}`: `{"state", "ts"?, "ttl"?}`.
    pub(super) fn report(decoder: &Decoder, object: String, agent: &str, body: &[u8]) -> Result<Self, Problem> {
        let mut typed = Typed::read(body)?;
        typed.without(&["object", "agent", "type", "for"], "the body of a report")?;
        typed.pins_down("to withdraw a report, DELETE it")?;
        let agent = raw(agent);
        typed.agent = Some(&agent);
        Self::judged(decoder, object, Some(typed.json()))
    }

    /// `DELETE …/reports/{agent}`.
    pub(super) fn withdrawal(decoder: &Decoder, object: String, agent: &str, ts_ms: Option<i64>) -> Result<Self, Problem> {
        Self::judged(decoder, object, Some(report_json(agent, None, ts_ms, None)))
    }

    /// The body of `PUT …/override`: `{"state", "for"?}`.
    pub(super) fn pin(decoder: &Decoder, object: String, body: &[u8]) -> Result<Self, Problem> {
        let mut typed = Typed::read(body)?;
        typed.without(&["object", "agent", "type", "ts", "ttl"], "the body of an override")?;
        typed.pins_down("to lift an override, DELETE it")?;
        let kind = raw("override");
        typed.r#type = Some(&kind);
        Self::judged(decoder, object, Some(typed.json()))
    }

    /// `DELETE …/override`.
    pub(super) fn lift(decoder: &Decoder, object: String) -> Result<Self, Problem> {
        Self::judged(decoder, object, Some(override_json(None, None)))
    }

    /// `DELETE` of an object.
    pub(super) fn purge(decoder: &Decoder, object: String) -> Result<Self, Problem> {
        Self::judged(decoder, object, None)
    }

    /// A line of `POST /v1/reports`: a source value with its object.
    pub(super) fn line(decoder: &Decoder, line: &[u8]) -> Result<Self, Problem> {
        let mut typed = Typed::read(line)?;
        let object = typed.object.take().ok_or_else(|| field("object", "there is no object: name what the line is about"))?;
        if typed.r#type.is_some_and(|kind| kind.get() == r#""override""#) {
            typed.without(&["agent", "ts", "ttl"], "an override")?;
        } else {
            typed.without(&["for"], "a report")?;
        }
        Self::judged(decoder, object, Some(typed.json()))
    }

    fn judged(decoder: &Decoder, object: String, value: Option<Vec<u8>>) -> Result<Self, Problem> {
        if object.is_empty() {
            return Err(field("object", "the object's name is empty: name what the write is about").with("reason", Reason::NoKey.as_str()));
        }
        let (key, length) = (Some(0..object.len()), value.as_ref().map(Vec::len));
        // The log stamps it later, with its own time: what can be used at one time can be at any.
        let record = log::Record { offset: 0, timestamp_ms: 0, key, value: length.map(|bytes| 0..bytes), agent: None, canonical: true };
        decoder.key(&record, object.as_bytes()).map_err(refused)?;
        decoder.decode(&record, value.as_deref().unwrap_or_default(), &mut Scratch::default()).map_err(refused)?;
        Ok(Self { object, value })
    }
}

impl<'a> Typed<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|error| Problem::invalid(format!("not the expected JSON object: {error}")))
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts that were JSON are JSON")
    }

    /// Refuses fields that have no place in `what`.
    fn without(&self, fields: &[&str], what: &str) -> Result<(), Problem> {
        let there = [
            ("object", self.object.is_some()),
            ("type", self.r#type.is_some()),
            ("agent", self.agent.is_some()),
            ("ts", self.ts.is_some()),
            ("ttl", self.ttl.is_some()),
            ("for", self.r#for.is_some()),
        ];
        let Some((name, _)) = there.iter().find(|(name, there)| *there && fields.contains(name)) else { return Ok(()) };
        Err(field(name, format!("{what} has no field {name:?}")))
    }

    /// Refuses a null state, which takes back where a `PUT` is there to say something.
    fn pins_down(&self, instead: &str) -> Result<(), Problem> {
        let is_null = self.state.is_some_and(|state| state.get() == "null");
        if is_null { Err(field("state", format!("the state is null: {instead}"))) } else { Ok(()) }
    }
}

fn raw(text: &str) -> Box<RawValue> {
    to_raw_value(text).expect("every text is a JSON string")
}

fn refused(reject: Reject) -> Problem {
    let kind = if reject.reason == Reason::TooLarge { problem::TOO_LARGE } else { problem::INVALID };
    let problem = Problem::new(kind, reject.detail).with("reason", reject.reason.as_str());
    match field_of(reject.reason) {
        Some(name) => problem.with("field", name),
        None => problem,
    }
}

/// Which part of a write a reason is about, as far as it is one.
fn field_of(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::NoKey | Reason::KeyNotUtf8 | Reason::KeyTooLarge => Some("object"),
        Reason::NoAgent | Reason::BadAgent | Reason::AgentTooLarge => Some("agent"),
        Reason::NoState | Reason::StateTooLarge => Some("state"),
        Reason::BadTs => Some("ts"),
        Reason::BadTtl => Some("ttl"),
        Reason::BadFor => Some("for"),
        Reason::BadType => Some("type"),
        Reason::NegativeTimestamp | Reason::FutureTimestamp | Reason::TooLarge | Reason::NotUtf8 | Reason::NotJson => None,
    }
}

fn field(name: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid(detail).with("field", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SourceConfig;

    fn decoder() -> Decoder {
        Decoder::new(&SourceConfig::default()).unwrap()
    }

    fn text(write: Result<Write, Problem>) -> String {
        String::from_utf8(write.unwrap().value.unwrap()).unwrap()
    }

    #[test]
    fn values_keep_what_was_typed() {
        let decoder = decoder();
        let report = Write::report(&decoder, "o".into(), "a\"b", br#" {"state": {"k": [1.50]}, "ttl": "30s", "ts": 12} "#);
        assert_eq!(text(report), r#"{"agent":"a\"b","state":{"k": [1.50]},"ts":12,"ttl":"30s"}"#);
        assert_eq!(text(Write::withdrawal(&decoder, "o".into(), "a", None)), r#"{"agent":"a","state":null}"#);
        assert_eq!(text(Write::pin(&decoder, "o".into(), br#"{"state":"x","for":"1h"}"#)), r#"{"type":"override","state":"x","for":"1h"}"#);
        assert_eq!(text(Write::lift(&decoder, "o".into())), r#"{"type":"override","state":null}"#);
        let line = Write::line(&decoder, br#"{"object":"o","agent":"a","state":null}"#);
        assert_eq!(line.as_ref().unwrap().object, "o");
        assert_eq!(text(line), r#"{"agent":"a","state":null}"#);
        assert_eq!(Write::purge(&decoder, "o".into()).unwrap(), Write { object: "o".into(), value: None });
    }

    #[test]
    fn bad_lines_are_refused_with_a_reason() {
        let long = "x".repeat(4097);
        for (line, expected) in [
            (r#"{"agent":"a","state":"x"}"#.to_owned(), "no object"),
            (r#"{"object":"o","state":"x"}"#.to_owned(), "no agent"),
            (r#"{"object":"o","agent":"","state":"x"}"#.to_owned(), "the agent's name is empty: name who reports"),
            (r#"{"object":"o","agent":"a"}"#.to_owned(), "no state"),
            (r#"{"object":"o","agent":"a","state":""}"#.to_owned(), "state is empty"),
            (r#"{"object":"o","agent":"a","state":"x","for":"1h"}"#.to_owned(), "no field \"for\""),
            (r#"{"object":"o","agent":"a","state":"x","ts":-1}"#.to_owned(), "negative"),
            (r#"{"object":"o","agent":"a","state":"x","ttl":"soon"}"#.to_owned(), "duration"),
            (r#"{"object":"o","agent":"a","state":"x","tll":"1s"}"#.to_owned(), "unknown field `tll`"),
            (r#"{"object":"o","agent":"a","agent":"b","state":"x"}"#.to_owned(), "duplicate field"),
            (r#"{"object":"o","agent":"a","state":"\ud800"}"#.to_owned(), "not a string"),
            (r#"{"object":"","agent":"a","state":"x"}"#.to_owned(), "the object's name is empty"),
            (format!(r#"{{"object":"{long}","agent":"a","state":"x"}}"#), "4097 bytes"),
            (format!(r#"{{"object":"o","agent":"a","state":"{long}"}}"#), "4097 bytes"),
            (format!(r#"{{"object":"o","agent":"{long}","state":"x"}}"#), "4097 bytes"),
            (r#"{"object":"o","type":"override","agent":"a","state":"x"}"#.to_owned(), "no field \"agent\""),
            (r#"{"object":"o","type":"other","state":"x"}"#.to_owned(), "type"),
            ("[]".to_owned(), "JSON"),
            ("nonsense".to_owned(), "JSON"),
            ("\u{0}".to_owned(), "JSON"),
        ] {
            let problem = Write::line(&decoder(), line.as_bytes()).expect_err(&line).json();
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(expected), "{line}: {detail:?} does not say {expected:?}");
            assert_eq!(problem["status"], 400, "{line}");
        }
    }

    #[test]
    fn bodies_may_not_say_what_the_path_says() {
        for body in
            [r#"{"state":"x","agent":"b"}"#, r#"{"state":"x","object":"p"}"#, r#"{"state":null}"#, r#"{"state":"x","type":"override"}"#]
        {
            assert!(Write::report(&decoder(), "o".into(), "a", body.as_bytes()).is_err(), "{body} was taken");
        }
        for body in [r#"{"state":"x","agent":"b"}"#, r#"{"state":null}"#, r#"{"state":"x","ttl":"1s"}"#, r#"{"state":"x","for":"0s"}"#] {
            assert!(Write::pin(&decoder(), "o".into(), body.as_bytes()).is_err(), "{body} was taken");
        }
    }

    #[test]
    fn a_value_beyond_the_limit_is_too_large() {
        let decoder = Decoder::new(&SourceConfig { max_value_bytes: 40, ..SourceConfig::default() }).unwrap();
        assert!(Write::report(&decoder, "o".into(), "a", br#"{"state":"x"}"#).is_ok());
        let problem = Write::report(&decoder, "o".into(), "a", br#"{"state":"0123456789012345678901234567890"}"#).unwrap_err();
        assert_eq!(problem.json()["status"], 413);
    }
}
