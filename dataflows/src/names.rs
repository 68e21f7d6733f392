//! Ids for names: states and agents are interned so that the dataflow moves numbers. Shared on one thread: the engine and
//! its reports intern and hold, reports and publish release, and all stages read. With them what a rule must know of an id: an agent's weights, an object's rule set.
//!
//! An id may be given to another name only after nobody can ask for its old meaning: when the last claim that used it was taken back at a
//! seq that is committed, and so compacted past. Until then [`Interner::release`] only remembers when that was.

pub(crate) mod places;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use xxhash_rust::xxh3::xxh3_64;

use crate::vocabulary::{Name, Seq};

/// Index of an interned agent.
pub(crate) type AgentId = u32;
/// Index of a known object.
pub(crate) type ObjectId = u32;

/// Names by id and ids by name, with a count of uses.
#[derive(Default)]
pub(crate) struct Interner {
    hasher: DefaultHashBuilder,
    ids: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Ids whose count went to zero, by the seq of that.
    unused: Vec<(Seq, u32)>,
}

struct Entry {
    name: Name,
    /// Stable hash of the name, for row digests.
    digest: u64,
    uses: u32,
    /// The seq at which `uses` went to zero last.
    unused_since: Seq,
    occupied: bool,
}

impl Interner {
    /// The id of a name; a new one if it has none. Does not count as a use.
    pub(crate) fn intern(&mut self, name: &str) -> (u32, IsNew) {
        let hash = self.hasher.hash_one(name);
        if let Some(id) = self.ids.find(hash, |id| &*self.entries[*id as usize].name == name) {
            return (*id, IsNew::No);
        }
        let entry = Entry { name: name.into(), digest: xxh3_64(name.as_bytes()), uses: 0, unused_since: 0, occupied: true };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 names at a time")
            }
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.ids.insert_unique(hash, id, |id| hasher.hash_one(&*entries[*id as usize].name));
        (id, IsNew::Yes)
    }

    /// The id of a name, and one more use of it.
    pub(crate) fn intern_held(&mut self, name: &str) -> u32 {
        let (id, _) = self.intern(name);
        self.hold(id);
        id
    }

    /// One more use of an id.
    pub(crate) fn hold(&mut self, id: u32) {
        self.entries[id as usize].uses += 1;
    }

    /// One use less, at `seq`.
    pub(crate) fn release(&mut self, id: u32, seq: Seq) {
        let entry = &mut self.entries[id as usize];
        entry.uses -= 1;
        if entry.uses == 0 {
            entry.unused_since = seq;
            self.unused.push((seq, id));
        }
    }

    /// Everything up to `last`, inclusive, is committed: ids unused since then are free.
    pub(crate) fn committed(&mut self, last: Seq) {
        let Self { hasher, ids, entries, free, unused } = self;
        unused.retain(|(seq, id)| {
            let entry = &mut entries[*id as usize];
            if *seq > last {
                return true;
            }
            if entry.occupied && entry.uses == 0 && entry.unused_since <= last {
                let found = ids.find_entry(hasher.hash_one(&*entry.name), |other| other == id);
                found.expect("an occupied id is in the table").remove();
                entry.occupied = false;
                free.push(*id);
            }
            false
        });
    }

    pub(crate) fn name(&self, id: u32) -> &Name {
        &self.entries[id as usize].name
    }

    pub(crate) fn digest(&self, id: u32) -> u64 {
        self.entries[id as usize].digest
    }

    /// The id of a name that has one.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(name), |id| &*self.entries[*id as usize].name == name).copied()
    }

    /// How many ids are taken.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Whether a name was interned just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsNew {
    Yes,
    No,
}

/// What the operators need to know of ids.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) states: Interner,
    pub(crate) agents: Interner,
    /// Weight by agent and rule set: `agent * sets + set`.
    weights: Vec<u32>,
    sets: usize,
    /// Rule set by object.
    set_of: Vec<u16>,
}

impl Names {
    /// No names yet but the states that rules name themselves: they hold the first ids, for good, in this order.
    pub(crate) fn new(named: &[String], sets: usize) -> Self {
        let mut names = Self { sets, ..Self::default() };
        for (at, state) in named.iter().enumerate() {
            let id = names.states.intern_held(state);
            debug_assert_eq!(id as usize, at, "named states are distinct");
        }
        names
    }

    /// The id of an agent; `weight` is asked once for each rule set when the agent is new.
    pub(crate) fn agent(&mut self, name: &str, weight: impl Fn(usize) -> u32) -> AgentId {
        let (id, is_new) = self.agents.intern(name);
        if is_new == IsNew::Yes {
            let first = id as usize * self.sets;
            self.weights.resize(self.weights.len().max(first + self.sets), 0);
            (0..self.sets).for_each(|set| self.weights[first + set] = weight(set));
        }
        id
    }

    /// The weight of an agent under a rule set.
    #[inline]
    pub(crate) fn weight(&self, agent: AgentId, set: usize) -> i32 {
        self.weights[agent as usize * self.sets + set] as i32
    }

    /// The rule set of an object.
    #[inline]
    pub(crate) fn set_of(&self, object: ObjectId) -> usize {
        usize::from(self.set_of[object as usize])
    }

    pub(crate) fn set_object(&mut self, object: ObjectId, set: usize) {
        let at = object as usize;
        self.set_of.resize(self.set_of.len().max(at + 1), 0);
        self.set_of[at] = u16::try_from(set).expect("fewer than 65,536 rule sets");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_reused_only_when_its_last_use_is_committed() {
        let mut names = Interner::default();
        let (a, _) = names.intern("a");
        names.hold(a);
        names.release(a, 7);
        names.committed(6);
        assert_eq!(names.find("a"), Some(a), "seq 7 is not committed");
        names.committed(7);
        assert_eq!(names.find("a"), None);
        assert_eq!(names.intern("b"), (a, IsNew::Yes));
    }

    #[test]
    fn an_id_used_again_stays() {
        let mut names = Interner::default();
        let (a, _) = names.intern("a");
        names.hold(a);
        names.release(a, 7);
        names.hold(a);
        names.committed(9);
        assert_eq!(names.find("a"), Some(a));
        names.release(a, 12);
        names.committed(11);
        assert_eq!(names.find("a"), Some(a), "unused since 12, not since 7");
        names.committed(12);
        assert_eq!(names.find("a"), None);
    }
}
