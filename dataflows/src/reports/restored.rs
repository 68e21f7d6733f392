//! An object's reports as the checkpoint has them, taken as a whole.

use super::{Context, Place, Reports};
use crate::{claim::Claim, flat::Update, names::ObjectId, tally::Tally};

impl Reports {
    /// All reports of an object, with ids not held yet, each agent's once: makes differences, but no row. Puts them in the order of agents.
    ///
    /// # Panics
    /// If the object has reports, or an agent has two.
    pub(crate) fn restore(&mut self, id: ObjectId, restored: &mut [Claim], context: &mut Context<'_>) {
        let Context { rules, names, seq, .. } = context;
        let object = self.objects[id as usize].as_mut().expect("a known object");
        object.touched = *seq; // it may have been given up in this very epoch
        if restored.is_empty() {
            return;
        }
        restored.sort_unstable_by_key(|claim| claim.agent);
        let is_once = object.agents.is_empty() && restored.is_sorted_by(|one, two| one.agent < two.agent);
        assert!(is_once, "an object is restored once, with one row for each agent");
        let set = &rules.sets[object.set()];
        let newest = set.latest.then(|| restored.iter().max_by_key(|claim| set.recency(claim))).flatten();
        let mut tally = Tally::reports(restored.len() as i32);
        newest.into_iter().for_each(|claim| tally.add(claim.state, 1));
        let claims = &mut *self.claims.borrow_mut();
        let places = restored.iter().map(|claim| {
            names.agents.hold(claim.agent);
            names.states.hold(claim.state);
            self.any_ttl |= claim.due().is_some();
            if !set.latest {
                tally.add(claim.state, names.weight(claim.agent, object.set()));
            }
            let slot = claims.take(*claim);
            self.report_diffs.push(Update { key: id, value: slot, seq: *seq, diff: 1 });
            Place { agent: claim.agent, state: claim.state, slot, noted: Place::NOT_NOTED }
        });
        let places = places.collect();
        object.restore(places, newest.map(|claim| claim.agent));
        self.tally_diffs.push(Update { key: id, value: (), seq: *seq, diff: tally });
    }
}
