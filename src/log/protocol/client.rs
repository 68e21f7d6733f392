//! The steps that the protocol needs of a client. Each does one thing, bounded in time, and says how it went; what follows from that is
//! the protocol's business. Whoever implements them must not repeat a step on its own beyond what its words allow.

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use statehouse_dataflows::vocabulary::{Offset, Partition};

use crate::log::{LogError, RejectRecord, SinkRecord, Start, TransactError, Transaction, Trims};

/// A steady clock, and waiting by it.
pub(crate) trait Time {
    /// Since whenever; never runs back.
    fn now(&self) -> Duration;

    /// Waits this long.
    fn pause(&self, duration: Duration);
}

/// Our member of the group.
pub(crate) trait GroupMember {
    /// Member id and generation, as a commit shows them to the group's coordinator.
    type Membership;

    /// The membership of now; none once the member is closed.
    fn membership(&self) -> Option<Self::Membership>;

    /// Whether the group may have given to others what we have not let go yet.
    fn is_lost(&self) -> bool;
}

/// One record of a transaction. Its partition has the same number in every topic.
#[derive(Debug)]
pub(crate) enum Outgoing<'a> {
    /// A piece of a chunk, for the checkpoint.
    Piece {
        /// Whether it is the first of its chunk.
        first: bool,
        bytes: &'a [u8],
    },
    /// For the sink.
    Change(&'a SinkRecord),
    /// For the rejects.
    Reject(&'a RejectRecord),
}

/// A partition's source offset as it is committed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) partition: Partition,
    pub(crate) next_offset: Offset,
    pub(crate) metadata: String,
}

/// A started transactional producer. After any error it is of no use any more.
pub(crate) trait Producer {
    /// Of the group's member.
    type Membership;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When it did not begin.
    fn begin(&mut self) -> Result<(), String>;

    /// Hands a record to the client, which may send it at once or later.
    ///
    /// # Errors
    /// When it was not taken.
    fn send(&mut self, partition: Partition, record: &Outgoing<'_>) -> Result<(), String>;

    /// Waits until every record sent is acknowledged by the brokers.
    ///
    /// # Errors
    /// When one of them was not, or not in time.
    fn await_deliveries(&mut self) -> Result<(), String>;

    /// Puts the source offsets into the transaction.
    ///
    /// # Errors
    /// When the group's coordinator did not take them, or not in time.
    fn send_offsets(&mut self, offsets: &[Place], membership: &Self::Membership) -> Result<(), String>;

    /// Commits. Returns the places of the chunks' first pieces.
    ///
    /// # Errors
    /// When it is not known to be committed.
    fn commit(&mut self) -> Result<Vec<(Partition, Offset)>, TransactError>;
}

/// Runs transactions where a hanging client hangs nobody else. Dropped, it is abandoned: it may still do what it has begun.
pub(crate) trait Transactor: Send {
    /// Runs one transaction. After an error it must be dropped.
    ///
    /// # Errors
    /// When the epoch is not known to be committed, which includes not being known in time.
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError>;

    /// Whether no further transaction may be run: the client may have sent the end of one twice, and the second, should it arrive yet,
    /// would end the transaction that comes next (KAFKA-17754).
    fn is_worn(&self) -> bool;
}

/// Why a transactor did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Trying again may help.
    Later(String),
    /// It won't.
    Never(LogError),
}

/// Makes transactors.
pub(crate) trait Transactors: Time + Send {
    /// What it makes.
    type Transactor: Transactor;

    /// One bounded try to start one under this grant; whatever used its transactional id before is fenced, and its transaction ended.
    ///
    /// # Errors
    /// When it did not start.
    fn start(&mut self, grant: super::Grant) -> Result<Self::Transactor, StartError>;

    /// Enters this instance and its transactional id in the register.
    ///
    /// # Errors
    /// When it is not known to be there.
    fn register(&mut self) -> Result<(), String>;

    /// As [`crate::log::Committer::trim`].
    fn trim(&mut self, before: &[(Partition, Offset)]) -> Trims;
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// What is committed, up to the first transaction that is still open.
    Stable,
    /// All that is there, also of transactions that are open or were aborted.
    Uncommitted,
}

/// From where on a partition is read, and what of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadFrom {
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
    pub(crate) view: View,
}

/// What a look at a partition brought.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a> {
    /// A record.
    Record(Partition, Offset, &'a [u8]),
    /// Nothing stable is left to be read.
    End,
    /// The place to read from is not there any more.
    Gone,
    /// Nothing came in time.
    Nothing,
}

/// Reads what a restore needs.
pub(crate) trait Reader: Time + Send {
    /// One try to learn the partition's committed source offset and its metadata. In the stable view it does not answer while a transaction
    /// that holds one is open.
    ///
    /// # Errors
    /// When it is not known now.
    fn committed_offset(&mut self, partition: Partition, view: View) -> Result<Option<(Offset, String)>, String>;

    /// The first offset of the checkpoint partition, and the one after its last in this view.
    ///
    /// # Errors
    /// When they are not known now.
    fn ends(&mut self, partition: Partition, view: View) -> Result<(Offset, Offset), LogError>;

    /// As [`crate::log::Checkpoint::start_offset`].
    ///
    /// # Errors
    /// When it is not known now.
    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError>;

    /// Reads the checkpoint partition from an offset on, showing what it sees, and when, until that breaks.
    ///
    /// # Errors
    /// When it can't begin, or end.
    fn read(&mut self, from: ReadFrom, each: &mut dyn FnMut(Seen<'_>, Duration) -> ControlFlow<()>) -> Result<(), LogError>;
}

/// An entry as it stands in the register: key and value.
pub(crate) type RawEntry<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Reads and writes the register of instances, and fences those in it.
pub(crate) trait Roll: Time + Send {
    /// Shows each entry that was not shown yet, up to the end as of this call.
    ///
    /// # Errors
    /// When the end was not reached in time; the next call goes on from there.
    fn read_on(&mut self, each: &mut dyn FnMut(RawEntry<'_>)) -> Result<(), String>;

    /// Writes an entry; none removes it.
    ///
    /// # Errors
    /// When it is not known to be written.
    fn write(&mut self, instance: &str, value: Option<&[u8]>) -> Result<(), String>;

    /// The instances that are members of the group.
    ///
    /// # Errors
    /// When they are not known now.
    fn members(&mut self) -> Result<BTreeSet<String>, String>;

    /// Ends whatever transaction is open under an id, and keeps its owner from ever committing another.
    ///
    /// # Errors
    /// When that is not known to be done.
    fn fence(&mut self, transactional_id: &str) -> Result<(), String>;
}
