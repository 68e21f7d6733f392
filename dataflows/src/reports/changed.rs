//! The reports that an epoch changes: each agent's once, with the claim that stood before the epoch and the one that stands at its end.

use hashbrown::HashMap;
use prefetch_index::prefetch_index;

use super::ReportDiff;
use crate::{
    by_object::{ByObject, in_order},
    flat::Update,
    names::{AgentId, ObjectId},
    slots::Slot,
    vocabulary::Seq,
};

/// A report changed in the epoch, by where its claims are.
#[derive(Clone, Copy)]
pub(super) struct ChangedReport {
    pub(super) object: ObjectId,
    pub(super) agent: AgentId,
    pub(super) before: Option<Slot>,
    pub(super) after: Option<Slot>,
}

/// All of an epoch.
#[derive(Default)]
pub(super) struct Changed {
    reports: Vec<ChangedReport>,
    /// Where reports withdrawn in the epoch are, should they come back in it.
    withdrawn: HashMap<(ObjectId, AgentId), u32>,
    /// Those that are different at the epoch's end.
    settled: Vec<ByObject>,
}

impl ChangedReport {
    /// The differences it makes.
    pub(super) fn differ(&self, seq: Seq, diffs: &mut Vec<ReportDiff>) {
        let update = |slot: Option<Slot>, diff| slot.map(|value| Update { key: self.object, value, seq, diff });
        diffs.extend(update(self.before, -1));
        diffs.extend(update(self.after, 1));
    }
}

impl Changed {
    /// Notes a change. `noted`: where the agent's last one was noted, in this epoch or another. Returns where this one is.
    pub(super) fn note(&mut self, change: ChangedReport, noted: Option<u32>) -> u32 {
        let key = (change.object, change.agent);
        let is_its_own = |at: &u32| self.reports.get(*at as usize).is_some_and(|other| (other.object, other.agent) == key);
        let at = match noted.or_else(|| self.withdrawn.get(&key).copied()).filter(is_its_own) {
            Some(at) => {
                self.reports[at as usize].after = change.after;
                at
            }
            None => {
                self.reports.push(change);
                u32::try_from(self.reports.len() - 1).expect("fewer than 2^32 changed reports in an epoch")
            }
        };
        if change.after.is_none() {
            self.withdrawn.insert(key, at);
        }
        at
    }

    /// Forgets the changes of these objects, which make no row; hands each to `each`.
    pub(super) fn forget(&mut self, is_one: impl Fn(ObjectId) -> bool, mut each: impl FnMut(&ChangedReport)) {
        self.withdrawn.retain(|(object, _), _| !is_one(*object));
        for change in self.reports.iter_mut().filter(|change| is_one(change.object)) {
            each(change);
            *change = ChangedReport { agent: AgentId::MAX, before: None, after: None, ..*change }; // nobody's any more
        }
    }

    /// The epoch ends: orders what is different now.
    pub(super) fn settle(&mut self) {
        let different = self.reports.iter().enumerate().filter(|(_, change)| change.before != change.after);
        self.settled.extend(different.map(|(at, change)| ByObject::new(change.object, at)));
        self.settled.sort_unstable();
    }

    /// The differences that what is settled makes as of `last`, in the order in which they are arranged.
    pub(super) fn differ(&self, last: Seq, diffs: &mut Vec<ReportDiff>) {
        diffs.reserve(2 * self.settled.len());
        let mut changes = in_order(&self.settled, &self.reports);
        for same in self.settled.chunk_by(|a, b| a.object() == b.object()) {
            let first = diffs.len();
            changes.by_ref().take(same.len()).for_each(|change| change.differ(last, diffs));
            diffs[first..].sort_unstable_by_key(|update| update.value);
        }
    }

    /// What is settled, by object, in runs of at most so many.
    pub(super) fn settled(&self, run: usize) -> impl Iterator<Item = impl Iterator<Item = &ChangedReport> + Clone> {
        self.settled.chunks(run).map(|keys| {
            keys.iter().for_each(|key| prefetch_index(&self.reports, key.place()));
            keys.iter().map(|key| &self.reports[key.place()])
        })
    }

    /// Whether the agent's report is different now than before the epoch. `noted`: where its last change was noted, in this epoch or another.
    pub(super) fn differs(&self, (object, agent): (ObjectId, AgentId), noted: u32) -> bool {
        let change = self.reports.get(noted as usize).filter(|change| (change.object, change.agent) == (object, agent));
        change.is_some_and(|change| change.before != change.after)
    }

    /// Starts a new epoch.
    pub(super) fn clear(&mut self) {
        self.reports.clear();
        self.withdrawn.clear();
        self.settled.clear();
    }
}
