//! The reference: what the dataflow must say, as a fold over events with plain maps.
//!
//! It stands beside the flow, not in it. It reads the [`Plan`] as it is written, keeps every report under its name, and decides every rule
//! anew from the reports after every single event: slow, and short enough to trust at sight. Shares no code with the engine but the
//! vocabulary; the property tests hold the two against each other.
//!
//! Assumes what the engine assumes: per partition, events in order, a clock that only ticks move and that never runs back.
//!
//! Known limitation: schedules other than the end of an override; a report's ttl is kept and not obeyed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    plan::{Of, OnEmpty, OnNone, Order, Plan, Quorum, Rule, RuleSet},
    query::Summary,
    rule::{Ballot, Vote},
    vocabulary::{Cause, Change, Event, Mask, Millis, Moment, Name, Partition, Published, Report, Seq, Votes, due_at},
};

type Key = (String, Partition);
type Reports = BTreeMap<String, Report>;

/// All that is known of all objects.
#[derive(Clone, Debug)]
pub struct Reference {
    plan: Plan,
    objects: BTreeMap<Key, Object>,
    /// The objects under an override, so that a tick need not look at all of them.
    masked: BTreeSet<Key>,
    late: u64,
}

#[derive(Clone, Debug)]
struct Object {
    reports: Reports,
    mask: Option<Mask>,
    behind: Option<Name>,
    since_ms: Millis,
    cause: Cause,
    revision: u64,
}

impl Reference {
    /// Nothing known yet, under this plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), objects: BTreeMap::new(), masked: BTreeSet::new(), late: 0 }
    }

    /// The partition's clock reaches this multiple: overrides that are due end. Changes by object name; their `seq` is 0, a tick's seq
    /// being the pump's business.
    pub fn tick(&mut self, partition: Partition, event_number: u64, clock_ms: Millis) -> Vec<Change> {
        let moment = Moment { partition, event: event_number, clock_ms, offset: None };
        let due = |mask: &Mask| mask.until_ms.is_some_and(|until_ms| until_ms <= clock_ms);
        let is_due = |key: &&Key| key.1 == partition && self.objects[*key].mask.as_ref().is_some_and(due);
        let ends: Vec<Key> = self.masked.iter().filter(is_due).cloned().collect();
        ends.iter().filter_map(|(object, _)| self.step((moment, 0), object, Cause::Override, |_, held| held.mask = None)).collect()
    }

    /// The house starts again under another plan. What that comes to shows at each object's next event, or when it is compared.
    pub fn replan(&mut self, plan: &Plan) {
        self.plan = plan.clone();
    }

    /// A partition is restored: what its published states come to under today's plan. As [`Reference::tick`], by object name, `seq` 0.
    pub fn compare(&mut self, moment: Moment) -> Vec<Change> {
        let mine: Vec<Key> = self.objects.keys().filter(|key| key.1 == moment.partition).cloned().collect();
        mine.iter().filter_map(|(object, _)| self.step((moment, 0), object, Cause::Rule, |_, _| {})).collect()
    }

    /// One record's event. At most one change.
    pub fn apply(&mut self, moment: Moment, seq: Seq, object: &str, event: Event<'_>) -> Vec<Change> {
        if self.is_late(moment.partition, object, event) {
            self.late += 1;
            return Vec::new();
        }
        let cause = match event {
            Event::Report { .. } | Event::Withdraw { .. } => Cause::Vote,
            Event::Override { .. } | Event::Lift => Cause::Override,
            Event::Purge => Cause::Purge,
        };
        self.step((moment, seq), object, cause, |set, held| held.apply(set, moment, event)).into_iter().collect()
    }

    /// A row for every known object: one with live reports, an override or a published state.
    #[must_use]
    pub fn published(&self) -> BTreeMap<(String, Partition), Published> {
        self.objects.iter().map(|(key, object)| (key.clone(), object.published())).collect()
    }

    /// One object's row and its live reports by agent. None: not known.
    #[must_use]
    pub fn object(&self, name: &str, partition: Partition) -> Option<(Published, &BTreeMap<String, Report>)> {
        let object = self.objects.get(&(name.to_owned(), partition))?;
        Some((object.published(), &object.reports))
    }

    /// The live reports by agent, of every object that has any.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<(String, Partition), BTreeMap<String, Report>> {
        let reported = self.objects.iter().filter(|(_, object)| !object.reports.is_empty());
        reported.map(|(key, object)| (key.clone(), object.reports.clone())).collect()
    }

    /// Known objects by published state.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut counts = BTreeMap::new();
        for object in self.objects.values() {
            *counts.entry(object.state()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// An object's tally, and what its rule (with `min_reports` and `on_none`) decides now. Of an unknown object: nothing.
    #[must_use]
    pub fn decision(&self, object: &str, partition: Partition) -> (Votes, Option<Name>) {
        let set = &self.plan.sets()[self.plan.set_of(object)];
        let known = self.objects.get(&(object.to_owned(), partition));
        known.map(|object| (set.tally(&object.reports), set.verdict(&object.reports))).unwrap_or_default()
    }

    /// Reports and withdrawals ignored because their agent's report is newer.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    fn is_late(&self, partition: Partition, object: &str, event: Event<'_>) -> bool {
        let (Event::Report { agent, ts_ms, .. } | Event::Withdraw { agent, ts_ms }) = event else { return false };
        let held = self.objects.get(&(object.to_owned(), partition)).and_then(|held| held.reports.get(agent));
        self.plan.sets()[self.plan.set_of(object)].order == Order::Timestamp && held.is_some_and(|held| ts_ms < held.ts_ms)
    }

    /// Acts on one object, decides it anew, and says what changed on the sink.
    fn step(&mut self, (moment, seq): (Moment, Seq), name: &str, cause: Cause, act: impl FnOnce(&RuleSet, &mut Object)) -> Option<Change> {
        let set = &self.plan.sets()[self.plan.set_of(name)];
        let key = (name.to_owned(), moment.partition);
        let mut object = self.objects.remove(&key).unwrap_or_else(|| Object::unknown(moment));
        let previous = object.state();
        act(set, &mut object);
        object.behind = match (object.reports.is_empty(), set.on_empty) {
            (true, OnEmpty::Remove) => None,
            (true, OnEmpty::Keep) => object.behind,
            (false, _) => set.verdict(&object.reports).or(object.behind),
        };
        let (state, tally) = (object.state(), set.tally(&object.reports));
        let change = (state != previous).then(|| {
            let Moment { partition, event: revision, clock_ms, offset } = moment;
            let (object, rule) = (name.into(), set.rule.name().into());
            let (since_ms, at_ms) = (clock_ms, clock_ms);
            Change { seq, partition, object, state, previous, since_ms, at_ms, cause, rule, tally, revision, offset }
        });
        self.keep(key, object.changed_by(change.as_ref()));
        change
    }

    /// Keeps what is known of an object, if anything is.
    fn keep(&mut self, key: Key, object: Object) {
        self.masked.remove(&key);
        if object.mask.is_some() {
            self.masked.insert(key.clone());
        }
        if !object.reports.is_empty() || object.state().is_some() {
            self.objects.insert(key, object);
        }
    }
}

impl Object {
    fn unknown(moment: Moment) -> Self {
        Self { reports: Reports::new(), mask: None, behind: None, since_ms: moment.clock_ms, cause: Cause::Vote, revision: 0 }
    }

    fn state(&self) -> Option<Name> {
        self.mask.as_ref().map(|mask| mask.state.clone()).or(self.behind.clone())
    }

    fn changed_by(self, change: Option<&Change>) -> Self {
        match change {
            Some(change) => Self { since_ms: change.since_ms, cause: change.cause, revision: change.revision, ..self },
            None => self,
        }
    }

    fn published(&self) -> Published {
        Published {
            state: self.state(),
            behind: self.behind.clone(),
            mask: self.mask.clone(),
            since_ms: self.since_ms,
            cause: self.cause,
            revision: self.revision,
        }
    }

    fn apply(&mut self, set: &RuleSet, moment: Moment, event: Event<'_>) {
        let due = |after_ms| due_at(moment.clock_ms, after_ms);
        match event {
            Event::Report { agent, state, ts_ms, ttl_ms } => {
                let offset = moment.offset.expect("a report is a record");
                let report = Report { state: state.into(), ts_ms, offset, due_ms: ttl_ms.map(due) };
                let held = self.reports.entry(agent.to_owned()).or_insert_with(|| report.clone());
                let renews = set.recency_matters() || held.due_ms.is_some() || report.due_ms.is_some();
                if renews || held.state != report.state {
                    *held = report;
                }
            }
            Event::Withdraw { agent, .. } => drop(self.reports.remove(agent)),
            Event::Override { state, for_ms } => {
                self.mask = Some(Mask { state: state.into(), since_ms: moment.clock_ms, until_ms: for_ms.map(due) });
            }
            Event::Lift => self.mask = None,
            Event::Purge => (self.reports, self.mask, self.behind) = (Reports::new(), None, None),
        }
    }
}

/// The rules. `reports` are an object's live reports.
impl RuleSet {
    fn recency_matters(&self) -> bool {
        let latest = matches!(self.rule, Rule::Latest | Rule::Reports(..)) || self.on_none == OnNone::Latest;
        latest || self.order == Order::Timestamp
    }

    fn recency(&self, report: &Report) -> (Millis, i64) {
        (if self.order == Order::Timestamp { report.ts_ms } else { 0 }, report.offset)
    }

    fn newest(&self, reports: &mut dyn Iterator<Item = &Report>) -> Option<Name> {
        reports.max_by_key(|report| self.recency(report)).map(|report| report.state.clone())
    }

    fn weight(&self, agent: &str) -> i64 {
        self.weights.iter().find(|(pattern, _)| glob(pattern, agent)).map_or(1, |(_, weight)| i64::from(*weight))
    }

    fn tally(&self, reports: &Reports) -> Votes {
        let mut weights: BTreeMap<Name, i64> = BTreeMap::new();
        if matches!(self.rule, Rule::Latest) {
            weights.extend(self.newest(&mut reports.values()).map(|state| (state, 1)));
        } else {
            for (agent, report) in reports {
                *weights.entry(report.state.clone()).or_default() += self.weight(agent);
            }
        }
        let mut weights: Vec<_> = weights.into_iter().filter(|(_, weight)| *weight > 0).collect();
        weights.sort_by_key(|(_, weight)| -weight); // stable: equal weights stay by name
        Votes { weights, live: reports.len() as i64 }
    }

    fn verdict(&self, reports: &Reports) -> Option<Name> {
        if reports.is_empty() {
            return None;
        }
        let tally = self.tally(reports);
        let decided = if tally.live < i64::from(self.min_reports) { None } else { self.decide(reports, &tally) };
        decided.or_else(|| match &self.on_none {
            OnNone::Keep => None,
            OnNone::State(state) => Some(state.as_str().into()),
            OnNone::Latest => {
                let heaviest = |state| tally.weights.iter().any(|(name, weight)| name == state && *weight == tally.weights[0].1);
                let counts = |agent| matches!(self.rule, Rule::Latest) || self.weight(agent) > 0;
                self.newest(
                    &mut reports.iter().filter(|(agent, report)| counts(agent) && heaviest(&report.state)).map(|(_, report)| report),
                )
            }
        })
    }

    fn decide(&self, reports: &Reports, tally: &Votes) -> Option<Name> {
        let live_weight = tally.weights.iter().map(|(_, weight)| weight).sum();
        let (expected, total) = match self.of {
            Of::Live => (1, live_weight),
            Of::Expected(agents) => (i64::from(agents), i64::from(agents)),
        };
        let claimed = |state: &str| tally.weights.iter().any(|(name, _)| &**name == state);
        match &self.rule {
            Rule::Latest => self.newest(&mut reports.values()),
            Rule::Majority => heaviest(tally, |weight| 2 * weight > total),
            Rule::Plurality => heaviest(tally, |_| true),
            Rule::Quorum(Quorum::Count(k)) => heaviest(tally, |weight| weight >= i64::from(*k)),
            Rule::Quorum(Quorum::ShareBasisPoints(share)) => heaviest(tally, |weight| weight * 10_000 >= i64::from(*share) * total),
            Rule::Unanimous if tally.weights.len() == 1 => heaviest(tally, |weight| weight >= expected),
            Rule::Unanimous => None,
            Rule::Any { priority, otherwise } => {
                let first = priority.iter().find(|state| claimed(state));
                first.or(otherwise.as_ref().filter(|_| live_weight > 0)).map(|state| state.as_str().into())
            }
            Rule::Tally(_, rule) => {
                let votes: Vec<_> = tally.weights.iter().map(|(state, weight)| Vote { state, weight: *weight as u32 }).collect();
                allowed(rule.decide(&votes, tally.live as u32), &rule.named_states(), claimed)
            }
            Rule::Reports(_, rule) => {
                let ballots: Vec<_> = reports.iter().map(|(agent, report)| self.ballot(agent, report)).collect();
                allowed(rule.decide(&ballots), &rule.named_states(), |state| ballots.iter().any(|ballot| ballot.state == state))
            }
        }
    }

    fn ballot<'a>(&self, agent: &'a str, report: &'a Report) -> Ballot<'a> {
        Ballot { agent, state: &report.state, weight: self.weight(agent) as u32, ts_ms: report.ts_ms, offset: report.offset }
    }
}

/// The heaviest state, if it is heavy enough and no other is as heavy.
fn heaviest(tally: &Votes, enough: impl Fn(i64) -> bool) -> Option<Name> {
    let (state, weight) = tally.weights.first()?;
    let drawn = tally.weights.get(1).is_some_and(|(_, second)| second == weight);
    (enough(*weight) && !drawn).then(|| state.clone())
}

/// What a rule of one's own decided, if it may.
fn allowed(decided: Option<&str>, named: &[String], claimed: impl Fn(&str) -> bool) -> Option<Name> {
    decided.filter(|state| claimed(state) || named.iter().any(|named| named == state)).map(Name::from)
}

/// Whether the name matches the pattern: `*` stands for any characters, `?` for one.
fn glob(pattern: &str, name: &str) -> bool {
    let mut rest = name.chars();
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => glob(&pattern[1..], name) || (rest.next().is_some() && glob(pattern, rest.as_str())),
        Some(one) => rest.next().is_some_and(|first| one == '?' || one == first) && glob(&pattern[one.len_utf8()..], rest.as_str()),
    }
}
