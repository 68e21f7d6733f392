//! One object in the index: its agents' latest claims, and which of them is the newest.

use serde::{Deserialize, Serialize};

use crate::{
    digest::object_hash,
    names::AgentId,
    rule::decide::Set,
    tally::StateId,
    vocabulary::{Millis, Name, Offset, Partition, Seq},
};

/// A report in ids. Flat, without padding: it is moved and compared more than anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) agent: AgentId,
    pub(crate) state: StateId,
    pub(crate) ts_ms: Millis,
    pub(crate) offset: Offset,
    /// The multiple at which it expires, or [`Claim::NEVER`].
    pub(crate) due_ms: Millis,
}

impl Claim {
    /// No ttl. Not an option, so that the claim stays small.
    pub(crate) const NEVER: Millis = Millis::MAX;

    pub(crate) fn due(&self) -> Option<Millis> {
        (self.due_ms != Self::NEVER).then_some(self.due_ms)
    }

    /// Whether nothing but recency tells the two apart, and neither runs out.
    pub(crate) fn is_same_for_good(&self, other: &Self) -> bool {
        self.state == other.state && self.due_ms == Self::NEVER && other.due_ms == Self::NEVER
    }
}

/// An agent's place in an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) claim: Claim,
    /// Where it is noted as changed in this epoch, if that place is still its own.
    pub(crate) noted: u32,
}

impl Slot {
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
    /// The latest claims, by agent.
    pub(crate) agents: Vec<Slot>,
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

    /// Reads the name and, of an object with few agents, all claims.
    pub(crate) fn first_words(&self) -> u64 {
        let words = |at: usize| self.agents.get(at).map_or(0, |slot| u64::from(slot.noted));
        u64::from(self.name.as_bytes().first().copied().unwrap_or(0)) + words(0) + words(2) + words(4)
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
        self.agents.binary_search_by_key(&agent, |slot| slot.claim.agent)
    }

    /// The state of the newest report, where the rule follows it.
    pub(crate) fn newest_state(&self) -> Option<StateId> {
        let at = self.find(self.newest?).expect("the newest is held");
        Some(self.agents[at].claim.state)
    }

    /// Puts a slot (or none) in the agent's place; returns what was there.
    pub(crate) fn put(&mut self, agent: AgentId, slot: Option<Slot>, set: &Set) -> Option<Slot> {
        let before = match (self.find(agent), slot) {
            (Ok(at), Some(slot)) => Some(std::mem::replace(&mut self.agents[at], slot)),
            (Ok(at), None) => Some(self.agents.remove(at)),
            (Err(at), Some(slot)) => {
                self.make_room();
                self.agents.insert(at, slot);
                None
            }
            (Err(_), None) => None,
        };
        if set.latest {
            self.follow_newest(agent, slot.map(|slot| slot.claim), set);
        }
        before
    }

    /// Remembers where the agent's change is noted.
    pub(crate) fn note(&mut self, agent: AgentId, at: u32) {
        if let Ok(place) = self.find(agent) {
            self.agents[place].noted = at;
        }
    }

    fn follow_newest(&mut self, agent: AgentId, claim: Option<Claim>, set: &Set) {
        let Some(claim) = claim else {
            if self.newest == Some(agent) {
                let newest = self.agents.iter().map(|slot| slot.claim).max_by_key(|claim| set.recency(claim));
                self.newest = newest.map(|claim| claim.agent);
            }
            return;
        };
        let newest = self.newest.and_then(|newest| self.find(newest).ok()).map(|at| set.recency(&self.agents[at].claim));
        if newest.is_none_or(|newest| newest <= set.recency(&claim)) {
            self.newest = Some(agent);
        }
    }
}
