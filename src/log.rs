//! The door to the world: records in, one transaction per epoch out, and what a restore needs. Everything that outlives the process
//! passes through here; nothing in here decides anything.
//!
//! Two implementations: [`kafka`] (with its files the only place that names the Kafka client; in which order it does things says `protocol`)
//! and [`local`] (redb). A log is opened once and taken apart into handles, each owned by the one thread that
//! uses it: pump ([`Source`]), commit ([`Committer`]), restore ([`Checkpoint`]), http ([`Appender`], shared); and, where there are others, what
//! copies of their partitions are kept with ([`StandbyLog`]). Beside them stands the [`Directory`] of the house's instances.

pub mod directory;
pub mod kafka;
pub mod local;
pub mod partitioner;
mod protocol;
pub mod simulated;

use std::{
    collections::BTreeSet,
    fmt,
    ops::{ControlFlow, Range},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use statehouse_dataflows::vocabulary::{Millis, Name, Offset, Partition};
use tokio::sync::watch;

use self::directory::Instances;
use crate::config::PeerUrl;
pub use crate::config::Start;

/// A log, opened: its topics exist and were verified.
pub struct Log {
    /// How many partitions the source has; the checkpoint has as many.
    pub partitions: Partition,
    /// The source's partition for a key, as its producers choose it.
    pub partition_of: Arc<dyn Fn(&[u8]) -> Partition + Send + Sync>,
    /// For the pump.
    pub source: Box<dyn Source>,
    /// For the commit thread.
    pub committer: Box<dyn Committer>,
    /// For the restore thread.
    pub checkpoint: Box<dyn Checkpoint>,
    /// For further restore threads, one each, so that several partitions are read back at a time.
    pub more_checkpoints: Vec<Box<dyn Checkpoint>>,
    /// For HTTP writes.
    pub appender: Arc<dyn Appender>,
    /// For copies of others' partitions, where there can be others and copies are wanted.
    pub standby: Option<StandbyLog>,
    /// For how long after [`Source::heard`] no other instance can own what is ours; none: none ever can.
    pub lease: Option<Duration>,
    /// Who else runs the house, and where it is asked.
    pub directory: Arc<dyn Directory>,
}

/// What warm copies of partitions that others own are kept with.
pub struct StandbyLog {
    /// Where they come from.
    pub tail: Box<dyn Tail>,
    /// Who the others are.
    pub peers: Box<dyn Peers>,
    /// What a takeover must know: a handle of its own, as one [`Checkpoint`] serves one thread.
    pub checkpoint: Box<dyn Checkpoint>,
}

/// What the pump reads.
///
/// Whatever is refused with [`LogError::Unavailable`] may be asked again; the house restores everything and does so. Other errors end it.
pub trait Source: Send {
    /// What comes next, waiting at most `wait` for it. Must be called at least every few seconds, also while held, or the group lets go of us.
    ///
    /// # Errors
    /// When the log can't be read and waiting won't help. An outage is no error: it polls [`Polled::Idle`].
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError>;

    /// Reads an assigned partition from `offset` on. Until then none of its records are polled.
    ///
    /// # Errors
    /// When the partition can't be read from there.
    fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError>;

    /// Stops reading a partition that stays assigned (its state is being restored anew); [`Source::begin`] goes on.
    ///
    /// # Errors
    /// When the client refuses.
    fn suspend(&mut self, partition: Partition) -> Result<(), LogError>;

    /// Lets revoked partitions go: from here on another instance may own them. Called once for each [`Polled::Revoked`], after everything
    /// of them is committed or given up.
    ///
    /// # Errors
    /// When the client refuses.
    fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError>;

    /// Back-pressure: while held, [`Source::poll`] returns no records (but assignments and revocations). Afterwards no partition counts as
    /// caught up until [`Polled::CaughtUp`] says so anew.
    ///
    /// # Errors
    /// When the client refuses.
    fn hold(&mut self, hold: bool) -> Result<(), LogError>;

    /// The offset after the partition's last record, as far as that is known without asking anybody: it may be a few seconds old.
    fn end(&self, _partition: Partition) -> Option<Offset> {
        None
    }

    /// A moment at which the group still had us, where one is proven that was not told before. Only what the brokers answered counts as proof,
    /// not that we are running.
    fn heard(&mut self) -> Option<Instant> {
        None
    }

    /// Leaves the group; no other call follows.
    fn leave(&mut self);
}

/// What a poll brought.
#[derive(Debug)]
pub enum Polled {
    /// Nothing in time.
    Idle,
    /// Records of one partition, in offset order, perhaps with gaps.
    Records(Batch),
    /// The last fetch of this partition answered at its end: nothing is waiting. Holds until records of it come, [`Polled::Behind`], or a hold.
    CaughtUp(Partition),
    /// The partition's fetches fail: it is not known to be caught up.
    Behind(Partition),
    /// Partitions that are ours from now on; perhaps none: then it only says that we are in the group. They wait for [`Source::begin`].
    Assigned(Vec<Partition>),
    /// Partitions that are no longer ours. They wait for [`Source::release`].
    Revoked {
        /// Which.
        partitions: Vec<Partition>,
        /// Whether another instance may own them already: then nothing of them may be committed.
        lost: bool,
    },
}

/// Records of one partition over one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    /// Whose records they are.
    pub partition: Partition,
    /// The records.
    pub records: Vec<Record>,
    /// Keys, values and headers, one after the other; records point into it.
    pub bytes: Vec<u8>,
}

/// One record of the source. Ranges point into its batch's bytes.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place.
    pub offset: Offset,
    /// Its Kafka timestamp (create or append time, as the topic says); negative or absent is -1.
    pub timestamp_ms: Millis,
    /// The key: the object.
    pub key: Option<Range<usize>>,
    /// The value; a null value purges.
    pub value: Option<Range<usize>>,
    /// The value of the header that names the agent, where one is configured.
    pub agent: Option<Range<usize>>,
    /// Whether it was appended by an HTTP write (header [`CANONICAL_HEADER`]): then its value is JSON in the default mapping.
    pub canonical: bool,
}

/// The header that marks records of HTTP writes. Its prefix is ours.
pub const CANONICAL_HEADER: &str = "statehouse-format";

/// Commits epochs, one transaction each.
pub trait Committer: Send {
    /// Commits the epoch: all of it, or nothing. Returns the checkpoint offset of each partition's first piece in it.
    ///
    /// # Errors
    /// When it is not known to be committed. After an error only [`Committer::recover`] may follow.
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError>;

    /// The checkpoint's records before these places are not needed any more: those places are committed as where restores begin. Returns at
    /// once; it is done in a while, or not, and nothing depends on it. Returns what came of it since the last call. A log that gives up such
    /// records with the transaction that says so has nothing to do here.
    fn trim(&mut self, _before: &[(Partition, Offset)]) -> Trims {
        Trims::default()
    }

    /// After a failed transaction: starts over with a new producer, which fences the old one, so that what was open is resolved either way.
    /// Blocks until the log is there again or `keep_trying` says no.
    ///
    /// # Errors
    /// When, and only when, `keep_trying` said no or waiting won't help.
    fn recover(&mut self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError>;
}

/// What came of giving up checkpoint records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trims {
    /// How often a partition's were given up.
    pub done: u64,
    /// How often that was refused; it is tried again when the start has moved on.
    pub failed: u64,
}

/// One epoch: the outputs of every partition whose restore is complete, also of those without any.
#[derive(Debug, Default)]
pub struct Transaction {
    /// By partition.
    pub parts: Vec<Part>,
}

/// One partition's outputs in an epoch.
#[derive(Debug)]
pub struct Part {
    /// Which.
    pub partition: Partition,
    /// The first source offset not in the epoch or before it. Committed also when unchanged: it is the fence.
    pub next_offset: Offset,
    /// What a restore must know, committed with the offset.
    pub progress: Progress,
    /// The pieces of its chunk, each a checkpoint record, for the checkpoint partition of the same number.
    pub pieces: Vec<Vec<u8>>,
    /// The sink records.
    pub changes: Vec<SinkRecord>,
    /// The rejected source records.
    pub rejects: Vec<RejectRecord>,
}

/// What is committed with a partition's source offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The partition's last chunk number; 0 before the first.
    pub n: u64,
    /// The digest of its live rows at chunk n.
    pub digest: u64,
    /// The checkpoint offset from which a restore must read.
    pub start: Offset,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1;{};{:016x};{}", self.n, self.digest, self.start)
    }
}

impl FromStr for Progress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let foreign = || format!("offset metadata {text:?} is not of this program (expected v1;n;digest;start)");
        let fields: Vec<_> = text.split(';').collect();
        let &["v1", n, digest, start] = fields.as_slice() else { return Err(foreign()) };
        Ok(Self {
            n: n.parse().map_err(|_| foreign())?,
            digest: u64::from_str_radix(digest, 16).map_err(|_| foreign())?,
            start: start.parse().map_err(|_| foreign())?,
        })
    }
}

/// One record for the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRecord {
    /// The object.
    pub key: Name,
    /// The value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, for tombstones.
    pub headers: Vec<(&'static str, String)>,
}

/// A source record that can't be used, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectRecord {
    /// Its place.
    pub offset: Offset,
    /// Its timestamp; -1 if it had none.
    pub timestamp_ms: Millis,
    /// Its key, as it came.
    pub key: Option<Vec<u8>>,
    /// Its value, as it came.
    pub value: Option<Vec<u8>>,
    /// The reason's name.
    pub reason: &'static str,
    /// What exactly was wrong.
    pub detail: String,
}

/// What a restore reads.
pub trait Checkpoint: Send {
    /// The partition's committed source offset and progress; none in a fresh house. First waits until no transaction that could still
    /// change it is open (and ends those of the dead).
    ///
    /// # Errors
    /// When it can't be known, or is not of this program, or there is none although the checkpoint is not empty.
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError>;

    /// Where a house without progress begins to read.
    ///
    /// # Errors
    /// When the log can't tell.
    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError>;

    /// Hands every committed checkpoint record of the partition from `from` on, in order, to `each`, until that breaks (`Ok(true)`) or the
    /// end as of this call is passed (`Ok(false)`).
    ///
    /// # Errors
    /// When the log can't be read from there.
    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError>;
}

/// The committed records of many checkpoint partitions, as they come. An outage is no error: nothing comes.
pub trait Tail: Send {
    /// Reads a partition from the first record there is.
    ///
    /// # Errors
    /// When the client refuses.
    fn follow(&mut self, partition: Partition) -> Result<(), LogError>;

    /// Reads a partition no more.
    ///
    /// # Errors
    /// When the client refuses.
    fn leave(&mut self, partition: Partition) -> Result<(), LogError>;

    /// Hands what has come to `each`, waiting at most `wait` for the first of it. Records of one partition come in the order of their offsets.
    fn poll(&mut self, wait: Duration, each: &mut dyn FnMut(Tailed<'_>));

    /// An offset before which all stands that is committed of the partition now, as its leader says; none: it doesn't answer. What stands
    /// there may be open yet: the marker of a transaction that is committed can be late.
    fn end(&mut self, partition: Partition) -> Option<Offset>;

    /// The offset before which everything that is committed of a followed partition has come, what is no record passed over; none: not known.
    /// Asks nobody. Is of now only after a record of it has come since [`Tail::follow`].
    fn place(&self, partition: Partition) -> Option<Offset>;
}

/// What came of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tailed<'a> {
    /// A committed record: its partition, its offset, its bytes.
    Record(Partition, Offset, &'a [u8]),
    /// Everything of this partition that is committed has come.
    End(Partition),
    /// What should come next of this partition was deleted meanwhile, or that can't be excluded.
    Lost(Partition),
}

/// Who else is there.
pub trait Peers: Send {
    /// The id of this process.
    fn me(&self) -> &str;

    /// Every instance of the house that is there now, this one among them.
    ///
    /// # Errors
    /// When it is not known now, as while partitions move.
    fn look(&mut self) -> Result<Vec<Peer>, LogError>;
}

/// An instance of the house.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id: one process start.
    pub instance: String,
    /// The partitions that it owns.
    pub owned: Vec<Partition>,
}

/// What the instances of a house tell each other. Waits for nothing but in [`Directory::leave`].
pub trait Directory: Send + Sync {
    /// Who is known, now and whenever that changes.
    fn watch(&self) -> watch::Receiver<Instances>;

    /// Tells the others where this instance can be asked.
    fn announce(&self, url: Option<PeerUrl>);

    /// Tells the others what this instance owns from now on.
    fn owns(&self, partitions: BTreeSet<Partition>);

    /// Tells the others that this instance ends as planned, with nothing left open; waits a bounded time until it is told.
    fn leave(&self);
}

/// Appends HTTP writes to the source.
pub trait Appender: Send + Sync {
    /// Appends one record and calls `done` exactly once, from whatever thread, when it is durable or not. A null value purges.
    fn append(&self, key: &[u8], value: Option<&[u8]>, done: AppendDone);
}

/// Called with the record's place once it is durable.
pub type AppendDone = Box<dyn FnOnce(Result<(Partition, Offset), AppendError>) + Send>;

/// Why a record was not, or not surely, appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Definitely not: the queue is full; try again in a while.
    #[error("too many writes are waiting")]
    Full,
    /// Definitely not: the record is larger than the log takes.
    #[error("the record has {bytes} bytes, more than the log takes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Definitely not.
    #[error("the record was not appended: {0}")]
    Failed(String),
    /// Maybe: it was sent, and no answer came.
    #[error("the record may or may not have been appended: {0}")]
    Maybe(String),
}

/// An epoch that is not known to be committed. Either way the same recovery follows, so nothing hangs on the difference but the words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactError {
    /// Definitely not committed.
    #[error("the epoch was not committed: {0}")]
    Failed(String),
    /// Maybe committed.
    #[error("the epoch may or may not be committed: {0}")]
    Maybe(String),
}

/// The log can't do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A setting is wrong, or a topic is not as it must be: names it and the fix.
    #[error("{0}")]
    Setting(String),
    /// The log is not there now; asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// What the log holds breaks a promise: it must not be used.
    #[error("{0}")]
    Corrupt(String),
}
