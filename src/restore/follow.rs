//! Follow: a copy of a partition that another instance owns, kept up with the checkpoint chunk by chunk.
//!
//! Committed records of the checkpoint in, rows and [`Chunk`]s out. First it stages what is there, as a restore does; at the end of that the rows must
//! have the digest that their last chunk names. From then on every whole chunk is handed over, once the digest of the rows after it is the
//! one in its header. It is never ahead of what is committed, as only committed records come. It has no thread and no clock.
//!
//! To know the digest it remembers a hash of every row by a keyed hash of its key: 16 bytes a row and their share of a table. Two keys of one hash
//! would be noticed as a wrong digest, and the copy begun anew, under another key.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use statehouse_dataflows::{
    digest::row_hash,
    vocabulary::{Offset, Partition, Row, RowValue},
};

use super::{
    RestoreSettings,
    chain::{Chain, Link},
    chunk_clock,
    stage::{Proven, Stage},
    table::Leaving,
};
use crate::{
    chunk,
    log::Progress,
    message::{Objects, Standpoint},
    rotation::Rotation,
};

/// A copy in the making, or made.
pub struct Follower {
    settings: RestoreSettings,
    /// For the hashes of rows' keys.
    keys: RandomState,
    way: Way,
}

enum Way {
    Gathering(Stage),
    Following(Copy),
}

/// A whole copy.
struct Copy {
    chain: Chain,
    /// Of the rows handed over.
    digest: u64,
    /// What was gathered and is not handed over yet.
    gathered: Leaving,
    /// By hash of a row's key: the row's hash.
    rows: HashMap<u64, u64, RandomState>,
    keys: RandomState,
    /// Rows of the chunk that is not all there yet.
    open: Vec<Row>,
}

/// A further chunk: where its owner stood after it, and its rows, those of one object together.
pub type Chunk = (Standpoint, Vec<Vec<Row>>);

/// What a copy is, measured by what is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The same; the owner stood there.
    Same(Standpoint),
    /// Chunks are still to come.
    Behind,
    /// Something else.
    Different,
}

impl Follower {
    /// Nothing read yet.
    #[must_use]
    pub fn new(partition: Partition, settings: &RestoreSettings) -> Self {
        Self { way: Way::Gathering(Stage::new(partition, settings)), keys: RandomState::new(), settings: settings.clone() }
    }

    /// Whether all that there was when it began is handed over.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.way, Way::Following(_))
    }

    /// Takes the next committed record.
    ///
    /// # Errors
    /// When, and only when, it is not what must come next, or leads to other rows than its owner had: the copy is good for nothing.
    pub fn take(&mut self, offset: Offset, bytes: &[u8]) -> Result<Option<Chunk>, String> {
        match &mut self.way {
            Way::Gathering(stage) => stage.take(offset, bytes, u64::MAX).map(|_| None),
            Way::Following(copy) => copy.take(offset, bytes).map_err(|why| format!("the record at offset {offset} {why}")),
        }
    }

    /// Everything that is committed was taken: what is gathered is a whole copy, if there is any and it was none before. Says where its owner
    /// stood; [`Follower::next_batch`] must follow, until there is none.
    ///
    /// # Errors
    /// When, and only when, it is not what its owner had.
    pub fn at_end(&mut self) -> Result<Option<Standpoint>, String> {
        let Way::Gathering(stage) = &mut self.way else { return Ok(None) };
        let Some(header) = stage.whole().cloned() else { return Ok(None) };
        let stage = std::mem::replace(stage, Stage::new(header.partition, &self.settings));
        let at = standpoint(&header);
        let Proven { rotation, table, .. } = stage.finish(header.next_offset, at.progress.unwrap_or_default())?;
        self.way = Way::Following(Copy::new((header, rotation), table.leave(), &self.keys));
        Ok(Some(at))
    }

    /// More of what was gathered: objects, each with all its rows, by worker.
    pub fn next_batch(&mut self) -> Option<Vec<Objects>> {
        let Way::Following(copy) = &mut self.way else { return None };
        let shares = copy.gathered.next(self.settings.batch_rows)?;
        shares.iter().flat_map(|objects| objects.rows.to_rows()).for_each(|row| copy.keep(&row));
        Some(shares)
    }

    /// Measures the copy by what is committed with the source offset.
    #[must_use]
    pub fn measure(&self, next_offset: Offset, progress: Progress) -> Measure {
        let Way::Following(copy) = &self.way else { return Measure::Behind };
        let Some(header) = copy.chain.whole().filter(|header| header.n >= progress.n) else { return Measure::Behind };
        let is_same =
            (header.n, header.next_offset, header.digest, copy.digest) == (progress.n, next_offset, progress.digest, progress.digest);
        if !is_same {
            return Measure::Different;
        }
        let rotation = Arc::new(copy.chain.rotation().clone());
        Measure::Same(Standpoint { progress: Some(progress), rotation, ..standpoint(header) })
    }
}

impl Copy {
    fn new(head: (chunk::Header, Rotation), gathered: Leaving, keys: &RandomState) -> Self {
        let rows = HashMap::with_hasher(keys.clone());
        Self { chain: Chain::after(head), digest: 0, gathered, rows, keys: keys.clone(), open: Vec::new() }
    }

    fn take(&mut self, offset: Offset, bytes: &[u8]) -> Result<Option<Chunk>, String> {
        let chunk::Piece { header, index, count, is_slice, rows } =
            chunk::decode(bytes).map_err(|error| format!("is no piece: {error}"))?;
        self.chain.take(header, Link { offset, bytes: bytes.len() as u64, index, count, is_slice })?;
        self.open.extend(rows.to_rows());
        let Some(header) = self.chain.whole() else { return Ok(None) };
        let (n, digest, at) = (header.n, header.digest, standpoint(header));
        let rows = std::mem::take(&mut self.open);
        rows.iter().for_each(|row| self.keep(row));
        if self.digest != digest {
            return Err(format!("ends chunk {n}, after which the rows have digest {:016x} and should have {digest:016x}", self.digest));
        }
        Ok(Some((at, by_object(rows))))
    }

    /// The last word on a row counts.
    fn keep(&mut self, row: &Row) {
        let (agent, is_gone) = match &row.value {
            RowValue::Report(agent, report) => (Some(&**agent), report.is_none()),
            RowValue::Object(published) => (None, published.is_none()),
        };
        let key = self.keys.hash_one((&*row.object, agent));
        let hash = row_hash(row);
        let before = if is_gone { self.rows.remove(&key) } else { self.rows.insert(key, hash) };
        self.digest = self.digest.wrapping_add(hash).wrapping_sub(before.unwrap_or(0));
    }
}

/// Where its owner stood after a chunk. Where a restore would have to start is not known here, and where the rotation stands is not said.
fn standpoint(header: &chunk::Header) -> Standpoint {
    let progress = Some(Progress { n: header.n, digest: header.digest, start: 0 });
    Standpoint { next_offset: header.next_offset, progress, rotation: Arc::default(), clock_ms: chunk_clock(header), event: header.event }
}

fn by_object(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut objects: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        match objects.last_mut() {
            Some(object) if object[0].object == row.object => object.push(row),
            _ => objects.push(vec![row]),
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use statehouse_dataflows::{
        rows::Rows,
        vocabulary::{Cause, Published, Report},
    };

    use super::*;
    use crate::{log::Start, route::Route};

    fn report(object: &str, agent: &str, state: Option<&str>) -> Row {
        let report = state.map(|state| Report { state: state.into(), ts_ms: 1, offset: 2, due_ms: None });
        Row { partition: 3, object: object.into(), value: RowValue::Report(agent.into(), report) }
    }

    fn published(object: &str, state: Option<&str>) -> Row {
        let published = state.map(|state| Published {
            state: Some(state.into()),
            behind: Some(state.into()),
            mask: None,
            since_ms: 1,
            cause: Cause::Vote,
            revision: 4,
        });
        Row { partition: 3, object: object.into(), value: RowValue::Object(published.map(Into::into)) }
    }

    /// Chunks as an owner commits them, each with the rows that it leaves.
    fn history() -> Vec<(Vec<Row>, Vec<Row>)> {
        let first = vec![report("o", "a", Some("x")), published("o", Some("x")), report("p", "a", Some("x")), published("p", Some("x"))];
        let second = vec![report("o", "a", Some("y")), published("o", Some("y")), report("p", "a", None), published("p", None)];
        let third = vec![report("o", "b", Some("y")), report("o", "a", Some("y"))]; // and one that did not change
        let left_second = second[..2].to_vec();
        let left_third = vec![report("o", "a", Some("y")), published("o", Some("y")), report("o", "b", Some("y"))];
        vec![(first.clone(), first), (second, left_second), (third, left_third)]
    }

    fn digest(rows: &[Row]) -> u64 {
        rows.iter().fold(0, |digest, row| digest.wrapping_add(row_hash(row)))
    }

    /// Chunk n (from 1) of the history, in pieces of at most so many bytes, with this digest in its header.
    fn pieces(n: u64, digest: u64, max_bytes: usize) -> Vec<Vec<u8>> {
        let header = chunk::Header {
            house: "test".into(),
            partition: 3,
            n,
            next_offset: n as Offset * 10,
            clock_ms: n as i64 * 100,
            event: n * 20,
            digest,
            ..chunk::Header::default()
        };
        chunk::encode(&header, &[Rows::of(&history()[n as usize - 1].0)], max_bytes)
    }

    fn sound(n: u64) -> Vec<Vec<u8>> {
        pieces(n, digest(&history()[n as usize - 1].1), 1_000_000)
    }

    fn follower() -> Follower {
        let route = Route::new(RandomState::new(), 1);
        let settings = RestoreSettings { house: "test".into(), start: Start::Latest, batch_rows: 2, route };
        Follower::new(3, &settings)
    }

    fn take_all(follower: &mut Follower, pieces: &[Vec<u8>]) -> Result<Option<Chunk>, String> {
        pieces.iter().map(|piece| follower.take(70, piece)).last().expect("a chunk has a piece")
    }

    /// A copy that was whole after the first chunk.
    fn whole() -> Follower {
        let mut follower = follower();
        assert!(take_all(&mut follower, &sound(1)).unwrap().is_none(), "first all that is there is gathered");
        assert_eq!(follower.at_end().unwrap().map(|at| at.next_offset), Some(10));
        let batches: Vec<_> = std::iter::from_fn(|| follower.next_batch()).collect();
        assert!(batches.len() == 2 && batches.iter().flatten().map(|objects| objects.rows.len()).sum::<usize>() == 4, "{batches:?}");
        follower
    }

    #[test]
    fn what_is_there_is_gathered_and_then_every_chunk_followed() {
        let mut follower = whole();
        assert!(follower.is_whole() && follower.at_end().unwrap().is_none());
        for n in 2..=3 {
            let (at, objects) = take_all(&mut follower, &sound(n)).unwrap().expect("a whole chunk");
            assert_eq!((at.next_offset, at.clock_ms, at.event), (n as Offset * 10, Some(n as i64 * 100), n * 20));
            assert_eq!(objects.concat(), history()[n as usize - 1].0);
        }
    }

    #[test]
    fn a_chunk_is_handed_over_when_all_of_it_is_there() {
        let mut follower = whole();
        let pieces = pieces(2, digest(&history()[1].1), 1);
        assert!(pieces.len() > 1, "several pieces");
        let (last, others) = pieces.split_last().expect("several");
        for piece in others {
            assert!(follower.take(70, piece).unwrap().is_none());
        }
        assert_eq!(follower.measure(20, Progress { n: 2, digest: digest(&history()[1].1), start: 5 }), Measure::Behind);
        assert_eq!(follower.take(70, last).unwrap().expect("now").1.concat(), history()[1].0);
    }

    #[test]
    fn a_number_that_cannot_be_counted_on_from_is_refused() {
        let header = chunk::Header { house: "test".into(), partition: 3, n: u64::MAX, event: 1, ..chunk::Header::default() };
        let said = follower().take(70, &chunk::encode(&header, &[], 1_000_000)[0]).expect_err("no chunk has it");
        assert!(said.contains("the number 18446744073709551615"), "{said}");
    }

    #[test]
    fn nothing_there_is_nothing_to_hand_over() {
        let mut follower = follower();
        assert!(follower.at_end().unwrap().is_none() && !follower.is_whole());
        assert_eq!(follower.measure(10, Progress::default()), Measure::Behind);
    }

    #[test]
    fn a_copy_is_measured_by_what_is_committed() {
        let mut follower = whole();
        take_all(&mut follower, &sound(2)).unwrap();
        let progress = Progress { n: 2, digest: digest(&history()[1].1), start: 5 };
        let at = Standpoint { next_offset: 20, progress: Some(progress), rotation: Arc::default(), clock_ms: Some(200), event: 40 };
        let rows = [
            (20, progress, Measure::Same(at)),
            (20, Progress { n: 3, ..progress }, Measure::Behind),
            (20, Progress { n: 1, ..progress }, Measure::Different), // more than is committed
            (21, progress, Measure::Different),
            (20, Progress { digest: 1, ..progress }, Measure::Different),
        ];
        for (next_offset, progress, expected) in rows {
            assert_eq!(follower.measure(next_offset, progress), expected, "{next_offset} {progress}");
        }
    }

    #[test]
    fn what_leads_to_other_rows_or_is_out_of_turn_is_refused() {
        let refusal = |follower: &mut Follower, pieces: &[Vec<u8>]| take_all(follower, pieces).expect_err("refused");
        assert!(refusal(&mut whole(), &pieces(2, 1, 1_000_000)).contains("have digest"));
        assert!(refusal(&mut whole(), &sound(3)).contains("is piece 0 of chunk 3, where piece 0 of chunk 2 should be"));
        assert!(refusal(&mut whole(), &sound(1)).contains("of chunk 1"));
        assert!(refusal(&mut whole(), &[b"nonsense".to_vec()]).contains("offset 70"));
        let mut follower = follower();
        take_all(&mut follower, &pieces(1, 1, 1_000_000)).unwrap();
        assert!(follower.at_end().expect_err("refused").contains("digest"));
    }
}
