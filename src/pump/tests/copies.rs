//! Copies in the pump: begun when nothing of its own waits, in no transaction, taken over or given up.

use super::*;
use crate::message::CopyPart;

fn at(n: u64, next_offset: i64) -> Standpoint {
    let progress = Some(Progress { n, digest: n, start: 0 });
    Standpoint { next_offset, progress, rotation: Arc::default(), clock_ms: Some(DAY + n as Millis * 100), event: 7 }
}

impl Bench {
    /// A copy of this partition, whole after chunk 1, beside live partition 0.
    fn copying(partition: Partition) -> Self {
        let mut bench = Self::live(&[0], 100);
        bench.pump.keep([partition].into());
        assert_eq!(bench.turn(), [format!("Copying({partition})"), format!("copy {partition}")]);
        bench.deliver(partition, Delivered::Begin(at(1, 20)));
        let rows = bench.deliver(partition, rows_of(0));
        assert_eq!(rows, [format!("rows {partition}/7: 2+1 @100 of 0 objects")]);
        bench.deliver(partition, Delivered::End);
        bench
    }

    /// The next epoch is not committed.
    fn fail(&mut self) {
        self.pass(5);
        self.turn();
        self.resolved(Resolved::Failed);
    }
}

#[test]
fn a_copy_is_seen_with_the_epoch_that_it_is_in_and_committed_in_none() {
    let mut bench = Bench::copying(3);
    bench.pass(5);
    bench.turn();
    assert_eq!(bench.cuts[0].copies, [], "nobody said yet that it is level");
    assert_eq!(bench.cuts[0].parts.iter().map(|part| part.partition).collect::<Vec<_>>(), [0]);
    bench.committed();
    assert_eq!(bench.deliver(3, Delivered::Level(DAY + 77)), ["ticks 3/7: 3+1 @100"]);
    assert_eq!(bench.deliver(3, Delivered::Chunk(at(2, 25), vec![])), ["chunk 3/7: 4+1 @200 of 0 objects"]);
    bench.pass(5);
    bench.turn();
    assert_eq!(bench.cuts[1].copies, [CopyPart { partition: 3, next_offset: 25, level_ms: DAY + 77 }]);
    assert_eq!(bench.cuts[1].parts.len(), 1);
    assert_eq!(bench.calls(), Vec::<String>::new(), "the source is not asked for it");
}

#[test]
fn a_copy_that_becomes_ours_is_proven_and_goes_on_like_a_restored_one() {
    let mut bench = Bench::copying(3);
    bench.calls();
    assert_eq!(bench.polled(Polled::Assigned(vec![3])), ["TakingOver(3)", "take over 3"]);
    assert_eq!(bench.deliver(3, Delivered::Chunk(at(2, 25), vec![])), ["chunk 3/7: 3+1 @200 of 0 objects"], "what came meanwhile");
    let committed = Progress { n: 2, digest: 2, start: 9 };
    bench.deliver(3, Delivered::Begin(Standpoint { progress: Some(committed), ..at(2, 25) }));
    assert_eq!(bench.deliver(3, Delivered::End), ["compare 3/7: 4+1 @200"]);
    assert_eq!(bench.calls(), ["begin 3 at 25"]);
    bench.pass(5);
    bench.turn();
    assert_eq!(
        (bench.part(3).adopted.as_ref().map(|adopted| adopted.progress), bench.part(3).event, bench.cuts[0].copies.len()),
        (Some(committed), 8, 0)
    );
    bench.pump.keep([].into());
    assert_eq!(bench.turn(), Vec::<String>::new(), "it is no copy any more");
}

#[test]
fn a_doubted_copy_is_restored_if_it_is_ours_and_begun_anew_if_not() {
    let mut bench = Bench::copying(3);
    assert_eq!(bench.deliver(3, Delivered::Doubt), ["Gone([3])", "give up 3/7: 3+1 @100"]);
    assert_eq!(bench.turn()[..2], ["Copying(3)", "copy 3"]);
    bench.deliver(3, Delivered::Begin(at(1, 20)));
    bench.deliver(3, Delivered::End);
    bench.polled(Polled::Assigned(vec![3]));
    assert_eq!(bench.deliver(3, Delivered::Doubt), ["Restoring(3)", "restore 3", "give up 3/7: 4+1 @100"]);
    assert_eq!(bench.deliver(3, Delivered::Begin(at(2, 25))), Vec::<String>::new(), "and now it is restored as any other");
}

#[test]
fn a_copy_not_whole_yet_is_no_help() {
    let mut bench = Bench::live(&[0], 100);
    bench.pump.keep([3].into());
    bench.turn();
    let cancelled = Arc::clone(&bench.requests[&3].cancelled);
    assert_eq!(bench.polled(Polled::Assigned(vec![3])), ["give up 3/1: 2+1 @-1784000000000", "Restoring(3)", "restore 3"]);
    assert!(cancelled.load(Ordering::Relaxed));
}

#[test]
fn copies_come_after_our_own_and_go_when_they_are_not_wanted() {
    let mut bench = Bench::new(100);
    bench.pump.keep([3].into());
    bench.polled(Polled::Assigned(vec![0]));
    assert_eq!(bench.turn(), Vec::<String>::new(), "0 is to be restored first");
    bench.deliver(0, Delivered::Begin(at(1, 10)));
    bench.deliver(0, Delivered::End);
    assert_eq!(bench.turn()[..2], ["Copying(3)", "copy 3"]);
    bench.pump.keep([4].into());
    assert_eq!(bench.turn(), ["Gone([3])", "give up 3/1: 2+1 @-1784000000000"], "and nothing while an epoch that may name 3 is in flight");
    bench.committed();
    assert_eq!(bench.turn()[..2], ["Copying(4)", "copy 4"]);
}

#[test]
fn a_failed_commit_spares_whole_copies() {
    let mut bench = Bench::copying(3);
    bench.fail();
    assert!(!bench.requests[&3].cancelled.load(Ordering::Relaxed) && !bench.pump.wants_deliveries(), "what comes meanwhile waits");
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0], spared 3/7: 3+1 @100"]);
    assert_eq!(bench.deliver(3, Delivered::Chunk(at(2, 25), vec![])), ["chunk 3/7: 4+1 @200 of 0 objects"]);
    assert_eq!(bench.polled(Polled::Assigned(vec![3])), ["TakingOver(3)", "take over 3"]);
}

#[test]
fn a_failed_commit_spares_what_is_being_taken_over() {
    let mut bench = Bench::copying(3);
    bench.pass(5);
    bench.turn();
    bench.polled(Polled::Assigned(vec![3]));
    bench.resolved(Resolved::Failed);
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0], spared 3/7: 3+1 @100"]);
    bench.deliver(3, Delivered::Begin(at(1, 20)));
    assert_eq!(bench.deliver(3, Delivered::End), ["compare 3/7: 4+1 @100"]);
    // From here on it is in epochs, and goes with one that fails.
    bench.fail();
    bench.resolved(Resolved::Recovered);
    let told = bench.turn();
    assert_eq!(told.last().map(String::as_str), Some("reset 2 [0, 3]"), "{told:?}");
}

#[test]
fn what_is_assigned_while_a_commit_is_recovered_from_is_taken_over_from_its_copy() {
    let mut bench = Bench::copying(3);
    bench.fail();
    assert_eq!(bench.polled(Polled::Assigned(vec![3])), ["TakingOver(3)", "take over 3"]);
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0], spared 3/7: 3+1 @100"]);
}

#[test]
fn a_failed_commit_ends_a_copy_that_is_not_whole() {
    let mut bench = Bench::live(&[0], 100);
    bench.pump.keep([3].into());
    bench.turn();
    bench.fail();
    assert!(bench.requests[&3].cancelled.load(Ordering::Relaxed));
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Gone([3])", "Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0]"]);
    bench.deliver(0, Delivered::Begin(at(1, 10)));
    bench.deliver(0, Delivered::End);
    assert_eq!(bench.turn()[..2], ["Copying(3)", "copy 3"]);
}

#[test]
fn a_takeover_that_is_revoked_leaves_nothing() {
    let mut bench = Bench::copying(3);
    bench.polled(Polled::Assigned(vec![3]));
    let told = bench.polled(Polled::Revoked { partitions: vec![3], lost: false });
    assert_eq!(told, ["give up 3/7: 3+1 @100", "Gone([3])"]);
    assert!(bench.requests[&3].cancelled.load(Ordering::Relaxed));
    assert_eq!(bench.deliver(3, Delivered::End), Vec::<String>::new());
}
