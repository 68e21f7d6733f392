//! Commit: one epoch, one transaction. Puts the pump's cut and the workers' outputs together, commits them, and tells everyone.
//!
//! Third and last stage of the flow: [`ToCommit`] in, [`Sent`] out: L to the workers first, then to everyone who watches, then to the pump, so
//! that whoever hears of a position may ask for it. Owns the log's committer and each partition's progress. It has no thread and no clock.
//!
//! **One recovery path.** Whatever a transaction ends in but success, the same follows: answers stay at L and are marked stale, the
//! committer starts over (which resolves what was open, either way), and every partition is restored from the log. Nothing is sent again.

mod part;
mod slicing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use statehouse_dataflows::{
    slice::SliceAsk,
    vocabulary::{Offset, Partition, Seq},
};

use self::{
    part::{Assembled, assemble},
    slicing::{Reason, Slicing},
};
use crate::{
    log::{Committer, LogError, Progress, TransactError, Transaction, Trims},
    message::{Cut, Note, Notice, Now, Output, Refused, Resolved, ToCommit},
    metrics::EpochCounts,
    rotation::Written,
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
    /// Slices wait until so many bytes of them are owed.
    pub slice_bytes_min: u64,
    /// How many bytes of slices are written a second, over all partitions, where nothing changes any more.
    pub idle_slice_bytes: u64,
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
    lines: BTreeMap<Partition, Line>,
    cut: Option<Cut>,
    outputs: Vec<Output>,
}

/// A partition, from one epoch to the next.
struct Line {
    progress: Progress,
    slicing: Slicing,
    /// Up to where the log was told that nothing is needed any more.
    trimmed: Option<Offset>,
}

/// A chunk on its way.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    changed_bytes: u64,
    slice_bytes: u64,
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
        Self { settings, committer, lines: BTreeMap::new(), cut: None, outputs: Vec::new() }
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
        self.adopt(&cut, now);
        let Assembled { transaction, sizes, transacted, mut counts } = assemble(&self.settings, &cut, outputs, &mut self.lines);
        let live = transaction.parts.iter().map(|part| (part.partition, part.next_offset)).collect();
        if let Err(error) = self.transact(transaction, transacted, (&sizes, now)) {
            self.lines.clear();
            out.push(Sent::Note(Note::Stale { since_ms: now.wall_ms, trouble: error.to_string() }));
            out.push(Sent::Pump(Resolved::Failed));
            return Outcome::Failed(error);
        }
        if transacted {
            let Trims { done, failed } = self.trim();
            (counts.trims, counts.trims_failed) = (done, failed);
        }
        let lines = self.lines.iter();
        counts.log_bytes = lines.map(|(partition, line)| (*partition, line.slicing.log_bytes(line.progress.start))).collect();
        self.announce((&cut, live), now, out);
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

    /// Partitions come with what their restore found, and go when the cut doesn't name them any more.
    fn adopt(&mut self, cut: &Cut, now: Now) {
        let mut before = std::mem::take(&mut self.lines);
        let workers = self.settings.workers;
        let lines = cut.parts.iter().map(|part| {
            let adopted = part.adopted.as_ref().map(|adopted| Line {
                progress: adopted.progress,
                slicing: Slicing::new(adopted.rotation.as_ref().clone(), workers, now),
                trimmed: None,
            });
            let line = adopted.or_else(|| before.remove(&part.partition));
            (part.partition, line.expect("a partition's first epoch brings its progress"))
        });
        self.lines = lines.collect();
    }

    /// Commits what there is to commit, and notes where it stands.
    fn transact(
        &mut self,
        transaction: Transaction,
        wanted: bool,
        (sizes, now): (&[(Partition, Sizes)], Now),
    ) -> Result<(), TransactError> {
        let mut placed = Vec::new();
        if wanted {
            let progress: Vec<_> = transaction.parts.iter().map(|part| (part.partition, part.progress)).collect();
            placed = self.committer.transact(transaction)?;
            for (partition, progress) in progress {
                let line = self.lines.get_mut(&partition).expect("a part for each line");
                line.progress = place_start(partition, progress, &placed);
            }
        }
        for (partition, line) in &mut self.lines {
            let sizes = sizes.iter().find(|(of, _)| of == partition).map(|(_, sizes)| *sizes);
            let offset = placed.iter().find(|(of, _)| of == partition).map(|(_, offset)| *offset);
            let written = sizes.zip(offset);
            let written = written.map(|(Sizes { changed_bytes, slice_bytes }, offset)| Written { offset, changed_bytes, slice_bytes });
            line.slicing.committed(written, now);
        }
        Ok(())
    }

    /// Gives up what no restore needs any more: what is before a start that is committed.
    fn trim(&mut self) -> Trims {
        let is_new = |line: &Line| line.progress.n > 1 && line.trimmed.is_none_or(|trimmed| trimmed < line.progress.start);
        let mut before = Vec::new();
        for (partition, line) in self.lines.iter_mut().filter(|(_, line)| is_new(line)) {
            line.trimmed = Some(line.progress.start);
            before.push((*partition, line.progress.start));
        }
        self.committer.trim(&before)
    }

    fn announce(&mut self, (cut, live): (&Cut, Vec<(Partition, Offset)>), now: Now, out: &mut Vec<Sent>) {
        let last: Seq = cut.end - 1;
        let asks = self.asks(now);
        out.extend(asks.into_iter().enumerate().map(|(worker, asks)| Sent::Worker(worker, Notice::Committed(last, asks))));
        out.push(Sent::Note(Note::Committed(live)));
        if !cut.copies.is_empty() {
            out.push(Sent::Note(Note::Copied(cut.copies.clone())));
        }
    }

    /// Which slices each worker's next output is to have.
    fn asks(&mut self, now: Now) -> Vec<Vec<SliceAsk>> {
        let mut all = vec![Vec::new(); self.settings.workers];
        let least = self.settings.slice_bytes_min;
        let wants = |(partition, line): (&Partition, &Line)| Some((*partition, line.slicing.wants(least, now)?));
        let wanted: Vec<_> = self.lines.iter().filter_map(wants).collect();
        let advances = wanted.iter().filter(|(_, reason)| *reason == Reason::Advance).count() as u64;
        let advance_bytes = self.settings.idle_slice_bytes / advances.max(1);
        for (partition, reason) in wanted {
            let line = self.lines.get_mut(&partition).expect("it was just seen");
            let asks = line.slicing.ask(partition, (reason, advance_bytes), now);
            all.iter_mut().zip(asks).for_each(|(all, ask)| all.push(ask));
        }
        all
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
