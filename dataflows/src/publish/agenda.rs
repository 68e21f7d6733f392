//! What happened in an epoch, in the order in which publish takes it up: by seq, and at one seq by phase and object.

use prefetch_index::prefetch_index;

use super::{Control, life::Act};
use crate::{
    names::ObjectId,
    slots::Slot,
    verdict::Outcome,
    vocabulary::{Millis, Name, Partition, Run, Seq},
};

/// How many items ahead of its turn one is prefetched.
const AHEAD: usize = 16;

/// Items in the order in which they are taken up. Their order is sorted, not they: they are large.
pub(super) struct Agenda {
    items: Vec<Item>,
    /// Keys of what is to come, last first.
    order: Vec<Key>,
}

/// Seq, phase and object of an item, and its place: in one number, as that is sorted fastest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u128);

impl Key {
    const PLACE_BITS: u32 = 30;

    fn of(item: &Item, place: usize) -> Self {
        assert!(place < 1 << Self::PLACE_BITS, "fewer than 2^30 things happen in an epoch");
        let words = [u128::from(item.seq) << 64, (item.phase as u128) << 62, u128::from(item.object) << Self::PLACE_BITS, place as u128];
        Self(words[0] | words[1] | words[2] | words[3])
    }

    fn place(self) -> usize {
        self.0 as usize & ((1 << Self::PLACE_BITS) - 1)
    }

    fn object(self) -> ObjectId {
        (self.0 >> Self::PLACE_BITS) as ObjectId
    }
}

impl Agenda {
    pub(super) fn new(items: Vec<Item>) -> Self {
        let mut agenda = Self { items: Vec::new(), order: Vec::with_capacity(items.len()) };
        agenda.add(items);
        agenda
    }

    pub(super) fn add(&mut self, mut items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let first = self.items.len();
        self.order.extend(items.iter().zip(first..).map(|(item, place)| Key::of(item, place)));
        match first {
            0 => self.items = items,
            _ => self.items.append(&mut items),
        }
        self.order.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// The objects of what comes next, in order.
    pub(super) fn objects(&self) -> impl Iterator<Item = ObjectId> + Clone {
        self.order.iter().rev().map(|key| key.object())
    }

    pub(super) fn next(&mut self) -> Option<Item> {
        let place = self.order.pop()?.place();
        if let Some(ahead) = self.order.len().checked_sub(AHEAD) {
            prefetch_index(&self.items, self.order[ahead].place());
        }
        let item = &mut self.items[place];
        Some(Item { what: std::mem::replace(&mut item.what, What::Done), ..*item })
    }

    /// The next thing, if it happened to the same object at the same seq.
    pub(super) fn next_part(&mut self, seq: Seq, object: ObjectId) -> Option<StepPart> {
        let next = &self.items[self.order.last()?.place()];
        if (next.seq, next.phase, next.object) != (seq, Phase::Object, object) {
            return None;
        }
        match self.next()?.what {
            What::Step(part) => Some(part),
            _ => unreachable!("only steps are in the objects' phase"),
        }
    }
}

/// One thing that happened, in the order in which things of one seq are taken up.
pub(super) struct Item {
    pub(super) seq: Seq,
    pub(super) phase: Phase,
    pub(super) object: ObjectId,
    pub(super) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Runs, introductions, partitions held still or given up.
    Before,
    /// What happens to one object, gathered into one step.
    Object,
    /// Comparisons after a restore.
    After,
}

pub(super) enum What {
    Step(StepPart),
    /// Boxed, as there are few, and many steps.
    Run(Box<Run>),
    Introduce(Name, Partition, usize),
    Still(Partition),
    Compare(Partition, usize),
    GiveUp(Partition),
    /// Taken up already.
    Done,
}

pub(super) enum StepPart {
    OverrideDue(Millis),
    Outcome(Outcome),
    Act(Act),
    /// Where the row is that the checkpoint has.
    Restore(Slot),
    /// The checkpoint has no row any more.
    Remove,
}

impl Item {
    pub(super) fn decision(object: ObjectId, seq: Seq, outcome: Outcome) -> Self {
        Self { seq, phase: Phase::Object, object, what: What::Step(StepPart::Outcome(outcome)) }
    }

    pub(super) fn control(seq: Seq, control: Control) -> Self {
        let (phase, object, what) = match control {
            Control::Run(run) => (Phase::Before, 0, What::Run(Box::new(run))),
            Control::Introduce(object, name, partition, set) => (Phase::Before, object, What::Introduce(name, partition, set)),
            Control::Still(partition) => (Phase::Before, 0, What::Still(partition)),
            Control::GiveUp(partition) => (Phase::Before, 0, What::GiveUp(partition)),
            Control::Act(object, act) => (Phase::Object, object, What::Step(StepPart::Act(act))),
            Control::Restore(object, slot) => (Phase::Object, object, What::Step(StepPart::Restore(slot))),
            Control::Remove(object) => (Phase::Object, object, What::Step(StepPart::Remove)),
            Control::Compare(partition, objects_max) => (Phase::After, 0, What::Compare(partition, objects_max)),
        };
        Self { seq, phase, object, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_fits_in_a_cache_line() {
        assert!(size_of::<Item>() <= 64);
    }
}
