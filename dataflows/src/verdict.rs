//! verdict: from an object's tally, or from its reports, to what the rule decides.
//!
//! Takes the differences that counting (or reducing) makes of an object at every seq, hands on where the decision differs. Pure of its
//! input and of names by id.

use std::{cell::RefCell, rc::Rc};

use differential_dataflow::{
    VecCollection,
    operators::arrange::{Arranged, TraceAgent},
    trace::implementations::{ValBuilder, ValSpine},
};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{Stream, channels::pact::Pipeline, operators::Operator},
};

use crate::{
    names::{Names, ObjectId},
    reports::Claim,
    rule::decide::Rules,
    tally::{StateId, Tally},
    vocabulary::Seq,
};

/// The arrangement `reports`.
pub(crate) type ReportsTrace = TraceAgent<ValSpine<ObjectId, Claim, Seq, i32>>;
/// A stream of what became of objects, at their seqs.
pub(crate) type Decisions<'a> = Stream<'a, Seq, Vec<(ObjectId, Seq, Update)>>;

/// What became of an object at one seq. Where both stand at one seq, the decision counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    /// It has live reports, and this verdict (none: none) over this tally.
    Decided(Option<StateId>, Tally),
    /// It has no live report.
    Emptied,
}

/// What a rule over reports made of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Decision {
    verdict: Option<StateId>,
    tally: Tally,
}

/// Decides objects whose rule looks at the tally.
///
/// Counting retracts an object's old tally and asserts its new one next to each other at one seq; pairs that come to the same verdict go
/// no further. A lone retraction means that no report is left. A pair torn apart by a buffer's end goes on as it is: whoever receives it
/// lets the decision count.
pub(crate) fn over_tallies<'a>(
    tallies: VecCollection<'a, Seq, (ObjectId, Tally), i32>,
    rules: Rc<Rules>,
    names: Rc<RefCell<Names>>,
) -> Decisions<'a> {
    tallies.inner.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "Verdict", move |_, _| {
        move |input, output| {
            let names = names.borrow();
            let verdict = |object: ObjectId, tally: &Tally| rules.sets[names.set_of(object)].over_tally(tally, &names.states);
            input.for_each(|capability, data| {
                let mut session = output.session(&capability);
                let mut retracted: Option<(ObjectId, Seq, Tally)> = None;
                for ((object, tally), seq, diff) in data.drain(..) {
                    if rules.sets[names.set_of(object)].over_reports() {
                        continue;
                    }
                    let before = retracted.take();
                    if diff < 0 {
                        before.into_iter().for_each(|(object, seq, _)| session.give((object, seq, Update::Emptied)));
                        retracted = Some((object, seq, tally));
                        continue;
                    }
                    let decided = verdict(object, &tally);
                    match before {
                        Some((same, at, before)) if (same, at) == (object, seq) && verdict(object, &before) == decided => continue,
                        Some((other, at, _)) if (other, at) != (object, seq) => session.give((other, at, Update::Emptied)),
                        _ => {}
                    }
                    session.give((object, seq, Update::Decided(decided, tally)));
                }
                retracted.into_iter().for_each(|(object, seq, _)| session.give((object, seq, Update::Emptied)));
            });
        }
    })
}

/// Decides objects whose rule must see agents or recency, by a reduction over the reports arrangement at every seq.
///
/// Known limit: where rules of both kinds stand in one plan, the objects of the others are looked at too.
pub(crate) fn over_reports<'a>(reports: Arranged<'a, ReportsTrace>, rules: Rc<Rules>, names: Rc<RefCell<Names>>) -> Decisions<'a> {
    let decide = move |object: &ObjectId, input: &[(&Claim, i32)], output: &mut Vec<(Decision, i32)>| {
        let names = names.borrow();
        let at = names.set_of(*object);
        let set = &rules.sets[at];
        if !set.over_reports() {
            return;
        }
        let held: Vec<&Claim> = input.iter().map(|(claim, _)| *claim).collect();
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
    updates.unary::<CapacityContainerBuilder<_>, _, _, _>(Pipeline, "Update", |_, _| {
        |input, output| {
            input.for_each(|capability, data| {
                let update = |((object, decision), seq, diff): ((ObjectId, Decision), Seq, i32)| match diff < 0 {
                    true => (object, seq, Update::Emptied),
                    false => (object, seq, Update::Decided(decision.verdict, decision.tally)),
                };
                output.session(&capability).give_iterator(data.drain(..).map(update));
            });
        }
    })
}
