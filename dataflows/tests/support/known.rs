//! Cases that random houses came upon, as short scripts: everything an object named `o<n>` of partition 0 (or 1: `1/o<n>`) lives through.

use statehouse_dataflows::plan::{OnEmpty, Rule, RuleSet};

use super::{
    Step, Told,
    generate::{Act, Case},
};

/// Why, and what happens; the rule is `latest`, with `on_empty = keep` until a `restart` without.
pub(crate) const CASES: [(&str, &str); 7] = [
    ("what comes back in the epoch in which it went keeps its id", "override o0, give up 0, give up 0, seal, report o0, commit, report o0"),
    (
        "an override's end that is left behind does not touch the next object with the id",
        "override o1, lift o1, seal, tick 0, commit, report o0, seal, commit",
    ),
    ("lifting nothing keeps the id for the epoch", "report o1, purge o1, seal, lift o1, feed, commit, report o0, seal, commit"),
    (
        "an override's end is of its own partition",
        "override o0, lift o0, seal, commit, seal, commit, override 1/o0, tick 0, seal, commit, tick 0, tick 1",
    ),
    ("what was kept goes when the rules say so", "report o0, withdraw o0, override o1, seal, commit, restart, seal, commit"),
    ("an override for no time outlives a restore", "override o0, seal, commit, crash, seal, commit, tick 0"),
    (
        "what is lost with its partition comes back",
        "report o0, seal, commit, override o0, report 1/o0, lose 0, report o0, seal, commit, lose 0",
    ),
];

pub(crate) fn case(text: &str) -> Case {
    let keep = RuleSet { on_empty: OnEmpty::Keep, ..RuleSet::new(Rule::Latest) };
    Case { sets: vec![keep], workers: 1, mask: u64::MAX, acts: text.split(", ").map(act).collect() }
}

fn act(text: &str) -> Act {
    let (verb, about) = text.split_once(' ').unwrap_or((text, ""));
    let partition = || about.parse().expect("a partition");
    let record = |told| {
        let (partition, object) = about.split_once('/').unwrap_or(("0", about));
        Act::Step(Step::Record(partition.parse().expect("a partition"), object.to_owned(), told))
    };
    match verb {
        "seal" => Act::Seal,
        "commit" => Act::Commit(1),
        "feed" => Act::Read,
        "restart" => Act::Crash(1, Some(vec![RuleSet::new(Rule::Latest)])),
        "crash" => Act::Crash(1, None),
        "give" => Act::GiveUp(about.strip_prefix("up ").expect("give up").parse().expect("a partition")),
        "lose" => Act::Lose(partition()),
        "tick" => Act::Step(Step::Ticks(partition(), 1)),
        "report" => record(Told::Report { agent: "a".to_owned(), state: "x".to_owned(), ts_ms: 0, ttl_ms: None }),
        "override" => record(Told::Override { state: "y".to_owned(), for_ms: Some(0) }),
        "withdraw" => record(Told::Withdraw { agent: "a".to_owned(), ts_ms: 0 }),
        "lift" => record(Told::Lift),
        "purge" => record(Told::Purge),
        _ => panic!("what is {text:?}?"),
    }
}
