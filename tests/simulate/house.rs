//! One simulated process: the shipped stages, driven by turns. What the house's threads do with queues and clocks, tasks do here with a time
//! that only moves when told.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ahash::RandomState;
use statehouse::{
    board::{Board, PartitionStanding, Standing},
    commit::{self, Commit, CommitSettings, Outcome},
    decode::Decoder,
    encode::Encoder,
    log::{self, Checkpoint, Committer, LogError, simulated::Cluster},
    message::{Delivery, Feed, Note, Notice, Now, Order, Request, Resolved, ToCommit},
    pump::{self, Pump, PumpSettings},
    question::{Answer, Ask, Question},
    restore::{Restore, RestoreSettings},
    route::Route,
    standby::{Gone, Standby, StandbySettings},
    worker::{Worker, WorkerSetup},
};
use statehouse_dataflows::{
    plan::Plan,
    vocabulary::{Millis, Offset, Partition, Published, Seq},
};
use tokio::sync::oneshot;

/// The wall-clock when a world begins.
pub(crate) const BEGIN_MS: Millis = 1_784_000_000_000;
/// A restore that found the log unavailable tries again after this.
const RETRY_US: u64 = 50_000;
/// What was given up so long ago is forgotten, where epochs are committed.
const GIVING_UP_US: u64 = 1_000_000;
/// How often it is looked of what to keep copies.
const LOOK_EVERY: Duration = Duration::from_millis(60);
/// After a copy was doubted, the next one of its partition is begun no earlier.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// Deliveries of a restore that may wait at the pump.
const DELIVERIES_MAX: usize = 4;

/// What all processes of a world share.
pub(crate) struct Common {
    pub(crate) cluster: Cluster,
    pub(crate) plan: Arc<Plan>,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) objects: Vec<(Partition, String)>,
    pub(crate) partitions: Partition,
    pub(crate) max_records: usize,
    pub(crate) min_interval_ms: u64,
    pub(crate) piece_bytes: usize,
    pub(crate) batch_rows: usize,
    /// How many processes keep a copy of each partition.
    pub(crate) copies: usize,
    /// Whether all faults are over.
    pub(crate) peace: Cell<bool>,
    pub(crate) seen: RefCell<Seen>,
}

/// What was seen from outside while it ran.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) samples: Vec<Sample>,
    pub(crate) restores: u64,
    /// Copies that were proven and went on as the partition's state.
    pub(crate) takeovers: u64,
    /// Copies that were there when their workers began anew.
    pub(crate) spared: u64,
    pub(crate) epochs: u64,
    pub(crate) failed_epochs: u64,
    /// Partitions that nobody may restore now, and since when.
    pub(crate) damaged_since_us: BTreeMap<Partition, u64>,
    /// When the last damage was mended.
    pub(crate) mended_us: Option<u64>,
    pub(crate) violations: Vec<String>,
}

/// An answer that was not marked as stale.
pub(crate) struct Sample {
    pub(crate) at_us: u64,
    pub(crate) process: usize,
    pub(crate) partition: Partition,
    pub(crate) object: String,
    pub(crate) published: Option<Published>,
    /// L as a place: next offset and clock.
    pub(crate) place: (Offset, Option<Millis>),
    pub(crate) upheavals: u64,
}

/// Wakes a task.
pub(crate) type Bell = Rc<Cell<bool>>;

/// Where one partition stood at the end of an epoch.
type Place = (Partition, Offset, Option<Millis>);

/// See the module.
pub(crate) struct House {
    pub(crate) common: Rc<Common>,
    pub(crate) process: usize,
    pub(crate) workers: usize,
    pub(crate) board: Board,
    pub(crate) stopping: Cell<bool>,
    /// How far its wall-clock is off.
    pub(crate) skew_ms: Cell<Millis>,
    pub(crate) bells: [Bell; 5],
    route: Route,
    feeds: Vec<RefCell<VecDeque<Feed>>>,
    notices: Vec<RefCell<VecDeque<Notice>>>,
    last: Vec<Cell<Seq>>,
    places: RefCell<BTreeMap<Seq, Vec<Place>>>,
    to_commit: RefCell<VecDeque<ToCommit>>,
    resolved: RefCell<VecDeque<Resolved>>,
    requests: RefCell<BTreeMap<Partition, Request>>,
    deliveries: RefCell<VecDeque<Delivery>>,
    committer: RefCell<Option<Box<dyn Committer>>>,
    checkpoint: RefCell<Option<Box<dyn Checkpoint>>>,
    standby: RefCell<Option<log::StandbyLog>>,
    orders: RefCell<VecDeque<Order>>,
    wanted: RefCell<Option<BTreeSet<Partition>>>,
    /// When the first epoch was committed after partitions were given up.
    gone_us: RefCell<BTreeMap<Partition, u64>>,
    asked: Cell<u64>,
}

impl House {
    pub(crate) fn new(common: &Rc<Common>, name: &str, workers: usize) -> Rc<Self> {
        let process = common.cluster.process(name);
        let queues = |_| RefCell::default();
        Rc::new(Self {
            common: Rc::clone(common),
            process,
            workers,
            board: Board::default(),
            stopping: Cell::new(false),
            skew_ms: Cell::new(0),
            bells: Default::default(),
            route: Route::new(RandomState::with_seeds(1, 2, 3, process as u64), workers),
            feeds: (0..workers).map(queues).collect(),
            notices: (0..workers).map(|_| RefCell::default()).collect(),
            last: (0..workers).map(|_| Cell::new(0)).collect(),
            places: RefCell::default(),
            to_commit: RefCell::default(),
            resolved: RefCell::default(),
            requests: RefCell::default(),
            deliveries: RefCell::default(),
            committer: RefCell::default(),
            checkpoint: RefCell::default(),
            standby: RefCell::default(),
            orders: RefCell::default(),
            wanted: RefCell::default(),
            gone_us: RefCell::default(),
            asked: Cell::new(process as u64 * 7_919),
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.common.cluster.is_alive(self.process)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.board.watch().borrow().clone()
    }

    fn now(&self) -> Now {
        let now = now(&self.common.cluster);
        Now { wall_ms: now.wall_ms + self.skew_ms.get(), ..now }
    }

    /// A number that differs from call to call and is the same again in the same history.
    fn chance(&self, below: u64) -> u64 {
        let next = self.asked.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.asked.set(next);
        (next >> 33) % below
    }

    fn wait(&self, us: u64) {
        if !self.is_over() {
            self.common.cluster.wait(us);
        }
    }

    /// Waits until the task's bell rings.
    fn rest(&self) {
        self.wait(3_600_000_000);
    }

    pub(crate) fn ring(&self) {
        self.bells.iter().for_each(|bell| bell.set(true));
    }

    /// Ends by itself; only somebody who restored (since then) from a log that is damaged may.
    fn end(&self, error: &LogError, restoring_since_us: Option<u64>) {
        self.common.cluster.say(&format!("process {}", self.process), || format!("ends: {error}"));
        let is_damaged = {
            let seen = self.common.seen.borrow();
            !seen.damaged_since_us.is_empty() || seen.mended_us >= restoring_since_us.or(Some(u64::MAX))
        };
        if restoring_since_us.is_none() || !is_damaged {
            self.violated(format!("S8: process {} ends, though nothing is damaged: {error}", self.process));
        }
        self.common.cluster.kill(self.process);
        self.ring();
    }

    fn violated(&self, what: String) {
        self.common.seen.borrow_mut().violations.push(what);
    }

    /// The pump's thread.
    pub(crate) fn pump(&self) {
        let Ok(log) = self.common.cluster.open(self.process) else { return };
        *self.committer.borrow_mut() = Some(log.committer);
        *self.checkpoint.borrow_mut() = Some(log.checkpoint);
        *self.standby.borrow_mut() = log.standby;
        self.ring();
        let settings = PumpSettings {
            min_interval: Duration::from_millis(self.common.min_interval_ms),
            max_records: self.common.max_records,
            max_bytes: 1 << 20,
            max_future_skew_ms: 2_000,
        };
        let mut pump = Pump::new(settings, log.source, Arc::clone(&self.common.decoder), self.route.clone());
        let (mut out, mut told) = (Vec::new(), false);
        while !pump.has_left() && !self.is_over() {
            if !told && self.stopping.get() {
                told = true;
                pump.stop(&mut out);
            }
            let outcome = match self.steps(&mut pump, &mut out) {
                Err(LogError::Unavailable(why)) => pump.refused(why, self.now(), &mut out),
                outcome => outcome,
            };
            if let Err(error) = outcome {
                return self.end(&error, None);
            }
            self.pass_on(&mut out);
            self.wait(50 + self.chance(400));
        }
        pump.leave();
        self.common.cluster.kill(self.process);
        self.ring();
    }

    fn steps(&self, pump: &mut Pump, out: &mut Vec<pump::Sent>) -> Result<(), LogError> {
        while let Some(resolved) = self.resolved.borrow_mut().pop_front() {
            pump.resolved(resolved, self.now())?;
        }
        if let Some(wanted) = self.wanted.borrow_mut().take() {
            pump.keep(wanted);
        }
        while pump.wants_deliveries()
            && let Some(delivery) = self.take_delivery()
        {
            pump.delivered(delivery, out)?;
        }
        let polled = pump.poll(self.now())?;
        pump.polled(polled, self.now(), out)?;
        pump.turn(self.now(), out)
    }

    fn take_delivery(&self) -> Option<Delivery> {
        self.bells[3].set(true);
        self.deliveries.borrow_mut().pop_front()
    }

    fn pass_on(&self, out: &mut Vec<pump::Sent>) {
        for sent in out.drain(..) {
            match sent {
                pump::Sent::Worker(worker, feed) => {
                    if let Feed::Reset { spared, .. } = &feed {
                        self.common.seen.borrow_mut().spared += spared.len() as u64;
                    }
                    self.feeds[worker].borrow_mut().push_back(feed);
                }
                pump::Sent::Commit(cut) => {
                    let places = cut.parts.iter().map(|part| (part.partition, part.next_offset, part.clock_ms)).collect();
                    self.places.borrow_mut().insert(cut.end - 1, places);
                    self.to_commit.borrow_mut().push_back(ToCommit::Cut(cut));
                }
                pump::Sent::Restore(request) => _ = self.requests.borrow_mut().insert(request.partition, request),
                pump::Sent::Order(order) => self.orders.borrow_mut().push_back(order),
                pump::Sent::Note(note) => self.note(&note),
            }
        }
        self.ring();
    }

    fn note(&self, note: &Note) {
        self.common.cluster.say(&format!("process {}", self.process), || format!("{note:?}"));
        self.board.apply(note);
        match note {
            Note::Gone(partitions) => self.gone_us.borrow_mut().extend(partitions.iter().map(|partition| (*partition, u64::MAX))),
            Note::Copying(partition) => _ = self.gone_us.borrow_mut().remove(partition),
            // A process that sleeps, or commits nothing, gives nothing up meanwhile.
            Note::Committed(_) => {
                let now_us = self.common.cluster.now_us();
                self.gone_us.borrow_mut().values_mut().for_each(|gone_us| *gone_us = now_us.min(*gone_us));
            }
            _ => {}
        }
    }

    /// All workers' threads.
    pub(crate) fn work(&self) {
        let setup = |worker| WorkerSetup {
            worker,
            plan: Arc::clone(&self.common.plan),
            decoder: Arc::clone(&self.common.decoder),
            encoder: Arc::new(Encoder::new(statehouse::config::SinkFormat::Full)),
            on_reject: statehouse::config::OnReject::Skip,
        };
        let mut workers: Vec<_> = (0..self.workers).map(|worker| Worker::new(setup(worker))).collect();
        while !self.is_over() {
            let busy: Vec<_> = (0..self.workers).filter(|worker| self.has_work(*worker)).collect();
            if busy.is_empty() {
                self.rest();
                continue;
            }
            let worker = busy[self.chance(busy.len() as u64) as usize];
            self.work_on(worker, &mut workers[worker]);
            if self.chance(3) == 0 {
                self.ask(&mut workers);
            }
            if self.chance(4) == 0 {
                self.wait(self.chance(300));
            }
        }
    }

    fn has_work(&self, worker: usize) -> bool {
        !self.feeds[worker].borrow().is_empty() || !self.notices[worker].borrow().is_empty()
    }

    fn work_on(&self, number: usize, worker: &mut Worker) {
        while let Some(notice) = self.notices[number].borrow_mut().pop_front() {
            if let Notice::Committed(last, _) = &notice {
                self.last[number].set(*last);
            }
            worker.notice(notice);
        }
        let feed = self.feeds[number].borrow_mut().pop_front();
        if let Some(output) = feed.and_then(|feed| worker.feed(feed)) {
            self.to_commit.borrow_mut().push_back(ToCommit::Output(output));
            self.bells[2].set(true);
        }
    }

    /// Asks for an object as somebody outside would: an answer counts if the partition is ours and nothing is stale.
    fn ask(&self, workers: &mut [Worker]) {
        let (partition, object) = &self.common.objects[self.chance(self.common.objects.len() as u64) as usize];
        let number = self.route.worker(self.route.hash(*partition, object));
        let standing = self.standing();
        let is_here = standing.partitions.contains_key(partition) || standing.copies.contains_key(partition);
        if !is_here && self.is_long_gone(*partition) {
            if let Some(Some(published)) = answer(&mut workers[number], *partition, object) {
                self.violated(format!("S7: process {} gave up partition {partition}, and has {object} still: {published:?}", self.process));
            }
            return;
        }
        let Some(PartitionStanding::Live { next_offset }) = standing.partitions.get(partition) else { return };
        if standing.stale_since_ms.is_some() || !self.notices[number].borrow().is_empty() {
            return;
        }
        let Some(published) = answer(&mut workers[number], *partition, object) else { return };
        let places = self.places.borrow();
        let place = places.get(&self.last[number].get()).and_then(|places| places.iter().find(|(at, ..)| at == partition));
        let Some((_, offset, clock_ms)) = place else {
            return self.violated(format!("S5: process {} answers for partition {partition}, which L does not cover", self.process));
        };
        if offset < next_offset {
            self.violated(format!("S5: process {} answers as of {offset}, and says {next_offset}", self.process));
        }
        let sample = Sample {
            at_us: self.common.cluster.now_us(),
            process: self.process,
            partition: *partition,
            object: object.clone(),
            published,
            place: (*offset, *clock_ms),
            upheavals: standing.upheavals.get(partition).copied().unwrap_or_default(),
        };
        self.common.seen.borrow_mut().samples.push(sample);
    }

    /// Given up so long ago that the epoch in which that happened is committed.
    fn is_long_gone(&self, partition: Partition) -> bool {
        let gone_us = self.gone_us.borrow().get(&partition).copied();
        self.common.peace.get() && gone_us.is_some_and(|gone_us| gone_us.saturating_add(GIVING_UP_US) < self.common.cluster.now_us())
    }

    /// The commit thread.
    pub(crate) fn commit(&self) {
        let Some(committer) = self.await_part(&self.committer) else { return };
        let settings = CommitSettings {
            house: "simulated".to_owned(),
            instance: self.process.to_string(),
            workers: self.workers,
            slice_bytes_min: 1_000, // so that small states have slices
            idle_slice_bytes: 4_096,
            max_piece_bytes: self.common.piece_bytes,
        };
        let mut commit = Commit::new(settings, committer);
        let mut out = Vec::new();
        while !self.is_over() {
            let Some(message) = self.to_commit.borrow_mut().pop_front() else {
                self.rest();
                continue;
            };
            let Some(epoch) = commit.gather(message) else { continue };
            let outcome = commit.resolve(epoch, self.now(), &mut out);
            if self.is_over() {
                return; // nobody is told any more
            }
            self.tell(&mut out);
            self.common.seen.borrow_mut().epochs += 1;
            if let Outcome::Failed(_) = outcome {
                self.common.seen.borrow_mut().failed_epochs += 1;
                match commit.recover(&|| !self.is_over() && !self.stopping.get(), &mut out) {
                    Ok(()) => self.tell(&mut out),
                    Err(_) if self.is_over() || self.stopping.get() => return self.common.cluster.kill(self.process),
                    Err(_) if self.is_over() || self.stopping.get() => return,
                    Err(error) => return self.end(&error, None),
                }
            }
        }
    }

    fn tell(&self, out: &mut Vec<commit::Sent>) {
        for sent in out.drain(..) {
            match sent {
                commit::Sent::Worker(worker, notice) => self.notices[worker].borrow_mut().push_back(notice),
                commit::Sent::Note(note) => self.note(&note),
                commit::Sent::Pump(resolved) => self.resolved.borrow_mut().push_back(resolved),
            }
        }
        self.ring();
    }

    fn await_part<T>(&self, part: &RefCell<Option<T>>) -> Option<T> {
        while !self.is_over() {
            if let Some(part) = part.borrow_mut().take() {
                return Some(part);
            }
            self.rest();
        }
        None
    }

    /// The restore thread, and the one that delivers.
    pub(crate) fn restore(&self) {
        let Some(checkpoint) = self.await_part(&self.checkpoint) else { return };
        let mut restore = Restore::new(self.restore_settings(), checkpoint);
        let mut waiting: VecDeque<Request> = VecDeque::new();
        while !self.is_over() {
            waiting.extend(std::mem::take(&mut *self.requests.borrow_mut()).into_values());
            let Some(request) = waiting.pop_front() else {
                self.rest();
                continue;
            };
            if request.cancelled.load(Ordering::Relaxed) {
                continue;
            }
            let begun_us = self.common.cluster.now_us();
            let outcome = restore.restore(&request, &mut |_| {});
            if self.is_over() || request.cancelled.load(Ordering::Relaxed) {
                continue;
            }
            match outcome {
                Ok(restored) => {
                    self.restored(request.partition, begun_us);
                    self.deliver(&request, restored);
                }
                Err(LogError::Unavailable(_)) => {
                    self.wait(RETRY_US);
                    waiting.push_back(request);
                }
                Err(error) => return self.end(&error, Some(begun_us)),
            }
        }
    }

    fn restore_settings(&self) -> RestoreSettings {
        RestoreSettings {
            house: "simulated".to_owned(),
            start: statehouse::config::Start::Earliest,
            batch_rows: self.common.batch_rows,
            route: self.route.clone(),
        }
    }

    /// The thread that keeps copies.
    pub(crate) fn keep_copies(&self) {
        let Some(log) = self.await_part(&self.standby).filter(|_| self.common.copies > 0) else { return };
        let settings = StandbySettings {
            restore: self.restore_settings(),
            partitions: self.common.partitions,
            copies: self.common.copies,
            look_every: LOOK_EVERY,
            doubt_pause: DOUBT_PAUSE,
        };
        let cluster = self.common.cluster.clone();
        let mut standby = Standby::new(settings, log, Box::new(move || now(&cluster)));
        let mut deliver = |delivery| self.deliver_one(delivery);
        while !self.is_over() {
            loop {
                let Some(order) = self.orders.borrow_mut().pop_front() else { break };
                if standby.order(order, &mut deliver).is_err() {
                    return;
                }
            }
            if let Some(wanted) = standby.look() {
                *self.wanted.borrow_mut() = Some(wanted);
            }
            if standby.turn(&mut deliver).is_err() {
                return;
            }
            self.common.seen.borrow_mut().takeovers += standby.taken_over().len() as u64;
        }
    }

    fn deliver_one(&self, delivery: Delivery) -> Result<(), Gone> {
        while self.deliveries.borrow().len() >= DELIVERIES_MAX && !self.is_over() {
            self.wait(500);
        }
        if self.is_over() {
            return Err(Gone);
        }
        self.deliveries.borrow_mut().push_back(delivery);
        Ok(())
    }

    fn restored(&self, partition: Partition, begun_us: u64) {
        let mut seen = self.common.seen.borrow_mut();
        seen.restores += 1;
        if seen.damaged_since_us.get(&partition).is_some_and(|since_us| *since_us < begun_us) {
            let what = format!("S8: process {} restores partition {partition} from a log that is damaged", self.process);
            seen.violations.push(what);
        }
    }

    fn deliver(&self, request: &Request, deliveries: impl Iterator<Item = Delivery>) {
        for delivery in deliveries {
            while self.deliveries.borrow().len() >= DELIVERIES_MAX && !self.is_over() && !request.cancelled.load(Ordering::Relaxed) {
                self.wait(500);
            }
            if request.cancelled.load(Ordering::Relaxed) {
                return;
            }
            self.deliveries.borrow_mut().push_back(delivery);
        }
    }
}

/// By clocks that are right.
fn now(cluster: &Cluster) -> Now {
    let us = cluster.now_us();
    Now { wall_ms: BEGIN_MS + (us / 1_000) as Millis, monotonic: Duration::from_micros(us) }
}

fn answer(worker: &mut Worker, partition: Partition, object: &str) -> Option<Option<Published>> {
    let (reply, mut answer) = oneshot::channel();
    worker.notice(Notice::Question(Question { ask: Ask::Object(partition, object.into()), reply }));
    match answer.try_recv() {
        Ok(Answer::Object(view)) => Some(view.map(|view| Published::clone(&view.published))),
        _ => None,
    }
}
