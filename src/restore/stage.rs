//! Staging: chunks in, the last word on each row out, with the proof that nothing is missing.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
};

use ahash::RandomState;
use statehouse_dataflows::{
    digest::row_hash,
    vocabulary::{Name, Offset, Partition, Published, Report, Row, RowValue},
};

use super::{
    RestoreSettings,
    chain::{Chain, Link},
};
use crate::{chunk, log::Progress, rotation::Rotation};

/// The last chunk's header, and where the rotation stands after it.
pub(super) type Head = (Option<chunk::Header>, Rotation);

/// Rows as far as they are read.
pub(super) struct Stage {
    chain: Chain,
    objects: HashMap<Name, Object, RandomState>,
    records: u64,
}

#[derive(Default)]
struct Object {
    published: Option<Arc<Published>>,
    reports: BTreeMap<Name, Report>,
}

/// Staged objects, to be handed over one by one.
#[derive(Default)]
pub(super) struct Objects {
    partition: Partition,
    objects: Option<hash_map::IntoIter<Name, Object>>,
}

impl Stage {
    pub(super) fn new(partition: Partition, settings: &RestoreSettings) -> Self {
        let objects = HashMap::with_hasher(settings.keys.clone());
        Self { chain: Chain::new(partition, &settings.house), objects, records: 0 }
    }

    /// The last whole chunk's number.
    pub(super) fn last_n(&self) -> u64 {
        self.chain.last_n()
    }

    /// The header of the chunk read last, if all of it was read.
    pub(super) fn whole(&self) -> Option<&chunk::Header> {
        self.chain.whole()
    }

    /// Takes the next checkpoint record; whether chunk `n` is whole with it. A problem is one of the log's content.
    pub(super) fn take(&mut self, offset: Offset, bytes: &[u8], n: u64) -> Result<bool, String> {
        let piece = chunk::decode(bytes).map_err(|error| format!("the record at offset {offset}: {error}"))?;
        let link = Link { offset, bytes: bytes.len() as u64, index: piece.index, count: piece.count, is_slice: piece.is_slice };
        let at = |problem| format!("the record at offset {offset} {problem}");
        if piece.header.n > n {
            return Err(at(format!("is of chunk {}, but only chunks up to {n} are committed", piece.header.n)));
        }
        self.chain.take(piece.header, link).map_err(at)?;
        self.records += 1;
        self.keep(piece.rows);
        Ok(self.chain.whole().is_some_and(|header| header.n == n))
    }

    /// Proves that these rows are the ones committed: (records read, where they end, the objects).
    pub(super) fn finish(self, next_offset: Offset, progress: Progress) -> Result<(u64, Head, Objects), String> {
        let digest = self.digest();
        let partition = self.chain.partition;
        let head = self.chain.into_head();
        if let Some(header) = &head.0 {
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
        Ok((self.records, head, Objects { partition, objects: Some(self.objects.into_iter()) }))
    }

    /// Rows of one object stand together: it is looked up once for all of them.
    fn keep(&mut self, rows: Vec<Row>) {
        let mut rows = rows.into_iter().peekable();
        while let Some(first) = rows.next() {
            let name = Arc::clone(&first.object);
            let object = self.objects.entry(first.object).or_default();
            object.keep(first.value);
            while let Some(row) = rows.next_if(|row| row.object == name) {
                object.keep(row.value);
            }
        }
    }

    fn digest(&self) -> u64 {
        let objects = self.objects.iter();
        objects.fold(0_u64, |digest, (name, object)| {
            object.rows(self.chain.partition, name).fold(digest, |digest, row| digest.wrapping_add(row_hash(&row)))
        })
    }
}

impl Object {
    fn keep(&mut self, value: RowValue) {
        match value {
            RowValue::Object(published) => self.published = published,
            RowValue::Report(agent, Some(report)) => _ = self.reports.insert(agent, report),
            RowValue::Report(agent, None) => _ = self.reports.remove(&agent),
        }
    }

    fn rows<'a>(&'a self, partition: Partition, name: &'a Name) -> impl Iterator<Item = Row> + 'a {
        let published = self.published.iter().map(|published| RowValue::Object(Some(Arc::clone(published))));
        let reports = self.reports.iter().map(|(agent, report)| RowValue::Report(Arc::clone(agent), Some(report.clone())));
        published.chain(reports).map(move |value| Row { partition, object: Arc::clone(name), value })
    }
}

impl Objects {
    /// The next object's rows.
    pub(super) fn next_object(&mut self) -> Option<Vec<Row>> {
        let objects = self.objects.as_mut()?;
        let (name, object) = objects.find(|(_, object)| object.published.is_some() || !object.reports.is_empty())?;
        Some(object.rows(self.partition, &name).collect())
    }
}
