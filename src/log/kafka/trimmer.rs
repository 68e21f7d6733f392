//! Gives up checkpoint records that no restore needs any more: DeleteRecords, on a thread of its own, every now and then.
//!
//! Beside the committer, which says up to where, once that is committed: so whoever deletes, be it for a house that has lost the partition since, deletes
//! nothing that its owner could need, as a start never goes back. Nothing waits for it and nothing hangs on it; what fails is said, counted
//! and done when the start has moved on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{lock, settings::Settings, topics::Admin};
use crate::log::{LogError, Trims};

/// See the module's header. Dropping it ends the thread, when its current call returns.
pub(super) struct Trimmer {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    is_started: bool,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    bell: Condvar,
    done: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Wanted {
    /// The latest of each partition.
    before: BTreeMap<Partition, Offset>,
    is_over: bool,
}

impl Trimmer {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, shared: Arc::default(), is_started: false }
    }

    /// As [`crate::log::Committer::trim`].
    pub(super) fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims {
        if !before.is_empty() {
            lock(&self.shared.wanted).before.extend(before.iter().copied());
            self.start();
            self.shared.bell.notify_all();
        }
        let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Trims { done: taken(&self.shared.done), failed: taken(&self.shared.failed) }
    }

    fn start(&mut self) {
        if self.is_started {
            return;
        }
        let (settings, shared) = (Arc::clone(&self.settings), Arc::clone(&self.shared));
        let started = thread::Builder::new().name("kafka-trim".into()).spawn(move || run(&settings, &shared));
        self.is_started = started.is_ok();
        if let Err(error) = started {
            tracing::warn!(%error, "no thread to delete old checkpoint records");
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Trimmer {
    fn drop(&mut self) {
        lock(&self.shared.wanted).is_over = true;
        self.shared.bell.notify_all();
    }
}

impl Shared {
    /// What is wanted, once anything is; none: it is over.
    fn next(&self) -> Option<BTreeMap<Partition, Offset>> {
        let is_idle = |wanted: &mut Wanted| wanted.before.is_empty() && !wanted.is_over;
        let mut wanted = self.bell.wait_while(lock(&self.wanted), is_idle).ok()?;
        (!wanted.is_over).then(|| std::mem::take(&mut wanted.before))
    }

    /// Waits, unless it is over.
    fn rest(&self, time: Duration) {
        drop(self.bell.wait_timeout_while(lock(&self.wanted), time, |wanted| !wanted.is_over));
    }
}

fn run(settings: &Settings, shared: &Shared) {
    let mut admin = None;
    while let Some(before) = shared.next() {
        match delete(settings, &mut admin, &before) {
            Ok(refused) => {
                for (partition, reason) in &refused {
                    tracing::warn!(partition, reason, "old checkpoint records can't be deleted; trying again later");
                }
                shared.done.fetch_add((before.len() - refused.len().min(before.len())) as u64, Ordering::Relaxed);
                shared.failed.fetch_add(refused.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "old checkpoint records can't be deleted; trying again later");
                shared.failed.fetch_add(before.len() as u64, Ordering::Relaxed);
            }
        }
        shared.rest(settings.trim_interval);
    }
}

/// Returns for which partitions it was refused, and why.
fn delete(
    settings: &Settings,
    admin: &mut Option<Admin>,
    before: &BTreeMap<Partition, Offset>,
) -> Result<Vec<(Partition, String)>, LogError> {
    if admin.is_none() {
        *admin = Some(Admin::new(settings)?);
    }
    let admin = admin.as_ref().expect("it was just made");
    admin.delete_records(&settings.topics.checkpoint, before)
}
