//! Which codec for the rows of a checkpoint chunk: the chunk's own, a serde format (postcard), Arrow IPC, columnar, abomonation.
//!
//! The same rows for all: the changes of an epoch (scattered objects), and a slice of unchanged rows (adjacent objects). Each writes
//! them and reads them back into the same rows, which is checked; bytes are those after lz4. What a codec does not do by itself is not
//! charged to it: only the chunk's own numbers hold checksums, versions and bounds on what is read.
//!
//! `scripts/codecs` runs it; the table is in ARCHITECTURE.md.

mod arrow;
mod flat;
mod workload;

use std::{hint::black_box, time::Instant};

use flat::Flat;
use lz4_flex::block::{compress_prepend_size, decompress_size_prepended};
use statehouse::chunk;
use statehouse_dataflows::{rows::Rows, vocabulary::Row};

const REPORTS: u64 = 100_000;
const RUNS: usize = 30;

/// Rows to bytes and back.
struct Codec {
    name: &'static str,
    write: fn(&Given) -> Vec<Vec<u8>>,
    read: fn(&[Vec<u8>]) -> Vec<Row>,
}

/// The same rows in each form that a codec takes; making it is charged to nobody.
struct Given {
    made: [Rows; 1],
    flat: Vec<Flat>,
}

const CODECS: [Codec; 5] = [
    Codec { name: "chunk", write: write_chunk, read: read_chunk },
    Codec {
        name: "postcard",
        write: |given| vec![compress_prepend_size(&postcard::to_stdvec(&given.flat).expect("memory"))],
        read: read_postcard,
    },
    Codec { name: "arrow ipc", write: |given| vec![arrow::write(&given.flat)], read: |pieces| arrow::read(&pieces[0]) },
    Codec { name: "columnar", write: write_columnar, read: read_columnar },
    Codec { name: "abomonation", write: write_abomonation, read: read_abomonation },
];

fn main() {
    println!("| rows | codec | bytes a row | write ns a row | read ns a row |\n|---|---|---|---|---|");
    for (what, rows) in [("changes", workload::changes(REPORTS)), ("slice", workload::slice(REPORTS))] {
        let given = Given { made: [Rows::of(&rows)], flat: rows.iter().map(flat::of).collect() };
        let of = rows.len() as f64;
        for Codec { name, write, read } in CODECS {
            let pieces = write(&given);
            assert_eq!(read(&pieces), rows, "{name} gives back what it was given");
            let write_ns = best_ns(|| drop(black_box(write(&given)))) / of;
            let read_ns = best_ns(|| drop(black_box(read(&pieces)))) / of;
            let bytes = pieces.iter().map(Vec::len).sum::<usize>() as f64 / of;
            println!("| {what} | {name} | {bytes:.1} | {write_ns:.0} | {read_ns:.0} |");
        }
    }
}

fn best_ns(mut run: impl FnMut()) -> f64 {
    let mut timed = || {
        let begin = Instant::now();
        run();
        begin.elapsed().as_nanos() as f64
    };
    (0..RUNS).map(|_| timed()).fold(f64::INFINITY, f64::min)
}

fn write_chunk(given: &Given) -> Vec<Vec<u8>> {
    chunk::encode(&chunk::Header { clock_ms: workload::BEGIN_MS, ..Default::default() }, &given.made, chunk::PIECE_BYTES_MAX)
}

fn read_chunk(pieces: &[Vec<u8>]) -> Vec<Row> {
    pieces.iter().flat_map(|piece| chunk::decode(piece).expect("just written").rows.to_rows()).collect()
}

fn read_postcard(pieces: &[Vec<u8>]) -> Vec<Row> {
    let flat: Vec<Flat> = postcard::from_bytes(&decompress_size_prepended(&pieces[0]).expect("just written")).expect("just written");
    flat::rows(flat.iter().map(flat::borrowed))
}

fn write_columnar(given: &Given) -> Vec<Vec<u8>> {
    let columns = columnar::Columnar::as_columns(given.flat.iter());
    let mut words: Vec<u64> = Vec::new();
    columnar::bytes::indexed::encode(&mut words, &columnar::Borrow::borrow(&columns));
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    vec![compress_prepend_size(&bytes)]
}

fn read_columnar(pieces: &[Vec<u8>]) -> Vec<Row> {
    type Borrowed<'a> = <<Flat as columnar::Columnar>::Container as columnar::Borrow>::Borrowed<'a>;
    let bytes = decompress_size_prepended(&pieces[0]).expect("just written");
    let words: Vec<u64> = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
    let mut slices = columnar::bytes::indexed::decode(&words);
    let columns = <Borrowed<'_> as columnar::FromBytes<'_>>::from_bytes(&mut slices);
    flat::rows(columnar::Index::into_index_iter(columns).map(flat::of_columns))
}

fn write_abomonation(given: &Given) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    // SAFETY: none that holds; it reads padding. Which is one reason why it is not the codec.
    unsafe { abomonation::encode(&given.flat, &mut bytes) }.expect("memory");
    vec![compress_prepend_size(&bytes)]
}

fn read_abomonation(pieces: &[Vec<u8>]) -> Vec<Row> {
    let mut bytes = decompress_size_prepended(&pieces[0]).expect("just written");
    // SAFETY: bytes of this very process, just written; alignment is hoped for, as everywhere that this codec was used.
    let (flat, _) = unsafe { abomonation::decode::<Vec<Flat>>(&mut bytes) }.expect("just written");
    flat::rows(flat.iter().map(flat::borrowed))
}
