//! Verdicts and answers come from the arrangements: who empties one gets wrong ones.
//!
//! A house that kept a second copy somewhere, and answered from that, would pass every other test and fail these.

mod support;

use std::sync::Arc;

use statehouse_dataflows::{
    engine::Arrangement,
    plan::{OnNone, Plan, Rule, RuleSet},
    reference::Reference,
    vocabulary::Change,
};
use support::{Pump, Step, Told, tell, world::World};

/// A house in which x leads y by one report, and what a reference says of it.
struct House {
    world: World,
    reference: Reference,
    pump: Pump,
}

impl House {
    fn new(set: RuleSet) -> Self {
        let plan = Arc::new(Plan::of(set).unwrap());
        let (world, reference) = (World::new(&plan, 1, u64::MAX), Reference::new(&plan));
        let mut house = Self { world, reference, pump: Pump::new(1) };
        let changes = house.tell(&[("a", "x"), ("b", "y"), ("c", "x")]);
        assert_eq!(changes.0, changes.1, "before anything is emptied");
        house
    }

    /// Reports on an object, in an epoch of their own: the changes that there are, and those that there should be.
    fn tell(&mut self, reports: &[(&str, &str)]) -> (Vec<Change>, Vec<Change>) {
        let step = |(agent, state): &(&str, &str)| {
            let report = Told::Report { agent: (*agent).to_owned(), state: (*state).to_owned(), ts_ms: 0, ttl_ms: None };
            Step::Record(0, "o".to_owned(), report)
        };
        let fed = self.pump.feed(&reports.iter().map(step).collect::<Vec<_>>());
        self.world.feed(&fed);
        let left = self.world.close(self.pump.next);
        self.world.committed(self.pump.next - 1);
        (left.changes, tell(&mut self.reference, &fed))
    }

    fn drain(&mut self, what: Arrangement) {
        self.world.drain(&mut self.pump, what);
        self.world.close(self.pump.next);
        self.world.committed(self.pump.next - 1);
    }
}

#[test]
fn without_tallies_verdicts_are_wrong() {
    let mut house = House::new(RuleSet::new(Rule::Majority));
    house.drain(Arrangement::Tally);
    let (changes, expected) = house.tell(&[("d", "y")]);
    assert!(expected.is_empty(), "2 and 2: what is published stays");
    assert_eq!(changes.last().and_then(|change| change.state.as_deref()), Some("y"), "d's is the only vote that is left");
}

#[test]
fn without_tallies_answers_are_wrong() {
    let mut house = House::new(RuleSet::new(Rule::Majority));
    assert_eq!(house.world.explain(0, "o").unwrap().object.votes.live, 3);
    house.drain(Arrangement::Tally);
    let explained = house.world.explain(0, "o");
    assert_eq!(explained.map_or(0, |explained| explained.object.votes.live), 0);
}

#[test]
fn without_reports_verdicts_over_reports_are_wrong() {
    let mut house = House::new(RuleSet { on_none: OnNone::Latest, ..RuleSet::new(Rule::Majority) });
    house.drain(Arrangement::Reports);
    let (changes, expected) = house.tell(&[("d", "x")]);
    assert!(expected.is_empty(), "x had the majority before");
    assert_ne!(changes, expected, "with d's report alone, x is published anew");
}

#[test]
fn without_reports_answers_are_wrong() {
    let mut house = House::new(RuleSet::new(Rule::Majority));
    assert_eq!(house.world.reports(0, "o").unwrap().len(), 3);
    house.drain(Arrangement::Reports);
    assert_eq!(house.world.reports(0, "o").unwrap_or_default(), []);
    assert_eq!(house.world.explain(0, "o").map_or(0, |explained| explained.reports.len()), 0);
}
