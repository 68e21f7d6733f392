//! Makes the rows of an epoch from what the engine's stages left of it, all in ids.
//!
//! Rows come by object, in any order of partitions. Ids become places in short lists through a table by id, so that nothing is hashed; of
//! that table only what was used is cleared, so that many known names cost an epoch nothing that does not name them.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Line, Named, Rows};
use crate::{
    claim::Claim,
    names::{AgentId, Interner, Names, ObjectId},
    reports::Object,
    vocabulary::{Name, Partition, Published},
};

/// Rows in the making. Lives as long as its engine, for the tables.
#[derive(Default)]
pub(crate) struct Maker {
    made: Vec<Made>,
    /// Places in `made`.
    places: HashMap<Partition, usize>,
    open: Option<Open>,
    agents: Places,
    states: Places,
    /// How many rows to have room for, for each partition.
    room: usize,
    /// How many partitions had rows in the epoch before.
    partitions_before: usize,
}

/// The object whose rows are being made.
struct Open {
    id: ObjectId,
    /// The place of its partition in `made`.
    at: usize,
    /// As [`Object::digest`].
    digest: u64,
}

/// Rows of a partition, and what they add to its digest (wrapping).
struct Made {
    rows: Rows,
    digest: u64,
}

impl Maker {
    /// Rows of an epoch are to be made, so many.
    pub(crate) fn expect(&mut self, rows: usize) {
        self.room = match self.partitions_before {
            0 | 1 => rows,
            several => (rows / several) * 9 / 8, // partitions are much alike
        };
    }

    /// The rows that follow are this object's. Returns the hash that stands for it in digests.
    #[inline]
    pub(crate) fn object(&mut self, id: ObjectId, object: &Object) -> u64 {
        match self.open {
            Some(Open { id: open, digest, .. }) if open == id => digest,
            _ => self.begin(id, object),
        }
    }

    /// What is left of an agent's report on the object.
    pub(crate) fn report(&mut self, agent: AgentId, claim: Option<&Claim>, delta: u64) {
        let agent = self.agents.of(agent);
        let line = match claim {
            Some(claim) => {
                let state = self.states.of(claim.state);
                Line::Report { agent, state, ts_ms: claim.ts_ms, offset: claim.offset, due_ms: claim.due() }
            }
            None => Line::NoReport(agent),
        };
        self.add(delta).lines.push(line);
    }

    /// What is published of the object now.
    pub(crate) fn published(&mut self, published: Option<Arc<Published>>, delta: u64) {
        self.add(delta).push_object(published);
    }

    /// The epoch's rows by partition, and what they add to digests.
    pub(crate) fn take(&mut self, names: &Names) -> (Vec<Rows>, Vec<(Partition, u64)>) {
        let named = Arc::new(Named { agents: self.agents.take(&names.agents), states: self.states.take(&names.states) });
        self.partitions_before = self.made.len();
        self.places.clear();
        self.open = None;
        let made = self.made.drain(..).map(|Made { rows, digest }| {
            let digest = (rows.partition, digest);
            (Rows { named: named.clone(), ..rows }, digest)
        });
        made.unzip()
    }

    /// Where a row that adds so much to its partition's digest goes.
    #[inline]
    fn add(&mut self, delta: u64) -> &mut Rows {
        let open = self.open.as_ref().expect("rows follow their object");
        let made = &mut self.made[open.at];
        made.digest = made.digest.wrapping_add(delta);
        &mut made.rows
    }

    fn begin(&mut self, id: ObjectId, object: &Object) -> u64 {
        let Self { made, places, room, .. } = self;
        let at = *places.entry(object.partition).or_insert_with(|| {
            let rows = Rows { partition: object.partition, lines: Vec::with_capacity(*room), ..Rows::default() };
            made.push(Made { rows, digest: 0 });
            made.len() - 1
        });
        made[at].rows.begin(&object.name);
        let digest = object.digest();
        self.open = Some(Open { id, at, digest });
        digest
    }
}

/// Gives ids places 0, 1, 2, ... in order of first use.
#[derive(Default)]
struct Places {
    /// By id; [`Places::NONE`] for what is not used in the epoch.
    by_id: Vec<u32>,
    /// Ids by place.
    used: Vec<u32>,
}

impl Places {
    const NONE: u32 = u32::MAX;

    #[inline]
    fn of(&mut self, id: u32) -> u32 {
        match self.by_id.get(id as usize) {
            Some(&place) if place != Self::NONE => place,
            _ => self.add(id),
        }
    }

    #[cold]
    fn add(&mut self, id: u32) -> u32 {
        let at = id as usize;
        self.by_id.resize(self.by_id.len().max(at + 1), Self::NONE);
        self.by_id[at] = self.used.len() as u32; // fewer than there are ids
        self.used.push(id);
        self.by_id[at]
    }

    /// The names, by place. Starts anew.
    fn take(&mut self, names: &Interner) -> Vec<Name> {
        let Self { by_id, used } = self;
        let name = |id: u32| {
            by_id[id as usize] = Self::NONE;
            names.name(id).clone()
        };
        used.drain(..).map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_start_anew_with_every_epoch() {
        let mut interner = Interner::default();
        let ids: Vec<u32> = ["a", "b", "c"].iter().map(|name| interner.intern(name).0).collect();
        let mut places = Places::default();
        assert_eq!([2, 0, 2].map(|at| places.of(ids[at])), [0, 1, 0]);
        assert_eq!(places.take(&interner).iter().map(|name| &**name).collect::<Vec<_>>(), ["c", "a"]);
        assert_eq!([1, 2, 2].map(|at| places.of(ids[at])), [0, 1, 1]);
        assert_eq!(places.take(&interner).len(), 2);
        assert!(places.take(&interner).is_empty());
    }
}
