//! One object in the index: where its agents' latest claims are, and which of them is the newest.

use crate::{
    claim::Claim,
    digest::object_hash,
    names::AgentId,
    rule::decide::Set,
    slots::{Slot, Slots},
    tally::StateId,
    vocabulary::{Name, Partition, Seq},
};

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

/// Up to so many agents, an object takes memory for those it has; from there on in steps that double.
const FEW: usize = 16;

/// A known object.
pub(crate) struct Object {
    pub(crate) name: Name,
    pub(crate) partition: Partition,
    /// The caller's hash, for the index.
    pub(crate) hash: u64,
    set: u16,
    /// The seq of the last event that changed something.
    pub(crate) touched: Seq,
    /// Its agents, in the order of their ids.
    pub(crate) agents: Vec<Place>,
    /// Whose claim is the newest; kept only where the rule asks.
    newest: Option<AgentId>,
}

impl Object {
    pub(crate) fn new(name: Name, partition: Partition, hash: u64, set: usize) -> Self {
        let set = u16::try_from(set).expect("fewer than 65,536 rule sets");
        Self { name, partition, hash, set, touched: 0, agents: Vec::new(), newest: None }
    }

    /// Its rule set.
    pub(crate) fn set(&self) -> usize {
        usize::from(self.set)
    }

    /// Stable hash of partition and name, for row digests.
    pub(crate) fn digest(&self) -> u64 {
        object_hash(self.partition, &self.name)
    }

    /// Reads the name and, of an object with few agents, all places.
    pub(crate) fn first_words(&self) -> u64 {
        let words = |at: usize| self.agents.get(at).map_or(0, |place| u64::from(place.noted));
        u64::from(self.first_byte()) + words(0) + words(4)
    }

    /// Reads the name.
    pub(crate) fn first_byte(&self) -> u8 {
        self.name.as_bytes().first().copied().unwrap_or(0)
    }

    /// Room for another agent: few objects have many, so nothing is set aside for objects with few.
    fn make_room(&mut self) {
        if self.agents.len() == self.agents.capacity() && self.agents.len() < FEW {
            self.agents.reserve_exact(if self.agents.is_empty() { 1 } else { 2 });
        }
    }

    /// Where the agent's claim stands, or would stand.
    #[inline]
    pub(crate) fn find(&self, agent: AgentId) -> Result<usize, usize> {
        self.agents.binary_search_by_key(&agent, |place| place.agent)
    }

    /// The state of the newest report, where the rule follows it.
    pub(crate) fn newest_state(&self) -> Option<StateId> {
        let at = self.find(self.newest?).expect("the newest is held");
        Some(self.agents[at].state)
    }

    /// Puts a place (or none) in the agent's place; returns what was there.
    pub(crate) fn put(&mut self, agent: AgentId, place: Option<Place>) -> Option<Place> {
        match (self.find(agent), place) {
            (Ok(at), Some(place)) => Some(std::mem::replace(&mut self.agents[at], place)),
            (Ok(at), None) => Some(self.agents.remove(at)),
            (Err(at), Some(place)) => {
                self.make_room();
                self.agents.insert(at, place);
                None
            }
            (Err(_), None) => None,
        }
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
            if self.newest == Some(agent) {
                self.newest = self.agents.iter().max_by_key(|place| recency(place)).map(|place| place.agent);
            }
            return;
        };
        let newest = self.newest.and_then(|newest| self.find(newest).ok()).map(|at| recency(&self.agents[at]));
        if newest.is_none_or(|newest| newest <= recency(&self.agents[at])) {
            self.newest = Some(agent);
        }
    }
}
