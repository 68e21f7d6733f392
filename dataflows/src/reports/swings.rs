//! What an epoch's reports do to the tallies of their objects, small until it is settled: a difference of a tally takes twice the room.

use super::TallyDiff;
use crate::{
    by_object::{ByObject, in_order},
    flat::Update,
    names::ObjectId,
    tally::{StateId, Tally},
    vocabulary::Seq,
};

/// What one report does to its object's tally.
#[derive(Clone, Copy)]
pub(super) struct Swing {
    pub(super) object: ObjectId,
    pub(super) seq: Seq,
    /// By so many more reports are live.
    pub(super) live: i32,
    /// The weight goes from this state,
    pub(super) from: Option<StateId>,
    /// to this one.
    pub(super) to: Option<StateId>,
    pub(super) weight: i32,
}

/// All since differences were last taken.
#[derive(Default)]
pub(super) struct Swings {
    /// In the order of their seqs.
    made: Vec<Swing>,
    /// Room for ordering them.
    order: Vec<ByObject>,
}

impl Swing {
    fn is_nothing(&self) -> bool {
        self.live == 0 && (self.from == self.to || self.weight == 0)
    }

    fn diff(&self) -> TallyDiff {
        let mut diff = Tally::reports(self.live);
        self.from.into_iter().for_each(|state| diff.add(state, -self.weight));
        self.to.into_iter().for_each(|state| diff.add(state, self.weight));
        Update { key: self.object, value: (), seq: self.seq, diff }
    }
}

impl Swings {
    /// Notes a swing, unless it is none. They come in the order of their seqs.
    #[inline]
    pub(super) fn note(&mut self, swing: Swing) {
        if !swing.is_nothing() {
            self.made.push(swing);
        }
    }

    /// Their differences, in the order in which they are arranged: made in the order of their seqs, it is enough to sort them by object.
    pub(super) fn differ(&mut self, diffs: &mut Vec<TallyDiff>) {
        let Self { made, order } = self;
        order.clear();
        order.extend(made.iter().enumerate().map(|(at, swing)| ByObject::new(swing.object, at)));
        order.sort_unstable();
        diffs.reserve_exact(order.len());
        diffs.extend(in_order(order, made).map(Swing::diff));
        made.clear();
    }
}
