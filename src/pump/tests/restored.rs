//! Restores in the pump: bounded parts of epochs, beside partitions that are live.

use super::*;

#[test]
fn many_objects_are_compared_over_several_epochs_and_read_only_then() {
    let mut bench = Bench::new(3_000);
    bench.polled(Polled::Assigned(vec![3]));
    let progress = Progress { n: 9, digest: 1, start: 2 };
    bench.deliver(
        3,
        Delivered::Begin(Standpoint { next_offset: 10, progress: Some(progress), rotation: Arc::default(), clock_ms: Some(DAY), event: 7 }),
    );
    bench.deliver(3, rows_of(5 * COMPARE_OBJECTS));
    bench.turn();
    bench.committed();
    assert_eq!(bench.deliver(3, Delivered::End), ["compare 3/7: 2+1 @0"]);
    assert_eq!(bench.turn(), ["compare 3/7: 3+1 @0"]);
    assert_eq!(bench.turn(), ["compare 3/7: 4+1 @0", "seal 2 before 5", "cut 2"], "no more than that is in an epoch");
    let adopted = bench.part(3).adopted.as_ref().map(|adopted| adopted.progress);
    assert_eq!((adopted, bench.part(3).event), (Some(progress), 8), "what it publishes is committed as it comes");
    assert_eq!(bench.turn(), ["compare 3/7: 5+1 @0"], "of the same event");
    assert_eq!(bench.calls(), Vec::<String>::new(), "not read yet");
    assert_eq!(bench.turn(), ["compare 3/7: 6+1 @0"]);
    assert_eq!((bench.calls(), bench.turn()), (vec!["begin 3 at 10".to_owned()], vec![]), "each once");
}

#[test]
fn a_restore_leaves_room_for_the_records_of_live_partitions() {
    let mut bench = Bench::live(&[0], 100);
    bench.polled(Polled::Assigned(vec![3]));
    bench.deliver(
        3,
        Delivered::Begin(Standpoint {
            next_offset: 10,
            progress: Some(Progress::default()),
            rotation: Arc::default(),
            clock_ms: Some(DAY),
            event: 7,
        }),
    );
    assert!(bench.pump.wants_deliveries());
    bench.deliver(3, rows_of(60));
    assert!(!bench.pump.wants_deliveries(), "not the whole epoch");
    bench.pass(5);
    let told = bench.records(0, &[(10, 1)]);
    assert!(told.iter().any(|line| line.starts_with("records 0/")) && told.contains(&"cut 2".to_owned()), "{told:?}");
    assert_eq!((bench.part(0).records, bench.cuts.last().unwrap().parts.len()), (1, 1), "what is live is committed meanwhile");
    assert!(bench.pump.wants_deliveries(), "in the next one");
}
