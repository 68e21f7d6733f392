//! Nothing is lost, repeated or wrong while instances and brokers are killed, paused and cut off: the short form of `scripts/chaos`, with
//! one fault of nearly every kind. And the verifier is no yes-man: what is planted into a copy of what it saw is found.
//!
//! `STATEHOUSE_SEED` (a new one each time) is printed with every failure.

#[path = "chaos/mod.rs"]
mod chaos;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/proxy.rs"]
mod proxy;

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use chaos::{
    Options, Outcome,
    answers::What,
    faults::{Fault, Schedule},
    judge::{Findings, Seen},
    judge_again,
    workload::Workload,
};

#[test]
fn chaos_loses_repeats_and_answers_nothing_wrong() {
    let seed = env::var("STATEHOUSE_SEED").map_or_else(
        |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64),
        |text| text.parse().expect("STATEHOUSE_SEED is a number"),
    );
    let faults = vec![
        Fault::Kill,
        Fault::ForeignTransaction,
        Fault::PauseInstance,
        Fault::Kill,
        Fault::Proxy,
        Fault::KillAndRestart,
        Fault::KillBroker,
    ];
    let options =
        Options { seed, schedule: Schedule::These(faults), workload: Workload { objects: 2_000, records_per_s: 2_000 }, keep: true };
    let outcome = chaos::run(&options);
    outcome.lines().iter().for_each(|line| println!("{line}"));
    let wrongs = outcome.wrongs();
    let place = outcome.directory.display();
    assert!(wrongs.is_empty(), "STATEHOUSE_SEED={seed}, logs in {place}:\n{}", wrongs.join("\n"));
    assert!(outcome.findings.changes > 1_000 && outcome.findings.answers > 500, "much happened: {:?}", outcome.findings);
    assert!(outcome.findings.rejects > 0 && outcome.findings.handovers > 0, "of every kind: {:?}", outcome.findings);
    planted(&outcome);
    outcome.tidy();
}

/// Each is found, and found as what it is.
fn planted(outcome: &Outcome) {
    let verdict = |changed: Vec<Seen>| {
        let Findings { lost, repeated, wrong_answers, wrong_chunks, said, .. } = judge_again(&outcome.config, changed);
        println!("planted: {said:?}");
        (lost, repeated, wrong_answers, wrong_chunks > 0)
    };
    let find = |what: fn(&Seen) -> bool| {
        let at: Vec<usize> = outcome.kept.iter().enumerate().filter(|(_, seen)| what(seen)).map(|(at, _)| at).collect();
        at[at.len() / 2]
    };
    let copy = || outcome.kept.clone();
    assert_eq!(verdict(copy()), (0, 0, 0, false), "a copy is as good");

    let change = find(|seen| matches!(seen, Seen::Sink { .. }));
    let mut lost = copy();
    lost.remove(change);
    assert_eq!(verdict(lost), (1, 0, 0, false), "a lost change");
    let mut repeated = copy();
    repeated.push(outcome.kept[change].clone());
    assert_eq!(verdict(repeated), (0, 1, 0, false), "a repeated change");

    let mut lost = copy();
    lost.remove(find(|seen| matches!(seen, Seen::Reject(..))));
    assert_eq!(verdict(lost), (1, 0, 0, false), "a lost reject");

    let answer = find(|seen| matches!(seen, Seen::Answer(answer) if matches!(answer.what, What::Object(_))));
    let mut wrong = copy();
    if let Seen::Answer(answer) = &mut wrong[answer]
        && let What::Object(value) = &mut answer.what
    {
        value["revision"] = 1.into();
    }
    assert_eq!(verdict(wrong), (0, 0, 1, false), "a wrong answer");

    let unknown = find(|seen| matches!(seen, Seen::Answer(answer) if matches!(answer.what, What::NotKnown)));
    let mut wrong = copy();
    if let Seen::Answer(answer) = &mut wrong[unknown] {
        answer.position = None;
    }
    assert_eq!(verdict(wrong), (0, 0, 1, false), "an object that is not known, as of nowhere");

    let mut wrong = copy();
    let piece = find(|seen| matches!(seen, Seen::Piece { .. }));
    if let Seen::Piece { header, .. } = &mut wrong[piece] {
        header.digest ^= 1;
    }
    assert!(verdict(wrong).3, "a state that was restored wrongly");
}
