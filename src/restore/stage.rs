//! Staging: chunks in, the last word on each row out, with the proof that nothing is missing.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
};

use ahash::RandomState;
use statehouse_dataflows::{
    digest::row_hash,
    vocabulary::{Millis, Name, Offset, Partition, Published, Report, Row, RowValue, TICK_MS},
};

use super::RestoreSettings;
use crate::{
    chunk::{self, NO_CLOCK_MS},
    log::Progress,
};

/// No clock goes past the year 9999, and none that does is counted with.
const CLOCK_MAX_MS: Millis = 253_402_300_799_900;
/// Likewise, an event's number: a million a second fill it in 290,000 years.
const EVENT_MAX: u64 = i64::MAX as u64;

/// Rows as far as they are read.
pub(super) struct Stage {
    partition: Partition,
    house: String,
    objects: HashMap<Name, Object, RandomState>,
    /// The piece read last.
    last: Option<Last>,
    records: u64,
}

struct Last {
    header: chunk::Header,
    index: u32,
    count: u32,
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
        Self { partition, house: settings.house.clone(), objects, last: None, records: 0 }
    }

    /// The last whole chunk's number.
    pub(super) fn last_n(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| if last.is_whole() { last.header.n } else { last.header.n - 1 })
    }

    /// Takes the next checkpoint record; whether chunk `n` is whole with it. A problem is one of the log's content.
    pub(super) fn take(&mut self, offset: Offset, bytes: &[u8], n: u64) -> Result<bool, String> {
        let piece = chunk::decode(bytes).map_err(|error| format!("the record at offset {offset}: {error}"))?;
        self.check(&piece).map_err(|problem| format!("the record at offset {offset} {problem}"))?;
        self.records += 1;
        self.keep(piece.rows);
        let last = Last { header: piece.header, index: piece.index, count: piece.count };
        let done = last.header.n == n && last.is_whole();
        self.last = Some(last);
        Ok(done)
    }

    /// Proves that these rows are the ones committed: (records read, the last header, the objects).
    pub(super) fn finish(self, next_offset: Offset, progress: Progress) -> Result<(u64, Option<chunk::Header>, Objects), String> {
        let digest = self.digest();
        let header = self.last.map(|last| last.header);
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
        Ok((self.records, header, Objects { partition: self.partition, objects: Some(self.objects.into_iter()) }))
    }

    fn check(&self, piece: &chunk::Piece) -> Result<(), String> {
        let header = &piece.header;
        if header.house != self.house {
            return Err(format!("is of house {:?}, not of {:?}", header.house, self.house));
        }
        if header.partition != self.partition {
            return Err(format!("is of partition {}", header.partition));
        }
        check_place(header)?;
        let (n, index) = match &self.last {
            // Deltas are read from the very first one on.
            None => (1, 0),
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
            object.rows(self.partition, name).fold(digest, |digest, row| digest.wrapping_add(row_hash(&row)))
        })
    }
}

/// What is counted on from must be such that counting goes well.
fn check_place(header: &chunk::Header) -> Result<(), String> {
    let chunk::Header { clock_ms, event, next_offset, .. } = *header;
    let is_clock = (0..=CLOCK_MAX_MS).contains(&clock_ms) && clock_ms % TICK_MS == 0;
    if !is_clock && clock_ms != NO_CLOCK_MS {
        return Err(format!("has the clock {clock_ms}, at which no clock ever stands"));
    }
    if event == 0 || event > EVENT_MAX {
        return Err(format!("has the event number {event}, which no event ever has"));
    }
    if next_offset < 0 {
        return Err(format!("goes to source offset {next_offset}, which is none"));
    }
    Ok(())
}

impl Last {
    /// Whether another piece is of the very same chunk: each piece has its own ticks and all else in common.
    fn check_same(&self, piece: &chunk::Piece) -> Result<(), String> {
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
