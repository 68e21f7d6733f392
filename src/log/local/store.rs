//! The database's life: opened and checked, written by the commit thread, read by restores and readers, reopened after a failure.
//!
//! After a failed transaction the database is closed at once, so that nobody reads what may not be there any more, until
//! [`Store::recover`] opened it anew. Reading never waits for writing.
//!
//! A database that was not closed as it should be is repaired by redb and, before that, mended here ([`mend`]) in two ways that redb does
//! not know of. Both look at the first bytes of its file, whose layout is part of its documented format.

use std::{
    io,
    ops::{Bound, ControlFlow},
    sync::{Mutex, MutexGuard},
    thread,
    time::Duration,
};

use redb::{BackendError, CommitError, Database, DatabaseError, Error, ReadTransaction, ReadableDatabase, StorageBackend};
use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::tables::{CHUNKS, ENDS, HOUSE, PROGRESS, Place, Tables, found};
use crate::{
    config::LocalConfig,
    log::{LogError, Progress, TransactError, Transaction},
};

/// The version of the tables' layout.
const FORMAT: &str = "1";
/// redb would take up to 1 GiB. An epoch writes its pages once and a restore reads them once, so more than this would gain nothing.
const CACHE_BYTES: usize = 32 << 20;
/// Smaller files are not looked at for free space: looking reads all of it.
const COMPACT_BYTES_MIN: u64 = 32 << 20;
/// How long to wait before the next attempt to open the database.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// How much of the file is looked at or written anew at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// A redb file begins with its magic number, then comes a byte of flags; the rest of the header is in the same page.
const FLAGS_BYTE: usize = 9;
/// Set while the file is open for writing: it was not closed as it should be.
const UNCLEAN_FLAG: u8 = 2;
const HEADER_BYTES: u64 = 4096;

/// Opens the database; says how large its file was.
type Opener = Box<dyn Fn() -> Result<(Database, u64), DatabaseError> + Send + Sync>;

pub(super) struct Store {
    opener: Opener,
    /// None from a failed transaction until the recovery. Locked only for moments: a redb transaction outlives the lock.
    database: Mutex<Option<Database>>,
    /// Held while a transaction is being committed.
    committing: Mutex<()>,
    /// `local.path = "..."`, for errors.
    place: String,
    /// What the database must say of itself.
    marks: [(&'static str, String); 3],
    keep_records: u64,
}

impl Store {
    pub(super) fn open<B: StorageBackend>(
        backends: impl Fn() -> io::Result<B> + Send + Sync + 'static,
        config: &LocalConfig,
        house: &str,
    ) -> Result<Self, LogError> {
        let store = Self {
            opener: Box::new(move || open_database(backends()?)),
            database: Mutex::new(None),
            committing: Mutex::new(()),
            place: format!("local.path = {:?}", config.path),
            marks: [("format", FORMAT.into()), ("house", house.into()), ("partitions", config.partitions.to_string())],
            keep_records: config.keep_records,
        };
        let (mut database, bytes) = store.open_checked()?;
        give_back(&mut database, bytes);
        *store.database() = Some(database);
        Ok(store)
    }

    /// Commits the epoch, durably. Returns the checkpoint offset of each partition's first piece.
    pub(super) fn commit(&self, transaction: &Transaction) -> Result<Vec<Place>, TransactError> {
        let _committing = self.committing.lock().expect(UNBROKEN);
        let committed = self.try_commit(transaction);
        if committed.is_err() {
            *self.database() = None;
        }
        committed
    }

    fn try_commit(&self, transaction: &Transaction) -> Result<Vec<Place>, TransactError> {
        let failed = |error: Error| TransactError::Failed(error.to_string());
        let writing = match &*self.database() {
            Some(database) => database.begin_write().map_err(|error| failed(error.into()))?,
            None => return Err(TransactError::Failed(CLOSED.into())),
        };
        let firsts = Tables::open(&writing).and_then(|mut tables| tables.write(transaction, self.keep_records)).map_err(failed)?;
        match writing.commit() {
            Ok(()) => Ok(firsts),
            Err(CommitError::Storage(error)) => Err(TransactError::Maybe(error.to_string())),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Opens the database anew, until that works, can't ever work, or `keep_trying` says no.
    pub(super) fn recover(&self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError> {
        loop {
            *self.database() = None;
            match self.open_checked() {
                Ok((database, _)) => {
                    *self.database() = Some(database);
                    return Ok(());
                }
                Err(LogError::Unavailable(_)) if keep_trying() => thread::sleep(RETRY_WAIT),
                Err(error) => return Err(error),
            }
        }
    }

    /// The partition's committed offset and progress.
    pub(super) fn progress(&self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        // What is being committed could change it.
        let _committing = self.committing.lock().expect(UNBROKEN);
        let (progress, pieces) = self.reading(|reading| {
            let progress = reading.open_table(PROGRESS)?.get(partition)?.map(|row| row.value());
            let ends = reading.open_table(ENDS)?.get(partition)?.map(|row| row.value());
            Ok((progress, ends.unwrap_or_default().0))
        })?;
        if progress.is_none() && pieces > 0 {
            return Err(LogError::Corrupt(format!(
                "{}: partition {partition} has {pieces} checkpoint records, but no progress: the log is damaged and can't be restored from",
                self.place
            )));
        }
        Ok(progress.map(|(offset, n, digest, start)| (offset, Progress { n, digest, start })))
    }

    /// Hands the partition's pieces from `from` on to `each`, as of now.
    pub(super) fn read(
        &self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        let (next, end, broken) = self.reading(|reading| {
            let end = reading.open_table(ENDS)?.get(partition)?.map(|row| row.value()).unwrap_or_default().0;
            let mut next = from;
            for row in reading.open_table(CHUNKS)?.range((partition, from)..(partition, end))? {
                let (place, piece) = row?;
                if place.value().1 != next {
                    break;
                }
                next += 1;
                if each(place.value().1, piece.value()).is_break() {
                    return Ok((next, end, true));
                }
            }
            Ok((next, end, false))
        })?;
        if broken || next == end {
            return Ok(broken);
        }
        Err(LogError::Corrupt(format!(
            "{}: checkpoint record {next} of partition {partition} is asked for, but not there (the end is {end})",
            self.place
        )))
    }

    /// Reads from the database as it is committed now.
    pub(super) fn reading<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Error>) -> Result<T, LogError> {
        let begun = match &*self.database() {
            Some(database) => database.begin_read(),
            None => return Err(LogError::Unavailable(format!("{}: {CLOSED}", self.place))),
        };
        begun.map_err(Error::from).and_then(|reading| read(&reading)).map_err(|error| self.explain(error))
    }

    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().expect(UNBROKEN)
    }

    fn open_checked(&self) -> Result<(Database, u64), LogError> {
        let (database, bytes) = (self.opener)().map_err(|error| self.explain(error.into()))?;
        self.check_marks(&database)?;
        Ok((database, bytes))
    }

    /// Founds a new database, and refuses another house's.
    fn check_marks(&self, database: &Database) -> Result<(), LogError> {
        if is_new(database).map_err(|error| self.explain(error))? {
            return self.found(database).map_err(|error| self.explain(error));
        }
        for (name, value) in &self.marks {
            let found = read_mark(database, name).map_err(|error| self.explain(error))?;
            if &found != value {
                return Err(LogError::Setting(self.foreign(name, &found, value)));
            }
        }
        Ok(())
    }

    fn found(&self, database: &Database) -> Result<(), Error> {
        let writing = database.begin_write()?;
        found(&writing, &self.marks)?;
        Ok(writing.commit()?)
    }

    fn foreign(&self, name: &str, found: &str, expected: &str) -> String {
        let place = &self.place;
        match name {
            "house" => format!("{place} holds the log of house = {found:?}, not of {expected:?}: set that house, or another local.path"),
            "partitions" => format!(
                "local.partitions = {expected}, but {place} was begun with {found}, which can't change: set local.partitions = {found}, or \
                 another local.path to begin anew"
            ),
            _ => format!("{place} holds a log of format {found:?}; this program reads format {expected:?}: use the program that made it"),
        }
    }

    /// What a failure means to whoever asked.
    fn explain(&self, error: Error) -> LogError {
        let place = &self.place;
        match error {
            Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch => {
                LogError::Setting(format!("{place} is in use by another process: stop that one, or give each its own local.path"))
            }
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                LogError::Corrupt(format!("{place} holds a file that is not a log of this program: {error}"))
            }
            Error::Io(error) if is_lasting(error.kind()) => {
                LogError::Setting(format!("{place} can't be used: {error}: choose a directory that this user may write to"))
            }
            error @ (Error::Io(_) | Error::Backend(_) | Error::PreviousIo | Error::DatabaseClosed | Error::LockPoisoned(_)) => {
                LogError::Unavailable(format!("{place}: {error}"))
            }
            error => LogError::Corrupt(format!("{place}: {error}")),
        }
    }
}

const UNBROKEN: &str = "nobody panics with this lock";
const CLOSED: &str = "a transaction failed, and the log is not recovered yet";

/// Waiting won't help.
fn is_lasting(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, AlreadyExists | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
}

fn open_database(backend: impl StorageBackend) -> Result<(Database, u64), DatabaseError> {
    prepare(&backend)?;
    let bytes = backend.len()?;
    Ok((Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?, bytes))
}

/// Makes a file smaller of which more than half is free. While it is in use redb takes free pages again, and gives back only those at its end. A
/// file that stays large is no reason not to start.
fn give_back(database: &mut Database, bytes: u64) {
    if bytes < COMPACT_BYTES_MIN {
        return;
    }
    let used_bytes = |database: &Database| {
        let writing = database.begin_write()?;
        let stats = writing.stats()?;
        writing.abort()?;
        Ok::<_, Error>(stats.allocated_pages() * stats.page_size() as u64)
    };
    let outcome = used_bytes(database).and_then(|used| if used < bytes / 2 { Ok(database.compact()?) } else { Ok(false) });
    match outcome {
        Ok(true) => tracing::info!(bytes, "the embedded log's file was mostly free: it is made smaller"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "the embedded log's file can't be made smaller"),
    }
}

fn is_new(database: &Database) -> Result<bool, Error> {
    let reading = database.begin_read()?;
    Ok(!reading.list_tables()?.any(|table| redb::TableHandle::name(&table) == redb::TableHandle::name(&HOUSE)))
}

fn read_mark(database: &Database, name: &str) -> Result<String, Error> {
    let reading = database.begin_read()?;
    let mark = reading.open_table(HOUSE)?.get(name)?;
    Ok(mark.map(|value| value.value().to_owned()).unwrap_or_default())
}

/// What redb does not do itself. It locks the file only later; so does this, for as long as it takes.
fn prepare(backend: &impl StorageBackend) -> Result<(), DatabaseError> {
    let (from, to) = (Bound::Unbounded, Bound::Unbounded);
    let locked = match backend.try_lock_range(from, to) {
        Ok(true) => true,
        Ok(false) => return Err(DatabaseError::DatabaseAlreadyOpen),
        Err(BackendError::Unsupported) => false,
        Err(error) => return Err(error.into()),
    };
    let prepared = mend(backend);
    if locked {
        backend.unlock_range(from, to)?;
    }
    Ok(prepared?)
}

fn mend(backend: &impl StorageBackend) -> io::Result<()> {
    if backend.len()? < HEADER_BYTES {
        return Ok(());
    }
    let mut header = [0; FLAGS_BYTE + 1];
    backend.read(0, &mut header)?;
    if header[..FLAGS_BYTE].iter().all(|&byte| byte == 0) {
        clear_unfinished(backend)
    } else if header[FLAGS_BYTE] & UNCLEAN_FLAG != 0 {
        rewrite(backend)
    } else {
        Ok(())
    }
}

/// Empties a file that whoever began to make it did not get to finish; redb would refuse it for good. It writes its magic number last:
/// where that is missing and nothing stands beyond the header, there never was a commit.
fn clear_unfinished(backend: &impl StorageBackend) -> io::Result<()> {
    let mut empty = true;
    each_block(backend, HEADER_BYTES, |_, block| {
        empty &= block.iter().all(|&byte| byte == 0);
        Ok(())
    })?;
    if empty { backend.set_len(0) } else { Ok(()) }
}

/// Writes the file over itself and syncs it. After a failed sync the operating system may hold bytes that it shows to us, and to the next
/// process, but will not write to the disk any more; a later sync would be a lie. Written anew, they are part of this one.
fn rewrite(backend: &impl StorageBackend) -> io::Result<()> {
    each_block(backend, 0, |at, block| backend.write(at, block))?;
    backend.sync_data()
}

fn each_block(backend: &impl StorageBackend, from: u64, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let bytes = backend.len()?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = from;
    while at < bytes {
        let block = &mut block[..BLOCK_BYTES.min(usize::try_from(bytes - at).unwrap_or(BLOCK_BYTES))];
        backend.read(at, block)?;
        each(at, block)?;
        at += block.len() as u64;
    }
    Ok(())
}
