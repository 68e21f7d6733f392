//! verdict: from an object's tally, or from its reports, to what the rule decides.
//!
//! Takes the differences that counting (or reducing) makes of an object at every seq, hands on where the decision differs. Pure of its
//! input and of names by id.

use std::{cell::RefCell, rc::Rc};

use differential_dataflow::{
    difference::{IsZero, Semigroup},
    operators::arrange::Arranged,
    trace::{
        TraceReader,
        implementations::{ValBuilder, ValSpine},
    },
};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{Stream, channels::pact::Pipeline, operators::Operator},
    progress::frontier::Antichain,
};

use crate::{
    claim::Claim,
    flat::{Flat, FlatTrace, Rising, batches},
    names::{Names, ObjectId},
    reports::Claims,
    rule::decide::Rules,
    slots::Slot,
    tally::{StateId, Tally},
    vocabulary::Seq,
};

/// The arrangement `reports`.
pub(crate) type ReportsTrace = FlatTrace<ObjectId, Slot, i32>;
/// The arrangement of tallies: objects, with tallies as differences.
pub(crate) type TallyTrace = FlatTrace<ObjectId, (), Tally>;
type TallyBatch = Flat<ObjectId, (), Tally>;
/// A stream of what became of objects, at their seqs.
pub(crate) type Decisions<'a> = Stream<'a, Seq, Vec<(ObjectId, Seq, Outcome)>>;

/// What became of an object at one seq. Where both stand at one seq, the decision counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It has live reports, and this verdict (none: none) over this tally.
    Decided(Option<StateId>, Tally),
    /// It has no live report.
    Emptied,
}

/// What a rule over reports made of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Decision {
    verdict: Option<StateId>,
    tally: Tally,
}

/// Decides objects whose rule looks at the tally: adds up each object's tally at every seq of what was newly arranged, from where the
/// arrangement stood before, and hands on where the decision differs.
///
/// The loop is that of `count_total` (differential-dataflow, operators/count.rs), with the decision inside of it: tallies that come to the
/// verdict before them, the most by far, are nowhere written down.
pub(crate) fn over_tallies<'a>(tallies: Arranged<'a, TallyTrace>, rules: Rc<Rules>, names: Rc<RefCell<Names>>) -> Decisions<'a> {
    let mut trace = tallies.trace.clone();
    let mut counted_to = Antichain::from_elem(Seq::MIN);
    tallies.stream.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "Verdict", move |_, _| {
        move |input, output| {
            let judge = Judge { rules: &rules, names: &names.borrow() };
            input.for_each(|capability, spans| {
                let mut session = output.session(&capability);
                for span in spans.drain(..) {
                    if let Some(batch) = &span.inner {
                        let before = trace.batches_through(counted_to.borrow()).expect("the trace is held at what was counted");
                        judge.decide(batch, Rising::new(before), |update| session.give(update));
                    }
                    counted_to.clone_from(span.upper());
                }
            });
            trace.advance_upper(&mut counted_to);
            trace.set_logical_compaction(counted_to.borrow());
            trace.set_physical_compaction(counted_to.borrow());
        }
    })
}

struct Judge<'a> {
    rules: &'a Rules,
    names: &'a Names,
}

impl Judge<'_> {
    fn decide(&self, batch: &TallyBatch, mut before: Rising<ObjectId, (), Tally>, mut give: impl FnMut((ObjectId, Seq, Outcome))) {
        for updates in batch.updates().chunk_by(|a, b| a.key == b.key) {
            let object = updates[0].key;
            let set = &self.rules.sets[self.names.set_of(object)];
            if set.over_reports() {
                continue;
            }
            let verdict = |tally: &Tally| (!tally.is_zero()).then(|| set.over_tally(tally, &self.names.states));
            let mut tally = Tally::default();
            before.of(&object, |update| tally.plus_equals(&update.diff));
            let mut decided = verdict(&tally);
            for update in updates {
                tally.plus_equals(&update.diff);
                let now = verdict(&tally);
                if now != decided {
                    give((object, update.seq, now.map_or(Outcome::Emptied, |state| Outcome::Decided(state, tally.clone()))));
                    decided = now;
                }
            }
        }
    }
}

/// Decides objects whose rule must see agents or recency, by a reduction over the reports arrangement at every seq.
///
/// Known limit: where rules of both kinds stand in one plan, the objects of the others are looked at too.
pub(crate) fn over_reports<'a>(
    reports: Arranged<'a, ReportsTrace>,
    rules: Rc<Rules>,
    names: Rc<RefCell<Names>>,
    claims: Rc<RefCell<Claims>>,
) -> Decisions<'a> {
    let decide = move |object: &ObjectId, input: &[(&Slot, i32)], output: &mut Vec<(Decision, i32)>| {
        let names = names.borrow();
        let at = names.set_of(*object);
        let set = &rules.sets[at];
        if !set.over_reports() {
            return;
        }
        let claims = claims.borrow();
        let held: Vec<&Claim> = input.iter().map(|(slot, _)| claims.row(**slot)).collect();
        let mut tally = Tally::reports(held.len() as i32);
        match set.latest {
            true => held.iter().max_by_key(|claim| set.recency(claim)).into_iter().for_each(|claim| tally.add(claim.state, 1)),
            false => held.iter().for_each(|claim| tally.add(claim.state, names.weight(claim.agent, at))),
        }
        output.push((Decision { verdict: set.over_ballots(&held, &tally, &names, at), tally }, 1));
    };
    let decided = reports.reduce_abelian::<_, ValBuilder<_, _, _, _>, ValSpine<ObjectId, Decision, Seq, i32>, _, _>(
        "VerdictOverReports",
        decide,
        |buffer, object, updates| {
            buffer.clear();
            buffer.extend(updates.drain(..).map(|(decision, seq, diff)| ((*object, decision), seq, diff)));
        },
    );
    let updates = decided.as_collection(|object, decision| (*object, decision.clone())).inner;
    updates.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "Outcome", |_, _| {
        |input, output| {
            input.for_each(|capability, data| {
                let update = |((object, decision), seq, diff): ((ObjectId, Decision), Seq, i32)| match diff < 0 {
                    true => (object, seq, Outcome::Emptied),
                    false => (object, seq, Outcome::Decided(decision.verdict, decision.tally)),
                };
                output.session(&capability).give_iterator(data.drain(..).map(update));
            });
        }
    })
}

/// An object's tally as of a seq, inclusive, from the arrangement.
pub(crate) fn tally_at(trace: &mut TallyTrace, object: ObjectId, seq: Seq) -> Tally {
    let mut tally = Tally::default();
    for batch in batches(trace) {
        batch.of(&object).iter().filter(|update| update.seq <= seq).for_each(|update| tally.plus_equals(&update.diff));
    }
    tally
}
