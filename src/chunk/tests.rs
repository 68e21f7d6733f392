//! Chunks there and back, and every kind of damage.

use std::sync::Arc;

use proptest::prelude::*;
use statehouse_dataflows::vocabulary::{Cause, Mask, Name, Published, Report, Row, RowValue};

use super::*;

fn header(ticks: Vec<(Offset, Millis)>) -> Header {
    Header {
        house: "demo".into(),
        partition: 3,
        n: 42,
        next_offset: 1_000,
        clock_ms: 1_763_800_000_100,
        event: 1_042,
        digest: 0xfeed_face_dead_beef,
        ticks,
        instance: "6f3c".into(),
        turn: turn(),
    }
}

fn turn() -> Turn {
    Turn {
        rotation: 7,
        ahead: Some("site-3.example.com".into()),
        cursor: Some("site-2.example.com".into()),
        ends: false,
        advances: true,
        owed_bytes: -70_000,
        advance_bytes: 4_096,
    }
}

fn row(object: &str, value: RowValue) -> Row {
    Row { partition: 3, object: object.into(), value }
}

/// One row of every kind, in every form.
fn every_row() -> Vec<Row> {
    let report = |state: &str, due_ms| Report { state: state.into(), ts_ms: 1_763_800_000_000, offset: 999, due_ms };
    let mask = |until_ms| Some(Mask { state: "pinned".into(), since_ms: 5, until_ms });
    let published = |state: Option<&str>, mask| Published {
        state: state.map(Name::from),
        behind: Some("x".into()),
        mask,
        since_ms: 1_763_800_000_000,
        cause: Cause::Override,
        revision: u64::MAX,
    };
    let object = |published| RowValue::Object(Some(Arc::new(published)));
    vec![
        row("site-1.example.com", RowValue::Report("agent-1".into(), Some(report("x", None)))),
        row("site-1.example.com", RowValue::Report("agent-2".into(), Some(report("ÿ", Some(i64::MAX))))),
        row("site-1.example.com", RowValue::Report("agent-3".into(), None)),
        row("site-1.example.com", object(published(Some("x"), None))),
        row("site-2.example.com", object(published(Some("pinned"), mask(None)))),
        row("ß", object(published(None, mask(Some(i64::MIN))))),
        row("site-2.example.com", RowValue::Report("agent-1".into(), None)),
        row("à", RowValue::Object(None)),
    ]
}

/// What the pieces say together, after checking that they are the whole chunk.
fn whole(pieces: &[Vec<u8>]) -> (Header, Vec<Row>) {
    let mut rows = Vec::new();
    let mut ticks = Vec::new();
    let mut header = Header::default();
    for (index, bytes) in pieces.iter().enumerate() {
        let piece = decode(bytes).unwrap_or_else(|e| panic!("piece {index}: {e}"));
        assert_eq!((piece.index as usize, piece.count as usize), (index, pieces.len()));
        rows.extend(piece.rows.to_rows());
        ticks.extend(piece.header.ticks.iter().copied());
        header = piece.header;
    }
    (Header { ticks, ..header }, rows)
}

#[test]
fn every_kind_of_row_comes_back() {
    let header = header(vec![(990, 1_763_800_000_000), (999, 1_763_800_000_100)]);
    let pieces = encode(&header, &[Rows::of(&every_row())], PIECE_BYTES_MAX);
    assert_eq!((pieces.len(), whole(&pieces)), (1, (header, every_row())));
}

#[test]
fn a_chunk_without_rows_is_one_piece() {
    let pieces = encode(&header(Vec::new()), &[], PIECE_BYTES_MAX);
    assert_eq!((pieces.len(), whole(&pieces)), (1, (header(Vec::new()), Vec::new())));
    assert!(pieces[0].len() < 220, "{} bytes", pieces[0].len());
}

/// Rows as a house at full rate has them: random objects, their names alike, a few agents, two states.
fn busy(rows: usize) -> Vec<Row> {
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut busy = Vec::with_capacity(rows);
    while busy.len() < rows {
        let object: Name = format!("site-{:08}.example.com", next(200_000)).into();
        let at = next(100_000) as i64;
        let state = if next(2) == 0 { "normal" } else { "under_attack" };
        let agent = format!("waf-proxy-{:04}", next(5));
        let report = Report { state: state.into(), ts_ms: 1_763_800_000_000 + at, offset: at / 4, due_ms: None };
        busy.push(Row { partition: 3, object, value: RowValue::Report(agent.as_str().into(), Some(report)) });
    }
    busy
}

#[test]
fn a_changed_report_costs_at_most_15_bytes() {
    let rows = busy(13_000); // a quarter of the changed reports of 100,000, on four partitions
    let bytes: usize = encode(&header(Vec::new()), &[Rows::of(&rows)], PIECE_BYTES_MAX).iter().map(Vec::len).sum();
    assert!(bytes <= rows.len() * 15, "{} bytes a row", bytes as f64 / rows.len() as f64);
}

#[test]
fn pieces_are_as_small_as_asked_for_and_objects_stay_together() {
    let mut rows = busy(20_000);
    rows.sort_by(|a, b| a.object.cmp(&b.object));
    let ticks: Vec<_> = (0..5_000).map(|i| (i, i * 100)).collect();
    let header = header(ticks);
    for max_bytes in [20_000, 50_000] {
        let pieces = encode(&header, &[Rows::of(&rows)], max_bytes);
        assert!(
            pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= max_bytes),
            "{:?}",
            pieces.iter().map(Vec::len).collect::<Vec<_>>()
        );
        let read: Vec<Vec<Row>> = pieces.iter().map(|piece| decode(piece).expect("just written").rows.to_rows()).collect();
        for pair in read.windows(2) {
            assert_ne!(pair[0].last().map(|row| &row.object), pair[1].first().map(|row| &row.object), "an object in two pieces");
        }
        assert_eq!(whole(&pieces), (header.clone(), rows.clone()));
    }
}

#[test]
fn one_object_with_more_rows_than_a_piece_takes() {
    let agent = |nth: i32| RowValue::Report(format!("agent-{}", nth.wrapping_mul(-1_640_531_527)).into(), None);
    let rows: Vec<Row> = (0..20_000).map(|nth| row("big", agent(nth))).collect();
    let ticks = (0..3).map(|i| (i, i)).collect();
    let header = header(ticks);
    let pieces = encode(&header, &[Rows::of(&rows)], 20_000);
    assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= 20_000));
    assert_eq!(whole(&pieces), (header, rows));
}

#[test]
fn more_than_a_reader_takes_at_once_is_written_in_pieces() {
    let ticks: Vec<_> = (0..body::ITEMS_MAX as i64 + 1).map(|i| (i, i * 100)).collect();
    let many_ticks = header(ticks);
    let pieces = encode(&many_ticks, &[Rows::of(&every_row())], usize::MAX);
    assert_eq!((pieces.len(), whole(&pieces)), (2, (many_ticks, every_row())));

    let long = "x".repeat(30_000);
    let rows: Vec<Row> = (0..names::NAMES_BYTES_MAX / 30_000 + 1).map(|i| row(&format!("{long}{i}"), RowValue::Object(None))).collect();
    let pieces = encode(&header(Vec::new()), &[Rows::of(&rows)], usize::MAX);
    assert_eq!((pieces.len(), whole(&pieces)), (2, (header(Vec::new()), rows)));
}

#[test]
fn every_flip_and_every_cut_is_found() {
    let piece = encode(&header(vec![(1, 100)]), &[Rows::of(&every_row())], PIECE_BYTES_MAX).remove(0);
    for at in 0..piece.len() {
        for bit in 0..8 {
            let mut flipped = piece.clone();
            flipped[at] ^= 1 << bit;
            let error = decode(&flipped).expect_err("a flipped bit");
            let expected = match at {
                0..4 => ChunkError::Foreign,
                4 => ChunkError::Version(VERSION ^ 1 << bit),
                _ => ChunkError::Checksum,
            };
            assert_eq!(error, expected, "bit {bit} of byte {at}");
        }
        let error = decode(&piece[..at]).expect_err("a cut");
        assert_eq!(error, if at < BODY_AT { ChunkError::Short { bytes: at } } else { ChunkError::Checksum });
    }
    assert_eq!(decode(&[piece.as_slice(), b"!"].concat()), Err(ChunkError::Checksum));
    assert_eq!(decode(b"{\"agent\":\"a\"}"), Err(ChunkError::Foreign));
}

/// A piece with a valid checksum around any body.
fn forged(codec: u8, length: u32, body: &[u8]) -> Vec<u8> {
    let mut piece = vec![0; BODY_AT];
    piece[..4].copy_from_slice(&MAGIC);
    (piece[4], piece[CHECKED_AT]) = (VERSION, codec);
    piece[22..26].copy_from_slice(&length.to_le_bytes());
    piece.extend_from_slice(body);
    seal(&mut piece, 0, 1);
    piece
}

fn body_of_every_row() -> Vec<u8> {
    body::write(&header(vec![(1, 100)]), &[(1, 100)], &Cut::of(&[Rows::of(&every_row())])).expect("readable")
}

/// Even where the checksum is right, nothing is believed: this is what a bug in a writer would leave behind.
#[test]
fn contradictions_behind_a_valid_checksum_are_found() {
    let body = body_of_every_row();
    let length = body.len() as u32;
    assert!(decode(&forged(STORED, length, &body)).is_ok());
    assert_eq!(decode(&forged(STORED, length + 1, &body)), Err(ChunkError::Frame("length")));
    assert_eq!(decode(&forged(2, length, &body)), Err(ChunkError::Frame("codec")));
    assert_eq!(decode(&forged(LZ4, u32::MAX, &body)), Err(ChunkError::Frame("length")), "absurd lengths take no memory");
    assert_eq!(decode(&forged(LZ4, BODY_BYTES_MAX as u32 + 1, &vec![0; 1 << 20])), Err(ChunkError::Frame("length")));
    assert!(matches!(decode(&forged(LZ4, length, &body)), Err(ChunkError::Compression(_) | ChunkError::Frame(_))));
    assert_eq!(decode(&forged(STORED, length + 1, &[body.as_slice(), b"!"].concat())), Err(ChunkError::Body("length")));
    for cut in 0..body.len() {
        let error = decode(&forged(STORED, cut as u32, &body[..cut])).expect_err("a cut body");
        assert!(matches!(error, ChunkError::Body(_)), "cut at {cut}: {error}");
    }
    let mut reindexed = forged(STORED, length, &body);
    seal(&mut reindexed, 1, 1);
    assert_eq!(decode(&reindexed), Err(ChunkError::Frame("index")));
}

/// Every single changed byte behind a valid checksum either still reads as some rows or is an error; it never panics and never takes much memory.
#[test]
fn damaged_bodies_never_panic() {
    let body = body_of_every_row();
    for at in 0..body.len() {
        for value in 0..=255 {
            let mut damaged = body.clone();
            damaged[at] = value;
            drop(decode(&forged(STORED, damaged.len() as u32, &damaged)));
        }
    }
}

#[test]
fn a_slice_stands_in_pieces_of_its_own() {
    let (changed, sliced) = (every_row(), busy(3_000));
    let header = header(vec![(990, 1_763_800_000_000)]);
    let shares = |rows: &[Row]| rows.chunks(rows.len() / 2).map(Rows::of).collect::<Vec<_>>();
    let (pieces, slice_bytes) = encode_with_slice(&header, (&shares(&changed), &shares(&sliced)), 10_000);
    let read: Vec<Piece> = pieces.iter().map(|piece| decode(piece).expect("just written")).collect();
    let first = read.iter().position(|piece| piece.is_slice).expect("there is a slice");
    assert!(first > 0 && read[first..].len() > 1 && read[first..].iter().all(|piece| piece.is_slice && piece.header.ticks.is_empty()));
    assert_eq!(pieces[first..].iter().map(|piece| piece.len() as u64).sum::<u64>(), slice_bytes);
    assert_eq!(whole(&pieces), (header.clone(), [changed.clone(), sliced.clone()].concat()));
    // Where nothing changed there is nothing but the slice, and the other way round.
    let quiet = Header { ticks: Vec::new(), ..header.clone() };
    let (pieces, slice_bytes) = encode_with_slice(&quiet, (&[], &shares(&sliced)), PIECE_BYTES_MAX);
    assert_eq!((pieces.len(), pieces[0].len() as u64), (1, slice_bytes));
    assert_eq!(encode_with_slice(&header, (&shares(&changed), &[]), PIECE_BYTES_MAX).1, 0);
}

/// The files were written by the first release with each version (`STATEHOUSE_WRITE_FIXTURES=1` makes it write its own). They must stay
/// readable as long as their version is.
#[test]
fn stored_chunks_of_every_version_are_still_read() {
    let ticks = vec![(990, 1_763_800_000_000), (999, 1_763_800_000_100)];
    let path = |version: u8| format!("{}/tests/fixtures/chunk-v{version}-every-row.bin", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("STATEHOUSE_WRITE_FIXTURES").is_some() {
        std::fs::write(path(VERSION), &encode(&header(ticks.clone()), &[Rows::of(&every_row())], PIECE_BYTES_MAX)[0]).expect("written");
    }
    for (version, turn) in [(1, Turn::default()), (2, turn())] {
        let stored = std::fs::read(path(version)).expect("the fixture is there");
        let piece = decode(&stored).expect("readable");
        assert_eq!((piece.index, piece.count, piece.is_slice, stored[4]), (0, 1, false, version));
        assert_eq!((piece.header, piece.rows.to_rows()), (Header { turn, ..header(ticks.clone()) }, every_row()), "version {version}");
    }
}

fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof!["[ab]{0,3}", "site-[0-9]{2}", ".{0,12}"].prop_map(Name::from)
}

fn any_published() -> impl Strategy<Value = Published> {
    let name = || proptest::option::of(any_name());
    let mask = (any_name(), any::<i64>(), proptest::option::of(any::<i64>()));
    let mask = mask.prop_map(|(state, since_ms, until_ms)| Mask { state, since_ms, until_ms });
    let cause = proptest::sample::select(Cause::ALL.to_vec());
    (name(), name(), proptest::option::of(mask), any::<i64>(), cause, any::<u64>())
        .prop_map(|(state, behind, mask, since_ms, cause, revision)| Published { state, behind, mask, since_ms, cause, revision })
}

fn any_value() -> impl Strategy<Value = RowValue> {
    let report = (any_name(), any::<i64>(), any::<i64>(), proptest::option::of(any::<i64>()))
        .prop_map(|(state, ts_ms, offset, due_ms)| Report { state, ts_ms, offset, due_ms });
    prop_oneof![
        (any_name(), proptest::option::of(report)).prop_map(|(agent, report)| RowValue::Report(agent, report)),
        proptest::option::of(any_published().prop_map(Arc::new)).prop_map(RowValue::Object),
    ]
}

proptest! {
    #[test]
    fn any_rows_come_back(
        rows in proptest::collection::vec((any_name(), any_value()), 0..60),
        ticks in proptest::collection::vec(any::<(i64, i64)>(), 0..20),
        max_bytes in prop_oneof![Just(PIECE_BYTES_MAX), 0..1_000_usize],
        workers in 1..4_usize,
    ) {
        let rows: Vec<Row> = rows.into_iter().map(|(object, value)| Row { partition: 3, object, value }).collect();
        let header = header(ticks);
        let shares: Vec<Rows> = rows.chunks(rows.len().div_ceil(workers).max(1)).map(Rows::of).collect();
        prop_assert_eq!(whole(&encode(&header, &shares, max_bytes)), (header, rows));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in any::<u32>()) {
        drop(decode(&bytes));
        for codec in [STORED, LZ4] {
            drop(decode(&forged(codec, bytes.len() as u32, &bytes)));
            drop(decode(&forged(codec, length % (1 << 16), &bytes)));
        }
    }
}
