//! What a restore costs, from the committed offset known to serving: the shipped stages on their threads, with a checkpoint that lies in
//! files instead of on brokers, and everything else of the log away.
//!
//! Shape: the reference workload. Its checkpoint is written by the shipped engine and encoder in a process of its own, so that the memory
//! shown is the restore's alone. Then each stage once more by itself, on one thread, in its processor time. The restored state is checked against the workload.
//!
//! `cargo bench --bench restore -- [reports] [objects] [agents] [partitions] [workers] [epoch] [readers]`

#[path = "restore/away.rs"]
mod away;
#[path = "restore/kept.rs"]
mod kept;
#[path = "workload.rs"]
mod workload;

use std::{
    collections::BTreeMap,
    env, fs,
    ops::ControlFlow,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use ahash::RandomState;
use mimalloc::MiMalloc;
use statehouse::{
    board::PartitionStanding,
    chunk,
    config::Config,
    house::{self, HouseHandle, Surroundings},
    log::{Checkpoint, Start},
    message::{Delivered, Objects, Request},
    registry::Registry,
    restore::{Restore, RestoreSettings},
    route::Route,
};
use statehouse_dataflows::{
    engine::Engine,
    plan::{Plan, Rule, RuleSet},
    vocabulary::{Partition, Run, Seq},
};

use kept::{HOUSE, Kept, Shape};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long memory may take to settle after the last partition is live.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--bench")).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let shape = Shape {
        reports: number(0, 4_000_000),
        objects: number(1, 200_000) as i32,
        agents: number(2, 5) as i32,
        partitions: number(3, 4) as Partition,
        epoch: number(5, 100_000),
    };
    if let Ok(directory) = env::var("STATEHOUSE_BENCH_WRITE") {
        kept::write(&shape, Path::new(&directory));
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let status =
        Command::new(env::current_exe().expect("this program")).args(&arguments).env("STATEHOUSE_BENCH_WRITE", directory.path()).status();
    assert!(status.expect("it runs").success(), "the checkpoint is not written");
    let kept = Kept::open(directory.path());
    println!(
        "checkpoint reports={} live={} partitions={} rows={} bytes={} bytes_per_row={:.1}",
        shape.reports,
        kept.live,
        shape.partitions,
        kept.rows,
        kept.bytes(),
        kept.bytes() as f64 / kept.rows as f64
    );
    whole(&kept, number(4, 1), number(6, 2) as usize);
    stages(&kept);
}

/// The house, until every partition is live.
fn whole(kept: &Kept, workers: u64, readers: usize) {
    let config = Config::parse(&format!("house = \"{HOUSE}\"\nworkers = {workers}")).expect("a valid configuration");
    let plan = Arc::new(config.plan(&Registry::default()).expect("a valid plan"));
    let before = Memory::now();
    let (begun, cpu_before) = (Instant::now(), cpu_seconds());
    let house = house::start(&config, &plan, away::log(kept, readers), Surroundings::default()).expect("a house");
    while !is_live(&house, kept) {
        thread::sleep(Duration::from_millis(1));
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
    let peak = Memory::now().peak_bytes;
    thread::sleep(SETTLED_AFTER);
    let settled = Memory::now();
    let objects = held(&house);
    assert_eq!(objects, kept.objects, "objects by state");
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "restore workers={workers} readers={readers} seconds={seconds:.2} live_per_s={:.0} rows_per_s={:.0} cpu_s={cpu:.2} peak_mb={:.0} settled_mb={:.0} \
         before_mb={:.0} peak_to_settled={:.2}",
        kept.live as f64 / seconds,
        kept.rows as f64 / seconds,
        mb(peak),
        mb(settled.resident_bytes),
        mb(before.resident_bytes),
        peak as f64 / settled.resident_bytes as f64
    );
    house.stop();
    house.wait().expect("a clean end");
}

fn is_live(house: &HouseHandle, kept: &Kept) -> bool {
    let standing = house.standing();
    let partitions = &standing.borrow().partitions;
    let live = partitions.values().filter(|standing| matches!(standing, PartitionStanding::Live { .. }));
    live.count() == kept.progress.len()
}

fn held(house: &HouseHandle) -> BTreeMap<String, i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let summary = runtime.block_on(house.desk().summary()).expect("it can be asked").value;
    summary.into_iter().map(|(state, count)| (state.as_deref().unwrap_or_default().to_owned(), count)).collect()
}

/// Each stage by itself, one after the other, on this thread.
fn stages(kept: &Kept) {
    let mut alone = Alone::new();
    kept.progress.keys().for_each(|partition| alone.restore(kept, *partition));
    let live = kept.live as f64;
    let Seconds { decode, stage, feed, arrange, compare } = alone.seconds;
    println!(
        "stages decode_s={decode:.2} read_decode_stage_digest_s={stage:.2} feed_s={feed:.2} arrange_s={arrange:.2} compare_s={compare:.2} \
         sum_s={:.2} ns_per_live: stage {:.0} feed {:.0} arrange {:.0} compare {:.0}",
        stage + feed + arrange + compare,
        stage * 1e9 / live,
        feed * 1e9 / live,
        arrange * 1e9 / live,
        compare * 1e9 / live
    );
}

/// The stages without their threads.
struct Alone {
    settings: RestoreSettings,
    engine: Engine,
    seq: Seq,
    /// Rows in the open epoch.
    open: usize,
    seconds: Seconds,
}

/// Of this thread's processor time: the machine may have more to do.
#[derive(Default)]
struct Seconds {
    decode: f64,
    /// Reading, decoding, staging and the digest.
    stage: f64,
    feed: f64,
    arrange: f64,
    compare: f64,
}

impl Alone {
    fn new() -> Self {
        let settings = RestoreSettings {
            house: HOUSE.to_owned(),
            start: Start::Earliest,
            batch_rows: 4_096,
            route: Route::new(RandomState::new(), 1),
        };
        let engine = Engine::new(Arc::new(Plan::of(RuleSet::new(Rule::Majority)).expect("a valid plan")));
        Self { settings, engine, seq: 1, open: 0, seconds: Seconds::default() }
    }

    fn restore(&mut self, kept: &Kept, partition: Partition) {
        let mut pieces = Vec::new();
        let keep = &mut |_, bytes: &[u8]| {
            pieces.push(bytes.to_vec());
            ControlFlow::Continue(())
        };
        kept.clone().read(partition, 0, keep).expect("it can be read");
        let begun = thread_cpu_seconds();
        pieces.iter().for_each(|piece| drop(chunk::decode(piece).expect("just written")));
        self.seconds.decode += thread_cpu_seconds() - begun;
        drop(pieces);
        let begun = thread_cpu_seconds();
        let request = Request { partition, number: 1, cancelled: Arc::new(AtomicBool::new(false)) };
        let restored = Restore::new(self.settings.clone(), Box::new(kept.clone())).restore(&request, &mut |_| {}).expect("it is whole");
        self.seconds.stage += thread_cpu_seconds() - begun;
        for delivery in restored {
            match delivery.what {
                Delivered::Begin(_) => {}
                Delivered::Chunk(..) | Delivered::Level(_) | Delivered::Doubt => unreachable!("that is of copies"),
                Delivered::Rows(shares) => self.feed(partition, &shares[0]),
                Delivered::End => {
                    self.seconds.arrange += self.close();
                    let run = self.run(partition);
                    self.engine.compare(run.first, partition, usize::MAX);
                    self.seconds.compare += self.close();
                }
            }
        }
    }

    fn feed(&mut self, partition: Partition, objects: &Objects) {
        let begun = thread_cpu_seconds();
        let run = self.run(partition);
        self.engine.restore(run.first, &objects.hashes, &objects.rows);
        self.open += objects.rows.len();
        self.seconds.feed += thread_cpu_seconds() - begun;
        if self.open >= 100_000 {
            self.seconds.arrange += self.close();
        }
    }

    fn run(&mut self, partition: Partition) -> Run {
        let run = Run { first: self.seq, count: 1, partition, event: 1, clock_ms: 1_763_800_000_000, offset: None };
        self.seq += 1;
        self.engine.run(run);
        run
    }

    fn close(&mut self) -> f64 {
        let begun = thread_cpu_seconds();
        drop(self.engine.close(self.seq));
        self.engine.committed(self.seq - 1);
        self.open = 0;
        thread_cpu_seconds() - begun
    }
}

/// As the kernel counts it.
struct Memory {
    resident_bytes: u64,
    peak_bytes: u64,
}

impl Memory {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        Self { resident_bytes: kib("VmRSS:") << 10, peak_bytes: kib("VmHWM:") << 10 }
    }
}

/// Seconds of processor time used by this process so far, user and system.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let ticks = |at: usize| fields.get(at).copied().unwrap_or(0) as f64; // the state's letter is no number, so utime is the 11th left
    (ticks(10) + ticks(11)) / 100.0
}

/// The same of this thread.
fn thread_cpu_seconds() -> f64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}
