//! One simulated partition of a topic: records, open and ended transactions, the end that is stable.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_dataflows::vocabulary::{Millis, Offset};

/// A transaction, by a number that no other one ever has.
pub(super) type Transactional = u64;

/// A record as it lies in a partition.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Its place.
    pub offset: Offset,
    /// Its Kafka timestamp.
    pub timestamp_ms: Millis,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// The transaction it is part of.
    pub(super) of: Option<Transactional>,
    /// Says how a transaction ended; nobody reads it.
    pub(super) is_marker: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) records: Vec<Stored>,
    /// Deleted before this.
    pub(super) low: Offset,
    /// Open transactions, by the offset of their first record here.
    open: BTreeMap<Transactional, Offset>,
    aborted: BTreeSet<Transactional>,
}

impl Partition {
    pub(super) fn end(&self) -> Offset {
        self.records.len() as Offset
    }

    /// Everything before it is resolved.
    pub(super) fn stable_end(&self) -> Offset {
        self.open.values().min().copied().unwrap_or(self.end())
    }

    pub(super) fn append(&mut self, mut record: Stored) -> Offset {
        record.offset = self.end();
        if let Some(transaction) = record.of {
            self.open.entry(transaction).or_insert(record.offset);
        }
        self.records.push(record);
        self.end() - 1
    }

    /// A transaction ends here.
    pub(super) fn mark(&mut self, transaction: Transactional, committed: bool) {
        if self.open.remove(&transaction).is_some() && !committed {
            self.aborted.insert(transaction);
        }
        let offset = self.end();
        self.records.push(Stored { offset, is_marker: true, ..Stored::default() });
    }

    /// The next record at or after `from` and before `end`; without `all` only what is committed.
    pub(super) fn next(&self, from: Offset, end: Offset, all: bool) -> Option<&Stored> {
        self.find(from.max(self.low), end, all)
    }

    fn find(&self, from: Offset, end: Offset, all: bool) -> Option<&Stored> {
        let from = usize::try_from(from).ok()?;
        let to = usize::try_from(end).ok()?.min(self.records.len());
        let counts = |of: Transactional| all || !(self.aborted.contains(&of) || self.open.contains_key(&of));
        self.records.get(from..to)?.iter().find(|record| !record.is_marker && record.of.is_none_or(counts))
    }

    /// All that is committed, up to the stable end, as if it had been read before any of it was deleted.
    pub(super) fn committed(&self) -> Vec<Stored> {
        let (mut from, mut all) = (0, Vec::new());
        while let Some(record) = self.find(from, self.stable_end(), false) {
            from = record.offset + 1;
            all.push(record.clone());
        }
        all
    }
}
