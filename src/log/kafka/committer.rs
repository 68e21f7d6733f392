//! Epochs out: one Kafka transaction each, with the source offsets in it.
//!
//! Owned by the commit thread. After any error the producer is abandoned and [`Committer::recover`] starts a new one under the same
//! transactional id: the brokers then resolve what was open, either way, before the new one may do anything.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    instances,
    transactor::{Grounds, StartError, Transactor},
};
use crate::log::{Committer, LogError, TransactError, Transaction};

/// Between two tries to start a producer.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Between two lines about it.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// See the module's header.
pub(super) struct KafkaCommitter {
    grounds: Arc<Grounds>,
    transactor: Option<Transactor>,
    /// Whether our transactional id stands in the instances topic. Another instance that took us for dead removes it, after fencing us.
    registered: bool,
}

impl KafkaCommitter {
    /// Has no producer yet: [`Committer::recover`] makes it.
    pub(super) fn new(grounds: Arc<Grounds>) -> Self {
        Self { grounds, transactor: None, registered: false }
    }
}

impl KafkaCommitter {
    /// Starts a new producer in the place of a worn one.
    fn renew(&mut self) -> Result<(), TransactError> {
        if self.transactor.as_ref().is_none_or(|transactor| !transactor.is_worn()) {
            return Ok(());
        }
        self.transactor = None;
        let transactor = Transactor::start(&self.grounds).map_err(|error| match error {
            StartError::Later(why) => TransactError::Failed(why),
            StartError::Never(error) => TransactError::Failed(error.to_string()),
        })?;
        tracing::debug!("a new producer: the one before it was disturbed");
        self.transactor = Some(transactor);
        Ok(())
    }
}

impl Committer for KafkaCommitter {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        if transaction.parts.is_empty() {
            // Without an offset in it nothing would be fenced, and there is nothing to commit.
            return Ok(Vec::new());
        }
        self.renew()?;
        let Some(transactor) = &self.transactor else {
            return Err(TransactError::Failed("there is no producer; recover first".into()));
        };
        if !self.registered {
            // Before the first transaction, so that whoever takes over from us can end whatever we leave open.
            instances::register(&self.grounds.settings).map_err(TransactError::Failed)?;
            self.registered = true;
        }
        let outcome = transactor.transact(transaction);
        if outcome.is_err() {
            self.transactor = None;
        }
        outcome
    }

    fn recover(&mut self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError> {
        self.transactor = None;
        self.registered = false;
        let mut said = Instant::now();
        loop {
            let reason = match Transactor::start(&self.grounds) {
                Ok(transactor) => {
                    self.transactor = Some(transactor);
                    return Ok(());
                }
                Err(StartError::Never(error)) => return Err(error),
                Err(StartError::Later(reason)) => reason,
            };
            if !keep_trying() {
                return Err(LogError::Unavailable(reason));
            }
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                tracing::warn!(reason, "commits wait for Kafka");
            }
            thread::sleep(RETRY_AFTER);
        }
    }
}
