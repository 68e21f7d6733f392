//! How a house ends: asked to, or because something failed. The first failure counts.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use crate::{board::Board, config::ConfigError, log::LogError, message::Note};

/// Why a house ended though nobody asked it to, or did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HouseError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log can't be used, and waiting won't help.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record can't be used, and the house is told to stop at such.
    #[error(
        "the record at offset {offset} of {topic}, partition {partition}, can't be used ({reason}: {detail}), and source.on_reject is \"stop\": nothing \
         from it on is committed; set source.on_reject = \"skip\" to keep it as a reject and go on"
    )]
    Rejected {
        /// The source.
        topic: String,
        /// Its place.
        partition: Partition,
        /// Its place.
        offset: Offset,
        /// The reason's name.
        reason: &'static str,
        /// What exactly was wrong.
        detail: String,
    },
    /// A thread could not be started.
    #[error("thread {0} could not be started: {1}")]
    Thread(String, std::io::Error),
    /// A thread panicked: a mistake in this program. Nothing uncommitted was shown or is lost.
    #[error("thread {0} panicked; what was committed stands, restart the house")]
    Panicked(String),
}

/// Shared by all threads of a house.
#[derive(Debug)]
pub(super) struct Ending {
    state: Mutex<State>,
    changed: Condvar,
    board: Arc<Board>,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    failed: bool,
    error: Option<HouseError>,
}

impl Ending {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), board }
    }

    /// Asks everybody to finish.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
        self.board.apply(&Note::Stopping);
    }

    /// Tells everybody to give up.
    pub(super) fn fail(&self, error: HouseError) {
        tracing::error!(%error, "the house stops");
        let mut state = self.lock();
        state.failed = true;
        state.error.get_or_insert(error);
        drop(state);
        self.stop();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Waits this long, or until the house stops.
    pub(super) fn pause(&self, duration: Duration) {
        let waited = self.changed.wait_timeout_while(self.lock(), duration, |state| !state.stopping);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The first failure.
    pub(super) fn take(&self) -> Option<HouseError> {
        self.lock().error.take()
    }

    /// A thread that panics while holding it has still to be heard of.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
