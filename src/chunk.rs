//! A chunk of the checkpoint: the rows of one partition and epoch, as one or more records ("pieces") that can be read each by itself.
//!
//! Between the workers' rows and the log; the restore reads them back. The order of rows is kept; rows of one object should be adjacent, as
//! an object's name is written once for each run of its rows. What is wrong with bytes that are read is said, never guessed at, and nothing
//! is allocated that they merely claim.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | [`MAGIC`] |
//! | 4 | version: [`VERSION`], or 1 |
//! | 5..13 | xxh3 (64 bits, little endian, seeded with the version) of everything after it |
//! | 13 | codec of the body: 0 as it stands, 1 lz4 block |
//! | 14..18 | index of the piece, from 0 (`u32`, little endian) |
//! | 18..22 | number of pieces of the chunk (`u32`, little endian) |
//! | 22..26 | length of the body before compression, at most [`BODY_BYTES_MAX`] (`u32`, little endian) |
//! | 26.. | the body: postcard of [`body::Turned`] (version 1: of the [`body::Body`] in it), columns of packed integers and of names |
//!
//! A version's layout never changes; a new field means a new version, and the versions of the last release stay readable. Version 1 has no
//! rotation: no slices, and a [`Turn`] of rotation 0.
//! Known limit: the checksum finds accidents, not forgers. Whoever may write to the checkpoint topic may write anything.

mod body;
mod cut;
mod names;
mod packed;
mod read;

use lz4_flex::block;
use statehouse_dataflows::{
    rows::Rows,
    vocabulary::{Millis, Name, Offset, Partition},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::cut::Cut;

/// The largest piece that is usually asked for: below the 1 MB that brokers take for a record, with room for its envelope.
pub const PIECE_BYTES_MAX: usize = 900_000;
/// The longest body before compression. A reader's memory hangs on it.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Stands for the clock of a partition without one, in a [`Header`]. No clock ever stands there.
pub(crate) const NO_CLOCK_MS: Millis = -1;

const MAGIC: [u8; 4] = *b"SHck";
const VERSION: u8 = 2;
/// The oldest version that is read.
const VERSION_MIN: u8 = 1;
const CHECKSUM_AT: usize = 5;
const CHECKED_AT: usize = 13;
const BODY_AT: usize = 26;
const STORED: u8 = 0;
const LZ4: u8 = 1;
/// A block of lz4 never grows more than this: one more byte of length stands for at most 255.
const LZ4_GROWTH_MAX: usize = 255;

/// What a chunk says beside its rows. All of it as of the epoch's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The house that wrote it.
    pub house: String,
    /// Whose rows they are.
    pub partition: Partition,
    /// The chunk's number: 1, 2, 3, ... per partition.
    pub n: u64,
    /// The first source offset not in it or before it.
    pub next_offset: Offset,
    /// The partition's clock; without one, -1.
    pub clock_ms: Millis,
    /// The number of the partition's next event.
    pub event: u64,
    /// The digest of the partition's live rows after this chunk.
    pub digest: u64,
    /// (offset, multiple) of every tick that a record or a firing follows, rising. Each piece has a part of them.
    pub ticks: Vec<(Offset, Millis)>,
    /// The instance that wrote it.
    pub instance: String,
    /// Where the rotation of slices stands.
    pub turn: Turn,
}

/// Where a partition's rotation of slices stands, as a chunk says it: enough for the next owner to go on. What it means, and why it is
/// sound, is said where it is kept: [`crate::rotation`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The rotation that the chunk's slice is of, from 1; 0: written before there were any.
    pub rotation: u64,
    /// Before this chunk: the greatest object of which any worker had passed a row; none: nobody had.
    pub ahead: Option<Name>,
    /// After this chunk: the least object up to which every worker has passed everything; none: there is none.
    pub cursor: Option<Name>,
    /// Whether the rotation ends with this chunk.
    pub ends: bool,
    /// Whether the chunk's slice is an advance: it was asked for because nothing else happened.
    pub advances: bool,
    /// Before this chunk: bytes of changed rows that slices have yet to match; negative: slices are ahead.
    pub owed_bytes: i64,
    /// Before this chunk: bytes of advances that changed rows have yet to match.
    pub advance_bytes: u64,
}

/// One record of the checkpoint, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The chunk's header, with this piece's part of the ticks.
    pub header: Header,
    /// Which piece of the chunk it is, from 0.
    pub index: u32,
    /// How many pieces the chunk has.
    pub count: u32,
    /// Whether its rows are a part of the chunk's slice.
    pub is_slice: bool,
    /// Its rows.
    pub rows: Rows,
}

/// Bytes that are not a piece of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// There is not even a frame.
    #[error("{bytes} bytes are too short for a piece of a chunk")]
    Short {
        /// How many there are.
        bytes: usize,
    },
    /// They are somebody else's.
    #[error("not a piece of a chunk: it does not begin with \"SHck\"")]
    Foreign,
    /// They are of a release that this one can't read.
    #[error(
        "a piece of version {0}, this release reads versions {VERSION_MIN} to {VERSION}: use the release that wrote it, or a later one"
    )]
    Version(u8),
    /// They were changed, or are not all there.
    #[error("the checksum does not match: the piece is damaged")]
    Checksum,
    /// The frame contradicts itself.
    #[error("the frame's {0} can't be")]
    Frame(&'static str),
    /// The body can't be decompressed.
    #[error("the body can't be decompressed: {0}")]
    Compression(String),
    /// The body contradicts itself.
    #[error("the body's {0} can't be")]
    Body(&'static str),
}

/// What of a body can't be.
#[derive(Debug)]
struct Flaw(&'static str);

/// Writes a chunk of these changed rows, each worker's, which must be of the header's partition, in pieces of at most `max_bytes` each. At
/// least one piece; a piece is larger only where a single row or tick already is.
#[must_use]
pub fn encode(header: &Header, rows: &[Rows], max_bytes: usize) -> Vec<Vec<u8>> {
    encode_with_slice(header, (rows, &[]), max_bytes).0
}

/// As [`encode`], with rows of a slice in pieces of their own, after the others. Returns how many bytes those have, too.
#[must_use]
pub fn encode_with_slice(header: &Header, (rows, slice): (&[Rows], &[Rows]), max_bytes: usize) -> (Vec<Vec<u8>>, u64) {
    let is_of_it = |rows: &Rows| rows.is_empty() || rows.partition() == header.partition;
    debug_assert!(rows.iter().chain(slice).all(is_of_it), "rows of one partition");
    let (rows, slice) = (Cut::of(rows), Cut::of(slice));
    let mut pieces = Vec::with_capacity(2);
    if rows.len() > 0 || !header.ticks.is_empty() || slice.len() == 0 {
        write(header, &header.ticks, &rows, max_bytes, &mut pieces);
    }
    let first_slice = pieces.len();
    if slice.len() > 0 {
        write(header, &[], &slice.sliced(), max_bytes, &mut pieces);
    }
    let count = u32::try_from(pieces.len()).expect("fewer pieces than rows and ticks fit memory");
    for (index, piece) in (0..count).zip(&mut pieces) {
        seal(piece, index, count);
    }
    let slice_bytes = pieces[first_slice..].iter().map(|piece| piece.len() as u64).sum();
    (pieces, slice_bytes)
}

/// Writes frames without index, count and checksum: those are known at the end.
fn write(header: &Header, ticks: &[(Offset, Millis)], rows: &Cut<'_>, max_bytes: usize, pieces: &mut Vec<Vec<u8>>) {
    let parts = if let Some(body) = body::write(header, ticks, rows) {
        let piece = frame(&body);
        let is_small = piece.len() <= max_bytes && body.len() <= BODY_BYTES_MAX;
        if is_small || rows.len().max(ticks.len()) <= 1 {
            pieces.push(piece);
            return;
        }
        piece.len() / max_bytes.max(1) + 1
    } else {
        2
    };
    let parts = parts.clamp(2, rows.len().max(ticks.len()));
    let (mut first_row, mut first_tick) = (0, 0);
    for part in 1..=parts {
        let end_row = rows.boundary(rows.len() * part / parts).max(first_row);
        let end_tick = ticks.len() * part / parts;
        if end_row > first_row || end_tick > first_tick {
            write(header, &ticks[first_tick..end_tick], &rows.part(first_row..end_row), max_bytes, pieces);
        }
        (first_row, first_tick) = (end_row, end_tick);
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut piece = vec![0; BODY_AT + block::get_maximum_output_size(body.len())];
    let compressed = block::compress_into(body, &mut piece[BODY_AT..]).expect("the room that lz4 asks for is there");
    piece.truncate(BODY_AT + compressed);
    let codec = if compressed < body.len() { LZ4 } else { STORED };
    if codec == STORED {
        piece.truncate(BODY_AT);
        piece.extend_from_slice(body);
    }
    piece[..4].copy_from_slice(&MAGIC);
    piece[4] = VERSION;
    piece[CHECKED_AT] = codec;
    piece[22..26].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    piece
}

fn seal(piece: &mut [u8], index: u32, count: u32) {
    piece[14..18].copy_from_slice(&index.to_le_bytes());
    piece[18..22].copy_from_slice(&count.to_le_bytes());
    let checksum = xxh3_64_with_seed(&piece[CHECKED_AT..], u64::from(VERSION));
    piece[CHECKSUM_AT..CHECKED_AT].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads one record of the checkpoint.
///
/// # Errors
/// When, and only when, it is not a whole, undamaged piece of a version that this release knows.
pub fn decode(bytes: &[u8]) -> Result<Piece, ChunkError> {
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err(ChunkError::Foreign);
    }
    if bytes.len() < BODY_AT {
        return Err(ChunkError::Short { bytes: bytes.len() });
    }
    let version = bytes[4];
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(ChunkError::Version(version));
    }
    let checksum = xxh3_64_with_seed(&bytes[CHECKED_AT..], u64::from(version));
    if bytes[CHECKSUM_AT..CHECKED_AT] != checksum.to_le_bytes() {
        return Err(ChunkError::Checksum);
    }
    let (index, count, length) = (number(bytes, 14), number(bytes, 18), number(bytes, 22) as usize);
    if index >= count {
        return Err(ChunkError::Frame("index"));
    }
    let stored = &bytes[BODY_AT..];
    let read = |body: &[u8]| read(version, body);
    let (header, is_slice, rows) = match bytes[CHECKED_AT] {
        STORED if length == stored.len() && length <= BODY_BYTES_MAX => read(stored)?,
        LZ4 if length <= BODY_BYTES_MAX.min(stored.len().saturating_mul(LZ4_GROWTH_MAX)) => read(&decompress(stored, length)?)?,
        STORED | LZ4 => return Err(ChunkError::Frame("length")),
        _ => return Err(ChunkError::Frame("codec")),
    };
    Ok(Piece { header, index, count, is_slice, rows })
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn decompress(stored: &[u8], length: usize) -> Result<Vec<u8>, ChunkError> {
    let mut body = vec![0; length];
    match block::decompress_into(stored, &mut body) {
        Ok(written) if written == length => Ok(body),
        Ok(_) => Err(ChunkError::Frame("length")),
        Err(e) => Err(ChunkError::Compression(e.to_string())),
    }
}

fn read(version: u8, body: &[u8]) -> Result<(Header, bool, Rows), ChunkError> {
    read::read(version, body).map_err(|Flaw(what)| ChunkError::Body(what))
}

#[cfg(test)]
mod tests;
