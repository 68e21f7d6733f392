//! The long form of chaos, run by `scripts/chaos`: hundreds of kills of a house of three instances on three brokers under load, every other
//! kind of fault in between, and the proof that nothing was lost, repeated or answered wrongly.
//!
//! `cargo bench --bench chaos -- [--kills N] [--minutes M] [--seed S] [--rate R] [--objects N]`

#[path = "../tests/chaos/mod.rs"]
mod chaos;
#[path = "../tests/support/cluster.rs"]
mod cluster;
#[path = "../tests/support/proxy.rs"]
mod proxy;

use std::{
    env,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chaos::{Options, Outcome, SESSION_MS, faults::Schedule, workload::Workload};

/// Beyond the session: from the kill of an owner to the answers of the next one.
const TAKEOVER_MS: f64 = 2_000.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments.get(at + 1).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} takes a number")))
    };
    let known = ["--kills", "--minutes", "--seed", "--rate", "--objects"];
    let unknown = arguments.iter().step_by(2).find(|argument| !known.contains(&argument.as_str()));
    assert!(unknown.is_none(), "{unknown:?} is none of {known:?}, each of which takes a number");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let kills = number("--kills", 200) as usize;
    let options = Options {
        seed: number("--seed", now),
        schedule: Schedule::Kills(kills, Duration::from_secs(60 * number("--minutes", 60))),
        workload: Workload { objects: number("--objects", 20_000), records_per_s: number("--rate", 10_000) },
        keep: false,
    };
    println!("seed {}", options.seed);
    let outcome = chaos::run(&options);
    let wrongs = [outcome.wrongs(), misses(&outcome, kills)].concat();
    wrongs.iter().for_each(|wrong| println!("WRONG {wrong}"));
    if wrongs.is_empty() {
        outcome.tidy();
    } else {
        println!("repeat with --seed {}; the logs are in {}", options.seed, outcome.directory.display());
    }
    outcome.lines().iter().for_each(|line| println!("{line}"));
    if wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the run does not show, or not well enough.
fn misses(outcome: &Outcome, kills: usize) -> Vec<String> {
    let (taken, open, all) = (outcome.count(|kill| kill.taken_over), outcome.count(|kill| kill.open), outcome.done.kills.len());
    let (p99_s, bound_s) = (outcome.takeover_s(0.99), (SESSION_MS as f64 + TAKEOVER_MS) / 1_000.0);
    let checks = [
        (all < kills, format!("{all} kills instead of {kills}: it took too long")),
        (2 * taken < all, format!("only {taken} of {all} kills were taken over by another instance")),
        (2 * open < all, format!("only {open} of {all} kills met an open transaction")),
        (p99_s > bound_s, format!("takeover_p99_s={p99_s:.1} is more than the session and two seconds, {bound_s:.1}")),
    ];
    checks.into_iter().filter(|(missed, _)| *missed).map(|(_, what)| what).collect()
}
