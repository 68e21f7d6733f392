//! The life of one object as publish sees it: what is published, what stands behind a mask, what the rule decided last.
//!
//! The judgement: [`Life::step`] is a pure function of the life, what happened at one event, and when that was.

use prefetch_index::prefetch_index;

use crate::{
    names::ObjectId,
    plan::OnEmpty,
    posted::{Posted, PostedMask},
    reports::prefetch_name,
    rule::decide::Set,
    slots::{Slot, Slots},
    tally::{StateId, Tally},
    verdict::Outcome,
    vocabulary::{Cause, Millis, Moment, Name, Partition, due_at},
};

/// One object's life. Its place stays taken, without a row, until its id is given to another. Two cache lines, never three.
#[repr(align(64))]
pub(crate) struct Life {
    pub(crate) name: Name,
    pub(crate) partition: Partition,
    pub(crate) set: u16,
    /// Whether it has live reports.
    heard: bool,
    /// What is published; none: the object is not known.
    pub(crate) posted: Option<Posted>,
    /// Where the arranged row stands.
    pub(crate) slot: Option<Slot>,
    /// The rule's last decision.
    verdict: Option<StateId>,
    /// Where it stands among the objects touched in this epoch, if it does.
    pub(crate) touch: u32,
}

/// What an event asks of one object, besides what it does to the verdict. It holds the ids in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Pin to a state, for so long.
    Override(StateId, Option<Millis>),
    /// Take the pin off.
    Lift,
    /// Forget everything.
    Purge,
}

/// Everything that happened to one object at one seq.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The due time of an override that may have ended.
    pub(crate) override_due_ms: Option<Millis>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) act: Option<Act>,
    /// What the checkpoint says is published, if it says anything; nothing: the object is known no more.
    pub(crate) restored: Option<Option<Posted>>,
    /// Whether the partition is held still: only the checkpoint's word counts, and nothing changes by it.
    pub(crate) still: bool,
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

impl Act {
    /// The state in it.
    pub(crate) fn state(self) -> Option<StateId> {
        match self {
            Self::Override(state, _) => Some(state),
            Self::Lift | Self::Purge => None,
        }
    }
}

impl Life {
    pub(crate) fn new(name: Name, partition: Partition, set: usize) -> Self {
        let set = u16::try_from(set).expect("fewer than 65,536 rule sets");
        Self { name, partition, set, heard: false, posted: None, slot: None, verdict: None, touch: u32::MAX }
    }

    /// Forgets everything but the place.
    pub(crate) fn give_up(&mut self) {
        (self.posted, self.heard, self.verdict) = (None, false, None);
    }

    /// What becomes of the object.
    pub(crate) fn step(&mut self, step: Step, moment: Moment, set: &Set) -> Stepped {
        if step.still || step.restored.is_some() {
            return self.follow(step, set);
        }
        let before = self.posted;
        let mut next = Next::of(before.as_ref());
        next.end_override(&step, moment);
        let tally = self.hear(step.outcome, &mut next, set);
        if step.compare {
            self.compare(&mut next, set);
        }
        let arm_ms = step.act.and_then(|act| self.act(act, &mut next, moment));
        let cause = next.cause;
        let changed = next.state() != before.and_then(|row| row.state);
        self.posted = next.row(before.as_ref(), moment, self.heard);
        Stepped { cause: changed.then_some(cause), tally, arm_ms }
    }

    /// Takes over what is stored. Decisions are heard, for the comparison to come.
    fn follow(&mut self, step: Step, set: &Set) -> Stepped {
        let tally = self.hear(step.outcome, &mut Next::of(None), set);
        if let Some(stored) = step.restored {
            self.posted = stored;
        }
        let until_ms = step.restored.flatten().and_then(|row| row.mask).and_then(|mask| mask.until_ms);
        Stepped { cause: None, tally, arm_ms: until_ms }
    }

    /// Takes a decision in: it moves what stands behind the mask.
    fn hear(&mut self, outcome: Option<Outcome>, next: &mut Next, set: &Set) -> Option<Tally> {
        match outcome? {
            Outcome::Decided(verdict, tally) => {
                (self.heard, self.verdict) = (true, verdict);
                next.behind = verdict.or(next.behind);
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

    /// Whether a comparison comes to anything: to another state, or to another one behind a mask, or that the object is known no more.
    pub(crate) fn differs(&self, set: &Set) -> bool {
        let mut next = Next::of(self.posted.as_ref());
        self.compare(&mut next, set);
        let is_known = self.heard || next.state().is_some();
        !is_known || next.behind != self.posted.and_then(|row| row.behind)
    }

    /// After a restore: what the rules of today make of it, if that differs from what is stored.
    fn compare(&self, next: &mut Next, set: &Set) {
        next.cause = Cause::Rule;
        match self.verdict {
            Some(state) => next.behind = Some(state),
            None if !self.heard && set.on_empty == OnEmpty::Remove => next.behind = None,
            None => {}
        }
    }

    fn act(&mut self, act: Act, next: &mut Next, moment: Moment) -> Option<Millis> {
        next.cause = Cause::Override;
        match act {
            Act::Override(state, for_ms) => {
                let until_ms = for_ms.map(|for_ms| due_at(moment.clock_ms, for_ms));
                next.mask = Some(PostedMask { state, since_ms: moment.clock_ms, until_ms });
                return until_ms;
            }
            Act::Lift => next.mask = None,
            Act::Purge => {
                *next = Next { behind: None, mask: None, cause: Cause::Purge };
                (self.heard, self.verdict) = (false, None);
            }
        }
        None
    }
}

/// What will be published, in the making.
struct Next {
    behind: Option<StateId>,
    mask: Option<PostedMask>,
    cause: Cause,
}

impl Next {
    fn of(row: Option<&Posted>) -> Self {
        Self { behind: row.and_then(|row| row.behind), mask: row.and_then(|row| row.mask), cause: Cause::Vote }
    }

    fn end_override(&mut self, step: &Step, moment: Moment) {
        let until_ms = self.mask.and_then(|mask| mask.until_ms);
        if step.override_due_ms.is_some() && until_ms.is_some_and(|until_ms| until_ms <= moment.clock_ms) {
            (self.mask, self.cause) = (None, Cause::Override);
        }
    }

    fn state(&self) -> Option<StateId> {
        self.mask.map(|mask| mask.state).or(self.behind)
    }

    /// The row, unless the object is known no more.
    fn row(self, before: Option<&Posted>, moment: Moment, heard: bool) -> Option<Posted> {
        let state = self.state();
        if !heard && state.is_none() {
            return None;
        }
        let (since_ms, cause, revision) = match before {
            Some(row) if row.state == state => (row.since_ms, row.cause, row.revision),
            None if state.is_none() => (moment.clock_ms, self.cause, 0),
            _ => (moment.clock_ms, self.cause, moment.event),
        };
        Some(Posted { state, behind: self.behind, mask: self.mask, since_ms, cause, revision })
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

    /// Prefetches what the next steps will read, so that these reads don't wait for each other: lives, names and what is arranged. Has no
    /// effect but on time.
    pub(crate) fn look_ahead(&self, ids: impl Iterator<Item = ObjectId> + Clone, rows: &Slots<Posted>) {
        ids.clone().for_each(|id| prefetch_index(&self.lives, id as usize));
        for life in ids.filter_map(|id| self.lives.get(id as usize)?.as_ref()) {
            prefetch_name(&life.name);
            life.slot.iter().for_each(|slot| rows.prefetch(*slot));
        }
    }

    /// The known objects of a partition.
    pub(crate) fn of_partition(&self, partition: Partition) -> Vec<ObjectId> {
        let known = |life: &Life| life.partition == partition && life.posted.is_some();
        let ids = self.lives.iter().enumerate().filter(|(_, life)| life.as_ref().is_some_and(known));
        ids.map(|(id, _)| id as ObjectId).collect()
    }
}
