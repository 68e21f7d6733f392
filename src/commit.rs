//! Commit: one epoch, one transaction. Puts the pump's cut and the workers' outputs together, commits them, and tells everyone.
//!
//! Third and last stage of the flow: [`ToCommit`] in, [`Sent`] out: L to the workers first, then to everyone who watches, then to the pump, so
//! that whoever hears of a position may ask for it. Owns the log's committer and each partition's progress. It has no thread and no clock.
//!
//! **One recovery path.** Whatever a transaction ends in but success, the same follows: answers stay at L and are marked stale, the
//! committer starts over (which resolves what was open, either way), and every partition is restored from the log. Nothing is sent again.

mod part;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use statehouse_dataflows::vocabulary::{Offset, Partition, Seq};

use self::part::{Assembled, assemble};
use crate::{
    log::{Committer, LogError, Progress, TransactError, Transaction},
    message::{Cut, Note, Notice, Now, Output, Refused, Resolved, ToCommit},
    metrics::EpochCounts,
};

/// Commit's part of the configuration.
#[derive(Clone, Debug)]
pub struct CommitSettings {
    /// The house, for chunk headers.
    pub house: String,
    /// This process's instance id, for chunk headers.
    pub instance: String,
    /// How many workers there are.
    pub workers: usize,
    /// The largest checkpoint record.
    pub max_piece_bytes: usize,
}

/// What commit sends, in this order within an epoch.
#[derive(Debug)]
pub enum Sent {
    /// To one worker.
    Worker(usize, Notice),
    /// For everyone to watch.
    Note(Note),
    /// To the pump.
    Pump(Resolved),
}

/// What an epoch came to.
#[derive(Debug)]
pub enum Outcome {
    /// It is committed, or there was nothing to commit.
    Committed {
        /// Whether there was anything to commit.
        transacted: bool,
        /// What was in it; how long the transaction took is for whoever has a clock to add.
        counts: EpochCounts,
    },
    /// It is not known to be committed: [`Commit::recover`] must follow.
    Failed(TransactError),
    /// A reject forbids it, and the house is told to stop at rejects.
    Refused(Refused),
}

/// See the module.
pub struct Commit {
    settings: CommitSettings,
    committer: Box<dyn Committer>,
    progress: BTreeMap<Partition, Progress>,
    cut: Option<Cut>,
    outputs: Vec<Output>,
}

/// Everything of one epoch.
#[derive(Debug)]
pub struct Epoch {
    /// The pump's cut.
    pub cut: Cut,
    /// Every worker's output.
    pub outputs: Vec<Output>,
}

impl Commit {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new(settings: CommitSettings, committer: Box<dyn Committer>) -> Self {
        Self { settings, committer, progress: BTreeMap::new(), cut: None, outputs: Vec::new() }
    }

    /// Gathers; yields the epoch once all of it is there.
    pub fn gather(&mut self, message: ToCommit) -> Option<Epoch> {
        match message {
            ToCommit::Cut(cut) => self.cut = Some(cut),
            ToCommit::Output(output) => self.outputs.push(output),
        }
        let cut = self.cut.as_ref()?;
        self.outputs.retain(|output| output.generation >= cut.generation); // what a dropped engine said counts no more
        if self.outputs.len() < self.settings.workers {
            return None;
        }
        debug_assert!(self.outputs.iter().all(|output| output.epoch == cut.epoch), "one epoch is in flight at a time");
        Some(Epoch { cut: self.cut.take()?, outputs: std::mem::take(&mut self.outputs) })
    }

    /// Commits an epoch and says so.
    pub fn resolve(&mut self, epoch: Epoch, now: Now, out: &mut Vec<Sent>) -> Outcome {
        let Epoch { cut, mut outputs } = epoch;
        if let Some(refused) = outputs.iter_mut().filter_map(|output| output.refused.take()).min_by_key(|refused| refused.seq) {
            return Outcome::Refused(refused);
        }
        self.adopt(&cut);
        let Assembled { transaction, transacted, counts } = assemble(&self.settings, &cut, outputs, &self.progress);
        let live = transaction.parts.iter().map(|part| (part.partition, part.next_offset)).collect();
        if let Err(error) = self.transact(transaction, transacted) {
            self.progress.clear();
            out.push(Sent::Note(Note::Stale { since_ms: now.wall_ms, trouble: error.to_string() }));
            out.push(Sent::Pump(Resolved::Failed));
            return Outcome::Failed(error);
        }
        self.announce(&cut, live, out);
        out.push(Sent::Pump(Resolved::Committed { epoch: cut.epoch, transacted }));
        Outcome::Committed { transacted, counts }
    }

    /// After a failed epoch: starts over, as long as `keep_trying` says so.
    ///
    /// # Errors
    /// As [`Committer::recover`].
    pub fn recover(&mut self, keep_trying: &dyn Fn() -> bool, out: &mut Vec<Sent>) -> Result<(), LogError> {
        self.committer.recover(keep_trying)?;
        out.push(Sent::Pump(Resolved::Recovered));
        Ok(())
    }

    /// Partitions come with the progress their restore found, and go when the cut doesn't name them any more.
    fn adopt(&mut self, cut: &Cut) {
        let before = std::mem::take(&mut self.progress);
        let progress = cut.parts.iter().map(|part| {
            let progress = part.adopted.or_else(|| before.get(&part.partition).copied());
            (part.partition, progress.expect("a partition's first epoch brings its progress"))
        });
        self.progress = progress.collect();
    }

    fn transact(&mut self, transaction: Transaction, wanted: bool) -> Result<(), TransactError> {
        if !wanted {
            return Ok(());
        }
        let progress: Vec<_> = transaction.parts.iter().map(|part| (part.partition, part.progress)).collect();
        let placed = self.committer.transact(transaction)?;
        for (partition, progress) in progress {
            self.progress.insert(partition, place_start(partition, progress, &placed));
        }
        Ok(())
    }

    fn announce(&self, cut: &Cut, live: Vec<(Partition, Offset)>, out: &mut Vec<Sent>) {
        let last: Seq = cut.end - 1;
        out.extend((0..self.settings.workers).map(|worker| Sent::Worker(worker, Notice::Committed(last))));
        out.push(Sent::Note(Note::Committed(live)));
        if !cut.copies.is_empty() {
            out.push(Sent::Note(Note::Copied(cut.copies.clone())));
        }
    }
}

/// Where a restore must start is known once the first chunk is placed; it is committed with the next epoch, and until then the log's very
/// start does as well.
fn place_start(partition: Partition, mut progress: Progress, placed: &[(Partition, Offset)]) -> Progress {
    if progress.n == 1 {
        let first = placed.iter().find(|(of, _)| *of == partition);
        progress.start = first.map_or(progress.start, |(_, offset)| *offset);
    }
    progress
}
