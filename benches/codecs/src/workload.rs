//! The reference workload's names and states, as rows: what an epoch changes, and what a slice repeats.

use std::{collections::BTreeMap, sync::Arc};

use statehouse_dataflows::vocabulary::{Cause, Name, Published, Report, Row, RowValue};

pub(crate) const BEGIN_MS: i64 = 1_763_800_000_000;
const OBJECTS: u64 = 200_000;
const AGENTS: u64 = 5;

/// What an epoch of so many reports changes: a little over half of the reports, of objects all over; a quarter of those change what is published.
pub(crate) fn changes(reports: u64) -> Vec<Row> {
    let mut random = Random(2);
    let mut by_object: BTreeMap<(u64, u64), Vec<(u64, i64)>> = BTreeMap::new();
    for nth in (0..reports as i64).filter(|_| random.below(100) < 54).collect::<Vec<_>>() {
        let object = random.below(OBJECTS);
        // In no order of names, as ids have none; an object's rows together.
        by_object.entry((object.wrapping_mul(0x9E37_79B9_7F4A_7C15), object)).or_default().push((random.below(AGENTS), nth));
    }
    rows(by_object.into_iter().map(|((_, object), reports)| (object, reports)), 4)
}

/// What a slice repeats: adjacent objects with all their reports and what is published of them.
pub(crate) fn slice(reports: u64) -> Vec<Row> {
    let mut random = Random(3);
    let objects = (0..reports / AGENTS).map(|object| (object, (0..AGENTS).map(|agent| (agent, random.below(4_000_000) as i64)).collect()));
    rows(objects.collect::<Vec<_>>().into_iter(), AGENTS)
}

/// These objects' reports (agent, number), and what is published after every so many.
fn rows(objects: impl Iterator<Item = (u64, Vec<(u64, i64)>)>, published_every: u64) -> Vec<Row> {
    let agents: Vec<Name> = (0..AGENTS).map(|agent| format!("waf-proxy-{agent:04}").into()).collect();
    let states: [Name; 2] = ["normal".into(), "under_attack".into()];
    let (mut random, mut rows, mut count) = (Random(4), Vec::new(), 0);
    for (object, reports) in objects {
        let name: Name = format!("site-{object:08}.example.com").into();
        for (agent, nth) in reports {
            let (state, ts_ms) = (&states[random.below(2) as usize], BEGIN_MS + nth);
            let report = Report { state: Arc::clone(state), ts_ms, offset: 1_000_000 + nth, due_ms: None };
            let value = RowValue::Report(Arc::clone(&agents[agent as usize]), Some(report));
            rows.push(Row { partition: 0, object: Arc::clone(&name), value });
            count += 1;
            if count % published_every == 0 {
                let (state, since_ms, revision) = (Some(Arc::clone(state)), ts_ms / 100 * 100, 1_100_000 + nth as u64);
                let published = Published { behind: state.clone(), state, mask: None, since_ms, cause: Cause::Vote, revision };
                rows.push(Row { partition: 0, object: Arc::clone(&name), value: RowValue::Object(Some(Arc::new(published))) });
            }
        }
    }
    rows
}

/// A plain congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}
