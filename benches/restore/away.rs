//! The rest of the log, away: partitions are assigned and nothing else comes; every epoch is committed and goes nowhere.

use std::{sync::Arc, thread, time::Duration};

use statehouse::log::{
    AppendDone, AppendError, Appender, Committer, Log, LogError, Polled, Source, TransactError, Transaction, directory::Alone,
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::kept::Kept;

/// A log of which only the checkpoint is there, for so many readers.
pub(crate) fn log(kept: &Kept, readers: usize) -> Log {
    let partitions: Vec<Partition> = kept.progress.keys().copied().collect();
    let count = partitions.len() as Partition;
    Log {
        partitions: count,
        partition_of: Arc::new(|_| 0),
        source: Box::new(Assigned(Some(partitions))),
        committer: Box::new(Nowhere),
        checkpoint: Box::new(kept.clone()),
        more_checkpoints: (1..readers).map(|_| Box::new(kept.clone()) as _).collect(),
        appender: Arc::new(Nowhere),
        standby: None,
        lease: None,
        directory: Arc::new(Alone::new(count)),
    }
}

struct Assigned(Option<Vec<Partition>>);

impl Source for Assigned {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        if let Some(partitions) = self.0.take() {
            return Ok(Polled::Assigned(partitions));
        }
        thread::sleep(wait);
        Ok(Polled::Idle)
    }
    fn begin(&mut self, _: Partition, _: Offset) -> Result<(), LogError> {
        Ok(())
    }
    fn suspend(&mut self, _: Partition) -> Result<(), LogError> {
        Ok(())
    }
    fn release(&mut self, _: &[Partition]) -> Result<(), LogError> {
        Ok(())
    }
    fn hold(&mut self, _: bool) -> Result<(), LogError> {
        Ok(())
    }
    fn leave(&mut self) {}
}

struct Nowhere;

impl Committer for Nowhere {
    fn transact(&mut self, _: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        Ok(Vec::new())
    }
    fn recover(&mut self, _: &dyn Fn() -> bool) -> Result<(), LogError> {
        unreachable!("nothing fails")
    }
}

impl Appender for Nowhere {
    fn append(&self, _: &[u8], _: Option<&[u8]>, done: AppendDone) {
        done(Err(AppendError::Failed("nothing is appended here".to_owned())));
    }
}
