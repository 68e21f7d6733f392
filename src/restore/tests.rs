//! What a restore accepts, and everything it must refuse.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use ahash::RandomState;
use proptest::{collection::vec, option, prelude::*};
use statehouse_dataflows::{
    digest::row_hash,
    rows::Rows,
    vocabulary::{Cause, Published, Report, Row, RowValue},
};

use super::*;
use crate::{
    chunk::Turn,
    message::Objects,
    rotation::{Rotation, Written},
};

/// A checkpoint partition in memory: records at offsets from 5 on.
struct Kept {
    progress: Option<(Offset, Progress)>,
    records: Vec<Vec<u8>>,
}

/// One whose end is not all to be seen at first, or that is cancelled while it is read.
struct Late(Kept, Vec<Vec<u8>>, Arc<AtomicBool>);

impl Checkpoint for Late {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        self.0.progress(partition)
    }
    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        self.0.start_offset(partition, start)
    }
    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        if self.1.is_empty() {
            self.2.store(true, Ordering::Relaxed);
        }
        let done = self.0.read(partition, from, each);
        self.0.records.append(&mut self.1);
        done
    }
}

const FIRST: Offset = 5;

impl Checkpoint for Kept {
    fn progress(&mut self, _: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        Ok(self.progress)
    }
    fn start_offset(&mut self, _: Partition, start: Start) -> Result<Offset, LogError> {
        Ok(if start == Start::Latest { 77 } else { 0 })
    }
    fn read(&mut self, _: Partition, from: Offset, each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>) -> Result<bool, LogError> {
        for (offset, record) in (FIRST..).zip(&self.records).filter(|(offset, _)| *offset >= from) {
            if each(offset, record).is_break() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn report(object: &str, agent: &str, state: Option<&str>) -> Row {
    let report = state.map(|state| Report { state: state.into(), ts_ms: 1, offset: 2, due_ms: None });
    Row { partition: 3, object: object.into(), value: RowValue::Report(agent.into(), report) }
}

fn published(object: &str, state: Option<&str>) -> Row {
    let published = state.map(|state| Published {
        state: Some(state.into()),
        behind: Some(state.into()),
        mask: None,
        since_ms: 1,
        cause: Cause::Vote,
        revision: 4,
    });
    Row { partition: 3, object: object.into(), value: RowValue::Object(published.map(Into::into)) }
}

/// Three chunks in which rows come, change and go; and what is left at the end.
fn history() -> ([Vec<Row>; 3], Vec<Row>) {
    let chunks = [
        vec![report("o", "a", Some("x")), report("o", "b", Some("x")), published("o", Some("x")), report("p", "a", Some("x"))],
        vec![report("o", "a", None), published("p", Some("x"))],
        vec![report("o", "b", Some("y")), report("p", "a", None), published("p", None), published("o", Some("y"))],
    ];
    (chunks, vec![published("o", Some("y")), report("o", "b", Some("y"))])
}

fn header(n: u64, digest: u64) -> chunk::Header {
    chunk::Header {
        house: "test".into(),
        partition: 3,
        n,
        next_offset: n as Offset * 10,
        clock_ms: n as i64 * 100,
        event: n * 20,
        digest,
        ..chunk::Header::default()
    }
}

fn digest(rows: &[Row]) -> u64 {
    rows.iter().fold(0, |digest, row| digest.wrapping_add(row_hash(row)))
}

fn kept() -> Kept {
    let (chunks, left) = history();
    let digest = digest(&left);
    let digests = [1, 2, digest]; // those of chunks on the way are not looked at
    let records =
        (1..).zip(&chunks).zip(digests).flat_map(|((n, rows), digest)| chunk::encode(&header(n, digest), &[Rows::of(rows)], 1_000_000));
    Kept { records: records.collect(), progress: Some((30, Progress { n: 3, digest, start: FIRST })) }
}

fn restore(kept: Kept, batch_rows: usize) -> Result<Vec<Delivered>, LogError> {
    restore_from(Box::new(kept), batch_rows, Arc::default())
}

fn restore_from(kept: Box<dyn Checkpoint>, batch_rows: usize, cancelled: Arc<AtomicBool>) -> Result<Vec<Delivered>, LogError> {
    let route = Route::new(RandomState::with_seeds(1, 2, 3, 4), 2);
    let settings = RestoreSettings { house: "test".into(), start: Start::Latest, batch_rows, route };
    let request = Request { partition: 3, number: 9, cancelled };
    let restored = Restore::new(settings, kept).restore(&request, &mut |_| {})?;
    Ok(restored.inspect(|delivery| assert_eq!((delivery.partition, delivery.number), (3, 9))).map(|delivery| delivery.what).collect())
}

fn rows(delivered: &[Delivered]) -> Vec<Row> {
    let batches = delivered.iter().filter_map(|what| if let Delivered::Rows(shares) = what { Some(shares) } else { None });
    let mut rows: Vec<_> = batches.flatten().flat_map(|objects| objects.rows.to_rows()).collect();
    rows.sort_by_key(|row| (row.object.clone(), format!("{:?}", row.value)));
    rows
}

#[test]
fn the_last_word_on_every_row_is_handed_over() {
    let delivered = restore(kept(), 100).unwrap();
    let at = Standpoint {
        next_offset: 30,
        progress: kept().progress.map(|(_, progress)| progress),
        rotation: Arc::default(),
        clock_ms: Some(300),
        event: 60,
    };
    assert!(matches!(&delivered[..], [Delivered::Begin(begin), Delivered::Rows(_), Delivered::End] if *begin == at), "{delivered:?}");
    assert_eq!(rows(&delivered), history().1);
}

#[test]
fn an_objects_rows_stay_together_however_small_the_batches() {
    let rows: Vec<_> = (0..5).flat_map(|n| ["a", "b", "c"].map(|agent| report(&format!("o{n}"), agent, Some("x")))).collect();
    let digest = digest(&rows);
    for (batch_rows, expected) in [(1, vec![1; 5]), (4, vec![2, 2, 1]), (100, vec![5])] {
        let records = chunk::encode(&header(1, digest), &[Rows::of(&rows)], 1_000_000);
        let delivered = restore(Kept { records, progress: Some((10, Progress { n: 1, digest, start: 0 })) }, batch_rows).unwrap();
        let mut batches = Vec::new();
        for what in &delivered {
            let Delivered::Rows(shares) = what else { continue };
            for Objects { hashes, rows } in shares {
                assert!(rows.runs(0..rows.len()).all(|(_, lines)| lines.len() == 3));
                assert_eq!((hashes.len(), rows.len()), (rows.objects(), 3 * rows.objects()), "an object's rows stand together");
            }
            batches.push(shares.iter().map(|objects| objects.hashes.len()).sum::<usize>());
        }
        assert_eq!(batches, expected, "objects in batches of about {batch_rows} rows");
        assert_eq!(self::rows(&delivered).len(), 15, "batches of {batch_rows}");
    }
}

#[test]
fn progress_rises_to_the_total() {
    let route = Route::new(RandomState::with_seeds(1, 2, 3, 4), 2);
    let settings = RestoreSettings { house: "test".into(), start: Start::Latest, batch_rows: 1, route };
    let request = Request { partition: 3, number: 9, cancelled: Arc::default() };
    let mut told = Vec::new();
    let mut restored = Restore::new(settings, Box::new(kept())).restore(&request, &mut |progress| told.push(progress)).unwrap();
    assert_eq!(told.iter().map(|read| (read.chunks, read.rows)).collect::<Vec<_>>(), [((1, 3), 4), ((2, 3), 6), ((3, 3), 10)]);
    assert_eq!(told[2].bytes, kept().records.iter().map(|record| record.len() as u64).sum::<u64>());
    told.push(restored.progress());
    while restored.next().is_some() {
        told.push(restored.progress());
    }
    assert!(told.is_sorted_by_key(RestoreProgress::permille), "{told:?}");
    assert_eq!((told[3].permille(), told.last().unwrap().permille()), (500, 1_000));
    assert_eq!(told.last().unwrap().handed_rows, (2, 2));
}

#[test]
fn a_fresh_house_starts_where_it_is_told_to() {
    let delivered = restore(Kept { records: Vec::new(), progress: None }, 100).unwrap();
    let at = Standpoint { next_offset: 77, progress: None, rotation: Arc::default(), clock_ms: None, event: 1 };
    assert!(matches!(&delivered[..], [Delivered::Begin(begin), Delivered::End] if *begin == at), "{delivered:?}");
}

#[test]
fn a_house_that_only_committed_its_start_goes_on_there() {
    // What stands in the checkpoint was aborted, or is of nobody: it is not looked at.
    let delivered = restore(Kept { records: vec![b"?".to_vec()], progress: Some((42, Progress::default())) }, 100).unwrap();
    let at = Standpoint { next_offset: 42, progress: Some(Progress::default()), rotation: Arc::default(), clock_ms: None, event: 1 };
    assert!(matches!(&delivered[..], [Delivered::Begin(begin), Delivered::End] if *begin == at), "{delivered:?}");
}

#[test]
fn a_partition_whose_records_were_all_rejects_has_no_clock() {
    let records = chunk::encode(&chunk::Header { clock_ms: NO_CLOCK_MS, ..header(1, 0) }, &[], 1_000_000);
    let delivered = restore(Kept { records, progress: Some((10, Progress { n: 1, digest: 0, start: 0 })) }, 100).unwrap();
    assert!(matches!(&delivered[0], Delivered::Begin(Standpoint { clock_ms: None, event: 20, .. })), "{delivered:?}");
}

#[test]
fn reading_may_begin_at_any_chunk_from_which_on_all_is_there() {
    // Chunk 3 has the last word on everything but nothing of agent a; chunk 2 repeats none of it.
    for (start, is_whole) in [(FIRST, true), (FIRST + 1, true), (FIRST + 2, true), (FIRST + 3, false)] {
        let mut kept = kept();
        kept.progress.as_mut().unwrap().1.start = start;
        let outcome = restore(kept, 100);
        assert_eq!(outcome.as_deref().is_ok_and(|delivered| rows(delivered) == history().1), is_whole, "from {start}: {outcome:?}");
    }
}

#[test]
fn reading_may_not_begin_within_a_chunk() {
    let rows: Vec<_> = (0..200).map(|n| report(&format!("object-{n}"), &format!("agent-{}", n * 7919), Some("x"))).collect();
    let digest = digest(&rows);
    let records = chunk::encode(&header(1, digest), &[Rows::of(&rows)], 400);
    let progress = Some((10, Progress { n: 1, digest, start: FIRST + 1 }));
    let Err(LogError::Corrupt(said)) = restore(Kept { records, progress }, 100) else { panic!("not refused") };
    assert!(said.contains("offset 6 is piece 1 of chunk 1, where piece 0 of chunk 1 should be"), "{said}");
}

#[test]
fn where_the_rotation_stands_comes_out_of_the_chunks() {
    let (one, two) = (report("a", "x", Some("up")), report("b", "x", Some("up")));
    let digest = digest(&[one.clone(), two.clone()]);
    let turn = |ahead: Option<&str>, owed_bytes| Turn {
        rotation: 4,
        ahead: ahead.map(Into::into),
        cursor: Some("a".into()),
        owed_bytes,
        ..Turn::default()
    };
    let (first, sliced) = chunk::encode_with_slice(
        &chunk::Header { turn: turn(None, 500), ..header(8, 1) },
        (&[Rows::of(&[two])], &[Rows::of(&[one])]),
        1_000_000,
    );
    let second = chunk::encode(&chunk::Header { turn: turn(Some("a"), 77), ..header(9, digest) }, &[], 1_000_000);
    let (changed, last) = (first[0].len() as i64, second[0].len() as i64);
    assert_eq!((first.len(), sliced), (2, first[1].len() as u64));
    let mut expected = Rotation::default();
    expected.written(&turn(None, 500), Written { offset: FIRST, changed_bytes: changed as u64, slice_bytes: sliced });
    assert_eq!(expected.owed_bytes, 500 + changed - sliced as i64);
    expected.written(&turn(Some("a"), 77), Written { offset: FIRST + 2, changed_bytes: last as u64, slice_bytes: 0 });
    let records = [first, second].concat();
    let delivered = restore(Kept { records, progress: Some((90, Progress { n: 9, digest, start: FIRST })) }, 100).unwrap();
    let Delivered::Begin(at) = &delivered[0] else { panic!("{delivered:?}") };
    assert_eq!(*at.rotation, expected);
}

#[test]
fn what_is_not_whole_is_refused() {
    type Spoil = fn(&mut Kept);
    fn change(kept: &mut Kept, at: usize, change: impl Fn(&mut chunk::Header)) {
        let piece = chunk::decode(&kept.records[at]).unwrap();
        let mut header = piece.header;
        change(&mut header);
        kept.records[at] = chunk::encode(&header, &[piece.rows], 1_000_000).remove(0);
    }
    fn committed(kept: &mut Kept) -> &mut (Offset, Progress) {
        kept.progress.as_mut().unwrap()
    }
    let rows: [(&str, Spoil); 13] = [
        ("ends after chunk 2, but chunk 3 is committed", |kept| _ = kept.records.pop()),
        ("offset 6 is piece 0 of chunk 3, where piece 0 of chunk 2 should be", |kept| _ = kept.records.remove(1)),
        ("its rows have digest", |kept| {
            // Read from chunk 3 on, a row is missed that only chunk 1 has.
            committed(kept).1.start = FIRST + 2;
            change(kept, 2, |header| header.digest = header.digest.wrapping_add(row_hash(&report("q", "a", Some("x")))));
            committed(kept).1.digest = committed(kept).1.digest.wrapping_add(row_hash(&report("q", "a", Some("x"))));
        }),
        ("offset 5 is of chunk 4, but only chunks up to 3 are committed", |kept| change(kept, 0, |header| header.n = 4)),
        ("offset 6 is piece 0 of chunk 1, where", |kept| kept.records.insert(0, kept.records[0].clone())),
        ("offset 6 is of house \"other\", not of \"test\"", |kept| change(kept, 1, |header| header.house = "other".into())),
        ("offset 6: the checksum does not match", |kept| *kept.records[1].last_mut().unwrap() ^= 1),
        ("offset 7: not a piece of a chunk", |kept| kept.records[2] = b"something that is no chunk at all".to_vec()),
        ("goes to source offset 30, but 31 is committed", |kept| committed(kept).0 = 31),
        ("its rows have digest", |kept| {
            committed(kept).1.digest = 7;
            change(kept, 2, |header| header.digest = 7);
        }),
        ("chunk 3 has digest 0000000000000007", |kept| change(kept, 2, |header| header.digest = 7)),
        ("ends after chunk 3, but chunk 4 is committed", |kept| committed(kept).1.n = 4),
        ("its rows have digest 0000000000000000", |kept| {
            *committed(kept) = (0, Progress { n: 0, digest: 1, start: 0 });
        }),
    ];
    for (expected, spoil) in rows {
        let mut kept = kept();
        spoil(&mut kept);
        let Err(LogError::Corrupt(said)) = restore(kept, 100) else { panic!("not refused: {expected}") };
        assert!(said.starts_with("checkpoint of partition 3: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_chunk_of_several_pieces_must_have_all_of_them() {
    let rows: Vec<_> = (0..200).map(|n| report(&format!("object-{n}"), &format!("agent-{}", n * 7919), Some("x"))).collect();
    let digest = digest(&rows);
    let records = chunk::encode(&header(1, digest), &[Rows::of(&rows)], 400);
    assert!(records.len() > 2, "several pieces");
    let progress = Some((10, Progress { n: 1, digest, start: 0 }));
    assert_eq!(self::rows(&restore(Kept { records: records.clone(), progress }, 100).unwrap()).len(), 200);
    for missing in 0..records.len() {
        let mut records = records.clone();
        records.remove(missing);
        assert!(matches!(restore(Kept { records, progress }, 100), Err(LogError::Corrupt(_))), "without piece {missing}");
    }
}

#[test]
fn what_is_broken_is_looked_at_twice() {
    let mut kept = kept();
    let last = kept.records.split_off(2);
    let delivered = restore_from(Box::new(Late(kept, last, Arc::default())), 100, Arc::default()).unwrap();
    assert_eq!(rows(&delivered), history().1);
}

#[test]
fn a_restore_for_nobody_is_broken_off() {
    let cancelled = Arc::new(AtomicBool::new(false));
    let late = Late(kept(), Vec::new(), Arc::clone(&cancelled));
    assert!(matches!(restore_from(Box::new(late), 100, cancelled), Err(LogError::Unavailable(_))));
}

#[test]
fn pieces_of_different_chunks_are_never_put_together() {
    let rows: Vec<_> = (0..200).map(|n| report(&format!("object-{n}"), &format!("agent-{}", n * 7919), Some("x"))).collect();
    let digest = digest(&rows);
    let honest = chunk::encode(&header(1, digest), &[Rows::of(&rows)], 400);
    let progress = Some((10, Progress { n: 1, digest, start: 0 }));
    let another = |change: fn(&mut chunk::Header)| {
        let mut header = header(1, digest);
        change(&mut header);
        chunk::encode(&header, &[Rows::of(&rows)], 400).remove(1)
    };
    // Of as many rows in fewer, larger pieces.
    let fewer = chunk::encode(&header(1, digest), &[Rows::of(&rows)], 600);
    assert!(fewer.len() > 1 && fewer.len() != honest.len(), "{} and {} pieces", fewer.len(), honest.len());
    let rows = [
        ("an earlier one says", fewer[1].clone()),
        ("differs in its header", another(|header| header.clock_ms += 100)),
        ("differs in its header", another(|header| header.event += 1)),
        ("differs in its header", another(|header| header.next_offset += 1)),
        ("differs in its header", another(|header| header.instance = "another".into())),
    ];
    for (expected, piece) in rows {
        let mut records = honest.clone();
        records[1] = piece;
        let Err(LogError::Corrupt(said)) = restore(Kept { records, progress }, 100) else { panic!("not refused: {expected}") };
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn forged_clocks_and_numbers_are_refused() {
    type Forge = fn(&mut chunk::Header);
    let forged: [(&str, Forge); 10] = [
        ("the clock 9223372036854775800", |header| header.clock_ms = i64::MAX - 7),
        ("the clock 253402300800000", |header| header.clock_ms = 253_402_300_800_000),
        ("the clock -9223372036854775808", |header| header.clock_ms = i64::MIN),
        ("the clock -100", |header| header.clock_ms = -100),
        ("the clock 150", |header| header.clock_ms = 150),
        ("the event number 0", |header| header.event = 0),
        ("the event number 18446744073709551615", |header| header.event = u64::MAX),
        ("the number 0", |header| header.n = 0),
        ("of chunk 18446744073709551615, but", |header| header.n = u64::MAX),
        ("source offset -1", |header| header.next_offset = -1),
    ];
    for (expected, forge) in forged {
        let mut header = header(1, 0);
        forge(&mut header);
        let records = chunk::encode(&header, &[], 1_000_000);
        let kept = Kept { records, progress: Some((header.next_offset, Progress { n: 1, digest: 0, start: 0 })) };
        let Err(LogError::Corrupt(said)) = restore(kept, 100) else { panic!("not refused: {expected}") };
        assert!(said.contains(expected), "{said}");
    }
}

proptest! {
    /// Rows of a few objects and agents, cut into chunks anywhere: what is handed over is what a map of last words holds. And whatever byte
    /// is damaged, nothing is handed over at all.
    #[test]
    fn the_last_words_of_any_history_are_handed_over_or_nothing(
        history in vec(vec((0..4_u8, 0..4_u8, option::of(0..3_u8)), 1..20), 1..8),
        damage in option::of((any::<usize>(), any::<usize>(), 1..=255_u8)),
    ) {
        let mut last = BTreeMap::new();
        let mut records = Vec::new();
        for (n, words) in (1..).zip(&history) {
            let row = |(object, agent, state): &(u8, u8, Option<u8>)| {
                let (object, state) = (format!("o{object}"), state.map(|state| format!("s{state}")));
                match agent {
                    0 => published(&object, state.as_deref()),
                    _ => report(&object, &format!("a{agent}"), state.as_deref()),
                }
            };
            let rows: Vec<_> = words.iter().map(row).collect();
            words.iter().zip(&rows).for_each(|((object, agent, state), row)| _ = last.insert((*object, *agent), (state.is_some(), row.clone())));
            let live: Vec<_> = last.values().filter(|(is_there, _)| *is_there).map(|(_, row)| row.clone()).collect();
            records.extend(chunk::encode(&header(n, digest(&live)), &[Rows::of(&rows)], 300));
        }
        let live: Vec<_> = last.into_values().filter(|(is_there, _)| *is_there).map(|(_, row)| row).collect();
        let n = history.len() as u64;
        let progress = Some((n as Offset * 10, Progress { n, digest: digest(&live), start: FIRST }));
        if let Some((record, byte, change)) = damage {
            let record = record % records.len();
            let byte = byte % records[record].len();
            records[record][byte] ^= change;
            let refused = restore(Kept { progress, records }, 3).err();
            prop_assert!(matches!(refused, Some(LogError::Corrupt(_))), "{refused:?}");
            return Ok(());
        }
        let mut live = live;
        live.sort_by_key(|row| (row.object.clone(), format!("{:?}", row.value)));
        let restored = restore(Kept { progress, records }, 3).unwrap();
        prop_assert_eq!(rows(&restored), live);
    }
}
