//! The order of steps that makes a log on Kafka exactly-once, apart from any client: what a transaction does in which order, under which
//! membership, and what a restore asks before it reads.
//!
//! Between the stages, which see a [`Committer`](crate::log::Committer) and a [`Checkpoint`](crate::log::Checkpoint), and a client, which does single steps ([`client`]) and decides nothing. The
//! Kafka client is one; what the steps come to under faults can be tried with another. No thread, no clock, no client is named here.
//!
//! The proof in short. Every record that an epoch writes for a partition is in one transaction with that partition's source offset
//! ([`transaction`]), under a membership captured while the partition was ours ([`ownership`]), so a transaction of somebody who lost the
//! partition is refused. Whoever has it now reads the committed offset first, which waits for pending transactions, and then the
//! checkpoint to its true end ([`checkpoint`]), so it sees all that was ever committed. The brokers do the rest.

mod checkpoint;
pub(crate) mod client;
mod committer;
mod ownership;
mod register;
mod transaction;

pub(crate) use self::{
    checkpoint::{GroupCheckpoint, Names},
    committer::GroupCommitter,
    ownership::{Grant, Ownership},
    register::{Register, enter},
    transaction::{Fencing, transact},
};
