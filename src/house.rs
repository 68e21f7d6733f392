//! The house: the stages on their threads, joined by bounded queues. The only place that starts the stages' threads.
//!
//! ```text
//!            ┌────────── resolved ◀───────────┐
//!  source ▶ pump ─feeds─▶ worker 0..W-1 ─▶ commit ▶ committer
//!            ▲ │            ▲  ▲              │
//!  deliver ──┘ └─requests   │  └── notices ◀──┘
//!     ▲             ▼    questions
//!     └───────── restore; and standby beside it, where copies are kept: orders ▶ standby ▶ deliveries, wanted
//! ```
//! **No deadlock**: the pump waits for workers, workers for commit, and commit for nobody: a worker takes its notices before each feed, the queue
//! to commit has room for all that can be on the way, and the pump takes what is resolved on every turn. Restore waits for deliver,
//! and that and standby for the pump, which never waits for any of them.
//!
//! **Ending.** Asked to stop, the pump commits what is open and leaves; the other threads end as their queues do. A failure ends the pump
//! at once; the first failure is what [`HouseHandle::wait`] returns. A panic in any thread is a failure, too, where it does not abort the
//! process outright.

mod clock;
mod ending;
mod restoring;
mod standby;
mod threads;

use std::{collections::VecDeque, iter, sync::Arc, thread::JoinHandle, time::Duration};

use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use statehouse_dataflows::{
    plan::Plan,
    vocabulary::{Millis, Partition},
};
use tokio::sync::watch;

pub use self::{
    clock::{Clock, SystemClock},
    ending::HouseError,
};
use self::{
    ending::Ending,
    restoring::{DeliverThread, Read, RestoreThread},
    standby::StandbyThread,
    threads::{CommitThread, Copies, PumpThread, WorkerThread, spawn},
};
use crate::{
    board::{Board, Standing},
    chunk,
    commit::{Commit, CommitSettings},
    config::Config,
    decode::Decoder,
    desk::{Busy, Desk, DeskParts},
    encode::Encoder,
    lease::Lease,
    log::{self, Checkpoint, Committer, Directory, Log},
    message::{Delivery, Feed, Notice, Request, Resolved, ToCommit},
    metrics::Metrics,
    pump::{Pump, PumpSettings},
    question::Question,
    restore::{Restore, RestoreSettings},
    route::Route,
    standby::{Standby, StandbySettings},
    worker::WorkerSetup,
};

/// Feeds that may wait at a worker. What they hold is bounded by the open epoch; this only decouples the threads.
const FEEDS_MAX: usize = 64;
/// Notices of commits that may wait at a worker beside questions: one is on the way at a time.
const COMMIT_NOTICES_MAX: usize = 64;
/// Deliveries of a restore that may wait at the pump.
const DELIVERIES_MAX: usize = 4;
/// Orders that may wait at whoever keeps copies; more wait at the pump.
const ORDERS_MAX: usize = 16;
/// How often whoever keeps copies looks who else is there.
const STANDBY_LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long it leaves a partition in peace whose copy went wrong.
const STANDBY_DOUBT_PAUSE: Duration = Duration::from_secs(5);
/// Slices wait until so many bytes of them are owed: small pieces compress badly, and what they cost more stays in the log.
const SLICE_BYTES_MIN: u64 = 16 << 10;
/// Rows of a restore that are handed over at a time.
const RESTORE_BATCH_ROWS: usize = 4_096;
/// Bytes of records in an epoch. Bounds what two epochs hold of the source; far above what `commit.max_records` usual records have.
const EPOCH_BYTES_MAX: usize = 256 << 20;

/// What a house needs beside its configuration.
pub struct Surroundings {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::default()), metrics: Metrics::new() }
    }
}

/// A running house. Dropping the handle stops it, too, but waits for nothing.
pub struct HouseHandle {
    desk: Desk,
    board: Arc<Board>,
    ending: Arc<Ending>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a house on an opened log.
///
/// # Errors
/// When a setting is wrong, or a thread can't be started.
pub fn start(config: &Config, plan: &Arc<Plan>, log: Log, around: Surroundings) -> Result<HouseHandle, HouseError> {
    let workers = config.worker_count();
    let route = Route::new(RandomState::new(), workers);
    let decoder = Arc::new(Decoder::new(&config.source)?);
    let board = Arc::new(Board::default());
    let ending = Arc::new(Ending::new(Arc::clone(&board)));
    let Log { partitions, partition_of, source, committer, checkpoint, more_checkpoints, appender, standby, directory, lease } = log;
    let lease = lease.map(|length| Arc::new(Lease::new(length)));

    let (notices, heard): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(config.http.queue_questions + COMMIT_NOTICES_MAX)).unzip();
    let (feeds, fed): (Vec<_>, Vec<_>) = (0..workers).map(|_| bounded(FEEDS_MAX)).unzip();
    let (to_commit, gathered) = bounded(4 * (workers + 1));
    let (resolved, resolutions) = bounded(8);
    let (request, requests) = bounded(1);
    let (read, proven) = bounded(0);
    let (deliver, deliveries) = bounded(DELIVERIES_MAX);

    let stages = Stages { config, around: &around, route: &route, board: &board, ending: &ending };
    let mut threads = Vec::new();
    let encoder = Arc::new(Encoder::new(config.sink.format));
    for (worker, (notices, feeds)) in heard.into_iter().zip(fed).enumerate() {
        let (plan, decoder, encoder) = (Arc::clone(plan), Arc::clone(&decoder), Arc::clone(&encoder));
        let setup = WorkerSetup { worker, plan, decoder, encoder, on_reject: config.source.on_reject };
        threads.push(stages.worker(setup, (notices, feeds), to_commit.clone())?);
    }
    let here = directory.watch().borrow().here().to_owned();
    threads.push(stages.commit((committer, here), gathered, (notices.clone(), resolved))?);
    for (reader, checkpoint) in iter::once(checkpoint).chain(more_checkpoints).enumerate() {
        threads.push(stages.restore((reader, checkpoint), requests.clone(), read.clone())?);
    }
    drop((requests, read)); // only the readers' own ends count
    threads.push(stages.deliver(proven, deliver.clone())?);
    let copies = standby.map(|standby| stages.standby(standby, partitions, deliver)).transpose()?;
    let copies = copies.map(|(thread, copies)| (threads.push(thread), copies).1);
    let pump = Pump::new(pump_settings(config), source, decoder, route.clone());
    threads.push(stages.pump((pump, directory), (feeds, to_commit, request), (resolutions, deliveries), (copies, lease.clone()))?);

    let desk = Desk::new(DeskParts {
        workers,
        ask: ask(notices, config.http.queue_questions),
        worker_of: Arc::new(move |partition, object| route.worker(route.hash(partition, object))),
        partition_of,
        standing: board.watch(),
        appender,
        lapsed_since_ms: lapsed_since_ms(lease, Arc::clone(&around.clock)),
        wall_ms: Arc::new(move || around.clock.now().wall_ms),
    });
    Ok(HouseHandle { desk, board, ending, threads })
}

/// Starts each stage on a thread of its own, given the ends of its queues.
struct Stages<'a> {
    config: &'a Config,
    around: &'a Surroundings,
    route: &'a Route,
    board: &'a Arc<Board>,
    ending: &'a Arc<Ending>,
}

impl Stages<'_> {
    fn worker(
        &self,
        setup: WorkerSetup,
        (notices, feeds): (Receiver<Notice>, Receiver<Feed>),
        to_commit: Sender<ToCommit>,
    ) -> Result<JoinHandle<()>, HouseError> {
        let name = format!("worker-{}", setup.worker);
        let thread = WorkerThread { setup, notices, feeds, to_commit };
        spawn(name, self.ending, move |_| thread.run())
    }

    fn commit(
        &self,
        (committer, instance): (Box<dyn Committer>, String),
        gathered: Receiver<ToCommit>,
        (workers, resolved): (Vec<Sender<Notice>>, Sender<Resolved>),
    ) -> Result<JoinHandle<()>, HouseError> {
        let settings = CommitSettings {
            house: self.config.house.clone(),
            instance,
            workers: workers.len(),
            max_piece_bytes: chunk::PIECE_BYTES_MAX,
            slice_bytes_min: SLICE_BYTES_MIN,
            idle_slice_bytes: self.config.commit.idle_slice_bytes,
        };
        let thread = CommitThread {
            commit: Commit::new(settings, committer),
            gathered,
            workers,
            board: Arc::clone(self.board),
            resolved,
            clock: Arc::clone(&self.around.clock),
            metrics: Arc::clone(&self.around.metrics),
            source_topic: self.config.topics().source,
        };
        spawn("commit".to_owned(), self.ending, move |ending| thread.run(ending))
    }

    fn restore(
        &self,
        (reader, checkpoint): (usize, Box<dyn Checkpoint>),
        requests: Receiver<Request>,
        read: Sender<Read>,
    ) -> Result<JoinHandle<()>, HouseError> {
        let restore = Restore::new(self.restore_settings(), checkpoint);
        let (board, metrics) = (Arc::clone(self.board), Arc::clone(&self.around.metrics));
        let thread = RestoreThread { restore, requests, read, board, metrics };
        spawn(format!("restore-{reader}"), self.ending, move |ending| thread.run(ending))
    }

    fn restore_settings(&self) -> RestoreSettings {
        RestoreSettings {
            house: self.config.house.clone(),
            start: self.config.source.start,
            batch_rows: RESTORE_BATCH_ROWS,
            route: self.route.clone(),
        }
    }

    fn standby(
        &self,
        log: log::StandbyLog,
        partitions: Partition,
        deliver: Sender<Delivery>,
    ) -> Result<(JoinHandle<()>, Copies), HouseError> {
        let (orders, ordered) = bounded(ORDERS_MAX);
        let (wanted, wants) = bounded(1);
        let settings = StandbySettings {
            restore: self.restore_settings(),
            partitions,
            copies: self.config.standby.copies,
            look_every: STANDBY_LOOK_EVERY,
            doubt_pause: STANDBY_DOUBT_PAUSE,
        };
        let clock = Arc::clone(&self.around.clock);
        let standby = Standby::new(settings, log, Box::new(move || clock.now()));
        let thread = StandbyThread { standby, orders: ordered, wanted, deliver, metrics: Arc::clone(&self.around.metrics) };
        let thread = spawn("standby".to_owned(), self.ending, move |_| thread.run())?;
        Ok((thread, Copies { orders, wanted: wants, waiting: VecDeque::new() }))
    }

    fn deliver(&self, read: Receiver<Read>, deliver: Sender<Delivery>) -> Result<JoinHandle<()>, HouseError> {
        let thread = DeliverThread { read, deliver, metrics: Arc::clone(&self.around.metrics) };
        spawn("deliver".to_owned(), self.ending, move |_| thread.run())
    }

    fn pump(
        &self,
        (pump, directory): (Pump, Arc<dyn Directory>),
        (workers, to_commit, request): (Vec<Sender<Feed>>, Sender<ToCommit>, Sender<Request>),
        (resolutions, deliveries): (Receiver<Resolved>, Receiver<Delivery>),
        (copies, lease): (Option<Copies>, Option<Arc<Lease>>),
    ) -> Result<JoinHandle<()>, HouseError> {
        let thread = PumpThread {
            pump,
            directory,
            workers,
            to_commit,
            request,
            resolutions,
            deliveries,
            copies,
            board: Arc::clone(self.board),
            clock: Arc::clone(&self.around.clock),
            metrics: Arc::clone(&self.around.metrics),
            lag_noted: None,
            lease,
        };
        spawn("pump".to_owned(), self.ending, move |ending| thread.run(ending))
    }
}

fn pump_settings(config: &Config) -> PumpSettings {
    PumpSettings {
        min_interval: Duration::from_millis(config.commit.min_interval_ms),
        max_records: config.commit.max_records,
        max_bytes: EPOCH_BYTES_MAX,
        max_future_skew_ms: config.source.max_future_skew.as_millis().try_into().unwrap_or(Millis::MAX),
    }
}

/// Commit notices must always find room, so questions leave some.
fn ask(workers: Vec<Sender<Notice>>, questions_max: usize) -> Arc<dyn Fn(usize, Question) -> Result<(), Busy> + Send + Sync> {
    Arc::new(move |worker, question| {
        if workers[worker].len() >= questions_max {
            return Err(Busy::Full);
        }
        workers[worker].try_send(Notice::Question(question)).map_err(|error| match error {
            TrySendError::Full(_) => Busy::Full,
            TrySendError::Disconnected(_) => Busy::Gone,
        })
    })
}

/// Without a lease nobody else can own what is ours.
fn lapsed_since_ms(lease: Option<Arc<Lease>>, clock: Arc<dyn Clock>) -> Arc<dyn Fn() -> Option<Millis> + Send + Sync> {
    Arc::new(move || lease.as_ref()?.lapsed_since_ms(clock.now()))
}

impl HouseHandle {
    /// Where questions and writes go.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Watches where the house stands. It says `stopping` as soon as the house stops, for whatever reason.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.board.watch()
    }

    /// Asks the house to commit what is there, leave its group and end. Returns at once.
    pub fn stop(&self) {
        self.ending.stop();
    }

    /// Waits until the house has ended.
    ///
    /// # Errors
    /// When, and only when, it ended for another reason than having been asked to.
    pub fn wait(mut self) -> Result<(), HouseError> {
        for thread in self.threads.drain(..) {
            let _panicked = thread.join(); // said by its guard already
        }
        self.ending.take().map_or(Ok(()), Err)
    }
}

impl Drop for HouseHandle {
    fn drop(&mut self) {
        self.ending.stop();
    }
}
