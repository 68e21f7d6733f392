//! Epochs out: one transaction each, with the source offsets in it.
//!
//! Owned by the commit thread. After any error the producer is abandoned and [`Committer::recover`] starts a new one under the same
//! transactional id: the brokers then resolve what was open, either way, before the new one may do anything.

use std::{sync::Arc, time::Duration};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    client::{StartError, Transactor, Transactors},
    ownership::Ownership,
};
use crate::log::{Committer, LogError, TransactError, Transaction, Trims};

/// Between two tries to start a producer.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Between two lines about it.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// See the module's header.
pub(crate) struct GroupCommitter<T: Transactors> {
    transactors: T,
    ownership: Arc<Ownership>,
    transactor: Option<T::Transactor>,
    /// Whether our transactional id stands in the register. Another instance that took us for dead removes it, after fencing us.
    registered: bool,
}

impl<T: Transactors> GroupCommitter<T> {
    /// Has no producer yet: [`Committer::recover`] makes it.
    pub(crate) fn new(transactors: T, ownership: Arc<Ownership>) -> Self {
        Self { transactors, ownership, transactor: None, registered: false }
    }

    /// Starts a new producer in the place of a worn one.
    fn renew(&mut self) -> Result<(), TransactError> {
        if self.transactor.as_ref().is_none_or(|transactor| !transactor.is_worn()) {
            return Ok(());
        }
        self.start().map_err(|error| match error {
            StartError::Later(why) => TransactError::Failed(why),
            StartError::Never(error) => TransactError::Failed(error.to_string()),
        })?;
        tracing::debug!("a new producer: the one before it was disturbed");
        Ok(())
    }

    fn start(&mut self) -> Result<(), StartError> {
        self.abandon();
        let transactor = self.transactors.start(self.ownership.grant())?;
        self.transactor = Some(transactor);
        Ok(())
    }

    /// Whatever a call that hangs does when it comes back, it takes no membership any more.
    fn abandon(&mut self) {
        self.ownership.take_back();
        self.transactor = None;
    }
}

impl<T: Transactors> Committer for GroupCommitter<T> {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        if transaction.parts.is_empty() {
            // Without an offset in it nothing would be fenced, and there is nothing to commit.
            return Ok(Vec::new());
        }
        self.renew()?;
        let Some(transactor) = &mut self.transactor else {
            return Err(TransactError::Failed("there is no producer; recover first".into()));
        };
        if !self.registered {
            // Before the first transaction, so that whoever takes over from us can end whatever we leave open.
            self.transactors.register().map_err(TransactError::Failed)?;
            self.registered = true;
        }
        let outcome = transactor.transact(transaction);
        if outcome.is_err() {
            self.abandon();
        }
        outcome
    }

    fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims {
        self.transactors.trim(before)
    }

    fn recover(&mut self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError> {
        self.registered = false;
        let mut said = self.transactors.now();
        loop {
            let reason = match self.start() {
                Ok(()) => return Ok(()),
                Err(StartError::Never(error)) => return Err(error),
                Err(StartError::Later(reason)) => reason,
            };
            if !keep_trying() {
                return Err(LogError::Unavailable(reason));
            }
            if self.transactors.now().saturating_sub(said) >= SAY_EVERY {
                said = self.transactors.now();
                tracing::warn!(reason, "commits wait for Kafka");
            }
            self.transactors.pause(RETRY_AFTER);
        }
    }
}
