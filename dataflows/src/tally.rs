//! The tally as a difference type: the weight that each state of one object has, and how many reports are live.
//!
//! Adding tallies adds weights, so a collection of objects with tallies as differences accumulates to each object's tally at every seq,
//! without re-reading reports. The number of live reports is part of it, so that a report of weight zero still counts as heard: an object
//! is without reports exactly where its tally is zero.
//!
//! Most houses have a handful of states. The first [`FEW`] ids stand in an array that is added lane by lane; the others, rare, in a
//! sorted list behind a pointer that is null until it is needed.

use std::ops::Neg;

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};

/// Index of an interned state.
pub(crate) type StateId = u32;

/// How many states are counted without an allocation.
const FEW: usize = 4;

/// Weights by state, and the number of live reports. Weights are bounded by [`crate::plan`] so that sums fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tally {
    /// Live reports, whatever their weight.
    pub(crate) live: i32,
    few: [i32; FEW],
    /// The other states' weights by id, without zeros; null where there are none.
    #[allow(
        clippy::box_collection,
        reason = "a null pointer of 8 bytes where a vector takes 24, in every update of the hottest arrangement"
    )]
    more: Option<Box<Vec<(StateId, i32)>>>,
}

impl Tally {
    /// A number of live reports, without weight.
    pub(crate) fn reports(live: i32) -> Self {
        Self { live, ..Self::default() }
    }

    /// Adds weight to a state (negative to take it back).
    #[inline]
    pub(crate) fn add(&mut self, state: StateId, weight: i32) {
        match self.few.get_mut(state as usize) {
            Some(lane) => *lane += weight,
            None => self.add_rare(state, weight),
        }
    }

    #[cold]
    fn add_rare(&mut self, state: StateId, weight: i32) {
        let more = self.more.get_or_insert_default();
        match more.binary_search_by_key(&state, |(state, _)| *state) {
            Ok(at) => {
                more[at].1 += weight;
                if more[at].1 == 0 {
                    more.remove(at);
                }
            }
            Err(_) if weight == 0 => {}
            Err(at) => more.insert(at, (state, weight)),
        }
        if more.is_empty() {
            self.more = None; // one form for equal tallies
        }
    }

    /// States with weight, by id.
    pub(crate) fn votes(&self) -> impl Iterator<Item = (StateId, i32)> + '_ {
        let few = self.few.iter().enumerate().map(|(state, weight)| (state as StateId, *weight));
        few.chain(self.more.iter().flat_map(|more| more.iter().copied())).filter(|(_, weight)| *weight != 0)
    }

    /// The weight of all live reports.
    pub(crate) fn total(&self) -> i32 {
        self.votes().map(|(_, weight)| weight).sum()
    }

    /// The weight of one state.
    pub(crate) fn weight(&self, state: StateId) -> i32 {
        match self.few.get(state as usize) {
            Some(weight) => *weight,
            None => self.votes().find(|(other, _)| *other == state).map_or(0, |(_, weight)| weight),
        }
    }
}

impl IsZero for Tally {
    #[inline]
    fn is_zero(&self) -> bool {
        self.live == 0 && self.few == [0; FEW] && self.more.is_none()
    }
}

impl Semigroup for Tally {
    #[inline]
    fn plus_equals(&mut self, other: &Self) {
        self.live += other.live;
        self.few.iter_mut().zip(other.few).for_each(|(weight, more)| *weight += more);
        if let Some(more) = &other.more {
            more.iter().for_each(|(state, weight)| self.add_rare(*state, *weight));
        }
    }
}

impl Monoid for Tally {
    fn zero() -> Self {
        Self::default()
    }
}

impl Neg for Tally {
    type Output = Self;

    fn neg(mut self) -> Self {
        self.negate();
        self
    }
}

impl Abelian for Tally {
    fn negate(&mut self) {
        self.live = -self.live;
        self.few.iter_mut().for_each(|weight| *weight = -*weight);
        self.more.iter_mut().flat_map(|more| more.iter_mut()).for_each(|(_, weight)| *weight = -*weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_and_taking_back_is_nothing() {
        for state in [0, 3, 4, 900] {
            let mut tally = Tally::reports(1);
            tally.add(state, 7);
            assert_eq!(tally.weight(state), 7, "state {state}");
            assert_eq!(tally.total(), 7);
            let taken = -tally.clone();
            tally.plus_equals(&taken);
            assert!(tally.is_zero(), "state {state}: {tally:?}");
            assert_eq!(tally, Tally::zero());
        }
    }

    #[test]
    fn states_beyond_the_array_are_listed_by_id() {
        let mut tally = Tally::default();
        [9, 1, 5].into_iter().for_each(|state| tally.add(state, state as i32));
        assert_eq!(tally.votes().collect::<Vec<_>>(), [(1, 1), (5, 5), (9, 9)]);
    }
}
