//! The embedded log, on redb: the whole house in one file, for trying it out, for a single machine and for tests.
//!
//! Writes wait in memory ([`inbox`]) until their epoch is committed; only the epoch's outputs are kept ([`store`]), because they hold all
//! that the writes caused. So a write is acknowledged when, and only when, the transaction that carries its effect is durable, and one
//! that was not acknowledged by then is gone with the process. What the sink and the rejects hold can be read back ([`reader`]).
//!
//! Assumes one process per directory (redb's file lock sees to it) and a disk that keeps what it said it synced.

mod inbox;
mod reader;
mod store;
mod tables;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use reader::LocalReader;
use redb::{StorageBackend, backends::FileBackend};
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

use self::{inbox::Inbox, store::Store};
use super::{
    AppendDone, Appender, Checkpoint, Committer, Log, LogError, Polled, Progress, Source, Start, TransactError, Transaction,
    directory::Alone, partitioner::murmur2_partition,
};
use crate::config::LocalConfig;

/// Tells the time, in milliseconds since the Unix epoch: the timestamps of records.
pub type WallClock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The file in [`LocalConfig::path`] that holds everything.
const FILE: &str = "house.redb";

/// Opens the log in the directory [`LocalConfig::path`], which is made if it is not there.
///
/// # Errors
/// When a setting is wrong, the directory can't be used, is in use, or holds the log of another house or of another number of partitions.
pub fn open(config: &LocalConfig, house: &str) -> Result<Log, LogError> {
    open_readable(config, house).map(|(log, _)| log)
}

/// Opens the log, and a handle to read back what it holds. The directory stays in use until the log and every reader are dropped.
///
/// # Errors
/// As [`open`].
pub fn open_readable(config: &LocalConfig, house: &str) -> Result<(Log, LocalReader), LogError> {
    let path = config.path.clone();
    open_with(move || open_file(&path), config, house, Arc::new(wall_clock))
}

/// Opens the log on any storage: `backends` is asked for one now and again after every failed transaction, and must each time give the
/// same bytes. [`LocalConfig::path`] is only named in errors.
///
/// # Errors
/// As [`open`].
pub fn open_with<B: StorageBackend>(
    backends: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    config: &LocalConfig,
    house: &str,
    clock: WallClock,
) -> Result<(Log, LocalReader), LogError> {
    check(config)?;
    let partitions = config.partitions;
    let store = Arc::new(Store::open(backends, config, house)?);
    let inbox = Arc::new(Inbox::new(partitions, config.queue_records, clock));
    let log = Log {
        partitions,
        partition_of: Arc::new(move |key| murmur2_partition(key, partitions)),
        source: Box::new(LocalSource { inbox: inbox.clone() }),
        committer: Box::new(LocalCommitter { store: store.clone(), inbox: inbox.clone() }),
        checkpoint: Box::new(LocalCheckpoint { store: store.clone() }),
        // The store answers at once: a second reader would wait for the first one's deliveries.
        more_checkpoints: Vec::new(),
        appender: Arc::new(LocalAppender { inbox, partitions }),
        // There is never another instance.
        standby: None,
        lease: None,
        directory: Arc::new(Alone::new(partitions)),
    };
    Ok((log, LocalReader::new(store)))
}

fn check(config: &LocalConfig) -> Result<(), LogError> {
    if config.partitions < 1 {
        return Err(LogError::Setting(format!("local.partitions = {}: must be at least 1", config.partitions)));
    }
    if config.queue_records == 0 {
        return Err(LogError::Setting("local.queue_records = 0: must be at least 1, or no write could ever wait for its commit".into()));
    }
    Ok(())
}

fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// Others can't look into what is made here: names of customers' sites are in it.
fn open_file(directory: &Path) -> io::Result<FileBackend> {
    let mut builder = DirBuilder::new();
    let mut options = OpenOptions::new();
    builder.recursive(true);
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        builder.mode(0o700);
        options.mode(0o600);
    }
    builder.create(directory)?;
    let file = options.open(directory.join(FILE))?;
    // A file is only as durable as its entry in the directory, which the file's own sync need not cover.
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    FileBackend::new(file).map_err(io::Error::other)
}

struct LocalSource {
    inbox: Arc<Inbox>,
}

impl Source for LocalSource {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        Ok(self.inbox.poll(wait))
    }

    fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        self.inbox.begin(partition, offset);
        Ok(())
    }

    fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
        self.inbox.suspend(partition);
        Ok(())
    }

    /// Nothing to do: partitions are never revoked, there is nobody else.
    fn release(&mut self, _partitions: &[Partition]) -> Result<(), LogError> {
        Ok(())
    }

    fn hold(&mut self, hold: bool) -> Result<(), LogError> {
        self.inbox.hold(hold);
        Ok(())
    }

    fn end(&self, partition: Partition) -> Option<Offset> {
        self.inbox.end(partition)
    }

    fn leave(&mut self) {
        self.inbox.leave();
    }
}

impl Drop for LocalSource {
    /// Nobody will poll any more: what is queued must not wait forever.
    fn drop(&mut self) {
        self.inbox.leave();
    }
}

struct LocalCommitter {
    store: Arc<Store>,
    inbox: Arc<Inbox>,
}

impl Committer for LocalCommitter {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        let ends: Vec<_> = transaction.parts.iter().map(|part| (part.partition, part.next_offset)).collect();
        let committed = self.store.commit(&transaction);
        match &committed {
            Ok(_) => self.inbox.committed(&ends),
            Err(error) => self.inbox.failed(&ends, error),
        }
        committed
    }

    fn recover(&mut self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError> {
        self.store.recover(keep_trying)?;
        self.inbox.recovered();
        Ok(())
    }
}

impl Drop for LocalCommitter {
    /// Nothing will be committed any more: whoever still waits is told.
    fn drop(&mut self) {
        self.inbox.abandon();
    }
}

struct LocalCheckpoint {
    store: Arc<Store>,
}

impl Checkpoint for LocalCheckpoint {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        self.store.progress(partition)
    }

    /// Always 0: what was written before the first start is not there.
    fn start_offset(&mut self, _partition: Partition, _start: Start) -> Result<Offset, LogError> {
        Ok(0)
    }

    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        self.store.read(partition, from, each)
    }
}

struct LocalAppender {
    inbox: Arc<Inbox>,
    partitions: Partition,
}

impl Appender for LocalAppender {
    fn append(&self, key: &[u8], value: Option<&[u8]>, done: AppendDone) {
        self.inbox.append(murmur2_partition(key, self.partitions), (key, value), done);
    }
}
