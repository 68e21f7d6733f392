//! The whole path on the embedded log: records appended, decoded, decided, committed with their changes and checkpoint rows (one fsync an
//! epoch), read back. The cost of everything but Kafka and HTTP.
//!
//! The log's queue is kept full from one thread, so the rate is the house's. The number of changes is known for the default shape and
//! checked against what the sink holds.
//!
//! `cargo bench --bench pipeline -- [reports] [objects] [agents] [workers]`

#[path = "workload.rs"]
mod workload;

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mimalloc::MiMalloc;
use statehouse::{
    config::Config,
    encode::report_json,
    house::{self, Surroundings},
    log::{AppendError, local},
    registry::Registry,
};
use workload::{CHANGES, DEFAULT_SHAPE, World, state};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    let numbers: Vec<u64> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (reports, objects, agents) = (number(0, 4_000_000), number(1, 200_000) as i32, number(2, 5) as i32);
    let workers = number(3, 1);
    let directory = tempfile::tempdir().expect("a directory");
    let text = format!("house = \"bench\"\nworkers = {workers}\n[local]\npath = {:?}\nkeep_records = 10000000", directory.path());
    let config = Config::parse(&text).expect("a valid configuration");
    let plan = Arc::new(config.plan(&Registry::default()).expect("a valid plan"));
    let (log, reader) = local::open_readable(&config.local, &config.house).expect("an empty log");
    let appender = log.appender.clone();
    let world = World::new(reports, objects, agents);
    let values = |at: usize| {
        let (_, agent, attacked) = world.claims[at];
        report_json(&world.agents[agent as usize], Some(state(attacked)), Some(1_763_800_000_000 + at as i64), None)
    };
    let values: Vec<Vec<u8>> = (0..world.claims.len()).map(values).collect();
    let house = house::start(&config, &plan, log, Surroundings::default()).expect("a house");

    let (start, before) = (Instant::now(), cpu());
    let committed = Arc::new(AtomicU64::new(0));
    for (claim, value) in world.claims.iter().zip(&values) {
        let object = world.objects[claim.0 as usize].as_bytes();
        while !append(&*appender, object, value, &committed) {
            thread::sleep(Duration::from_micros(200)); // the queue is full: that is what is to be measured
        }
    }
    while committed.load(Ordering::Acquire) < reports {
        thread::sleep(Duration::from_micros(200));
    }
    let (seconds, cpu_seconds) = (start.elapsed().as_secs_f64(), cpu() - before);
    let changes = reader.changes(0, 0, usize::MAX).expect("the sink").len();
    println!(
        "pipeline log=local reports={reports} objects={objects} agents={agents} workers={workers} reports_per_s={:.0} \
         cpu_us_per_report={:.2} changes={changes} resident_mb={}",
        reports as f64 / seconds,
        cpu_seconds * 1e6 / reports as f64,
        resident_bytes() >> 20
    );
    if (reports, objects, agents) == DEFAULT_SHAPE {
        assert_eq!(changes, CHANGES, "the house is wrong");
    }
    house.stop();
    house.wait().expect("a clean end");
}

/// Appends one record, unless the queue is full. What is done in other words than committed ends the bench.
fn append(appender: &dyn statehouse::log::Appender, object: &[u8], value: &[u8], committed: &Arc<AtomicU64>) -> bool {
    let (committed, full) = (committed.clone(), Arc::new(AtomicU64::new(0)));
    let is_full = full.clone();
    let done = move |result: Result<_, AppendError>| match result {
        Ok(_) => _ = committed.fetch_add(1, Ordering::Release),
        Err(AppendError::Full) => full.store(1, Ordering::Release),
        Err(error) => panic!("{error}"),
    };
    appender.append(object, Some(value), Box::new(done));
    is_full.load(Ordering::Acquire) == 0 // a full queue says so before the call returns
}

/// Seconds of processor time used by this process so far, user and system.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let ticks = |at: usize| fields.get(at).copied().unwrap_or(0) as f64; // the state's letter is no number, so utime is the 11th left
    (ticks(10) + ticks(11)) / 100.0
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
