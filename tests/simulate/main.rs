//! Whole histories of several instances under faults, in a simulated world: the shipped pump, workers, commit, restore and protocol, driven by
//! turns on one thread with a time that only moves when told. The same seed is the same history.
//!
//! Without arguments the seeds of the normal test command; `--seeds A..B` those, `--seed N` one with a trace of all that happens. `--until-failure`
//! ends with the first seed that fails. Its last line counts.

mod agents;
mod house;
mod verify;
mod world;

use std::{
    any::Any,
    env,
    num::NonZeroUsize,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use world::{Outcome, run};

/// In so many histories everything happens that is to happen at all.
const MANY: usize = 1_000;
/// Of the normal test command.
const SEEDS: Range<u64> = 0..2_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    if let Some(seed) = value("--seed").map(|text| text.parse().expect("a seed is a number")) {
        let outcome = run(seed, true);
        outcome.wrong.iter().for_each(|finding| println!("{finding}"));
        return last_line(1, &[outcome]);
    }
    let seeds = match value("--seeds").map(|text| text.split_once("..").expect("seeds are A..B")) {
        Some((from, to)) => from.parse().expect("a number")..to.parse().expect("a number"),
        // A filter of the test command that means other tests.
        None if arguments.iter().any(|argument| !argument.starts_with('-') && !"simulate".contains(argument.as_str())) => {
            return ExitCode::SUCCESS;
        }
        None if arguments.iter().any(|argument| argument == "--list") => return ExitCode::SUCCESS,
        None => SEEDS,
    };
    let until_failure = arguments.iter().any(|argument| argument == "--until-failure");
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let threads = if until_failure { 1 } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) };
    // Histories know nothing of each other.
    let outcomes: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| try_out(&next, seeds.end, until_failure))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("panics are caught")).collect()
    });
    println!("{} ms a history", began.elapsed().as_millis() / outcomes.len().max(1) as u128);
    last_line(outcomes.len(), &outcomes)
}

/// Takes seed after seed.
fn try_out(next: &AtomicU64, end: u64, until_failure: bool) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return outcomes;
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(seed, false))).unwrap_or_else(|panic| Outcome {
            events: 0,
            faults: 0,
            copies: (0, 0),
            wrong: vec![format!("a panic: {}", said(&*panic))],
        });
        let failed = !outcome.wrong.is_empty();
        if failed {
            let findings: String = outcome.wrong.iter().take(5).map(|finding| format!("    {finding}\n")).collect();
            println!("seed {seed} fails; repeat with: scripts/simulate --seed {seed}\n{findings}");
        }
        outcomes.push(outcome);
        if failed && until_failure {
            return outcomes;
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no text")
}

fn last_line(seeds: usize, outcomes: &[Outcome]) -> ExitCode {
    let (events, faults): (u64, u64) = outcomes.iter().fold((0, 0), |(events, faults), one| (events + one.events, faults + one.faults));
    let failed = outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).count();
    let (taken_over, spared) = outcomes.iter().fold((0, 0), |(taken_over, spared), one| (taken_over + one.copies.0, spared + one.copies.1));
    println!("{taken_over} copies were taken over, {spared} spared by a new beginning");
    let is_idle = seeds >= MANY && (taken_over == 0 || spared == 0);
    if is_idle {
        println!("in so many histories there should be some: the simulation shows nothing of copies");
    }
    println!("seeds={seeds} events={events} faults={faults} failed={failed}");
    if failed == 0 && !is_idle { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
