//! The pump: numbers what the source brings, routes it to the workers, and cuts it into epochs.
//!
//! First stage of the flow: [`Source`] in, [`Sent`] out. It owns the source, each owned partition's clock and event numbers ([`line`]), and
//! the life of a partition from assignment through restore to revocation. It has no thread and no clock: whoever drives it calls, over and over,
//! [`Pump::resolved`] and [`Pump::delivered`] with what came back, [`Pump::poll`], [`Pump::polled`] and [`Pump::turn`] with the time read
//! after the poll, and passes on what it sent, in order.
//!
//! At most one epoch is in flight (cut, and not yet resolved) while the next one fills. When that is full, reading waits.

mod copies;
mod life;
mod line;
mod number;
#[cfg(test)]
mod tests;
mod wall;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use statehouse_dataflows::vocabulary::{Millis, Offset, Partition, Row, Run, Seq, TICK_MS};

use self::{
    copies::Copy,
    line::{Line, Phase},
    number::Numbering,
    wall::Wall,
};
use crate::{
    decode::Decoder,
    log::{Batch, LogError, Polled, Source},
    message::{Cut, Delivered, Delivery, Feed, Note, Now, Objects, Order, Records, Request, Resolved},
    route::Route,
};

/// An idle house commits its offsets this often, so that neither they nor the transactional id expire (7 days by default).
const KEEP_ALIVE: Duration = Duration::from_secs(24 * 60 * 60);
/// While something is expected from another stage, the source is polled no longer than this at a time.
const EXPECTING: Duration = Duration::from_millis(1);
/// The same while it may take long.
const WAITING: Duration = Duration::from_millis(5);
/// After the source refused something, it is left in peace for so long.
const REFUSED_RETRY: Duration = Duration::from_millis(500);

/// The pump's part of the configuration.
#[derive(Clone, Debug)]
pub struct PumpSettings {
    /// An epoch is open at least this long.
    pub min_interval: Duration,
    /// An epoch takes at most this many records (or, in a restore, about this many rows).
    pub max_records: usize,
    /// An epoch takes at most about this many bytes of records.
    pub max_bytes: usize,
    /// Timestamps further ahead of the wall-clock are rejects; steps of the wall-clock further than this are not believed.
    pub max_future_skew_ms: Millis,
}

/// So many objects of each worker are compared at a time after a restore.
const COMPARE_OBJECTS: usize = 1_024;
/// Of an epoch at most one part of so many is restored rows while other partitions are live or compared: those go on meanwhile.
const RESTORED_PART: usize = 2;
/// Epochs are not halved more often than that.
const HALVINGS_MAX: u32 = 8;

/// What the pump sends.
#[derive(Debug)]
pub enum Sent {
    /// To one worker.
    Worker(usize, Feed),
    /// To commit.
    Commit(Cut),
    /// To restore.
    Restore(Request),
    /// To whoever keeps copies.
    Order(Order),
    /// For everyone to watch.
    Note(Note),
}

/// See the module.
pub struct Pump {
    settings: PumpSettings,
    source: Box<dyn Source>,
    decoder: Arc<Decoder>,
    route: Route,
    wall: Wall,
    lines: BTreeMap<Partition, Line>,
    /// Copies of others' partitions.
    copies: BTreeMap<Partition, Copy>,
    /// Of which there is to be a copy, if they are not ours.
    wanted: BTreeSet<Partition>,
    /// Records polled and not numbered yet: each batch from a place in it on.
    backlog: VecDeque<(Arc<Batch>, usize)>,
    releases: Vec<Vec<Partition>>,
    /// The next event's number.
    next: Seq,
    open: Open,
    /// The last epoch cut.
    epoch: u64,
    /// Whether that is not resolved yet.
    in_flight: bool,
    /// Whether the epoch cut last was as large as may be.
    cut_full: bool,
    /// How often the size of epochs was halved.
    halvings: u32,
    generation: u64,
    last_number: u64,
    last_transaction: Duration,
    held: bool,
    /// The workers hold what was dropped here: it is asked at L until they begin anew.
    dropped: bool,
    /// The log recovers from a failed transaction.
    recovering: bool,
    /// Partitions that were lost and are still asked at L.
    ghosts: BTreeSet<Partition>,
    /// Whether the group was joined since the last loss.
    joined: bool,
    /// The source refused something: nothing more is asked of it before this.
    patient_until: Duration,
    stopping: bool,
    left: bool,
    clock_trouble: bool,
    /// Whether a restore delivers, so that more is to be expected at once.
    busy: bool,
}

/// The epoch that fills.
#[derive(Debug, Default)]
struct Open {
    /// Its first seq.
    first: Seq,
    records: usize,
    /// Those of them that are restored rows.
    restored: usize,
    bytes: usize,
    since: Duration,
}

impl Pump {
    /// A pump without any partition yet.
    #[must_use]
    pub fn new(settings: PumpSettings, source: Box<dyn Source>, decoder: Arc<Decoder>, route: Route) -> Self {
        Self {
            wall: Wall::new(settings.max_future_skew_ms),
            settings,
            source,
            decoder,
            route,
            lines: BTreeMap::new(),
            copies: BTreeMap::new(),
            wanted: BTreeSet::new(),
            backlog: VecDeque::new(),
            releases: Vec::new(),
            next: 1, // 0 is before everything: L of a new process
            open: Open { first: 1, ..Open::default() },
            epoch: 0,
            in_flight: false,
            cut_full: false,
            halvings: 0,
            generation: 0,
            last_number: 0,
            last_transaction: Duration::ZERO,
            held: false,
            dropped: false,
            recovering: false,
            ghosts: BTreeSet::new(),
            joined: false,
            patient_until: Duration::ZERO,
            stopping: false,
            left: false,
            clock_trouble: false,
            busy: false,
        }
    }

    /// Polls the source, for as long as nothing else is due.
    ///
    /// # Errors
    /// As [`Source::poll`].
    pub fn poll(&mut self, now: Now) -> Result<Polled, LogError> {
        let hold = self.is_full() || !self.backlog.is_empty() || !self.releases.is_empty() || self.dropped || self.stopping;
        if hold != self.held {
            self.source.hold(hold)?;
            self.held = hold;
            // Nobody knows what came in meanwhile: no clock moves before the source says anew that nothing is waiting.
            self.lines.values_mut().for_each(|line| line.caught_up = false);
        }
        let wait = if mem::take(&mut self.busy) { Duration::ZERO } else { self.wait(now) };
        self.source.poll(wait)
    }

    /// As [`Source::end`].
    #[must_use]
    pub fn end(&self, partition: Partition) -> Option<Offset> {
        self.source.end(partition)
    }

    /// See [`Source::heard`].
    pub fn heard(&mut self) -> Option<Instant> {
        self.source.heard()
    }

    /// Takes what a poll brought.
    ///
    /// # Errors
    /// As [`Source::suspend`].
    pub fn polled(&mut self, polled: Polled, now: Now, out: &mut Vec<Sent>) -> Result<(), LogError> {
        match polled {
            Polled::Idle => {}
            Polled::Records(batch) => self.queue(batch),
            Polled::CaughtUp(partition) => self.caught_up(partition, true),
            Polled::Behind(partition) => self.caught_up(partition, false),
            Polled::Assigned(partitions) => self.assigned(partitions, out),
            Polled::Revoked { partitions, lost: false } => self.revoked(partitions, out),
            Polled::Revoked { partitions, lost: true } => self.lost(partitions, now, out)?,
        }
        Ok(())
    }

    /// Whether deliveries of a restore are welcome now; otherwise they wait.
    #[must_use]
    pub fn wants_deliveries(&self) -> bool {
        self.stopping || (!self.dropped && self.may_restore() && self.releases.is_empty())
    }

    /// Takes a delivery of a restore or of a copy. One for an assignment that is over, or of a house that stops, is dropped.
    ///
    /// # Errors
    /// As [`Source::begin`].
    pub fn delivered(&mut self, delivery: Delivery, out: &mut Vec<Sent>) -> Result<(), LogError> {
        if self.stopping {
            return Ok(());
        }
        let Some(line) = self.lines.get_mut(&delivery.partition) else {
            self.copied(delivery, out);
            return Ok(());
        };
        if line.number != delivery.number || !line.is_coming_back() || line.leaving {
            return Ok(());
        }
        match delivery.what {
            Delivered::Begin(at) => {
                let is_fresh = at.progress.is_none();
                line.stand(at);
                if is_fresh {
                    line.phase = Phase::Starting;
                    let run = line.aside(&mut self.next);
                    self.to_all(out, || Feed::Compare { run, objects_max: COMPARE_OBJECTS });
                }
            }
            Delivered::Rows(shares) => {
                let run = line.restored(&shares, &mut self.next);
                self.restore(run, shares, out);
            }
            Delivered::End => self.compare(delivery.partition, out)?,
            Delivered::Chunk(at, objects) => self.catch_up(delivery.partition, (at, objects), out),
            Delivered::Level(_) => {}
            Delivered::Doubt => self.doubted(delivery.partition, out),
        }
        Ok(())
    }

    /// Has some more objects of a restored partition compared; with the last of them it is live. Meanwhile it is in every epoch, as the
    /// changes that come of it are, but nothing of it is read and its clock stands.
    fn compare(&mut self, partition: Partition, out: &mut Vec<Sent>) -> Result<(), LogError> {
        let line = self.lines.get_mut(&partition).expect("only owned partitions are compared");
        let (run, objects) = line.compare(COMPARE_OBJECTS, &mut self.next);
        self.open.records += objects;
        self.busy = true;
        let mut objects_max = COMPARE_OBJECTS;
        if line.is_compared() {
            objects_max = usize::MAX; // nobody counted what came while a copy was followed
            line.phase = Phase::Live;
            self.source.begin(line.partition, line.next_offset)?;
        }
        self.to_all(out, || Feed::Compare { run, objects_max });
        Ok(())
    }

    /// One share of each partition that is being compared, before others fill the epoch.
    fn compare_all(&mut self, out: &mut Vec<Sent>) -> Result<(), LogError> {
        let comparing: Vec<_> = self.lines.values().filter(|line| line.phase == Phase::Comparing).map(|line| line.partition).collect();
        for partition in comparing {
            if !self.is_full() {
                self.compare(partition, out)?;
            }
        }
        Ok(())
    }

    /// Takes what became of the epoch in flight.
    ///
    /// # Errors
    /// As [`Source::begin`] and [`Source::suspend`].
    pub fn resolved(&mut self, resolved: Resolved, now: Now) -> Result<(), LogError> {
        match resolved {
            Resolved::Committed { epoch, transacted } => {
                debug_assert_eq!(epoch, self.epoch, "one epoch is in flight at a time");
                self.in_flight = false;
                if transacted {
                    self.last_transaction = now.monotonic;
                    self.halvings = self.halvings.saturating_sub(u32::from(self.cut_full));
                }
                self.begin_started()
            }
            Resolved::Failed => {
                self.in_flight = false;
                self.recovering = true;
                self.halvings = (self.halvings + 1).min(HALVINGS_MAX);
                self.drop_open(now)
            }
            Resolved::Recovered => {
                self.recovering = false;
                Ok(())
            }
        }
    }

    /// Does what is due: feeds what was polled, moves clocks, lets revoked partitions go, cuts an epoch, leaves.
    ///
    /// # Errors
    /// As [`Source::release`] and [`Source::begin`].
    pub fn turn(&mut self, now: Now, out: &mut Vec<Sent>) -> Result<(), LogError> {
        let wall_ms = self.wall.read(now);
        self.note_clock(out);
        let is_patient = now.monotonic < self.patient_until;
        if self.may_feed() {
            self.compare_all(out)?;
            self.feed((wall_ms, now.wall_ms.max(wall_ms)), out);
            self.tick(wall_ms, out);
        }
        if !self.dropped && !self.stopping {
            self.arrange_copies(out);
        }
        if !self.releases.is_empty() && !self.in_flight && !is_patient {
            self.let_go(now, out)?;
        }
        if self.may_begin_anew() && !is_patient {
            self.begin_anew(out);
        }
        if self.is_cut_due(now) {
            self.cut(now, out);
        }
        if self.stopping && !self.in_flight && !self.left {
            self.leave();
        }
        Ok(())
    }

    /// Takes a refusal ([`LogError::Unavailable`]) of any of the other calls. Nobody knows how much of it was done, so what is open goes
    /// and everything is restored, in a while.
    ///
    /// # Errors
    /// As [`Source::suspend`], but for further refusals.
    pub fn refused(&mut self, why: String, now: Now, out: &mut Vec<Sent>) -> Result<(), LogError> {
        self.patient_until = now.monotonic + REFUSED_RETRY;
        out.push(Sent::Note(Note::Adrift(Some((now.wall_ms, why)))));
        match self.drop_open(now) {
            Err(LogError::Unavailable(_)) => Ok(()), // what is begun anew need not have been suspended
            outcome => outcome,
        }
    }

    /// Leaves the group at once, if that is not done yet: nothing further is committed.
    pub fn leave(&mut self) {
        if !mem::replace(&mut self.left, true) {
            self.source.leave();
        }
    }

    /// Stops reading; what is open is committed and then the group is left. See [`Pump::has_left`].
    pub fn stop(&mut self, out: &mut Vec<Sent>) {
        self.stopping = true;
        self.backlog.clear();
        self.lines.values().for_each(Line::cancel);
        self.cancel_copies();
        out.push(Sent::Note(Note::Stopping));
    }

    /// Whether the group is left: nothing is to be done any more, and nothing may.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.left
    }

    fn queue(&mut self, batch: Batch) {
        let Some(line) = self.lines.get_mut(&batch.partition).filter(|line| line.is_live()) else { return };
        line.caught_up = false;
        if !self.stopping {
            self.backlog.push_back((Arc::new(batch), 0));
        }
    }

    /// Restored objects go to their workers, and count into the open epoch.
    fn restore(&mut self, run: Run, shares: Vec<Objects>, out: &mut Vec<Sent>) {
        let rows: usize = shares.iter().map(|objects| objects.rows.len()).sum();
        self.open.records += rows;
        self.open.restored += rows;
        self.busy = true;
        let feeds = shares.into_iter().map(|objects| Feed::Rows { run, objects });
        out.extend(feeds.enumerate().map(|(worker, feed)| Sent::Worker(worker, feed)));
    }

    /// Objects with their hashes, by worker. They count into the open epoch.
    fn share(&mut self, objects: Vec<Vec<Row>>) -> Vec<Vec<(u64, Vec<Row>)>> {
        let mut shares: Vec<Vec<(u64, Vec<Row>)>> = (0..self.route.workers()).map(|_| Vec::new()).collect();
        for rows in objects {
            let Some(row) = rows.first() else { continue };
            let hash = self.route.hash(row.partition, &row.object);
            self.open.records += rows.len();
            shares[self.route.worker(hash)].push((hash, rows));
        }
        shares
    }

    /// Of two clocks that disagree the earlier one moves partitions, and the later one says what is too far ahead: nobody knows which of
    /// them is right, and a clock can catch up later, but a reject stays one.
    fn feed(&mut self, (wall_ms, later_ms): (Millis, Millis), out: &mut Vec<Sent>) {
        let latest_ms = later_ms.saturating_add(self.settings.max_future_skew_ms);
        while !self.is_full()
            && let Some((batch, from)) = self.backlog.pop_front()
        {
            let (records, bytes) = self.limits();
            let line = self.lines.get_mut(&batch.partition).expect("batches of partitions that leave are dropped");
            let mut numbering = Numbering::new(line, &mut self.next, &self.route);
            let room = (records.saturating_sub(self.open.records), bytes.saturating_sub(self.open.bytes));
            let to = numbering.take(&batch, from, room, |record, bytes| number::check(record, bytes, &self.decoder, (wall_ms, latest_ms)));
            let (runs, shares, bytes) = numbering.done();
            self.open.records += to - from;
            self.open.bytes += bytes;
            for (worker, routed) in shares.into_iter().enumerate() {
                let records = Records { batch: Arc::clone(&batch), runs: Arc::clone(&runs), routed };
                out.push(Sent::Worker(worker, Feed::Records(records)));
            }
            if to < batch.records.len() {
                self.backlog.push_front((batch, to));
            }
        }
    }

    /// Moves the clocks of partitions in which nothing is waiting. While the source is held nobody knows what is waiting there.
    fn tick(&mut self, wall_ms: Millis, out: &mut Vec<Sent>) {
        if self.wall.stepped_ms().is_some() || !self.backlog.is_empty() || self.held || self.is_full() {
            return;
        }
        let next = &mut self.next;
        let lines = self.lines.values_mut().filter(|line| line.ticks_by_wall());
        let runs: Arc<[Run]> = lines.filter_map(|line| line.advance(wall_ms, next)).collect();
        if !runs.is_empty() {
            self.to_all(out, || Feed::Ticks(Arc::clone(&runs)));
        }
    }

    fn note_clock(&mut self, out: &mut Vec<Sent>) {
        let stepped_ms = self.wall.stepped_ms();
        if stepped_ms.is_some() != self.clock_trouble {
            self.clock_trouble = stepped_ms.is_some();
            let trouble = stepped_ms.map(|step_ms| {
                format!(
                    "the wall-clock stepped by {step_ms} ms, more than source.max_future_skew ({} ms): clocks of idle partitions stand still until \
                     it is set right or the house is restarted",
                    self.settings.max_future_skew_ms
                )
            });
            out.push(Sent::Note(Note::Clock(trouble)));
        }
    }

    fn may_feed(&self) -> bool {
        !self.dropped && !self.stopping && self.releases.is_empty()
    }

    /// What is leaving is let go first: nothing of it is restored, and what the source refuses to let go is asked again without a new beginning.
    fn may_begin_anew(&self) -> bool {
        let is_resolved = !self.recovering && !self.in_flight && self.releases.is_empty();
        self.dropped && is_resolved && (self.joined || !self.lines.is_empty())
    }

    fn has_events(&self) -> bool {
        self.next > self.open.first
    }

    fn is_full(&self) -> bool {
        let (records, bytes) = self.limits();
        self.open.records >= records || self.open.bytes >= bytes
    }

    /// Whether the epoch takes restored rows.
    fn may_restore(&self) -> bool {
        let is_shared = self.lines.values().any(Line::is_whole);
        let part = (self.limits().0 / RESTORED_PART).max(1);
        !self.is_full() && (!is_shared || self.open.restored < part)
    }

    /// How many records and bytes an epoch takes: half as many after each that failed, and twice as many after each full
    /// one that did not. One that was too much for its transaction's time would
    /// fail as often as it is tried.
    fn limits(&self) -> (usize, usize) {
        let PumpSettings { max_records, max_bytes, .. } = self.settings;
        ((max_records >> self.halvings).max(1), (max_bytes >> self.halvings).max(1))
    }

    /// Whether the epoch must be committed though nothing may be in it.
    fn is_forced(&self, now: Now) -> bool {
        self.lines.values().any(Line::is_to_start)
            || (now.monotonic.saturating_sub(self.last_transaction) >= KEEP_ALIVE && self.lines.values().any(Line::is_whole))
    }

    fn is_cut_due(&self, now: Now) -> bool {
        if self.in_flight || self.dropped || !(self.has_events() || self.is_forced(now)) {
            return false;
        }
        self.stopping || self.is_full() || now.monotonic.saturating_sub(self.open.since) >= self.settings.min_interval
    }

    fn cut(&mut self, now: Now, out: &mut Vec<Sent>) {
        let forced = self.is_forced(now);
        self.epoch += 1;
        self.in_flight = true;
        self.cut_full = self.is_full();
        let (epoch, generation, end) = (self.epoch, self.generation, self.next);
        self.open = Open { first: end, since: now.monotonic, ..Open::default() };
        self.to_all(out, || Feed::Seal { epoch, end });
        let parts = self.lines.values_mut().filter(|line| line.is_whole()).map(Line::cut).collect();
        let copies = self.copy_parts();
        out.push(Sent::Commit(Cut { epoch, generation, end, forced, parts, copies }));
    }

    /// How long a poll may take before something else is due.
    fn wait(&self, now: Now) -> Duration {
        if self.is_cut_due(now) || (self.may_feed() && !self.backlog.is_empty() && !self.is_full()) {
            return Duration::ZERO;
        }
        if self.in_flight && (self.has_events() || self.stopping || !self.releases.is_empty()) {
            return EXPECTING;
        }
        if self.dropped || self.lines.values().any(|line| line.phase != Phase::Live) {
            return WAITING;
        }
        if !self.in_flight && self.has_events() {
            return self.settings.min_interval.saturating_sub(now.monotonic.saturating_sub(self.open.since));
        }
        Duration::from_millis((TICK_MS - now.wall_ms.rem_euclid(TICK_MS)).unsigned_abs())
    }

    fn to_all(&self, out: &mut Vec<Sent>, feed: impl Fn() -> Feed) {
        out.extend((0..self.route.workers()).map(|worker| Sent::Worker(worker, feed())));
    }
}
