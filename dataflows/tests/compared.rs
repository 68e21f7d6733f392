//! The comparison after a restore: whatever the shares and epochs in which a partition's objects are compared, its changes are the same.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, prelude::*};
use statehouse_dataflows::{
    plan::{Plan, RuleSet},
    vocabulary::{Change, Partition},
};
use support::{
    Pump, What,
    generate::{Act, Case, case, sets},
    store::Store,
    world::World,
};

/// A share of a comparison: of so many objects on each worker, and whether the epoch ends with it.
type Share = (usize, bool);

/// What a house with these rules leaves behind.
fn left(case: &Case) -> (Store, Pump) {
    let plan = Arc::new(Plan::new(case.sets.clone()).unwrap());
    let (mut world, mut pump, mut store) = (World::new(&plan, case.workers, case.mask), Pump::new(1), Store::default());
    let steps = case.acts.iter().filter_map(|act| if let Act::Step(step) = act { Some(step.clone()) } else { None });
    world.feed(&pump.feed(&steps.collect::<Vec<_>>()));
    store.commit(world.close(pump.next));
    (store, pump)
}

/// Restores it all under other rules and compares it in these shares, in turn; what is left is compared at once.
fn compared(case: &Case, sets: &[RuleSet], (store, pump): &(Store, Pump), shares: &[Share]) -> (Vec<Change>, Store) {
    let plan = Arc::new(Plan::new(sets.to_vec()).unwrap());
    let (mut world, mut pump, mut store) = (World::new(&plan, case.workers, case.mask), pump.clone(), store.clone());
    let changes_before = store.changes.len();
    let partitions: BTreeSet<Partition> = store.partitions().into_iter().collect();
    for partition in partitions {
        world.restore(&mut pump, partition, &store.of(partition));
        let mut run = pump.compared(partition).run;
        for (objects_max, is_end) in shares.iter().copied().chain([(usize::MAX, true), (usize::MAX, true)]) {
            world.compare(run, objects_max);
            if is_end {
                store.commit(world.close(pump.next));
                world.committed(pump.next - 1);
            }
            (run.first, pump.next) = (pump.next, pump.next + 1);
        }
        world.feed(&[support::Fed { run, what: What::Ticks }]); // the last seq is nobody's
    }
    store.check_digests();
    let mut changes: Vec<_> = store.changes[changes_before..].iter().map(|change| Change { seq: 0, ..change.clone() }).collect();
    changes.sort_by_key(|change| (change.partition, change.object.clone()));
    (changes, store)
}

proptest! {
    #[test]
    fn shares_and_epochs_of_a_comparison_change_nothing(
        case in case(120),
        sets in sets(),
        shares in vec((0..4_usize, any::<bool>()), 0..12),
    ) {
        let left = left(&case);
        let (at_once, kept_at_once) = compared(&case, &sets, &left, &[]);
        let (in_shares, kept) = compared(&case, &sets, &left, &shares);
        let objects: BTreeSet<_> = in_shares.iter().map(|change| (change.partition, change.object.clone())).collect();
        prop_assert_eq!(objects.len(), in_shares.len(), "an object is compared once");
        prop_assert_eq!(in_shares, at_once);
        prop_assert_eq!((kept.published(), kept.reports()), (kept_at_once.published(), kept_at_once.reports()));
    }
}
