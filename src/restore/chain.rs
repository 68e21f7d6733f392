//! The chain of chunks: whether a piece is the one that must come next of a house's partition.
//!
//! Beside whatever reads a checkpoint partition in order: a restore, or a copy that follows it. It may begin with any chunk; whether all that is live
//! stands from there on, the digest proves. On the way it learns where the rotation stands.

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition, TICK_MS};

use crate::{
    chunk::{self, NO_CLOCK_MS},
    rotation::{Rotation, Written},
};

/// No clock goes past the year 9999, and none that does is counted with.
const CLOCK_MAX_MS: Millis = 253_402_300_799_900;
/// Likewise, an event's number: a million a second fill it in 290,000 years.
const EVENT_MAX: u64 = i64::MAX as u64;
/// Likewise, a chunk's number.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// The chain as far as it is read.
pub(super) struct Chain {
    pub(super) partition: Partition,
    house: String,
    /// The piece read last.
    last: Option<Last>,
    rotation: Rotation,
    /// Of the chunk that is being read.
    written: Written,
}

/// A piece as a record: where it stands, and which of its chunk it is.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) offset: Offset,
    pub(super) bytes: u64,
    pub(super) index: u32,
    pub(super) count: u32,
    pub(super) is_slice: bool,
}

const NOTHING: Written = Written { offset: 0, changed_bytes: 0, slice_bytes: 0 };

struct Last {
    header: chunk::Header,
    index: u32,
    count: u32,
}

impl Chain {
    pub(super) fn new(partition: Partition, house: &str) -> Self {
        Self { partition, house: house.to_owned(), last: None, rotation: Rotation::default(), written: NOTHING }
    }

    /// Read up to and with the chunk of this header, after which the rotation stands there.
    pub(super) fn after((header, rotation): (chunk::Header, Rotation)) -> Self {
        let (partition, house) = (header.partition, header.house.clone());
        Self { partition, house, last: Some(Last { header, index: 0, count: 1 }), rotation, written: NOTHING }
    }

    /// The last whole chunk's number.
    pub(super) fn last_n(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| if last.is_whole() { last.header.n } else { last.header.n - 1 })
    }

    /// The header of the chunk read last, if all of it was read.
    pub(super) fn whole(&self) -> Option<&chunk::Header> {
        self.last.as_ref().filter(|last| last.is_whole()).map(|last| &last.header)
    }

    /// The header of the piece read last, and where the rotation stands after the last whole chunk.
    pub(super) fn into_head(self) -> (Option<chunk::Header>, Rotation) {
        (self.last.map(|last| last.header), self.rotation)
    }

    /// Where the rotation stands after the last whole chunk.
    pub(super) fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// Takes the piece as read, if it is the next one.
    pub(super) fn take(&mut self, header: chunk::Header, link: Link) -> Result<(), String> {
        let next = Last { header, index: link.index, count: link.count };
        self.check(&next)?;
        self.turn(&next, link);
        self.last = Some(next);
        Ok(())
    }

    /// Follows the rotation.
    fn turn(&mut self, piece: &Last, Link { offset, bytes, is_slice, .. }: Link) {
        if piece.index == 0 {
            self.written = Written { offset, ..NOTHING };
        }
        let Written { changed_bytes, slice_bytes, .. } = &mut self.written;
        *(if is_slice { slice_bytes } else { changed_bytes }) += bytes;
        if piece.is_whole() {
            self.rotation.written(&piece.header.turn, self.written);
        }
    }

    fn check(&self, piece: &Last) -> Result<(), String> {
        let header = &piece.header;
        if header.house != self.house {
            return Err(format!("is of house {:?}, not of {:?}", header.house, self.house));
        }
        if header.partition != self.partition {
            return Err(format!("is of partition {}", header.partition));
        }
        check_place(header)?;
        let (n, index) = match &self.last {
            None => (header.n.max(1), 0), // what is older was given up
            Some(last) if last.is_whole() => (last.header.n + 1, 0),
            Some(last) => (last.header.n, last.index + 1),
        };
        if (header.n, piece.index) != (n, index) {
            return Err(format!("is piece {} of chunk {}, where piece {index} of chunk {n} should be", piece.index, header.n));
        }
        match &self.last {
            Some(last) if index > 0 => last.check_same(piece),
            _ => Ok(()),
        }
    }
}

/// What is counted on from must be such that counting goes well.
fn check_place(header: &chunk::Header) -> Result<(), String> {
    let chunk::Header { n, clock_ms, event, next_offset, .. } = *header;
    let is_clock = (0..=CLOCK_MAX_MS).contains(&clock_ms) && clock_ms % TICK_MS == 0;
    if !is_clock && clock_ms != NO_CLOCK_MS {
        return Err(format!("has the clock {clock_ms}, at which no clock ever stands"));
    }
    if event == 0 || event > EVENT_MAX {
        return Err(format!("has the event number {event}, which no event ever has"));
    }
    if n == 0 || n > NUMBER_MAX {
        return Err(format!("has the number {n}, which no chunk ever has"));
    }
    if next_offset < 0 {
        return Err(format!("goes to source offset {next_offset}, which is none"));
    }
    Ok(())
}

impl Last {
    /// Whether another piece is of the very same chunk: each piece has its own ticks and all else in common.
    fn check_same(&self, piece: &Self) -> Result<(), String> {
        let (n, count, own) = (self.header.n, self.count, piece.count);
        if count != own {
            return Err(format!("says that chunk {n} has {own} pieces, an earlier one says {count}"));
        }
        let of = |header: &chunk::Header| chunk::Header { ticks: Vec::new(), ..header.clone() };
        if of(&self.header) != of(&piece.header) {
            return Err(format!("differs in its header from the piece of chunk {n} before it"));
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.index + 1 == self.count
    }
}
