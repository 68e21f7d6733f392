//! Commit by itself: a committer that keeps what it is given, or fails.

use std::sync::{Arc, Mutex};

use statehouse_dataflows::{
    rows::Rows,
    vocabulary::{Report, Row, RowValue},
};

use super::*;
use crate::{
    chunk,
    log::{RejectRecord, SinkRecord},
    message::{Adopted, CutPart, OutputPart},
};

/// Keeps transactions; fails when told to. Its checkpoint begins at offset 100.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Vec<Transaction>, bool)>>);

impl Committer for Kept {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        let mut kept = self.0.lock().unwrap();
        if kept.1 {
            return Err(TransactError::Maybe("told to".into()));
        }
        let placed = transaction.parts.iter().filter(|part| !part.pieces.is_empty()).map(|part| (part.partition, 100)).collect();
        kept.0.push(transaction);
        Ok(placed)
    }
    fn recover(&mut self, _: &dyn Fn() -> bool) -> Result<(), LogError> {
        self.0.lock().unwrap().1 = false;
        Ok(())
    }
}

const NOW: Now = Now { wall_ms: 1_000, monotonic: std::time::Duration::ZERO };

fn commit(workers: usize) -> (Commit, Kept) {
    let kept = Kept::default();
    let settings = CommitSettings {
        house: "test".into(),
        instance: "i".into(),
        workers,
        max_piece_bytes: chunk::PIECE_BYTES_MAX,
        slice_bytes_min: 16 << 10,
        idle_slice_bytes: 1 << 20,
    };
    (Commit::new(settings, Box::new(kept.clone())), kept)
}

fn part(partition: Partition, records: u64, adopted: Option<Progress>) -> CutPart {
    let adopted = adopted.map(|progress| Adopted { progress, rotation: Arc::default() });
    CutPart { partition, next_offset: 10 + records as Offset, clock_ms: Some(500), event: 4, records, ticks: vec![(10, 500)], adopted }
}

fn cut(epoch: u64, parts: Vec<CutPart>) -> Cut {
    Cut { epoch, generation: 0, end: epoch * 10, forced: false, parts, copies: Vec::new() }
}

fn output(worker: usize, epoch: u64, parts: Vec<OutputPart>) -> Output {
    Output { worker, epoch, generation: 0, parts, refused: None, causes: BTreeMap::new(), counts: Default::default() }
}

fn change(seq: Seq, object: &str) -> (Seq, SinkRecord) {
    (seq, SinkRecord { key: object.into(), value: Some(b"x".to_vec()), headers: Vec::new() })
}

fn row(object: &str) -> Rows {
    let report = Report { state: "x".into(), ts_ms: 1, offset: 2, due_ms: None };
    Rows::of(&[Row { partition: 0, object: object.into(), value: RowValue::Report("a".into(), Some(report)) }])
}

fn told(out: &mut Vec<Sent>) -> Vec<String> {
    out.drain(..).map(|sent| format!("{sent:?}")).collect()
}

/// Gathers all of it; the last message must complete the epoch.
fn run(commit: &mut Commit, cut: Cut, outputs: Vec<Output>, out: &mut Vec<Sent>) -> Outcome {
    let mut messages: Vec<_> = outputs.into_iter().map(ToCommit::Output).collect();
    messages.insert(1.min(messages.len()), ToCommit::Cut(cut));
    let last = messages.pop().expect("there is one");
    for message in messages {
        assert!(commit.gather(message).is_none(), "not all of it is there");
    }
    let epoch = commit.gather(last).expect("all of it is there");
    commit.resolve(epoch, NOW, out)
}

#[test]
fn outputs_of_all_workers_become_one_transaction_and_everyone_is_told_in_order() {
    let (mut commit, kept) = commit(2);
    let reject = |offset| RejectRecord { offset, timestamp_ms: 0, key: None, value: None, reason: "no_key", detail: String::new() };
    let outputs = vec![
        output(
            1,
            1,
            vec![OutputPart {
                changes: vec![change(2, "b"), change(5, "b")],
                rows: row("b"),
                digest_delta: 5,
                rejects: vec![reject(11)],
                ..OutputPart::default()
            }],
        ),
        output(
            0,
            1,
            vec![OutputPart {
                changes: vec![change(1, "a"), change(4, "a")],
                rows: row("a"),
                digest_delta: u64::MAX,
                rejects: vec![reject(10)],
                ..OutputPart::default()
            }],
        ),
    ];
    let mut out = Vec::new();
    let progress = Progress { n: 7, digest: 100, start: 3 };
    let quiet = Progress { n: 2, digest: 9, start: 1 };
    let parts = vec![part(0, 3, Some(progress)), part(4, 0, Some(quiet))];
    let outcome = run(&mut commit, cut(1, parts), outputs, &mut out);
    assert!(matches!(outcome, Outcome::Committed { transacted: true, .. }), "{outcome:?}");
    let expected = [
        "Worker(0, Committed(9, []))",
        "Worker(1, Committed(9, []))",
        "Note(Committed([(0, 13), (4, 10)]))",
        "Pump(Committed { epoch: 1, transacted: true })",
    ];
    assert_eq!(told(&mut out), expected);
    let kept = kept.0.lock().unwrap();
    let [busy, idle] = &kept.0[0].parts[..] else { panic!("two parts") };
    assert_eq!(busy.changes.iter().map(|change| &*change.key).collect::<String>(), "abab", "by seq");
    assert_eq!(busy.rejects.iter().map(|reject| reject.offset).collect::<Vec<_>>(), [10, 11]);
    assert_eq!((busy.next_offset, busy.progress), (13, Progress { n: 8, digest: 104, start: 3 }));
    let piece = chunk::decode(&busy.pieces[0]).unwrap();
    assert_eq!((piece.header.n, piece.header.digest, piece.header.event, piece.header.clock_ms), (8, 104, 4, 500));
    assert_eq!((piece.header.next_offset, piece.header.ticks, piece.rows.len()), (13, vec![(10, 500)], 2));
    assert_eq!((idle.next_offset, idle.progress, idle.pieces.len()), (10, quiet, 0), "its offset is the fence all the same");
}

#[test]
fn an_epoch_with_nothing_in_it_is_announced_and_not_written() {
    let (mut commit, kept) = commit(1);
    let mut out = Vec::new();
    let outcome = run(&mut commit, cut(1, vec![part(0, 0, Some(Progress::default()))]), vec![output(0, 1, vec![])], &mut out);
    assert!(matches!(outcome, Outcome::Committed { transacted: false, .. }), "{outcome:?}");
    assert_eq!(told(&mut out).last().unwrap(), "Pump(Committed { epoch: 1, transacted: false })");
    let forced = Cut { forced: true, ..cut(2, vec![part(0, 0, None)]) };
    run(&mut commit, forced, vec![output(0, 2, vec![])], &mut out);
    let kept = kept.0.lock().unwrap();
    assert_eq!(kept.0.len(), 1, "only the forced one");
    assert_eq!((kept.0[0].parts[0].progress, kept.0[0].parts[0].pieces.len()), (Progress::default(), 0));
}

#[test]
fn a_tick_that_fires_is_written_though_no_record_came() {
    let (mut commit, kept) = commit(1);
    let fired = OutputPart { changes: vec![change(3, "a")], rows: row("a"), digest_delta: 1, ..OutputPart::default() };
    run(&mut commit, cut(1, vec![part(0, 0, Some(Progress::default()))]), vec![output(0, 1, vec![fired])], &mut Vec::new());
    assert_eq!(kept.0.lock().unwrap().0[0].parts[0].progress.n, 1);
}

#[test]
fn the_start_of_a_restore_is_known_once_the_first_chunk_is_placed() {
    let (mut commit, kept) = commit(1);
    for epoch in 1..=3 {
        let adopted = (epoch == 1).then(Progress::default);
        run(&mut commit, cut(epoch, vec![part(0, 1, adopted)]), vec![output(0, epoch, vec![])], &mut Vec::new());
    }
    let starts: Vec<_> = kept.0.lock().unwrap().0.iter().map(|transaction| transaction.parts[0].progress.start).collect();
    assert_eq!(starts, [0, 100, 100]);
}

#[test]
fn outputs_of_partitions_that_were_given_up_are_dropped() {
    let (mut commit, kept) = commit(1);
    let lost = OutputPart { partition: 9, changes: vec![change(3, "a")], rows: row("a"), ..OutputPart::default() };
    let outcome = run(&mut commit, cut(1, vec![part(0, 0, Some(Progress::default()))]), vec![output(0, 1, vec![lost])], &mut Vec::new());
    assert!(matches!(outcome, Outcome::Committed { transacted: false, .. }), "{outcome:?}");
    assert!(kept.0.lock().unwrap().0.is_empty());
}

#[test]
fn a_failed_transaction_is_followed_by_recovery_and_nothing_is_sent_again() {
    let (mut commit, kept) = commit(1);
    let mut out = Vec::new();
    kept.0.lock().unwrap().1 = true;
    let outcome = run(&mut commit, cut(1, vec![part(0, 1, Some(Progress::default()))]), vec![output(0, 1, vec![])], &mut out);
    assert!(matches!(outcome, Outcome::Failed(TransactError::Maybe(_))), "{outcome:?}");
    let stale = "Note(Stale { since_ms: 1000, trouble: \"the epoch may or may not be committed: told to\" })";
    assert_eq!(told(&mut out), [stale, "Pump(Failed)"], "no worker hears of it: L stays");
    commit.recover(&|| true, &mut out).unwrap();
    assert_eq!(told(&mut out), ["Pump(Recovered)"]);
    // An output of before, late: it counts no more.
    assert!(commit.gather(ToCommit::Output(output(0, 1, vec![]))).is_none());
    let again = Cut { generation: 1, ..cut(2, vec![part(0, 1, Some(Progress { n: 5, digest: 1, start: 2 }))]) };
    assert!(commit.gather(ToCommit::Cut(again)).is_none(), "the late output is not of this generation");
    let epoch = commit.gather(ToCommit::Output(Output { generation: 1, ..output(0, 2, vec![]) })).expect("all of it is there");
    assert!(matches!(commit.resolve(epoch, NOW, &mut out), Outcome::Committed { transacted: true, .. }));
    assert_eq!(kept.0.lock().unwrap().0.iter().map(|transaction| transaction.parts[0].progress.n).collect::<Vec<_>>(), [6]);
}

#[test]
fn the_first_reject_forbids_the_epoch() {
    let (mut commit, kept) = commit(2);
    let refused = |seq| Some(Refused { seq, partition: 0, offset: seq as Offset, reason: "no_key", detail: String::new() });
    let outputs = vec![Output { refused: refused(8), ..output(0, 1, vec![]) }, Output { refused: refused(5), ..output(1, 1, vec![]) }];
    let mut out = Vec::new();
    let outcome = run(&mut commit, cut(1, vec![part(0, 2, Some(Progress::default()))]), outputs, &mut out);
    assert!(matches!(outcome, Outcome::Refused(Refused { seq: 5, .. })), "{outcome:?}");
    assert!(out.is_empty() && kept.0.lock().unwrap().0.is_empty());
}
