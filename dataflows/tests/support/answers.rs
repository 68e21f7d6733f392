//! Every answer the engines can give, against the reference.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_dataflows::{
    plan::Plan,
    query::{Explanation, ListQuery, ObjectView, ReportView},
    reference::Reference,
    vocabulary::{Name, Partition, Published, Report},
};

use super::{generate::PARTITIONS, world::World};

type Key = (String, Partition);

/// What the engines must answer: what the reference knows, without the partitions that are not theirs.
struct Known {
    published: BTreeMap<Key, Published>,
    reports: BTreeMap<Key, BTreeMap<String, Report>>,
    objects: Vec<ObjectView>,
    /// The partitions that lists and summaries are about.
    of: BTreeSet<Partition>,
}

pub(crate) fn check_answers(plan: &Plan, reference: &Reference, away: &BTreeSet<Partition>, world: &mut World) {
    let here = |key: &Key| !away.contains(&key.1);
    let mut known = Known { published: reference.published(), reports: reference.reports(), objects: Vec::new(), of: BTreeSet::new() };
    known.of = PARTITIONS.into_iter().filter(|partition| !away.contains(partition)).collect();
    known.published.retain(|key, _| here(key));
    known.reports.retain(|key, _| here(key));
    known.objects = known.published.iter().map(|(key, published)| object_view(plan, reference, key, published)).collect();
    check_lists(&known, world);
    check_summary(&known, world);
    for view in &known.objects {
        check_object(plan, reference, &known, (view, &mut *world));
    }
    check_strangers(world, away);
}

fn object_view(plan: &Plan, reference: &Reference, key: &Key, published: &Published) -> ObjectView {
    let (object, partition) = key;
    let rule = plan.sets()[plan.set_of(object)].rule.name().into();
    let (votes, _) = reference.decision(object, *partition);
    ObjectView { object: object.as_str().into(), partition: *partition, published: published.clone().into(), rule, votes }
}

fn check_object(plan: &Plan, reference: &Reference, known: &Known, (view, world): (&ObjectView, &mut World)) {
    let (object, partition) = (&*view.object, view.partition);
    assert_eq!(Some(view.clone()), world.object(partition, object), "object");
    let reports = known.reports.get(&(object.to_owned(), partition)).cloned().unwrap_or_default();
    let answered = world.reports(partition, object).unwrap_or_else(|| panic!("no reports on {object} in {partition}"));
    let by_agent: BTreeMap<_, _> = answered.iter().map(|view| (view.agent.to_string(), view.report.clone())).collect();
    assert_eq!(by_agent.len(), answered.len(), "an agent twice: {answered:?}");
    assert_eq!(reports, by_agent, "reports on {object} in {partition}");
    let explained = world.explain(partition, object).unwrap_or_else(|| panic!("no explanation of {object} in {partition}"));
    check_explanation(plan, reference, view, &explained);
    let sorted: Vec<ReportView> = explained.reports.clone();
    assert!(sorted.is_sorted_by_key(|view| view.agent.clone()), "reports not by agent: {sorted:?}");
    let explained: BTreeMap<_, _> = explained.reports.into_iter().map(|view| (view.agent.to_string(), view.report)).collect();
    assert_eq!(reports, explained, "explained reports on {object} in {partition}");
}

fn check_explanation(plan: &Plan, reference: &Reference, view: &ObjectView, explained: &Explanation) {
    let set = &plan.sets()[plan.set_of(&view.object)];
    assert_eq!(*view, explained.object, "explained object");
    let (_, verdict) = reference.decision(&view.object, view.partition);
    assert_eq!(verdict, explained.verdict, "explained verdict of {}", view.object);
    assert_eq!((&set.prefix, set.min_reports, set.on_empty), (&explained.prefix, explained.min_reports, explained.on_empty));
    let counted: i64 = explained.reports.iter().map(|report| i64::from(report.weight)).sum();
    let tallied: i64 = view.votes.weights.iter().map(|(_, weight)| weight).sum();
    let by_weight = !matches!(set.rule, statehouse_dataflows::plan::Rule::Latest);
    assert!(!by_weight || counted == tallied, "explained weights {counted}, tallied {tallied}: {explained:?}");
    assert!(!explained.why.is_empty() && !explained.rule_text.is_empty());
}

fn check_lists(known: &Known, world: &mut World) {
    let states: BTreeSet<Option<Name>> = known.objects.iter().map(|view| view.published.state.clone()).collect();
    let mut filters = vec![None, Some(Some("no such state".to_owned())), Some(None)];
    filters.extend(states.into_iter().flatten().map(|state| Some(Some(state.to_string()))));
    for state in filters {
        for prefix in ["", "o1", "p"] {
            let matches = |view: &&ObjectView| {
                let stands = state.as_ref().is_none_or(|state| state.as_deref() == view.published.state.as_deref());
                view.object.starts_with(prefix) && stands
            };
            let expected: Vec<_> = known.objects.iter().filter(matches).cloned().collect();
            let query = ListQuery { prefix: prefix.to_owned(), state: state.clone(), after: None, limit: usize::MAX };
            assert_eq!(expected, world.list(&query, &known.of), "list by {query:?}");
            let limit = 3;
            assert_eq!(
                expected,
                pages(world, ListQuery { limit, ..query }, &known.of),
                "pages of {limit} by prefix {prefix:?}, state {state:?}"
            );
        }
    }
}

fn pages(world: &mut World, mut query: ListQuery, of: &BTreeSet<Partition>) -> Vec<ObjectView> {
    let mut all = Vec::new();
    loop {
        let page = world.list(&query, of);
        assert!(page.len() <= query.limit, "a page over its limit");
        let Some(last) = page.last() else { return all };
        query.after = Some((last.object.clone(), last.partition));
        all.extend(page);
    }
}

fn check_summary(known: &Known, world: &mut World) {
    let mut expected = BTreeMap::new();
    for published in known.published.values() {
        *expected.entry(published.state.clone()).or_insert(0) += 1;
    }
    assert_eq!(expected, world.summary(&known.of), "summary");
}

/// Nobody knows what was never told, nor what is another's.
fn check_strangers(world: &mut World, away: &BTreeSet<Partition>) {
    for (partition, object) in away.iter().map(|partition| (*partition, "o0")).chain([(0, "stranger"), (99, "o0")]) {
        assert_eq!(None, world.object(partition, object), "{object} in {partition}");
        assert!(world.reports(partition, object).is_none(), "reports on {object} in {partition}");
        assert!(world.explain(partition, object).is_none(), "explanation of {object} in {partition}");
    }
}
