//! reports: the upsert. Events in, differences out: of the per-agent reports of each object, and of its tally; and, of a
//! closed epoch, the rows of the checkpoint.
//!
//! First stage of the dataflow, in front of its inputs. Per worker one index (partition, object) → its agents → slot of the latest claim.
//! Latest means last to arrive, or highest timestamp where the rule set says so; what is late is ignored and counted. Where nobody looks
//! at recency an unchanged claim costs one probe and makes no difference, no row.
//!
//! Assumes that seqs rise and that an object's events come in the order of their offsets. Claims stand once,
//! in their slots; the index and the arrangement that questions read both point there. Known limit: an object's agents stand in one sorted vector, so the first report of each
//! of very many agents moves that vector.

mod changed;
mod followed;
mod object;
mod restored;
mod swings;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use hashbrown::HashTable;
use prefetch_index::prefetch_index;

use changed::{Changed, ChangedReport};
pub(crate) use object::Object;
use object::Place;
pub(crate) use object::prefetch_name;
use swings::{Swing, Swings};

use crate::{
    claim::Claim,
    digest::{claim_hash, published_hash},
    flat::Update,
    names::{AgentId, Names, ObjectId},
    plan::{AGENTS_PER_OBJECT_MAX, Order},
    posted::Posted,
    rows::make::Maker,
    rule::decide::{Rules, Set},
    slots::{Slot, Slots},
    tally::Tally,
    vocabulary::{Millis, Moment, Partition, Seq, due_at},
};

/// How many events to look ahead at a time: enough to overlap their cache misses, few enough to stay in the cache until they are used.
pub const WINDOW: usize = 128;

/// How many of an object's claims are prefetched before they are sliced.
const AHEAD_OF_SLICE: usize = 8;

/// Claims by slot.
pub(crate) type Claims = Slots<Claim>;
/// A difference of the reports collection.
pub(crate) type ReportDiff = Update<ObjectId, Slot, i32>;
/// A difference of the tally collection: the tally is the difference type.
pub(crate) type TallyDiff = Update<ObjectId, (), Tally>;

/// What is published of an object: as the checkpoint has it, and as it is now.
pub(crate) type PublishedChange<'p> = (ObjectId, [Option<&'p Posted>; 2]);

/// The index, and the differences made since they were last taken.
#[derive(Default)]
pub(crate) struct Reports {
    objects: Vec<Option<Object>>,
    claims: Rc<RefCell<Claims>>,
    /// Whether any claim ever had a ttl; while none had, none has to be looked up for it.
    any_ttl: bool,
    ids: HashTable<(u64, ObjectId)>,
    /// What was found by looking ahead, next last.
    ahead: Vec<(u64, Option<ObjectId>)>,
    free: Vec<ObjectId>,
    /// Objects that publish forgot, by the seq of that.
    gone: Vec<(Seq, ObjectId)>,
    /// Since the epoch began.
    changed: Changed,
    /// Whether somebody looks at the reports collection between an epoch's ends; else a report makes its differences as of its last seq.
    every_seq: bool,
    pub(crate) report_diffs: Vec<ReportDiff>,
    pub(crate) tally_diffs: Vec<TallyDiff>,
    swings: Swings,
    pub(crate) counts: Counts,
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reports and withdrawals older than what they would replace: ignored.
    pub late: u64,
    /// Reports that said what was known.
    pub unchanged: u64,
    /// Reports of one agent too many for one object: ignored.
    pub over_limit: u64,
}

/// Whether a difference is also a row of the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AsRow {
    Yes,
    /// The checkpoint has it, or it is another's from now on.
    No,
}

/// A claim (or none) for an agent's place.
#[derive(Clone, Copy)]
struct Put {
    agent: AgentId,
    claim: Option<Claim>,
    row: AsRow,
}

/// The object an event is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    /// Well mixed, the same whenever the object is the same.
    pub(crate) hash: u64,
}

/// What stays the same while one event is applied.
pub(crate) struct Context<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) names: &'a mut Names,
    pub(crate) seq: Seq,
    pub(crate) moment: Moment,
}

/// A report, as an event has it.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) agent: &'a str,
    pub(crate) state: &'a str,
    pub(crate) ts_ms: Millis,
    pub(crate) ttl_ms: Option<Millis>,
}

impl Reports {
    /// An empty index. `every_seq`: whether a rule looks at the reports themselves, and so at every seq.
    pub(crate) fn new(every_seq: bool, claims: Rc<RefCell<Claims>>) -> Self {
        Self { every_seq, claims, ..Self::default() }
    }

    /// The id of a known object.
    pub(crate) fn find(&mut self, partition: Partition, subject: Subject<'_>) -> Option<ObjectId> {
        let objects = &self.objects;
        let is_it = |id: ObjectId| {
            let object = objects[id as usize].as_ref();
            object.is_some_and(|object| object.partition == partition && &*object.name == subject.name)
        };
        // What was looked at and never came, such as a record that was rejected, is passed over.
        let ahead = std::iter::from_fn(|| self.ahead.pop()).find(|(hash, _)| *hash == subject.hash);
        ahead.and_then(|(_, id)| id).filter(|id| is_it(*id)).or_else(|| {
            let found = self.ids.find(subject.hash, |&(hash, id)| hash == subject.hash && is_it(id));
            found.map(|(_, id)| *id)
        })
    }

    /// Prefetches what finding these objects and their agents will read, one kind of memory after the other, so that these reads don't wait
    /// for each other. Has no effect but on time, and that the next finds try what was found here first.
    pub(crate) fn look_ahead(&mut self, hashes: impl Iterator<Item = u64>) {
        let Self { ahead, ids, objects, .. } = self;
        ahead.clear();
        ahead.extend(hashes.take(WINDOW).map(|hash| {
            let id = ids.find(hash, |(other, _)| *other == hash).map(|(_, id)| *id);
            id.into_iter().for_each(|id| prefetch_index(&*objects, id as usize));
            (hash, id)
        }));
        let found = ahead.iter().filter_map(|(_, id)| objects[(*id)? as usize].as_ref());
        found.for_each(Object::prefetch);
        ahead.reverse();
    }

    /// Makes an object known.
    pub(crate) fn insert(&mut self, subject: Subject<'_>, set: usize, context: &mut Context<'_>) -> ObjectId {
        let partition = context.moment.partition;
        let object = Object::new(subject.name.into(), partition, subject.hash, set);
        let id = match self.free.pop() {
            Some(id) => {
                self.objects[id as usize] = Some(object);
                id
            }
            None => {
                self.objects.push(Some(object));
                ObjectId::try_from(self.objects.len() - 1).expect("fewer than 2^32 objects on a worker")
            }
        };
        context.names.set_object(id, set);
        self.ids.insert_unique(subject.hash, (subject.hash, id), |(hash, _)| *hash);
        id
    }

    /// An agent claims a state.
    pub(crate) fn report(&mut self, id: ObjectId, said: Said<'_>, context: &mut Context<'_>) {
        let Context { rules, names, seq, moment } = context;
        let object = self.objects[id as usize].as_mut().expect("a known object");
        let set = &rules.sets[object.set()];
        if object.agents.len() >= AGENTS_PER_OBJECT_MAX && names.agents.find(said.agent).is_none_or(|agent| object.find(agent).is_err()) {
            self.counts.over_limit += 1;
            return; // without an id for the agent: nothing would ever take that back
        }
        let agent = names.agent(said.agent, |set| rules.sets[set].weight(said.agent));
        let held = object.find(agent);
        if held.is_ok_and(|at| is_late(set, said.ts_ms, object.agents[at].slot, &self.claims)) {
            self.counts.late += 1;
            return;
        }
        let (state, _) = names.states.intern(said.state);
        let due_ms = said.ttl_ms.map_or(Claim::NEVER, |ttl_ms| due_at(moment.clock_ms, ttl_ms));
        let offset = moment.offset.expect("reports come from records");
        let claim = Claim { agent, state, ts_ms: said.ts_ms, offset, due_ms };
        let runs_out = |place: &Place| self.any_ttl && self.claims.borrow().row(place.slot).due().is_some();
        let is_same = |place: &Place| !set.recency && place.state == state && claim.due().is_none() && !runs_out(place);
        if held.is_ok_and(|at| is_same(&object.agents[at])) {
            self.counts.unchanged += 1;
            return;
        }
        self.any_ttl |= claim.due().is_some();
        object.touched = *seq;
        names.states.hold(state);
        self.replace(id, Put { agent, claim: Some(claim), row: AsRow::Yes }, context);
    }

    /// An agent takes its report back, if it has one.
    pub(crate) fn withdraw(&mut self, id: ObjectId, agent: &str, ts_ms: Millis, context: &mut Context<'_>) {
        let Some(agent) = context.names.agents.find(agent) else { return };
        let object = self.objects[id as usize].as_mut().expect("a known object");
        let Ok(at) = object.find(agent) else { return };
        if is_late(&context.rules.sets[object.set()], ts_ms, object.agents[at].slot, &self.claims) {
            self.counts.late += 1;
            return;
        }
        object.touched = context.seq;
        self.replace(id, Put { agent, claim: None, row: AsRow::Yes }, context);
    }

    /// All reports of the object go.
    pub(crate) fn purge(&mut self, id: ObjectId, context: &mut Context<'_>) {
        self.withdraw_all(id, AsRow::Yes, context);
    }

    fn withdraw_all(&mut self, id: ObjectId, row: AsRow, context: &mut Context<'_>) {
        let object = self.object_mut(id);
        object.touched = context.seq;
        let agents: Vec<_> = object.agents.iter().rev().map(|place| place.agent).collect();
        agents.into_iter().for_each(|agent| self.replace(id, Put { agent, claim: None, row }, context));
    }

    /// Forgets all reports of a partition: makes differences, but no rows. Returns its objects.
    pub(crate) fn give_up(&mut self, partition: Partition, context: &mut Context<'_>) -> Vec<ObjectId> {
        let mine =
            |(id, object): (usize, &Option<Object>)| object.as_ref().filter(|object| object.partition == partition).map(|_| id as ObjectId);
        let ids: Vec<_> = self.objects.iter().enumerate().filter_map(mine).collect();
        ids.iter().for_each(|id| self.withdraw_all(*id, AsRow::No, context));
        let Self { changed, objects, every_seq, report_diffs, .. } = self;
        let is_mine = |id: ObjectId| objects[id as usize].as_ref().is_some_and(|object| object.partition == partition);
        changed.forget(is_mine, |change| {
            if !*every_seq {
                change.differ(context.seq, report_diffs);
            }
        });
        ids
    }

    /// Puts an agent's claim in the place of the one it had, if any, and notes the differences.
    fn replace(&mut self, id: ObjectId, Put { agent, claim, row }: Put, context: &mut Context<'_>) {
        let Context { rules, names, seq, .. } = context;
        let object = self.objects[id as usize].as_mut().expect("a known object");
        let set = &rules.sets[object.set()];
        let claims = &mut *self.claims.borrow_mut();
        let newest_before = object.newest_state();
        let place = claim.map(|claim| Place { agent, state: claim.state, slot: claims.take(claim), noted: Place::NOT_NOTED });
        let before = object.put(agent, place);
        if set.latest {
            object.follow_newest(agent, set, claims);
        }
        if let Some(before) = before {
            names.states.release(before.state, *seq);
            claims.release(before.slot, *seq);
        }
        let change = ChangedReport { object: id, agent, before: before.map(|place| place.slot), after: place.map(|place| place.slot) };
        if self.every_seq || row == AsRow::No {
            change.differ(*seq, &mut self.report_diffs);
        }
        if row == AsRow::Yes {
            let at = self.changed.note(change, before.map(|place| place.noted));
            object.note(agent, at);
        }
        match (before, claim) {
            (None, Some(_)) => names.agents.hold(agent),
            (Some(_), None) => names.agents.release(agent, *seq),
            _ => {}
        }
        let live = i32::from(claim.is_some()) - i32::from(before.is_some());
        let (from, to, weight) = match set.latest {
            true => (newest_before, object.newest_state(), 1),
            false => (before.map(|place| place.state), claim.map(|claim| claim.state), names.weight(agent, object.set())),
        };
        self.swings.note(Swing { object: id, seq: *seq, live, from, to, weight });
    }

    /// Ends the epoch at `last`: orders what is different now.
    pub(crate) fn settle(&mut self, last: Seq) {
        self.changed.settle();
        if !self.every_seq {
            self.changed.differ(last, &mut self.report_diffs);
        }
    }

    /// The differences made since they were last taken, those of tallies ordered as they will be arranged.
    pub(crate) fn diffs(&mut self) -> (&mut Vec<ReportDiff>, &mut Vec<TallyDiff>) {
        self.swings.differ(&mut self.tally_diffs);
        (&mut self.report_diffs, &mut self.tally_diffs)
    }

    /// Publish put these objects' rows here, as of the end of the epoch.
    pub(crate) fn post(&mut self, posted: impl Iterator<Item = (ObjectId, Option<Slot>)>) {
        for (id, slot) in posted {
            self.object_mut(id).post(slot);
        }
    }

    /// An object's reports that the ended epoch left as they were, by agent, those of agents after this one only. To be asked before
    /// [`Reports::take_rows`], which begins a new epoch.
    pub(crate) fn unchanged(&self, id: ObjectId, after: Option<AgentId>) -> impl Iterator<Item = (AgentId, Claim)> + '_ {
        let agents = &self.object(id).agents;
        let first = after.map_or(0, |after| agents.partition_point(|place| place.agent <= after));
        let claims = self.claims.borrow();
        let unchanged = agents[first..].iter().filter(move |place| !self.changed.differs((id, place.agent), place.noted));
        unchanged.map(move |place| (place.agent, *claims.row(place.slot)))
    }

    /// Prefetches what slicing these objects will read. Has no effect but on the cache.
    pub(crate) fn look_ahead_of_slice(&self, ids: impl Iterator<Item = ObjectId> + Clone) {
        ids.clone().for_each(|id| prefetch_index(&self.objects, id as usize));
        ids.clone().for_each(|id| self.object(id).prefetch());
        let claims = self.claims.borrow();
        ids.for_each(|id| self.object(id).agents.iter().take(AHEAD_OF_SLICE).for_each(|place| claims.prefetch(place.slot)));
    }

    /// The rows of the ended epoch: of its reports, and of what is published of objects, both by object.
    pub(crate) fn take_rows<'p>(&mut self, published: impl Iterator<Item = PublishedChange<'p>>, names: &Names, maker: &mut Maker) {
        let put = |(object, [before, after]): PublishedChange<'_>, maker: &mut Maker| {
            let place = maker.object(object, self.object(object));
            let hash = |row: Option<&Posted>| row.map_or(0, |row| published_hash(place, &row.words(&names.states)));
            maker.published(after, hash(after).wrapping_sub(hash(before)));
        };
        let mut published = published.peekable();
        let claims = self.claims.borrow();
        for run in self.changed.settled(WINDOW) {
            self.look_ahead_of_rows(run.clone(), &claims);
            for &ChangedReport { object: id, agent, before, after } in run {
                while let Some(row) = published.next_if(|(object, _)| *object < id) {
                    put(row, maker);
                }
                let place = maker.object(id, self.object(id));
                let [before, after] = [before, after].map(|slot| slot.map(|slot| claims.row(slot)));
                let hash = |claim: &Claim| claim_hash(place, names.agents.digest(agent), &claim.words(names));
                let delta = after.map_or(0, hash).wrapping_sub(before.map_or(0, hash));
                maker.report(agent, after, delta);
            }
        }
        published.for_each(|row| put(row, maker));
        drop(claims);
        self.changed.clear();
    }

    /// Prefetches what the rows of these changed reports will read. Has no effect but on the cache.
    fn look_ahead_of_rows<'a>(&self, run: impl Iterator<Item = &'a ChangedReport> + Clone, claims: &Claims) {
        for change in run.clone() {
            [change.before, change.after].into_iter().flatten().for_each(|slot| claims.prefetch(slot));
            prefetch_index(&self.objects, change.object as usize);
        }
        run.for_each(|change| prefetch_name(&self.object(change.object).name));
    }

    /// Publish forgot these objects, each at its seq; their ids are free once that is committed, unless something happened since.
    pub(crate) fn forgotten(&mut self, gone: impl IntoIterator<Item = (Seq, ObjectId)>) {
        self.gone.extend(gone);
    }

    /// Everything up to `last`, inclusive, is committed.
    pub(crate) fn committed(&mut self, last: Seq) {
        let Self { objects, ids, free, gone, claims, .. } = self;
        claims.borrow_mut().committed(last);
        gone.retain(|(seq, id)| {
            if *seq > last {
                return true;
            }
            let room = &mut objects[*id as usize];
            if let Some(object) = room.as_ref().filter(|object| object.agents.is_empty() && object.touched <= *seq) {
                let found = ids.find_entry(object.hash, |(_, other)| other == id);
                found.expect("a known object is in the table").remove();
                *room = None;
                free.push(*id);
            }
            false
        });
    }

    /// The objects of each of these partitions of which there is anything.
    pub(crate) fn of(&self, partitions: impl Iterator<Item = Partition>) -> BTreeMap<Partition, Vec<ObjectId>> {
        let mut of: BTreeMap<_, Vec<_>> = partitions.map(|partition| (partition, Vec::new())).collect();
        for (id, object) in self.objects.iter().enumerate() {
            let Some(object) = object.as_ref().filter(|object| object.posted().is_some() || !object.agents.is_empty()) else { continue };
            of.entry(object.partition).and_modify(|ids| ids.push(id as ObjectId));
        }
        of
    }

    pub(crate) fn object(&self, id: ObjectId) -> &Object {
        self.objects[id as usize].as_ref().expect("a known object")
    }

    pub(crate) fn object_mut(&mut self, id: ObjectId) -> &mut Object {
        self.objects[id as usize].as_mut().expect("a known object")
    }

    /// How many objects are known.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

fn is_late(set: &Set, ts_ms: Millis, held: Slot, claims: &RefCell<Claims>) -> bool {
    set.order == Order::Timestamp && ts_ms < claims.borrow().row(held).ts_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Rule, RuleSet};

    #[test]
    fn an_agent_too_many_leaves_nothing_behind() {
        let rules = Rules::compile(&Plan::of(RuleSet::new(Rule::Majority)).unwrap());
        let (mut reports, mut names) = (Reports::default(), Names::new(&[], 1));
        let moment = Moment { partition: 0, event: 1, clock_ms: 0, offset: Some(1) };
        let mut context = Context { rules: &rules, names: &mut names, seq: 1, moment };
        let id = reports.insert(Subject { name: "o", hash: 1 }, 0, &mut context);
        let taken = |agent| Place { agent, state: 0, slot: 0, noted: Place::NOT_NOTED };
        reports.object_mut(id).agents = (1_000..).map(taken).take(AGENTS_PER_OBJECT_MAX).collect();
        for agent in ["a", "b"] {
            reports.report(id, Said { agent, state: "x", ts_ms: 0, ttl_ms: None }, &mut context);
        }
        assert_eq!((reports.counts.over_limit, names.agents.len(), names.states.len()), (2, 0, 0));
    }
}
