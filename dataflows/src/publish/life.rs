//! The life of one object as publish sees it: what is published, what stands behind a mask, what the rule decided last.
//!
//! The judgement: [`Life::step`] is a pure function of the life, what happened at one event, and when that was.

use std::sync::Arc;

use super::slots::Slot;
use crate::{
    names::{Interner, ObjectId},
    plan::OnEmpty,
    rule::decide::Set,
    tally::{StateId, Tally},
    verdict::Outcome,
    vocabulary::{Cause, Mask, Millis, Moment, Name, Partition, Published, due_at},
};

/// One object's life. Its place stays taken, without a row, until its id is given to another.
pub(crate) struct Life {
    pub(crate) name: Name,
    pub(crate) partition: Partition,
    pub(crate) set: usize,
    /// What is published; none: the object is not known.
    pub(crate) row: Option<Arc<Published>>,
    /// Where the arranged row stands.
    pub(crate) slot: Option<Slot>,
    /// Whether it has live reports.
    heard: bool,
    /// The rule's last decision.
    verdict: Option<StateId>,
    /// Where it stands among the objects touched in this epoch, if it does.
    pub(crate) touch: usize,
}

/// What an event asks of one object, besides what it does to the verdict.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Pin to a state, for so long.
    Override(Name, Option<Millis>),
    /// Take the pin off.
    Lift,
    /// Forget everything.
    Purge,
    /// What the checkpoint says is published. Nothing changes by it.
    Restore(Arc<Published>),
}

/// Everything that happened to one object at one seq.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The due time of an override that may have ended.
    pub(crate) override_due_ms: Option<Millis>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) act: Option<Act>,
    /// Whether verdict and published state are to be compared, after a restore.
    pub(crate) compare: bool,
}

/// What a step made.
pub(crate) struct Stepped {
    /// The published state changed for this reason; the step's row tells to what.
    pub(crate) cause: Option<Cause>,
    /// The tally, where the step brought it.
    pub(crate) tally: Option<Tally>,
    /// A multiple at which to look again whether the override ended.
    pub(crate) arm_ms: Option<Millis>,
}

impl Life {
    pub(crate) fn new(name: Name, partition: Partition, set: usize) -> Self {
        Self { name, partition, set, row: None, slot: None, heard: false, verdict: None, touch: usize::MAX }
    }

    /// Forgets everything but the place.
    pub(crate) fn give_up(&mut self) {
        (self.row, self.heard, self.verdict) = (None, false, None);
    }

    /// What becomes of the object. A restore only takes over what is stored.
    pub(crate) fn step(&mut self, step: Step, moment: Moment, set: &Set, states: &Interner) -> Stepped {
        let restored = match &step.act {
            Some(Act::Restore(row)) => Some(row.clone()),
            _ => None,
        };
        let before = restored.clone().or_else(|| self.row.clone());
        let mut next = Next::of(before.as_deref());
        next.end_override(&step, moment);
        let tally = self.hear(step.outcome, &mut next, set, states);
        if step.compare {
            self.compare(&mut next, set, states);
        }
        if let Some(row) = restored {
            let arm_ms = row.mask.as_ref().and_then(|mask| mask.until_ms);
            self.row = Some(row);
            return Stepped { cause: None, tally, arm_ms };
        }
        let arm_ms = step.act.and_then(|act| self.act(act, &mut next, moment));
        let cause = next.cause;
        let changed = next.state() != before.as_deref().and_then(|row| row.state.as_ref());
        self.row = next.row(before, moment, self.heard);
        Stepped { cause: changed.then_some(cause), tally, arm_ms }
    }

    /// Takes a decision in: it moves what stands behind the mask.
    fn hear(&mut self, outcome: Option<Outcome>, next: &mut Next, set: &Set, states: &Interner) -> Option<Tally> {
        match outcome? {
            Outcome::Decided(verdict, tally) => {
                (self.heard, self.verdict) = (true, verdict);
                if let Some(state) = verdict {
                    next.behind = Some(states.name(state).clone());
                }
                Some(tally)
            }
            Outcome::Emptied => {
                (self.heard, self.verdict) = (false, None);
                if set.on_empty == OnEmpty::Remove {
                    next.behind = None;
                }
                Some(Tally::default())
            }
        }
    }

    /// After a restore: what the rules of today make of it, if that differs from what is stored.
    fn compare(&self, next: &mut Next, set: &Set, states: &Interner) {
        next.cause = Cause::Rule;
        match self.verdict {
            Some(state) => next.behind = Some(states.name(state).clone()),
            None if !self.heard && set.on_empty == OnEmpty::Remove => next.behind = None,
            None => {}
        }
    }

    fn act(&mut self, act: Act, next: &mut Next, moment: Moment) -> Option<Millis> {
        next.cause = Cause::Override;
        match act {
            Act::Override(state, for_ms) => {
                let until_ms = for_ms.map(|for_ms| due_at(moment.clock_ms, for_ms));
                next.mask = Some(Mask { state, since_ms: moment.clock_ms, until_ms });
                return until_ms;
            }
            Act::Lift => next.mask = None,
            Act::Purge => {
                *next = Next { behind: None, mask: None, cause: Cause::Purge };
                (self.heard, self.verdict) = (false, None);
            }
            Act::Restore(_) => unreachable!("taken over before"),
        }
        None
    }
}

/// What will be published, in the making.
struct Next {
    behind: Option<Name>,
    mask: Option<Mask>,
    cause: Cause,
}

impl Next {
    fn of(row: Option<&Published>) -> Self {
        Self { behind: row.and_then(|row| row.behind.clone()), mask: row.and_then(|row| row.mask.clone()), cause: Cause::Vote }
    }

    fn end_override(&mut self, step: &Step, moment: Moment) {
        let until_ms = self.mask.as_ref().and_then(|mask| mask.until_ms);
        if step.override_due_ms.is_some() && until_ms.is_some_and(|until_ms| until_ms <= moment.clock_ms) {
            (self.mask, self.cause) = (None, Cause::Override);
        }
    }

    fn state(&self) -> Option<&Name> {
        self.mask.as_ref().map(|mask| &mask.state).or(self.behind.as_ref())
    }

    /// The row, unless the object is known no more. Shares the old row where nothing is different.
    fn row(self, before: Option<Arc<Published>>, moment: Moment, heard: bool) -> Option<Arc<Published>> {
        let state = self.state().cloned();
        if !heard && state.is_none() {
            return None;
        }
        let (since_ms, cause, revision) = match before.as_deref() {
            Some(row) if row.state == state => (row.since_ms, row.cause, row.revision),
            None if state.is_none() => (moment.clock_ms, self.cause, 0),
            _ => (moment.clock_ms, self.cause, moment.event),
        };
        let row = Published { state, behind: self.behind, mask: self.mask, since_ms, cause, revision };
        match before {
            Some(before) if *before == row => Some(before),
            _ => Some(Arc::new(row)),
        }
    }
}

/// A life by object.
#[derive(Default)]
pub(crate) struct Lives {
    lives: Vec<Option<Life>>,
}

impl Lives {
    pub(crate) fn introduce(&mut self, id: ObjectId, life: Life) {
        let at = id as usize;
        if self.lives.len() <= at {
            self.lives.resize_with(at + 1, || None);
        }
        self.lives[at] = Some(life);
    }

    pub(crate) fn get_mut(&mut self, id: ObjectId) -> &mut Life {
        self.lives[id as usize].as_mut().expect("an object is introduced before anything happens to it")
    }

    /// Reads the lives and rows that the next steps will read, so that these reads don't wait for each other. Has no effect but on the cache.
    pub(crate) fn look_ahead(&self, ids: impl Iterator<Item = ObjectId>) {
        let lives = ids.filter_map(|id| self.lives.get(id as usize)?.as_ref());
        let words = lives.fold(0, |words, life| words ^ life.touch as u64 ^ life.row.as_ref().map_or(0, |row| row.revision));
        std::hint::black_box(words); // else the reads would be left out
    }

    /// The known objects of a partition.
    pub(crate) fn of_partition(&self, partition: Partition) -> Vec<ObjectId> {
        let known = |life: &Life| life.partition == partition && life.row.is_some();
        let ids = self.lives.iter().enumerate().filter(|(_, life)| life.as_ref().is_some_and(known));
        ids.map(|(id, _)| id as ObjectId).collect()
    }
}
