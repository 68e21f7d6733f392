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
    let hashes: Arc<Vec<u64>> = Arc::new((0..objects as u64).map(mixed).collect());
    let before_bytes = resident_bytes();
    let start = Instant::now();
    let handles: Vec<_> = (0..workers)
        .map(|worker| {
            let (world, hashes) = (world.clone(), hashes.clone());
            thread::spawn(move || work(&world, &hashes, (worker, workers), epoch))
        })
        .collect();
    let done: Vec<Done> = handles.into_iter().map(|handle| handle.join().expect("a worker")).collect();
    let seconds = done.iter().map(|done| done.finished.duration_since(start).as_secs_f64()).fold(0.0, f64::max);
    let changes: usize = done.iter().map(|done| done.changes).sum();
    let held: usize = done.iter().map(|done| done.held).sum();
    let peak_bytes = done.iter().map(|done| done.resident_bytes).max().unwrap_or(0);
    let rate = reports as f64 / seconds;
    println!(
        "engine reports={reports} objects={objects} agents={agents} epoch={epoch} workers={workers} reports_per_s={rate:.0} \
         reports_per_s_per_core={:.0} changes={changes} held={held} bytes_per_report_held={:.0}",
        rate / workers as f64,
        (peak_bytes.saturating_sub(before_bytes)) as f64 / held as f64
    );
    if (reports, objects, agents) == DEFAULT_SHAPE {
        assert_eq!(changes, CHANGES, "the engine is wrong");
    }
}

struct Done {
    changes: usize,
    held: usize,
    finished: Instant,
    /// Memory while everything is held.
    resident_bytes: u64,
}

/// One worker: its share of every epoch.
fn work(world: &World, hashes: &[u64], (worker, workers): (usize, usize), epoch: u64) -> Done {
    let plan = Plan::of(RuleSet::new(Rule::Majority)).expect("a valid plan");
    let mut engine = Engine::new(Arc::new(plan));
    let mut done = Done { changes: 0, held: 0, finished: Instant::now(), resident_bytes: 0 };
    let total = world.claims.len() as u64;
    let mut mine = Vec::new();
    let mut first = 0;
    while first < total {
        let end = (first + epoch).min(total);
        engine.run(Run { first: first + 1, count: end - first, partition: 0, event: first, clock_ms: 0, offset: Some(first as i64) });
        mine.clear();
        let place = |claim: &(u32, u16, bool)| ((u128::from(hashes[claim.0 as usize]) * workers as u128) >> 64) as usize;
        mine.extend((first..end).filter(|at| place(&world.claims[*at as usize]) == worker));
        for window in mine.chunks(WINDOW) {
            engine.look_ahead(window.iter().map(|at| hashes[world.claims[*at as usize].0 as usize]));
            for at in window {
                let (object, agent, attacked) = world.claims[*at as usize];
                let (agent, state) = (&world.agents[agent as usize], state(attacked));
                let event = Event::Report { agent, state, ts_ms: 1_763_800_000_000 + *at as i64, ttl_ms: None };
                engine.apply(*at as Seq + 1, &world.objects[object as usize], hashes[object as usize], event);
            }
        }
        done.changes += engine.close(end + 1).changes.len();
        engine.committed(end);
        first = end;
    }
    done.finished = Instant::now();
    let query = statehouse_dataflows::query::ListQuery { limit: usize::MAX, ..Default::default() };
    done.held = engine.list(&query).iter().map(|view| view.votes.live as usize).sum();
    done.resident_bytes = resident_bytes();
    done
}

/// A bijective mix (SplitMix64's finaliser), standing for the keyed hash of the pump.
fn mixed(number: u64) -> u64 {
    let number = (number.wrapping_add(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
