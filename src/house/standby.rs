//! The loop of the copies: reads what the checkpoint brings of others' partitions, keeps a copy of each that is wanted up with it, and proves
//! copies whose partitions have become ours.
//!
//! Between the pump's orders and its deliveries, beside the restores. Which copies are wanted is looked up here, told to the pump, and ordered
//! by it. One copy is gathered at a time, which bounds what stands in memory; the others wait. Blocks while it delivers, and while the
//! log is asked what is committed.
//!
//! What a copy has reached is known by offsets: the log is asked where a partition ends, and once the copy has come to there it has all that was
//! committed when that was asked. The tail's word that nothing is left is not waited for: where chunks come steadily it is never said.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use statehouse_dataflows::vocabulary::{Millis, Offset, Partition};

use super::{Clock, HouseError};
use crate::{
    log::{LogError, Progress, Standby, Tailed},
    message::{Delivered, Delivery, Order, Request},
    metrics::Metrics,
    restore::{
        RestoreSettings,
        follow::{Follower, Measure},
    },
    standby,
};

/// The tail is waited for at most this long: orders wait meanwhile.
const WAIT: Duration = Duration::from_millis(20);
/// How often it is looked who else is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A copy is said to be level at most this often.
const LEVEL_EVERY: Duration = Duration::from_millis(500);
/// After a copy was doubted, the next one of its partition is begun no earlier.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);
/// Once it is known, what is committed comes within this, or the copy is given up for a restore, which knows how to wait.
const TAIL_PATIENCE: Duration = Duration::from_secs(2);
/// After a leader that did not answer, the next question waits so long.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// What is committed is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct StandbyThread {
    pub(super) settings: RestoreSettings,
    pub(super) log: Standby,
    /// How many partitions there are, and how many copies of each.
    pub(super) of: (Partition, usize),
    pub(super) orders: Receiver<Order>,
    pub(super) wanted: Sender<BTreeSet<Partition>>,
    pub(super) deliver: Sender<Delivery>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

/// A copy, gathered or followed.
struct Kept {
    request: Request,
    follower: Follower,
    /// There was nothing to gather yet.
    is_empty: bool,
    /// What is not reached yet.
    ahead: Option<Ahead>,
    /// As of when it was last said to be level.
    told_level: Option<Instant>,
    taking: Option<Taking>,
}

/// Where a partition's committed records ended. A copy that has come to there is level as of the moment in which that was asked.
struct Ahead {
    end: Offset,
    asked: Instant,
    asked_ms: Millis,
}

/// A copy that is being proven.
struct Taking {
    since: Instant,
    /// What is committed, and since when that is known.
    committed: Option<(Offset, Progress, Instant)>,
    ask_at: Instant,
}

/// The pump has ended.
struct Gone;

/// Why a copy ends.
enum End {
    /// Nobody wants it, or it is handed over.
    Over,
    /// It is good for nothing.
    Doubt(String),
    /// So is the pump.
    Gone,
}

struct Keeper {
    thread: StandbyThread,
    kept: BTreeMap<Partition, Kept>,
    /// Copies to be begun.
    waiting: VecDeque<Request>,
    not_before: BTreeMap<Partition, Instant>,
    /// A leader did not answer: none is asked before.
    ask_from: Instant,
    looked: Option<Instant>,
    told: BTreeSet<Partition>,
}

impl StandbyThread {
    pub(super) fn run(self) -> Result<(), HouseError> {
        let (kept, waiting, not_before) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        let (ask_from, looked, told) = (Instant::now(), None, BTreeSet::new());
        let mut keeper = Keeper { thread: self, kept, waiting, not_before, ask_from, looked, told };
        while keeper.turn().is_ok() {}
        Ok(())
    }
}

impl Keeper {
    fn turn(&mut self) -> Result<(), Gone> {
        self.take_orders()?;
        self.drop_cancelled()?;
        self.look();
        self.begin();
        self.read()?;
        // Proofs first: others wait for what is ours.
        let (ours, others): (Vec<_>, Vec<_>) = self.kept.keys().partition(|partition| self.kept[partition].taking.is_some());
        ours.into_iter().chain(others).try_for_each(|partition| self.attend(partition))?;
        let whole = self.kept.values().filter(|kept| kept.follower.is_whole());
        let ages = whole.clone().filter_map(|kept| kept.told_level).map(|told| told.elapsed());
        self.thread.metrics.copies(whole.count(), ages.max().unwrap_or_default());
        Ok(())
    }

    fn take_orders(&mut self) -> Result<(), Gone> {
        loop {
            match self.thread.orders.try_recv() {
                Ok(Order::Copy(request)) => self.waiting.push_back(request),
                Ok(Order::TakeOver { partition, number }) => {
                    let now = Instant::now();
                    match self.kept.get_mut(&partition).filter(|kept| kept.request.number == number) {
                        Some(kept) => kept.taking = Some(Taking { since: now, committed: None, ask_at: now }),
                        None => self.send(partition, number, Delivered::Doubt)?, // doubted in the same moment
                    }
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
    }

    fn drop_cancelled(&mut self) -> Result<(), Gone> {
        let is_cancelled = |request: &Request| request.cancelled.load(Ordering::Relaxed);
        self.waiting.retain(|request| !is_cancelled(request));
        let over: Vec<_> = self.kept.iter().filter(|(_, kept)| is_cancelled(&kept.request)).map(|(partition, _)| *partition).collect();
        over.into_iter().try_for_each(|partition| self.end(partition, End::Over))
    }

    /// Tells the pump which copies are wanted, when that has changed.
    fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let peers = match self.thread.log.peers.look() {
            Ok(peers) => peers,
            Err(error) => return tracing::debug!(%error, "copies stay as they are"),
        };
        let wanted = standby::wanted(self.thread.log.peers.me(), &peers, self.thread.of);
        if wanted != self.told && self.thread.wanted.try_send(wanted.clone()).is_ok() {
            self.told = wanted;
        }
    }

    /// Begins the next copy, if none is being gathered.
    fn begin(&mut self) {
        if self.kept.values().any(|kept| !kept.follower.is_whole() && !kept.is_empty) {
            return;
        }
        let now = Instant::now();
        let may_begin = |request: &Request| self.not_before.get(&request.partition).is_none_or(|at| *at <= now);
        let Some(request) = self.waiting.iter().position(may_begin).and_then(|at| self.waiting.remove(at)) else { return };
        if let Err(error) = self.thread.log.tail.follow(request.partition) {
            tracing::warn!(%error, "a copy can't be begun, trying again");
            self.not_before.insert(request.partition, now + DOUBT_PAUSE);
            self.waiting.push_back(request);
            return;
        }
        let follower = Follower::new(request.partition, &self.thread.settings);
        self.kept.insert(request.partition, Kept { request, follower, is_empty: false, ahead: None, told_level: None, taking: None });
    }

    /// Takes what the tail has.
    fn read(&mut self) -> Result<(), Gone> {
        let Self { thread, kept, .. } = self;
        let StandbyThread { log, deliver, .. } = thread;
        let mut ends = BTreeMap::new();
        log.tail.poll(WAIT, &mut |tailed| {
            let (Tailed::Record(partition, ..) | Tailed::End(partition) | Tailed::Lost(partition)) = tailed;
            if let Some(copy) = kept.get_mut(&partition)
                && !ends.contains_key(&partition)
                && let Err(end) = copy.take(&tailed, deliver)
            {
                ends.insert(partition, end);
            }
        });
        ends.into_iter().try_for_each(|(partition, end)| self.end(partition, end))
    }

    /// Does what is due for a copy though nothing of it came.
    fn attend(&mut self, partition: Partition) -> Result<(), Gone> {
        let Self { thread, kept, .. } = self;
        let Some(copy) = kept.get_mut(&partition) else { return Ok(()) };
        if copy.taking.is_some() {
            return copy.prove(thread).or_else(|end| self.end(partition, end));
        }
        let asked = Instant::now();
        if copy.is_ask_due() && self.ask_from <= asked {
            let asked_ms = thread.clock.now().wall_ms;
            copy.ahead = thread.log.tail.end(partition).map(|end| Ahead { end, asked, asked_ms });
            if copy.ahead.is_none() {
                self.ask_from = Instant::now() + ASK_PAUSE;
            }
        }
        if copy.ahead.is_none() {
            return Ok(());
        }
        let Some(place) = thread.log.tail.place(partition) else { return Ok(()) };
        copy.reach(place, &thread.deliver).or_else(|end| self.end(partition, end))
    }

    fn end(&mut self, partition: Partition, end: End) -> Result<(), Gone> {
        let Some(Kept { request, .. }) = self.kept.remove(&partition) else { return Ok(()) };
        if let Err(error) = self.thread.log.tail.leave(partition) {
            tracing::warn!(%error, "a copy that is over is still read");
        }
        match end {
            End::Over => Ok(()),
            End::Gone => Err(Gone),
            End::Doubt(why) => {
                tracing::warn!(partition, why, "the copy of this partition is given up");
                self.not_before.insert(partition, Instant::now() + DOUBT_PAUSE);
                self.send(partition, request.number, Delivered::Doubt)
            }
        }
    }

    fn send(&self, partition: Partition, number: u64, what: Delivered) -> Result<(), Gone> {
        self.thread.deliver.send(Delivery { partition, number, what }).map_err(|_| Gone)
    }
}

impl Kept {
    /// Takes what came of it.
    fn take(&mut self, tailed: &Tailed<'_>, deliver: &Sender<Delivery>) -> Result<(), End> {
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
    fn reach(&mut self, place: Offset, deliver: &Sender<Delivery>) -> Result<(), End> {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.end <= place) else { return Ok(()) };
        if self.follower.is_whole() {
            self.told_level = Some(ahead.asked);
            return self.send(deliver, Delivered::Level(ahead.asked_ms));
        }
        self.hand_over(deliver)?;
        if !self.follower.is_whole() {
            self.ahead = Some(ahead); // amid a chunk: at its end
        }
        Ok(())
    }

    /// What was gathered is complete, if it was not before.
    fn hand_over(&mut self, deliver: &Sender<Delivery>) -> Result<(), End> {
        let Some(at) = self.follower.at_end().map_err(End::Doubt)? else { return Ok(()) };
        self.ahead = None; // asked long ago: how level it is, is asked anew
        let begun = Instant::now();
        self.send(deliver, Delivered::Begin(at))?;
        while let Some(objects) = self.follower.next_batch() {
            if self.request.cancelled.load(Ordering::Relaxed) {
                return Err(End::Over);
            }
            self.send(deliver, Delivered::Rows(objects))?;
        }
        self.send(deliver, Delivered::End)?;
        tracing::info!(partition = self.request.partition, elapsed = ?begun.elapsed(), "a warm copy of this partition is kept");
        Ok(())
    }

    /// Whether to ask where its partition ends: what was asked is reached, and some time ago.
    fn is_ask_due(&self) -> bool {
        self.ahead.is_none() && self.told_level.is_none_or(|told| told.elapsed() >= LEVEL_EVERY)
    }

    /// The partition is ours: proves that the copy is what is committed. Nobody else can commit any more once that is answered.
    fn prove(&mut self, StandbyThread { log, deliver, metrics, .. }: &mut StandbyThread) -> Result<(), End> {
        let partition = self.request.partition;
        let Some(taking) = &mut self.taking else { return Ok(()) };
        let committed = match taking.committed {
            Some(committed) => committed,
            None if taking.ask_at > Instant::now() => return Ok(()),
            None => match log.checkpoint.progress(partition) {
                Ok(Some((next_offset, progress))) => *taking.committed.insert((next_offset, progress, Instant::now())),
                Ok(None) => return Err(End::Doubt("nothing is committed of it".to_owned())),
                Err(LogError::Unavailable(why)) => {
                    tracing::info!(partition, why, "the copy waits to be proven");
                    taking.ask_at = Instant::now() + ASK_AGAIN;
                    return Ok(());
                }
                Err(error) => return Err(End::Doubt(error.to_string())),
            },
        };
        let elapsed = taking.since.elapsed();
        match self.follower.measure(committed.0, committed.1) {
            Measure::Same(at) => {
                self.send(deliver, Delivered::Begin(at))?;
                self.send(deliver, Delivered::End)?;
                metrics.taken_over(elapsed);
                tracing::info!(partition, ?elapsed, "partition taken over from its warm copy");
                Err(End::Over)
            }
            Measure::Behind if committed.2.elapsed() <= TAIL_PATIENCE => Ok(()),
            Measure::Behind => Err(End::Doubt("what is committed does not come".to_owned())),
            Measure::Different => Err(End::Doubt("it is not what is committed".to_owned())),
        }
    }

    fn send(&self, deliver: &Sender<Delivery>, what: Delivered) -> Result<(), End> {
        let Request { partition, number, .. } = self.request;
        deliver.send(Delivery { partition, number, what }).map_err(|_| End::Gone)
    }
}
