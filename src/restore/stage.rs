//! Staging: chunks in, the last word on each row out, with the proof that nothing is missing.

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    RestoreSettings,
    chain::{Chain, Link},
    table::Table,
};
use crate::{chunk, log::Progress, message::RestoreProgress, rotation::Rotation};

/// Rows as far as they are read.
pub(super) struct Stage {
    chain: Chain,
    table: Table,
    records: u64,
    /// The number of the first chunk read.
    first_n: u64,
    bytes: u64,
    rows: u64,
}

/// Rows that are the ones committed.
pub(super) struct Proven {
    /// Checkpoint records read.
    pub(super) records: u64,
    pub(super) read: RestoreProgress,
    /// The last chunk's header.
    pub(super) header: Option<chunk::Header>,
    /// Where the rotation stands after it.
    pub(super) rotation: Rotation,
    pub(super) table: Table,
}

impl Stage {
    pub(super) fn new(partition: Partition, settings: &RestoreSettings) -> Self {
        let table = Table::new(partition, settings.route.clone());
        Self { chain: Chain::new(partition, &settings.house), table, records: 0, first_n: 0, bytes: 0, rows: 0 }
    }

    /// The last whole chunk's number.
    pub(super) fn last_n(&self) -> u64 {
        self.chain.last_n()
    }

    /// The header of the chunk read last, if all of it was read.
    pub(super) fn whole(&self) -> Option<&chunk::Header> {
        self.chain.whole()
    }

    /// How far it is on the way to chunk `n`.
    pub(super) fn progress(&self, n: u64) -> RestoreProgress {
        let chunks = match self.records {
            0 => (0, 0),
            _ => ((self.last_n() + 1).saturating_sub(self.first_n), n.saturating_add(1).saturating_sub(self.first_n)),
        };
        RestoreProgress { chunks, bytes: self.bytes, rows: self.rows, ..RestoreProgress::default() }
    }

    /// Takes the next checkpoint record; whether chunk `n` is whole with it. A problem is one of the log's content.
    pub(super) fn take(&mut self, offset: Offset, bytes: &[u8], n: u64) -> Result<bool, String> {
        let piece = chunk::decode(bytes).map_err(|error| format!("the record at offset {offset}: {error}"))?;
        let of_chunk = piece.header.n;
        let link = Link { offset, bytes: bytes.len() as u64, index: piece.index, count: piece.count, is_slice: piece.is_slice };
        let at = |problem| format!("the record at offset {offset} {problem}");
        if piece.header.n > n {
            return Err(at(format!("is of chunk {}, but only chunks up to {n} are committed", piece.header.n)));
        }
        self.chain.take(piece.header, link).map_err(at)?;
        if self.records == 0 {
            self.first_n = of_chunk;
        }
        self.records += 1;
        self.bytes += bytes.len() as u64;
        self.rows += piece.rows.len() as u64;
        self.table.keep(&piece.rows);
        Ok(self.chain.whole().is_some_and(|header| header.n == n))
    }

    /// Proves that these rows are the ones committed.
    pub(super) fn finish(self, next_offset: Offset, progress: Progress) -> Result<Proven, String> {
        let (records, read) = (self.records, self.progress(progress.n));
        let digest = self.table.digest();
        let (header, rotation) = self.chain.into_head();
        if let Some(header) = &header {
            if header.next_offset != next_offset {
                let (n, place) = (header.n, header.next_offset);
                return Err(format!("chunk {n} goes to source offset {place}, but {next_offset} is committed"));
            }
            if header.digest != progress.digest {
                let (n, own, committed) = (header.n, header.digest, progress.digest);
                return Err(format!("chunk {n} has digest {own:016x}, but {committed:016x} is committed"));
            }
        }
        if digest != progress.digest {
            return Err(format!("its rows have digest {digest:016x}, but {:016x} is committed", progress.digest));
        }
        Ok(Proven { records, read, header, rotation, table: self.table })
    }
}
