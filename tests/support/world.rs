//! A whole house on the embedded log in a directory of its own, and what should have come out of it.
#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use statehouse::{
    board::PartitionStanding,
    config::Config,
    desk::appended,
    encode::{override_json, report_json},
    house::{Clock, HouseError, HouseHandle, Surroundings, SystemClock, start},
    log::{
        AppendError, Log, RejectRecord,
        local::{LocalReader, open_readable},
    },
    message::Now,
    metrics::Metrics,
    registry::Registry,
};
use statehouse_dataflows::{
    plan::Plan,
    query::{ObjectView, ReportView, Summary},
    reference::Reference,
    vocabulary::{Event, Moment, Offset, Partition},
};
use tokio::runtime::Runtime;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The machine's clocks, moved forward by hand.
#[derive(Clone, Default)]
pub(crate) struct ShiftedClock {
    real: SystemClock,
    shift_ms: Arc<AtomicU64>,
}

impl ShiftedClock {
    pub(crate) fn forward(&self, ms: u64) {
        self.shift_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Now {
        let (now, shift_ms) = (self.real.now(), self.shift_ms.load(Ordering::SeqCst));
        Now { wall_ms: now.wall_ms + shift_ms as i64, monotonic: now.monotonic + Duration::from_millis(shift_ms) }
    }
}

/// A running house.
pub(crate) struct World {
    pub(crate) house: HouseHandle,
    pub(crate) reader: LocalReader,
    pub(crate) clock: ShiftedClock,
    pub(crate) plan: Arc<Plan>,
    pub(crate) metrics: Arc<Metrics>,
    partitions: Partition,
    runtime: Runtime,
}

/// One record of the sink, as far as it doesn't depend on the time of day: object, state, previous state, cause, offset of its record.
pub(crate) type Shown = (String, Option<String>, Option<String>, String, Option<Offset>);

/// A configuration in this directory; `settings` is TOML that follows `house = "test"`.
pub(crate) fn config(directory: &Path, settings: &str) -> Config {
    let mut config = Config::parse_with(&format!("house = \"test\"\n{settings}"), []).expect("a good configuration");
    config.local.path = directory.join("log");
    config
}

impl World {
    /// Starts the house and waits until it can be asked.
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_with(config, |log| log)
    }

    /// The same with some part of the log replaced.
    pub(crate) fn start_with(config: &Config, wrap: impl FnOnce(Log) -> Log) -> Self {
        let world = Self::start_unready(config, wrap).expect("the house starts");
        world.ready();
        world
    }

    pub(crate) fn start_unready(config: &Config, wrap: impl FnOnce(Log) -> Log) -> Result<Self, HouseError> {
        let (log, reader) = open_readable(&config.local, &config.house)?;
        Self::start_on(config, (wrap(log), reader))
    }

    /// Starts the house on this log; it need not be ready yet.
    pub(crate) fn start_on(config: &Config, (log, reader): (Log, LocalReader)) -> Result<Self, HouseError> {
        let plan = Arc::new(config.plan(&Registry::new()).expect("a good plan"));
        let clock = ShiftedClock::default();
        let around = Surroundings { clock: Arc::new(clock.clone()), ..Surroundings::default() };
        let (metrics, partitions) = (Arc::clone(&around.metrics), log.partitions);
        let house = start(config, &plan, log, around)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Ok(Self { house, reader, clock, plan, metrics, partitions, runtime })
    }

    /// Waits until every partition is live and nothing is stale.
    pub(crate) fn ready(&self) {
        self.eventually("every partition is live", || self.is_ready());
    }

    /// Whether every partition is live and nothing is stale.
    pub(crate) fn is_ready(&self) -> bool {
        let standing = self.house.standing().borrow().clone();
        let live = standing.partitions.values().filter(|standing| matches!(standing, PartitionStanding::Live { .. })).count();
        standing.stale_since_ms.is_none() && live == self.partitions as usize
    }

    /// Waits until something holds.
    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}; the house stands at {:?}", self.house.standing().borrow());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Appends all of these (object, value), then waits for every answer.
    pub(crate) fn append(&self, records: &[(String, Option<Vec<u8>>)]) -> Vec<Result<(Partition, Offset), AppendError>> {
        let desk = self.house.desk();
        let appending: Vec<_> = records.iter().map(|(object, value)| desk.begin_append(object, value.as_deref())).collect();
        let all = async {
            let mut places = Vec::new();
            for appending in appending {
                places.push(appended(appending).await);
            }
            places
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, all).await.expect("answers in time") })
    }

    /// Appends all of these, each of which must succeed, and waits until they are applied.
    pub(crate) fn told(&self, told: &[Told]) -> Vec<(Partition, Offset)> {
        let records: Vec<_> = told.iter().map(|told| (told.object.clone(), told.value())).collect();
        let places: Vec<_> = self.append(&records).into_iter().map(|place| place.expect("appended")).collect();
        for place in &places {
            self.applied(*place);
        }
        places
    }

    /// Appends it again for as long as it is definitely not appended, then waits until it is applied.
    pub(crate) fn taken(&self, told: &Told) -> (Partition, Offset) {
        let record = [(told.object.clone(), told.value())];
        let mut place = None;
        self.eventually("it is appended", || {
            match self.append(&record).remove(0) {
                Ok(at) => place = Some(at),
                Err(AppendError::Failed(_)) => {}
                Err(error) => panic!("{error}"),
            }
            place.is_some()
        });
        let place = place.expect("it is appended");
        self.applied(place);
        place
    }

    /// Waits until it is, also while the partition is away for a moment.
    fn applied(&self, place: (Partition, Offset)) {
        self.eventually(&format!("{place:?} is applied"), || self.runtime.block_on(self.house.desk().applied(place, PATIENCE)) == Ok(true));
    }

    pub(crate) fn object(&self, object: &str) -> Option<ObjectView> {
        self.runtime.block_on(self.house.desk().object(object)).expect("it can be asked").value
    }

    pub(crate) fn reports(&self, object: &str) -> Option<Vec<ReportView>> {
        self.runtime.block_on(self.house.desk().reports(object)).expect("it can be asked").value
    }

    pub(crate) fn summary(&self) -> Summary {
        self.runtime.block_on(self.house.desk().summary()).expect("it can be asked").value
    }

    /// Everything on the sink, partition by partition.
    pub(crate) fn sink(&self) -> Vec<Shown> {
        let records = |partition| self.reader.changes(partition, 0, usize::MAX).expect("it can be read");
        (0..self.partitions).flat_map(records).map(|(_, record)| shown(&record)).collect()
    }

    pub(crate) fn rejects(&self) -> Vec<RejectRecord> {
        let records = |partition| self.reader.rejects(partition, 0, usize::MAX).expect("it can be read");
        (0..self.partitions).flat_map(records).map(|(_, record)| record).collect()
    }

    pub(crate) fn stop(self) -> Result<(), HouseError> {
        self.house.stop();
        self.house.wait()
    }

    /// Waits for a house that ends by itself.
    pub(crate) fn ended(self) -> Result<(), HouseError> {
        self.house.wait()
    }
}

/// Something told over HTTP, without a time of its own.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) object: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Report(String, Option<String>),
    Override(Option<String>),
    Purge,
}

impl Told {
    pub(crate) fn report(object: &str, agent: &str, state: &str) -> Self {
        Self { object: object.into(), what: What::Report(agent.into(), Some(state.into())) }
    }

    pub(crate) fn withdraw(object: &str, agent: &str) -> Self {
        Self { object: object.into(), what: What::Report(agent.into(), None) }
    }

    pub(crate) fn pin(object: &str, state: Option<&str>) -> Self {
        Self { object: object.into(), what: What::Override(state.map(str::to_owned)) }
    }

    pub(crate) fn purge(object: &str) -> Self {
        Self { object: object.into(), what: What::Purge }
    }

    /// The `n`-th of a reproducible sequence over few objects, agents and states, so that much happens.
    pub(crate) fn random(random: &mut impl FnMut(u64) -> u64) -> Self {
        let object = format!("site-{}", random(30));
        let agent = format!("agent-{}", random(4));
        match random(40) {
            0 => Self::purge(&object),
            1 => Self::pin(&object, Some("pinned")),
            2 => Self::pin(&object, None),
            3..6 => Self::withdraw(&object, &agent),
            _ => Self::report(&object, &agent, ["up", "down", "odd"][random(3) as usize]),
        }
    }

    pub(crate) fn value(&self) -> Option<Vec<u8>> {
        match &self.what {
            What::Report(agent, state) => Some(report_json(agent, state.as_deref(), None, None)),
            What::Override(state) => Some(override_json(state.as_deref(), None)),
            What::Purge => None,
        }
    }

    /// The HTTP request that tells it: method, path, body.
    pub(crate) fn request(&self) -> (&'static str, String, String) {
        let object = format!("/v1/objects/{}", self.object);
        match &self.what {
            What::Report(agent, Some(state)) => ("PUT", format!("{object}/reports/{agent}"), format!("{{\"state\":\"{state}\"}}")),
            What::Report(agent, None) => ("DELETE", format!("{object}/reports/{agent}"), String::new()),
            What::Override(Some(state)) => ("PUT", format!("{object}/override"), format!("{{\"state\":\"{state}\"}}")),
            What::Override(None) => ("DELETE", format!("{object}/override"), String::new()),
            What::Purge => ("DELETE", object, String::new()),
        }
    }

    pub(crate) fn event(&self) -> Event<'_> {
        match &self.what {
            What::Report(agent, Some(state)) => Event::Report { agent, state, ts_ms: 0, ttl_ms: None },
            What::Report(agent, None) => Event::Withdraw { agent, ts_ms: 0 },
            What::Override(Some(state)) => Event::Override { state, for_ms: None },
            What::Override(None) => Event::Lift,
            What::Purge => Event::Purge,
        }
    }
}

/// What the reference shows for these, at their places.
pub(crate) fn expected(plan: &Plan, told: &BTreeMap<(Partition, Offset), Told>) -> Vec<Shown> {
    let mut reference = Reference::new(plan);
    let mut shown = Vec::new();
    for ((partition, offset), told) in told {
        let moment = Moment { partition: *partition, event: 0, clock_ms: 0, offset: Some(*offset) };
        for change in reference.apply(moment, 0, &told.object, told.event()) {
            let text = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
            // A tombstone doesn't say where it comes from.
            let offset = change.state.is_some().then_some(change.offset).flatten();
            shown.push((told.object.clone(), text(&change.state), text(&change.previous), change.cause.as_str().to_owned(), offset));
        }
    }
    shown
}

pub(crate) fn shown(record: &statehouse::log::SinkRecord) -> Shown {
    let key = record.key.to_string();
    let Some(value) = &record.value else {
        let header = |name| record.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.clone());
        return (key, None, header("statehouse-previous"), header("statehouse-cause").expect("a cause"), None);
    };
    let value: Value = serde_json::from_slice(value).expect("JSON");
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    (key, text("state"), text("previous"), text("cause").expect("a cause"), value["source"]["offset"].as_i64())
}

/// Reproducible numbers below a bound.
pub(crate) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    }
}
