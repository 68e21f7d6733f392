//! The embedded log on a disk that fails or tears at every single write and every single sync in turn.
//!
//! One house lives through the same few epochs again and again, each time with the fault one step later. Whatever the fault, and whatever
//! the power failure after it takes, the log must hold exactly the first so many epochs, whole, among them every one that was
//! acknowledged; and the house goes on from there to the end.

use std::{
    ops::ControlFlow,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Duration,
};

use statehouse::{
    config::LocalConfig,
    log::{
        AppendError, Log, LogError, Part, Polled, Progress, RejectRecord, SinkRecord, TransactError, Transaction,
        local::{LocalReader, open_with},
    },
};

use self::disk::{Disk, Fault, FaultKind, Loss, splitmix};

#[path = "support/disk.rs"]
mod disk;

const PARTITIONS: i32 = 2;
const EPOCHS: u64 = 7;
/// So few that most epochs cut old ones.
const KEEP_RECORDS: usize = 6;

#[test]
fn killed_at_every_step() {
    sweep(true, &[Loss::Nothing]);
}

#[test]
fn power_lost_at_every_step() {
    sweep(true, &[Loss::Everything, Loss::Some(1), Loss::Some(2)]);
}

#[test]
fn goes_on_after_a_fault_at_every_step() {
    sweep(false, &[Loss::Everything, Loss::Some(3)]);
}

/// The disk fails again while the log recovers, at every step that a recovery has, and the power after that.
#[test]
fn a_fault_in_the_recovery_is_recovered_from() {
    let mid_life = House::live(Plan::default()).1 / 2;
    let mut second = 0;
    loop {
        let fault = Some(Fault { step: mid_life, kind: FaultKind::Fails, lasting: false });
        let (house, _) = House::live(Plan { fault, in_recovery: Some(second), loss: Loss::Everything });
        if house.recoveries_struck == 0 {
            break;
        }
        second += 1;
    }
    assert!(second > 4, "a recovery has more steps than {second}");
}

/// Lives with a fault at every step of an undisturbed life.
fn sweep(lasting: bool, losses: &[Loss]) {
    let steps = House::live(Plan::default()).1;
    assert!(steps > 10 * EPOCHS, "a commit has more than ten steps; there were {steps}");
    for step in 0..steps {
        for kind in [FaultKind::Fails, FaultKind::Tears] {
            for &loss in losses {
                let plan = Plan { fault: Some(Fault { step, kind, lasting }), in_recovery: None, loss };
                let (house, _) = House::live(plan);
                assert!(house.disk.struck(), "{plan:?} did not strike");
            }
        }
    }
}

/// What happens to the disk.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Option<Fault>,
    /// A second fault, this many steps into the first recovery.
    in_recovery: Option<u64>,
    /// What the power failure takes, after a lasting fault and at the end.
    loss: Loss,
}

impl Default for Plan {
    fn default() -> Self {
        Self { fault: None, in_recovery: None, loss: Loss::Everything }
    }
}

/// Says which plan a panic came from.
struct Tell(Plan);

impl Drop for Tell {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("with {:?}", self.0);
        }
    }
}

/// A house and its disk, through all its lives.
struct House {
    disk: Disk,
    plan: Plan,
    /// Epochs reported as committed: they must never be taken back.
    acknowledged: u64,
    asked: usize,
    answers: Arc<Mutex<Vec<Answer>>>,
    recoveries_struck: u64,
}

/// Of one write: its epoch, the place it must get, and what was said.
type Answer = (u64, (i32, i64), Result<(i32, i64), AppendError>);

impl House {
    /// Lives through all epochs, through as many processes as it takes, and checks everything. Returns the steps until the first one ended.
    fn live(plan: Plan) -> (Self, u64) {
        let _tell = Tell(plan);
        let mut house = Self { disk: Disk::default(), plan, acknowledged: 0, asked: 0, answers: Arc::default(), recoveries_struck: 0 };
        if let Some(fault) = plan.fault {
            house.disk.arm(fault);
        }
        while !house.live_once() {
            if plan.fault.is_some_and(|fault| fault.lasting) {
                house.disk.power_cycle(plan.loss);
            }
        }
        let steps = house.disk.steps();
        house.disk.power_cycle(plan.loss);
        let (mut log, reader) = house.open().expect("the disk works");
        assert_eq!(committed(&mut log, &reader), EPOCHS);
        house.check_answers();
        (house, steps)
    }

    fn open(&self) -> Result<(Log, LocalReader), LogError> {
        let disk = self.disk.clone();
        let config =
            LocalConfig { path: "in-memory".into(), partitions: PARTITIONS, keep_records: KEEP_RECORDS as u64, queue_records: 100 };
        open_with(move || Ok(disk.backend()), &config, "test", Arc::new(|| 0))
    }

    /// One process: true if it got to the end.
    fn live_once(&mut self) -> bool {
        let (mut log, reader) = match self.open() {
            Ok(opened) => opened,
            Err(LogError::Unavailable(_)) => return false,
            Err(error) => panic!("the disk failed, and was taken for something else: {error:?}"),
        };
        assert!(matches!(log.source.poll(Duration::ZERO), Ok(Polled::Assigned(_))));
        let mut epoch = committed(&mut log, &reader);
        assert!(epoch >= self.acknowledged, "{} epochs were acknowledged, {epoch} are there", self.acknowledged);
        while epoch < EPOCHS {
            begin(&mut log, epoch);
            let Err((failed, error)) = self.run(&mut log, epoch) else { return true };
            if self.plan.fault.is_some_and(|fault| fault.lasting) {
                return false;
            }
            self.recover(&mut log);
            epoch = committed(&mut log, &reader);
            let expected = if matches!(error, TransactError::Failed(_)) { failed..=failed } else { failed..=failed + 1 };
            assert!(expected.contains(&epoch), "epoch {failed} ended with {error:?}, and {epoch} epochs are there");
        }
        true
    }

    /// Runs the epochs from `first` on, until one fails.
    fn run(&mut self, log: &mut Log, first: u64) -> Result<(), (u64, TransactError)> {
        for epoch in first..EPOCHS {
            for partition in 0..PARTITIONS {
                self.write(log, epoch, partition);
            }
            let parts = (0..PARTITIONS).map(|partition| part(epoch, partition)).collect();
            let firsts = log.committer.transact(Transaction { parts }).map_err(|error| (epoch, error))?;
            assert_eq!(firsts, (0..PARTITIONS).map(|partition| (partition, pieces_before(epoch))).collect::<Vec<_>>());
            self.acknowledged = epoch + 1;
        }
        Ok(())
    }

    /// Appends the epoch's writes and takes them as the pump does.
    fn write(&mut self, log: &mut Log, epoch: u64, partition: i32) {
        let key = (0..).map(|i| format!("object-{i}")).find(|key| (log.partition_of)(key.as_bytes()) == partition).expect("endless");
        for offset in offset_before(epoch, partition)..offset_before(epoch + 1, partition) {
            let answers = self.answers.clone();
            let done = Box::new(move |answer| answers.lock().unwrap().push((epoch, (partition, offset), answer)));
            log.appender.append(key.as_bytes(), Some(b"{}"), done);
            self.asked += 1;
            let polled = loop {
                match log.source.poll(Duration::ZERO).unwrap() {
                    Polled::Records(batch) => break batch,
                    Polled::CaughtUp(_) => {}
                    other => panic!("a write was queued, and {other:?} came"),
                }
            };
            assert_eq!((polled.partition, polled.records[0].offset, polled.records.len()), (partition, offset, 1));
        }
    }

    fn recover(&mut self, log: &mut Log) {
        if let Some(steps) = self.plan.in_recovery.take() {
            let step = self.disk.steps() + steps;
            self.disk.arm(Fault { step, kind: FaultKind::Fails, lasting: false });
            log.committer.recover(&|| true).unwrap();
            self.recoveries_struck += u64::from(self.disk.steps() > step);
            self.disk.disarm();
            return;
        }
        log.committer.recover(&|| true).unwrap();
    }

    /// Every write was answered once; those acknowledged are in acknowledged epochs, at the place they were told.
    fn check_answers(&self) {
        let answers = self.answers.lock().unwrap();
        assert_eq!(answers.len(), self.asked);
        for (epoch, place, answer) in answers.iter() {
            if let Ok(told) = answer {
                assert!(told == place && *epoch < self.acknowledged, "epoch {epoch}: {told:?} for {place:?}");
            }
        }
        let good = answers.iter().filter(|(.., answer)| answer.is_ok()).count() as i64;
        let all: i64 = (0..PARTITIONS).map(|partition| offset_before(EPOCHS, partition)).sum();
        assert!(good <= all && (good == all || self.disk.struck()), "{good} of {all} were acknowledged");
    }
}

fn begin(log: &mut Log, epoch: u64) {
    for partition in 0..PARTITIONS {
        log.source.begin(partition, offset_before(epoch, partition)).unwrap();
    }
}

/// How many epochs the log holds, whole and with nothing besides; panics if it is anything else.
fn committed(log: &mut Log, reader: &LocalReader) -> u64 {
    // Made once: it is most of the work of these tests.
    static PARTS: LazyLock<Vec<Vec<Part>>> = LazyLock::new(|| {
        let parts = |partition| (0..EPOCHS).map(|epoch| part(epoch, partition)).collect();
        (0..PARTITIONS).map(parts).collect()
    });

    let epochs = log.checkpoint.progress(0).unwrap().map_or(0, |(_, progress)| progress.n);
    for partition in 0..PARTITIONS {
        let parts = &PARTS[partition as usize][..epochs as usize];
        let last = parts.last().map(|part| (part.next_offset, part.progress));
        assert_eq!(log.checkpoint.progress(partition).unwrap(), last, "after {epochs} epochs");

        let mut pieces = Vec::new();
        let start = last.map_or(0, |(_, progress)| progress.start);
        let each = &mut |_, piece: &[u8]| {
            pieces.push(piece.to_vec());
            ControlFlow::Continue(())
        };
        assert!(!log.checkpoint.read(partition, start, each).unwrap());
        let expected: Vec<_> = parts.iter().flat_map(|part| part.pieces.clone()).skip(start as usize).collect();
        assert!(pieces == expected, "other pieces than those of {epochs} epochs");

        let changes = parts.iter().flat_map(|part| part.changes.clone());
        assert_eq!(reader.changes(partition, 0, 1000).unwrap(), newest(changes), "after {epochs} epochs");
        let rejects = parts.iter().flat_map(|part| part.rejects.clone());
        assert_eq!(reader.rejects(partition, 0, 1000).unwrap(), newest(rejects), "after {epochs} epochs");
    }
    epochs
}

fn newest<T>(records: impl Iterator<Item = T>) -> Vec<(i64, T)> {
    let mut records: Vec<_> = (0..).zip(records).collect();
    records.drain(..records.len().saturating_sub(KEEP_RECORDS));
    records
}

/// Epochs take 0 to 3 writes of each partition.
fn offset_before(epoch: u64, partition: i32) -> i64 {
    (0..epoch as i64).map(|epoch| (epoch + i64::from(partition) + 1) % 4).sum()
}

fn pieces_before(epoch: u64) -> i64 {
    2 * epoch as i64
}

/// What an epoch holds of a partition: always the same.
fn part(epoch: u64, partition: i32) -> Part {
    let mut random = epoch << 8 | partition as u64;
    let mut bytes = |most: u64| {
        let length = splitmix(&mut random) % most;
        (0..length).map(|_| splitmix(&mut random) as u8).collect::<Vec<_>>()
    };
    let progress = Progress { n: epoch + 1, digest: epoch * 77, start: pieces_before(epoch.saturating_sub(2)) };
    let offsets = offset_before(epoch, partition)..offset_before(epoch + 1, partition);
    let change = |offset, value| SinkRecord { key: format!("{offset}").as_str().into(), value, headers: vec![("h", "v".into())] };
    let changes = offsets.clone().map(|offset| change(offset, (offset % 3 != 0).then(|| bytes(2000)))).collect();
    let reject = |offset, value| RejectRecord { offset, timestamp_ms: 5, key: None, value, reason: "not_json", detail: "no".into() };
    let rejects = offsets.clone().map(|offset| reject(offset, Some(bytes(200)))).collect();
    Part { partition, next_offset: offsets.end, progress, pieces: vec![bytes(100), bytes(20_000)], changes, rejects }
}
