//! The last word on every row of a partition, in numbers: what a restore holds between the first chunk and the handing over.
//!
//! An object is looked up once for each run of its rows, with the hash that also names its worker; its name stands once, in one string
//! with all others. Agents and states are numbers. Of an object handed over, the reports are released at once, so that what is staged goes
//! as fast as the workers' state comes. Known limit, as in the index: an object's agents stand in one sorted vector.

use std::{collections::HashMap, mem, sync::Arc};

use hashbrown::HashTable;
use statehouse_dataflows::{
    digest::{ClaimWords, claim_hash, name_hash, object_hash, published_hash},
    rows::{Line, Named, Posted, Rows},
    vocabulary::{Millis, Name, Offset, Partition},
};

use crate::{message::Objects, route::Route};

/// See the module.
pub(super) struct Table {
    partition: Partition,
    route: Route,
    agents: Numbered,
    states: Numbered,
    /// Places in `objects`, by the hash of the name.
    places: HashTable<u32>,
    objects: Vec<Object>,
    /// The objects' names, one after the other.
    names: String,
    published: Vec<Posted>,
}

struct Object {
    hash: u64,
    name_end: usize,
    /// The place of what is published of it, or [`Object::NEVER_PUBLISHED`].
    published: u32,
    is_published: bool,
    /// In the order of agents.
    reports: Vec<Held>,
}

/// A report.
#[derive(Clone, Copy)]
struct Held {
    agent: u32,
    state: u32,
    ts_ms: Millis,
    offset: Offset,
    due_ms: Option<Millis>,
}

/// What is left of a table, to be handed over.
pub(super) struct Leaving {
    partition: Partition,
    route: Route,
    named: Arc<Named>,
    objects: Vec<Object>,
    names: String,
    published: Vec<Posted>,
    /// How many objects are handed over.
    handed: usize,
    /// Rows handed over, and how many there were.
    rows: (u64, u64),
}

impl Object {
    const NEVER_PUBLISHED: u32 = u32::MAX;

    fn new(hash: u64, name_end: usize) -> Self {
        Self { hash, name_end, published: Self::NEVER_PUBLISHED, is_published: false, reports: Vec::new() }
    }

    fn keep(&mut self, agent: u32, report: Option<Held>) {
        // In the order of names agents mostly come in the order of their numbers.
        let found = match self.reports.last() {
            Some(last) if last.agent < agent => Err(self.reports.len()),
            None => Err(0),
            Some(_) => self.reports.binary_search_by_key(&agent, |held| held.agent),
        };
        match (found, report) {
            (Ok(at), Some(report)) => self.reports[at] = report,
            (Ok(at), None) => _ = self.reports.remove(at),
            (Err(at), Some(report)) => self.reports.insert(at, report),
            (Err(_), None) => {}
        }
    }

    fn publish(&mut self, posted: Posted, all: &mut Vec<Posted>) {
        self.is_published = true;
        match all.get_mut(self.published as usize) {
            Some(place) => *place = posted,
            None => {
                self.published = u32::try_from(all.len()).expect("fewer than 2^32 objects in a partition");
                all.push(posted);
            }
        }
    }

    fn rows(&self) -> usize {
        self.reports.len() + usize::from(self.is_published)
    }
}

impl Table {
    pub(super) fn new(partition: Partition, route: Route) -> Self {
        Self {
            partition,
            route,
            agents: Numbered::default(),
            states: Numbered::default(),
            places: HashTable::new(),
            objects: Vec::new(),
            names: String::new(),
            published: Vec::new(),
        }
    }

    /// Takes a piece's rows over what is there.
    pub(super) fn keep(&mut self, rows: &Rows) {
        let number = |numbered: &mut Numbered, names: &[Name]| names.iter().map(|name| numbered.of(name)).collect();
        let agents: Vec<u32> = number(&mut self.agents, rows.agents());
        let states: Vec<u32> = number(&mut self.states, rows.states());
        for (name, lines) in rows.runs(0..rows.len()) {
            let at = self.find(name);
            let object = &mut self.objects[at];
            for line in lines {
                match *line {
                    Line::Report { agent, state, ts_ms, offset, due_ms } => {
                        let (agent, state) = (agents[agent as usize], states[state as usize]);
                        object.keep(agent, Some(Held { agent, state, ts_ms, offset, due_ms }));
                    }
                    Line::NoReport(agent) => object.keep(agents[agent as usize], None),
                    Line::Object(place) => {
                        let posted = rows.published(place).renumbered(|state| states[state as usize]);
                        object.publish(posted, &mut self.published);
                    }
                    Line::NoObject => object.is_published = false,
                }
            }
        }
    }

    /// The digest of all rows.
    pub(super) fn digest(&self) -> u64 {
        let (agents, states) = (self.agents.hashes(), self.states.hashes());
        let (mut digest, mut name_start) = (0_u64, 0);
        for object in &self.objects {
            let name = object_hash(self.partition, &self.names[name_start..object.name_end]);
            name_start = object.name_end;
            for held in &object.reports {
                let Held { agent, state, ts_ms, offset, due_ms } = *held;
                let words = ClaimWords { state: states[state as usize], ts_ms, offset, due_ms };
                digest = digest.wrapping_add(claim_hash(name, agents[agent as usize], &words));
            }
            if object.is_published {
                let words = self.published[object.published as usize].words_of(|state| states[state as usize]);
                digest = digest.wrapping_add(published_hash(name, &words));
            }
        }
        digest
    }

    /// No row is taken any more: what is there is handed over.
    pub(super) fn leave(self) -> Leaving {
        let Self { partition, route, agents, states, objects, names, published, .. } = self;
        let named = Arc::new(Named { agents: agents.names, states: states.names });
        let rows = (0, objects.iter().map(|object| object.rows() as u64).sum());
        Leaving { partition, route, named, objects, names, published, handed: 0, rows }
    }

    /// The place of an object, which is made if it is not there.
    fn find(&mut self, name: &str) -> usize {
        let Self { partition, route, places, objects, names, .. } = self;
        let hash = route.hash(*partition, name);
        let is_it = |place: &u32| {
            let at = *place as usize;
            let start = at.checked_sub(1).map_or(0, |before| objects[before].name_end);
            objects[at].hash == hash && &names[start..objects[at].name_end] == name
        };
        if let Some(place) = places.find(hash, is_it) {
            return *place as usize;
        }
        let place = u32::try_from(objects.len()).expect("fewer than 2^32 objects in a partition");
        places.insert_unique(hash, place, |place| objects[*place as usize].hash);
        names.push_str(name);
        objects.push(Object::new(hash, names.len()));
        place as usize
    }
}

impl Leaving {
    /// Rows handed over, and how many there were.
    pub(super) fn rows(&self) -> (u64, u64) {
        self.rows
    }

    /// The next objects, with about so many rows, by worker; none: all are handed over.
    pub(super) fn next(&mut self, rows_max: usize) -> Option<Vec<Objects>> {
        let empty = || Objects { hashes: Vec::new(), rows: Rows::naming(self.partition, &self.named) };
        let mut shares: Vec<_> = (0..self.route.workers()).map(|_| empty()).collect();
        let mut rows = 0;
        while rows < rows_max && self.handed < self.objects.len() {
            let name_start = self.handed.checked_sub(1).map_or(0, |before| self.objects[before].name_end);
            let object = &mut self.objects[self.handed];
            self.handed += 1;
            if object.rows() == 0 {
                continue;
            }
            rows += object.rows();
            let share = &mut shares[self.route.worker(object.hash)];
            share.hashes.push(object.hash);
            share.rows.begin(&self.names[name_start..object.name_end]);
            if object.is_published {
                share.rows.push_object(Some(self.published[object.published as usize]));
            }
            for Held { agent, state, ts_ms, offset, due_ms } in mem::take(&mut object.reports) {
                share.rows.push_report(Line::Report { agent, state, ts_ms, offset, due_ms });
            }
        }
        self.rows.0 += rows as u64;
        (rows > 0).then_some(shares)
    }
}

/// Names with numbers, in order of first use.
#[derive(Default)]
struct Numbered {
    numbers: HashMap<Name, u32, ahash::RandomState>,
    names: Vec<Name>,
}

impl Numbered {
    fn of(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 names in a partition");
        self.numbers.insert(Name::clone(name), number);
        self.names.push(Name::clone(name));
        number
    }

    /// What stands for each name in digests, by number.
    fn hashes(&self) -> Vec<u64> {
        self.names.iter().map(|name| name_hash(name)).collect()
    }
}
