//! Reads back what the log holds for others: the sink's records and the rejects. For the terminal view, HTTP and tests.
//!
//! Sees committed transactions only, and works beside the house that writes them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use redb::{Error, ReadOnlyTable, Value};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    store::Store,
    tables::{CHANGES, ChangeRow, Place, REJECTS, RejectRow},
};
use crate::log::{LogError, RejectRecord, SinkRecord};

/// Reads what a live log holds. Keeps the log's directory in use as long as it lives.
#[derive(Clone)]
pub struct LocalReader {
    store: Arc<Store>,
}

impl LocalReader {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The partition's first `limit` sink records at or after the sink offset `from` that are still kept, in order.
    ///
    /// # Errors
    /// When the log can't be read (now, or at all).
    pub fn changes(&self, partition: Partition, from: Offset, limit: usize) -> Result<Vec<(Offset, SinkRecord)>, LogError> {
        self.store.reading(|reading| collect(&reading.open_table(CHANGES)?, (partition, from), limit, change))
    }

    /// The partition's first `limit` rejects at or after the offset `from` *among the rejects* that are still kept, in order.
    ///
    /// # Errors
    /// When the log can't be read (now, or at all).
    pub fn rejects(&self, partition: Partition, from: Offset, limit: usize) -> Result<Vec<(Offset, RejectRecord)>, LogError> {
        self.store.reading(|reading| collect(&reading.open_table(REJECTS)?, (partition, from), limit, reject))
    }
}

fn collect<V: Value, T>(
    table: &ReadOnlyTable<Place, V>,
    from: Place,
    limit: usize,
    decode: impl Fn(V::SelfType<'_>) -> T,
) -> Result<Vec<(Offset, T)>, Error> {
    let rows = table.range(from..=(from.0, Offset::MAX))?.take(limit);
    rows.map(|row| row.map(|(place, row)| (place.value().1, decode(row.value()))).map_err(Error::from)).collect()
}

fn change((key, value, headers): <ChangeRow as Value>::SelfType<'_>) -> SinkRecord {
    let headers = headers.into_iter().map(|(name, value)| (constant(name), value.to_owned())).collect();
    SinkRecord { key: key.into(), value: value.map(<[u8]>::to_vec), headers }
}

fn reject((offset, timestamp_ms, key, value, reason, detail): <RejectRow as Value>::SelfType<'_>) -> RejectRecord {
    let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
    RejectRecord { offset, timestamp_ms, key, value, reason: constant(reason), detail: detail.to_owned() }
}

/// The one copy of a name that was a constant of the program that wrote it: there are a handful, so they may stay for good.
fn constant(name: &str) -> &'static str {
    static CONSTANTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut constants = CONSTANTS.lock().expect("nobody panics with this lock");
    if let Some(known) = constants.get(name) {
        return known;
    }
    let known = Box::leak(name.to_owned().into_boxed_str());
    constants.insert(known);
    known
}
