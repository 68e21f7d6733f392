//! Which partitions are ours right now, and who may commit them. Beside the client itself the one thing that the pump's thread (which gets
//! and lets go) and the commit thread (which must not commit what is gone) share; a restore looks, too.
//!
//! The brokers check at a commit that the group member is alive and of the current generation, but not that it owns the partition. So the
//! membership is captured, and the ownership checked, under one lock, against which a release must go through, too. What is captured while a
//! partition is ours is good for nothing once another may own it: under the cooperative protocol a partition stays with its member
//! until the member gives it up and joins again, or is thrown out of the group. Its ownership ends here before the first; after the second
//! the brokers refuse its member id.
//!
//! **What this hangs on,** beside the brokers. A member that learns that it was thrown out marks its assignment as lost, but not while a step
//! of a rebalance waits for our answer: then it only forgets its id (or its generation, if that is what it was told is over). With one of
//! the two the brokers refuse it. Joining anew without an id, it is first told a new one, and in that answer's handling all that it still
//! has is marked as lost, so the new id is never shown for it. Without both the brokers would wave it through: before it first joined, when nothing is
//! ours; later only if within one unanswered step it was told both, that its generation is over (which the brokers say to members) and
//! that it is none. That can't be looked at here: the client does not show what stands in a membership.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use statehouse_dataflows::vocabulary::Partition;

use super::client::GroupMember;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Ownership(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owned: BTreeSet<Partition>,
    /// The number of the last grant; none if it was taken back.
    granted: Option<u64>,
    grants: u64,
}

/// Lets one transactor take memberships, until it is taken back or another is given.
#[derive(Debug)]
pub(crate) struct Grant(u64);

impl Ownership {
    pub(crate) fn add(&self, partitions: &[Partition]) {
        self.lock().owned.extend(partitions);
    }

    pub(crate) fn remove(&self, partitions: &[Partition]) {
        self.lock().owned.retain(|owned| !partitions.contains(owned));
    }

    /// Nothing is ours any more; what waits for something of ours need not wait on.
    pub(crate) fn clear(&self) {
        self.lock().owned.clear();
    }

    pub(crate) fn holds(&self, partition: Partition) -> bool {
        self.lock().owned.contains(&partition)
    }

    /// For a new transactor; takes back the grant of the one before.
    pub(crate) fn grant(&self) -> Grant {
        let mut state = self.lock();
        state.grants += 1;
        state.granted = Some(state.grants);
        Grant(state.grants)
    }

    /// The transactor is given up: whatever it wakes up to do later, it takes no membership.
    pub(crate) fn take_back(&self) {
        self.lock().granted = None;
    }

    /// The membership under which these partitions may be committed now.
    ///
    /// # Errors
    /// When one of them is not ours, or may not be, or the grant is over.
    pub(crate) fn membership<M: GroupMember>(
        &self,
        grant: &Grant,
        member: &M,
        mut partitions: impl Iterator<Item = Partition>,
    ) -> Result<M::Membership, String> {
        let state = self.lock();
        if state.granted != Some(grant.0) {
            return Err("this producer was given up".into());
        }
        if let Some(gone) = partitions.find(|partition| !state.owned.contains(partition)) {
            return Err(format!("partition {gone} is not ours any more"));
        }
        let membership = member.membership().ok_or("the group member is closed")?;
        // Asked after the capture: what was captured before a loss is refused by the brokers, what after it is refused here.
        if member.is_lost() {
            return Err("the group has given our partitions to others".into());
        }
        Ok(membership)
    }

    /// The state is sound at every moment, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        lost: bool,
        closed: bool,
    }

    impl GroupMember for Fake {
        type Membership = ();

        fn membership(&self) -> Option<()> {
            (!self.closed).then_some(())
        }

        fn is_lost(&self) -> bool {
            self.lost
        }
    }

    #[test]
    fn a_membership_is_for_what_is_ours() {
        let ownership = Ownership::default();
        ownership.add(&[1, 2, 3]);
        ownership.remove(&[3]);
        let grant = ownership.grant();
        // partitions, lost, closed → whether a membership is had
        let rows = [
            (vec![1, 2], false, false, true),
            (vec![1, 3], false, false, false),
            (vec![4], false, false, false),
            (vec![1], true, false, false),
            (vec![1], false, true, false),
        ];
        for (partitions, lost, closed, had) in rows {
            let got = ownership.membership(&grant, &Fake { lost, closed }, partitions.iter().copied());
            assert_eq!(got.is_ok(), had, "{partitions:?}, lost {lost}, closed {closed}: {got:?}");
        }
    }

    #[test]
    fn who_was_given_up_takes_no_membership_later() {
        let ownership = Ownership::default();
        ownership.add(&[1]);
        let member = Fake { lost: false, closed: false };
        let may = |grant: &Grant| ownership.membership(grant, &member, [1].into_iter()).is_ok();
        let first = ownership.grant();
        assert!(may(&first));
        ownership.take_back();
        assert!(!may(&first), "taken back");
        let second = ownership.grant();
        assert!(may(&second));
        assert!(!may(&first), "not by the grant of another either");
        let third = ownership.grant();
        assert!(!may(&second) && may(&third), "one at a time");
    }
}
