//! Random houses and what happens to them: few names, so that things collide; moving names, so that ids are used again.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select};
use statehouse_dataflows::{
    plan::{Of, OnEmpty, OnNone, Order, Quorum, Rule, RuleSet},
    rule::{Ballot, ReportsRule, TallyRule, Vote},
    vocabulary::Partition,
};

use super::{Step, Told};

/// A house and its history.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) sets: Vec<RuleSet>,
    pub(crate) workers: usize,
    /// What the hashes of objects are cut to: with few bits, objects share them.
    pub(crate) mask: u64,
    pub(crate) acts: Vec<Act>,
}

/// One thing that happens to the house, or to who keeps it.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Step(Step),
    /// Every known object of the partition is purged, one by one.
    Sweep(Partition),
    /// The open epoch is closed.
    Seal,
    /// So many of the closed epochs, but not more than there are, are committed.
    Commit(usize),
    /// Everything that can be asked is asked.
    Read,
    /// What is not committed is lost; so many workers take over, perhaps with other rules.
    Crash(usize, Option<Vec<RuleSet>>),
    /// The partition goes to another owner, and comes back.
    GiveUp(Partition),
    /// The partition goes without notice, and with it what is open of it; it comes back as the above.
    Lose(Partition),
}

/// What events are about, and one that none is.
pub(crate) const PARTITIONS: [Partition; 4] = [0, 1, 7, 99];
const STATES: [&str; 7] = ["s0", "s1", "s2", "s3", "s4", "s5", "zürich"];

pub(crate) fn case(acts_max: usize) -> impl Strategy<Value = Case> {
    let moving = prop_oneof![2 => Just(usize::MAX), 1 => 4..20_usize];
    let mask = prop_oneof![9 => Just(u64::MAX), 1 => Just(3)];
    let acts = vec(act(), 1..acts_max);
    (sets(), 1..=3_usize, mask, acts, moving).prop_map(|(sets, workers, mask, mut acts, moving)| {
        for (nth, act) in acts.iter_mut().enumerate() {
            shift(act, nth / moving);
        }
        Case { sets, workers, mask, acts }
    })
}

/// Renames what an act is about, the later the further.
fn shift(act: &mut Act, by: usize) {
    let shift = |name: &mut String| *name = format!("{}{}", &name[..1], name[1..].parse::<usize>().unwrap_or(0) + by);
    if let Act::Step(Step::Record(_, object, told)) = act
        && by > 0
    {
        shift(object);
        match told {
            Told::Report { agent, state, .. } => (shift(agent), shift(state)),
            Told::Withdraw { agent, .. } => (shift(agent), ()),
            Told::Override { state, .. } => (shift(state), ()),
            Told::Lift | Told::Purge => ((), ()),
        };
    }
}

fn act() -> impl Strategy<Value = Act> {
    let tick = (partition(), prop_oneof![3 => 1..4_u64, 1 => 4..30_u64]);
    prop_oneof![
        40 => (partition(), object(), told()).prop_map(|(partition, object, told)| Act::Step(Step::Record(partition, object, told))),
        6 => tick.prop_map(|(partition, count)| Act::Step(Step::Ticks(partition, count))),
        8 => Just(Act::Seal),
        6 => (1..4_usize).prop_map(Act::Commit),
        3 => Just(Act::Read),
        1 => partition().prop_map(Act::Sweep),
        1 => (1..=3_usize, option::weighted(0.4, sets())).prop_map(|(workers, sets)| Act::Crash(workers, sets)),
        1 => partition().prop_map(Act::Lose),
        1 => partition().prop_map(Act::GiveUp),
    ]
}

fn partition() -> impl Strategy<Value = Partition> {
    let [often, one, other, _] = PARTITIONS;
    prop_oneof![4 => Just(often), 1 => Just(one), 1 => Just(other)]
}

fn object() -> impl Strategy<Value = String> {
    prop_oneof![8 => 0..3_u8, 1 => 3..12_u8].prop_map(|nth| format!("o{nth}"))
}

fn agent() -> impl Strategy<Value = String> {
    prop_oneof![8 => 0..5_u8, 1 => 5..12_u8].prop_map(|nth| format!("a{nth}"))
}

fn state() -> impl Strategy<Value = String> {
    prop_oneof![3 => select(&STATES[..2]), 1 => select(&STATES[..])].prop_map(str::to_owned)
}

fn told() -> impl Strategy<Value = Told> {
    let ttl_ms = option::weighted(0.15, 0..500_i64);
    let for_ms = option::weighted(0.6, prop_oneof![0..600_i64, select(vec![99, 100, 101, 1_000])]);
    prop_oneof![
        20 => (agent(), state(), 0..40_i64, ttl_ms).prop_map(|(agent, state, ts_ms, ttl_ms)| Told::Report { agent, state, ts_ms, ttl_ms }),
        5 => (agent(), 0..60_i64).prop_map(|(agent, ts_ms)| Told::Withdraw { agent, ts_ms }),
        3 => (state(), for_ms).prop_map(|(state, for_ms)| Told::Override { state, for_ms }),
        1 => Just(Told::Lift),
        1 => Just(Told::Purge),
    ]
}

/// One to three rule sets, with prefixes that lie within each other.
pub(crate) fn sets() -> impl Strategy<Value = Vec<RuleSet>> {
    vec(set(), 1..=3).prop_map(|mut sets| {
        for (set, prefix) in sets.iter_mut().zip(["", "o1", "o"]) {
            set.prefix = prefix.to_owned();
        }
        sets
    })
}

fn set() -> impl Strategy<Value = RuleSet> {
    let pattern = select(vec!["a0", "a1*", "?2", "*3", "*", "n*"]).prop_map(str::to_owned);
    let weights = prop_oneof![1 => Just(Vec::new()), 1 => vec((pattern, prop_oneof![0..4_u32, Just(1_000)]), 1..4)];
    let min_reports = prop_oneof![4 => Just(1_u32), 1 => 0..4_u32];
    let of = prop_oneof![3 => Just(Of::Live), 1 => (1..6_u32).prop_map(Of::Expected)];
    let on_none = prop_oneof![
        3 => Just(OnNone::Keep),
        2 => Just(OnNone::Latest),
        1 => select(vec!["s0", "unknown"]).prop_map(|state| OnNone::State(state.to_owned())),
    ];
    let on_empty = prop_oneof![2 => Just(OnEmpty::Remove), 1 => Just(OnEmpty::Keep)];
    let order = prop_oneof![2 => Just(Order::Arrival), 1 => Just(Order::Timestamp)];
    (rule(), weights, min_reports, of, on_none, on_empty, order).prop_map(|(rule, weights, min_reports, of, on_none, on_empty, order)| {
        RuleSet { weights, min_reports, of, on_none, on_empty, order, ..RuleSet::new(rule) }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let listed = vec(select(&STATES[..]).prop_map(str::to_owned), 1..4);
    let otherwise = option::of(select(vec!["s1", "calm"]).prop_map(str::to_owned));
    prop_oneof![
        2 => Just(Rule::Latest),
        2 => Just(Rule::Majority),
        1 => Just(Rule::Plurality),
        1 => (listed, otherwise).prop_map(|(priority, otherwise)| Rule::Any { priority: distinct(priority), otherwise }),
        1 => (1..5_u32).prop_map(|k| Rule::Quorum(Quorum::Count(k))),
        1 => prop_oneof![Just(5_000_u32), Just(3_333), Just(6_000), 1..=10_000_u32].prop_map(|share| Rule::Quorum(Quorum::ShareBasisPoints(share))),
        1 => Just(Rule::Unanimous),
        1 => Just(Rule::Tally("underdog".into(), Arc::new(Underdog))),
        1 => Just(Rule::Reports("patron".into(), Arc::new(Patron))),
    ]
}

fn distinct(states: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    states.into_iter().filter(|state| seen.insert(state.clone())).collect()
}

/// A rule of one's own over the tally: the lightest state; with four live reports a state of its own, with five one that it may
/// decide only if somebody claims it.
struct Underdog;

impl TallyRule for Underdog {
    fn named_states(&self) -> Vec<String> {
        vec!["four".to_owned()]
    }

    fn decide<'a>(&'a self, votes: &[Vote<'a>], live: u32) -> Option<&'a str> {
        match live {
            4 => Some("four"),
            5 => Some("s3"),
            _ => votes.iter().min_by_key(|vote| (vote.weight, vote.state)).map(|vote| vote.state),
        }
    }
}

/// A rule of one's own over the reports: what the agent says whose weight, and then whose name, is greatest; unless the oldest report
/// has an even time, or one that makes it decide what perhaps nobody
/// claims.
struct Patron;

impl ReportsRule for Patron {
    fn named_states(&self) -> Vec<String> {
        vec!["even".to_owned()]
    }

    fn decide<'a>(&'a self, reports: &[Ballot<'a>]) -> Option<&'a str> {
        let oldest = reports.iter().min_by_key(|ballot| (ballot.ts_ms, ballot.offset)).expect("never without reports");
        let patron = reports.iter().max_by_key(|ballot| (ballot.weight, ballot.agent)).expect("never without reports");
        match oldest.ts_ms % 4 {
            0 => Some("even"),
            1 if reports.len() > 2 => Some("s4"),
            3 => None,
            _ => Some(patron.state),
        }
    }
}
