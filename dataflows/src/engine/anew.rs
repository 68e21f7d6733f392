//! A new beginning after a failure, which spares copies: they are in no transaction, so nothing that failed is in them.
//!
//! Everything else goes with the old engine, what is open included. Known limits: while it lasts, what is spared stands in memory twice; and
//! it is done at once, while the worker does nothing else.

use std::sync::Arc;

use super::Engine;
use crate::{names::ObjectId, rows::make::Maker, vocabulary::Run};

/// Objects whose rows are handed over at a time.
const BATCH_OBJECTS: usize = 4_096;

impl Engine {
    /// An engine of the same plan that has nothing but these runs' partitions, each restored at its run, as it stands after everything that
    /// was fed to this one, closed or not. Of all others nothing is left, not even a change of what is open. What was spared can be asked at once:
    /// L is the last of these seqs. This engine is of no use any more.
    ///
    /// Partitions must be such as are followed, or restored and not compared yet. The runs are each of one seq, after everything fed.
    #[must_use]
    pub fn anew(&mut self, spared: &[Run]) -> Self {
        let mut next = Self::new(Arc::clone(&self.plan));
        let Some(first) = spared.first() else { return next };
        self.close(first.first);
        let (mut maker, of) = (Maker::default(), self.reports.of(spared.iter().map(|run| run.partition)));
        for run in spared {
            next.run(*run);
            for objects in of[&run.partition].chunks(BATCH_OBJECTS) {
                self.hand_over(objects, &mut maker, (&mut next, *run));
            }
            next.close(run.end()); // so that what waits for the dataflow is one partition's
            next.committed(run.first);
        }
        next
    }

    fn hand_over(&self, objects: &[ObjectId], maker: &mut Maker, (to, run): (&mut Self, Run)) {
        let (posted, claims, names) = (self.stores.posted.borrow(), self.stores.claims.borrow(), self.stores.names.borrow());
        let mut hashes = Vec::with_capacity(objects.len());
        for id in objects {
            let object = self.reports.object(*id);
            maker.object(*id, object);
            object.posted().iter().for_each(|slot| maker.published(Some(posted.row(*slot)), 0));
            object.agents.iter().for_each(|place| maker.report(place.agent, Some(claims.row(place.slot)), 0));
            hashes.push(object.hash);
        }
        let (rows, _) = maker.take(&names);
        rows.iter().for_each(|rows| to.restore(run.first, &hashes, rows));
    }
}
