//! Slices of an object with very many agents: it is parted, and all of it comes once in a rotation, whatever changes meanwhile.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use statehouse_dataflows::{
    engine::{Closed, Engine},
    plan::{Plan, Rule, RuleSet},
    slice::{Position, Slice, SliceAsk},
    vocabulary::{Name, RowValue},
};
use support::{Fed, Pump, Step, Told, What};

const AGENTS: usize = 10_000;

fn report(object: &str, agent: usize, state: &str) -> Step {
    let told = Told::Report { agent: format!("a{agent:05}"), state: state.to_owned(), ts_ms: 0, ttl_ms: None };
    Step::Record(0, object.to_owned(), told)
}

/// Applies steps and closes the epoch, asking for a slice after this position.
fn epoch(engine: &mut Engine, pump: &mut Pump, steps: &[Step], after: &Position) -> Slice {
    for Fed { run, what } in pump.feed(steps) {
        engine.run(run);
        if let What::Records(records) = what {
            for (seq, (object, told)) in (run.first..).zip(&records) {
                engine.apply(seq, object, object.len() as u64, told.event());
            }
        }
    }
    let ask = SliceAsk { partition: 0, after: after.clone(), rows_max: 100 };
    let Closed { mut slices, .. } = engine.close_and_slice(pump.next, &[ask]);
    engine.committed(pump.next - 1);
    slices.pop().expect("a slice")
}

#[test]
fn one_object_of_very_many_agents_comes_in_parts() {
    let mut engine = Engine::new(Arc::new(Plan::of(RuleSet::new(Rule::Majority)).unwrap()));
    let mut pump = Pump::new(1);
    let mut first: Vec<_> = (0..AGENTS).map(|agent| report("big", agent, "up")).collect();
    first.extend([report("a", 0, "up"), report("z", 0, "up")]);
    let slice = epoch(&mut engine, &mut pump, &first, &Position::default());
    assert!(slice.rows.is_empty() && slice.is_end, "everything changed in the epoch itself");
    let (mut position, mut seen, mut passed) = (Position::default(), BTreeMap::<(Name, Option<Name>), usize>::new(), Vec::new());
    let mut changed = BTreeSet::new();
    for nth in 0.. {
        // One that was passed, one that was not, and one that comes anew.
        let steps = [report("big", nth, "down"), report("big", AGENTS - 1 - nth, "down"), report("big", AGENTS + nth, "up")];
        changed.extend([nth, AGENTS - 1 - nth, AGENTS + nth]);
        let slice = epoch(&mut engine, &mut pump, &steps, &position);
        assert!(slice.rows.len() <= 4_200, "{} rows at once", slice.rows.len());
        for row in slice.rows.to_rows() {
            let agent = match row.value {
                RowValue::Report(agent, Some(_)) => Some(agent),
                RowValue::Object(Some(_)) => None,
                other => panic!("no live row: {other:?}"),
            };
            *seen.entry((row.object, agent)).or_default() += 1;
        }
        passed.push(slice.reached.clone());
        position = slice.reached;
        if slice.is_end {
            break;
        }
    }
    assert!(passed.iter().filter(|position| position.part.is_some()).count() >= 2, "{passed:?}");
    assert!(passed.iter().all(|position| position.reached().is_some_and(|name| **name >= *"a")));
    assert_eq!(position, Position { passed: Some("z".into()), part: None });
    assert!(seen.values().all(|times| *times == 1), "a row is passed once");
    let missed = (0..AGENTS).filter(|agent| !seen.contains_key(&("big".into(), Some(format!("a{agent:05}").into()))));
    let missed: Vec<_> = missed.filter(|agent| !changed.contains(agent)).collect();
    assert_eq!(missed, Vec::<usize>::new(), "live, unchanged and not passed");
    for (object, agent) in [("a", None), ("a", Some("a00000")), ("big", None), ("z", None), ("z", Some("a00000"))] {
        assert!(seen.contains_key(&(object.into(), agent.map(Name::from))), "{object} {agent:?}");
    }
}
