//! Cuts rotation slices at the end of an epoch, out of the index and the published rows: both stand exactly there while it is closed.
//!
//! Nothing of the next epoch is applied yet, since its events come after the close. Rows of the epoch itself are passed over: whoever
//! writes the slice writes them, too.

use std::collections::HashSet;

use super::{build::KnownTrace, known::Known};
use crate::{
    names::{Names, ObjectId},
    posted::Posted,
    publish::ObjectRow,
    reports::{Reports, WINDOW},
    rows::make::Maker,
    slice::{Position, Slice, SliceAsk},
    slots::Slots,
    vocabulary::Seq,
};

/// An object with more rows than this may be parted after that many.
const PART_ROWS: usize = 4_096;

/// What slices are cut from.
pub(super) struct Slicer<'a> {
    pub(super) reports: &'a Reports,
    pub(super) posted: &'a Slots<Posted>,
    pub(super) names: &'a Names,
    /// Objects whose published row is among the epoch's, rising.
    pub(super) rows: &'a [ObjectRow],
    /// The epoch's last seq.
    pub(super) last: Seq,
}

/// One slice in the making.
struct Making<'a> {
    maker: &'a mut Maker,
    rows: usize,
    rows_max: usize,
}

impl Slicer<'_> {
    /// Cuts them all. Of several asks for one partition only the first counts.
    pub(super) fn cut(&self, asks: &[SliceAsk], known: &mut KnownTrace, maker: &mut Maker) -> Vec<Slice> {
        let mut seen = HashSet::new();
        asks.iter().filter(|ask| seen.insert(ask.partition)).map(|ask| self.slice(ask, known, maker)).collect()
    }

    fn slice(&self, ask: &SliceAsk, known: &mut KnownTrace, maker: &mut Maker) -> Slice {
        let from = ask.after.passed.clone().unwrap_or_default();
        let known = Known::open(known, (ask.partition, &from), self.last);
        let mut known = known.skip_while(|(name, _)| ask.after.passed.as_ref() == Some(name));
        let mut making = Making { maker, rows: 0, rows_max: ask.rows_max.max(1) };
        let (mut reached, mut is_end) = (ask.after.clone(), true);
        let mut part = ask.after.part.clone();
        let mut window = Vec::with_capacity(WINDOW);
        'all: loop {
            window.extend(known.by_ref().take(WINDOW));
            if window.is_empty() {
                break;
            }
            self.reports.look_ahead_of_slice(window.iter().map(|(_, id)| *id));
            for (name, id) in window.drain(..) {
                if making.is_full() {
                    is_end = false;
                    break 'all;
                }
                let after = part.take().filter(|(object, _)| *object == name).map(|(_, agent)| agent);
                if let Some(agent) = self.object(id, after, &mut making) {
                    reached.part = Some((name, agent));
                    is_end = false;
                    break 'all;
                }
                reached = Position { passed: Some(name), part: None };
            }
        }
        let (rows, _) = making.maker.take(self.names);
        let rows = rows.into_iter().next().unwrap_or_default();
        Slice { partition: ask.partition, rows, reached, is_end }
    }

    /// Takes an object's rows, or those of its agents after this one. If that was not all, returns the last agent taken.
    fn object(&self, id: ObjectId, after: Option<u32>, making: &mut Making<'_>) -> Option<u32> {
        let object = self.reports.object(id);
        if after.is_none()
            && let Some(slot) = object.posted()
            && self.rows.binary_search_by_key(&id, |row| row.object).is_err()
        {
            making.maker.object(id, object);
            making.maker.published(Some(self.posted.row(slot)), 0);
            making.rows += 1;
        }
        let mut own = 0;
        for (agent, claim) in self.reports.unchanged(id, after) {
            making.maker.object(id, object);
            making.maker.report(agent, Some(&claim), 0);
            making.rows += 1;
            own += 1;
            if own >= PART_ROWS && making.is_full() {
                return Some(agent);
            }
        }
        None
    }
}

impl Making<'_> {
    fn is_full(&self) -> bool {
        self.rows >= self.rows_max
    }
}
