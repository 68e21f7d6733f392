//! Bytes alone: what decoding a record, writing a row of a chunk and reading it back cost, and how large chunks are.
//!
//! Shape: the reference workload's names and states; a little over half of the reports change their agent's claim, and a quarter of those what
//! is published. The best of many short runs is shown: the others were disturbed.
//!
//! `cargo bench --bench codec`

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Instant};

use mimalloc::MiMalloc;
use statehouse::{
    chunk,
    config::SourceConfig,
    decode::{Decoder, Scratch},
    log::Record,
};
use statehouse_dataflows::{
    rows::Rows,
    vocabulary::{Cause, Name, Published, Report, Row, RowValue},
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const OBJECTS: u64 = 200_000;
const AGENTS: u64 = 5;
const BEGIN_MS: i64 = 1_763_800_000_000;
const RUNS: usize = 200;

fn main() {
    decode(10_000);
    for (reports, partitions) in [(100_000, 1), (25_000, 4), (1_000, 4), (100, 4)] {
        chunks(reports, partitions);
    }
}

fn decode(count: i64) {
    let (mut bytes, mut random) = (Vec::new(), Random(1));
    let records: Vec<Record> = (0..count).map(|nth| record(nth, &mut bytes, &mut random)).collect();
    let decoder = Decoder::new(&SourceConfig::default()).expect("the defaults are valid");
    let mut scratch = Scratch::default();
    let decode_ns = best_ns(|| {
        for record in &records {
            let _ = black_box(decoder.key(record, &bytes)).expect("a key");
            let _ = black_box(decoder.decode(record, &bytes, &mut scratch)).expect("an event");
        }
    });
    println!("decode: {:.0} ns a record, with its key", decode_ns / count as f64);
}

fn record(nth: i64, bytes: &mut Vec<u8>, random: &mut Random) -> Record {
    let from = bytes.len();
    bytes.extend_from_slice(object_name(random.below(OBJECTS)).as_bytes());
    let key_end = bytes.len();
    let (agent, state) = (random.below(AGENTS), ["normal", "under_attack"][random.below(2) as usize]);
    let value = format!("{{\"agent\":\"waf-proxy-{agent:04}\",\"state\":\"{state}\",\"ts\":{}}}", BEGIN_MS + nth);
    bytes.extend_from_slice(value.as_bytes());
    let timestamp_ms = BEGIN_MS + nth;
    Record { offset: nth, timestamp_ms, key: Some(from..key_end), value: Some(key_end..bytes.len()), agent: None, canonical: false }
}

fn chunks(reports: u64, partitions: i64) {
    let rows = changed_rows(reports, partitions);
    let header = chunk::Header {
        house: "demo".into(),
        instance: "7b0c7a0e-6d1e-4b7b-9d0e-0d4a5e6f7a8b".into(),
        clock_ms: BEGIN_MS,
        ..Default::default()
    };
    let made = [Rows::of(&rows)];
    let pieces = chunk::encode(&header, &made, chunk::PIECE_BYTES_MAX);
    let encode_ns = best_ns(|| drop(black_box(chunk::encode(&header, &made, chunk::PIECE_BYTES_MAX))));
    let decode_ns = best_ns(|| pieces.iter().for_each(|piece| drop(black_box(chunk::decode(piece).expect("just written")))));
    let bytes = pieces.iter().map(Vec::len).sum::<usize>() as f64;
    let changed = rows.iter().filter(|row| matches!(row.value, RowValue::Report(..))).count() as f64;
    let count = rows.len() as f64;
    println!(
        "chunk of {reports} reports: {count} rows, {changed} changed reports, {} piece(s); {:.1} bytes a changed report, {:.1} a report in; write {:.0} ns, read {:.0} ns a row",
        pieces.len(),
        bytes / changed,
        bytes / reports as f64,
        encode_ns / count,
        decode_ns / count,
    );
}

/// What so many reports leave behind in one of so many partitions: rows by object, in order of first change.
fn changed_rows(reports: u64, partitions: i64) -> Vec<Row> {
    let (mut random, mut coin) = (Random(2), Random(3));
    let agents: Vec<Name> = (0..AGENTS).map(|agent| format!("waf-proxy-{agent:04}").into()).collect();
    let states: [Name; 2] = ["normal".into(), "under_attack".into()];
    let mut by_object: Vec<(u64, Vec<RowValue>)> = Vec::new();
    let mut place: HashMap<u64, usize> = HashMap::new();
    for nth in (0..reports as i64).filter(|_| coin.below(100) < 54) {
        let (object, agent, state) = (random.below(OBJECTS), &agents[random.below(AGENTS) as usize], &states[random.below(2) as usize]);
        let at = *place.entry(object).or_insert_with(|| {
            by_object.push((object, Vec::new()));
            by_object.len() - 1
        });
        let values = &mut by_object[at].1;
        let ts_ms = BEGIN_MS + nth * partitions + random.below(partitions as u64) as i64;
        let report = Report { state: Name::clone(state), ts_ms, offset: 1_000_000 + nth, due_ms: None };
        values.push(RowValue::Report(Name::clone(agent), Some(report)));
        if random.below(4) == 0 {
            let state = Some(Name::clone(state));
            let (behind, since_ms, revision) = (state.clone(), ts_ms / 100 * 100, 1_100_000 + nth as u64);
            values.push(RowValue::Object(Some(Arc::new(Published { state, behind, mask: None, since_ms, cause: Cause::Vote, revision }))));
        }
    }
    let rows = by_object.into_iter().flat_map(|(object, values)| {
        let object: Name = object_name(object).into();
        values.into_iter().map(move |value| Row { partition: 0, object: Name::clone(&object), value })
    });
    rows.collect()
}

fn object_name(object: u64) -> String {
    format!("site-{object:08}.example.com")
}

fn best_ns(mut run: impl FnMut()) -> f64 {
    let mut timed = || {
        let begin = Instant::now();
        run();
        begin.elapsed().as_nanos() as f64
    };
    (0..RUNS).map(|_| timed()).fold(f64::INFINITY, f64::min)
}

/// A plain congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}
