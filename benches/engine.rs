//! The dataflow alone: no log, no decoding, names as strings, every arrangement kept, committed as it goes.
//!
//! Shape: the reference workload (`scripts/kafka gen`, the same random numbers): agents report on objects whose truth flips slowly, each
//! errs in a tenth of its reports. The number of changes is known for the default shape and checked, so a fast wrong engine fails.
//!
//! `cargo bench -p statehouse-dataflows --bench engine -- [reports] [objects] [agents] [epoch] [workers]`

use std::{env, fs, sync::Arc, thread, time::Instant};

#[path = "workload.rs"]
mod workload;

use mimalloc::MiMalloc;
use statehouse_dataflows::{
    engine::{Engine, WINDOW},
    plan::{Plan, Rule, RuleSet},
    vocabulary::{Event, Run, Seq},
};
use workload::{CHANGES, DEFAULT_SHAPE, World, state};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    let numbers: Vec<u64> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (reports, objects, agents) = (number(0, 4_000_000), number(1, 200_000) as i32, number(2, 5) as i32);
    let (epoch, workers) = (number(3, 100_000), number(4, 1) as usize);
    let world = Arc::new(World::new(reports, objects, agents));
    let arrivals = Arc::new(Arrivals::new(&world));
    let before_bytes = resident_bytes();
    let start = Instant::now();
    let handles: Vec<_> = (0..workers)
        .map(|worker| {
            let (world, arrivals) = (world.clone(), arrivals.clone());
            thread::spawn(move || work(&world, &arrivals, (worker, workers), epoch))
        })
        .collect();
    let done: Vec<Done> = handles.into_iter().map(|handle| handle.join().expect("a worker")).collect();
    let seconds = done.iter().map(|done| done.finished.duration_since(start).as_secs_f64()).fold(0.0, f64::max);
    let changes: usize = done.iter().map(|done| done.changes).sum();
    let held: usize = done.iter().map(|done| done.held).sum();
    let peak_bytes = done.iter().map(|done| done.resident_bytes).max().unwrap_or(0);
    let rate = reports as f64 / seconds;
    let cpu_ns = done.iter().map(|done| done.cpu_ns).sum::<u64>() as f64 / reports as f64;
    println!(
        "engine reports={reports} objects={objects} agents={agents} epoch={epoch} workers={workers} reports_per_s={rate:.0} \
         reports_per_s_per_core={:.0} cpu_ns_per_report={cpu_ns:.0} changes={changes} held={held} bytes_per_report_held={:.0}",
        rate / workers as f64,
        (peak_bytes.saturating_sub(before_bytes)) as f64 / held as f64
    );
    if (reports, objects, agents) == DEFAULT_SHAPE {
        assert_eq!(changes, CHANGES, "the engine is wrong");
    }
}

/// The reports as a fetched batch holds them: what a report says stands where the one before it ends, and its hash with it.
struct Arrivals {
    names: String,
    /// Where the object's name ends, the object's hash, agent, whether the agent says that it is attacked.
    reports: Vec<(usize, u64, u16, bool)>,
}

impl Arrivals {
    fn new(world: &World) -> Self {
        let mut arrivals = Self { names: String::new(), reports: Vec::with_capacity(world.claims.len()) };
        for &(object, agent, attacked) in &world.claims {
            arrivals.names.push_str(&world.objects[object as usize]);
            arrivals.reports.push((arrivals.names.len(), mixed(u64::from(object)), agent, attacked));
        }
        arrivals
    }

    fn object(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.reports[before].0);
        &self.names[start..self.reports[at].0]
    }

    fn hash(&self, at: usize) -> u64 {
        self.reports[at].1
    }
}

struct Done {
    changes: usize,
    held: usize,
    finished: Instant,
    cpu_ns: u64,
    /// Memory while everything is held.
    resident_bytes: u64,
}

/// One worker: its share of every epoch.
fn work(world: &World, arrivals: &Arrivals, (worker, workers): (usize, usize), epoch: u64) -> Done {
    let plan = Plan::of(RuleSet::new(Rule::Majority)).expect("a valid plan");
    let mut engine = Engine::new(Arc::new(plan));
    let mut done = Done { changes: 0, held: 0, finished: Instant::now(), cpu_ns: 0, resident_bytes: 0 };
    let cpu_before_ns = cpu_ns();
    let total = arrivals.reports.len() as u64;
    let mut mine = Vec::new();
    let mut first = 0;
    while first < total {
        let end = (first + epoch).min(total);
        engine.run(Run { first: first + 1, count: end - first, partition: 0, event: first, clock_ms: 0, offset: Some(first as i64) });
        mine.clear();
        let place = |at: usize| ((u128::from(arrivals.hash(at)) * workers as u128) >> 64) as usize;
        mine.extend((first as usize..end as usize).filter(|at| place(*at) == worker));
        for window in mine.chunks(WINDOW) {
            engine.look_ahead(window.iter().map(|at| arrivals.hash(*at)));
            for at in window {
                let (_, hash, agent, attacked) = arrivals.reports[*at];
                let (agent, state) = (&world.agents[agent as usize], state(attacked));
                let event = Event::Report { agent, state, ts_ms: 1_763_800_000_000 + *at as i64, ttl_ms: None };
                engine.apply(*at as Seq + 1, arrivals.object(*at), hash, event);
            }
        }
        done.changes += engine.close(end + 1).changes.len();
        engine.committed(end);
        first = end;
    }
    done.finished = Instant::now();
    done.cpu_ns = cpu_ns() - cpu_before_ns;
    let query = statehouse_dataflows::query::ListQuery { limit: usize::MAX, ..Default::default() };
    done.held = engine.list(&query, &[0].into()).iter().map(|view| view.votes.live as usize).sum();
    done.resident_bytes = resident_bytes();
    done
}

/// A bijective mix (SplitMix64's finaliser), standing for the keyed hash of the pump.
fn mixed(number: u64) -> u64 {
    let number = (number.wrapping_add(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// What this thread has had of a core.
fn cpu_ns() -> u64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
