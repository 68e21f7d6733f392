//! One copy: in the making, kept up with its owner, or being proven. What is to be done with what came of it, and when.
//!
//! What a copy has reached is known by offsets: the log is asked where a partition ends, and once the copy has come to there it has all that was
//! committed when that was asked. The tail's word that nothing is left is not waited for: where chunks come steadily it is never said.

use std::{sync::atomic::Ordering, time::Duration};

use statehouse_dataflows::vocabulary::Offset;

use super::{Deliver, Gone};
use crate::{
    log::{Checkpoint, LogError, Progress, Tailed},
    message::{Delivered, Delivery, Now, Request},
    restore::follow::{Follower, Measure},
};

/// A copy is said to be level at most this often.
const LEVEL_EVERY: Duration = Duration::from_millis(500);
/// Once it is known, what is committed comes within this, or the copy is given up for a restore, which knows how to wait.
const TAIL_PATIENCE: Duration = Duration::from_secs(2);
/// What is committed is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// See the module. Times are those of the monotonic clock.
pub(super) struct Kept {
    pub(super) request: Request,
    follower: Follower,
    /// There was nothing to gather yet.
    is_empty: bool,
    /// What is not reached yet.
    ahead: Option<Ahead>,
    /// As of when it was last said to be level.
    told_level: Option<Duration>,
    taking: Option<Taking>,
}

/// Where a partition's committed records ended. A copy that has come to there is level as of the moment in which that was asked.
struct Ahead {
    end: Offset,
    asked: Now,
}

/// A copy that is being proven.
struct Taking {
    since: Duration,
    /// What is committed, and since when that is known.
    committed: Option<(Offset, Progress, Duration)>,
    ask_at: Duration,
}

/// Why a copy ends.
pub(super) enum End {
    /// Nobody wants it.
    Over,
    /// It is handed over, so long after it was to be.
    TakenOver(Duration),
    /// It is good for nothing.
    Doubt(String),
    /// So is the pump.
    Gone,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Kept {
    pub(super) fn new(request: Request, follower: Follower) -> Self {
        Self { request, follower, is_empty: false, ahead: None, told_level: None, taking: None }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.request.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.follower.is_whole()
    }

    /// Whether what there is of its partition is still to come.
    pub(super) fn is_being_gathered(&self) -> bool {
        !self.is_whole() && !self.is_empty
    }

    pub(super) fn is_being_proven(&self) -> bool {
        self.taking.is_some()
    }

    /// How long ago it was level, for certain.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        self.told_level.filter(|_| self.is_whole()).map(|told| now.saturating_sub(told))
    }

    /// Its partition is ours: it is to be proven.
    pub(super) fn take_over(&mut self, now: Duration) {
        self.taking = Some(Taking { since: now, committed: None, ask_at: now });
    }

    /// Takes what came of it.
    pub(super) fn take(&mut self, tailed: &Tailed<'_>, deliver: Deliver<'_>) -> Result<(), End> {
        match tailed {
            Tailed::Record(_, offset, bytes) => {
                if let Some((at, objects)) = self.follower.take(*offset, bytes).map_err(End::Doubt)? {
                    self.send(deliver, Delivered::Chunk(at, objects))?;
                }
                self.reach(offset + 1, deliver)
            }
            Tailed::End(_) => {
                self.hand_over(deliver)?;
                self.is_empty = !self.follower.is_whole();
                Ok(())
            }
            Tailed::Lost(_) => Err(End::Doubt("records that should come next were deleted".to_owned())),
        }
    }

    /// Everything that is committed before this offset was taken.
    pub(super) fn reach(&mut self, place: Offset, deliver: Deliver<'_>) -> Result<(), End> {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.end <= place) else { return Ok(()) };
        if self.follower.is_whole() {
            self.told_level = Some(ahead.asked.monotonic);
            return self.send(deliver, Delivered::Level(ahead.asked.wall_ms));
        }
        self.hand_over(deliver)?;
        if !self.follower.is_whole() {
            self.ahead = Some(ahead); // amid a chunk: at its end
        }
        Ok(())
    }

    /// Whether to ask where its partition ends: what was asked is reached, and some time ago.
    pub(super) fn is_ask_due(&self, now: Duration) -> bool {
        self.ahead.is_none() && self.told_level.is_none_or(|told| now.saturating_sub(told) >= LEVEL_EVERY)
    }

    /// Its partition ended there when that was asked.
    pub(super) fn expect(&mut self, end: Offset, asked: Now) {
        self.ahead = Some(Ahead { end, asked });
    }

    /// Whether it is known what is ahead of it.
    pub(super) fn expects(&self) -> bool {
        self.ahead.is_some()
    }

    /// The partition is ours: proves that the copy is what is committed. Nobody else can commit any more once that is answered.
    pub(super) fn prove(&mut self, checkpoint: &mut dyn Checkpoint, now: &dyn Fn() -> Now, deliver: Deliver<'_>) -> Result<(), End> {
        let partition = self.request.partition;
        let Some(taking) = &mut self.taking else { return Ok(()) };
        let committed = match taking.committed {
            Some(committed) => committed,
            None if taking.ask_at > now().monotonic => return Ok(()),
            None => match checkpoint.progress(partition) {
                Ok(Some((next_offset, progress))) => *taking.committed.insert((next_offset, progress, now().monotonic)),
                Ok(None) => return Err(End::Doubt("nothing is committed of it".to_owned())),
                Err(LogError::Unavailable(why)) => {
                    tracing::info!(partition, why, "the copy waits to be proven");
                    taking.ask_at = now().monotonic + ASK_AGAIN;
                    return Ok(());
                }
                Err(error) => return Err(End::Doubt(error.to_string())),
            },
        };
        let (next_offset, progress, known) = committed;
        let since = taking.since;
        match self.follower.measure(next_offset, progress) {
            Measure::Same(at) => {
                self.send(deliver, Delivered::Begin(at))?;
                self.send(deliver, Delivered::End)?;
                Err(End::TakenOver(now().monotonic.saturating_sub(since)))
            }
            Measure::Behind if now().monotonic.saturating_sub(known) <= TAIL_PATIENCE => Ok(()),
            Measure::Behind => Err(End::Doubt("what is committed does not come".to_owned())),
            Measure::Different => Err(End::Doubt("it is not what is committed".to_owned())),
        }
    }

    /// What was gathered is complete, if it was not before.
    fn hand_over(&mut self, deliver: Deliver<'_>) -> Result<(), End> {
        let Some(at) = self.follower.at_end().map_err(End::Doubt)? else { return Ok(()) };
        self.ahead = None; // asked long ago: how level it is, is asked anew
        self.send(deliver, Delivered::Begin(at))?;
        while let Some(objects) = self.follower.next_batch() {
            if self.is_cancelled() {
                return Err(End::Over);
            }
            self.send(deliver, Delivered::Rows(objects))?;
        }
        self.send(deliver, Delivered::End)?;
        tracing::info!(partition = self.request.partition, "a warm copy of this partition is kept");
        Ok(())
    }

    fn send(&self, deliver: Deliver<'_>, what: Delivered) -> Result<(), End> {
        let Request { partition, number, .. } = self.request;
        Ok(deliver(Delivery { partition, number, what })?)
    }
}
