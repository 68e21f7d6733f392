//! The engine against the reference: random houses, random events, random epochs, crashes and owners.
//!
//! `ORACLE_CASES` (256) houses are tried, from `ORACLE_SEED` on (random). A failure names the seed that alone repeats it, and is shrunk.
//!
//! Held against each other, after every epoch: its changes, per object, in every field; the rows it left for the checkpoint, their
//! digest, and the slices of rows that it left as they were. After every commit, and at random moments: every answer, at the last committed seq.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::RandomState},
    env,
    hash::BuildHasher,
    sync::Arc,
};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use statehouse_dataflows::{
    plan::{Plan, RuleSet},
    reference::Reference,
    vocabulary::{Change, Name, Partition, Row, RowValue, Seq},
};
use support::{
    Fed, Pump, Step, Told,
    answers::check_answers,
    generate::{Act, Case, case},
    known,
    store::Store,
    tell,
    world::{Left, Sliced, World},
};

const ACTS_MAX: usize = 250;

#[test]
fn the_engine_says_what_the_reference_says() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: no number: {text:?}")));
    let first = number("ORACLE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    for seed in first..first + number("ORACLE_CASES").unwrap_or(256) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 4_096, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let tried = runner.run(&case(ACTS_MAX), |case| {
            try_out(&case);
            Ok::<_, TestCaseError>(())
        });
        tried.unwrap_or_else(|failure| panic!("repeat with ORACLE_SEED={seed} ORACLE_CASES=1\n{failure}"));
    }
}

fn try_out(case: &Case) {
    let mut trial = Trial::new(case);
    for act in &case.acts {
        trial.act(act);
    }
    for partition in trial.away.keys().copied().collect::<Vec<_>>() {
        trial.take_back(partition);
    }
    trial.commit_all();
    trial.check_history();
    trial.check_ids();
}

/// What random houses came upon, in small.
#[test]
fn what_went_wrong_once_is_right() {
    for (why, text) in known::CASES {
        println!("{why}");
        try_out(&known::case(text));
    }
}

/// One house: what keeps it, what it must say, and what is between the two.
struct Trial {
    plan: Arc<Plan>,
    mask: u64,
    world: World,
    store: Store,
    /// As of the last committed epoch.
    committed: Standing,
    /// As of the last event.
    now: Standing,
    /// Steps that no engine has seen yet.
    unfed: Vec<Step>,
    open: Epoch,
    closed: VecDeque<(Epoch, Left)>,
    /// Partitions that another owner has, and what happens to them meanwhile.
    away: BTreeMap<Partition, Vec<Step>>,
    /// The last seq at which a partition came or went. Before it is committed, answers are not whole.
    unsettled: Seq,
    /// What was committed, whoever had to do it again: what the whole history must come to.
    history: Vec<Happened>,
}

/// What is known at one moment.
#[derive(Clone)]
struct Standing {
    reference: Reference,
    pump: Pump,
}

/// What happened between two seals, and what must come of it.
struct Epoch {
    happened: Vec<Happened>,
    expected: Vec<Change>,
    /// Partitions lost in it, of which nothing of it counts.
    lost: BTreeSet<Partition>,
    /// At its end; of an open epoch: at its beginning.
    standing: Standing,
}

#[derive(Clone)]
enum Happened {
    Fed(Fed),
    /// The house has another plan from here on.
    Replanned(Arc<Plan>),
}

impl Trial {
    fn new(case: &Case) -> Self {
        let plan = Arc::new(Plan::new(case.sets.clone()).unwrap());
        let standing = Standing { reference: Reference::new(&plan), pump: Pump::new(1) };
        Self {
            world: World::new(&plan, case.workers, case.mask),
            history: vec![Happened::Replanned(plan.clone())],
            plan,
            mask: case.mask,
            store: Store::default(),
            committed: standing.clone(),
            open: Epoch::after(&standing),
            now: standing,
            unfed: Vec::new(),
            closed: VecDeque::new(),
            away: BTreeMap::new(),
            unsettled: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Step(step) => self.step(step.clone()),
            Act::Sweep(partition) => self.sweep(*partition),
            Act::Seal => self.seal(),
            Act::Commit(epochs) => (0..*epochs).for_each(|_| self.commit()),
            Act::Read => self.read(),
            Act::Crash(workers, sets) => self.crash(*workers, sets.as_deref()),
            Act::GiveUp(partition) if self.away.contains_key(partition) => self.take_back(*partition),
            Act::GiveUp(partition) => self.give_up(*partition),
            Act::Lose(partition) if self.away.contains_key(partition) => self.take_back(*partition),
            Act::Lose(partition) => self.lose(*partition),
        }
    }

    fn step(&mut self, step: Step) {
        self.away.get_mut(&step.partition()).unwrap_or(&mut self.unfed).push(step);
    }

    fn sweep(&mut self, partition: Partition) {
        self.feed();
        let known = self.now.reference.published().into_keys().filter(|key| key.1 == partition);
        known.for_each(|(object, partition)| self.step(Step::Record(partition, object, Told::Purge)));
    }

    /// Tells the engines and the reference what happened since.
    fn feed(&mut self) {
        let fed = self.now.pump.feed(&std::mem::take(&mut self.unfed));
        self.happen(fed);
    }

    fn happen(&mut self, fed: Vec<Fed>) {
        self.world.feed(&fed);
        self.open.expected.extend(tell(&mut self.now.reference, &fed));
        self.open.happened.extend(fed.into_iter().map(Happened::Fed));
    }

    fn seal(&mut self) {
        self.feed();
        let end = self.now.pump.next;
        let mut left = self.world.close(end);
        let mut epoch = std::mem::replace(&mut self.open, Epoch::after(&self.now));
        left.drop_partitions(&epoch.lost);
        self.check_slices(&left, &epoch.lost);
        assert_eq!(by_object(&epoch.expected), by_object(&left.changes), "changes of the epoch that ends before seq {end}");
        let late = self.now.reference.late() - epoch.standing.reference.late();
        assert!(late == left.late || !epoch.lost.is_empty(), "of the epoch that ends before seq {end} {late} are late, not {}", left.late);
        epoch.standing = self.now.clone();
        self.closed.push_back((epoch, left));
    }

    /// A slice is what is live of the objects between where it begins and where it ends, without what the epoch itself leaves.
    fn check_slices(&self, left: &Left, lost: &BTreeSet<Partition>) {
        let live = rows_of(&self.now.reference);
        let own: BTreeSet<_> = left.rows.iter().map(key_of).collect();
        for Sliced { worker, ask, slice } in &left.slices {
            let partition = ask.partition;
            if self.away.contains_key(&partition) || lost.contains(&partition) {
                continue;
            }
            let is_of_it = |row: &&Row| row.partition == partition && self.world.worker(partition, &row.object) == *worker;
            let is_after = |row: &&Row| ask.after.passed.as_ref().is_none_or(|passed| row.object > *passed);
            let is_reached = |row: &&Row| slice.is_end || slice.reached.passed.as_ref().is_some_and(|reached| row.object <= *reached);
            let between: Vec<_> = live.iter().filter(is_of_it).filter(is_after).filter(is_reached).collect();
            let mut expected: Vec<_> = between.into_iter().filter(|row| !own.contains(&key_of(row))).cloned().collect();
            let mut sliced = slice.rows.to_rows();
            expected.sort_by_key(key_of);
            sliced.sort_by_key(key_of);
            assert_eq!(expected, sliced, "slice of worker {worker} after {ask:?} to {:?}", slice.reached);
            assert!(slice.is_end || sliced.len() >= ask.rows_max, "{} rows of {ask:?} and not at the end", sliced.len());
        }
    }

    fn commit(&mut self) {
        let Some((epoch, left)) = self.closed.pop_front() else { return };
        self.history.extend(epoch.happened);
        self.committed = epoch.standing;
        self.world.committed(self.committed.pump.next - 1);
        self.store.commit(left);
        self.store.check_digests();
        assert_eq!(self.committed.reference.published(), self.store.published(), "rows of objects");
        assert_eq!(self.committed.reference.reports(), self.store.reports(), "rows of reports");
        self.check_answers();
    }

    fn commit_all(&mut self) {
        self.seal();
        while !self.closed.is_empty() {
            self.commit();
        }
    }

    fn read(&mut self) {
        self.feed();
        self.check_answers();
    }

    fn check_answers(&mut self) {
        if self.committed.pump.next > self.unsettled {
            let away: BTreeSet<_> = self.away.keys().copied().collect();
            check_answers(&self.plan, &self.committed.reference, &away, &mut self.world);
        }
    }

    /// What was not committed is lost, and happens again. The new workers have all partitions.
    fn crash(&mut self, workers: usize, sets: Option<&[RuleSet]>) {
        self.feed();
        let closed = self.closed.drain(..).map(|(epoch, _)| epoch);
        let lost: Vec<_> = closed.chain([std::mem::replace(&mut self.open, Epoch::after(&self.committed))]).collect();
        self.unfed = lost.iter().flat_map(|epoch| steps(&epoch.happened)).collect();
        self.unfed.extend(std::mem::take(&mut self.away).into_values().flatten());
        self.now = self.committed.clone();
        (self.now.pump.next, self.committed.pump.next, self.unsettled) = (1, 1, 0);
        if let Some(sets) = sets {
            self.plan = Arc::new(Plan::new(sets.to_vec()).unwrap());
        }
        self.now.reference.replan(&self.plan);
        self.open.happened.push(Happened::Replanned(self.plan.clone()));
        self.world = World::new(&self.plan, workers, self.mask);
        for partition in self.store.partitions() {
            self.restore(partition);
        }
    }

    fn give_up(&mut self, partition: Partition) {
        self.commit_all();
        self.let_go(partition, Vec::new());
    }

    /// The open epoch goes on, as if nothing had happened in it to this partition, which happens elsewhere.
    fn lose(&mut self, partition: Partition) {
        self.feed();
        while !self.closed.is_empty() {
            self.commit();
        }
        let is_lost = |happened: &Happened| matches!(happened, Happened::Fed(fed) if fed.run.partition == partition);
        let (lost, kept): (Vec<_>, Vec<_>) = self.open.happened.drain(..).partition(is_lost);
        self.now.reference = self.committed.reference.clone();
        self.now.pump.rewind(partition, &self.committed.pump);
        self.open.expected = retell(&mut self.now.reference, &kept);
        self.open.happened = kept;
        self.open.lost.insert(partition);
        self.let_go(partition, steps(&lost).collect());
    }

    fn let_go(&mut self, partition: Partition, meanwhile: Vec<Step>) {
        self.world.give_up(&mut self.now.pump, partition);
        self.away.insert(partition, meanwhile);
        self.unsettled = self.now.pump.next - 1;
    }

    fn take_back(&mut self, partition: Partition) {
        self.feed();
        if self.open.lost.contains(&partition) {
            self.seal();
        }
        self.restore_in_vain(partition);
        self.restore(partition);
        self.unfed.extend(self.away.remove(&partition).into_iter().flatten());
    }

    /// The partition goes again before all of its rows came: in the same epoch or another, which leaves nothing of it.
    fn restore_in_vain(&mut self, partition: Partition) {
        let objects = self.store.of(partition);
        self.world.restore(&mut self.now.pump, partition, &objects[..objects.len() / 2]);
        self.unsettled = self.now.pump.next - 1;
        if self.now.pump.next.is_multiple_of(2) {
            self.seal();
        }
        self.world.give_up(&mut self.now.pump, partition);
        self.unsettled = self.now.pump.next - 1;
        if self.now.pump.next.is_multiple_of(3) {
            self.seal();
        }
    }

    /// Rows cause no rows, and no changes unless the plan is another.
    fn restore(&mut self, partition: Partition) {
        self.world.restore(&mut self.now.pump, partition, &self.store.of(partition));
        let compared = self.now.pump.compared(partition);
        self.happen(vec![compared]);
        self.unsettled = self.now.pump.next - 1;
    }

    /// When all objects are gone, so are all names but those that the rules name.
    fn check_ids(&mut self) {
        for partition in self.store.partitions() {
            self.sweep(partition);
        }
        self.commit_all();
        let named = World::new(&self.plan, self.world.workers(), u64::MAX).ids();
        assert_eq!(named, self.world.ids(), "ids of objects, agents and states when nothing is known");
        assert_eq!(self.world.slots(), (0, 0), "slots of claims and of what is published when nothing is known");
    }

    /// All that was committed, against a reference that saw no epochs, workers and crashes.
    fn check_history(&self) {
        let expected = retell(&mut Reference::new(&self.plan), &self.history);
        let without_seq = |changes: &[Change]| changes.iter().map(|change| Change { seq: 0, ..change.clone() }).collect::<Vec<_>>();
        let (expected, sunk) = (without_seq(&expected), without_seq(&self.store.changes));
        assert_eq!(by_object(&expected), by_object(&sunk), "changes over the whole history");
    }
}

impl Epoch {
    fn after(standing: &Standing) -> Self {
        Self { happened: Vec::new(), expected: Vec::new(), lost: BTreeSet::new(), standing: standing.clone() }
    }
}

/// Which row it is.
fn key_of(row: &Row) -> (Partition, Name, Option<Name>) {
    let agent = match &row.value {
        RowValue::Report(agent, _) => Some(agent.clone()),
        RowValue::Object(_) => None,
    };
    (row.partition, row.object.clone(), agent)
}

/// Every live row, as the reference has it.
fn rows_of(reference: &Reference) -> Vec<Row> {
    let row = |(object, partition): (String, Partition), value| Row { partition, object: object.into(), value };
    let published = reference.published().into_iter().map(|(key, published)| row(key, RowValue::Object(Some(published.into()))));
    let reports = reference.reports().into_iter().flat_map(|(key, reports)| {
        reports.into_iter().map(move |(agent, report)| row(key.clone(), RowValue::Report(agent.into(), Some(report))))
    });
    published.chain(reports).collect()
}

fn retell(reference: &mut Reference, happened: &[Happened]) -> Vec<Change> {
    let mut changes = Vec::new();
    for happened in happened {
        match happened {
            Happened::Fed(fed) => changes.extend(tell(reference, std::slice::from_ref(fed))),
            Happened::Replanned(plan) => reference.replan(plan),
        }
    }
    changes
}

fn steps(happened: &[Happened]) -> impl Iterator<Item = Step> {
    happened.iter().flat_map(|happened| match happened {
        Happened::Fed(fed) => fed.steps(),
        Happened::Replanned(_) => Vec::new(),
    })
}

fn by_object(changes: &[Change]) -> BTreeMap<(Partition, &str), Vec<&Change>> {
    let mut objects = BTreeMap::<_, Vec<_>>::new();
    for change in changes {
        objects.entry((change.partition, &*change.object)).or_default().push(change);
    }
    objects
}
