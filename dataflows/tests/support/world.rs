//! The workers of a house: engines that each see every run and the events of their own objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use statehouse_dataflows::{
    engine::{Arrangement, Closed, Engine},
    plan::Plan,
    query::{Explanation, ListQuery, ObjectView, ReportView},
    rows::Rows,
    slice::{Position, Slice, SliceAsk},
    vocabulary::{Change, Name, Partition, Row, Run, Seq},
};

use super::{Fed, Pump, What, generate::PARTITIONS};

pub(crate) struct World {
    engines: Vec<Engine>,
    /// What hashes are cut to; with few bits, names share them.
    mask: u64,
    /// How far each engine is in each partition's rotation.
    rounds: Vec<BTreeMap<Partition, Position>>,
}

/// What the engines made of an epoch, together.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) changes: Vec<Change>,
    pub(crate) rows: Vec<Row>,
    pub(crate) digests: Vec<(Partition, u64)>,
    pub(crate) late: u64,
    pub(crate) slices: Vec<Sliced>,
}

/// A slice that an engine cut, of the objects that are its own, and what was asked.
#[derive(Debug)]
pub(crate) struct Sliced {
    pub(crate) worker: usize,
    pub(crate) ask: SliceAsk,
    pub(crate) slice: Slice,
}

impl Left {
    /// Nothing of these partitions counts.
    pub(crate) fn drop_partitions(&mut self, lost: &BTreeSet<Partition>) {
        self.changes.retain(|change| !lost.contains(&change.partition));
        self.rows.retain(|row| !lost.contains(&row.partition));
        self.digests.retain(|(partition, _)| !lost.contains(partition));
    }
}

impl World {
    pub(crate) fn new(plan: &Arc<Plan>, workers: usize, mask: u64) -> Self {
        let engines = (0..workers).map(|_| Engine::new(plan.clone())).collect();
        Self { engines, mask, rounds: vec![BTreeMap::new(); workers] }
    }

    pub(crate) fn feed(&mut self, fed: &[Fed]) {
        for Fed { run, what } in fed {
            self.run(*run);
            match what {
                What::Ticks => {}
                What::Compared => self.engines.iter_mut().for_each(|engine| engine.compare(run.first, run.partition, usize::MAX)),
                What::Records(records) => {
                    for (nth, (seq, (object, told))) in (run.first..).zip(records).enumerate() {
                        self.look_ahead(seq, run.partition, &records[nth..]);
                        let (hash, engine) = self.route(run.partition, object);
                        engine.apply(seq, object, hash, told.event());
                    }
                }
            }
        }
    }

    /// Closes the epoch that ends before this seq.
    pub(crate) fn close(&mut self, end: Seq) -> Left {
        let mut all = Left::default();
        for (worker, (engine, rounds)) in self.engines.iter_mut().zip(&mut self.rounds).enumerate() {
            let asks = asks(rounds, end);
            let Closed { changes, rows, digests, counts, slices } = engine.close_and_slice(end, &asks);
            assert_eq!(slices.len(), asks.len(), "every ask is answered");
            for (ask, slice) in asks.into_iter().zip(slices) {
                let next = if slice.is_end { Position::default() } else { slice.reached.clone() };
                rounds.insert(ask.partition, next);
                all.slices.push(Sliced { worker, ask, slice });
            }
            let changes = changes.to_changes();
            assert!(changes.is_sorted_by_key(|change| change.seq), "changes not in seq order: {changes:?}");
            all.changes.extend(changes);
            all.rows.extend(rows.iter().flat_map(Rows::to_rows));
            all.digests.extend(digests);
            all.late += counts.late;
        }
        all.changes.sort_by_key(|change| change.seq);
        all
    }

    pub(crate) fn committed(&mut self, last: Seq) {
        self.engines.iter_mut().for_each(|engine| engine.committed(last));
    }

    /// Gives the rows of a partition back, by object, up to three objects at a seq.
    pub(crate) fn restore(&mut self, pump: &mut Pump, partition: Partition, objects: &[Vec<Row>]) {
        for batch in objects.chunks(3) {
            let run = pump.aside(partition);
            self.run(run);
            for rows in batch {
                let (hash, engine) = self.route(partition, &rows[0].object);
                engine.restore(run.first, &[hash], &Rows::of(rows));
            }
        }
    }

    /// Rows of a partition, by object, as its owner committed them: all at one seq.
    pub(crate) fn follow(&mut self, pump: &mut Pump, partition: Partition, objects: &[Vec<Row>]) {
        let run = pump.aside(partition);
        self.run(run);
        for rows in objects {
            let (hash, engine) = self.route(partition, &rows[0].object);
            engine.follow(run.first, hash, rows);
        }
    }

    /// Has so many objects of each worker compared.
    pub(crate) fn compare(&mut self, run: Run, objects_max: usize) {
        self.run(run);
        self.engines.iter_mut().for_each(|engine| engine.compare(run.first, run.partition, objects_max));
    }

    pub(crate) fn give_up(&mut self, pump: &mut Pump, partition: Partition) {
        let run = pump.aside(partition);
        self.run(run);
        self.engines.iter_mut().for_each(|engine| engine.give_up(run.first, partition));
        self.rounds.iter_mut().for_each(|rounds| _ = rounds.remove(&partition));
    }

    /// Everything but these partitions is forgotten.
    pub(crate) fn begin_anew(&mut self, pump: &mut Pump, spared: &BTreeSet<Partition>) {
        let runs: Vec<Run> = spared.iter().map(|partition| pump.aside(*partition)).collect();
        self.engines.iter_mut().for_each(|engine| *engine = engine.anew(&runs));
        self.rounds.iter_mut().for_each(BTreeMap::clear);
    }

    pub(crate) fn drain(&mut self, pump: &mut Pump, what: Arrangement) {
        let run = pump.aside(0);
        self.run(run);
        self.engines.iter_mut().for_each(|engine| engine.drain(what, run.first));
    }

    pub(crate) fn workers(&self) -> usize {
        self.engines.len()
    }

    /// At some seqs: as a worker does before it applies records, sometimes with records of other workers too, as if these were rejects.
    fn look_ahead<T>(&mut self, seq: Seq, partition: Partition, records: &[(String, T)]) {
        if !seq.is_multiple_of(7) {
            return;
        }
        let hashes: Vec<u64> = records.iter().map(|(object, _)| self.route(partition, object).0).collect();
        let workers = self.workers() as u64;
        for (engine, worker) in self.engines.iter_mut().zip(0..) {
            engine.look_ahead(hashes.iter().copied().filter(|hash| seq.is_multiple_of(3) || hash % workers == worker));
        }
    }

    /// How many claims and published rows have slots now.
    pub(crate) fn slots(&self) -> (usize, usize) {
        self.engines.iter().map(Engine::slots).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// How many objects, agents and states have ids now.
    pub(crate) fn ids(&self) -> (usize, usize, usize) {
        let sum = |(a, b, c), (d, e, f)| (a + d, b + e, c + f);
        self.engines.iter().map(Engine::ids).fold((0, 0, 0), sum)
    }

    pub(crate) fn object(&mut self, partition: Partition, object: &str) -> Option<ObjectView> {
        self.route(partition, object).1.object(partition, object)
    }

    pub(crate) fn reports(&mut self, partition: Partition, object: &str) -> Option<Vec<ReportView>> {
        self.route(partition, object).1.reports(partition, object)
    }

    pub(crate) fn explain(&mut self, partition: Partition, object: &str) -> Option<Explanation> {
        self.route(partition, object).1.explain(partition, object)
    }

    pub(crate) fn list(&mut self, query: &ListQuery, of: &BTreeSet<Partition>) -> Vec<ObjectView> {
        let mut all: Vec<_> = self.engines.iter_mut().flat_map(|engine| engine.list(query, of)).collect();
        all.sort_by_key(|view| (view.object.clone(), view.partition));
        all.truncate(query.limit);
        all
    }

    pub(crate) fn summary(&mut self, of: &BTreeSet<Partition>) -> BTreeMap<Option<Name>, i64> {
        let mut all = BTreeMap::new();
        for (state, count) in self.engines.iter_mut().flat_map(|engine| engine.summary(of)) {
            assert_ne!(count, 0, "a summary of nothing: {state:?}");
            *all.entry(state).or_insert(0) += count;
        }
        all
    }

    fn run(&mut self, run: Run) {
        self.engines.iter_mut().for_each(|engine| engine.run(run));
    }

    /// Which engine has the object.
    pub(crate) fn worker(&self, partition: Partition, object: &str) -> usize {
        (self.hash(partition, object) % self.engines.len() as u64) as usize
    }

    fn hash(&self, partition: Partition, object: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (partition, object).hash(&mut hasher);
        hasher.finish() & self.mask
    }

    fn route(&mut self, partition: Partition, object: &str) -> (u64, &mut Engine) {
        let worker = self.worker(partition, object);
        (self.hash(partition, object), &mut self.engines[worker])
    }
}

/// A slice of every partition there is, of one row to five.
fn asks(rounds: &BTreeMap<Partition, Position>, end: Seq) -> Vec<SliceAsk> {
    let ask = |partition| SliceAsk {
        partition,
        after: rounds.get(&partition).cloned().unwrap_or_default(),
        rows_max: 1 + (end as usize + partition as usize) % 5,
    };
    PARTITIONS.map(ask).into()
}
