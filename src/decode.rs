//! From the bytes of a source record to an [`Event`], or a [`Reject`]: one bad record is a value, never an error and never a panic.
//!
//! On the workers, between the pump and the dataflow; [`Decoder::key`] also in the pump, which routes by it. A value is a JSON object whose
//! fields are where the configuration says, or a text that is the state; records of HTTP writes are always JSON in the default mapping. No value
//! at all purges. Only the fields that are asked for are looked into, each once, in place: an ordinary record costs no allocation.
//!
//! Where the meaning of JSON is open: of two fields with the same name the last counts, `null` is as good as no field (but for the state,
//! where it withdraws or lifts), unknown fields may hold anything, whitespace in a state that is not a string is dropped and the rest kept
//! as written.

mod fields;
mod reject;
mod value;

use std::sync::Arc;

use statehouse_dataflows::vocabulary::{Event, Millis};

use self::fields::{Field, Mapping, Raws};
pub use self::reject::{Reason, Reject};
use crate::{
    config::{AgentFrom, ConfigError, STATE_BYTES_MAX, SourceConfig, SourceFormat},
    log::Record,
};

/// Durations of records longer than this (a hundred years) count as this: adding one to a clock never overflows.
pub const DURATION_MS_MAX: Millis = 36_525 * 86_400_000;

/// Decodes records as the configuration says. Immutable: workers share it.
#[derive(Clone, Debug)]
pub struct Decoder {
    mapping: Mapping,
    canonical: Mapping,
    agent: AgentIn,
    is_text: bool,
    max_future_skew_ms: Millis,
    max_key_bytes: usize,
    max_value_bytes: usize,
    max_agent_bytes: usize,
}

/// Where a record's agent stands.
#[derive(Clone, Debug)]
enum AgentIn {
    Value,
    Header,
    Fixed(Arc<str>),
}

/// Buffers for what can't be borrowed from the record (names with escapes in them). Each worker keeps one.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    agent: String,
    state: String,
}

impl Decoder {
    /// A decoder for the source as configured.
    ///
    /// # Errors
    /// When, and only when, a limit is out of its range, a JSON pointer is malformed, or the agent can't be where it is said to be.
    pub fn new(config: &SourceConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let agent = match &config.agent {
            AgentFrom::Pointer(_) => AgentIn::Value,
            AgentFrom::Header { .. } => AgentIn::Header,
            AgentFrom::Fixed { fixed } => AgentIn::Fixed(fixed.as_str().into()),
        };
        Ok(Self {
            mapping: Mapping::new(config),
            canonical: Mapping::new(&SourceConfig::default()),
            agent,
            is_text: config.format == SourceFormat::Text,
            max_future_skew_ms: Millis::try_from(config.max_future_skew.as_millis()).unwrap_or(Millis::MAX),
            max_key_bytes: config.max_key_bytes,
            max_value_bytes: config.max_value_bytes,
            max_agent_bytes: config.max_agent_bytes,
        })
    }

    /// The record's object. `bytes` are its batch's.
    ///
    /// # Errors
    /// When, and only when, there is no key, or it is empty, too long, or not UTF-8.
    pub fn key<'a>(&self, record: &Record, bytes: &'a [u8]) -> Result<&'a str, Reject> {
        let key = record.key.clone().map_or(&[][..], |range| &bytes[range]);
        if key.is_empty() {
            return Err(Reject::new(Reason::NoKey, "the record has no key, or an empty one: it names no object"));
        }
        if key.len() > self.max_key_bytes {
            return Err(too_long(Reason::KeyTooLarge, "the key", key.len(), self.max_key_bytes));
        }
        std::str::from_utf8(key).map_err(|e| Reject::new(Reason::KeyNotUtf8, e.to_string()))
    }

    /// What the record asks for. `bytes` are its batch's.
    ///
    /// A report's time is the record's timestamp where it gives none, and at most `max_future_skew` after it. Whether the record's timestamp
    /// is too far in the future is for the pump to judge: it knows the wall-clock.
    ///
    /// # Errors
    /// When, and only when, the record can't be used; [`Reason`] lists why that may be.
    pub fn decode<'a>(&'a self, record: &Record, bytes: &'a [u8], scratch: &'a mut Scratch) -> Result<Event<'a>, Reject> {
        if record.timestamp_ms < 0 {
            return Err(Reject::new(Reason::NegativeTimestamp, format!("the record's timestamp is {}", record.timestamp_ms)));
        }
        let Some(range) = record.value.clone() else { return Ok(Event::Purge) };
        let value = &bytes[range];
        if value.len() > self.max_value_bytes {
            return Err(too_long(Reason::TooLarge, "the value", value.len(), self.max_value_bytes));
        }
        let text = std::str::from_utf8(value).map_err(|e| Reject::new(Reason::NotUtf8, e.to_string()))?;
        if record.canonical {
            return self.json(record, self.canonical.read(text)?, None, scratch);
        }
        let agent = match &self.agent {
            AgentIn::Value => None,
            AgentIn::Header => Some(self.header_agent(record.agent.clone().map(|range| &bytes[range]))),
            AgentIn::Fixed(agent) => Some(Ok(agent.as_ref())),
        };
        match agent {
            Some(agent) if self.is_text => text_event(agent?, text, record.timestamp_ms),
            agent => self.json(record, self.mapping.read(text)?, agent, scratch),
        }
    }

    fn header_agent<'a>(&self, header: Option<&'a [u8]>) -> Result<&'a str, Reject> {
        let Some(agent) = header else { return Err(Reject::new(Reason::NoAgent, "the record has no header that names its agent")) };
        let agent = std::str::from_utf8(agent).map_err(|e| Reject::new(Reason::BadAgent, format!("the agent's header: {e}")))?;
        self.sized_agent(agent)
    }

    fn sized_agent<'a>(&self, agent: &'a str) -> Result<&'a str, Reject> {
        match agent.len() {
            0 => Err(Reject::new(Reason::NoAgent, "the agent's name is empty: name who reports")),
            bytes if bytes > self.max_agent_bytes => Err(too_long(Reason::AgentTooLarge, "the agent's name", bytes, self.max_agent_bytes)),
            _ => Ok(agent),
        }
    }

    /// The event of a JSON record; `agent` is the one from elsewhere, where it comes from elsewhere.
    fn json<'a>(
        &self,
        record: &Record,
        raws: Raws<'a>,
        agent: Option<Result<&'a str, Reject>>,
        scratch: &'a mut Scratch,
    ) -> Result<Event<'a>, Reject> {
        let Scratch { agent: agent_buffer, state: state_buffer } = scratch;
        let is_override = value::is_override(raws.get(Field::Type))?;
        let Some(state) = raws.get(Field::State) else {
            return Err(Reject::new(Reason::NoState, "there is no state (write null to withdraw a report or lift an override)"));
        };
        let state = if state == "null" { None } else { Some(value::state(state, state_buffer)?) };
        if is_override {
            let for_ms = value::duration_ms(raws.get(Field::For), Reason::BadFor)?;
            return Ok(state.map_or(Event::Lift, |state| Event::Override { state, for_ms }));
        }
        let agent = match agent {
            Some(agent) => agent?,
            None => self.sized_agent(value::agent(raws.get(Field::Agent), agent_buffer)?)?,
        };
        let latest_ms = record.timestamp_ms.saturating_add(self.max_future_skew_ms);
        let ts_ms = value::ts_ms(raws.get(Field::Ts))?.map_or(record.timestamp_ms, |ts_ms| ts_ms.min(latest_ms));
        let ttl_ms = value::duration_ms(raws.get(Field::Ttl), Reason::BadTtl)?;
        Ok(state.map_or(Event::Withdraw { agent, ts_ms }, |state| Event::Report { agent, state, ts_ms, ttl_ms }))
    }
}

fn text_event<'a>(agent: &'a str, state: &'a str, ts_ms: Millis) -> Result<Event<'a>, Reject> {
    match state.len() {
        // A text can't say null, and a null value purges: withdrawing needs a form of its own.
        0 => Ok(Event::Withdraw { agent, ts_ms }),
        bytes if bytes > STATE_BYTES_MAX => Err(too_long(Reason::StateTooLarge, "the state", bytes, STATE_BYTES_MAX)),
        _ => Ok(Event::Report { agent, state, ts_ms, ttl_ms: None }),
    }
}

fn too_long(reason: Reason, what: &str, bytes: usize, bytes_max: usize) -> Reject {
    Reject::new(reason, format!("{what} has {bytes} bytes, more than {bytes_max}"))
}

#[cfg(test)]
mod tests;
