//! The loops: each drives one stage, passes on what it sent. Decides only what has to do with time: what to ask again, what to do at most so often.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select_biased};
use statehouse_dataflows::vocabulary::Partition;

use super::{Clock, HouseError, ending::Ending};
use crate::{
    board::{Board, PartitionStanding},
    commit::{self, Commit, Outcome},
    lease::Lease,
    log::{Directory, LogError},
    message::{Delivery, Feed, Note, Notice, Order, Refused, Request, Resolved, ToCommit},
    metrics::Metrics,
    pump::{self, Pump},
    worker::{Worker, WorkerSetup},
};

/// The lag is noted at most this often.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// Starts a thread. If it panics, or returns a failure, the house ends.
pub(super) fn spawn(
    name: String,
    ending: &Arc<Ending>,
    run: impl FnOnce(&Ending) -> Result<(), HouseError> + Send + 'static,
) -> Result<JoinHandle<()>, HouseError> {
    let guard = Guard { name: name.clone(), ending: Arc::clone(ending) };
    let thread = thread::Builder::new().name(name.clone()).spawn(move || {
        if let Err(error) = run(&guard.ending) {
            guard.ending.fail(error);
        }
    });
    thread.map_err(|error| {
        ending.stop();
        HouseError::Thread(name, error)
    })
}

/// Tells of a panic; a thread never ends in silence.
struct Guard {
    name: String,
    ending: Arc<Ending>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ending.fail(HouseError::Panicked(self.name.clone()));
        }
    }
}

/// A queue's other end is gone: that thread has ended, and said why.
struct Gone;

/// The pump's ends of the queues to and from whoever keeps copies.
pub(super) struct Copies {
    pub(super) orders: Sender<Order>,
    pub(super) wanted: Receiver<BTreeSet<Partition>>,
    /// Orders for which there was no room yet.
    pub(super) waiting: VecDeque<Order>,
}

impl Copies {
    /// Orders never make the pump wait.
    fn pass_on(&mut self) -> Result<(), Gone> {
        while let Some(order) = self.waiting.pop_front() {
            match self.orders.try_send(order) {
                Ok(()) => {}
                Err(TrySendError::Full(order)) => {
                    self.waiting.push_front(order);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return Err(Gone),
            }
        }
        Ok(())
    }
}

pub(super) struct PumpThread {
    pub(super) pump: Pump,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) workers: Vec<Sender<Feed>>,
    pub(super) to_commit: Sender<ToCommit>,
    pub(super) request: Sender<Request>,
    pub(super) resolutions: Receiver<Resolved>,
    pub(super) deliveries: Receiver<Delivery>,
    pub(super) copies: Option<Copies>,
    pub(super) board: Arc<Board>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lag_noted: Option<Instant>,
    pub(super) lease: Option<Arc<Lease>>,
}

impl PumpThread {
    pub(super) fn run(mut self, ending: &Ending) -> Result<(), HouseError> {
        let (mut out, mut waiting, mut told) = (Vec::new(), BTreeMap::new(), false);
        while !self.pump.has_left() && !ending.has_failed() {
            if !told && ending.is_stopping() {
                told = true;
                self.pump.stop(&mut out);
            }
            self.turn(&mut out)?;
            if self.pass_on(&mut out, &mut waiting).is_err() {
                break;
            }
        }
        if !self.pump.has_left() {
            // HTTP may go on for a moment, and others own the partitions by then.
            self.board.apply(&Note::Adrift(Some((self.clock.now().wall_ms, "the house is ending".to_owned()))));
        }
        self.pump.leave();
        if !ending.has_failed() {
            self.directory.leave();
        }
        Ok(())
    }

    /// What the log refuses for now is no reason to end.
    fn turn(&mut self, out: &mut Vec<pump::Sent>) -> Result<(), LogError> {
        match self.steps(out) {
            Err(LogError::Unavailable(why)) => {
                tracing::warn!(why, "restoring from the last committed epoch");
                self.pump.refused(why, self.clock.now(), out)
            }
            outcome => outcome,
        }
    }

    fn steps(&mut self, out: &mut Vec<pump::Sent>) -> Result<(), LogError> {
        for resolved in self.resolutions.try_iter() {
            let committed = matches!(resolved, Resolved::Committed { .. });
            self.pump.resolved(resolved, self.clock.now())?;
            if committed && self.lag_noted.is_none_or(|noted| noted.elapsed() >= LAG_EVERY) {
                self.lag_noted = Some(Instant::now());
                self.note_lag();
            }
        }
        if let Some(copies) = &self.copies {
            copies.wanted.try_iter().for_each(|wanted| self.pump.keep(wanted));
        }
        while self.pump.wants_deliveries()
            && let Ok(delivery) = self.deliveries.try_recv()
        {
            self.pump.delivered(delivery, out)?;
        }
        let polled = self.pump.poll(self.clock.now())?;
        self.renew_lease();
        self.pump.polled(polled, self.clock.now(), out)?;
        self.pump.turn(self.clock.now(), out)
    }

    /// Before anything that is assigned is heard of.
    fn renew_lease(&mut self) {
        let Some(lease) = &self.lease else { return };
        let now = self.clock.now(); // before it is asked how long ago that was: whoever is stopped in between must not seem younger
        if let Some(heard) = self.pump.heard() {
            lease.renew(heard.elapsed(), now);
        }
    }

    /// A house that reads keeps committing, if only ticks, so the last thing noted doesn't stay wrong.
    fn note_lag(&self) {
        for (partition, standing) in &self.board.watch().borrow().partitions {
            if let PartitionStanding::Live { next_offset } = standing
                && let Some(end) = self.pump.end(*partition)
            {
                self.metrics.lag(*partition, (end - next_offset).max(0));
            }
        }
    }

    /// Requests never make the pump wait: the latest of each partition waits here.
    fn pass_on(&mut self, out: &mut Vec<pump::Sent>, waiting: &mut BTreeMap<Partition, Request>) -> Result<(), Gone> {
        let moves = |sent: &pump::Sent| matches!(sent, pump::Sent::Note(Note::Restoring(_) | Note::TakingOver(_) | Note::Gone(_)));
        let has_moved = out.iter().any(moves);
        for sent in out.drain(..) {
            match sent {
                pump::Sent::Worker(worker, feed) => self.workers[worker].send(feed).map_err(|_| Gone)?,
                pump::Sent::Commit(cut) => self.to_commit.send(ToCommit::Cut(cut)).map_err(|_| Gone)?,
                pump::Sent::Restore(request) => _ = waiting.insert(request.partition, request),
                pump::Sent::Order(order) => self.copies.iter_mut().for_each(|copies| copies.waiting.push_back(order.clone())),
                pump::Sent::Note(note) => {
                    self.board.apply(&note);
                    if let Note::Gone(partitions) = note {
                        partitions.into_iter().for_each(|partition| self.metrics.partition_released(partition));
                    }
                }
            }
        }
        self.copies.as_mut().map_or(Ok(()), Copies::pass_on)?;
        if has_moved {
            self.directory.owns(self.board.watch().borrow().partitions.keys().copied().collect());
        }
        while let Some((partition, request)) = waiting.pop_first() {
            match self.request.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => {
                    waiting.insert(partition, request);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return Err(Gone),
            }
        }
        Ok(())
    }
}

pub(super) struct WorkerThread {
    pub(super) setup: WorkerSetup,
    pub(super) notices: Receiver<Notice>,
    pub(super) feeds: Receiver<Feed>,
    pub(super) to_commit: Sender<ToCommit>,
}

impl WorkerThread {
    pub(super) fn run(mut self) -> Result<(), HouseError> {
        let mut worker = Worker::new(self.setup);
        loop {
            // Biased: whatever notice is there comes before the next feed.
            select_biased! {
                recv(self.notices) -> notice => match notice {
                    Ok(notice) => worker.notice(notice),
                    Err(_) => self.notices = never(), // nobody asks any more
                },
                recv(self.feeds) -> feed => {
                    let Ok(feed) = feed else { return Ok(()) };
                    if let Some(output) = worker.feed(feed) && self.to_commit.send(ToCommit::Output(output)).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

pub(super) struct CommitThread {
    pub(super) commit: Commit,
    pub(super) gathered: Receiver<ToCommit>,
    pub(super) workers: Vec<Sender<Notice>>,
    pub(super) board: Arc<Board>,
    pub(super) resolved: Sender<Resolved>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) source_topic: String,
}

impl CommitThread {
    pub(super) fn run(mut self, ending: &Ending) -> Result<(), HouseError> {
        let mut out = Vec::new();
        while let Ok(message) = self.gathered.recv() {
            let Some(epoch) = self.commit.gather(message) else { continue };
            let begun = Instant::now();
            let outcome = self.commit.resolve(epoch, self.clock.now(), &mut out);
            if self.pass_on(&mut out).is_err() {
                return Ok(());
            }
            match outcome {
                Outcome::Committed { transacted, mut counts } => {
                    counts.transaction = transacted.then(|| begun.elapsed());
                    self.metrics.epoch_committed(&counts);
                }
                Outcome::Refused(refused) => return Err(self.refusal(refused)),
                Outcome::Failed(error) => {
                    tracing::warn!(%error, "restoring from the last committed epoch");
                    self.metrics.transaction_failed(&error);
                    if !self.recover(ending, &mut out)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether to go on.
    fn recover(&mut self, ending: &Ending, out: &mut Vec<commit::Sent>) -> Result<bool, HouseError> {
        match self.commit.recover(&|| !ending.is_stopping(), out) {
            Ok(()) => Ok(self.pass_on(out).is_ok()),
            Err(_) if ending.is_stopping() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn pass_on(&self, out: &mut Vec<commit::Sent>) -> Result<(), Gone> {
        for sent in out.drain(..) {
            match sent {
                commit::Sent::Worker(worker, notice) => self.workers[worker].send(notice).map_err(|_| Gone)?,
                commit::Sent::Note(note) => self.board.apply(&note),
                commit::Sent::Pump(resolved) => self.resolved.send(resolved).map_err(|_| Gone)?,
            }
        }
        Ok(())
    }

    fn refusal(&self, refused: Refused) -> HouseError {
        let Refused { partition, offset, reason, detail, .. } = refused;
        HouseError::Rejected { topic: self.source_topic.clone(), partition, offset, reason, detail }
    }
}
