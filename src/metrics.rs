//! What the house counts, for Prometheus: every metric's name, unit and help in one place.
//!
//! Beside the flow: the house's threads, the HTTP server and `serve` share one `Arc<Metrics>` and call one method for each thing that
//! happened; of the stages only commit knows a word of it, [`EpochCounts`]. Counting is atomic and never waits, so any thread may. `GET /metrics` reads it. Labels have few values: partitions, causes, reasons, routes, and the
//! [`STATES_MAX`] most common states; never objects or agents.

mod process;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use statehouse_dataflows::{
    query::Summary,
    vocabulary::{Cause, Name, Partition},
};

use crate::{log::TransactError, message::RestoreProgress};

/// How many states `statehouse_objects` tells apart; the rest is summed up as [`OTHER_STATES`]. States come from agents, so without a
/// bound a mistaken agent could make any number of time series.
pub const STATES_MAX: usize = 100;
/// The state label of the objects beyond [`STATES_MAX`].
pub const OTHER_STATES: &str = "(other)";
/// The state label of known objects without a published state.
pub const NO_STATE: &str = "";

/// All metrics of one house.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held while a scrape fills in and reads what is only known when asked.
    scrape: Mutex<()>,
    source_records: Family<PartitionLabel, Counter>,
    source_lag: Family<PartitionLabel, Gauge>,
    rejects: Family<ReasonLabel, Counter>,
    late: Counter,
    unchanged: Counter,
    over_limit: Counter,
    objects: Family<StateLabel, Gauge>,
    changes: Family<CauseLabel, Counter>,
    epochs: Counter,
    transactions: Family<OutcomeLabel, Counter>,
    transaction_duration: Histogram,
    checkpoint_bytes: Counter,
    checkpoint_rows: Counter,
    slice_bytes: Counter,
    slice_rows: Counter,
    log_bytes: Family<PartitionLabel, Gauge>,
    trims: Family<OutcomeLabel, Counter>,
    restores: Counter,
    restore_records: Counter,
    restore_duration: Histogram,
    copies: Gauge,
    copies_age: Gauge<f64, AtomicU64>,
    takeovers: Counter,
    takeover_duration: Histogram,
    restore_progress: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    restore_left: Family<PartitionLabel, Gauge>,
    restore_rows: Family<PartitionLabel, Gauge>,
    restore_bytes: Family<PartitionLabel, Gauge>,
    stale: Gauge,
    stale_seconds: Gauge<f64, AtomicU64>,
    http_requests: Family<RequestLabels, Counter>,
    http_duration: Family<RouteLabel, Histogram>,
    http_connections: Gauge,
    http_refused: Counter,
    instances: Gauge,
    instances_differing: Gauge,
    peer_questions: Family<OutcomeLabel, Counter>,
}

/// What one committed epoch brought. Counted when it is committed, so that the numbers agree with what the sink shows.
#[derive(Clone, Debug, Default)]
pub struct EpochCounts {
    /// Source records by partition, rejects included.
    pub records: Vec<(Partition, u64)>,
    /// Sink records by cause.
    pub changes: Vec<(Cause, u64)>,
    /// Rejects by reason.
    pub rejects: Vec<(&'static str, u64)>,
    /// Reports ignored because a later one of their agent was there.
    pub late: u64,
    /// Reports that claimed what their agent claimed already.
    pub unchanged: u64,
    /// Reports ignored because their object has as many agents as it may have.
    pub over_limit: u64,
    /// Checkpoint rows written.
    pub checkpoint_rows: u64,
    /// Bytes of checkpoint records written.
    pub checkpoint_bytes: u64,
    /// Checkpoint rows that were written again as they were: part of the above.
    pub slice_rows: u64,
    /// Bytes of those: part of the above.
    pub slice_bytes: u64,
    /// By partition: bytes of checkpoint records that a restore would read.
    pub log_bytes: Vec<(Partition, u64)>,
    /// How often a partition's checkpoint records before its start were given up since the last epoch.
    pub trims: u64,
    /// How often that failed.
    pub trims_failed: u64,
    /// How long its transaction took; none if it was empty and needed none.
    pub transaction: Option<Duration>,
}

/// How stale answers are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staleness {
    /// For how long commits have failed or been recovered from; none: all is well.
    pub age_ms: Option<i64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    partition: Partition,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            scrape: Mutex::new(()),
            source_records: Family::default(),
            source_lag: Family::default(),
            rejects: Family::default(),
            late: Counter::default(),
            unchanged: Counter::default(),
            over_limit: Counter::default(),
            objects: Family::default(),
            changes: Family::default(),
            epochs: Counter::default(),
            transactions: Family::default(),
            transaction_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)), // 1 ms to 16 s
            checkpoint_bytes: Counter::default(),
            checkpoint_rows: Counter::default(),
            slice_bytes: Counter::default(),
            slice_rows: Counter::default(),
            log_bytes: Family::default(),
            trims: Family::default(),
            restores: Counter::default(),
            restore_records: Counter::default(),
            restore_duration: Histogram::new(exponential_buckets(0.01, 2.0, 15)), // 10 ms to 160 s
            copies: Gauge::default(),
            copies_age: Gauge::default(),
            takeovers: Counter::default(),
            takeover_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)), // 1 ms to 16 s
            restore_progress: Family::default(),
            restore_left: Family::default(),
            restore_rows: Family::default(),
            restore_bytes: Family::default(),
            stale: Gauge::default(),
            stale_seconds: Gauge::default(),
            http_requests: Family::default(),
            http_duration: Family::new_with_constructor(request_histogram),
            http_connections: Gauge::default(),
            http_refused: Counter::default(),
            instances: Gauge::default(),
            instances_differing: Gauge::default(),
            peer_questions: Family::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let house = registry.sub_registry_with_prefix("statehouse");
        metrics.register_flow(house);
        metrics.register_checkpoint(house);
        metrics.register_http(house);
        metrics.registry = registry;
        metrics
    }
}

/// Half a millisecond to 8 s.
fn request_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 15))
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Counts an epoch that was committed, with or without a transaction.
    pub fn epoch_committed(&self, epoch: &EpochCounts) {
        self.epochs.inc();
        for &(partition, count) in &epoch.records {
            self.source_records.get_or_create(&PartitionLabel { partition }).inc_by(count);
        }
        for &(cause, count) in &epoch.changes {
            self.changes.get_or_create(&CauseLabel { cause: cause.as_str() }).inc_by(count);
        }
        for &(reason, count) in &epoch.rejects {
            self.rejects.get_or_create(&ReasonLabel { reason }).inc_by(count);
        }
        self.late.inc_by(epoch.late);
        self.unchanged.inc_by(epoch.unchanged);
        self.over_limit.inc_by(epoch.over_limit);
        self.checkpoint_rows.inc_by(epoch.checkpoint_rows);
        self.checkpoint_bytes.inc_by(epoch.checkpoint_bytes);
        self.slices_committed(epoch);
        if let Some(duration) = epoch.transaction {
            self.transactions.get_or_create(&OutcomeLabel { outcome: "committed" }).inc();
            self.transaction_duration.observe(duration.as_secs_f64());
        }
    }

    fn slices_committed(&self, epoch: &EpochCounts) {
        self.slice_rows.inc_by(epoch.slice_rows);
        self.slice_bytes.inc_by(epoch.slice_bytes);
        for &(partition, bytes) in &epoch.log_bytes {
            self.log_bytes.get_or_create(&PartitionLabel { partition }).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        for (outcome, count) in [("done", epoch.trims), ("failed", epoch.trims_failed)] {
            if count > 0 {
                self.trims.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
            }
        }
    }

    /// Counts a transaction that is not known to be committed.
    pub fn transaction_failed(&self, error: &TransactError) {
        let outcome = match error {
            TransactError::Failed(_) => "failed",
            TransactError::Maybe(_) => "unknown",
        };
        self.transactions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Notes how many records of a partition are not committed yet.
    pub fn lag(&self, partition: Partition, records: i64) {
        self.source_lag.get_or_create(&PartitionLabel { partition }).set(records);
    }

    /// Stops showing the lag and the log of a partition that is no longer ours.
    pub fn partition_released(&self, partition: Partition) {
        self.log_bytes.remove(&PartitionLabel { partition });
        self.source_lag.remove(&PartitionLabel { partition });
    }

    /// Notes how far the restore of a partition is.
    pub fn restore_at(&self, partition: Partition, restore: &RestoreProgress) {
        let (label, number) = (PartitionLabel { partition }, |number: u64| i64::try_from(number).unwrap_or(i64::MAX));
        self.restore_progress.get_or_create(&label).set(restore.permille() as f64 / 1_000.0);
        self.restore_rows.get_or_create(&label).set(number(restore.rows));
        self.restore_bytes.get_or_create(&label).set(number(restore.bytes));
        if let Some(seconds) = restore.seconds_left() {
            self.restore_left.get_or_create(&label).set(number(seconds));
        }
    }

    /// Stops showing how far the restore of a partition is: it is over, or given up.
    pub fn restore_over(&self, partition: Partition) {
        let label = PartitionLabel { partition };
        self.restore_progress.remove(&label);
        [&self.restore_left, &self.restore_rows, &self.restore_bytes].into_iter().for_each(|family| _ = family.remove(&label));
    }

    /// Counts checkpoint records read by a restore.
    pub fn restore_read(&self, records: u64) {
        self.restore_records.inc_by(records);
    }

    /// Counts a partition whose restore is complete.
    pub fn partition_restored(&self, duration: Duration) {
        self.restores.inc();
        self.restore_duration.observe(duration.as_secs_f64());
    }

    /// Notes how many whole copies of others' partitions are kept, and how long ago the last of them was known to be all that is committed.
    pub fn copies(&self, whole: usize, age: Duration) {
        self.copies.set(i64::try_from(whole).unwrap_or(i64::MAX));
        self.copies_age.set(age.as_secs_f64());
    }

    /// Counts a partition that was taken over from its copy, and how long it took to prove that.
    pub fn taken_over(&self, duration: Duration) {
        self.takeovers.inc();
        self.takeover_duration.observe(duration.as_secs_f64());
    }

    /// Counts an answered HTTP request. `route` is the route's pattern, never its path.
    pub fn http_request(&self, route: &str, code: u16, duration: Duration) {
        self.http_requests.get_or_create(&RequestLabels { route: route.to_owned(), code }).inc();
        self.http_duration.get_or_create(&RouteLabel { route: route.to_owned() }).observe(duration.as_secs_f64());
    }

    /// Counts an HTTP connection as open for as long as the guard lives.
    #[must_use]
    pub fn http_connection(self: &Arc<Self>) -> OpenConnection {
        self.http_connections.inc();
        OpenConnection(Arc::clone(self))
    }

    /// Counts an HTTP connection that was refused because too many are open.
    pub fn http_refused(&self) {
        self.http_refused.inc();
    }

    /// Notes how many instances of the house are known, this one among them, and how many are configured differently from it.
    pub fn instances(&self, known: usize, differing: usize) {
        self.instances.set(known as i64);
        self.instances_differing.set(differing as i64);
    }

    /// Counts a question that was put to another instance.
    pub fn peer_asked(&self, is_answered: bool) {
        let outcome = if is_answered { "answered" } else { "failed" };
        self.peer_questions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// All metrics in the OpenMetrics text format. `objects` is absent where it can't be asked now: then the objects are left out.
    #[must_use]
    pub fn scrape(&self, objects: Option<&Summary>, staleness: Staleness) -> String {
        let _scraping = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.objects.clear();
        for (state, count) in by_state(objects.map_or(&[], Vec::as_slice)) {
            self.objects.get_or_create(&StateLabel { state }).set(count);
        }
        self.stale.set(i64::from(staleness.age_ms.is_some()));
        self.stale_seconds.set(staleness.age_ms.unwrap_or(0) as f64 / 1000.0);
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a String does not fail");
        out
    }

    fn register_flow(&self, to: &mut Registry) {
        to.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        to.register("source_records", "Source records in committed epochs, rejects included", self.source_records.clone());
        to.register("source_lag_records", "Records between what is committed and the partition's end", self.source_lag.clone());
        to.register("rejects", "Source records that could not be used", self.rejects.clone());
        to.register("late_reports", "Reports ignored because a later one of their agent was there", self.late.clone());
        to.register("reports_over_limit", "Reports ignored because their object has too many agents", self.over_limit.clone());
        to.register("unchanged_reports", "Reports that claimed what their agent claimed already", self.unchanged.clone());
        to.register("objects", "Known objects by published state; the empty state is none", self.objects.clone());
        to.register("changes", "Sink records in committed epochs", self.changes.clone());
        to.register("epochs", "Committed epochs, those without a transaction included", self.epochs.clone());
        to.register("transactions", "Transactions: committed, failed, or of unknown outcome", self.transactions.clone());
        let duration = self.transaction_duration.clone();
        to.register("transaction_duration_seconds", "From the first record of a transaction to its commit", duration);
        to.register("stale", "1 while answers are stale: commits fail, or the group may not have us", self.stale.clone());
        to.register("stale_seconds", "For how long answers have been stale", self.stale_seconds.clone());
    }

    fn register_checkpoint(&self, to: &mut Registry) {
        to.register("checkpoint_bytes", "Bytes of checkpoint records in committed epochs", self.checkpoint_bytes.clone());
        to.register("checkpoint_rows", "Checkpoint rows in committed epochs", self.checkpoint_rows.clone());
        to.register("checkpoint_slice_bytes", "Of these, bytes of rows that were repeated in turn", self.slice_bytes.clone());
        to.register("checkpoint_slice_rows", "Of these, rows that were repeated in turn", self.slice_rows.clone());
        to.register("checkpoint_log_bytes", "Bytes of checkpoint records that a restore would read", self.log_bytes.clone());
        to.register("checkpoint_trims", "Times that records before a partition's start were given up: done or failed", self.trims.clone());
        to.register("restores", "Partitions restored", self.restores.clone());
        to.register("restore_records", "Checkpoint records read by restores", self.restore_records.clone());
        to.register(
            "restore_duration_seconds",
            "From a partition's turn to be restored to its being handed over",
            self.restore_duration.clone(),
        );
        to.register("copies", "Whole warm copies of partitions that other instances own", self.copies.clone());
        let age = self.copies_age.clone();
        to.register("copies_age_seconds", "Since the copy that is furthest behind was known to be all that is committed", age);
        to.register("takeovers", "Partitions taken over from a warm copy, without a restore", self.takeovers.clone());
        let duration = self.takeover_duration.clone();
        to.register("takeover_duration_seconds", "From a partition's assignment to the proof that its copy is what is committed", duration);
        let (progress, left) = (self.restore_progress.clone(), self.restore_left.clone());
        to.register("restore_progress_ratio", "How much of a partition's running restore is done, as far as is known", progress);
        to.register("restore_left_seconds", "About how long a partition's running restore still takes", left);
        to.register("restore_read_rows", "Rows that a partition's running restore has read", self.restore_rows.clone());
        to.register("restore_read_bytes", "Bytes that a partition's running restore has read", self.restore_bytes.clone());
    }

    fn register_http(&self, to: &mut Registry) {
        to.register("http_requests", "Answered requests", self.http_requests.clone());
        to.register("http_request_duration_seconds", "From a request's head to its answer's", self.http_duration.clone());
        to.register("http_connections", "Open connections", self.http_connections.clone());
        to.register("http_connections_refused", "Connections refused because too many were open", self.http_refused.clone());
        to.register("instances", "Known instances of the house, this one included", self.instances.clone());
        to.register(
            "instances_differing",
            "Instances that are configured differently from this one: the same reports can give other changes there",
            self.instances_differing.clone(),
        );
        to.register("peer_questions", "Questions to other instances: answered, or failed", self.peer_questions.clone());
    }
}

/// The label values and counts of `statehouse_objects`.
fn by_state(objects: &[(Option<Name>, i64)]) -> Vec<(String, i64)> {
    let mut counts: Vec<_> = objects.iter().map(|(state, count)| (state.as_deref().unwrap_or(NO_STATE).to_owned(), *count)).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest: i64 = counts.drain(STATES_MAX.min(counts.len())..).map(|(_, count)| count).sum();
    if rest > 0 {
        counts.push((OTHER_STATES.to_owned(), rest));
    }
    counts
}

/// An open HTTP connection, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Metrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.http_connections.dec();
    }
}
