//! publish: from decisions and control events to changes and to what is published. One operator holds every object's life.
//!
//! Takes decisions and control events in seq order, only those below the closed epoch's end, so a change depends on nothing but the
//! object's events. Emits one difference per object and epoch to the arrangements behind it (readers stand at ends of epochs), and every
//! change, whatever happened within the epoch, to the outbox.
//!
//! A partition that is followed is held still: its objects are what its owner's rows say, whatever the rule decides meanwhile, until that is
//! compared once.
//!
//! Assumes that an object is introduced before anything happens to it, and that runs cover all seqs.

mod agenda;
pub(crate) mod life;

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, vec};

use differential_dataflow::trace::TraceReader;
use hashbrown::HashMap;
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{Stream, channels::pact::Pipeline, operators::Operator},
    progress::frontier::{Antichain, AntichainRef},
};

use crate::{
    by_object::ByObject,
    changes::{self, Made},
    due::DueIndex,
    flat::Update,
    names::{Names, ObjectId},
    posted::Posted,
    rule::decide::Rules,
    slots::{Slot, Slots},
    tally::StateId,
    verdict::{Decisions, Outcome, TallyTrace, tally_at},
    vocabulary::{Millis, Moment, Name, Partition, Run, Seq, TICK_MS},
};
use agenda::{Agenda, Item, Phase, StepPart, What};
use life::{Act, Life, Lives, Step};

/// How many lives to read at a time before their steps.
const LOOK_AHEAD: usize = 64;

/// What an epoch left, as differences at its last seq. One value for each epoch, shared by the arrangements that take their part of it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// What is published of each known object, both in ids: moving a row compares and copies no name.
    pub(crate) published: Vec<Update<ObjectId, Slot, i32>>,
    /// Known objects by partition, in their order. Changes only where objects come and go.
    pub(crate) known: Vec<Update<(Partition, Name), ObjectId, i32>>,
    /// Known objects by state, of each partition.
    pub(crate) by_state: Vec<Update<(Partition, Option<Name>), (), i32>>,
}

/// What publish is told besides decisions.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    /// The seqs that follow.
    Run(Run),
    /// An object that has this id from now on.
    Introduce(ObjectId, Name, Partition, usize),
    /// Something happens to an object.
    Act(ObjectId, Act),
    /// What the checkpoint says is published of an object stands in this slot.
    Restore(ObjectId, Slot),
    /// The checkpoint says that the object is known no more.
    Remove(ObjectId),
    /// A partition is followed from here on: nothing of it is published before it is compared.
    Still(Partition),
    /// A partition's state is complete: compare so many more of its objects with what the rules make of them.
    Compare(Partition, usize),
    /// A partition's state goes, without a change.
    GiveUp(Partition),
}

/// What an epoch made, taken by the engine when it is closed.
pub(crate) struct Outbox {
    /// In seq order.
    pub(crate) changes: changes::Maker,
    /// What differs from the checkpoint, by object.
    pub(crate) rows: Vec<ObjectRow>,
    /// Where the rows are that were arranged anew, by object.
    pub(crate) posted: Vec<(ObjectId, Option<Slot>)>,
    /// Objects that are known no more.
    pub(crate) gone: Vec<(Seq, ObjectId)>,
}

/// What is published of an object, where the checkpoint has something else.
#[derive(Clone, Copy)]
pub(crate) struct ObjectRow {
    pub(crate) object: ObjectId,
    /// Where the row is that the checkpoint has.
    pub(crate) stored: Option<Slot>,
    /// Where it is now.
    pub(crate) posted: Option<Slot>,
}

/// What the operator may look at.
pub(crate) struct Shared {
    pub(crate) rules: Rc<Rules>,
    pub(crate) names: Rc<RefCell<Names>>,
    pub(crate) outbox: Rc<RefCell<Outbox>>,
    pub(crate) tallies: TallyTrace,
    pub(crate) posted: Rc<RefCell<Slots<Posted>>>,
}

/// Builds the operator.
pub(crate) fn publish<'a>(
    decisions: Decisions<'a>,
    control: Stream<'a, Seq, Vec<(Seq, Control)>>,
    shared: Shared,
) -> Stream<'a, Seq, Vec<Rc<Settled>>> {
    let mut publisher = Publisher::new(shared);
    let mut waiting: Vec<Item> = Vec::new();
    let mut held = Antichain::new();
    decisions.binary_frontier::<_, CapacityContainerBuilder<_>, _, _, _, _>(control, Pipeline, Pipeline, "Publish", move |_, _| {
        move |(decisions, decided_to), (control, controlled_to), output| {
            decisions.for_each(|capability, data| {
                capability.retain_stamp(0).iter().for_each(|capability| _ = held.insert(capability.clone()));
                waiting.extend(data.drain(..).map(|(object, seq, outcome)| Item::decision(object, seq, outcome)));
            });
            control.for_each(|capability, data| {
                capability.retain_stamp(0).iter().for_each(|capability| _ = held.insert(capability.clone()));
                waiting.extend(data.drain(..).map(|(seq, control)| Item::control(seq, control)));
            });
            let closed_to = decided_to.frontier().iter().chain(controlled_to.frontier().iter()).min().copied();
            let is_closed = |seq: Seq| closed_to.is_none_or(|end| seq < end);
            let Some(capability) = held.elements().first().filter(|capability| is_closed(*capability.time())) else { return };
            let end = closed_to.unwrap_or_else(|| capability.time() + 1);
            let mut later = Vec::with_capacity(waiting.len()); // the next epoch is likely to be like this one
            later.extend(waiting.extract_if(.., |item| !is_closed(item.seq)));
            let ready = std::mem::replace(&mut waiting, later);
            output.session(capability).give(Rc::new(publisher.epoch(ready, end)));
            let later = (!waiting.is_empty()).then(|| capability.delayed(&end));
            held = later.into_iter().collect();
        }
    })
}

/// The part of what was settled that an arrangement takes.
pub(crate) fn part<'a, D: Clone + 'static>(
    settled: Stream<'a, Seq, Vec<Rc<Settled>>>,
    part: impl Fn(&Settled) -> &[D] + 'static,
) -> Stream<'a, Seq, Vec<D>> {
    settled.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "Part", move |_, _| {
        move |input, output| {
            input.for_each(|capability, data| {
                let mut session = output.session(&capability);
                data.iter().for_each(|settled| session.give_iterator(part(settled).iter().cloned()));
            });
        }
    })
}

/// An object touched in the epoch. What was arranged of it before stands in its life's slot.
#[derive(Clone, Copy)]
struct Touched {
    object: ObjectId,
    stored: Stored,
}

/// What the checkpoint has of a touched object.
#[derive(Clone, Copy)]
enum Stored {
    /// What was arranged before the epoch.
    Arranged,
    /// Nothing, or nothing that we have to know of: the partition was given up.
    Nothing,
    /// What was restored in the epoch.
    Restored(Slot),
}

struct Publisher {
    shared: Shared,
    lives: Lives,
    due: DueIndex<ObjectId>,
    /// Partitions that are held still.
    still: BTreeSet<Partition>,
    /// The runs of the epoch.
    runs: Vec<Run>,
    touched: Vec<Touched>,
    /// Objects of restored partitions that are still to be compared.
    to_compare: HashMap<Partition, vec::IntoIter<ObjectId>>,
}

impl Publisher {
    fn new(shared: Shared) -> Self {
        let (lives, due, still, to_compare) = (Lives::default(), DueIndex::default(), BTreeSet::new(), HashMap::new());
        Self { shared, lives, due, still, runs: Vec::new(), touched: Vec::new(), to_compare }
    }

    /// Takes up everything of one epoch.
    fn epoch(&mut self, items: Vec<Item>, end: Seq) -> Settled {
        let mut agenda = Agenda::new(items);
        let mut looked_ahead = 0;
        while let Some(item) = agenda.next() {
            if looked_ahead == 0 {
                self.lives.look_ahead(agenda.objects().take(LOOK_AHEAD), &self.shared.posted.borrow());
                looked_ahead = LOOK_AHEAD;
            }
            looked_ahead -= 1;
            match item.what {
                What::Run(run) => agenda.add(self.begin(*run)),
                What::Introduce(name, partition, set) => self.lives.introduce(item.object, Life::new(name, partition, set)),
                What::Still(partition) => _ = self.still.insert(partition),
                What::GiveUp(partition) => self.give_up(partition, item.seq),
                What::Compare(partition, objects_max) => self.compare((partition, objects_max), item.seq),
                What::Done => unreachable!("nothing is taken up twice"),
                What::Step(part) => {
                    let mut step = Step::default();
                    self.gather((item.object, item.seq), part, &mut step);
                    while let Some(part) = agenda.next_part(item.seq, item.object) {
                        self.gather((item.object, item.seq), part, &mut step);
                    }
                    self.step(item.object, item.seq, step);
                }
            }
        }
        self.runs.retain(|run| run.end() > end);
        self.shared.tallies.set_logical_compaction(AntichainRef::new(&[end]));
        self.shared.tallies.set_physical_compaction(AntichainRef::new(&[end]));
        self.settle(end - 1)
    }

    /// Seqs begin. Ticks among them make due what waits for them, each at its own tick.
    fn begin(&mut self, run: Run) -> Vec<Item> {
        self.runs.push(run);
        if run.offset.is_some() {
            return Vec::new();
        }
        let last_ms = run.clock_ms + (run.count as Millis - 1) * TICK_MS;
        let due = self.due.take_due(run.partition, last_ms);
        let item = |(due_ms, object): (Millis, ObjectId)| {
            let tick = ((due_ms.max(run.clock_ms) - run.clock_ms) / TICK_MS) as Seq;
            Item { seq: run.first + tick, phase: Phase::Object, object, what: What::Step(StepPart::OverrideDue(due_ms)) }
        };
        due.into_iter().map(item).collect()
    }

    /// Takes a part of what happened to an object into its step.
    fn gather(&mut self, (object, seq): (ObjectId, Seq), part: StepPart, step: &mut Step) {
        match part {
            StepPart::OverrideDue(due_ms) => step.override_due_ms = Some(due_ms),
            StepPart::Outcome(Outcome::Emptied) if step.outcome.is_some() => {} // a decision at the same seq counts
            StepPart::Outcome(outcome) => step.outcome = Some(outcome),
            StepPart::Act(act) => step.act = Some(act),
            StepPart::Restore(slot) => {
                self.touch(object, Some(Stored::Restored(slot)));
                let slots = &mut *self.shared.posted.borrow_mut();
                step.restored = Some(Some(*slots.row(slot)));
                slots.release(slot, seq); // it can be read until the epoch is committed
            }
            StepPart::Remove => {
                self.touch(object, Some(Stored::Nothing));
                step.restored = Some(None);
            }
        }
    }

    fn step(&mut self, object: ObjectId, seq: Seq, mut step: Step) {
        let moment = self.moment(seq);
        let life = self.lives.get_mut(object);
        step.still = self.still.contains(&moment.partition);
        if life.partition != moment.partition {
            step.override_due_ms = None; // armed by another partition's object, which had this id before
        }
        if life.posted.is_none() && matches!(step, Step { outcome: None | Some(Outcome::Emptied), act: None, restored: None, .. }) {
            return; // given up at this very seq, or due for an object that is gone, whose id may be another's within the epoch
        }
        let (act, restored) = (step.act, step.restored);
        let before = life.posted;
        let stepped = life.step(step, moment, &self.shared.rules.sets[usize::from(life.set)]);
        let after = life.posted;
        if let Some(due_ms) = stepped.arm_ms {
            self.due.arm(life.partition, due_ms, object);
        }
        self.touch(object, None);
        let came = act.and_then(Act::state).into_iter().chain(restored.flatten().into_iter().flat_map(Posted::states));
        self.hold((before, after), came, seq);
        let Some(cause) = stepped.cause else { return };
        let tally = stepped.tally.unwrap_or_else(|| tally_at(&mut self.shared.tallies, object, seq));
        let life = self.lives.get_mut(object);
        let state = |row: Option<Posted>| row.and_then(|row| row.state);
        let (states, since_ms, set) = ((state(after), state(before)), moment.clock_ms, usize::from(life.set));
        let change = Made { seq, moment, object: &life.name, states, since_ms, cause, set, tally: &tally };
        self.shared.outbox.borrow_mut().changes.push(&change, &self.shared.names.borrow().states);
    }

    /// Holds the states of what is published now, lets go of those before it, and of those that came with what happened.
    fn hold(&self, (before, after): (Option<Posted>, Option<Posted>), came: impl Iterator<Item = StateId>, seq: Seq) {
        let states = &mut self.shared.names.borrow_mut().states;
        let of = |row: Option<Posted>| row.into_iter().flat_map(Posted::states);
        if before != after {
            of(after).for_each(|state| states.hold(state));
            of(before).for_each(|state| states.release(state, seq));
        }
        came.for_each(|state| states.release(state, seq));
    }

    /// Remembers that the object is to be settled, and what the checkpoint has of it, if that is known to be something else.
    fn touch(&mut self, object: ObjectId, stored: Option<Stored>) {
        let life = self.lives.get_mut(object);
        if self.touched.get(life.touch as usize).is_none_or(|touched| touched.object != object) {
            life.touch = u32::try_from(self.touched.len()).expect("fewer than 2^32 objects on a worker");
            self.touched.push(Touched { object, stored: Stored::Arranged });
        }
        if let Some(stored) = stored {
            self.touched[life.touch as usize].stored = stored;
        }
    }

    fn give_up(&mut self, partition: Partition, seq: Seq) {
        self.still.remove(&partition);
        for object in self.lives.of_partition(partition) {
            let before = self.lives.get_mut(object).posted;
            self.touch(object, Some(Stored::Nothing)); // makes no row
            self.hold((before, None), None.into_iter(), seq);
            self.lives.get_mut(object).give_up();
        }
        self.due.forget(partition);
        self.to_compare.remove(&partition);
    }

    /// What is to be compared is known with the first share. What needs no change is not touched.
    fn compare(&mut self, (partition, objects_max): (Partition, usize), seq: Seq) {
        let Self { lives, to_compare, shared, still, .. } = self;
        still.remove(&partition);
        let left = to_compare.entry(partition).or_insert_with(|| lives.of_partition(partition).into_iter());
        let share: Vec<_> = left.by_ref().take(objects_max).collect();
        if left.as_slice().is_empty() {
            *left = Vec::new().into_iter(); // stays, as what is compared is compared once, but holds no memory
        }
        let sets = &shared.rules.sets;
        let differing = share.into_iter().filter(|object| {
            let life = lives.get_mut(*object);
            life.differs(&sets[usize::from(life.set)])
        });
        for object in differing.collect::<Vec<_>>() {
            self.step(object, seq, Step { compare: true, ..Step::default() });
        }
    }

    fn moment(&self, seq: Seq) -> Moment {
        let after = self.runs.partition_point(|run| run.first <= seq);
        self.runs[after.checked_sub(1).expect("runs cover all seqs")].at(seq)
    }

    /// Ends the epoch: differences as of its last seq, rows, and objects known no more.
    fn settle(&mut self, last: Seq) -> Settled {
        let mut settled = Settled { published: Vec::with_capacity(2 * self.touched.len()), ..Settled::default() };
        let mut order: Vec<_> = self.touched.iter().enumerate().map(|(at, touched)| ByObject::new(touched.object, at)).collect();
        order.sort_unstable(); // as arrangements and rows will want them
        let mut states: HashMap<(Partition, Option<StateId>), i32> = HashMap::new();
        let mut outbox = self.shared.outbox.borrow_mut();
        let mut slots = self.shared.posted.borrow_mut();
        for (nth, key) in order.iter().enumerate() {
            if nth % LOOK_AHEAD == 0 {
                self.lives.look_ahead(order[nth..].iter().take(LOOK_AHEAD).map(|key| key.object()), &slots);
            }
            let Touched { object, stored } = self.touched[key.place()];
            let life = self.lives.get_mut(object);
            let (left, posted) = (life.slot, life.posted);
            let arranged = left.map(|slot| *slots.row(slot));
            if posted != arranged {
                let known = i32::from(posted.is_some()) - i32::from(arranged.is_some());
                if known != 0 {
                    let key = (life.partition, life.name.clone());
                    settled.known.push(Update { key, value: object, seq: last, diff: known });
                }
                let partition = life.partition;
                arranged.iter().for_each(|row| *states.entry((partition, row.state)).or_default() -= 1);
                posted.iter().for_each(|row| *states.entry((partition, row.state)).or_default() += 1);
                life.slot = posted.map(|row| slots.take(row));
                left.iter().for_each(|slot| slots.release(*slot, last));
                outbox.posted.push((object, life.slot));
                let diffs = left.into_iter().map(|slot| (slot, -1)).chain(life.slot.map(|slot| (slot, 1)));
                settled.published.extend(diffs.map(|(value, diff)| Update { key: object, value, seq: last, diff }));
            }
            let (stored, is_stored) = match stored {
                Stored::Arranged => (left, left == life.slot),
                Stored::Nothing => (None, posted.is_none()),
                Stored::Restored(slot) => (Some(slot), posted == Some(*slots.row(slot))),
            };
            if !is_stored {
                outbox.rows.push(ObjectRow { object, stored, posted: life.slot });
            }
            if posted.is_none() {
                outbox.gone.push((last, object));
            }
        }
        self.touched.clear();
        let names = &self.shared.names.borrow().states;
        let by_name = |((partition, state), diff): ((Partition, Option<StateId>), i32)| {
            let key = (partition, state.map(|state| names.name(state).clone()));
            Update { key, value: (), seq: last, diff }
        };
        settled.by_state = states.into_iter().map(by_name).collect();
        settled
    }
}
