//! A warm copy against its owner and the reference: random houses whose partitions another house follows, chunk by chunk, and takes over.
//!
//! `FOLLOW_CASES` (128) houses are tried, from `FOLLOW_SEED` on (random). A failure names the seed that alone repeats it, and is shrunk.
//!
//! The follower has workers and rules of its own. After every committed epoch of the owner its copies must answer what the reference says of
//! that moment, and it must not have made any change, row or digest. When the owner dies, the follower compares and goes on in its
//! place, a new house follows it, and what both committed must come to the reference's changes.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    env,
    hash::BuildHasher,
    sync::Arc,
};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use statehouse_dataflows::{
    plan::{Plan, RuleSet},
    reference::Reference,
    vocabulary::{Change, Name, Partition, Row},
};
use support::{
    Fed, Pump, Step,
    answers::check_answers,
    generate::{Act, Case, PARTITIONS, case},
    store::Store,
    tell,
    world::{Left, World},
};

const ACTS_MAX: usize = 200;

#[test]
fn a_copy_is_what_its_owner_committed() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: no number: {text:?}")));
    let first = number("FOLLOW_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    for seed in first..first + number("FOLLOW_CASES").unwrap_or(128) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 4_096, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let tried = runner.run(&case(ACTS_MAX), |case| {
            try_out(&case);
            Ok::<_, TestCaseError>(())
        });
        tried.unwrap_or_else(|failure| panic!("repeat with FOLLOW_SEED={seed} FOLLOW_CASES=1\n{failure}"));
    }
}

fn try_out(case: &Case) {
    let mut trial = Trial::new(case);
    for act in &case.acts {
        trial.act(act);
    }
    trial.seal();
    trial.take_over(1, None);
    trial.seal();
    trial.check_nothing_left();
}

/// The owner of all partitions, and who follows it.
struct Trial {
    plan: Arc<Plan>,
    mask: u64,
    owner: World,
    pump: Pump,
    /// As of the last event.
    reference: Reference,
    /// As of the last committed epoch of the owner: where a new owner goes on.
    committed: (Reference, Pump),
    /// Steps since, told to the owner.
    open: Vec<Step>,
    expected: Vec<Change>,
    store: Store,
    follower: Follower,
}

/// A house that owns nothing yet.
struct Follower {
    plan: Arc<Plan>,
    world: World,
    pump: Pump,
    /// Partitions of which it has a whole copy.
    copies: BTreeSet<Partition>,
    /// Chunks that are followed before an epoch is closed.
    patience: usize,
    waiting: usize,
}

impl Trial {
    fn new(case: &Case) -> Self {
        let plan = Arc::new(Plan::new(case.sets.clone()).unwrap());
        let (reference, pump) = (Reference::new(&plan), Pump::new(1));
        Self {
            owner: World::new(&plan, case.workers, case.mask),
            committed: (reference.clone(), pump.clone()),
            reference,
            pump,
            mask: case.mask,
            open: Vec::new(),
            expected: Vec::new(),
            store: Store::default(),
            follower: Follower::new(&plan, 1 + case.acts.len() % 3, case.mask),
            plan,
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Step(step) => self.step(step.clone()),
            Act::Sweep(partition) => {
                let known = self.reference.published().into_keys().filter(|key| key.1 == *partition);
                let purges: Vec<_> = known.map(|(object, partition)| Step::Record(partition, object, support::Told::Purge)).collect();
                purges.into_iter().for_each(|step| self.step(step));
            }
            Act::Seal => self.seal(),
            Act::Commit(epochs) => self.follower.patience = *epochs,
            Act::Read => self.follower.close(),
            Act::Crash(workers, sets) => self.take_over(*workers, sets.as_deref()),
            Act::GiveUp(partition) => self.follower.give_up(*partition),
            Act::Lose(partition) => {
                // Half of a copy, which is given up before it is whole, or is the follower's own and goes with an epoch that fails.
                self.follower.give_up(*partition);
                self.follower.pump.rewind(*partition, &self.committed.1);
                let objects = self.store.of(*partition);
                self.follower.world.restore(&mut self.follower.pump, *partition, &objects[objects.len() / 2..]);
                if self.expected.len().is_multiple_of(2) {
                    self.follower.copies.insert(*partition);
                    self.follower.give_up(*partition);
                } else {
                    self.follower.fail(*partition, &self.open);
                }
            }
        }
    }

    fn step(&mut self, step: Step) {
        let fed = self.pump.feed(std::slice::from_ref(&step));
        self.happen(&fed);
        self.open.push(step);
    }

    fn happen(&mut self, fed: &[Fed]) {
        self.owner.feed(fed);
        self.expected.extend(tell(&mut self.reference, fed));
    }

    /// Closes and commits an epoch of the owner; the follower follows.
    fn seal(&mut self) {
        let left = self.owner.close(self.pump.next);
        self.owner.committed(self.pump.next - 1);
        assert_eq!(by_object(&std::mem::take(&mut self.expected)), by_object(&left.changes), "changes of the owner");
        self.open.clear();
        self.committed = (self.reference.clone(), self.pump.clone());
        let rows = left.rows.clone();
        self.store.commit(left);
        self.store.check_digests();
        self.follow(&rows);
        self.check_copies();
    }

    /// A partition not followed yet is restored whole; of one that is followed the chunk is taken, with rows that repeat what did not change.
    fn follow(&mut self, rows: &[Row]) {
        let Self { store, follower, committed, .. } = self;
        for partition in PARTITIONS {
            let is_new = follower.copies.insert(partition);
            follower.pump.rewind(partition, &committed.1);
            let live = store.of(partition);
            if is_new {
                follower.world.restore(&mut follower.pump, partition, &live);
                continue;
            }
            let mut objects = by_name(rows.iter().filter(|row| row.partition == partition));
            let repeated = live.iter().flatten().enumerate().filter(|(nth, _)| (nth + follower.waiting).is_multiple_of(3));
            for (_, row) in repeated {
                let chunk = objects.entry(row.object.clone()).or_default();
                if !chunk.contains(row) {
                    chunk.push(row.clone());
                }
            }
            let objects: Vec<_> = objects.into_values().collect();
            follower.world.follow(&mut follower.pump, partition, &objects);
        }
        follower.waiting += 1;
        if follower.waiting >= follower.patience {
            follower.close();
        }
    }

    fn check_copies(&mut self) {
        if self.follower.waiting > 0 {
            return;
        }
        let mut reference = self.committed.0.clone();
        reference.replan(&self.follower.plan);
        let none = BTreeSet::new();
        check_answers(&self.follower.plan, &reference, &none, &mut self.follower.world);
        let asked_of = BTreeSet::from([1]);
        let listed =
            self.follower.world.list(&statehouse_dataflows::query::ListQuery { limit: usize::MAX, ..Default::default() }, &asked_of);
        assert!(listed.iter().all(|view| view.partition == 1), "a list of one partition: {listed:?}");
    }

    /// The owner is gone, and what it had not committed; a new house follows the one that takes over.
    fn take_over(&mut self, workers: usize, sets: Option<&[RuleSet]>) {
        self.follow(&[]); // else it may have no copy of some partition
        let next = Follower::new(&self.plan, workers, self.mask);
        let Follower { plan, world, pump, .. } = std::mem::replace(&mut self.follower, next);
        if let Some(sets) = sets {
            self.follower.plan = Arc::new(Plan::new(sets.to_vec()).unwrap());
            self.follower.world = World::new(&self.follower.plan, workers, self.mask);
        }
        (self.plan, self.owner, self.pump) = (plan, world, pump);
        self.reference = self.committed.0.clone();
        self.reference.replan(&self.plan);
        self.expected.clear();
        let unfinished = std::mem::take(&mut self.open);
        for partition in PARTITIONS {
            let compared = self.pump.compared(partition);
            self.happen(&[compared]);
        }
        unfinished.into_iter().for_each(|step| self.step(step));
    }

    /// A follower that gives everything up has nothing.
    fn check_nothing_left(&mut self) {
        self.follow(&[]);
        PARTITIONS.into_iter().for_each(|partition| self.follower.give_up(partition));
        self.follower.close();
        let named = World::new(&self.follower.plan, self.follower.world.workers(), u64::MAX).ids();
        assert_eq!(named, self.follower.world.ids(), "ids of objects, agents and states when nothing is followed");
        assert_eq!(self.follower.world.slots(), (0, 0), "slots of claims and of what is published when nothing is followed");
    }
}

impl Follower {
    fn new(plan: &Arc<Plan>, workers: usize, mask: u64) -> Self {
        let (copies, patience, waiting) = (BTreeSet::new(), 1, 0);
        Self { plan: plan.clone(), world: World::new(plan, workers, mask), pump: Pump::new(1), copies, patience, waiting }
    }

    fn close(&mut self) {
        self.waiting = 0;
        let Left { changes, rows, digests, .. } = self.world.close(self.pump.next);
        assert!(changes.is_empty() && rows.is_empty() && digests.is_empty(), "a copy says nothing: {changes:?} {rows:?} {digests:?}");
        self.world.committed(self.pump.next - 1);
    }

    /// Takes over what there is of a partition and goes on with these steps, and then an epoch fails, closed or not: nothing of that is left.
    fn fail(&mut self, partition: Partition, steps: &[Step]) {
        let compared = self.pump.compared(partition);
        self.world.feed(&[compared]);
        let steps: Vec<_> = steps.iter().filter(|step| step.partition() == partition).cloned().collect();
        self.world.feed(&self.pump.feed(&steps));
        if steps.len().is_multiple_of(2) {
            self.world.close(self.pump.next);
        }
        self.world.begin_anew(&mut self.pump, &self.copies);
    }

    fn give_up(&mut self, partition: Partition) {
        if self.copies.remove(&partition) {
            self.world.give_up(&mut self.pump, partition);
        }
    }
}

fn by_name<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<Name, Vec<Row>> {
    let mut objects = BTreeMap::<_, Vec<_>>::new();
    rows.for_each(|row| objects.entry(row.object.clone()).or_default().push(row.clone()));
    objects
}

fn by_object(changes: &[Change]) -> BTreeMap<(Partition, &str), Vec<&Change>> {
    let mut objects = BTreeMap::<_, Vec<_>>::new();
    for change in changes {
        objects.entry((change.partition, &*change.object)).or_default().push(change);
    }
    objects
}
