//! The rules, compiled to ids: what the verdict operators call. A verdict is a pure function of the tally, or of all live reports.
//!
//! Here because of speed only: [`crate::reference`] decides the same from names and is what these are tested against.

use std::{cmp::Ordering, sync::Arc};

use wildmatch::WildMatch;

use crate::{
    claim::Claim,
    names::{AgentId, Interner, Names},
    plan::{Of, OnEmpty, OnNone, Order, Plan, Quorum, Rule, RuleSet},
    rule::{Ballot, ReportsRule, TallyRule, Vote},
    tally::{StateId, Tally},
    vocabulary::{Millis, Name, Offset},
};

/// A plan, compiled: every worker compiles the same ids.
pub(crate) struct Rules {
    /// As [`Plan::sets`].
    pub(crate) sets: Vec<Set>,
    /// States that rules name, by their ids.
    pub(crate) named: Vec<String>,
}

/// A rule set, compiled.
pub(crate) struct Set {
    /// The rule's name.
    pub(crate) rule: Name,
    pub(crate) min_reports: i32,
    pub(crate) on_empty: OnEmpty,
    pub(crate) order: Order,
    /// Whether the tally follows the newest report instead of weights.
    pub(crate) latest: bool,
    /// Whether an unchanged claim still matters.
    pub(crate) recency: bool,
    of: Of,
    on_none: IfNone,
    decide: Decide,
    weights: Vec<(WildMatch, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IfNone {
    Keep,
    Latest,
    State(StateId),
}

enum Decide {
    Latest,
    Majority,
    Plurality,
    Any {
        priority: Vec<StateId>,
        otherwise: Option<StateId>,
    },
    Quorum(Quorum),
    Unanimous,
    /// With the states it names.
    Tally(Arc<dyn TallyRule>, Vec<StateId>),
    /// With the states it names.
    Reports(Arc<dyn ReportsRule>, Vec<StateId>),
}

impl Rules {
    pub(crate) fn compile(plan: &Plan) -> Self {
        let mut named = Vec::new();
        let sets = plan.sets().iter().map(|set| Set::compile(set, &mut named)).collect();
        Self { sets, named }
    }

    /// Whether any rule set is decided over reports.
    pub(crate) fn any_over_reports(&self) -> bool {
        self.sets.iter().any(Set::over_reports)
    }
}

fn id_of(named: &mut Vec<String>, state: &str) -> StateId {
    let at = named.iter().position(|other| other == state).unwrap_or_else(|| {
        named.push(state.to_owned());
        named.len() - 1
    });
    at as StateId
}

impl Set {
    fn compile(set: &RuleSet, named: &mut Vec<String>) -> Self {
        let mut own = |states: Vec<String>| states.iter().map(|state| id_of(named, state)).collect();
        let decide = match &set.rule {
            Rule::Latest => Decide::Latest,
            Rule::Majority => Decide::Majority,
            Rule::Plurality => Decide::Plurality,
            Rule::Any { priority, otherwise } => Decide::Any {
                priority: priority.iter().map(|state| id_of(named, state)).collect(),
                otherwise: otherwise.as_ref().map(|state| id_of(named, state)),
            },
            Rule::Quorum(quorum) => Decide::Quorum(*quorum),
            Rule::Unanimous => Decide::Unanimous,
            Rule::Tally(_, rule) => Decide::Tally(rule.clone(), own(rule.named_states())),
            Rule::Reports(_, rule) => Decide::Reports(rule.clone(), own(rule.named_states())),
        };
        let on_none = match &set.on_none {
            OnNone::Keep => IfNone::Keep,
            OnNone::Latest => IfNone::Latest,
            OnNone::State(state) => IfNone::State(id_of(named, state)),
        };
        let latest = matches!(decide, Decide::Latest);
        let over_reports = on_none == IfNone::Latest || matches!(decide, Decide::Reports(..));
        Self {
            rule: set.rule.name().into(),
            min_reports: i32::try_from(set.min_reports).unwrap_or(i32::MAX),
            on_empty: set.on_empty,
            order: set.order,
            latest,
            recency: latest || over_reports || set.order == Order::Timestamp,
            of: set.of,
            on_none,
            decide,
            weights: set.weights.iter().map(|(glob, weight)| (WildMatch::new(glob), *weight)).collect(),
        }
    }

    /// The weight of an agent: of the first glob that matches, else 1.
    pub(crate) fn weight(&self, agent: &str) -> u32 {
        self.weights.iter().find(|(glob, _)| glob.matches(agent)).map_or(1, |(_, weight)| *weight)
    }

    /// Whether the verdict needs the reports themselves.
    pub(crate) fn over_reports(&self) -> bool {
        self.on_none == IfNone::Latest || matches!(self.decide, Decide::Reports(..))
    }

    /// When a report was made, in the order that makes one the latest.
    #[inline]
    pub(crate) fn recency(&self, claim: &Claim) -> (Millis, Offset) {
        match self.order {
            Order::Arrival => (0, claim.offset),
            Order::Timestamp => (claim.ts_ms, claim.offset),
        }
    }

    /// The verdict over a tally with at least one live report; none keeps what is published.
    pub(crate) fn over_tally(&self, tally: &Tally, states: &Interner) -> Option<StateId> {
        debug_assert!(tally.live > 0 && !self.over_reports(), "asked of the wrong collection");
        self.by_tally(tally, states).or_else(|| self.if_none())
    }

    /// The verdict over all live reports, of which there is at least one, and their tally.
    pub(crate) fn over_ballots(&self, held: &[&Claim], tally: &Tally, names: &Names, set: usize) -> Option<StateId> {
        let verdict = match &self.decide {
            _ if tally.live < self.min_reports => None,
            Decide::Reports(rule, named) => {
                let ballots: Vec<_> = held
                    .iter()
                    .map(|claim| Ballot {
                        agent: names.agents.name(claim.agent),
                        state: names.states.name(claim.state),
                        weight: names.weight(claim.agent, set).unsigned_abs(),
                        ts_ms: claim.ts_ms,
                        offset: claim.offset,
                    })
                    .collect();
                let decided = rule.decide(&ballots).and_then(|state| names.states.find(state));
                decided.filter(|state| named.contains(state) || held.iter().any(|claim| claim.state == *state))
            }
            _ => self.by_tally(tally, &names.states),
        };
        verdict.or_else(|| match self.on_none {
            IfNone::Latest => self.heaviest_latest(held, tally, |agent| names.weight(agent, set)),
            _ => self.if_none(),
        })
    }

    fn if_none(&self) -> Option<StateId> {
        match self.on_none {
            IfNone::State(state) => Some(state),
            IfNone::Keep | IfNone::Latest => None,
        }
    }

    fn by_tally(&self, tally: &Tally, states: &Interner) -> Option<StateId> {
        if tally.live < self.min_reports {
            return None;
        }
        match &self.decide {
            Decide::Latest => tally.votes().next().map(|(state, _)| state), // all the weight is on the newest
            Decide::Majority => heaviest(tally).filter(|(_, weight)| 2 * i64::from(*weight) > self.whole(tally)).map(|(state, _)| state),
            Decide::Plurality => heaviest(tally).map(|(state, _)| state),
            Decide::Any { priority, otherwise } => {
                let claimed = priority.iter().copied().find(|state| tally.weight(*state) > 0);
                claimed.or(otherwise.filter(|_| tally.total() > 0))
            }
            Decide::Quorum(quorum) => heaviest(tally).filter(|(_, weight)| self.is_enough(*quorum, *weight, tally)).map(|(state, _)| state),
            Decide::Unanimous => {
                let mut votes = tally.votes();
                let agreed = votes.next().filter(|(_, weight)| matches!(self.of, Of::Live) || i64::from(*weight) >= self.whole(tally));
                agreed.filter(|_| votes.next().is_none()).map(|(state, _)| state)
            }
            Decide::Tally(rule, named) => {
                let votes: Vec<_> =
                    tally.votes().map(|(state, weight)| Vote { state: states.name(state), weight: weight.unsigned_abs() }).collect();
                let decided = rule.decide(&votes, tally.live.unsigned_abs()).and_then(|state| states.find(state));
                decided.filter(|state| named.contains(state) || tally.weight(*state) > 0)
            }
            Decide::Reports(..) => unreachable!("a rule over reports is not asked about a tally"),
        }
    }

    /// What shares count against.
    fn whole(&self, tally: &Tally) -> i64 {
        match self.of {
            Of::Live => i64::from(tally.total()),
            Of::Expected(agents) => i64::from(agents),
        }
    }

    fn is_enough(&self, quorum: Quorum, weight: i32, tally: &Tally) -> bool {
        match quorum {
            Quorum::Count(k) => i64::from(weight) >= i64::from(k),
            Quorum::ShareBasisPoints(share) => i64::from(weight) * 10_000 >= i64::from(share) * self.whole(tally),
        }
    }

    /// Of the heaviest states the one that a counted report claimed last. For `latest`, whose tally knows no weights: of the newest report.
    fn heaviest_latest(&self, held: &[&Claim], tally: &Tally, weight: impl Fn(AgentId) -> i32) -> Option<StateId> {
        let most = tally.votes().map(|(_, weight)| weight).max()?;
        let counts = |agent| self.latest || weight(agent) > 0;
        let heaviest = held.iter().filter(|claim| counts(claim.agent) && tally.weight(claim.state) == most);
        heaviest.max_by_key(|claim| self.recency(claim)).map(|claim| claim.state)
    }
}

/// The state with strictly the most weight.
fn heaviest(tally: &Tally) -> Option<(StateId, i32)> {
    let mut best = None;
    let mut is_draw = false;
    for (state, weight) in tally.votes() {
        match weight.cmp(&best.map_or(0, |(_, most)| most)) {
            Ordering::Greater => (best, is_draw) = (Some((state, weight)), false),
            Ordering::Equal => is_draw = true,
            Ordering::Less => {}
        }
    }
    best.filter(|_| !is_draw)
}
