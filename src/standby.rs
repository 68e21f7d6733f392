//! Standby: reads what the checkpoint brings of others' partitions, keeps a copy of each that is wanted up with it, and proves copies whose
//! partitions have become ours.
//!
//! Beside the flow, as restores are: [`Order`]s in, [`Delivery`]s out. Which copies are wanted is looked up here, told to the pump, and ordered
//! by it. One copy is gathered at a time, which bounds what stands in memory; the others wait. It has no thread and no clock; it blocks while it
//! delivers, and while the log is asked.

mod kept;
pub mod placement;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
    time::Duration,
};

use statehouse_dataflows::vocabulary::Partition;

use self::kept::{End, Kept};
use crate::{
    log,
    message::{Delivered, Delivery, Now, Order, Request},
    restore::{RestoreSettings, follow::Follower},
};

/// The tail is waited for at most this long: orders wait meanwhile.
const WAIT: Duration = Duration::from_millis(20);
/// After a leader that did not answer, the next question waits so long.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// Whoever takes deliveries has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Where deliveries go. It may take its time.
pub type Deliver<'a> = &'a mut dyn FnMut(Delivery) -> Result<(), Gone>;

/// Standby's part of the configuration.
#[derive(Clone, Debug)]
pub struct StandbySettings {
    /// As for restores.
    pub restore: RestoreSettings,
    /// How many partitions there are.
    pub partitions: Partition,
    /// How many instances keep a copy of each.
    pub copies: usize,
    /// How often it is looked who else is there.
    pub look_every: Duration,
    /// After a copy was doubted, the next one of its partition is begun no earlier.
    pub doubt_pause: Duration,
}

/// How many copies there are, and how they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Copies that are whole.
    pub whole: usize,
    /// How long ago the oldest of them was level, for certain.
    pub oldest: Duration,
}

/// See the module. Times are those of the monotonic clock.
pub struct Standby {
    settings: StandbySettings,
    log: log::StandbyLog,
    now: Box<dyn Fn() -> Now + Send>,
    kept: BTreeMap<Partition, Kept>,
    /// Copies to be begun.
    waiting: VecDeque<Request>,
    not_before: BTreeMap<Partition, Duration>,
    /// A leader did not answer: none is asked before.
    ask_from: Duration,
    looked: Option<Duration>,
    /// Of which partitions there are to be copies, as last told.
    told: BTreeSet<Partition>,
    taken_over: Vec<Duration>,
}

impl Standby {
    /// No copy yet.
    pub fn new(settings: StandbySettings, log: log::StandbyLog, now: Box<dyn Fn() -> Now + Send>) -> Self {
        Self {
            settings,
            log,
            now,
            kept: BTreeMap::new(),
            waiting: VecDeque::new(),
            not_before: BTreeMap::new(),
            ask_from: Duration::ZERO,
            looked: None,
            told: BTreeSet::new(),
            taken_over: Vec::new(),
        }
    }

    /// Takes an order of the pump.
    ///
    /// # Errors
    /// When, and only when, nobody takes deliveries any more.
    pub fn order(&mut self, order: Order, deliver: Deliver<'_>) -> Result<(), Gone> {
        match order {
            Order::Copy(request) => self.waiting.push_back(request),
            Order::TakeOver { partition, number } => {
                let now = (self.now)().monotonic;
                match self.kept.get_mut(&partition).filter(|kept| kept.request.number == number) {
                    Some(kept) => kept.take_over(now),
                    None => deliver(Delivery { partition, number, what: Delivered::Doubt })?, // doubted in the same moment
                }
            }
        }
        Ok(())
    }

    /// Waits a moment for what the tail brings, and does what is due.
    ///
    /// # Errors
    /// When, and only when, nobody takes deliveries any more.
    pub fn turn(&mut self, deliver: Deliver<'_>) -> Result<(), Gone> {
        self.drop_cancelled();
        self.begin();
        self.read(deliver)?;
        // Proofs first: others wait for what is ours.
        let (ours, others): (Vec<_>, Vec<_>) = self.kept.keys().partition(|partition| self.kept[partition].is_being_proven());
        ours.into_iter().chain(others).try_for_each(|partition| self.attend(partition, deliver))
    }

    /// Of which partitions there are to be copies, when it is time to look, and that has changed.
    pub fn look(&mut self) -> Option<BTreeSet<Partition>> {
        let now = (self.now)().monotonic;
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < self.settings.look_every) {
            return None;
        }
        self.looked = Some(now);
        let peers = match self.log.peers.look() {
            Ok(peers) => peers,
            Err(error) => {
                tracing::debug!(%error, "copies stay as they are");
                return None;
            }
        };
        let wanted = placement::wanted(self.log.peers.me(), &peers, (self.settings.partitions, self.settings.copies));
        (wanted != self.told).then(|| self.told.clone_from(&wanted)).map(|()| wanted)
    }

    /// How its copies are doing.
    #[must_use]
    pub fn census(&self) -> Census {
        let now = (self.now)().monotonic;
        let whole = self.kept.values().filter(|kept| kept.is_whole());
        let ages = whole.clone().filter_map(|kept| kept.age(now));
        Census { whole: whole.count(), oldest: ages.max().unwrap_or_default() }
    }

    /// What it took to prove each of the copies that were taken over since this was last asked.
    pub fn taken_over(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.taken_over)
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|request| !request.cancelled.load(Ordering::Relaxed));
        let over: Vec<_> = self.kept.iter().filter(|(_, kept)| kept.is_cancelled()).map(|(partition, _)| *partition).collect();
        over.into_iter().for_each(|partition| _ = self.leave(partition));
    }

    /// Begins the next copy, if none is being gathered.
    fn begin(&mut self) {
        if self.kept.values().any(Kept::is_being_gathered) {
            return;
        }
        let now = (self.now)().monotonic;
        let may_begin = |request: &Request| self.not_before.get(&request.partition).is_none_or(|at| *at <= now);
        let Some(request) = self.waiting.iter().position(may_begin).and_then(|at| self.waiting.remove(at)) else { return };
        if let Err(error) = self.log.tail.follow(request.partition) {
            tracing::warn!(%error, "a copy can't be begun, trying again");
            self.not_before.insert(request.partition, now + self.settings.doubt_pause);
            self.waiting.push_back(request);
            return;
        }
        let follower = Follower::new(request.partition, &self.settings.restore);
        self.kept.insert(request.partition, Kept::new(request, follower));
    }

    /// Takes what the tail has.
    fn read(&mut self, deliver: Deliver<'_>) -> Result<(), Gone> {
        let Self { log, kept, .. } = self;
        let mut ends = BTreeMap::new();
        log.tail.poll(WAIT, &mut |tailed| {
            let (log::Tailed::Record(partition, ..) | log::Tailed::End(partition) | log::Tailed::Lost(partition)) = tailed;
            if let Some(copy) = kept.get_mut(&partition)
                && !ends.contains_key(&partition)
                && let Err(end) = copy.take(&tailed, deliver)
            {
                ends.insert(partition, end);
            }
        });
        ends.into_iter().try_for_each(|(partition, end)| self.end(partition, end, deliver))
    }

    /// Does what is due for a copy though nothing of it came.
    fn attend(&mut self, partition: Partition, deliver: Deliver<'_>) -> Result<(), Gone> {
        let Self { log, kept, now, .. } = self;
        let Some(copy) = kept.get_mut(&partition) else { return Ok(()) };
        if copy.is_being_proven() {
            return copy.prove(&mut *log.checkpoint, now, deliver).or_else(|end| self.end(partition, end, deliver));
        }
        let asked = now();
        if copy.is_ask_due(asked.monotonic) && self.ask_from <= asked.monotonic {
            match log.tail.end(partition) {
                Some(end) => copy.expect(end, asked),
                None => self.ask_from = now().monotonic + ASK_PAUSE,
            }
        }
        if !copy.expects() {
            return Ok(());
        }
        let Some(place) = log.tail.place(partition) else { return Ok(()) };
        copy.reach(place, deliver).or_else(|end| self.end(partition, end, deliver))
    }

    fn end(&mut self, partition: Partition, end: End, deliver: Deliver<'_>) -> Result<(), Gone> {
        let Some(number) = self.leave(partition) else { return Ok(()) };
        match end {
            End::Over => Ok(()),
            End::Gone => Err(Gone),
            End::TakenOver(elapsed) => {
                tracing::info!(partition, ?elapsed, "partition taken over from its warm copy");
                self.taken_over.push(elapsed);
                Ok(())
            }
            End::Doubt(why) => {
                tracing::warn!(partition, why, "the copy of this partition is given up");
                self.not_before.insert(partition, (self.now)().monotonic + self.settings.doubt_pause);
                deliver(Delivery { partition, number, what: Delivered::Doubt })
            }
        }
    }

    /// Keeps a copy no more; returns its number.
    fn leave(&mut self, partition: Partition) -> Option<u64> {
        let Kept { request, .. } = self.kept.remove(&partition)?;
        if let Err(error) = self.log.tail.leave(partition) {
            tracing::warn!(%error, "a copy that is over is still read");
        }
        Some(request.number)
    }
}
