//! What the database holds: its tables, and how one epoch is written into them.
//!
//! Records stand one per row under (partition, offset). Their contents are redb's own types, so a changed layout is refused by redb
//! itself; the format in [`HOUSE`] says which layout it is.

use std::ops::Bound;

use redb::{Error, ReadableTable, Table, TableDefinition, TableHandle, Value, WriteTransaction};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use crate::log::{Part, Progress, RejectRecord, SinkRecord, Transaction};

/// A record's place.
pub(super) type Place = (Partition, Offset);
/// A partition's next source offset, then its [`Progress`].
type ProgressRow = (Offset, u64, u64, Offset);
/// Key, value, headers.
pub(super) type ChangeRow = (&'static str, Option<&'static [u8]>, Vec<(&'static str, &'static str)>);
/// Offset, timestamp, key, value, reason, detail.
pub(super) type RejectRow = (i64, i64, Option<&'static [u8]>, Option<&'static [u8]>, &'static str, &'static str);

/// Whose database it is.
pub(super) const HOUSE: TableDefinition<'_, &str, &str> = TableDefinition::new("house");
/// How far each partition is committed.
pub(super) const PROGRESS: TableDefinition<'_, Partition, ProgressRow> = TableDefinition::new("progress");
/// The next offset of each partition's pieces, changes and rejects. Kept apart, as the records themselves are cut.
pub(super) const ENDS: TableDefinition<'_, Partition, (Offset, Offset, Offset)> = TableDefinition::new("ends");
/// The checkpoint: pieces of chunks.
pub(super) const CHUNKS: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("chunks");
/// The sink.
pub(super) const CHANGES: TableDefinition<'_, Place, ChangeRow> = TableDefinition::new("changes");
/// The rejects.
pub(super) const REJECTS: TableDefinition<'_, Place, RejectRow> = TableDefinition::new("rejects");

/// Every table, open for writing.
pub(super) struct Tables<'t> {
    progress: Table<'t, Partition, ProgressRow>,
    ends: Table<'t, Partition, (Offset, Offset, Offset)>,
    chunks: Table<'t, Place, &'static [u8]>,
    changes: Table<'t, Place, ChangeRow>,
    rejects: Table<'t, Place, RejectRow>,
}

impl<'t> Tables<'t> {
    /// Opens them all; those that are missing are made.
    pub(super) fn open(writing: &'t WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            progress: writing.open_table(PROGRESS)?,
            ends: writing.open_table(ENDS)?,
            chunks: writing.open_table(CHUNKS)?,
            changes: writing.open_table(CHANGES)?,
            rejects: writing.open_table(REJECTS)?,
        })
    }

    /// Writes an epoch; of changes and rejects the newest `keep_records` of each partition stay. Returns the checkpoint offset of each
    /// partition's first piece.
    pub(super) fn write(&mut self, transaction: &Transaction, keep_records: u64) -> Result<Vec<Place>, Error> {
        let keep = Offset::try_from(keep_records).unwrap_or(Offset::MAX);
        let mut firsts = Vec::new();
        for part in &transaction.parts {
            let first = self.write_part(part, keep)?;
            if !part.pieces.is_empty() {
                firsts.push((part.partition, first));
            }
        }
        Ok(firsts)
    }

    fn write_part(&mut self, part: &Part, keep: Offset) -> Result<Offset, Error> {
        let partition = part.partition;
        self.write_progress(part)?;
        let (first, changes, rejects) = self.ends.get(partition)?.map(|ends| ends.value()).unwrap_or_default();
        let ends = (
            append(&mut self.chunks, (partition, first), &part.pieces, |piece| piece.as_slice())?,
            append(&mut self.changes, (partition, changes), &part.changes, change_row)?,
            append(&mut self.rejects, (partition, rejects), &part.rejects, reject_row)?,
        );
        if ends != (first, changes, rejects) {
            self.ends.insert(partition, ends)?;
            cut(&mut self.changes, partition, ends.1 - keep)?;
            cut(&mut self.rejects, partition, ends.2 - keep)?;
        }
        Ok(first)
    }

    /// Pieces that no restore needs any more go in the same transaction that says so.
    fn write_progress(&mut self, part: &Part) -> Result<(), Error> {
        let Progress { n, digest, start } = part.progress;
        let old = self.progress.insert(part.partition, (part.next_offset, n, digest, start))?.map(|old| old.value());
        debug_assert!(old.is_none_or(|old| old.0 <= part.next_offset), "partition {} runs back: {old:?}, {part:?}", part.partition);
        if old.is_some_and(|(.., old_start)| old_start < start) {
            cut(&mut self.chunks, part.partition, start)?;
        }
        Ok(())
    }
}

/// Writes records from a place on, which must be the end of its partition. Returns the new end.
fn append<V: Value, T>(
    table: &mut Table<'_, Place, V>,
    from: Place,
    records: &[T],
    row: impl for<'a> Fn(&'a T) -> V::SelfType<'a>,
) -> Result<Offset, Error> {
    if records.is_empty() {
        return Ok(from.1);
    }
    let mut end = from.1;
    let mut cursor = table.upper_bound_mut(Bound::Excluded(from))?;
    for record in records {
        cursor.insert_before((from.0, end), row(record))?;
        end += 1;
    }
    cursor.close()?;
    Ok(end)
}

/// Removes a partition's records below an offset.
fn cut<V: Value>(table: &mut Table<'_, Place, V>, partition: Partition, below: Offset) -> Result<(), Error> {
    if below > 0 {
        table.retain_in((partition, 0)..(partition, below), |_, _| false)?;
    }
    Ok(())
}

/// Makes every table, and says whose they are. Refuses a database that already holds something else.
pub(super) fn found(writing: &WriteTransaction, marks: &[(&str, String)]) -> Result<(), Error> {
    if let Some(table) = writing.list_tables()?.next() {
        return Err(Error::Corrupted(format!("it holds a table {:?}, but not whose log it is", table.name())));
    }
    let mut house = writing.open_table(HOUSE)?;
    for (name, value) in marks {
        house.insert(*name, value.as_str())?;
    }
    Tables::open(writing).map(drop)
}

fn change_row(change: &SinkRecord) -> (&str, Option<&[u8]>, Vec<(&str, &str)>) {
    let headers = change.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    (&change.key, change.value.as_deref(), headers)
}

type BorrowedReject<'a> = (i64, i64, Option<&'a [u8]>, Option<&'a [u8]>, &'a str, &'a str);

fn reject_row(reject: &RejectRecord) -> BorrowedReject<'_> {
    let RejectRecord { offset, timestamp_ms, key, value, reason, detail } = reject;
    (*offset, *timestamp_ms, key.as_deref(), value.as_deref(), reason, detail)
}
