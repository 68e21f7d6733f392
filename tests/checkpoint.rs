//! The rolling checkpoint by itself: workers, commit and restore on a log in memory, without threads and without a clock of its own.
//!
//! After every chunk a restore from the committed start must come to all that was ever said, whoever owned the partitions; the log must stay within
//! a fixed multiple of what is live; and who has nothing to say must come to rest. `CHECKPOINT_SEED` repeats a failure.

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
    sync::{Arc, Mutex},
    time::Duration,
};

use ahash::RandomState;
use statehouse::{
    chunk,
    commit::{Commit, CommitSettings, Outcome, Sent},
    config::{OnReject, SinkFormat, SourceConfig, Start},
    decode::Decoder,
    encode::Encoder,
    log::{Batch, Checkpoint, Committer, LogError, Progress, Record, TransactError, Transaction, Trims},
    message::{Adopted, Cut, CutPart, Delivered, Feed, Now, Records, Request, Routed, ToCommit},
    restore::{Restore, RestoreSettings},
    route::Route,
    worker::{Worker, WorkerSetup},
};
use statehouse_dataflows::{
    plan::{Plan, Rule, RuleSet},
    rows::Rows,
    vocabulary::{Name, Offset, Partition, Row, RowValue, Run, Seq},
};

type Key = (Name, Option<Name>);

/// One partition of the log, and what it must come to.
#[derive(Default)]
struct Kept {
    /// By offset. Between two chunks lies a marker, as on Kafka.
    records: BTreeMap<Offset, Vec<u8>>,
    next: Offset,
    committed: Option<(Offset, Progress)>,
    trimmed: Offset,
    /// The last word on every row, as all chunks said it since the beginning, whether they are kept or not; slices say nothing new.
    live: BTreeMap<Key, Row>,
    slice_bytes: u64,
    chunks: u64,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<BTreeMap<Partition, Kept>>>);

fn key_of(row: &Row) -> Key {
    match &row.value {
        RowValue::Report(agent, _) => (row.object.clone(), Some(agent.clone())),
        RowValue::Object(_) => (row.object.clone(), None),
    }
}

impl Kept {
    fn append(&mut self, bytes: Vec<u8>) {
        let piece = chunk::decode(&bytes).expect("just written");
        for row in piece.rows.to_rows() {
            let is_gone = matches!(row.value, RowValue::Report(_, None) | RowValue::Object(None));
            if piece.is_slice {
                assert_eq!(self.live.get(&key_of(&row)), Some(&row), "a slice says what is live");
            } else if is_gone {
                self.live.remove(&key_of(&row));
            } else {
                self.live.insert(key_of(&row), row);
            }
        }
        self.slice_bytes += if piece.is_slice { bytes.len() as u64 } else { 0 };
        self.records.insert(self.next, bytes);
        self.next += 1;
    }

    fn log_bytes(&self) -> usize {
        let start = self.committed.map_or(0, |(_, progress)| progress.start);
        self.records.range(start..).map(|(_, record)| record.len()).sum()
    }

    fn live_bytes(&self, partition: Partition) -> usize {
        let header = chunk::Header { partition, ..chunk::Header::default() };
        let rows: Vec<_> = self.live.values().cloned().collect();
        chunk::encode(&header, &[Rows::of(&rows)], chunk::PIECE_BYTES_MAX).iter().map(Vec::len).sum()
    }
}

impl Committer for Log {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        let mut log = self.0.lock().unwrap();
        let mut placed = Vec::new();
        for part in transaction.parts {
            let kept = log.entry(part.partition).or_default();
            let before = kept.committed.map_or(0, |(_, progress)| progress.start);
            assert!(part.progress.start >= before, "a start goes back");
            kept.committed = Some((part.next_offset, part.progress));
            if part.pieces.is_empty() {
                continue;
            }
            placed.push((part.partition, kept.next));
            kept.chunks += 1;
            part.pieces.into_iter().for_each(|piece| kept.append(piece));
            kept.next += 1;
        }
        Ok(placed)
    }

    fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims {
        let mut log = self.0.lock().unwrap();
        for (partition, offset) in before {
            let kept = log.get_mut(partition).expect("only what was committed is given up");
            assert!(*offset <= kept.committed.expect("committed").1.start, "only what is before the committed start is given up");
            kept.records = kept.records.split_off(offset);
            kept.trimmed = *offset;
        }
        Trims { done: before.len() as u64, failed: 0 }
    }

    fn recover(&mut self, _: &dyn Fn() -> bool) -> Result<(), LogError> {
        Ok(())
    }
}

impl Checkpoint for Log {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        Ok(self.0.lock().unwrap().entry(partition).or_default().committed)
    }

    fn start_offset(&mut self, _: Partition, _: Start) -> Result<Offset, LogError> {
        Ok(0)
    }

    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        let log = self.0.lock().unwrap();
        let kept = &log[&partition];
        if from < kept.trimmed {
            return Err(LogError::Corrupt(format!("read from {from}, but everything before {} is gone", kept.trimmed)));
        }
        Ok(kept.records.range(from..).any(|(offset, record)| each(*offset, record).is_break()))
    }
}

/// What a partition's pump would know.
#[derive(Clone, Default)]
struct Line {
    next_offset: Offset,
    event: u64,
    records: u64,
    adopted: Option<Adopted>,
}

/// An owner of all partitions.
struct House {
    log: Log,
    workers: Vec<Worker>,
    commit: Commit,
    route: Route,
    lines: BTreeMap<Partition, Line>,
    next: Seq,
    epoch: u64,
    now: Now,
}

/// An hour into some day; a clock is a multiple of 100.
const CLOCK_MS: i64 = 1_763_800_000_000;

/// A report (an agent, and a state or none), or a purge.
type Told = (String, Option<(&'static str, Option<&'static str>)>);

impl House {
    /// Takes over whatever stands in the log.
    fn on(log: &Log, partitions: Range<Partition>, (workers, slice_bytes_min): (usize, u64), now: Now) -> Self {
        let plan = Arc::new(Plan::of(RuleSet::new(Rule::Majority)).unwrap());
        let setup = |worker| WorkerSetup {
            worker,
            plan: Arc::clone(&plan),
            decoder: Arc::new(Decoder::new(&SourceConfig::default()).unwrap()),
            encoder: Arc::new(Encoder::new(SinkFormat::State)),
            on_reject: OnReject::Stop,
        };
        let settings = CommitSettings {
            house: "test".into(),
            instance: "i".into(),
            workers,
            max_piece_bytes: 40_000,
            slice_bytes_min,
            idle_slice_bytes: IDLE_SLICE_BYTES,
        };
        let route = Route::new(RandomState::with_seeds(workers as u64, 2, 3, 4), workers);
        let mut house = Self {
            workers: (0..workers).map(|worker| Worker::new(setup(worker))).collect(),
            commit: Commit::new(settings, Box::new(log.clone())),
            log: log.clone(),
            route,
            lines: BTreeMap::new(),
            next: 1,
            epoch: 0,
            now,
        };
        partitions.for_each(|partition| house.restore(partition));
        house.seal();
        house
    }

    fn restore(&mut self, partition: Partition) {
        for what in restored(&self.log, partition, &self.route) {
            match what {
                Delivered::Begin(at) => {
                    let adopted = Adopted { progress: at.progress.unwrap_or_default(), rotation: at.rotation };
                    let line = Line { next_offset: at.next_offset, event: at.event, records: 0, adopted: Some(adopted) };
                    self.lines.insert(partition, line);
                }
                Delivered::Rows(shares) => {
                    let run = self.aside(partition);
                    for (worker, objects) in self.workers.iter_mut().zip(shares) {
                        worker.feed(Feed::Rows { run, objects });
                    }
                }
                Delivered::End => {
                    let run = self.aside(partition);
                    self.lines.get_mut(&partition).unwrap().event += 1;
                    self.workers.iter_mut().for_each(|worker| _ = worker.feed(Feed::Compare { run, objects_max: usize::MAX }));
                }
                what => panic!("no restore delivers {what:?}"),
            }
        }
    }

    fn aside(&mut self, partition: Partition) -> Run {
        self.next += 1;
        Run { first: self.next - 1, count: 1, partition, event: self.lines[&partition].event, clock_ms: CLOCK_MS, offset: None }
    }

    /// Records, in one batch.
    fn tell(&mut self, partition: Partition, told: &[Told]) {
        if told.is_empty() {
            return;
        }
        let line = self.lines.get_mut(&partition).unwrap();
        let (count, first) = (told.len() as u64, self.next);
        let run = Run { first, count, partition, event: line.event, clock_ms: CLOCK_MS, offset: Some(line.next_offset) };
        let mut batch = Batch { partition, ..Batch::default() };
        for ((object, report), offset) in told.iter().zip(line.next_offset..) {
            let key = put(&mut batch.bytes, object);
            let value = report.map(|(agent, state)| {
                let state = state.map_or("null".to_owned(), |state| format!("\"{state}\""));
                put(&mut batch.bytes, &format!("{{\"agent\":\"{agent}\",\"state\":{state},\"ts\":{offset}}}"))
            });
            batch.records.push(Record { offset, timestamp_ms: CLOCK_MS, key: Some(key), value, agent: None, canonical: false });
        }
        line.next_offset += count as Offset;
        line.event += count;
        line.records += count;
        self.next += count;
        let (batch, runs): (_, Arc<[Run]>) = (Arc::new(batch), Arc::new([run]));
        let mut shares: Vec<Vec<Routed>> = (0..self.workers.len()).map(|_| Vec::new()).collect();
        for (index, (object, _)) in (0..).zip(told) {
            let hash = self.route.hash(partition, object);
            shares[self.route.worker(hash)].push(Routed { index, seq: first + Seq::from(index), hash, reject: None });
        }
        for (worker, routed) in self.workers.iter_mut().zip(shares) {
            worker.feed(Feed::Records(Records { batch: Arc::clone(&batch), runs: Arc::clone(&runs), routed }));
        }
    }

    /// Ends the epoch, after so many records of each partition. Returns whether it needed a transaction.
    fn seal(&mut self) -> bool {
        // Every epoch has an event: a tick, if nothing else.
        let partition = *self.lines.keys().next().unwrap();
        let run = self.aside(partition);
        self.workers.iter_mut().for_each(|worker| _ = worker.feed(Feed::Ticks(Arc::new([run]))));
        self.epoch += 1;
        let (epoch, end) = (self.epoch, self.next);
        let part = |(partition, line): (&Partition, &mut Line)| CutPart {
            partition: *partition,
            next_offset: line.next_offset,
            clock_ms: Some(CLOCK_MS),
            event: line.event,
            records: std::mem::take(&mut line.records),
            ticks: Vec::new(),
            adopted: line.adopted.take(),
        };
        let parts = self.lines.iter_mut().map(part).collect();
        let cut = Cut { epoch, generation: 0, end, forced: false, parts, copies: Vec::new() };
        assert!(self.commit.gather(ToCommit::Cut(cut)).is_none());
        let outputs: Vec<_> = self.workers.iter_mut().map(|worker| worker.feed(Feed::Seal { epoch, end }).expect("an output")).collect();
        let gathered = outputs.into_iter().filter_map(|output| self.commit.gather(ToCommit::Output(output))).last().expect("all of it");
        let mut out = Vec::new();
        let outcome = self.commit.resolve(gathered, self.now, &mut out);
        let Outcome::Committed { transacted, .. } = outcome else { panic!("{outcome:?}") };
        for sent in out {
            if let Sent::Worker(worker, notice) = sent {
                self.workers[worker].notice(notice);
            }
        }
        transacted
    }

    fn later(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall_ms += time.as_millis() as i64;
    }
}

/// The least slice of a house.
const USUAL: u64 = 16 << 10;
/// One so small that small states have several in a rotation.
const SMALL: u64 = 4 << 10;
const IDLE_SLICE_BYTES: u64 = 10_000;
const START: Now = Now { wall_ms: CLOCK_MS, monotonic: Duration::ZERO };

fn put(bytes: &mut Vec<u8>, text: &str) -> Range<usize> {
    let from = bytes.len();
    bytes.extend_from_slice(text.as_bytes());
    from..bytes.len()
}

fn restored(log: &Log, partition: Partition, route: &Route) -> Vec<Delivered> {
    let settings = RestoreSettings { house: "test".into(), start: Start::Earliest, batch_rows: 500, route: route.clone() };
    let request = Request { partition, number: 1, cancelled: Arc::default() };
    let restored = Restore::new(settings, Box::new(log.clone())).restore(&request, &mut |_| {});
    restored.unwrap_or_else(|error| panic!("{error}")).map(|delivery| delivery.what).collect()
}

/// A restore from the committed start must come to everything that is live.
fn check_restore(log: &Log, partition: Partition) {
    let delivered = restored(log, partition, &Route::new(RandomState::with_seeds(5, 6, 7, 8), 1));
    let batches = delivered.into_iter().filter_map(|what| if let Delivered::Rows(shares) = what { Some(shares) } else { None });
    let rows: BTreeMap<_, _> = batches.flatten().flat_map(|objects| objects.rows.to_rows()).map(|row| (key_of(&row), row)).collect();
    let log = log.0.lock().unwrap();
    let kept = &log[&partition];
    assert!(rows == kept.live, "partition {partition}, chunk {}: {} rows, {} are live", kept.chunks, rows.len(), kept.live.len());
}

/// Small, seeded, good enough.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const AGENTS: [&str; 3] = ["a", "b", "c"];
const STATES: [&str; 3] = ["up", "down", "slow"];

/// A name of some length that has little in common with others', so that few of them fill a slice.
fn long_name(nth: u64) -> String {
    let mut random = Random(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..20).map(|_| format!("{:08x}", random.below(1 << 32))).collect()
}

#[test]
fn a_restore_from_the_start_comes_to_all_that_is_live() {
    let seed =
        std::env::var("CHECKPOINT_SEED").map_or_else(|_| RandomState::new().hash_one(0) >> 16, |seed| seed.parse().expect("a number"));
    let mut ended = 0;
    for seed in seed..seed + 12 {
        println!("CHECKPOINT_SEED={seed}");
        ended += try_out(&mut Random(seed));
    }
    assert!(ended > 12, "the start hardly ever moved: {ended}");
}

/// Returns how often a start moved.
fn try_out(random: &mut Random) -> usize {
    let log = Log::default();
    let partitions = 0..1 + random.below(2) as Partition;
    let objects = 5 + random.below(80);
    let mut house = House::on(&log, partitions.clone(), (1 + random.below(3) as usize, SMALL), START);
    let mut starts = BTreeMap::new();
    for epoch in 0..150 {
        for partition in partitions.clone() {
            let told: Vec<Told> = (0..random.below(12))
                .map(|_| {
                    let object = long_name(epoch / 2 + random.below(objects)); // new ones come all the time
                    let report = match random.below(20) {
                        0 => None,
                        1..3 => Some((random.pick(&AGENTS), None)),
                        _ => Some((random.pick(&AGENTS), Some(random.pick(&STATES)))),
                    };
                    (object, report)
                })
                .collect();
            house.tell(partition, &told);
        }
        house.later(Duration::from_millis(random.below(700)));
        if house.seal() {
            for partition in partitions.clone() {
                check_restore(&log, partition);
                let start = log.0.lock().unwrap()[&partition].committed.map(|(_, progress)| progress.start);
                starts.insert((partition, start), ());
            }
        }
        if random.below(12) == 0 {
            house = House::on(&log, partitions.clone(), (1 + random.below(3) as usize, SMALL), house.now);
        }
    }
    starts.len() - partitions.len()
}

/// What happens in an epoch, by its number.
type Churn = fn(u64, &mut Random) -> Vec<Told>;

/// As random as names get, or all of them together would be smaller than any part of them.
fn usual_name(nth: u64) -> String {
    let mixed = |word: u64, by: u64| (word ^ (word >> 31)).wrapping_mul(by);
    let word = mixed(mixed(mixed(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0xbf58_476d_1ce4_e5b9), 0x94d0_49bb_1331_11eb), 1);
    format!("site-{word:016x}.example.com")
}

const OBJECTS: u64 = 8_000;
const EPOCH_RECORDS: u64 = 1_000;

fn reports(random: &mut Random, objects: u64) -> Vec<Told> {
    (0..EPOCH_RECORDS).map(|_| (usual_name(random.below(objects)), Some((random.pick(&AGENTS), Some(random.pick(&STATES)))))).collect()
}

#[test]
fn the_log_stays_within_two_and_a_half_times_what_is_live() {
    let steady: Churn = |_, random| reports(random, OBJECTS);
    let hot: Churn = |_, random| reports(random, OBJECTS / 40);
    let deletes: Churn = |epoch, random| {
        let mut told = reports(random, OBJECTS);
        let from = epoch * 100;
        told.extend((from..from + 100).map(|nth| (usual_name(nth % OBJECTS), None)));
        told
    };
    // What happens; for how many epochs, until what the loading of it all left is behind; after how many another owner takes over, with up
    // to how many workers.
    let rows: [(&str, Churn, u64, (u64, u64)); 5] = [
        ("steady", steady, 80, (u64::MAX, 2)),
        ("three workers", steady, 80, (u64::MAX, 3)),
        ("changing owners", steady, 80, (5, 3)),
        ("hot keys", hot, 200, (u64::MAX, 1)),
        ("deletes", deletes, 80, (7, 2)),
    ];
    for (what, churn, epochs, (owner_epochs, workers)) in rows {
        let (log, mut random) = (Log::default(), Random(7));
        let mut house = House::on(&log, 0..1, (workers as usize, USUAL), START);
        let all: Vec<Told> = (0..OBJECTS).flat_map(|nth| AGENTS.map(|agent| (usual_name(nth), Some((agent, Some("up")))))).collect();
        all.chunks(EPOCH_RECORDS as usize).for_each(|told| {
            house.tell(0, told);
            house.seal();
        });
        let (mut most, mut last_start, mut starts) = (0.0_f64, 0, 0);
        for epoch in 0..epochs {
            house.tell(0, &churn(epoch, &mut random));
            house.later(Duration::from_millis(50));
            house.seal();
            if epoch % owner_epochs == owner_epochs - 1 {
                house = House::on(&log, 0..1, (1 + (epoch % workers) as usize, USUAL), house.now);
            }
            let log = log.0.lock().unwrap();
            let start = log[&0].committed.unwrap().1.start;
            starts += usize::from(start > last_start);
            last_start = start;
            if epoch + 40 >= epochs && epoch % 4 == 0 {
                most = most.max(log[&0].log_bytes() as f64 / log[&0].live_bytes(0) as f64);
            }
        }
        println!("{what}: at most {most:.2} times what is live, {starts} starts");
        assert!(most <= 2.5, "{what}: {most:.2} times what is live");
        assert!(starts > 10, "{what}: only {starts} starts");
        check_restore(&log, 0);
    }
}

#[test]
fn where_nothing_happens_the_rotation_ends_at_a_slow_pace_and_rests() {
    let (log, mut random) = (Log::default(), Random(3));
    let mut house = House::on(&log, 0..2, (2, SMALL), START);
    for from in 0..6 {
        let all = |objects: u64| (0..objects).map(|nth| (usual_name(nth), Some((AGENTS[from % 3], Some("up"))))).collect::<Vec<_>>();
        house.tell(0, &if from < 3 { all(4_000) } else { reports(&mut random, 4_000)[..400].to_vec() });
        house.tell(1, &if from < 3 { all(2_000) } else { reports(&mut random, 2_000)[..400].to_vec() });
        house.later(Duration::from_millis(50));
        house.seal();
    }
    let wrote =
        |log: &Log| log.0.lock().unwrap().values().map(|kept| (kept.chunks, kept.slice_bytes)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    house.seal(); // what is owed is still paid at once
    house.seal();
    let (mut quiet, mut seconds) = (0, 0);
    while quiet < 100 {
        assert!(seconds < 1_000, "it never rests");
        let before = wrote(&log);
        for _ in 0..10 {
            house.later(Duration::from_millis(100));
            house.seal();
        }
        let after = wrote(&log);
        let (chunks, bytes) = (after.0 - before.0, after.1 - before.1);
        assert!(chunks <= 2 && bytes <= 2 * IDLE_SLICE_BYTES, "{chunks} chunks, {bytes} bytes within a second");
        quiet = if chunks == 0 { quiet + 1 } else { 0 };
        seconds += 1;
    }
    assert!(seconds > 101, "there was nothing to finish");
    for partition in 0..2 {
        check_restore(&log, partition);
        let log = log.0.lock().unwrap();
        let kept = &log[&partition];
        assert!(kept.log_bytes() as f64 <= 2.5 * kept.live_bytes(partition) as f64, "partition {partition}");
    }
}
