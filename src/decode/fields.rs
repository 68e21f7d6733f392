//! Finds the fields that a record's meaning needs, in one pass over its JSON, as the text they stand in.
//!
//! Names are compared after their escapes are resolved. Nothing is built of what is not asked for, and skipping needs no recursion: deep
//! nesting costs no stack.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Reason, Reject};
use crate::config::{AgentFrom, SourceConfig};

/// The fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Agent,
    State,
    Ts,
    Ttl,
    Type,
    For,
}

const FIELDS: usize = 6;

/// Where the fields are: JSON pointers (RFC 6901), taken apart. An empty one is not read.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    paths: [Vec<String>; FIELDS],
}

/// The fields' texts, as found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raws<'a>([Option<&'a str>; FIELDS]);

impl<'a> Raws<'a> {
    pub(super) fn get(&self, field: Field) -> Option<&'a str> {
        self.0[field as usize]
    }
}

impl Mapping {
    /// The mapping of a configuration that was checked.
    pub(super) fn new(config: &SourceConfig) -> Self {
        let agent = if let AgentFrom::Pointer(pointer) = &config.agent { pointer } else { "" };
        Self { paths: [agent, &config.state, &config.ts, &config.ttl, &config.r#type, &config.r#for].map(path) }
    }

    /// Finds the fields in `text`.
    pub(super) fn read<'a>(&self, text: &'a str) -> Result<Raws<'a>, Reject> {
        let mut raws = Raws::default();
        let not_json = |e: serde_json::Error| Reject::new(Reason::NotJson, e.to_string());
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(Fields { mapping: self, raws: &mut raws }).map_err(not_json)?;
        json.end().map_err(not_json)?;
        for (path, raw) in self.paths.iter().zip(&mut raws.0).filter(|(path, _)| path.len() > 1) {
            for name in &path[1..] {
                *raw = raw.and_then(|raw| step(raw, name));
            }
        }
        Ok(raws)
    }

    /// Which fields are, or are within, the record's field of this name: one bit each.
    fn fields_at(&self, name: &str) -> u8 {
        let mut bits = 0;
        for (nth, path) in self.paths.iter().enumerate() {
            bits |= u8::from(path.first().is_some_and(|first| first == name)) << nth;
        }
        bits
    }
}

/// Takes an RFC 6901 pointer apart; an empty one is not read.
fn path(pointer: &str) -> Vec<String> {
    let rest = pointer.strip_prefix('/');
    rest.map_or_else(Vec::new, |rest| rest.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect())
}

/// The member of this name, or of this place, in a text that is valid JSON.
fn step<'a>(raw: &'a str, name: &str) -> Option<&'a str> {
    let mut json = serde_json::Deserializer::from_str(raw);
    match raw.as_bytes().first() {
        Some(b'{') => json.deserialize_map(Member(name)).ok().flatten(),
        Some(b'[') => {
            let is_index = name == "0" || name.bytes().all(|b| b.is_ascii_digit()) && !name.starts_with('0');
            let place = name.parse().ok().filter(|_| is_index)?;
            json.deserialize_seq(Item(place)).ok().flatten()
        }
        _ => None,
    }
}

struct Fields<'m, 'r, 'a> {
    mapping: &'m Mapping,
    raws: &'r mut Raws<'a>,
}

impl<'a> Visitor<'a> for Fields<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(fields) = map.next_key_seed(Name(|name: &str| self.mapping.fields_at(name)))? {
            if fields == 0 {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value::<&RawValue>()?.get();
            for (nth, slot) in self.raws.0.iter_mut().enumerate() {
                *slot = if fields & 1 << nth == 0 { *slot } else { Some(raw) };
            }
        }
        Ok(())
    }
}

/// Hands a field's name, escapes resolved, to a function.
struct Name<F>(F);

impl<'a, T, F: FnOnce(&str) -> T> DeserializeSeed<'a> for Name<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Name<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}

/// The last member of this name.
struct Member<'m>(&'m str);

impl<'a> Visitor<'a> for Member<'_> {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Name(|name: &str| name == self.0))? {
            let raw = map.next_value::<&RawValue>()?.get();
            found = if is_it { Some(raw) } else { found };
        }
        Ok(found)
    }
}

/// The item at this place.
struct Item(usize);

impl<'a> Visitor<'a> for Item {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut place, mut found) = (0, None);
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            found = if place == self.0 { Some(raw.get()) } else { found };
            place += 1;
        }
        Ok(found)
    }
}
