//! The pump by itself: a scripted source, a clock moved by hand, and everything it sends.

mod clocks;
mod copies;
mod restored;

use std::sync::{Mutex, atomic::Ordering};

use ahash::RandomState;
use statehouse_dataflows::{
    rows::Rows,
    vocabulary::{Row, RowValue},
};

use super::*;
use crate::{
    config::SourceConfig,
    log::{Progress, Record},
    message::{Adopted, CutPart, Delivered, Objects, Standpoint},
};

/// 2026-07-14 in milliseconds: a multiple of 100.
const DAY: Millis = 1_784_000_000_000;

/// A source that says what it was asked to do; what it polls is handed to the pump by the test.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Vec<String>>>);

impl Scripted {
    fn note(&self, text: String) -> Result<(), LogError> {
        self.0.lock().unwrap().push(text);
        Ok(())
    }
}

impl Source for Scripted {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        self.note(format!("poll {}", wait.as_millis()))?;
        Ok(Polled::Idle)
    }
    fn begin(&mut self, partition: Partition, offset: i64) -> Result<(), LogError> {
        self.note(format!("begin {partition} at {offset}"))
    }
    fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
        self.note(format!("suspend {partition}"))
    }
    fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError> {
        self.note(format!("release {partitions:?}"))
    }
    fn hold(&mut self, hold: bool) -> Result<(), LogError> {
        self.note(format!("hold {hold}"))
    }
    fn leave(&mut self) {
        self.note("leave".to_owned()).unwrap();
    }
}

/// The pump, its clock, and what happened, as lines: one per message to worker 0, and all others.
struct Bench {
    pump: Pump,
    source: Scripted,
    now: Now,
    requests: BTreeMap<Partition, Request>,
    cuts: Vec<Cut>,
}

impl Bench {
    fn new(max_records: usize) -> Self {
        let settings =
            PumpSettings { min_interval: Duration::from_millis(5), max_records, max_bytes: 1 << 20, max_future_skew_ms: 300_000 };
        let source = Scripted::default();
        let decoder = Arc::new(Decoder::new(&SourceConfig::default()).unwrap());
        let pump = Pump::new(settings, Box::new(source.clone()), decoder, Route::new(RandomState::with_seeds(1, 2, 3, 4), 1));
        let now = Now { wall_ms: DAY, monotonic: Duration::from_secs(1) };
        Self { pump, source, now, requests: BTreeMap::new(), cuts: Vec::new() }
    }

    /// With these partitions live at offset 10, clock `DAY`, event 7, and the source caught up with nothing.
    fn live(partitions: &[Partition], max_records: usize) -> Self {
        let mut bench = Self::new(max_records);
        bench.polled(Polled::Assigned(partitions.to_vec()));
        for partition in partitions {
            let progress = Some(Progress { n: 4, digest: 5, start: 0 });
            bench.deliver(
                *partition,
                Delivered::Begin(Standpoint { next_offset: 10, progress, rotation: Arc::default(), clock_ms: Some(DAY), event: 7 }),
            );
            bench.deliver(*partition, Delivered::End);
        }
        bench.pass(5);
        bench.turn();
        bench.committed();
        bench.source.0.lock().unwrap().clear();
        bench.cuts.clear();
        bench
    }

    fn pass(&mut self, ms: u64) {
        self.now.wall_ms += ms as Millis;
        self.now.monotonic += Duration::from_millis(ms);
    }

    fn polled(&mut self, polled: Polled) -> Vec<String> {
        let mut out = Vec::new();
        self.pump.polled(polled, self.now, &mut out).unwrap();
        self.told(out)
    }

    /// Records of a partition: (offset, timestamp after `DAY`).
    fn records(&mut self, partition: Partition, records: &[(i64, Millis)]) -> Vec<String> {
        let record = |(offset, after_ms): &(i64, Millis)| Record {
            offset: *offset,
            timestamp_ms: DAY + after_ms,
            key: Some(0..1),
            value: None,
            agent: None,
            canonical: false,
        };
        let batch = Batch { partition, records: records.iter().map(record).collect(), bytes: b"o".to_vec() };
        let mut told = self.polled(Polled::Records(batch));
        told.extend(self.turn());
        told
    }

    fn deliver(&mut self, partition: Partition, what: Delivered) -> Vec<String> {
        let delivery = Delivery { partition, number: self.requests[&partition].number, what };
        let mut out = Vec::new();
        self.pump.delivered(delivery, &mut out).unwrap();
        self.told(out)
    }

    fn turn(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        self.pump.turn(self.now, &mut out).unwrap();
        self.told(out)
    }

    fn resolved(&mut self, resolved: Resolved) {
        self.pump.resolved(resolved, self.now).unwrap();
    }

    fn committed(&mut self) {
        let epoch = self.pump.epoch;
        self.resolved(Resolved::Committed { epoch, transacted: true });
    }

    fn calls(&mut self) -> Vec<String> {
        mem::take(&mut *self.source.0.lock().unwrap())
    }

    fn told(&mut self, out: Vec<Sent>) -> Vec<String> {
        out.into_iter().map(|sent| self.line(sent)).collect()
    }

    fn line(&mut self, sent: Sent) -> String {
        match sent {
            Sent::Worker(_, Feed::Records(records)) => {
                let rejects = records.routed.iter().filter_map(|routed| Some((routed.seq, routed.reject.as_ref()?.reason.as_str())));
                format!("records {} rejects {:?}", runs(&records.runs), rejects.collect::<Vec<_>>())
            }
            Sent::Worker(_, Feed::Ticks(of)) => format!("ticks {}", runs(&of)),
            Sent::Worker(_, Feed::Rows { run, objects }) => format!("rows {} of {} objects", runs(&[run]), objects.hashes.len()),
            Sent::Worker(_, Feed::Compare { run, .. }) => format!("compare {}", runs(&[run])),
            Sent::Worker(_, Feed::Chunk { run, objects }) => format!("chunk {} of {} objects", runs(&[run]), objects.len()),
            Sent::Worker(_, Feed::GiveUp(run)) => format!("give up {}", runs(&[run])),
            Sent::Worker(_, Feed::Seal { epoch, end }) => format!("seal {epoch} before {end}"),
            Sent::Worker(_, Feed::Reset { generation, owned, spared }) => {
                let spared = if spared.is_empty() { String::new() } else { format!(", spared {}", runs(&spared)) };
                format!("reset {generation} {owned:?}{spared}")
            }
            Sent::Restore(request) => {
                let partition = request.partition;
                self.requests.insert(partition, request);
                format!("restore {partition}")
            }
            Sent::Order(Order::Copy(request)) => {
                let partition = request.partition;
                self.requests.insert(partition, request);
                format!("copy {partition}")
            }
            Sent::Order(Order::TakeOver { partition, .. }) => format!("take over {partition}"),
            Sent::Note(note) => format!("{note:?}"),
            Sent::Commit(cut) => {
                let text = format!("cut {}{}", cut.epoch, if cut.forced { " forced" } else { "" });
                self.cuts.push(cut);
                text
            }
        }
    }

    fn part(&self, partition: Partition) -> &CutPart {
        self.cuts.last().unwrap().parts.iter().find(|part| part.partition == partition).unwrap()
    }
}

/// So many restored objects, with a row each, for the only worker.
fn rows_of(objects: usize) -> Delivered {
    let row = |at| Row { partition: 3, object: format!("o{at}").into(), value: RowValue::Report("a".into(), None) };
    let rows: Vec<_> = (0..objects).map(row).collect();
    Delivered::Rows(vec![Objects { hashes: vec![0; objects], rows: Rows::of(&rows) }])
}

/// Runs as `partition/event: first seq +count @clock after DAY` with `#offset` for records.
fn runs(runs: &[Run]) -> String {
    let run = |run: &Run| {
        let offset = run.offset.map(|offset| format!("#{offset}")).unwrap_or_default();
        format!("{}/{}: {}+{} @{}{offset}", run.partition, run.event, run.first, run.count, run.clock_ms - DAY)
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_fresh_partition_commits_its_start_before_it_is_read() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.polled(Polled::Assigned(vec![0])), ["Restoring(0)", "restore 0"]);
    let at = Standpoint { next_offset: 42, progress: None, rotation: Arc::default(), clock_ms: None, event: 1 };
    assert_eq!(bench.deliver(0, Delivered::Begin(at)).len(), 1);
    bench.deliver(0, Delivered::End);
    assert_eq!(bench.turn(), ["seal 1 before 2", "cut 1 forced"]);
    let part = bench.part(0);
    assert_eq!((part.next_offset, part.adopted.clone(), part.records), (42, Some(Adopted::default()), 0));
    assert_eq!(bench.calls(), Vec::<String>::new(), "nothing is read before the start is committed");
    bench.committed();
    assert_eq!(bench.calls(), ["begin 0 at 42"]);
    bench.pass(50);
    assert_eq!(bench.records(0, &[(42, 30)])[0], "records 0/1: 2+1 @0, 0/2: 3+1 @0#42 rejects []", "a first clock is set in one tick");
}

#[test]
fn a_restored_partition_is_read_at_once_and_compared_once() {
    let mut bench = Bench::new(100);
    bench.polled(Polled::Assigned(vec![3]));
    let progress = Progress { n: 9, digest: 1, start: 2 };
    bench.deliver(
        3,
        Delivered::Begin(Standpoint { next_offset: 10, progress: Some(progress), rotation: Arc::default(), clock_ms: Some(DAY), event: 7 }),
    );
    assert_eq!(bench.deliver(3, rows_of(0)), ["rows 3/7: 1+1 @0 of 0 objects"]);
    assert_eq!(bench.turn(), ["seal 1 before 2", "cut 1"], "rows go in between live epochs");
    assert_eq!(bench.cuts[0].parts.len(), 0, "and nothing of the partition is committed");
    bench.committed();
    assert_eq!(bench.deliver(3, rows_of(0)), ["rows 3/7: 2+1 @0 of 0 objects"]);
    assert_eq!(bench.deliver(3, Delivered::End), ["compare 3/7: 3+1 @0"]);
    assert_eq!(bench.calls(), ["begin 3 at 10"]);
    bench.pass(5);
    assert_eq!(bench.turn(), ["seal 2 before 4", "cut 2"]);
    assert_eq!((bench.part(3).adopted.as_ref().map(|adopted| adopted.progress), bench.part(3).event), (Some(progress), 8));
    bench.committed();
    bench.pass(5);
    bench.records(3, &[(10, 0)]);
    assert_eq!(bench.part(3).adopted, None, "progress is brought once");
}

#[test]
fn deliveries_of_an_assignment_that_is_over_are_dropped() {
    let mut bench = Bench::new(100);
    bench.polled(Polled::Assigned(vec![0]));
    let stale = bench.requests[&0].number;
    assert_eq!(bench.polled(Polled::Revoked { partitions: vec![0], lost: false }), ["give up 0/1: 1+1 @-1784000000000", "Gone([0])"]);
    bench.turn();
    assert_eq!(bench.calls(), ["release [0]"]);
    bench.polled(Polled::Assigned(vec![0]));
    let at = Standpoint { next_offset: 1, progress: None, rotation: Arc::default(), clock_ms: None, event: 1 };
    let mut out = Vec::new();
    bench.pump.delivered(Delivery { partition: 0, number: stale, what: Delivered::Begin(at.clone()) }, &mut out).unwrap();
    assert!(out.is_empty());
    assert_eq!(bench.deliver(0, Delivered::Begin(at)).len(), 1, "this one counts");
}

#[test]
fn epochs_follow_one_another() {
    let mut bench = Bench::live(&[0], 100);
    bench.pass(5);
    assert_eq!(bench.records(0, &[(10, 0)])[1..], ["seal 2 before 3", "cut 2"], "open long enough");
    bench.pass(50);
    assert_eq!(bench.records(0, &[(11, 0)]).len(), 1, "one epoch is in flight");
    bench.committed();
    assert_eq!(bench.turn(), ["seal 3 before 4", "cut 3"]);
    bench.committed();
    bench.pass(4);
    assert_eq!(bench.records(0, &[(12, 0)]).len(), 1, "open too shortly");
    bench.pass(1);
    assert_eq!(bench.turn(), ["seal 4 before 5", "cut 4"]);
    bench.committed();
    bench.pass(10_000);
    assert_eq!(bench.turn(), Vec::<String>::new(), "nothing happened");
    assert_eq!(bench.part(0).next_offset, 13);
}

#[test]
fn a_full_epoch_holds_reading_until_it_can_be_cut() {
    let mut bench = Bench::live(&[0], 2);
    bench.pass(5);
    let told = bench.records(0, &[(10, 0), (11, 0), (12, 0), (13, 0), (14, 0)]);
    assert_eq!(told, ["records 0/8: 2+2 @0#10 rejects []", "seal 2 before 4", "cut 2"]);
    bench.pump.poll(bench.now).unwrap();
    assert_eq!(bench.calls(), ["hold true", "poll 0"], "there is room for what waits");
    assert_eq!(bench.turn(), ["records 0/10: 4+2 @0#12 rejects []"], "the next one fills meanwhile");
    assert_eq!(bench.turn(), Vec::<String>::new());
    bench.pump.poll(bench.now).unwrap();
    assert_eq!(bench.calls(), ["poll 1"], "full");
    bench.committed();
    assert_eq!(bench.turn(), ["seal 3 before 6", "cut 3"], "full: at once");
    assert_eq!(bench.turn(), ["records 0/12: 6+1 @0#14 rejects []"]);
    bench.pump.poll(bench.now).unwrap();
    assert_eq!(bench.calls(), ["hold false", "poll 1"]);
    assert_eq!(bench.cuts.iter().map(|cut| cut.parts[0].next_offset).collect::<Vec<_>>(), [12, 14]);
}

#[test]
fn a_revoked_partition_is_committed_before_it_is_let_go() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]); // epoch 2 is in flight
    bench.records(1, &[(10, 0)]); // epoch 3 is open
    bench.polled(Polled::Revoked { partitions: vec![1], lost: false });
    assert_eq!(bench.records(1, &[(11, 0)]), Vec::<String>::new(), "nothing of it is fed any more");
    assert_eq!(bench.calls(), Vec::<String>::new(), "epoch 2 is not resolved");
    bench.committed();
    assert_eq!(bench.turn(), ["seal 3 before 5", "cut 3"], "without waiting for the interval");
    assert_eq!(bench.part(1).next_offset, 11);
    assert_eq!(bench.calls(), Vec::<String>::new());
    bench.committed();
    assert_eq!(bench.turn()[..2], ["give up 1/9: 5+1 @0", "Gone([1])"]);
    assert_eq!(bench.calls(), ["release [1]"]);
    bench.pass(5);
    bench.turn();
    assert_eq!(bench.cuts.last().unwrap().parts.iter().map(|part| part.partition).collect::<Vec<_>>(), [0]);
}

#[test]
fn after_a_loss_answers_stay_until_the_group_is_joined_again() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]); // epoch 2 is in flight
    bench.records(1, &[(10, 0)]); // epoch 3 is open
    let told = bench.polled(Polled::Revoked { partitions: vec![0, 1], lost: true });
    assert!(matches!(&told[..], [said] if said.starts_with("Adrift(Some((1784000000010, ")), "workers keep what they have: {told:?}");
    bench.pass(5);
    assert_eq!(bench.turn(), Vec::<String>::new());
    assert_eq!(bench.calls(), Vec::<String>::new(), "epoch 2 has parts of them and is not resolved");
    bench.committed();
    bench.pass(5);
    assert_eq!(bench.turn(), Vec::<String>::new(), "what was open is dropped");
    assert_eq!(bench.calls(), ["release [0, 1]"]);
    let mut told = bench.polled(Polled::Assigned(vec![1, 2]));
    told.extend(bench.turn());
    let expected =
        ["Restoring(2)", "Gone([0])", "Restoring(1)", "restore 1", "Restoring(2)", "restore 2", "Adrift(None)", "reset 1 [1, 2]"];
    assert_eq!(told, expected);
}

#[test]
fn a_loss_while_the_log_recovers_changes_nothing_for_those_who_ask() {
    let mut bench = Bench::live(&[0], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]);
    bench.resolved(Resolved::Failed);
    bench.polled(Polled::Revoked { partitions: vec![0], lost: true });
    assert_eq!(bench.turn(), Vec::<String>::new());
    assert_eq!(bench.polled(Polled::Assigned(vec![0])), Vec::<String>::new(), "it is still asked at L");
    assert_eq!(bench.turn(), Vec::<String>::new(), "the log is not there yet");
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0]"]);
}

#[test]
fn a_group_joined_again_with_nothing_to_own_ends_the_answers() {
    let mut bench = Bench::live(&[0], 100);
    bench.polled(Polled::Revoked { partitions: vec![0], lost: true });
    bench.turn();
    assert_eq!(bench.turn(), Vec::<String>::new());
    bench.polled(Polled::Assigned(vec![]));
    assert_eq!(bench.turn(), ["Gone([0])", "Adrift(None)", "reset 1 []"]);
}

#[test]
fn what_is_kept_after_a_loss_of_some_is_restored_at_once() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.records(1, &[(10, 0)]);
    bench.polled(Polled::Revoked { partitions: vec![1], lost: true });
    assert_eq!(bench.turn(), ["Gone([1])", "Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0]"]);
    assert_eq!(bench.calls(), ["suspend 0", "release [1]"]);
}

#[test]
fn a_failed_epoch_leads_to_a_restore_of_everything_owned() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]); // epoch 2 is in flight
    bench.records(0, &[(11, 0)]); // epoch 3 is open
    bench.resolved(Resolved::Failed);
    assert_eq!(bench.calls(), ["suspend 0", "suspend 1"]);
    bench.pass(5);
    assert_eq!(bench.turn(), Vec::<String>::new(), "what was open is dropped, and workers keep what they have: it is asked at L");
    let gone = bench.polled(Polled::Revoked { partitions: vec![1], lost: false });
    assert_eq!(gone, ["Gone([1])"], "there is nothing to commit");
    bench.turn();
    assert_eq!(bench.calls(), ["release [1]"]);
    bench.polled(Polled::Assigned(vec![2]));
    bench.resolved(Resolved::Recovered);
    assert_eq!(bench.turn(), ["Restoring(0)", "restore 0", "Restoring(2)", "restore 2", "Adrift(None)", "reset 1 [0, 2]"]);
    let progress = Some(Progress { n: 5, digest: 6, start: 0 });
    bench.deliver(0, Delivered::Begin(Standpoint { next_offset: 11, progress, rotation: Arc::default(), clock_ms: Some(DAY), event: 8 }));
    assert_eq!(bench.deliver(0, Delivered::End), ["compare 0/8: 5+1 @0"], "seqs go on");
    bench.turn();
    let cut = bench.cuts.last().unwrap();
    assert_eq!(
        (cut.generation, cut.parts.len(), cut.parts[0].next_offset, cut.parts[0].adopted.as_ref().map(|adopted| adopted.progress)),
        (1, 1, 11, progress)
    );
}

#[test]
fn epochs_are_halved_while_they_fail() {
    let restored = |bench: &mut Bench| {
        bench.resolved(Resolved::Failed);
        bench.resolved(Resolved::Recovered);
        bench.turn();
        let progress = Some(Progress { n: 4, digest: 5, start: 0 });
        bench.deliver(
            0,
            Delivered::Begin(Standpoint { next_offset: 10, progress, rotation: Arc::default(), clock_ms: Some(DAY), event: 7 }),
        );
        bench.deliver(0, Delivered::End);
        bench.pass(5);
        bench.turn();
        bench.committed();
        bench.pass(5);
    };
    let mut bench = Bench::live(&[0], 8);
    bench.pass(5);
    let sizes = |bench: &mut Bench, first: i64| {
        let records: Vec<_> = (first..first + 20).map(|offset| (offset, 0)).collect();
        bench.records(0, &records);
        bench.cuts.last().unwrap().parts[0].records
    };
    assert_eq!(sizes(&mut bench, 10), 8);
    restored(&mut bench);
    assert_eq!(sizes(&mut bench, 10), 4);
    bench.committed();
    bench.pass(5);
    bench.turn();
    assert_eq!(bench.cuts.last().unwrap().parts[0].records, 8, "and doubled when they don't");
}

#[test]
fn what_is_leaving_is_not_restored_again() {
    let mut bench = Bench::live(&[0, 1], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]); // epoch 2 is in flight
    assert_eq!(bench.polled(Polled::Revoked { partitions: vec![1], lost: false }), Vec::<String>::new(), "it waits for the epoch");
    bench.resolved(Resolved::Failed);
    bench.resolved(Resolved::Recovered); // both before the next turn
    assert_eq!(bench.turn(), ["Gone([1])", "Restoring(0)", "restore 0", "Adrift(None)", "reset 1 [0]"]);
    assert_eq!(bench.calls(), ["suspend 0", "suspend 1", "release [1]"]);
}

#[test]
fn whoever_restores_what_is_given_up_is_told() {
    let mut bench = Bench::new(100);
    bench.polled(Polled::Assigned(vec![0]));
    let cancelled = bench.requests[&0].cancelled.clone();
    let mut out = Vec::new();
    bench.pump.give_up(0, &mut out);
    assert!(cancelled.load(Ordering::Relaxed));
}

#[test]
fn stopping_commits_what_is_open_and_leaves() {
    let mut bench = Bench::live(&[0], 100);
    bench.pass(5);
    bench.records(0, &[(10, 0)]); // epoch 2 is in flight
    bench.records(0, &[(11, 0)]); // epoch 3 is open
    let mut out = Vec::new();
    bench.pump.stop(&mut out);
    assert_eq!(bench.turn(), Vec::<String>::new());
    bench.committed();
    assert_eq!(bench.turn(), ["seal 3 before 4", "cut 3"]);
    assert!(!bench.pump.has_left());
    bench.committed();
    assert_eq!(bench.turn(), Vec::<String>::new());
    assert!(bench.pump.has_left());
    assert_eq!(bench.calls(), ["leave"]);
}

#[test]
fn an_idle_house_gives_one_sign_of_life_a_day() {
    let mut bench = Bench::live(&[0], 100);
    bench.pass(24 * 60 * 60 * 1000 - 1);
    assert_eq!(bench.turn(), Vec::<String>::new());
    bench.pass(1);
    assert_eq!(bench.turn(), ["seal 2 before 2", "cut 2 forced"]);
    bench.committed();
    bench.pass(1_000);
    assert_eq!(bench.turn(), Vec::<String>::new());
}

#[test]
fn a_loss_before_anything_could_be_asked_leaves_no_trouble_behind() {
    let mut bench = Bench::new(100);
    bench.polled(Polled::Assigned(vec![0]));
    let told = bench.polled(Polled::Revoked { partitions: vec![0], lost: true });
    assert_eq!(told, ["give up 0/1: 1+1 @-1784000000000", "Gone([0])"], "nothing would ever say that it is over");
    bench.turn();
    assert_eq!(bench.polled(Polled::Assigned(vec![0])), ["Restoring(0)", "restore 0"]);
}

#[test]
fn a_house_that_stops_restores_no_further() {
    let mut bench = Bench::new(100);
    bench.polled(Polled::Assigned(vec![0]));
    let progress = Some(Progress { n: 9, digest: 1, start: 2 });
    bench.deliver(0, Delivered::Begin(Standpoint { next_offset: 10, progress, rotation: Arc::default(), clock_ms: Some(DAY), event: 7 }));
    let mut out = Vec::new();
    bench.pump.stop(&mut out);
    assert_eq!(bench.deliver(0, rows_of(0)), Vec::<String>::new());
    assert_eq!(bench.turn(), Vec::<String>::new());
    assert!(bench.pump.has_left(), "however much there is to restore");
}
