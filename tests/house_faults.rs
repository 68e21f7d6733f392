//! The whole house on a disk that fails or tears, once, at any of its writes and syncs, while reports stream in.
//!
//! Every run tells batch after batch, is restarted once in the middle, and has one fault, at one step of its disk. After a passing fault
//! the house must recover by itself; after a lasting one the process ends, the power fails, and a new one starts on what is left. In the
//! end everything that was acknowledged must be in the log at its place, nothing that was refused may be, and of what was answered with
//! "maybe", which is one transaction, all or nothing; the committed offsets tell which. The sink must then hold exactly what the reference
//! makes of that, and the rejects exactly the bad records of it: none lost, none twice.
//!
//! As threads race, the same step is not the same write in every run: each run goes on until its fault has struck.
//! `STATEHOUSE_SEED` (a new one each time) is printed with every failure; `STATEHOUSE_ALL_STEPS=1` sweeps over every step with every kind
//! of fault and loss instead of one of them drawn for each of some steps.

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    sync::Arc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use statehouse::{
    config::Config,
    log::{
        AppendError, Log, LogError,
        local::{LocalReader, open_with},
        partitioner::murmur2_partition,
    },
    registry::Registry,
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use self::{
    disk::{Disk, Fault, FaultKind, Loss},
    world::{Told, World, config, expected, random, shown},
};

#[path = "support/disk.rs"]
mod disk;
#[path = "support/world.rs"]
mod world;

const PARTITIONS: Partition = 2;
const ROUNDS: u64 = 6;
/// After so many rounds the house is stopped and started again, so that closing and opening have their faults, too.
const ROUNDS_BEFORE_RESTART: u64 = 3;
const RECORDS_PER_ROUND: usize = 25;
/// So few that a round takes several epochs.
const SETTINGS: &str = "workers = 2\n[commit]\nmin_interval_ms = 1\nmax_records = 10\n[local]\npartitions = 2";
/// How many steps each test samples; each with a fault drawn for it.
const SAMPLE: u64 = 60;

#[test]
fn a_passing_fault_costs_a_restore_and_nothing_else() {
    sweep(false, &[Loss::Nothing, Loss::Everything]);
}

#[test]
fn a_lasting_fault_costs_a_restart_and_nothing_else() {
    sweep(true, &[Loss::Nothing, Loss::Everything, Loss::Some(1), Loss::Some(2)]);
}

fn sweep(lasting: bool, losses: &[Loss]) {
    let seed = env::var("STATEHOUSE_SEED").map_or_else(
        |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
        |text| text.parse().expect("STATEHOUSE_SEED is a number"),
    );
    let undisturbed = Run::live(Case { seed, fault: None, loss: Loss::Everything });
    let steps = undisturbed.disk.steps();
    assert!(steps > 20 * ROUNDS, "a round has more than twenty steps; there were {steps}");
    let (mut in_doubt, mut applied, mut runs) = (0, 0, 0);
    for case in cases(seed, steps, lasting, losses) {
        let run = Run::live(case);
        assert!(run.disk.struck(), "{case:?} did not strike");
        runs += 1;
        in_doubt += u64::from(run.doubt.is_some());
        applied += u64::from(run.doubt == Some(true));
    }
    println!("seed {seed}: {steps} steps, {runs} runs, {in_doubt} with something in doubt, which was there in {applied}");
    assert!(in_doubt > 0, "STATEHOUSE_SEED={seed}: some transactions end in doubt");
}

/// Every step with everything, or some steps with something each.
fn cases(seed: u64, steps: u64, lasting: bool, losses: &[Loss]) -> Vec<Case> {
    let case = |step, kind, loss| Case { seed, fault: Some(Fault { step, kind, lasting }), loss };
    let each = losses.iter().flat_map(|loss| [(FaultKind::Fails, *loss), (FaultKind::Tears, *loss)]);
    let each: Vec<_> = each.collect();
    if env::var_os("STATEHOUSE_ALL_STEPS").is_some() {
        return (0..steps).flat_map(|step| each.iter().map(move |(kind, loss)| case(step, *kind, *loss))).collect();
    }
    let mut random = random(seed);
    let part = steps.div_ceil(SAMPLE).max(1);
    let drawn = (0..steps).step_by(part as usize).map(|from| {
        let (kind, loss) = each[random(each.len() as u64) as usize];
        case(from + random(part), kind, loss)
    });
    drawn.collect()
}

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    fault: Option<Fault>,
    /// What the power failure takes: after a lasting fault, and in the end.
    loss: Loss,
}

/// Says which case a panic came from.
struct Tell(Case);

impl Drop for Tell {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("STATEHOUSE_SEED={}: with {:?}", self.0.seed, self.0);
        }
    }
}

/// What was told; none is a record that can't be used.
type Record = Option<Told>;
type Answer = Result<(Partition, Offset), AppendError>;

/// One house and its disk, through all its lives.
struct Run {
    case: Case,
    config: Config,
    disk: Disk,
    random: Box<dyn FnMut(u64) -> u64>,
    /// By partition, in the order in which it was appended.
    told: Vec<Vec<(Record, Answer)>>,
    /// Rounds of which all was acknowledged.
    rounds: u64,
    lives: u64,
    /// Whether the power has failed after a lasting fault.
    cycled: bool,
    /// Whether what was answered with "maybe" turned out to be there.
    doubt: Option<bool>,
}

impl Run {
    fn live(case: Case) -> Self {
        let _tell = Tell(case);
        let mut run = Self {
            case,
            config: config(Path::new("in-memory"), SETTINGS),
            disk: Disk::default(),
            random: Box::new(random(case.seed)),
            told: (0..PARTITIONS).map(|_| Vec::new()).collect(),
            rounds: 0,
            lives: 0,
            cycled: false,
            doubt: None,
        };
        if let Some(fault) = case.fault {
            run.disk.arm(fault);
        }
        while !run.is_done() {
            run.live_once();
            if run.is_disk_gone() {
                run.disk.power_cycle(case.loss);
                run.cycled = true;
            }
        }
        run.disk.power_cycle(case.loss);
        run.check();
        run
    }

    /// All is told, the last of it after the restart and after the fault.
    fn is_done(&self) -> bool {
        self.rounds >= ROUNDS && (self.case.fault.is_none() || self.disk.struck()) && !self.is_disk_gone()
    }

    fn is_disk_gone(&self) -> bool {
        self.case.fault.is_some_and(|fault| fault.lasting) && self.disk.struck() && !self.cycled
    }

    fn open(&self) -> Result<(Log, LocalReader), LogError> {
        let disk = self.disk.clone();
        open_with(move || Ok(disk.backend()), &self.config.local, &self.config.house, Arc::new(|| 0))
    }

    /// One process: until it is to be restarted, the disk is gone, or all is told.
    fn live_once(&mut self) {
        let log = match self.open() {
            Ok(log) => log,
            Err(LogError::Unavailable(_)) if self.disk.struck() => return,
            Err(error) => panic!("the disk failed, and was taken for something else: {error:?}"),
        };
        let world = World::start_on(&self.config, log).expect("the house starts");
        self.lives += 1;
        let first_life = self.lives == 1;
        loop {
            world.eventually("every partition is live", || world.is_ready() || self.is_disk_gone());
            if self.is_disk_gone() || self.is_done() || (first_life && self.rounds >= ROUNDS_BEFORE_RESTART) {
                break;
            }
            self.tell(&world);
        }
        world.stop().expect("no disk makes the house fail");
    }

    /// One round.
    fn tell(&mut self, world: &World) {
        let told: Vec<_> = (0..RECORDS_PER_ROUND).map(|_| self.draw()).collect();
        let records = told.iter().map(|(object, told)| (object.clone(), told.as_ref().map_or(Some(b"not json".to_vec()), Told::value)));
        let answers = world.append(&records.collect::<Vec<_>>());
        self.rounds += u64::from(answers.iter().all(Result::is_ok));
        for ((object, told), answer) in told.into_iter().zip(answers) {
            let partition = murmur2_partition(object.as_bytes(), PARTITIONS);
            self.told[partition as usize].push((told, answer));
        }
    }

    fn draw(&mut self) -> (String, Record) {
        let told = Told::random(&mut self.random);
        (told.object.clone(), ((self.random)(20) > 0).then_some(told))
    }

    /// Compares what is in the log with what must be.
    fn check(&mut self) {
        let (mut log, reader) = self.open().expect("the disk works");
        let mut history = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let end = log.checkpoint.progress(partition).expect("it can be read").expect("there is some").0;
            history.extend(self.committed(partition, end));
        }
        let rejects = (0..PARTITIONS).flat_map(|partition| {
            let rejects = reader.rejects(partition, 0, usize::MAX).expect("it can be read");
            rejects.into_iter().map(move |(_, reject)| (partition, reject.offset))
        });
        let bad: Vec<_> = history.iter().filter(|(_, told)| told.is_none()).map(|(place, _)| *place).collect();
        assert_eq!(rejects.collect::<Vec<_>>(), bad, "rejects");

        let counted = history.into_iter().filter_map(|(place, told)| Some((place, told?))).collect();
        let plan = self.config.plan(&Registry::new()).expect("a good plan");
        let sink = (0..PARTITIONS).flat_map(|partition| reader.changes(partition, 0, usize::MAX).expect("it can be read"));
        let sink: Vec<_> = sink.map(|(_, record)| shown(&record)).collect();
        let expected = expected(&plan, &counted);
        assert!(expected.len() as u64 > 5 * ROUNDS, "much happens: {} changes", expected.len());
        assert_eq!(sink, expected, "changes");
    }

    /// What is in the log up to `end`: places follow one another without a gap, so what is missing between two that were acknowledged
    /// (or up to the end) is what was in doubt.
    fn committed(&mut self, partition: Partition, end: Offset) -> BTreeMap<(Partition, Offset), Record> {
        let (mut places, mut maybe, mut next) = (BTreeMap::new(), Vec::new(), 0);
        for (told, answer) in std::mem::take(&mut self.told[partition as usize]) {
            match answer {
                Ok((in_partition, offset)) => {
                    assert_eq!(in_partition, partition);
                    next = self.settle((partition, next), offset, &mut maybe, &mut places);
                    places.insert((partition, offset), told);
                    next += 1;
                }
                Err(AppendError::Maybe(_)) => maybe.push(told),
                Err(AppendError::Failed(_)) => {}
                Err(error) => panic!("no reason for {error:?}"),
            }
        }
        self.settle((partition, next), end, &mut maybe, &mut places);
        places
    }

    /// Puts what was in doubt between `next` and `until`, or drops it. Returns `until`.
    fn settle(
        &mut self,
        (partition, next): (Partition, Offset),
        until: Offset,
        maybe: &mut Vec<Record>,
        places: &mut BTreeMap<(Partition, Offset), Record>,
    ) -> Offset {
        let there = until - next;
        assert!(there == 0 || there == maybe.len() as Offset, "{there} records from {next} on, {} in doubt", maybe.len());
        if !maybe.is_empty() {
            let all = *self.doubt.get_or_insert(there > 0);
            assert_eq!(all, there > 0, "all that is in doubt was in one transaction");
        }
        let records = maybe.drain(..).zip(next..until).map(|(told, offset)| ((partition, offset), told));
        places.extend(records);
        until
    }
}
