//! The life of partitions in the pump: assigned, restored, started, revoked or lost, let go; and everybody's new beginning after a failure.

use std::{mem, sync::Arc};

use statehouse_dataflows::vocabulary::Partition;

use super::{
    Open, Pump, Sent,
    line::{Line, Phase},
};
use crate::{
    log::LogError,
    message::{Feed, Note, Now},
};

impl Pump {
    pub(super) fn caught_up(&mut self, partition: Partition, caught_up: bool) {
        if let Some(line) = self.lines.get_mut(&partition) {
            line.caught_up = caught_up;
        }
    }

    /// After a loss this says that the group is joined again, even if it brings nothing.
    pub(super) fn assigned(&mut self, partitions: Vec<Partition>, out: &mut Vec<Sent>) {
        for partition in partitions {
            if self.take_over(partition, out) {
                continue;
            }
            self.lines.insert(partition, Line::new(partition));
            if !self.dropped {
                self.request(partition, out);
            } else if !self.ghosts.contains(&partition) {
                out.push(Sent::Note(Note::Restoring(partition)));
            }
        }
        self.joined = true;
    }

    /// The workers drop what they have but copies, which are in no transaction, and everything owned is restored, if it is not just being
    /// taken over from its copy. All of that is said before any state goes.
    pub(super) fn begin_anew(&mut self, out: &mut Vec<Sent>) {
        self.dropped = false;
        let gone: Vec<_> = mem::take(&mut self.ghosts).into_iter().filter(|partition| !self.lines.contains_key(partition)).collect();
        let spared = self.spare_copies(out);
        if !gone.is_empty() {
            out.push(Sent::Note(Note::Gone(gone)));
        }
        let is_to_restore = |line: &&Line| line.phase != Phase::Proving;
        let owned: Arc<[Partition]> = self.lines.values().filter(is_to_restore).map(|line| line.partition).collect();
        owned.iter().for_each(|partition| self.request(*partition, out));
        // Only now: before, somebody could take what was said of them for good again.
        out.push(Sent::Note(Note::Adrift(None)));
        let generation = self.generation;
        self.to_all(out, || Feed::Reset { generation, owned: Arc::clone(&owned), spared: Arc::clone(&spared) });
    }

    pub(super) fn request(&mut self, partition: Partition, out: &mut Vec<Sent>) {
        self.last_number += 1;
        let line = self.lines.get_mut(&partition).expect("only owned partitions are restored");
        out.push(Sent::Note(Note::Restoring(partition)));
        out.push(Sent::Restore(line.request(self.last_number)));
    }

    pub(super) fn revoked(&mut self, partitions: Vec<Partition>, out: &mut Vec<Sent>) {
        self.backlog.retain(|(batch, _)| !partitions.contains(&batch.partition));
        for partition in &partitions {
            let Some(line) = self.lines.get_mut(partition) else { continue };
            line.leaving = true;
            line.cancel();
            if !line.is_whole() {
                self.give_up(*partition, out);
            }
        }
        self.releases.push(partitions);
    }

    /// Others may own these already: nothing more of them is committed, and what is open goes. What is committed is still asked, and
    /// marked as stale, until the group is joined again: mostly it is the brokers that are gone, and nobody else knows better.
    pub(super) fn lost(&mut self, partitions: Vec<Partition>, now: Now, out: &mut Vec<Sent>) -> Result<(), LogError> {
        let mut any_whole = false;
        for partition in &partitions {
            let Some(line) = self.lines.get(partition) else { continue };
            line.cancel();
            if line.is_coming_back() {
                self.give_up(*partition, out);
                continue;
            }
            any_whole |= line.is_whole();
            self.lines.remove(partition);
            self.ghosts.insert(*partition);
        }
        self.releases.push(partitions);
        self.joined = false;
        if !any_whole && !self.dropped {
            return Ok(()); // nobody is answered of any of them
        }
        let trouble = "the consumer group was lost: answers stay as they were until it is joined again".to_owned();
        out.push(Sent::Note(Note::Adrift(Some((now.wall_ms, trouble)))));
        if any_whole { self.drop_open(now) } else { Ok(()) }
    }

    pub(super) fn give_up(&mut self, partition: Partition, out: &mut Vec<Sent>) {
        let Some(line) = self.lines.remove(&partition) else { return };
        line.cancel(); // else its restore would be tried for ever, and those behind it would wait as long
        if line.phase != Phase::Waiting {
            // Otherwise the workers know nothing of it, or are about to forget everything.
            let run = line.aside(&mut self.next);
            self.to_all(out, || Feed::GiveUp(run));
        }
        out.push(Sent::Note(Note::Gone(vec![partition])));
    }

    /// Called while nothing is in flight. What is open of revoked partitions is committed first.
    pub(super) fn let_go(&mut self, now: Now, out: &mut Vec<Sent>) -> Result<(), LogError> {
        let to_commit = self.lines.values().any(|line| line.leaving && line.is_whole());
        if to_commit && self.has_events() {
            self.cut(now, out);
            return Ok(());
        }
        while let Some(partitions) = self.releases.pop() {
            partitions.iter().for_each(|partition| self.give_up(*partition, out));
            // Others wait for it: what is refused is tried again.
            self.source.release(&partitions).inspect_err(|_| self.releases.push(partitions))?;
        }
        Ok(())
    }

    /// The first start positions are committed: now their records may be read.
    pub(super) fn begin_started(&mut self) -> Result<(), LogError> {
        for line in self.lines.values_mut().filter(|line| line.has_started()) {
            line.phase = Phase::Live;
            if !line.leaving {
                self.source.begin(line.partition, line.next_offset)?;
            }
        }
        Ok(())
    }

    /// What came after the last epoch cut goes, and everything but copies is restored once that is resolved.
    pub(super) fn drop_open(&mut self, now: Now) -> Result<(), LogError> {
        self.generation += 1;
        self.dropped = true;
        self.cancel_partial_copies();
        self.backlog.clear();
        self.open = Open { first: self.next, since: now.monotonic, ..Open::default() };
        let mut outcome = Ok(());
        for line in self.lines.values_mut().filter(|line| line.phase != Phase::Proving) {
            line.cancel();
            if mem::replace(&mut line.phase, Phase::Waiting) == Phase::Live {
                outcome = outcome.and(self.source.suspend(line.partition));
            }
        }
        outcome
    }
}
