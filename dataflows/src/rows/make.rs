//! Makes the rows of an epoch from what the engine's stages left of it, all in ids.
//!
//! Rows come by object, in any order of partitions.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Line, Named, Rows};
use crate::{
    claim::Claim,
    names::{AgentId, Names, ObjectId, places::Places},
    posted::Posted,
    reports::Object,
    vocabulary::Partition,
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
    /// What to have room for: the most that a partition had in the epoch before.
    room: Room,
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

#[derive(Clone, Copy, Default)]
struct Room {
    lines: usize,
    objects: usize,
    name_bytes: usize,
    published: usize,
}

impl Room {
    /// Room for these rows too.
    fn with(self, rows: &Rows) -> Self {
        Self {
            lines: self.lines.max(rows.lines.len()),
            objects: self.objects.max(rows.objects.len()),
            name_bytes: self.name_bytes.max(rows.object_names.len()),
            published: self.published.max(rows.published.len()),
        }
    }

    fn rows(self, partition: Partition) -> Rows {
        Rows {
            partition,
            lines: Vec::with_capacity(self.lines),
            objects: Vec::with_capacity(self.objects),
            object_names: String::with_capacity(self.name_bytes),
            published: Vec::with_capacity(self.published),
            named: Arc::default(),
        }
    }
}

impl Maker {
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
    pub(crate) fn published(&mut self, posted: Option<&Posted>, delta: u64) {
        let posted = posted.map(|posted| posted.renumbered(|state| self.states.of(state)));
        self.add(delta).push_object(posted);
    }

    /// The epoch's rows by partition, and what they add to digests.
    pub(crate) fn take(&mut self, names: &Names) -> (Vec<Rows>, Vec<(Partition, u64)>) {
        let named = Arc::new(Named { agents: self.agents.take(&names.agents), states: self.states.take(&names.states) });
        self.room = self.made.iter().fold(Room::default(), |room, made| room.with(&made.rows));
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
            made.push(Made { rows: room.rows(object.partition), digest: 0 });
            made.len() - 1
        });
        made[at].rows.begin(&object.name);
        let digest = object.digest();
        self.open = Some(Open { id, at, digest });
        digest
    }
}
