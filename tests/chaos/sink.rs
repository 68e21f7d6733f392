//! Expected and seen, matched as they come: the sink's records object by object and in order, the rejects by their places.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde_json::Value;
use statehouse_dataflows::vocabulary::{Change, Name, Offset, Partition};

use super::judge::{Findings, Named, text};

/// A change: its revision, and everything else of it in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) revision: u64,
    pub(crate) text: String,
}

/// Every object's changes that are still waited for, on either side.
#[derive(Default)]
pub(crate) struct Sink {
    streams: HashMap<String, Stream>,
    uneven: usize,
}

#[derive(Default)]
struct Stream {
    expected: VecDeque<Shown>,
    seen: VecDeque<Shown>,
    /// The revision matched last.
    matched: u64,
}

impl Shown {
    /// What the sink must show of a change.
    pub(crate) fn expected(change: &Change) -> Self {
        let name = |name: &Option<Name>| name.as_ref().map(ToString::to_string);
        let cause = change.cause.as_str();
        let Some(state) = &change.state else { return Self::removed(change.revision, name(&change.previous).as_deref(), cause) };
        let votes: Named = change.tally.weights.iter().map(|(state, weight)| (state.to_string(), *weight)).collect();
        let place = change.offset.map(|offset| (i64::from(change.partition), offset));
        let (since, at, rule, live) = (change.since_ms, change.at_ms, &change.rule, change.tally.live);
        let previous = name(&change.previous);
        let text = format!("{state} after {previous:?} since {since} at {at} by {cause}, {rule} of {votes:?} in {live}, from {place:?}");
        Self { revision: change.revision, text }
    }

    /// What a record of the sink shows. None: it can't be read.
    pub(crate) fn seen(value: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(value).ok()?;
        let (state, previous) = (text(&value["state"])?, text(&value["previous"]));
        let number = |name: &str| value[name].as_i64();
        let (since, at, cause, rule) = (number("since")?, number("at")?, text(&value["cause"])?, text(&value["rule"])?);
        let votes = value["tally"]["votes"].as_object()?.iter();
        let votes: Named = votes.map(|(state, weight)| Some((state.clone(), weight.as_i64()?))).collect::<Option<_>>()?;
        let live = value["tally"]["live"].as_i64()?;
        let place = value["source"]["partition"].as_i64().zip(value["source"]["offset"].as_i64());
        let text = format!("{state} after {previous:?} since {since} at {at} by {cause}, {rule} of {votes:?} in {live}, from {place:?}");
        Some(Self { revision: value["revision"].as_u64()?, text })
    }

    /// A tombstone.
    pub(crate) fn removed(revision: u64, previous: Option<&str>, cause: &str) -> Self {
        Self { revision, text: format!("removed after {previous:?} by {cause}") }
    }
}

impl Sink {
    pub(crate) fn expected(&mut self, change: &Change, found: &mut Findings) {
        self.with(&change.object, found, |stream| stream.expected.push_back(Shown::expected(change)));
    }

    pub(crate) fn seen(&mut self, _partition: Partition, object: &str, shown: Shown, found: &mut Findings) {
        self.with(object, found, |stream| stream.seen.push_back(shown));
    }

    pub(crate) fn is_even(&self) -> bool {
        self.uneven == 0
    }

    pub(crate) fn finish(&mut self, found: &mut Findings) {
        for (object, stream) in &mut self.streams {
            for expected in stream.expected.drain(..) {
                found.lost += 1;
                found.say(format!("lost: {object}: revision {} {}", expected.revision, expected.text));
            }
            for seen in stream.seen.drain(..) {
                found.repeated += 1;
                found.say(format!("never made: {object}: revision {} {}", seen.revision, seen.text));
            }
        }
    }

    fn with(&mut self, object: &str, found: &mut Findings, act: impl FnOnce(&mut Stream)) {
        if !self.streams.contains_key(object) {
            self.streams.insert(object.to_owned(), Stream::default());
        }
        let stream = self.streams.get_mut(object).expect("it is there now");
        let before = stream.is_even();
        act(stream);
        stream.settle(object, found);
        match (before, stream.is_even()) {
            (true, false) => self.uneven += 1,
            (false, true) => self.uneven -= 1,
            _ => {}
        }
    }
}

impl Stream {
    fn is_even(&self) -> bool {
        self.expected.is_empty() && self.seen.is_empty()
    }

    /// Takes off what is there on both sides. Revisions rise, so what differs tells on which side something is missing.
    fn settle(&mut self, object: &str, found: &mut Findings) {
        while let Some(seen) = self.seen.front() {
            if seen.revision <= self.matched {
                found.repeated += 1;
                found.say(format!("repeated: {object}: revision {} {}", seen.revision, seen.text));
                self.seen.pop_front();
                continue;
            }
            let Some(expected) = self.expected.front() else { return };
            if seen == expected {
                self.matched = seen.revision;
                self.seen.pop_front();
                self.expected.pop_front();
            } else if seen.revision < expected.revision {
                found.repeated += 1;
                found.say(format!("never made: {object}: revision {} {}", seen.revision, seen.text));
                self.seen.pop_front();
            } else {
                found.lost += 1;
                let (wanted, got) = ((expected.revision, &expected.text), (seen.revision, &seen.text));
                found.say(format!("lost: {object}: revision {} {}; in its place: {} {}", wanted.0, wanted.1, got.0, got.1));
                if seen.revision == expected.revision {
                    self.matched = seen.revision;
                    self.seen.pop_front();
                }
                self.expected.pop_front();
            }
        }
    }
}

/// Places that must be seen once each.
#[derive(Default)]
pub(crate) struct Places {
    expected: HashSet<(Partition, Offset)>,
    early: HashSet<(Partition, Offset)>,
    matched: BTreeMap<Partition, HashSet<Offset>>,
}

impl Places {
    pub(crate) fn expected(&mut self, place: (Partition, Offset), _found: &mut Findings) {
        if self.early.remove(&place) {
            self.matched.entry(place.0).or_default().insert(place.1);
        } else {
            self.expected.insert(place);
        }
    }

    pub(crate) fn seen(&mut self, place: (Partition, Offset), found: &mut Findings) {
        let matched = self.matched.entry(place.0).or_default();
        if matched.contains(&place.1) || self.early.contains(&place) {
            found.repeated += 1;
            found.say(format!("repeated: the reject of {place:?}"));
        } else if self.expected.remove(&place) {
            matched.insert(place.1);
        } else {
            self.early.insert(place);
        }
    }

    pub(crate) fn is_even(&self) -> bool {
        self.expected.is_empty() && self.early.is_empty()
    }

    pub(crate) fn finish(&mut self, found: &mut Findings) {
        found.lost += self.expected.len() as u64;
        found.repeated += self.early.len() as u64;
        self.expected.iter().for_each(|place| found.say(format!("lost: the reject of {place:?}")));
        self.early.iter().for_each(|place| found.say(format!("never made: the reject of {place:?}")));
    }
}
