//! Questions, answered out of the arrangements, as of L, inclusive.
//!
//! Names of ids found at L are those of L: an id is given to another name only after the seq that freed it is committed.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use differential_dataflow::{
    difference::IsZero,
    trace::{BatchCursor, Cursor, TraceReader, cursor::cursor_list},
};
use timely::progress::frontier::Antichain;

use super::{Engine, KnownTrace, PublishedTrace};
use crate::{
    claim::Claim,
    flat::{Flat, Update, batches},
    names::ObjectId,
    plan::{Of, OnEmpty, OnNone, RuleSet},
    publish::{
        slots::{Slot, Slots},
        tally_at, votes,
    },
    query::{Explanation, ListQuery, ObjectView, ReportView, Summary},
    tally::Tally,
    verdict::ReportsTrace,
    vocabulary::{Name, Partition, Published, Seq},
};

impl Engine {
    /// One object, if it is known.
    pub fn object(&mut self, partition: Partition, name: &str) -> Option<ObjectView> {
        let (id, published) = self.entry(partition, name)?;
        Some(self.view(id, name.into(), partition, published))
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

    /// Known objects in order of name and partition.
    pub fn list(&mut self, query: &ListQuery) -> Vec<ObjectView> {
        let from: (Name, Partition) = match &query.after {
            Some(after) if *after.0 >= *query.prefix => after.clone(),
            _ => (query.prefix.as_str().into(), Partition::MIN),
        };
        let matches = |row: &Published| query.state.as_ref().is_none_or(|state| row.state.as_deref() == state.as_deref());
        let mut found = Vec::new();
        let published = Rows::open(&mut self.traces.published, &self.slots, self.committed);
        scan(&mut self.traces.known, self.committed, &from, |key, id| {
            let is_after = query.after.as_ref().is_none_or(|after| key > after);
            if !key.0.starts_with(query.prefix.as_str()) || found.len() >= query.limit {
                return false;
            }
            if is_after && let Some(row) = published.of(id).filter(|row| matches(row)) {
                found.push((id, key.clone(), row));
            }
            true
        });
        found.into_iter().map(|(id, (name, partition), row)| self.view(id, name, partition, row)).collect()
    }

    /// Known objects by state.
    pub fn summary(&mut self) -> Summary {
        let last = self.committed;
        let (mut cursor, storage) = open(&mut self.traces.summary);
        let mut summary = Vec::new();
        while let Some(state) = cursor.get_key(&storage) {
            let mut count = 0;
            cursor.map_times(&storage, |seq, diff| count += if *seq <= last { i64::from(*diff) } else { 0 });
            if count != 0 {
                summary.push((state.clone(), count));
            }
            cursor.step_key(&storage);
        }
        summary
    }

    fn entry(&mut self, partition: Partition, name: &str) -> Option<(ObjectId, Arc<Published>)> {
        let key: (Name, Partition) = (name.into(), partition);
        let mut found = None;
        scan(&mut self.traces.known, self.committed, &key, |at, id| {
            found = (*at == key).then_some(id);
            false
        });
        let row = Rows::open(&mut self.traces.published, &self.slots, self.committed).of(found?)?;
        Some((found?, row))
    }

    fn view(&mut self, id: ObjectId, object: Name, partition: Partition, published: Arc<Published>) -> ObjectView {
        let tally = tally_at(&mut self.traces.tallies, id, self.committed);
        let rule = self.rules.sets[self.plan.set_of(&object)].rule.clone();
        ObjectView { object, partition, published, rule, votes: votes(&tally, &self.names.borrow()) }
    }

    fn report_views(&mut self, id: ObjectId) -> Vec<ReportView> {
        let claims = claims(&mut self.traces.reports, id, self.committed);
        let names = self.names.borrow();
        let set = names.set_of(id);
        let view = |claim: Claim| ReportView {
            agent: names.agents.name(claim.agent).clone(),
            report: claim.report(&names),
            weight: names.weight(claim.agent, set).unsigned_abs(),
        };
        let mut views: Vec<_> = claims.into_iter().map(view).collect();
        views.sort_by(|a, b| a.agent.cmp(&b.agent));
        views
    }

    /// What the rule makes of the object's reports as of L.
    fn verdict(&mut self, id: ObjectId) -> Option<Name> {
        let tally = tally_at(&mut self.traces.tallies, id, self.committed);
        if tally.is_zero() {
            return None;
        }
        let claims = claims(&mut self.traces.reports, id, self.committed);
        let names = self.names.borrow();
        let at = names.set_of(id);
        let set = &self.rules.sets[at];
        let verdict = match set.over_reports() {
            false => set.over_tally(&tally, &names.states),
            true => {
                let held: Vec<&Claim> = claims.iter().collect();
                set.over_ballots(&held, &tally, &names, at)
            }
        };
        verdict.map(|state| names.states.name(state).clone())
    }

    pub(super) fn drain_reports(&mut self, seq: Seq) {
        let (mut cursor, storage) = open(&mut self.traces.reports);
        while let Some(object) = cursor.get_key(&storage) {
            while let Some(value) = cursor.get_val(&storage) {
                let mut count = 0;
                cursor.map_times(&storage, |_, diff| count += *diff);
                if count != 0 {
                    self.reports.report_diffs.push(Update { key: *object, value: *value, seq, diff: -count });
                }
                cursor.step_val(&storage);
            }
            cursor.step_key(&storage);
        }
    }

    pub(super) fn drain_tallies(&mut self, seq: Seq) {
        let (mut cursor, storage) = open(&mut self.traces.tallies);
        let mut objects = Vec::new();
        while let Some(object) = cursor.get_key(&storage) {
            objects.push(*object);
            cursor.step_key(&storage);
        }
        for object in objects {
            let tally: Tally = tally_at(&mut self.traces.tallies, object, Seq::MAX);
            if !tally.is_zero() {
                self.reports.tally_diffs.push(Update { key: object, value: (), seq, diff: -tally });
            }
        }
    }
}

type Opened<Tr> = (differential_dataflow::trace::cursor::CursorList<BatchCursor<Tr>>, Vec<<Tr as TraceReader>::Batch>);

fn open<Tr: TraceReader<Time = Seq, Batch: differential_dataflow::trace::Navigable>>(trace: &mut Tr) -> Opened<Tr> {
    cursor_list(trace.batches_through(Antichain::new().borrow()).expect("all batches can be had"))
}

/// Hands every known object at or after `from`, as of `last`, to `each`, until it says no.
fn scan(trace: &mut KnownTrace, last: Seq, from: &(Name, Partition), mut each: impl FnMut(&(Name, Partition), ObjectId) -> bool) {
    let (mut cursor, storage) = open(trace);
    cursor.seek_key(&storage, from);
    while let Some(key) = cursor.get_key(&storage) {
        while let Some(id) = cursor.get_val(&storage) {
            let mut count = 0;
            cursor.map_times(&storage, |seq, diff| count += if *seq <= last { *diff } else { 0 });
            if count > 0 && !each(key, *id) {
                return;
            }
            cursor.step_val(&storage);
        }
        cursor.step_key(&storage);
    }
}

/// What is published, by id, as of `last`.
struct Rows<'a> {
    batches: Vec<Rc<Flat<ObjectId, Slot, i32>>>,
    slots: &'a RefCell<Slots>,
    last: Seq,
}

impl<'a> Rows<'a> {
    fn open(trace: &mut PublishedTrace, slots: &'a RefCell<Slots>, last: Seq) -> Self {
        Self { batches: batches(trace), slots, last }
    }

    fn of(&self, object: ObjectId) -> Option<Arc<Published>> {
        let of = |batch: &Rc<Flat<ObjectId, Slot, i32>>| batch.of(&object).iter().filter(|row| row.seq <= self.last).copied().collect();
        let mut rows: Vec<Update<ObjectId, Slot, i32>> = self.batches.iter().map(of).collect::<Vec<Vec<_>>>().concat();
        rows.sort_unstable_by_key(|row| row.value);
        let held = rows.chunk_by(|a, b| a.value == b.value).find(|alike| alike.iter().map(|row| row.diff).sum::<i32>() > 0)?;
        Some(self.slots.borrow().row(held[0].value).clone())
    }
}

/// An object's claims as of `last`.
fn claims(trace: &mut ReportsTrace, object: ObjectId, last: Seq) -> Vec<Claim> {
    let (mut cursor, storage) = open(trace);
    let mut found = Vec::new();
    cursor.seek_key(&storage, &object);
    if cursor.get_key(&storage) == Some(&object) {
        while let Some(value) = cursor.get_val(&storage) {
            let mut count = 0;
            cursor.map_times(&storage, |seq, diff| count += if *seq <= last { *diff } else { 0 });
            if count > 0 {
                found.push(*value);
            }
            cursor.step_val(&storage);
        }
    }
    found
}

/// A rule set as its configuration puts it.
fn in_words(set: &RuleSet) -> String {
    let of = match set.of {
        Of::Live => "live reports".to_owned(),
        Of::Expected(agents) => format!("{agents} expected agents"),
    };
    let on_none = match &set.on_none {
        OnNone::Keep => "keeps the state".to_owned(),
        OnNone::Latest => "takes the latest of the heaviest".to_owned(),
        OnNone::State(state) => format!("gives \"{state}\""),
    };
    format!("{:?} of {of}; no verdict {on_none}", set.rule)
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
