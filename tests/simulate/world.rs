//! One history: processes, agents and faults from one seed, then peace, then judgement.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use generator::{Generator, Gn};
use statehouse::{
    board::PartitionStanding,
    config::SourceConfig,
    decode::Decoder,
    log::simulated::{Cluster, Dice, Options, Topic},
};
use statehouse_dataflows::{
    plan::{OnEmpty, OnNone, Plan, Rule, RuleSet},
    vocabulary::{Offset, Partition},
};

use crate::{
    agents::{Script, write},
    house::{Bell, Common, House},
    verify::{History, verify},
};

/// Of a task's stack, in words of eight bytes. What is not used costs nothing.
const STACK_WORDS: usize = 1 << 17;

/// What came of a history.
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) faults: u64,
    /// How often a copy went on as its partition's state, and was spared by a new beginning.
    pub(crate) copies: (u64, u64),
    pub(crate) wrong: Vec<String>,
}

/// What is derived from a seed, all of it.
#[derive(Debug)]
struct Shape {
    options: Options,
    processes: usize,
    workers: usize,
    objects: usize,
    rule: &'static str,
    max_records: usize,
    min_interval_ms: u64,
    piece_bytes: usize,
    batch_rows: usize,
    copies: usize,
    records: u64,
    trouble_us: u64,
    faults: u64,
}

impl Shape {
    fn new(seed: u64, dice: &mut Dice) -> Self {
        // Each kind of harm is there in some histories, and not in others.
        let mut some = |per_mille: u64| if dice.per_mille(400) { dice.from(1, per_mille) } else { 0 };
        let (lost_per_mille, slow_per_mille, double_end_per_mille) = (some(30), some(60), some(250));
        let (hang_per_mille, refused_record_per_mille) = (some(25), some(15));
        let session_us = dice.from(300_000, 900_000);
        let options = Options {
            seed,
            partitions: dice.from(2, 5) as Partition,
            session_us,
            heartbeat_us: session_us / 6,
            transaction_timeout_us: dice.from(250_000, 1_200_000),
            request_timeout_us: dice.from(20_000, 120_000),
            lost_per_mille,
            slow_per_mille,
            slow_us: dice.from(5_000, 300_000),
            double_end_per_mille,
            double_end_us: dice.from(1_000, 150_000),
            hang_per_mille,
            refused_record_per_mille,
        };
        let trouble_us = dice.from(1_000_000, 2_500_000);
        Self {
            options,
            processes: 2 + dice.below(2),
            workers: 1 + dice.below(4) / 3,
            objects: 3 + dice.below(6),
            rule: ["latest", "majority", "plurality"][dice.below(3)],
            max_records: [3, 8, 40, 1_000][dice.below(4)],
            min_interval_ms: [1, 5, 20, 60][dice.below(4)],
            piece_bytes: [300, 2_000, 900_000][dice.below(3)],
            batch_rows: [1, 5, 1_000][dice.below(3)],
            copies: dice.below(3),
            records: dice.from(60, 160),
            trouble_us,
            faults: dice.from(3, 11),
        }
    }

    fn plan(&self) -> Arc<Plan> {
        let rule = match self.rule {
            "latest" => Rule::Latest,
            "majority" => Rule::Majority,
            _ => Rule::Plurality,
        };
        let on_empty = if self.objects.is_multiple_of(2) { OnEmpty::Keep } else { OnEmpty::Remove };
        Arc::new(Plan::of(RuleSet { on_empty, on_none: OnNone::Keep, ..RuleSet::new(rule) }).expect("a good plan"))
    }
}

struct Task {
    process: usize,
    code: Generator<'static, (), ()>,
    wake_us: u64,
    bell: Bell,
}

/// What happens at a time of its own and is not in the cluster.
enum Due {
    Record,
    Fault,
    Resume(usize),
    Start,
    Undo(Box<dyn FnOnce(&World)>),
}

struct World {
    common: Rc<Common>,
    cluster: Cluster,
    dice: RefCell<Dice>,
    shape: Shape,
    houses: RefCell<Vec<Rc<House>>>,
    tasks: RefCell<Vec<Task>>,
    stopped: RefCell<BTreeSet<usize>>,
    resumed_us: RefCell<BTreeMap<usize, Vec<u64>>>,
    due: RefCell<BTreeMap<(u64, u64), Due>>,
    script: RefCell<Script>,
    numbers: RefCell<u64>,
    faults: RefCell<u64>,
}

thread_local! {
    /// What a task begins with. It never leaves its thread, which its library does not know.
    static BEGINNING: RefCell<Vec<Box<dyn FnOnce()>>> = RefCell::default();
}

/// A task that has not begun.
#[allow(deprecated, reason = "the newer way to yield needs a value that only the task's outermost function has")]
fn task(code: Box<dyn FnOnce()>) -> Generator<'static, (), ()> {
    let mut task = Gn::<()>::new_opt(STACK_WORDS, || {
        let code = BEGINNING.with_borrow_mut(Vec::pop);
        yield_now();
        code.into_iter().for_each(|code| code());
    });
    BEGINNING.with_borrow_mut(|beginning| beginning.push(code));
    task.resume();
    task
}

/// Lets others go on.
#[allow(deprecated, reason = "as for task")]
fn yield_now() {
    generator::yield_with(());
}

/// Runs the history of a seed.
pub(crate) fn run(seed: u64, traced: bool) -> Outcome {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let shape = Shape::new(seed, &mut dice);
    let cluster = Cluster::new(shape.options.clone(), Box::new(yield_now));
    if traced {
        println!("{shape:#?}");
        cluster.trace();
    }
    let objects = (0..shape.objects).map(|n| (n as Partition % shape.options.partitions, format!("object-{n}"))).collect();
    let common = Rc::new(Common {
        cluster: cluster.clone(),
        plan: shape.plan(),
        decoder: Arc::new(Decoder::new(&SourceConfig::default()).expect("a good source")),
        objects,
        partitions: shape.options.partitions,
        max_records: shape.max_records,
        min_interval_ms: shape.min_interval_ms,
        piece_bytes: shape.piece_bytes,
        batch_rows: shape.batch_rows,
        copies: shape.copies,
        peace: Cell::new(false),
        seen: RefCell::default(),
    });
    let world = World {
        common,
        cluster,
        dice: RefCell::new(dice),
        shape,
        houses: RefCell::default(),
        tasks: RefCell::default(),
        stopped: RefCell::default(),
        resumed_us: RefCell::default(),
        due: RefCell::default(),
        script: RefCell::default(),
        numbers: RefCell::default(),
        faults: RefCell::default(),
    };
    let mut wrong = world.live();
    let seen = world.common.seen.borrow();
    wrong.extend(verify(&History {
        cluster: &world.cluster,
        plan: &world.common.plan,
        partitions: world.shape.options.partitions,
        script: &world.script.borrow(),
        seen: &seen,
        lease_us: world.shape.options.session_us * 2 + world.shape.options.slow_us + 500_000,
        resumed_us: &world.resumed_us.borrow(),
    }));
    let events = world.cluster.calls() + world.script.borrow().len() as u64 + seen.restores + seen.epochs;
    world.cluster.say("history", || {
        let failed = seen.failed_epochs;
        format!(
            "{} records, {} epochs, {failed} failed, {} restores, {} takeovers from copies, {} copies spared, {} answers",
            world.script.borrow().len(),
            seen.epochs,
            seen.restores,
            seen.takeovers,
            seen.spared,
            seen.samples.len()
        )
    });
    Outcome { events, faults: *world.faults.borrow(), copies: (seen.takeovers, seen.spared), wrong }
}

impl World {
    /// Trouble, then peace. What is wrong at its end.
    fn live(&self) -> Vec<String> {
        for _ in 0..self.shape.processes {
            let at_us = self.draw(0, 200_000);
            self.plan(at_us, Due::Start);
        }
        for _ in 0..self.shape.records {
            let at_us = self.draw(0, self.shape.trouble_us);
            self.plan(at_us, Due::Record);
        }
        for _ in 0..self.shape.faults {
            let at_us = self.draw(100_000, self.shape.trouble_us);
            self.plan(at_us, Due::Fault);
        }
        self.go_on(self.shape.trouble_us, &|| false);
        self.make_peace();
        let Options { session_us, transaction_timeout_us, slow_us, request_timeout_us, .. } = self.shape.options;
        // What hangs is given up after two timeouts of a transaction; then it is one takeover, and a retry or two of everything.
        let bound_us = 2 * session_us + 4 * transaction_timeout_us + 4 * request_timeout_us + slow_us + 2_000_000;
        let until_us = self.cluster.now_us() + bound_us;
        self.go_on(until_us, &|| self.is_well());
        let mut wrong = self.unwell(bound_us);
        if self.shape.options.seed.is_multiple_of(8) {
            // Long enough that what was given up must be forgotten.
            self.go_on(self.cluster.now_us() + 1_300_000, &|| false);
        }
        self.stop_all();
        let until_us = self.cluster.now_us() + bound_us;
        self.go_on(until_us, &|| self.houses.borrow().iter().all(|house| house.is_over()));
        if let Some(house) = self.houses.borrow().iter().find(|house| !house.is_over()) {
            wrong.push(format!("L1: process {} does not end when it is asked to", house.process));
        }
        self.end_tasks();
        wrong
    }

    fn draw(&self, from: u64, to: u64) -> u64 {
        self.dice.borrow_mut().from(from, to)
    }

    fn plan(&self, at_us: u64, due: Due) {
        let mut numbers = self.numbers.borrow_mut();
        *numbers += 1;
        self.due.borrow_mut().insert((at_us, *numbers), due);
    }

    /// Lets everybody go on until it is so late, or all is as wanted.
    fn go_on(&self, until_us: u64, is_done: &dyn Fn() -> bool) {
        let mut turns: u64 = 0;
        while !(turns.is_multiple_of(64) && is_done()) {
            turns += 1;
            if self.turn() {
                continue;
            }
            let Some(next_us) = self.next_us().filter(|next_us| *next_us <= until_us) else { break };
            self.cluster.pass(next_us, &self.stopped.borrow());
            while let Some(due) = self.take_due(next_us) {
                self.happen(due);
            }
        }
        self.cluster.pass(until_us.min(self.cluster.now_us()), &self.stopped.borrow());
    }

    fn take_due(&self, now_us: u64) -> Option<Due> {
        let mut due = self.due.borrow_mut();
        let first = due.first_entry().filter(|entry| entry.key().0 <= now_us)?;
        Some(first.remove())
    }

    /// One task goes on, if one can.
    fn turn(&self) -> bool {
        let now_us = self.cluster.now_us();
        let at = {
            let (tasks, stopped) = (self.tasks.borrow(), self.stopped.borrow());
            let may = |task: &&Task| (task.wake_us <= now_us || task.bell.get()) && !stopped.contains(&task.process);
            let ready = tasks.iter().filter(may).count();
            if ready == 0 {
                return false;
            }
            let chosen = self.dice.borrow_mut().below(ready);
            let mut ready = tasks.iter().enumerate().filter(|(_, task)| may(task));
            ready.nth(chosen).expect("counted a moment ago").0
        };
        let mut task = self.tasks.borrow_mut().swap_remove(at);
        task.bell.set(false);
        task.code.resume();
        task.wake_us = self.cluster.take_wake_us().unwrap_or(now_us);
        if !task.code.is_done() {
            self.tasks.borrow_mut().push(task);
        }
        for (process, job) in self.cluster.take_jobs() {
            self.spawn(process, Bell::default(), job);
        }
        true
    }

    fn next_us(&self) -> Option<u64> {
        let stopped = self.stopped.borrow();
        let tasks = self.tasks.borrow();
        let waking = tasks.iter().filter(|task| !stopped.contains(&task.process)).map(|task| task.wake_us);
        let due = self.due.borrow().keys().next().map(|(at_us, _)| *at_us);
        let next_us = waking.chain(due).chain(self.cluster.next_due_us()).min()?;
        Some(next_us.max(self.cluster.now_us() + 1))
    }

    fn spawn(&self, process: usize, bell: Bell, code: impl FnOnce() + 'static) {
        let code = task(Box::new(code));
        self.tasks.borrow_mut().push(Task { process, code, wake_us: 0, bell });
    }

    fn start(&self) {
        let name = format!("process-{}", self.houses.borrow().len());
        let house = House::new(&self.common, &name, self.shape.workers);
        self.cluster.say(&name, || "starts".to_owned());
        let [pump, work, commit, restore, standby] = house.bells.clone();
        let here = || Rc::clone(&house);
        let (a, b, c, d, e) = (here(), here(), here(), here(), here());
        self.spawn(house.process, pump, move || a.pump());
        self.spawn(house.process, work, move || b.work());
        self.spawn(house.process, commit, move || c.commit());
        self.spawn(house.process, restore, move || d.restore());
        self.spawn(house.process, standby, move || e.keep_copies());
        self.houses.borrow_mut().push(house);
    }

    fn alive(&self) -> Vec<Rc<House>> {
        self.houses.borrow().iter().filter(|house| !house.is_over()).cloned().collect()
    }

    fn happen(&self, due: Due) {
        match due {
            Due::Record => write(&self.cluster, &mut self.dice.borrow_mut(), &self.common.objects, &mut self.script.borrow_mut()),
            Due::Start => self.start(),
            Due::Resume(process) => self.resume(process),
            Due::Undo(undo) => undo(self),
            Due::Fault => {
                *self.faults.borrow_mut() += 1;
                self.fault();
            }
        }
    }

    fn resume(&self, process: usize) {
        if self.stopped.borrow_mut().remove(&process) {
            self.resumed_us.borrow_mut().entry(process).or_default().push(self.cluster.now_us());
            self.cluster.say(&format!("process {process}"), || "goes on".to_owned());
        }
    }

    fn fault(&self) {
        let now_us = self.cluster.now_us();
        let Options { partitions, session_us, transaction_timeout_us, .. } = self.shape.options;
        let partition = self.draw(0, partitions as u64) as Partition;
        let alive = self.alive();
        let kind = self.draw(0, 14);
        let say = |what: &str| self.cluster.say("fault", || what.to_owned());
        let Some(house) = (!alive.is_empty()).then(|| Rc::clone(&alive[self.dice.borrow_mut().below(alive.len())])) else { return };
        let process = house.process;
        match kind {
            0..=2 => {
                self.kill(&house);
                self.plan(now_us + self.draw(1_000, 600_000), Due::Start);
            }
            3 | 4 => {
                let for_us = self.draw(1_000, session_us * 3);
                say(&format!("process {process} is stopped for {for_us} us"));
                self.stopped.borrow_mut().insert(process);
                self.plan(now_us + for_us, Due::Resume(process));
            }
            5 => {
                let for_us = self.draw(1_000, session_us * 3);
                say(&format!("process {process} is cut off for {for_us} us"));
                self.cluster.cut_off(process, for_us);
            }
            6 => {
                let for_us = self.draw(1_000, session_us * 2 + transaction_timeout_us);
                say(&format!("all brokers are away for {for_us} us"));
                alive.iter().for_each(|house| self.cluster.cut_off(house.process, for_us));
            }
            7 => {
                let slow_us = self.draw(10_000, 1_500_000);
                say(&format!("a marker takes {slow_us} us"));
                self.cluster.slow_marker(slow_us);
            }
            8 => {
                say("a rebalance");
                self.cluster.rebalance();
                self.plan(now_us + self.draw(1, 300_000), Due::Undo(Box::new(|world| world.cluster.rebalance())));
            }
            9 => {
                let topic = if self.draw(0, 2) == 0 { Topic::Source } else { Topic::Checkpoint };
                say(&format!("somebody leaves a transaction open on {topic:?} [{partition}]"));
                self.cluster.write_foreign(topic, partition, self.draw(50_000, 1_500_000));
            }
            10 => {
                self.cluster.change_leader(partition, self.draw(1_000, 400_000));
                self.cluster.move_coordinator(self.draw(1_000, 300_000));
                say("leaders and coordinators move");
            }
            11 => {
                say(&format!("process {process} is asked to end"));
                house.stopping.set(true);
                house.ring();
                self.plan(now_us + self.draw(1_000, 600_000), Due::Start);
            }
            12 if house.standing().partitions.is_empty() => {} // its clock is not anchored yet
            12 => {
                // Far enough from what is still believed that no record becomes one of the far future.
                let skew_ms = [-9_000, -4_000, -1_500, -400, 400, 1_500, 4_000, 9_000][self.draw(0, 8) as usize];
                say(&format!("the clock of process {process} is off by {skew_ms} ms"));
                house.skew_ms.set(skew_ms);
            }
            _ => self.damage(partition),
        }
    }

    fn kill(&self, house: &House) {
        self.cluster.kill(house.process);
        self.stopped.borrow_mut().remove(&house.process);
        house.ring();
    }

    /// Something is wrong with what a restore reads; all who could know better are killed, and somebody mends it later.
    fn damage(&self, partition: Partition) {
        let now_us = self.cluster.now_us();
        // Only what is committed for good: nobody commits behind it meanwhile.
        if self.cluster.open_transactions() > 0 || self.common.seen.borrow().damaged_since_us.contains_key(&partition) {
            return;
        }
        let Some(undo) = self.damage_one(partition) else { return };
        self.alive().iter().for_each(|house| self.kill(house));
        self.common.seen.borrow_mut().damaged_since_us.insert(partition, now_us);
        let mended = move |world: &World| {
            undo(world);
            let mut seen = world.common.seen.borrow_mut();
            seen.damaged_since_us.remove(&partition);
            seen.mended_us = Some(world.cluster.now_us());
            world.cluster.say("fault", || format!("partition {partition} is mended"));
        };
        self.plan(now_us + self.draw(200_000, 500_000), Due::Undo(Box::new(mended)));
        for _ in 0..self.shape.processes {
            self.plan(now_us + self.draw(1_000, 50_000), Due::Start);
        }
    }

    fn damage_one(&self, partition: Partition) -> Option<Box<dyn FnOnce(&World)>> {
        let chance = self.draw(0, u64::MAX);
        let kind = chance % 3;
        if kind == 2 {
            let offset: (Offset, String) =
                self.cluster.committed(Topic::Checkpoint, partition).first().and(self.cluster.forget_offset(partition))?;
            self.cluster.say("fault", || format!("the offset of partition {partition} expires"));
            return Some(Box::new(move |world| world.cluster.set_offset(partition, offset)));
        }
        let mut before = Vec::new();
        let place = self.cluster.damage(Topic::Checkpoint, partition, &mut |bytes| {
            before.clone_from(bytes);
            let at = (chance >> 8) as usize % bytes.len();
            if kind == 0 { bytes[at] ^= 1 << ((chance >> 40) % 8) } else { bytes.truncate(at) }
        })?;
        self.cluster.say("fault", || format!("offset {place} of checkpoint {partition} is damaged"));
        Some(Box::new(move |world| _ = world.cluster.damage(Topic::Checkpoint, partition, &mut |bytes| bytes.clone_from(&before))))
    }

    fn make_peace(&self) {
        self.cluster.say("history", || "peace".to_owned());
        self.cluster.calm();
        self.common.peace.set(true);
        let due: Vec<_> = std::mem::take(&mut *self.due.borrow_mut()).into_values().collect();
        for due in due {
            match due {
                Due::Undo(_) | Due::Resume(_) => self.happen(due),
                Due::Record | Due::Fault | Due::Start => {}
            }
        }
        self.alive().iter().for_each(|house| house.skew_ms.set(0));
        // Who found damage has ended, as it should, and who was asked to end will; somebody starts them again.
        let staying = self.alive().iter().filter(|house| !house.stopping.get()).count();
        (staying..self.shape.processes).for_each(|_| self.start());
    }

    fn is_well(&self) -> bool {
        self.unwell(0).is_empty()
    }

    /// What is not as it must be in peace.
    fn unwell(&self, bound_us: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let alive = self.alive();
        for partition in 0..self.shape.options.partitions {
            let live = |house: &&Rc<House>| {
                let standing = house.standing();
                let is_live = matches!(standing.partitions.get(&partition), Some(PartitionStanding::Live { .. }));
                is_live && standing.stale_since_ms.is_none()
            };
            let owners = alive.iter().filter(live).count();
            let end = self.script.borrow().range((partition, 0)..(partition + 1, 0)).last().map_or(0, |((_, offset), _)| offset + 1);
            let committed = self.cluster.offset(partition).map_or(0, |(offset, _)| offset);
            if owners != 1 || committed < end {
                wrong.push(format!(
                    "L1: {bound_us} us after the last fault partition {partition} is live at {owners} processes and committed to {committed} of {end}"
                ));
            }
        }
        wrong
    }

    fn stop_all(&self) {
        for house in self.alive() {
            house.stopping.set(true);
            house.ring();
        }
    }

    /// Nobody waits any more: every task comes to its end.
    fn end_tasks(&self) {
        self.houses.borrow().iter().filter(|house| !house.is_over()).for_each(|house| self.cluster.kill(house.process));
        self.stopped.borrow_mut().clear();
        for _ in 0..1_000 {
            self.tasks.borrow().iter().for_each(|task| task.bell.set(true));
            if !self.turn() {
                break;
            }
        }
        // What is open yet ends by itself, and what is on its way arrives.
        while let Some(next_us) = self.cluster.next_due_us() {
            self.cluster.pass(next_us, &BTreeSet::new());
        }
    }
}
