//! Tallies as people see them: by falling weight, states of equal weight by name.

use crate::{
    names::Interner,
    tally::{StateId, Tally},
    vocabulary::Votes,
};

/// The states that have weight, in the order in which they are shown, put behind what is in `to`.
pub(crate) fn rank(tally: &Tally, states: &Interner, to: &mut Vec<(StateId, i64)>) {
    let first = to.len();
    to.extend(tally.votes().map(|(state, weight)| (state, i64::from(weight))));
    let by_name = |a: StateId, b: StateId| states.name(a).cmp(states.name(b));
    to[first..].sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| by_name(*a, *b)));
}

/// A tally with names.
pub(crate) fn votes(tally: &Tally, states: &Interner) -> Votes {
    let mut ranked = Vec::new();
    rank(tally, states, &mut ranked);
    let weights = ranked.into_iter().map(|(state, weight)| (states.name(state).clone(), weight)).collect();
    Votes { weights, live: i64::from(tally.live) }
}
