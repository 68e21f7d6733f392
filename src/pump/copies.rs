//! Warm copies in the pump: partitions of others whose rows are followed, numbered aside from all events.
//!
//! A copy is begun when nothing of our own waits to be restored, filled by deliveries as a restore is, and then follows its owner's chunks, each at
//! one seq. It is in no transaction. When its partition is assigned to us, whoever keeps the copies proves that it is what is committed,
//! and it goes on as if it were restored. Any doubt ends in a plain restore, or in a copy begun anew.
//! A failed epoch, such as the one that the group refuses when its generation changes meanwhile, leaves whole copies as they are.

use std::{collections::BTreeSet, sync::Arc};

use statehouse_dataflows::vocabulary::{Millis, Partition, Row, Run};

use super::{
    Pump, Sent,
    line::{Line, Phase},
};
use crate::message::{CopyPart, Delivered, Delivery, Feed, Note, Order, Standpoint};

/// A copy of another's partition.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) line: Line,
    /// Whether all of it was delivered.
    whole: bool,
    /// When it was last known to be all that is committed, by the wall-clock.
    level_ms: Option<Millis>,
}

impl Pump {
    /// Of which partitions to keep a copy, as far as they are not ours.
    pub fn keep(&mut self, wanted: BTreeSet<Partition>) {
        self.wanted = wanted;
    }

    /// Begins and gives up copies, so that there are those that are wanted.
    pub(super) fn arrange_copies(&mut self, out: &mut Vec<Sent>) {
        let is_over = |partition: &&Partition| !self.wanted.contains(*partition);
        let over: Vec<_> = self.copies.keys().filter(is_over).copied().collect();
        over.into_iter().for_each(|partition| self.drop_copy(partition, out));
        // Our own come first. And what is said of a copy with the epoch in flight must not be taken for the one that is begun now.
        if self.in_flight || !self.lines.values().all(Line::is_whole) {
            return;
        }
        let is_new = |partition: &&Partition| !self.copies.contains_key(*partition) && !self.lines.contains_key(*partition);
        let new: Vec<_> = self.wanted.iter().filter(is_new).copied().collect();
        for partition in new {
            self.last_number += 1;
            let mut line = Line::new(partition);
            out.push(Sent::Note(Note::Copying(partition)));
            out.push(Sent::Order(Order::Copy(line.request(self.last_number))));
            self.copies.insert(partition, Copy { line, whole: false, level_ms: None });
        }
    }

    /// Takes a delivery for a copy, if there is one that it is for.
    pub(super) fn copied(&mut self, delivery: Delivery, out: &mut Vec<Sent>) {
        let Delivery { partition, number, what } = delivery;
        let Some(copy) = self.copies.get_mut(&partition).filter(|copy| copy.line.number == number) else { return };
        match what {
            Delivered::Begin(at) => copy.line.stand(at),
            Delivered::End => copy.whole = true,
            Delivered::Rows(shares) => {
                let run = copy.line.restored(&shares, &mut self.next);
                self.restore(run, shares, out);
            }
            Delivered::Chunk(at, objects) => {
                copy.line.stand(at);
                let run = copy.line.aside(&mut self.next);
                self.follow(run, objects, out);
            }
            Delivered::Level(wall_ms) => {
                copy.level_ms = Some(wall_ms);
                let runs: Arc<[_]> = [copy.line.aside(&mut self.next)].into(); // only so that an epoch ends, with which it is seen
                self.to_all(out, || Feed::Ticks(Arc::clone(&runs)));
            }
            Delivered::Doubt => self.drop_copy(partition, out),
        }
    }

    /// A partition is ours: if there is a whole copy of it, that is to be proven. Otherwise what there is of it goes.
    pub(super) fn take_over(&mut self, partition: Partition, out: &mut Vec<Sent>) -> bool {
        match self.copies.remove(&partition) {
            Some(Copy { mut line, whole: true, .. }) => {
                let number = line.number;
                line.phase = Phase::Proving;
                self.lines.insert(partition, line);
                out.push(Sent::Note(Note::TakingOver(partition)));
                out.push(Sent::Order(Order::TakeOver { partition, number }));
                true
            }
            Some(copy) => {
                self.forget_copy(&copy, out);
                false
            }
            None => false,
        }
    }

    /// What is taken over is not what is committed: it goes, and is restored.
    pub(super) fn doubted(&mut self, partition: Partition, out: &mut Vec<Sent>) {
        let line = self.lines.get_mut(&partition).expect("a partition that is being taken over");
        let run = line.aside(&mut self.next);
        *line = Line::new(partition);
        self.request(partition, out); // says first that nothing of it can be asked
        self.to_all(out, || Feed::GiveUp(run));
    }

    /// Whole copies, as they stand.
    pub(super) fn copy_parts(&self) -> Vec<CopyPart> {
        let part = |copy: &Copy| {
            let (partition, next_offset) = (copy.line.partition, copy.line.next_offset);
            copy.level_ms.filter(|_| copy.whole).map(|level_ms| CopyPart { partition, next_offset, level_ms })
        };
        self.copies.values().filter_map(part).collect()
    }

    /// The workers are about to forget everything but whole copies: a seq for each of these, and for those that are being proven. Others
    /// begin anew after our own.
    pub(super) fn spare_copies(&mut self, out: &mut Vec<Sent>) -> Arc<[Run]> {
        let gone: Vec<_> = self.copies.iter().filter(|(_, copy)| !copy.whole).map(|(partition, _)| *partition).collect();
        self.copies.retain(|_, copy| copy.whole);
        if !gone.is_empty() {
            out.push(Sent::Note(Note::Gone(gone)));
        }
        let proving = self.lines.values().filter(|line| line.phase == Phase::Proving);
        let spared = self.copies.values().map(|copy| &copy.line).chain(proving);
        spared.map(|line| line.aside(&mut self.next)).collect()
    }

    /// What is not whole yet is not spared.
    pub(super) fn cancel_partial_copies(&self) {
        self.copies.values().filter(|copy| !copy.whole).for_each(|copy| copy.line.cancel());
    }

    /// No more of them is delivered.
    pub(super) fn cancel_copies(&self) {
        self.copies.values().for_each(|copy| copy.line.cancel());
    }

    fn drop_copy(&mut self, partition: Partition, out: &mut Vec<Sent>) {
        let Some(copy) = self.copies.remove(&partition) else { return };
        out.push(Sent::Note(Note::Gone(vec![partition])));
        self.forget_copy(&copy, out);
    }

    fn forget_copy(&mut self, copy: &Copy, out: &mut Vec<Sent>) {
        copy.line.cancel();
        let run = copy.line.aside(&mut self.next);
        self.to_all(out, || Feed::GiveUp(run));
    }

    /// A chunk of a partition of ours that is being taken over: what its owner committed before.
    pub(super) fn catch_up(&mut self, partition: Partition, (at, objects): (Standpoint, Vec<Vec<Row>>), out: &mut Vec<Sent>) {
        let line = self.lines.get_mut(&partition).expect("a partition that is being taken over");
        line.stand(at);
        let run = line.aside(&mut self.next);
        self.follow(run, objects, out);
    }

    fn follow(&mut self, run: Run, objects: Vec<Vec<Row>>, out: &mut Vec<Sent>) {
        let feeds = self.share(objects).into_iter().map(|objects| Feed::Chunk { run, objects });
        out.extend(feeds.enumerate().map(|(worker, feed)| Sent::Worker(worker, feed)));
    }
}
