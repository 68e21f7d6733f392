//! The digest of a partition's live rows: the wrapping sum of a hash per row, so that it does not depend on order and a change of one row
//! costs two hashes. Part of the checkpoint format: stable across releases, machines and processes (XXH3, fixed layout below).
//!
//! | row | hashed words (little-endian u64), after the partition's and object's hash |
//! |---|---|
//! | report | 1, agent, state, ts, offset, due (`i64::MIN` for none) |
//! | object | 2, state, behind, mask's state, mask's since, mask's until, since, cause, revision |
//!
//! Names enter as the XXH3 of their UTF-8; an absent name or time as fixed words no name or time has in practice.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::vocabulary::{Cause, Millis, Name, Partition, Published, Report, Row, RowValue};

const NO_NAME: u64 = 0;
const NO_TIME: Millis = Millis::MIN;

/// The hash of one row; 0 for a tombstone, which is no row.
#[must_use]
pub fn row_hash(row: &Row) -> u64 {
    let object = object_hash(row.partition, &row.object);
    match &row.value {
        RowValue::Report(agent, Some(report)) => report_row_hash(object, name_hash(agent), report),
        RowValue::Object(Some(published)) => published_hash(object, &PublishedWords::of(published)),
        RowValue::Report(_, None) | RowValue::Object(None) => 0,
    }
}

/// The hash that stands for a name of an agent or a state.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// The hash that stands for a partition's object.
#[must_use]
pub fn object_hash(partition: Partition, object: &str) -> u64 {
    xxh3_64_with_seed(object.as_bytes(), u64::from(partition.unsigned_abs()))
}

fn report_row_hash(object: u64, agent: u64, report: &Report) -> u64 {
    let claim = ClaimWords { state: name_hash(&report.state), ts_ms: report.ts_ms, offset: report.offset, due_ms: report.due_ms };
    claim_hash(object, agent, &claim)
}

/// A report's words, with names already hashed.
#[derive(Clone, Copy, Debug)]
pub struct ClaimWords {
    /// Its state.
    pub state: u64,
    /// As in [`Report`].
    pub ts_ms: Millis,
    /// As in [`Report`].
    pub offset: i64,
    /// As in [`Report`].
    pub due_ms: Option<Millis>,
}

/// The hash of a report's row from hashes of its names.
#[must_use]
pub fn claim_hash(object: u64, agent: u64, claim: &ClaimWords) -> u64 {
    let due = claim.due_ms.unwrap_or(NO_TIME);
    hash_words(&[object, 1, agent, claim.state, claim.ts_ms as u64, claim.offset as u64, due as u64])
}

/// What an object's row says, with names already hashed.
#[derive(Clone, Copy, Debug)]
pub struct PublishedWords {
    /// As in [`Published`].
    pub state: Option<u64>,
    /// As in [`Published`].
    pub behind: Option<u64>,
    /// State, since, until.
    pub mask: Option<(u64, Millis, Option<Millis>)>,
    /// As in [`Published`].
    pub since_ms: Millis,
    /// As in [`Published`].
    pub cause: Cause,
    /// As in [`Published`].
    pub revision: u64,
}

impl PublishedWords {
    fn of(published: &Published) -> Self {
        let hash = |name: &Name| name_hash(name);
        let Published { state, behind, mask, since_ms, cause, revision } = published;
        Self {
            state: state.as_ref().map(hash),
            behind: behind.as_ref().map(hash),
            mask: mask.as_ref().map(|mask| (hash(&mask.state), mask.since_ms, mask.until_ms)),
            since_ms: *since_ms,
            cause: *cause,
            revision: *revision,
        }
    }
}

/// The hash of an object's row from hashes of its names.
#[must_use]
pub fn published_hash(object: u64, published: &PublishedWords) -> u64 {
    let (mask, since_ms, until_ms) = published.mask.unwrap_or((NO_NAME, NO_TIME, None));
    hash_words(&[
        object,
        2,
        published.state.unwrap_or(NO_NAME),
        published.behind.unwrap_or(NO_NAME),
        mask,
        since_ms as u64,
        until_ms.unwrap_or(NO_TIME) as u64,
        published.since_ms as u64,
        xxh3_64(published.cause.as_str().as_bytes()),
        published.revision,
    ])
}

fn hash_words<const N: usize>(words: &[u64; N]) -> u64 {
    let mut bytes = [[0; 8]; N];
    words.iter().zip(&mut bytes).for_each(|(word, bytes)| *bytes = word.to_le_bytes());
    xxh3_64(bytes.as_flattened())
}
