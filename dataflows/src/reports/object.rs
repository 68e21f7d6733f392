//! One object in the index: where its agents' latest claims are, and which of them is the newest.

use prefetch_index::prefetch_index;

use crate::{
    claim::Claim,
    digest::object_hash,
    names::AgentId,
    rule::decide::Set,
    slots::{Slot, Slots},
    tally::StateId,
    vocabulary::{Name, Partition, Seq},
};

/// Prefetches a name of some length ahead of its use.
#[inline]
pub(crate) fn prefetch_name(name: &Name) {
    let bytes = name.as_bytes();
    prefetch_index(bytes, 0);
    prefetch_index(bytes, bytes.len().saturating_sub(1));
}

/// An agent's place in an object. Small, as there is one for each report held, and most reports look at their object's places only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) agent: AgentId,
    /// The claim's state.
    pub(crate) state: StateId,
    /// Where the claim is.
    pub(crate) slot: Slot,
    /// Where it is noted as changed in this epoch, if that place is still its own.
    pub(crate) noted: u32,
}

impl Place {
    pub(crate) const NOT_NOTED: u32 = u32::MAX;
}

/// A known object. In a cache line of its own: nearly every report on it reads most of this, and most often nothing of its neighbours.
#[repr(align(64))]
pub(crate) struct Object {
    pub(crate) name: Name,
    /// Its agents, in the order of their ids. Without spare room: few objects have many, and there are many objects.
    pub(crate) agents: Box<[Place]>,
    /// The caller's hash, for the index.
    pub(crate) hash: u64,
    /// The seq of the last event that changed something.
    pub(crate) touched: Seq,
    pub(crate) partition: Partition,
    /// Whose claim is the newest, or [`Object::NOBODY`]; kept only where the rule asks.
    newest: AgentId,
    set: u16,
    /// Where the published row is that was arranged last, or [`Object::NOWHERE`].
    posted: Slot,
}

impl Object {
    const NOBODY: AgentId = AgentId::MAX;
    const NOWHERE: Slot = Slot::MAX;

    pub(crate) fn new(name: Name, partition: Partition, hash: u64, set: usize) -> Self {
        let set = u16::try_from(set).expect("fewer than 65,536 rule sets");
        Self { name, agents: Box::default(), hash, touched: 0, partition, newest: Self::NOBODY, set, posted: Self::NOWHERE }
    }

    /// Where the published row stands, as of the end of the last closed epoch; none: it is not known.
    pub(crate) fn posted(&self) -> Option<Slot> {
        (self.posted != Self::NOWHERE).then_some(self.posted)
    }

    /// The published row stands here now.
    pub(crate) fn post(&mut self, slot: Option<Slot>) {
        self.posted = slot.unwrap_or(Self::NOWHERE);
    }

    /// Its rule set.
    pub(crate) fn set(&self) -> usize {
        usize::from(self.set)
    }

    /// Stable hash of partition and name, for row digests.
    pub(crate) fn digest(&self) -> u64 {
        object_hash(self.partition, &self.name)
    }

    /// Prefetches the name and, of an object with few agents, all places, ahead of their use.
    pub(crate) fn prefetch(&self) {
        prefetch_name(&self.name);
        prefetch_index(&self.agents, 0);
        prefetch_index(&self.agents, self.agents.len().saturating_sub(1));
    }

    /// Where the agent's claim stands, or would stand.
    #[inline]
    pub(crate) fn find(&self, agent: AgentId) -> Result<usize, usize> {
        self.agents.binary_search_by_key(&agent, |place| place.agent)
    }

    /// The state of the newest report, where the rule follows it.
    pub(crate) fn newest_state(&self) -> Option<StateId> {
        (self.newest != Self::NOBODY).then(|| self.agents[self.find(self.newest).expect("the newest is held")].state)
    }

    /// Puts a place (or none) in the agent's place; returns what was there.
    pub(crate) fn put(&mut self, agent: AgentId, place: Option<Place>) -> Option<Place> {
        match (self.find(agent), place) {
            (Ok(at), Some(place)) => Some(std::mem::replace(&mut self.agents[at], place)),
            (Ok(at), None) => Some(self.resize(|agents| agents.remove(at))),
            (Err(at), Some(place)) => {
                self.resize(|agents| {
                    agents.reserve_exact(1);
                    agents.insert(at, place);
                });
                None
            }
            (Err(_), None) => None,
        }
    }

    /// Has these places, in the order of their agents, instead of none; and this is whose claim is the newest, where the rule asks.
    pub(super) fn restore(&mut self, agents: Box<[Place]>, newest: Option<AgentId>) {
        self.agents = agents;
        self.newest = newest.unwrap_or(Self::NOBODY);
    }

    fn resize<R>(&mut self, change: impl FnOnce(&mut Vec<Place>) -> R) -> R {
        let mut agents = std::mem::take(&mut self.agents).into_vec();
        let result = change(&mut agents);
        self.agents = agents.into_boxed_slice();
        result
    }

    /// Remembers where the agent's change is noted.
    pub(crate) fn note(&mut self, agent: AgentId, at: u32) {
        if let Ok(place) = self.find(agent) {
            self.agents[place].noted = at;
        }
    }

    /// Where the rule follows the newest claim: the agent's has changed, or is gone.
    pub(crate) fn follow_newest(&mut self, agent: AgentId, set: &Set, claims: &Slots<Claim>) {
        let recency = |place: &Place| set.recency(claims.row(place.slot));
        let Ok(at) = self.find(agent) else {
            if self.newest == agent {
                self.newest = self.agents.iter().max_by_key(|place| recency(place)).map_or(Self::NOBODY, |place| place.agent);
            }
            return;
        };
        let newest = self.find(self.newest).map(|at| recency(&self.agents[at])); // nobody is not found
        if newest.is_ok_and(|newest| newest > recency(&self.agents[at])) {
            return;
        }
        self.newest = agent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_cache_line() {
        assert_eq!((size_of::<Option<Object>>(), size_of::<Place>()), (64, 16));
    }
}
