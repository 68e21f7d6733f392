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
#[cfg(test)]
mod tests;

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
};

use ahash::RandomState;
use statehouse_dataflows::vocabulary::{Offset, Partition, Row};

use self::stage::Stage;
use crate::{
    chunk::{self, NO_CLOCK_MS},
    log::{Checkpoint, LogError, Progress, Start},
    message::{Delivered, Delivery, Request, Standpoint},
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
    /// Keys for the tables in which rows are staged.
    pub keys: RandomState,
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
    objects: stage::Objects,
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

    /// Reads a partition's state; iterating over it yields its deliveries.
    ///
    /// # Errors
    /// When the log can't be read now, or nobody waits any more ([`LogError::Unavailable`]: look and try again), or what it holds must not
    /// be used.
    pub fn restore(&mut self, request: &Request) -> Result<Restored, LogError> {
        // Believed when it is seen twice: meanwhile a partition's leader may have changed and not know the end yet, or another instance,
        // which took us for dead, may have gone on.
        match self.look(request) {
            Err(LogError::Corrupt(_)) => self.look(request),
            outcome => outcome,
        }
    }

    fn look(&mut self, request: &Request) -> Result<Restored, LogError> {
        let partition = request.partition;
        let (at, records, objects) = match self.checkpoint.progress(partition)? {
            Some((next_offset, progress)) => self.read(request, next_offset, progress)?,
            None => {
                let next_offset = self.checkpoint.start_offset(partition, self.settings.start)?;
                (
                    Standpoint { next_offset, progress: None, rotation: Arc::default(), clock_ms: None, event: 1 },
                    0,
                    stage::Objects::default(),
                )
            }
        };
        let (number, batch_rows) = (request.number, self.settings.batch_rows);
        Ok(Restored { at, records, partition, number, objects, batch_rows, stage: Handed::Nothing })
    }

    fn read(&mut self, request: &Request, next_offset: Offset, progress: Progress) -> Result<(Standpoint, u64, stage::Objects), LogError> {
        let partition = request.partition;
        let mut stage = Stage::new(partition, &self.settings);
        if progress.n > 0 {
            let mut broken = None;
            let is_cancelled = || request.cancelled.load(Ordering::Relaxed);
            let done = self.checkpoint.read(partition, progress.start, &mut |offset, bytes| {
                if is_cancelled() {
                    return ControlFlow::Break(());
                }
                match stage.take(offset, bytes, progress.n) {
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
        let (records, (header, rotation), objects) = stage.finish(next_offset, progress).map_err(|problem| corrupt(partition, &problem))?;
        let (clock_ms, event) = header.map_or((None, 1), |header| (chunk_clock(&header), header.event));
        let at = Standpoint { next_offset, progress: Some(progress), rotation: Arc::new(rotation), clock_ms, event };
        Ok((at, records, objects))
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
            Handed::Begin => self.rows().map_or_else(
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

impl Restored {
    fn rows(&mut self) -> Option<Vec<Vec<Row>>> {
        let (mut objects, mut rows) = (Vec::new(), 0);
        while rows < self.batch_rows
            && let Some(object) = self.objects.next_object()
        {
            rows += object.len();
            objects.push(object);
        }
        (!objects.is_empty()).then_some(objects)
    }
}

fn corrupt(partition: Partition, problem: &str) -> LogError {
    LogError::Corrupt(format!("checkpoint of partition {partition}: {problem}; its state can't be restored from it and must not be served"))
}

fn chunk_clock(header: &chunk::Header) -> Option<i64> {
    (header.clock_ms != NO_CLOCK_MS).then_some(header.clock_ms)
}
