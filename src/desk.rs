//! The front desk: puts questions to the workers that know, gathers what they answer, and hands writes to the log.
//!
//! Between http (or whoever embeds the library) and the workers. It knows neither the workers' queues nor the log's client: both are
//! handed in as [`DeskParts`]. What it assumes of them:
//! - the standing is published *before* a restore drops a partition's state, and shows a partition live only when all of it can be asked;
//! - a worker that can't answer as of L (a restore began) drops the question instead of answering from half a state.
//!
//! So an answer is never made of a state that is not all there: "not known" means not known as of the position that comes with it.
//!
//! Known limitation: a list that is gathered from several workers may show a later epoch for one worker's objects than for another's;
//! its position is the lower bound of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use statehouse_dataflows::{
    query::{Explanation, ListQuery, ObjectView, ReportView, Summary},
    vocabulary::{Millis, Name, Offset, Partition},
};
use tokio::sync::{oneshot, watch};

use crate::{
    board::{PartitionStanding, Standing},
    log::{AppendError, Appender},
    message::RestoreProgress,
    question::{Answer, Ask, Question},
};

/// Asks and writes. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    parts: Arc<DeskParts>,
    /// Whether copies answer for what is not live here.
    copies: bool,
}

/// What a desk needs of the house.
pub struct DeskParts {
    /// How many workers there are.
    pub workers: usize,
    /// Puts a question into a worker's queue, without waiting.
    pub ask: Arc<dyn Fn(usize, Question) -> Result<(), Busy> + Send + Sync>,
    /// The worker that holds an object.
    pub worker_of: Arc<dyn Fn(Partition, &str) -> usize + Send + Sync>,
    /// The partition of an object, as in [`crate::log::Log`].
    pub partition_of: Arc<dyn Fn(&[u8]) -> Partition + Send + Sync>,
    /// Where the house stands.
    pub standing: watch::Receiver<Standing>,
    /// Where writes go.
    pub appender: Arc<dyn Appender>,
    /// Since when the group has not been known to have us, if so long that our partitions may be another's.
    pub lapsed_since_ms: Arc<dyn Fn() -> Option<Millis> + Send + Sync>,
    /// The house's wall-clock.
    pub wall_ms: Arc<dyn Fn() -> Millis + Send + Sync>,
}

/// Why a worker did not take a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Too many questions wait already.
    Full,
    /// The worker has ended.
    Gone,
}

/// An answer, and as of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// By partition that was asked: every record before this offset is in the answer, and perhaps later ones.
    pub position: BTreeMap<Partition, Offset>,
    /// For how long commits have failed or been recovered from, the group has not been known to have us, or a copy has not been known to be
    /// all that is committed; none: the answer is not stale.
    pub stale_ms: Option<Millis>,
}

/// Why there is no answer now. Asking again in a while helps, except for [`Unavailable::NotOwner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// No partition is assigned to this instance yet.
    #[error("no partition is assigned to this instance yet")]
    Joining,
    /// Another instance owns the object's partition.
    #[error("partition {0} is owned by another instance")]
    NotOwner(Partition),
    /// The partition's state is being restored.
    #[error("partition {partition} is being restored")]
    Restoring {
        /// Which.
        partition: Partition,
        /// About how long that still takes; none: not known yet.
        seconds_left: Option<u64>,
    },
    /// The worker dropped the question: its state changed hands.
    #[error("the state that was asked is being replaced")]
    Unanswered,
    /// Too many questions are waiting.
    #[error("too many questions are waiting")]
    Overloaded,
    /// The house is shutting down.
    #[error("the house is shutting down")]
    Stopping,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("workers", &self.parts.workers).finish_non_exhaustive()
    }
}

impl Desk {
    /// A desk of these parts.
    #[must_use]
    pub fn new(parts: DeskParts) -> Self {
        Self { parts: Arc::new(parts), copies: false }
    }

    /// The same desk, where warm copies answer, as stale ones, for what is not live here: others' partitions, and those being taken over.
    #[must_use]
    pub fn with_copies(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), copies: true }
    }

    /// One object; none: not known.
    ///
    /// # Errors
    /// When, and only when, its partition can't be asked now.
    pub async fn object(&self, name: &str) -> Result<Answered<Option<ObjectView>>, Unavailable> {
        let answered = self.about(name, Ask::Object).await?;
        Ok(answered.map(|answer| if let Answer::Object(view) = answer { view } else { mismatched(&answer) }))
    }

    /// An object's reports, by agent; none: the object is not known.
    ///
    /// # Errors
    /// As [`Desk::object`].
    pub async fn reports(&self, name: &str) -> Result<Answered<Option<Vec<ReportView>>>, Unavailable> {
        let answered = self.about(name, Ask::Reports).await?;
        Ok(answered.map(|answer| if let Answer::Reports(views) = answer { views } else { mismatched(&answer) }))
    }

    /// Why an object is what it is; none: not known.
    ///
    /// # Errors
    /// As [`Desk::object`].
    pub async fn explain(&self, name: &str) -> Result<Answered<Option<Box<Explanation>>>, Unavailable> {
        let answered = self.about(name, Ask::Explain).await?;
        Ok(answered.map(|answer| if let Answer::Explain(why) = answer { why } else { mismatched(&answer) }))
    }

    /// Objects of all owned partitions, ordered by name, then by partition; at most `query.limit`.
    ///
    /// # Errors
    /// When, and only when, any owned partition can't be asked now: a list never leaves out what is only not there yet.
    pub async fn list(&self, query: ListQuery) -> Result<Answered<Vec<ObjectView>>, Unavailable> {
        let limit = query.limit;
        let answered = self.of_all(|of| Ask::List(query.clone(), of)).await?;
        Ok(answered.map(|answers| {
            let views = answers.into_iter().flat_map(|answer| if let Answer::List(views) = answer { views } else { mismatched(&answer) });
            let mut views: Vec<_> = views.collect();
            views.sort_by(|a, b| (&a.object, a.partition).cmp(&(&b.object, b.partition)));
            views.truncate(limit);
            views
        }))
    }

    /// Objects of all owned partitions by published state, by name of state.
    ///
    /// # Errors
    /// As [`Desk::list`].
    pub async fn summary(&self) -> Result<Answered<Summary>, Unavailable> {
        let answered = self.of_all(Ask::Summary).await?;
        Ok(answered.map(|answers| {
            let mut sums = BTreeMap::<Option<Name>, i64>::new();
            for answer in answers {
                let Answer::Summary(counts) = answer else { mismatched(&answer) };
                for (state, count) in counts {
                    *sums.entry(state).or_default() += count;
                }
            }
            sums.into_iter().filter(|(_, count)| *count != 0).collect()
        }))
    }

    /// Appends a record to the source and waits until it is durable; a null value purges. Returns its place.
    ///
    /// # Errors
    /// When it is not, or not surely, appended.
    pub async fn append(&self, object: &str, value: Option<&[u8]>) -> Result<(Partition, Offset), AppendError> {
        appended(self.begin_append(object, value)).await
    }

    /// Hands a record to the log; [`appended`] waits for its place. Records handed over one after the other for one object keep that order.
    #[must_use]
    pub fn begin_append(&self, object: &str, value: Option<&[u8]>) -> Appending {
        let (done, place) = oneshot::channel();
        // Whoever waited may have left; the record stands all the same.
        self.parts.appender.append(object.as_bytes(), value, Box::new(move |result| drop(done.send(result))));
        place
    }

    /// Waits, at most `wait`, until the record at this place is applied and committed, and says whether it is.
    ///
    /// # Errors
    /// When, and only when, another instance owns the partition, now or while waiting: it applies the record, and only it can tell when.
    pub async fn applied(&self, (partition, offset): (Partition, Offset), wait: Duration) -> Result<bool, Unavailable> {
        let mut standing = self.parts.standing.clone();
        let known = |now: &Standing| match live(now, partition) {
            Ok(next_offset) => (next_offset > offset).then_some(Ok(true)),
            Err(elsewhere @ Unavailable::NotOwner(_)) => Some(Err(elsewhere)),
            Err(_) => None,
        };
        match tokio::time::timeout(wait, standing.wait_for(|now| known(now).is_some())).await {
            Ok(Ok(now)) => known(&now).unwrap_or(Ok(false)),
            _ => Ok(false),
        }
    }

    /// The partition of an object.
    #[must_use]
    pub fn partition_of(&self, object: &str) -> Partition {
        (self.parts.partition_of)(object.as_bytes())
    }

    /// For how long answers have been stale, if they are.
    #[must_use]
    pub fn stale_ms(&self, standing: &Standing) -> Option<Millis> {
        standing.stale_since_ms.map(|since_ms| ((self.parts.wall_ms)() - since_ms).max(0))
    }

    /// Where the house stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = self.parts.standing.borrow().clone();
        // Asked after that: whoever is stopped in between has an old standing, and must learn so.
        if let Some(since_ms) = (self.parts.lapsed_since_ms)() {
            standing.lapse(since_ms);
        }
        standing
    }

    async fn about(&self, name: &str, ask: fn(Partition, Name) -> Ask) -> Result<Answered<Answer>, Unavailable> {
        let partition = (self.parts.partition_of)(name.as_bytes());
        let before = self.standing();
        let (offset, stale_ms) = self.place(&before, partition)?;
        let position = BTreeMap::from([(partition, offset)]);
        let worker = (self.parts.worker_of)(partition, name);
        let reply = self.put(worker, ask(partition, Arc::from(name)))?;
        let answer = reply.await.map_err(|_| self.unanswered([partition]))?;
        let stale_ms = stale_ms.max(self.undisturbed(&before, &self.standing(), partition)?);
        Ok(Answered { value: answer, position, stale_ms })
    }

    async fn of_all(&self, ask: impl Fn(Arc<BTreeSet<Partition>>) -> Ask) -> Result<Answered<Vec<Answer>>, Unavailable> {
        let before = self.standing();
        let (position, mut stale_ms) = self.all_places(&before)?;
        let of = Arc::new(position.keys().copied().collect());
        let replies: Vec<_> = (0..self.parts.workers).map(|worker| self.put(worker, ask(Arc::clone(&of)))).collect::<Result<_, _>>()?;
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            answers.push(reply.await.map_err(|_| self.unanswered(position.keys().copied()))?);
        }
        let after = self.standing();
        for &partition in position.keys() {
            let stale_after_ms = self
                .undisturbed(&before, &after, partition)
                .map_err(|why| if let Unavailable::NotOwner(_) = why { Unavailable::Unanswered } else { why })?;
            stale_ms = stale_ms.max(stale_after_ms);
        }
        Ok(Answered { value: answers, position, stale_ms })
    }

    fn put(&self, worker: usize, ask: Ask) -> Result<oneshot::Receiver<Answer>, Unavailable> {
        let (reply, answer) = oneshot::channel();
        (self.parts.ask)(worker, Question { ask, reply }).map_err(|busy| match busy {
            Busy::Full => Unavailable::Overloaded,
            Busy::Gone => Unavailable::Stopping,
        })?;
        Ok(answer)
    }

    /// Why a worker may have dropped a question about these partitions.
    fn unanswered(&self, partitions: impl IntoIterator<Item = Partition>) -> Unavailable {
        let now = self.standing();
        if now.stopping {
            return Unavailable::Stopping;
        }
        partitions.into_iter().find_map(|partition| self.place(&now, partition).err()).unwrap_or(Unavailable::Unanswered)
    }

    /// As of which offset a partition is answered here, and for how long that has been stale, if it is.
    fn place(&self, standing: &Standing, partition: Partition) -> Result<(Offset, Option<Millis>), Unavailable> {
        live(standing, partition).map(|offset| (offset, self.stale_ms(standing))).or_else(|why| {
            let copy = standing.copies.get(&partition).copied().flatten().filter(|_| self.copies && !standing.stopping).ok_or(why)?;
            Ok((copy.next_offset, Some(((self.parts.wall_ms)() - copy.level_ms).max(0))))
        })
    }

    /// The same of every owned partition; the oldest age counts.
    fn all_places(&self, standing: &Standing) -> Result<(BTreeMap<Partition, Offset>, Option<Millis>), Unavailable> {
        if standing.partitions.is_empty() {
            return Err(if standing.stopping { Unavailable::Stopping } else { Unavailable::Joining });
        }
        let places: BTreeMap<_, _> =
            standing.partitions.keys().map(|&partition| Ok((partition, self.place(standing, partition)?))).collect::<Result<_, _>>()?;
        let stale_ms = places.values().filter_map(|(_, stale_ms)| *stale_ms).max();
        Ok((places.into_iter().map(|(partition, (offset, _))| (partition, offset)).collect(), stale_ms))
    }

    /// The partition's state was there all the time: no restore began since, also none that has ended again. Returns for how long it has
    /// been stale after that: whoever slept over a question knows it only then.
    fn undisturbed(&self, before: &Standing, after: &Standing, partition: Partition) -> Result<Option<Millis>, Unavailable> {
        let (_, stale_ms) = self.place(after, partition)?;
        let upheavals = |standing: &Standing| standing.upheavals.get(&partition).copied();
        if upheavals(before) == upheavals(after) { Ok(stale_ms) } else { Err(Unavailable::Unanswered) }
    }
}

/// A record on its way into the log.
pub type Appending = oneshot::Receiver<Result<(Partition, Offset), AppendError>>;

/// Waits for the place of a record that was handed to the log.
///
/// # Errors
/// As [`Desk::append`].
pub async fn appended(appending: Appending) -> Result<(Partition, Offset), AppendError> {
    appending.await.unwrap_or_else(|_| Err(AppendError::Maybe("the log went away before it answered".to_owned())))
}

impl<T> Answered<T> {
    /// The same with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answered<U> {
        Answered { value: f(self.value), position: self.position, stale_ms: self.stale_ms }
    }
}

fn live(standing: &Standing, partition: Partition) -> Result<Offset, Unavailable> {
    match standing.partitions.get(&partition) {
        Some(PartitionStanding::Live { next_offset }) => Ok(*next_offset),
        Some(PartitionStanding::Restoring) => {
            let seconds_left = standing.restores.get(&partition).and_then(RestoreProgress::seconds_left);
            Err(Unavailable::Restoring { partition, seconds_left })
        }
        None if standing.stopping => Err(Unavailable::Stopping),
        None if standing.partitions.is_empty() => Err(Unavailable::Joining),
        None => Err(Unavailable::NotOwner(partition)),
    }
}

fn mismatched(answer: &Answer) -> ! {
    unreachable!("a worker answers what it was asked, not {answer:?}")
}
