//! One epoch's transaction, step by step.
//!
//! The membership comes after the deliveries, as late as can be: then a loss in the meantime is seen, and nothing but the two calls
//! to the coordinators is between the look and the commit.

use statehouse_dataflows::vocabulary::{Offset, Partition};

use super::{
    client::{GroupMember, Outgoing, Place, Producer},
    ownership::{Grant, Ownership},
};
use crate::log::{Part, TransactError, Transaction};

/// What keeps a transaction of one who lost a partition from being committed.
pub(crate) struct Fencing<'a, M> {
    pub(crate) ownership: &'a Ownership,
    pub(crate) grant: &'a Grant,
    pub(crate) member: &'a M,
}

/// Runs one transaction. After an error the producer must be dropped.
///
/// # Errors
/// When the epoch is not known to be committed.
pub(crate) fn transact<M: GroupMember>(
    producer: &mut impl Producer<Membership = M::Membership>,
    fencing: &Fencing<'_, M>,
    transaction: &Transaction,
) -> Result<Vec<(Partition, Offset)>, TransactError> {
    prepare(producer, fencing, transaction).map_err(TransactError::Failed)?;
    producer.commit()
}

/// Everything up to the commit itself.
fn prepare<M: GroupMember>(
    producer: &mut impl Producer<Membership = M::Membership>,
    fencing: &Fencing<'_, M>,
    transaction: &Transaction,
) -> Result<(), String> {
    producer.begin()?;
    for part in &transaction.parts {
        send_part(producer, part)?;
    }
    producer.await_deliveries()?;
    let partitions = transaction.parts.iter().map(|part| part.partition);
    let membership = fencing.ownership.membership(fencing.grant, fencing.member, partitions)?;
    // Of every partition, also where the offset is the one of before: it is the fence.
    let place = |part: &Part| Place { partition: part.partition, next_offset: part.next_offset, metadata: part.progress.to_string() };
    let offsets: Vec<_> = transaction.parts.iter().map(place).collect();
    producer.send_offsets(&offsets, &membership)
}

fn send_part(producer: &mut impl Producer, part: &Part) -> Result<(), String> {
    for (i, bytes) in part.pieces.iter().enumerate() {
        producer.send(part.partition, &Outgoing::Piece { first: i == 0, bytes })?;
    }
    for change in &part.changes {
        producer.send(part.partition, &Outgoing::Change(change))?;
    }
    for reject in &part.rejects {
        producer.send(part.partition, &Outgoing::Reject(reject))?;
    }
    Ok(())
}
