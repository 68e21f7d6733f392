//! One worker's part of the house: the dataflow from reports to what is published, behind plain calls.
//!
//! ```text
//!  events ─▶ reports (index) ─┬─▶ [reports]  ─(rules over reports: reduce)─┐
//!                             └─▶ [tally] ─▶ verdict ──────────────────────┴─▶ publish ─▶ [known] [published] [summary]
//!  overrides, purges, ticks ───────────────────────────────────────────────────▲    └─▶ changes; rows (with those of reports)
//!                                                                    [x]: an arrangement that questions read
//! ```
//!
//! Updates carry their own seq as their time, so every intermediate verdict is worked out, in order, however many records share an epoch.
//! An epoch is closed at an end (exclusive) that every input has reached; L is the last committed seq (inclusive), up to which questions
//! see and arrangements compact. Objects are routed to workers by whoever feeds them, so nothing is exchanged and every engine is a
//! single-threaded timely computation of its own.

mod anew;
mod answer;
mod build;
mod follow;
mod known;
mod restore;
mod slice;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use timely::{WorkerConfig, communication::Allocator, dataflow::operators::probe, worker::Worker};

use self::{
    build::{Inputs, Stores, Traces, build},
    slice::Slicer,
};
pub use crate::reports::{Counts, WINDOW};
use crate::{
    changes::{self, Changes},
    names::{Names, ObjectId},
    plan::Plan,
    publish::{Control, ObjectRow, Outbox, life::Act},
    reports::{Context, Reports, Said, Subject},
    rows::{Rows, make::Maker},
    rule::decide::Rules,
    slice::{Slice, SliceAsk},
    slots::Slot,
    vocabulary::{Event, Partition, Run, Seq},
};

/// One worker's part of the house. Lives on one thread.
pub struct Engine {
    plan: Arc<Plan>,
    rules: Rc<Rules>,
    stores: Stores,
    reports: Reports,
    /// Runs not wholly closed, in seq order.
    runs: VecDeque<Run>,
    outbox: Rc<RefCell<Outbox>>,
    /// Partitions that are followed.
    still: BTreeSet<Partition>,
    maker: Maker,
    /// Of slices.
    slicer: Maker,
    inputs: Inputs,
    traces: Traces,
    probe: probe::Handle<Seq>,
    /// The first seq not closed.
    closed_end: Seq,
    /// L.
    committed: Seq,
    worker: Worker,
}

/// The arrangements that verdicts and answers come from.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    Reports,
    Tally,
}

/// What a closed epoch made.
#[derive(Debug, Default)]
pub struct Closed {
    /// Every change.
    pub changes: Changes,
    /// What changed in the stores, as of the epoch's last seq, by partition.
    pub rows: Vec<Rows>,
    /// By partition: what the rows add to the digest of its live rows (wrapping).
    pub digests: Vec<(Partition, u64)>,
    /// What became of the events.
    pub counts: Counts,
    /// What was asked of rows that it did not change.
    pub slices: Vec<Slice>,
}

impl Engine {
    /// An empty house with this plan.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let rules = Rc::new(Rules::compile(&plan));
        let names = Rc::new(RefCell::new(Names::new(&rules.named, rules.sets.len())));
        let stores = Stores { names, claims: Rc::default(), posted: Rc::default() };
        let changes = changes::Maker::new(rules.sets.iter().map(|set| set.rule.clone()));
        let outbox = Rc::new(RefCell::new(Outbox { changes, rows: Vec::new(), posted: Vec::new(), gone: Vec::new() }));
        let mut worker = Worker::new(WorkerConfig::default(), Allocator::Thread(Default::default()), None);
        let (inputs, traces, probe) = build(&mut worker, &rules, &stores, &outbox);
        let reports = Reports::new(rules.any_over_reports(), stores.claims.clone());
        let (runs, still, maker, slicer) = (VecDeque::new(), BTreeSet::new(), Maker::default(), Maker::default());
        let (closed_end, committed) = (0, 0);
        Self { plan, rules, stores, reports, runs, outbox, still, maker, slicer, inputs, traces, probe, closed_end, committed, worker }
    }

    /// The seqs that follow. Every run comes here, in seq order, before its events.
    pub fn run(&mut self, run: Run) {
        self.runs.push_back(run);
        self.control(run.first, Control::Run(run));
    }

    /// Reads what the next events will need of memory, given their hashes (at most [`WINDOW`] of them count), so that its fetches overlap
    /// instead of following each other. Has no effect but on time.
    pub fn look_ahead(&mut self, hashes: impl Iterator<Item = u64>) {
        self.reports.look_ahead(hashes);
    }

    /// An event about an object. Seqs rise; `hash` is any well-mixed hash of partition and object, the same for the same object.
    ///
    /// # Panics
    /// If no run covers the seq.
    pub fn apply(&mut self, seq: Seq, object: &str, hash: u64, event: Event<'_>) {
        let subject = Subject { name: object, hash };
        match event {
            Event::Report { agent, state, ts_ms, ttl_ms } => {
                let id = self.known(seq, subject);
                let said = Said { agent, state, ts_ms, ttl_ms };
                self.with_reports(seq, |reports, context| reports.report(id, said, context));
            }
            Event::Override { state, for_ms } => {
                let id = self.known(seq, subject);
                self.reports.object_mut(id).touched = seq;
                let state = self.stores.names.borrow_mut().states.intern_held(state);
                self.control(seq, Control::Act(id, Act::Override(state, for_ms)));
            }
            Event::Withdraw { agent, ts_ms } => {
                let Some(id) = self.find(seq, subject) else { return };
                self.with_reports(seq, |reports, context| reports.withdraw(id, agent, ts_ms, context));
            }
            Event::Lift => {
                let Some(id) = self.find(seq, subject) else { return };
                self.reports.object_mut(id).touched = seq;
                self.control(seq, Control::Act(id, Act::Lift));
            }
            Event::Purge => {
                let Some(id) = self.find(seq, subject) else { return };
                self.with_reports(seq, |reports, context| reports.purge(id, context));
                self.control(seq, Control::Act(id, Act::Purge));
            }
        }
    }

    /// Forgets a partition. Makes no change and no row: its next owner has them.
    pub fn give_up(&mut self, seq: Seq, partition: Partition) {
        self.still.remove(&partition);
        self.control(seq, Control::GiveUp(partition));
        let ids = self.with_reports_of(seq, partition, |reports, context| reports.give_up(partition, context));
        self.reports.forgotten(ids.into_iter().map(|id| (seq, id)));
        self.feed();
    }

    /// Closes the epoch: everything before `end` is in. Works until every stage has seen it.
    pub fn close(&mut self, end: Seq) -> Closed {
        self.close_and_slice(end, &[])
    }

    /// Closes the epoch as [`Engine::close`], and cuts slices of rows that it left as they were. They must be of partitions that are whole.
    pub fn close_and_slice(&mut self, end: Seq, asks: &[SliceAsk]) -> Closed {
        self.reports.settle(end.saturating_sub(1));
        self.feed();
        self.inputs.advance_to(end);
        let Self { worker, probe, .. } = self;
        worker.step_while(|| probe.less_than(&end));
        self.closed_end = end;
        self.runs.retain(|run| run.end() > end);
        self.collect(asks)
    }

    /// L.
    #[must_use]
    pub fn last_committed(&self) -> Seq {
        self.committed
    }

    /// Everything up to `last`, inclusive, is committed: questions see it, arrangements compact to it, ids unused since are free.
    pub fn committed(&mut self, last: Seq) {
        debug_assert!(self.committed <= last && last < self.closed_end, "only closed epochs are committed, in order");
        self.committed = last;
        self.traces.compact(last, self.closed_end);
        self.reports.committed(last);
        let mut names = self.stores.names.borrow_mut();
        names.states.committed(last);
        names.agents.committed(last);
        self.stores.posted.borrow_mut().committed(last);
    }

    /// How many objects, agents and states have ids now. For tests of their reuse.
    #[doc(hidden)]
    #[must_use]
    pub fn ids(&self) -> (usize, usize, usize) {
        let names = self.stores.names.borrow();
        (self.reports.len(), names.agents.len(), names.states.len())
    }

    /// How many claims and published rows have slots now. For tests of their reuse.
    #[doc(hidden)]
    #[must_use]
    pub fn slots(&self) -> (usize, usize) {
        (self.stores.claims.borrow().len(), self.stores.posted.borrow().len())
    }

    /// Retracts everything in an arrangement behind everybody's back, at a seq. For the test that shows that verdicts and answers come
    /// from there.
    #[doc(hidden)]
    pub fn drain(&mut self, what: Arrangement, seq: Seq) {
        match what {
            Arrangement::Reports => self.drain_reports(seq),
            Arrangement::Tally => self.drain_tallies(seq),
        }
        self.feed();
    }

    /// What the epoch left behind, put in order.
    fn collect(&mut self, asks: &[SliceAsk]) -> Closed {
        let last = self.closed_end.saturating_sub(1);
        let Outbox { changes, rows, posted: put, gone } = &mut *self.outbox.borrow_mut();
        let (names, posted) = (self.stores.names.borrow(), self.stores.posted.borrow());
        self.reports.post(put.drain(..));
        let slicer = Slicer { reports: &self.reports, posted: &posted, names: &names, rows, last };
        let slices = slicer.cut(asks, &mut self.traces.known, &mut self.slicer);
        let row = |slot: Option<Slot>| slot.map(|slot| posted.row(slot));
        let resolved = rows.drain(..).map(|ObjectRow { object, stored, posted }| (object, [stored, posted].map(row)));
        self.reports.take_rows(resolved, &names, &mut self.maker);
        let (rows, digests) = self.maker.take(&names);
        self.reports.forgotten(gone.drain(..));
        let counts = std::mem::take(&mut self.reports.counts);
        Closed { changes: changes.take(&names.states), rows, digests, counts, slices }
    }

    /// The id of an object, which is made known if it is not.
    fn known(&mut self, seq: Seq, subject: Subject<'_>) -> ObjectId {
        if let Some(id) = self.find(seq, subject) {
            return id;
        }
        let set = self.plan.set_of(subject.name);
        let id = self.with_reports(seq, |reports, context| reports.insert(subject, set, context));
        let object = self.reports.object(id);
        let introduce = Control::Introduce(id, object.name.clone(), object.partition, set);
        self.control(seq, introduce);
        id
    }

    fn find(&mut self, seq: Seq, subject: Subject<'_>) -> Option<ObjectId> {
        let partition = self.moment(seq).partition;
        self.reports.find(partition, subject)
    }

    fn with_reports<R>(&mut self, seq: Seq, act: impl FnOnce(&mut Reports, &mut Context<'_>) -> R) -> R {
        let moment = self.moment(seq);
        let names = &mut *self.stores.names.borrow_mut();
        act(&mut self.reports, &mut Context { rules: &self.rules, names, seq, moment })
    }

    /// As `with_reports`, for a seq that need not be an event of the partition.
    fn with_reports_of<R>(&mut self, seq: Seq, partition: Partition, act: impl FnOnce(&mut Reports, &mut Context<'_>) -> R) -> R {
        let moment = crate::vocabulary::Moment { partition, ..self.moment(seq) };
        let names = &mut *self.stores.names.borrow_mut();
        act(&mut self.reports, &mut Context { rules: &self.rules, names, seq, moment })
    }

    /// Where an event stands. Events come in seq order, mostly of the latest run.
    fn moment(&self, seq: Seq) -> crate::vocabulary::Moment {
        let run = self.runs.iter().rev().find(|run| run.first <= seq).expect("a run covers the seq");
        run.at(seq)
    }

    fn control(&mut self, seq: Seq, control: Control) {
        self.inputs.waiting_control.push((seq, control));
    }

    /// Hands what waits to the dataflow.
    fn feed(&mut self) {
        let (reports, tallies) = self.reports.diffs();
        self.inputs.reports.send_batch(reports);
        self.inputs.tallies.send_batch(tallies);
        self.inputs.control.send_batch(&mut self.inputs.waiting_control);
    }
}

impl Drop for Engine {
    /// Operators and traces hold each other; without this their memory would stay.
    fn drop(&mut self) {
        self.worker.installed_dataflows().into_iter().for_each(|dataflow| self.worker.drop_dataflow(dataflow));
    }
}
