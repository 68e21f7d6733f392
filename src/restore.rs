//! Restore: reads a partition's state back from the checkpoint, proves that it is whole, and hands it over.
//!
//! Beside the flow: [`Request`] in, [`Delivery`] out. Owns the log's checkpoint. It has no thread and no clock; it blocks while it reads.
//!
//! A partition is restored from what is committed with its source offset: chunks from `start` to number n, all pieces of each, n consecutive;
//! of each row the last counts; a row that stands in none of them does not exist; their digest must be the committed one. Anything missing, foreign or different is corruption: the house
//! must not serve it. Nothing is handed over before all of that is proven.

mod chain;
pub mod follow;
mod stage;
mod table;
#[cfg(test)]
mod tests;

use std::{
    mem,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use self::{
    stage::{Proven, Stage},
    table::{Leaving, Table},
};
use crate::{
    chunk::{self, NO_CLOCK_MS},
    log::{Checkpoint, LogError, Progress, Start},
    message::{Delivered, Delivery, Request, RestoreProgress, Standpoint},
    rotation::Rotation,
    route::Route,
};

/// Restore's part of the configuration.
#[derive(Clone, Debug)]
pub struct RestoreSettings {
    /// The house whose chunks these must be.
    pub house: String,
    /// Where a house without progress begins.
    pub start: Start,
    /// About how many rows are handed over at a time; an object's rows are never parted.
    pub batch_rows: usize,
    /// Which worker takes an object.
    pub route: Route,
}

/// See the module.
pub struct Restore {
    settings: RestoreSettings,
    checkpoint: Box<dyn Checkpoint>,
}

/// A partition's state, proven whole.
pub struct Restored {
    /// Where the partition stood.
    pub at: Standpoint,
    /// How many checkpoint records were read.
    pub records: u64,
    partition: Partition,
    number: u64,
    read: RestoreProgress,
    objects: Leaving,
    batch_rows: usize,
    stage: Handed,
}

/// How much of it is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    Nothing,
    Begin,
    End,
}

impl Restore {
    /// Nothing restored yet.
    #[must_use]
    pub fn new(settings: RestoreSettings, checkpoint: Box<dyn Checkpoint>) -> Self {
        Self { settings, checkpoint }
    }

    /// Reads a partition's state; iterating over it yields its deliveries. Tells `each` after every record how far it is.
    ///
    /// # Errors
    /// When the log can't be read now, or nobody waits any more ([`LogError::Unavailable`]: look and try again), or what it holds must not
    /// be used.
    pub fn restore(&mut self, request: &Request, each: &mut dyn FnMut(RestoreProgress)) -> Result<Restored, LogError> {
        // Believed when it is seen twice: meanwhile a partition's leader may have changed and not know the end yet, or another instance,
        // which took us for dead, may have gone on.
        match self.look(request, each) {
            Err(LogError::Corrupt(_)) => self.look(request, each),
            outcome => outcome,
        }
    }

    fn look(&mut self, request: &Request, each: &mut dyn FnMut(RestoreProgress)) -> Result<Restored, LogError> {
        let (partition, number, batch_rows) = (request.partition, request.number, self.settings.batch_rows);
        let restored = |at, Proven { records, read, table, .. }: Proven| {
            let (objects, stage) = (table.leave(), Handed::Nothing);
            Restored { at, records, partition, number, read, objects, batch_rows, stage }
        };
        let Some((next_offset, progress)) = self.checkpoint.progress(partition)? else {
            let next_offset = self.checkpoint.start_offset(partition, self.settings.start)?;
            let at = Standpoint { next_offset, progress: None, rotation: Arc::default(), clock_ms: None, event: 1 };
            let table = Table::new(partition, self.settings.route.clone());
            return Ok(restored(
                at,
                Proven { records: 0, read: RestoreProgress::default(), header: None, rotation: Rotation::default(), table },
            ));
        };
        let mut proven = self.read(request, (next_offset, progress), each)?;
        let (clock_ms, event) = proven.header.as_ref().map_or((None, 1), |header| (chunk_clock(header), header.event));
        let rotation = Arc::new(mem::take(&mut proven.rotation));
        Ok(restored(Standpoint { next_offset, progress: Some(progress), rotation, clock_ms, event }, proven))
    }

    fn read(
        &mut self,
        request: &Request,
        (next_offset, progress): (Offset, Progress),
        each: &mut dyn FnMut(RestoreProgress),
    ) -> Result<Proven, LogError> {
        let partition = request.partition;
        let mut stage = Stage::new(partition, &self.settings);
        if progress.n > 0 {
            let mut broken = None;
            let is_cancelled = || request.cancelled.load(Ordering::Relaxed);
            let done = self.checkpoint.read(partition, progress.start, &mut |offset, bytes| {
                if is_cancelled() {
                    return ControlFlow::Break(());
                }
                let taken = stage.take(offset, bytes, progress.n);
                each(stage.progress(progress.n));
                match taken {
                    Ok(false) => ControlFlow::Continue(()),
                    Ok(true) => ControlFlow::Break(()),
                    Err(problem) => {
                        broken = Some(problem);
                        ControlFlow::Break(())
                    }
                }
            })?;
            if is_cancelled() {
                return Err(LogError::Unavailable("nobody waits for it any more".to_owned()));
            }
            if let Some(problem) = broken {
                return Err(corrupt(partition, &problem));
            }
            if !done {
                let problem = format!("it ends after chunk {}, but chunk {} is committed", stage.last_n(), progress.n);
                return Err(corrupt(partition, &problem));
            }
        }
        stage.finish(next_offset, progress).map_err(|problem| corrupt(partition, &problem))
    }
}

impl Restored {
    /// How far it is: all is read, and so much of it handed over.
    #[must_use]
    pub fn progress(&self) -> RestoreProgress {
        RestoreProgress { handed_rows: self.objects.rows(), ..self.read }
    }
}

impl Iterator for Restored {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        let what = match self.stage {
            Handed::Nothing => {
                self.stage = Handed::Begin;
                Delivered::Begin(self.at.clone())
            }
            Handed::Begin => self.objects.next(self.batch_rows).map_or_else(
                || {
                    self.stage = Handed::End;
                    Delivered::End
                },
                Delivered::Rows,
            ),
            Handed::End => return None,
        };
        Some(Delivery { partition: self.partition, number: self.number, what })
    }
}

fn corrupt(partition: Partition, problem: &str) -> LogError {
    LogError::Corrupt(format!("checkpoint of partition {partition}: {problem}; its state can't be restored from it and must not be served"))
}

fn chunk_clock(header: &chunk::Header) -> Option<i64> {
    (header.clock_ms != NO_CLOCK_MS).then_some(header.clock_ms)
}
