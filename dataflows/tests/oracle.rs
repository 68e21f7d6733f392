//! The engine against the reference: random houses, random events, random epochs, crashes and owners.
//!
//! `ORACLE_CASES` (256) houses are tried, from `ORACLE_SEED` on (random). A failure names the seed that alone repeats it, and is shrunk.
//!
//! Held against each other, after every epoch: its changes, per object, in every field; the rows it left for the checkpoint, and their
//! digest. After every commit, and at random moments: every answer, at the last committed seq.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::RandomState},
    env,
    hash::BuildHasher,
    sync::Arc,
};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use statehouse_dataflows::{
    plan::Plan,
    reference::Reference,
    vocabulary::{Change, Partition, Seq},
};
use support::{
    Pump, Step, Told,
    answers::check_answers,
    generate::{Act, Case, case},
    store::Store,
    tell,
    world::{Left, World},
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
    /// All steps, whoever lost them: what the whole history must come to.
    history: Vec<Step>,
}

/// What is known at one moment.
#[derive(Clone)]
struct Standing {
    reference: Reference,
    pump: Pump,
}

/// What was told, and what must come of it, between two seals.
struct Epoch {
    steps: Vec<Step>,
    expected: Vec<Change>,
    /// At its end; of an open epoch: at its beginning.
    standing: Standing,
}

impl Trial {
    fn new(case: &Case) -> Self {
        let plan = Arc::new(Plan::new(case.sets.clone()).unwrap());
        let standing = Standing { reference: Reference::new(&plan), pump: Pump::new(1) };
        Self {
            world: World::new(&plan, case.workers, case.mask),
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
            history: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Step(step) => self.step(step.clone()),
            Act::Sweep(partition) => self.sweep(*partition),
            Act::Seal => self.seal(),
            Act::Commit(epochs) => (0..*epochs).for_each(|_| self.commit()),
            Act::Read => self.read(),
            Act::Crash(workers) => self.crash(*workers),
            Act::GiveUp(partition) if self.away.contains_key(partition) => self.take_back(*partition),
            Act::GiveUp(partition) => self.give_up(*partition),
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
        let steps = std::mem::take(&mut self.unfed);
        let fed = self.now.pump.feed(&steps);
        self.world.feed(&fed);
        self.open.expected.extend(tell(&mut self.now.reference, &fed));
        self.open.steps.extend(steps.iter().cloned());
    }

    fn seal(&mut self) {
        self.feed();
        let left = self.world.close(self.now.pump.next);
        let mut epoch = std::mem::replace(&mut self.open, Epoch::after(&self.now));
        assert_eq!(
            by_object(&epoch.expected),
            by_object(&left.changes),
            "changes of the epoch that ends before seq {}",
            self.now.pump.next
        );
        let late = self.now.reference.late() - epoch.standing.reference.late();
        assert_eq!(late, left.late, "late reports of the epoch that ends before seq {}", self.now.pump.next);
        epoch.standing = self.now.clone();
        self.closed.push_back((epoch, left));
    }

    fn commit(&mut self) {
        let Some((epoch, left)) = self.closed.pop_front() else { return };
        self.history.extend(epoch.steps);
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
    fn crash(&mut self, workers: usize) {
        self.feed();
        let closed = self.closed.drain(..).flat_map(|(epoch, _)| epoch.steps);
        self.unfed.extend(closed.chain(self.open.steps.drain(..)));
        self.now = self.committed.clone();
        (self.now.pump.next, self.committed.pump.next, self.unsettled) = (1, 1, 0);
        self.open = Epoch::after(&self.now);
        self.world = World::new(&self.plan, workers, self.mask);
        for partition in self.store.partitions() {
            self.restore(partition);
        }
        self.unfed.extend(std::mem::take(&mut self.away).into_values().flatten());
    }

    fn give_up(&mut self, partition: Partition) {
        self.commit_all();
        self.world.give_up(&mut self.now.pump, partition);
        self.away.insert(partition, Vec::new());
        self.unsettled = self.now.pump.next - 1;
    }

    fn take_back(&mut self, partition: Partition) {
        self.feed();
        self.restore(partition);
        self.unfed.extend(self.away.remove(&partition).into_iter().flatten());
    }

    /// Rows cause no rows and no changes.
    fn restore(&mut self, partition: Partition) {
        self.world.restore(&mut self.now.pump, partition, &self.store.of(partition));
        self.unsettled = self.now.pump.next - 1;
    }

    /// All that was committed, against a reference that saw no epochs, workers and crashes.
    fn check_history(&self) {
        let mut reference = Reference::new(&self.plan);
        let expected = tell(&mut reference, &Pump::new(1).feed(&self.history));
        let without_seq = |changes: &[Change]| changes.iter().map(|change| Change { seq: 0, ..change.clone() }).collect::<Vec<_>>();
        let (expected, sunk) = (without_seq(&expected), without_seq(&self.store.changes));
        assert_eq!(by_object(&expected), by_object(&sunk), "changes over the whole history");
    }
}

impl Epoch {
    fn after(standing: &Standing) -> Self {
        Self { steps: Vec::new(), expected: Vec::new(), standing: standing.clone() }
    }
}

fn by_object(changes: &[Change]) -> BTreeMap<(Partition, &str), Vec<&Change>> {
    let mut objects = BTreeMap::<_, Vec<_>>::new();
    for change in changes {
        objects.entry((change.partition, &*change.object)).or_default().push(change);
    }
    objects
}
