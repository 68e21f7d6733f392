//! The changes of an epoch on their way out, in numbers instead of names.
//!
//! Made by publish, in seq order, read by whoever writes the sink. Objects' names stand one after the other in one string, states are
//! numbers in the list of those that the epoch's changes name. So a change counts no reference, and an epoch's changes are a few blocks of
//! memory. [`Change`] is the same in names, for tests and for people.

use std::sync::Arc;

use crate::{
    names::{Interner, places::Places},
    tally::{StateId, Tally},
    vocabulary::{Cause, Change, Millis, Moment, Name, Offset, Partition, Seq, Votes},
    votes::rank,
};

/// The changes of an epoch, in seq order.
#[derive(Debug, Default)]
pub struct Changes {
    lines: Vec<Line>,
    /// The objects' names, one after the other.
    objects: String,
    /// The tallies, one after the other: states by place, in the order in which they are shown.
    weights: Vec<(u32, i64)>,
    /// States by place.
    states: Vec<Name>,
    /// The names of rules, by rule set.
    rules: Arc<[Name]>,
}

/// One change. States are places.
#[derive(Clone, Copy, Debug)]
struct Line {
    seq: Seq,
    moment: Moment,
    since_ms: Millis,
    state: Option<u32>,
    previous: Option<u32>,
    live: i32,
    cause: Cause,
    /// The rule set.
    set: usize,
    /// Where its name ends, and its weights.
    ends: (usize, usize),
}

/// One change, its names borrowed. Fields as in [`Change`].
#[allow(missing_docs, reason = "said once, of the same fields")]
#[derive(Clone, Copy, Debug)]
pub struct ChangeRef<'a> {
    pub seq: Seq,
    pub partition: Partition,
    pub object: &'a str,
    pub state: Option<&'a str>,
    pub previous: Option<&'a str>,
    pub since_ms: Millis,
    pub at_ms: Millis,
    pub cause: Cause,
    pub rule: &'a str,
    pub tally: VotesRef<'a>,
    pub revision: u64,
    pub offset: Option<Offset>,
}

/// A tally, its names borrowed.
#[derive(Clone, Copy, Debug)]
pub struct VotesRef<'a> {
    /// As [`Votes::weights`], states as places in `states`.
    pub weights: &'a [(u32, i64)],
    /// Names by place.
    pub states: &'a [Name],
    /// As [`Votes::live`].
    pub live: i64,
}

impl Changes {
    /// How many changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Every change, in seq order.
    pub fn iter(&self) -> impl Iterator<Item = ChangeRef<'_>> {
        let mut ends = (0, 0);
        self.lines.iter().map(move |line| {
            let starts = std::mem::replace(&mut ends, line.ends);
            let (object, weights) = (&self.objects[starts.0..ends.0], &self.weights[starts.1..ends.1]);
            let name = |state: u32| &*self.states[state as usize];
            ChangeRef {
                seq: line.seq,
                partition: line.moment.partition,
                object,
                state: line.state.map(name),
                previous: line.previous.map(name),
                since_ms: line.since_ms,
                at_ms: line.moment.clock_ms,
                cause: line.cause,
                rule: &self.rules[line.set],
                tally: VotesRef { weights, states: &self.states, live: i64::from(line.live) },
                revision: line.moment.event,
                offset: line.moment.offset,
            }
        })
    }

    /// The same in names.
    #[must_use]
    pub fn to_changes(&self) -> Vec<Change> {
        self.iter().map(|change| change.to_change()).collect()
    }
}

impl ChangeRef<'_> {
    /// The same in names.
    #[must_use]
    pub fn to_change(&self) -> Change {
        let Self { seq, partition, since_ms, at_ms, cause, revision, offset, .. } = *self;
        let weights = self.tally.weights().map(|(state, weight)| (state.into(), weight)).collect();
        let tally = Votes { weights, live: self.tally.live };
        let (object, rule) = (self.object.into(), self.rule.into());
        let (state, previous) = (self.state.map(Name::from), self.previous.map(Name::from));
        Change { seq, partition, object, state, previous, since_ms, at_ms, cause, rule, tally, revision, offset }
    }
}

impl<'a> VotesRef<'a> {
    /// As [`Votes::weights`].
    pub fn weights(&self) -> impl ExactSizeIterator<Item = (&'a str, i64)> + use<'a> {
        let Self { weights, states, .. } = *self;
        weights.iter().map(|(state, weight)| (&*states[*state as usize], *weight))
    }
}

/// A change in the making, in ids.
pub(crate) struct Made<'a> {
    pub(crate) seq: Seq,
    pub(crate) moment: Moment,
    pub(crate) object: &'a str,
    /// What is published now, and what was before.
    pub(crate) states: (Option<StateId>, Option<StateId>),
    pub(crate) since_ms: Millis,
    pub(crate) cause: Cause,
    /// The rule set.
    pub(crate) set: usize,
    pub(crate) tally: &'a Tally,
}

/// Changes in the making. Lives as long as its engine, for the table.
pub(crate) struct Maker {
    made: Changes,
    places: Places,
    rules: Arc<[Name]>,
}

impl Maker {
    /// For rule sets with rules of these names.
    pub(crate) fn new(rules: impl Iterator<Item = Name>) -> Self {
        Self { made: Changes::default(), places: Places::default(), rules: rules.collect() }
    }

    pub(crate) fn push(&mut self, change: &Made<'_>, states: &Interner) {
        let Self { made, places, .. } = self;
        let Made { seq, moment, object, since_ms, cause, set, tally, .. } = *change;
        let first = made.weights.len();
        rank(tally, states, &mut made.weights);
        made.weights[first..].iter_mut().for_each(|(state, _)| *state = places.of(*state));
        made.objects.push_str(object);
        let [state, previous] = [change.states.0, change.states.1].map(|state| state.map(|state| places.of(state)));
        let ends = (made.objects.len(), made.weights.len());
        made.lines.push(Line { seq, moment, since_ms, cause, set, live: tally.live, state, previous, ends });
    }

    /// The epoch's changes. Starts anew, with room for as many.
    pub(crate) fn take(&mut self, states: &Interner) -> Changes {
        let next = Changes {
            lines: Vec::with_capacity(self.made.lines.len()),
            objects: String::with_capacity(self.made.objects.len()),
            weights: Vec::with_capacity(self.made.weights.len()),
            ..Changes::default()
        };
        let made = std::mem::replace(&mut self.made, next);
        Changes { states: self.places.take(states), rules: self.rules.clone(), ..made }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_names() {
        let mut states = Interner::default();
        let [up, down, low] = ["up", "down", "low"].map(|name| states.intern(name).0);
        let mut tally = Tally::reports(5);
        [(down, 2), (low, 1), (up, 2)].into_iter().for_each(|(state, weight)| tally.add(state, weight));
        let mut maker = Maker::new(["majority", "latest"].map(Name::from).into_iter());
        let moment = Moment { partition: 3, event: 8, clock_ms: 100, offset: Some(9) };
        for (seq, object, now) in [(4, "a", Some(up)), (5, "", None), (6, "ß", Some(low))] {
            let (since_ms, cause, set) = (90, Cause::Vote, 1);
            maker.push(&Made { seq, moment, object, states: (now, Some(down)), since_ms, cause, set, tally: &tally }, &states);
        }
        let made = maker.take(&states);
        let change = |seq, object: &str, state: Option<&str>| Change {
            seq,
            partition: 3,
            object: object.into(),
            state: state.map(Name::from),
            previous: Some("down".into()),
            since_ms: 90,
            at_ms: 100,
            cause: Cause::Vote,
            rule: "latest".into(),
            tally: Votes { weights: vec![("down".into(), 2), ("up".into(), 2), ("low".into(), 1)], live: 5 },
            revision: 8,
            offset: Some(9),
        };
        assert_eq!(made.to_changes(), [change(4, "a", Some("up")), change(5, "", None), change(6, "ß", Some("low"))]);
        assert_eq!((made.len(), maker.take(&states).len()), (3, 0), "it starts anew");
    }
}
