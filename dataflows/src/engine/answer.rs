//! Questions, answered out of the arrangements, as of L, inclusive.
//!
//! Names of ids found at L are those of L: an id is given to another name only after the seq that freed it is committed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use differential_dataflow::{
    difference::IsZero,
    trace::{
        BatchCursor, Cursor,
        cursor::{CursorList, cursor_list},
    },
};

use super::{
    Engine,
    build::PublishedTrace,
    known::{Known, merged},
};
use crate::{
    claim::Claim,
    flat::{Flat, FlatTrace, Part, Update, batches, held},
    names::ObjectId,
    plan::{Of, OnEmpty, OnNone, Quorum, Rule, RuleSet},
    posted::Posted,
    query::{Explanation, ListQuery, ObjectView, ReportView, Summary},
    slots::{Slot, Slots},
    verdict::tally_at,
    vocabulary::{Name, Partition, Seq},
    votes::votes,
};

impl Engine {
    /// One object, if it is known.
    pub fn object(&mut self, partition: Partition, name: &str) -> Option<ObjectView> {
        let (id, posted) = self.entry(partition, name)?;
        Some(self.view(id, (name.into(), partition), posted))
    }

    /// An object's live reports by agent, if it is known.
    pub fn reports(&mut self, partition: Partition, name: &str) -> Option<Vec<ReportView>> {
        let (id, _) = self.entry(partition, name)?;
        Some(self.report_views(id))
    }

    /// Why an object is what it is, if it is known.
    pub fn explain(&mut self, partition: Partition, name: &str) -> Option<Explanation> {
        let object = self.object(partition, name)?;
        let (id, _) = self.entry(partition, name)?;
        let reports = self.report_views(id);
        let verdict = self.verdict(id);
        let set = &self.plan.sets()[self.plan.set_of(name)];
        let why = why(&object, verdict.as_ref(), set.on_empty, &set.on_none);
        Some(Explanation {
            object,
            reports,
            verdict,
            prefix: set.prefix.clone(),
            rule_text: in_words(set),
            min_reports: set.min_reports,
            on_empty: set.on_empty,
            why,
        })
    }

    /// Known objects of these partitions in order of name and partition.
    pub fn list(&mut self, query: &ListQuery, of: &BTreeSet<Partition>) -> Vec<ObjectView> {
        let from: Name = match &query.after {
            Some((after, _)) if **after >= *query.prefix => after.clone(),
            _ => query.prefix.as_str().into(),
        };
        let wanted = query.state.as_ref().map(|state| state.as_ref().map(|state| self.stores.names.borrow().states.find(state)));
        let matches = |row: &Posted| match wanted {
            None => true,
            Some(None) => row.state.is_none(),
            Some(Some(state)) => state.is_some() && row.state == state,
        };
        let mut found = Vec::new();
        let published = PublishedAsOf::open(&mut self.traces.published, &self.stores.posted, self.committed);
        for (name, partition, id) in merged(&mut self.traces.known, (of, &from), self.committed) {
            if !name.starts_with(query.prefix.as_str()) || found.len() >= query.limit {
                break;
            }
            let key = (name, partition);
            let is_after = query.after.as_ref().is_none_or(|after| key > *after);
            if is_after && let Some(row) = published.of(id).filter(|row| matches(row)) {
                found.push((id, key, row));
            }
        }
        found.into_iter().map(|(id, key, row)| self.view(id, key, row)).collect()
    }

    /// Known objects of these partitions by state.
    pub fn summary(&mut self, of: &BTreeSet<Partition>) -> Summary {
        let last = self.committed;
        let (mut cursor, storage) = open(&mut self.traces.summary);
        let mut counts = BTreeMap::<Option<Name>, i64>::new();
        while let Some((partition, state)) = cursor.get_key(&storage) {
            if of.contains(partition) {
                let mut count = 0;
                cursor.map_times(&storage, |seq, diff| count += if *seq <= last { i64::from(*diff) } else { 0 });
                *counts.entry(state.clone()).or_default() += count;
            }
            cursor.step_key(&storage);
        }
        counts.into_iter().filter(|(_, count)| *count != 0).collect()
    }

    fn entry(&mut self, partition: Partition, name: &str) -> Option<(ObjectId, Posted)> {
        let name: Name = name.into();
        let (found, id) = Known::open(&mut self.traces.known, (partition, &name), self.committed).next()?;
        if found != name {
            return None;
        }
        let row = PublishedAsOf::open(&mut self.traces.published, &self.stores.posted, self.committed).of(id)?;
        Some((id, row))
    }

    fn view(&mut self, id: ObjectId, (object, partition): (Name, Partition), posted: Posted) -> ObjectView {
        let tally = tally_at(&mut self.traces.tallies, id, self.committed);
        let names = self.stores.names.borrow();
        let rule = self.rules.sets[names.set_of(id)].rule.clone();
        let published = posted.published(|state| names.states.name(state));
        ObjectView { object, partition, published, rule, votes: votes(&tally, &names.states) }
    }

    fn report_views(&mut self, id: ObjectId) -> Vec<ReportView> {
        let slots = held(&batches(&mut self.traces.reports), &id, self.committed);
        let (names, claims) = (self.stores.names.borrow(), self.stores.claims.borrow());
        let set = names.set_of(id);
        let view = |claim: &Claim| ReportView {
            agent: names.agents.name(claim.agent).clone(),
            report: claim.report(&names),
            weight: names.weight(claim.agent, set).unsigned_abs(),
        };
        let mut views: Vec<_> = slots.into_iter().map(|slot| view(claims.row(slot))).collect();
        views.sort_by(|a, b| a.agent.cmp(&b.agent));
        views
    }

    /// What the rule makes of the object's reports as of L.
    fn verdict(&mut self, id: ObjectId) -> Option<Name> {
        let tally = tally_at(&mut self.traces.tallies, id, self.committed);
        if tally.is_zero() {
            return None;
        }
        let slots = held(&batches(&mut self.traces.reports), &id, self.committed);
        let (names, claims) = (self.stores.names.borrow(), self.stores.claims.borrow());
        let at = names.set_of(id);
        let set = &self.rules.sets[at];
        let verdict = match set.over_reports() {
            false => set.over_tally(&tally, &names.states),
            true => {
                let held: Vec<&Claim> = slots.iter().map(|slot| claims.row(*slot)).collect();
                set.over_ballots(&held, &tally, &names, at)
            }
        };
        verdict.map(|state| names.states.name(state).clone())
    }

    pub(super) fn drain_reports(&mut self, seq: Seq) {
        let held = batches(&mut self.traces.reports);
        let updates = held.iter().flat_map(|batch| batch.updates());
        self.reports.report_diffs.extend(updates.map(|update| Update { seq, diff: -update.diff, ..*update }));
    }

    pub(super) fn drain_tallies(&mut self, seq: Seq) {
        let held = batches(&mut self.traces.tallies);
        let updates = held.iter().flat_map(|batch| batch.updates());
        self.reports.tally_diffs.extend(updates.map(|update| Update { seq, diff: -update.diff.clone(), ..*update }));
    }
}

type Opened<K, V> = (CursorList<BatchCursor<FlatTrace<K, V, i32>>>, Vec<Rc<Flat<K, V, i32>>>);

fn open<K: Part, V: Part>(trace: &mut FlatTrace<K, V, i32>) -> Opened<K, V> {
    cursor_list(batches(trace))
}

/// What is published, by id, as of `last`.
struct PublishedAsOf<'a> {
    batches: Vec<Rc<Flat<ObjectId, Slot, i32>>>,
    slots: &'a RefCell<Slots<Posted>>,
    last: Seq,
}

impl<'a> PublishedAsOf<'a> {
    fn open(trace: &mut PublishedTrace, slots: &'a RefCell<Slots<Posted>>, last: Seq) -> Self {
        Self { batches: batches(trace), slots, last }
    }

    fn of(&self, object: ObjectId) -> Option<Posted> {
        let slot = *held(&self.batches, &object, self.last).first()?;
        Some(*self.slots.borrow().row(slot))
    }
}

/// A rule set in words.
fn in_words(set: &RuleSet) -> String {
    let rule = match &set.rule {
        Rule::Any { priority, otherwise } => {
            let otherwise = otherwise.as_ref().map_or(String::new(), |state| format!(", else {state}"));
            format!("the first of {} that anyone claims{otherwise},", priority.join(", "))
        }
        Rule::Quorum(Quorum::Count(votes)) => format!("quorum of {votes} votes"),
        Rule::Quorum(Quorum::ShareBasisPoints(share)) => format!("quorum of {} %", f64::from(*share) / 100.0),
        other => other.name().to_owned(),
    };
    let of = match set.of {
        Of::Live => "of live reports".to_owned(),
        Of::Expected(agents) => format!("of {agents} expected agents"),
    };
    let on_none = match &set.on_none {
        OnNone::Keep => "keeps the state".to_owned(),
        OnNone::Latest => "takes the latest of the heaviest".to_owned(),
        OnNone::State(state) => format!("gives {state}"),
    };
    format!("{rule} {of}; no verdict {on_none}")
}

/// One sentence for people.
fn why(object: &ObjectView, verdict: Option<&Name>, on_empty: OnEmpty, on_none: &OnNone) -> String {
    let published = &object.published;
    let behind = || published.behind.as_ref().map_or("nothing".to_owned(), |state| format!("\"{state}\""));
    if let Some(mask) = &published.mask {
        return format!("overridden to \"{}\"; behind the override stands {}", mask.state, behind());
    }
    match (&published.state, verdict) {
        (None, _) if object.votes.live == 0 => "no live report".to_owned(),
        (None, None) => format!("{} gives no verdict, and nothing was published before", object.rule),
        (Some(state), Some(verdict)) if state == verdict => format!("{} decides \"{state}\"", object.rule),
        (Some(state), None) if object.votes.live == 0 && on_empty == OnEmpty::Keep => {
            format!("no live report; \"{state}\" stays (on_empty = keep)")
        }
        (Some(state), None) if *on_none == OnNone::Keep => {
            format!("{} gives no verdict now; \"{state}\" stays (on_none = keep)", object.rule)
        }
        (state, verdict) => format!("{} decides {verdict:?}, published is {state:?}", object.rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_sets_are_told_in_words() {
        let any = Rule::Any { priority: vec!["down".into(), "degraded".into()], otherwise: Some("up".into()) };
        let rows = [
            (RuleSet::new(Rule::Majority), "majority of live reports; no verdict keeps the state"),
            (RuleSet::new(any), "the first of down, degraded that anyone claims, else up, of live reports; no verdict keeps the state"),
            (
                RuleSet { on_none: OnNone::State("unsure".into()), ..RuleSet::new(Rule::Quorum(Quorum::Count(2))) },
                "quorum of 2 votes of live reports; no verdict gives unsure",
            ),
            (
                RuleSet { of: Of::Expected(5), on_none: OnNone::Latest, ..RuleSet::new(Rule::Quorum(Quorum::ShareBasisPoints(6_050))) },
                "quorum of 60.5 % of 5 expected agents; no verdict takes the latest of the heaviest",
            ),
        ];
        for (set, words) in rows {
            assert_eq!(in_words(&set), words);
        }
    }
}
