//! What a log keeps of a house: the last row of every key, the digests, the changes of committed epochs.

use std::collections::BTreeMap;

use statehouse_dataflows::{
    digest::row_hash,
    vocabulary::{Change, Name, Partition, Published, Report, Row, RowValue},
};

use super::world::Left;

type Key = (String, Partition);

/// Rows and digests as of the last committed epoch, and all changes up to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    rows: BTreeMap<(Partition, Name, Option<Name>), Row>,
    digests: BTreeMap<Partition, u64>,
    pub(crate) changes: Vec<Change>,
}

impl Store {
    /// Commits what an epoch left.
    pub(crate) fn commit(&mut self, left: Left) {
        let Left { changes, rows, digests, .. } = left;
        self.changes.extend(changes);
        for row in rows {
            self.put(row);
        }
        for (partition, delta) in digests {
            let digest = self.digests.entry(partition).or_default();
            *digest = digest.wrapping_add(delta);
        }
    }

    fn put(&mut self, row: Row) {
        let (agent, gone) = match &row.value {
            RowValue::Report(agent, report) => (Some(agent.clone()), report.is_none()),
            RowValue::Object(published) => (None, published.is_none()),
        };
        let key = (row.partition, row.object.clone(), agent);
        let text = format!("{row:?}");
        let before = if gone { self.rows.remove(&key) } else { self.rows.insert(key, row.clone()) };
        assert!(before.is_some() || !gone, "a tombstone for what was never there: {text}");
        assert_ne!(before, Some(row), "a row that says what was said before");
    }

    /// The live rows of a partition, by object: all of one object together.
    pub(crate) fn of(&self, partition: Partition) -> Vec<Vec<Row>> {
        let rows: Vec<_> = self.rows.values().filter(|row| row.partition == partition).cloned().collect();
        rows.chunk_by(|one, two| one.object == two.object).map(<[Row]>::to_vec).collect()
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let mut partitions: Vec<_> = self.rows.keys().map(|(partition, ..)| *partition).collect();
        partitions.dedup();
        partitions
    }

    /// The running digests, checked against the rows.
    pub(crate) fn check_digests(&self) {
        let mut sums: BTreeMap<Partition, u64> = self.digests.keys().map(|partition| (*partition, 0)).collect();
        for row in self.rows.values() {
            let sum = sums.entry(row.partition).or_default();
            *sum = sum.wrapping_add(row_hash(row));
        }
        assert_eq!(self.digests, sums, "running digests, and digests of the rows");
    }

    pub(crate) fn published(&self) -> BTreeMap<Key, Published> {
        let row = |row: &Row| match &row.value {
            RowValue::Object(Some(published)) => Some(((row.object.to_string(), row.partition), published.as_ref().clone())),
            RowValue::Object(None) | RowValue::Report(..) => None,
        };
        self.rows.values().filter_map(row).collect()
    }

    pub(crate) fn reports(&self) -> BTreeMap<Key, BTreeMap<String, Report>> {
        let mut reports = BTreeMap::<Key, BTreeMap<String, Report>>::new();
        for row in self.rows.values() {
            if let RowValue::Report(agent, Some(report)) = &row.value {
                let object = reports.entry((row.object.to_string(), row.partition)).or_default();
                object.insert(agent.to_string(), report.clone());
            }
        }
        reports
    }
}
