//! The made-up house: two partitions, two workers, a log in memory. An object's state is its newest report's; an override pins it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use statehouse::{
    board::{PartitionStanding, Standing},
    config::SourceConfig,
    decode::{Decoder, Scratch},
    desk::{Busy, Desk, DeskParts},
    log::{AppendDone, AppendError, Appender, Record},
    question::{Answer, Ask, Question},
};
use statehouse_dataflows::{
    plan::OnEmpty,
    query::{Explanation, ListQuery, ObjectView, ReportView},
    vocabulary::{Cause, Event, Mask, Name, Partition, Published, Report, Votes},
};
use tokio::sync::watch;

pub(crate) const PARTITIONS: Partition = 2;
const WORKERS: usize = 2;
/// What the house's clock shows.
pub(crate) const NOW_MS: i64 = 1_000_000;

/// The house, shared by its log and its workers.
#[derive(Clone)]
pub(crate) struct Backend {
    world: Arc<Mutex<World>>,
    pub(crate) standing: Arc<watch::Sender<Standing>>,
    /// Of all instances of the house.
    standings: Arc<Mutex<Vec<Arc<watch::Sender<Standing>>>>>,
}

#[derive(Default)]
pub(crate) struct World {
    objects: BTreeMap<(Name, Partition), Object>,
    /// Everything appended, in order.
    pub(crate) log: Vec<(String, Option<String>)>,
    next: [i64; PARTITIONS as usize],
    /// Appends fail with what this makes.
    pub(crate) refuse: Option<fn() -> AppendError>,
    /// Appends are neither done nor refused.
    pub(crate) swallow: bool,
    swallowed: Vec<AppendDone>,
    /// What is appended is not applied.
    pub(crate) held: bool,
    /// What becomes of questions, where it is not an answer.
    pub(crate) questions: Questions,
    kept: Vec<Question>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Questions {
    #[default]
    Answered,
    Dropped,
    Kept,
    Refused,
}

#[derive(Clone, Default)]
struct Object {
    reports: BTreeMap<String, Report>,
    mask: Option<Mask>,
    revision: u64,
}

/// The sum of the name's bytes decides, so that tests can tell: "b" is in partition 0, "a" in 1.
pub(crate) fn partition_of(key: &[u8]) -> Partition {
    key.iter().map(|byte| Partition::from(*byte)).sum::<Partition>() % PARTITIONS
}

fn worker_of(name: &str) -> usize {
    name.len() % WORKERS
}

impl Backend {
    pub(crate) fn new() -> Self {
        let live = (0..PARTITIONS).map(|partition| (partition, PartitionStanding::Live { next_offset: 0 })).collect();
        let standing = Standing { partitions: live, ..Standing::default() };
        let standing = Arc::new(watch::Sender::new(standing));
        Self { world: Arc::default(), standings: Arc::new(Mutex::new(vec![Arc::clone(&standing)])), standing }
    }

    /// Another instance of the same house, which owns nothing.
    pub(crate) fn sibling(&self) -> Self {
        let standing = Arc::new(watch::Sender::new(Standing::default()));
        self.standings.lock().unwrap().push(Arc::clone(&standing));
        Self { world: Arc::clone(&self.world), standings: Arc::clone(&self.standings), standing }
    }

    /// Owns these, and nothing else.
    pub(crate) fn own(&self, partitions: &[Partition]) {
        let next = self.world().next;
        let live = |partition: &Partition| (*partition, PartitionStanding::Live { next_offset: next[*partition as usize] });
        self.standing.send_modify(|standing| standing.partitions = partitions.iter().map(live).collect());
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn desk(&self) -> Desk {
        let house = self.clone();
        Desk::new(DeskParts {
            workers: WORKERS,
            ask: Arc::new(move |worker, question| house.ask(worker, question)),
            worker_of: Arc::new(|_, name| worker_of(name)),
            partition_of: Arc::new(partition_of),
            standing: self.standing.subscribe(),
            appender: Arc::new(self.clone()),
            lapsed_since_ms: Arc::new(|| None),
            wall_ms: Arc::new(|| NOW_MS),
        })
    }

    /// Applies and commits what was held back.
    pub(crate) fn release(&self) {
        let mut world = self.world();
        world.held = false;
        let next = world.next;
        drop(world);
        self.publish(next);
    }

    fn publish(&self, next: [i64; PARTITIONS as usize]) {
        let advance = |standing: &mut Standing| {
            for (partition, how) in &mut standing.partitions {
                if let PartitionStanding::Live { next_offset } = how {
                    *next_offset = next[*partition as usize];
                }
            }
        };
        self.standings.lock().unwrap().iter().for_each(|standing| standing.send_modify(advance));
    }

    fn ask(&self, worker: usize, question: Question) -> Result<(), Busy> {
        let mut world = self.world();
        match world.questions {
            Questions::Refused => return Err(Busy::Full),
            Questions::Dropped => {}
            Questions::Kept => world.kept.push(question),
            Questions::Answered => {
                let answer = world.answer(worker, &question.ask);
                let _ = question.reply.send(answer);
            }
        }
        Ok(())
    }
}

impl Appender for Backend {
    fn append(&self, key: &[u8], value: Option<&[u8]>, done: AppendDone) {
        let mut world = self.world();
        if world.swallow {
            return world.swallowed.push(done);
        }
        if let Some(refuse) = world.refuse {
            return done(Err(refuse()));
        }
        let partition = partition_of(key);
        let offset = world.next[partition as usize];
        world.next[partition as usize] += 1;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        world.log.push((text(key), value.map(text)));
        world.apply(&text(key), value, offset);
        let (held, next) = (world.held, world.next);
        drop(world);
        if !held {
            self.publish(next);
        }
        done(Ok((partition, offset)));
    }
}

impl World {
    fn apply(&mut self, name: &str, value: Option<&[u8]>, offset: i64) {
        let decoder = Decoder::new(&SourceConfig::default()).unwrap();
        let bytes = value.unwrap_or_default();
        let timestamp_ms = 1_000 + offset;
        let record = Record { offset, timestamp_ms, key: None, value: value.map(|_| 0..bytes.len()), agent: None, canonical: true };
        let mut scratch = Scratch::default();
        let event = decoder.decode(&record, bytes, &mut scratch).expect("what http accepts is no reject");
        let key = (Name::from(name), partition_of(name.as_bytes()));
        if event == Event::Purge {
            self.objects.remove(&key);
            return;
        }
        let object = self.objects.entry(key).or_default();
        object.revision = offset as u64 + 1;
        let end = |ms: Option<i64>| ms.map(|ms| timestamp_ms + ms);
        match event {
            Event::Report { agent, state, ts_ms, ttl_ms } => {
                object.reports.insert(agent.to_owned(), Report { state: state.into(), ts_ms, offset, due_ms: end(ttl_ms) });
            }
            Event::Withdraw { agent, .. } => drop(object.reports.remove(agent)),
            Event::Override { state, for_ms } => {
                object.mask = Some(Mask { state: state.into(), since_ms: timestamp_ms, until_ms: end(for_ms) });
            }
            Event::Lift => object.mask = None,
            Event::Purge => unreachable!("handled above"),
        }
    }

    fn answer(&self, worker: usize, ask: &Ask) -> Answer {
        let one = |partition: Partition, name: &Name| {
            assert_eq!((worker_of(name), partition_of(name.as_bytes())), (worker, partition), "{name} was asked of the wrong worker");
            self.objects.get(&(Name::clone(name), partition))
        };
        match ask {
            Ask::Object(partition, name) => Answer::Object(one(*partition, name).map(|object| object.view(name, *partition))),
            Ask::Reports(partition, name) => Answer::Reports(one(*partition, name).map(Object::reports)),
            Ask::Explain(partition, name) => {
                Answer::Explain(one(*partition, name).map(|object| Box::new(object.explain(name, *partition))))
            }
            Ask::List(query, owned) => Answer::List(self.list((worker, owned), query)),
            Ask::Summary(owned) => {
                let mut counts = BTreeMap::<_, i64>::new();
                for view in self.list((worker, owned), &ListQuery { limit: usize::MAX, ..ListQuery::default() }) {
                    *counts.entry(view.published.state.clone()).or_default() += 1;
                }
                Answer::Summary(counts.into_iter().collect())
            }
        }
    }

    fn list(&self, (worker, owned): (usize, &BTreeSet<Partition>), query: &ListQuery) -> Vec<ObjectView> {
        let own = self
            .objects
            .iter()
            .filter(|((name, partition), _)| worker_of(name) == worker && owned.contains(partition) && name.starts_with(&query.prefix));
        let after = own.filter(|(key, _)| query.after.as_ref().is_none_or(|after| *key > after));
        let views = after.map(|((name, partition), object)| object.view(name, *partition));
        let state = |view: &ObjectView| query.state.as_ref().is_none_or(|state| state.as_deref() == view.published.state.as_deref());
        views.filter(state).take(query.limit).collect()
    }
}

impl Object {
    fn view(&self, name: &str, partition: Partition) -> ObjectView {
        let mut weights = BTreeMap::<Name, i64>::new();
        for report in self.reports.values() {
            *weights.entry(Name::clone(&report.state)).or_default() += 1;
        }
        let mut weights: Vec<_> = weights.into_iter().collect();
        weights.sort_by_key(|(_, weight)| -weight);
        let behind = self.reports.values().max_by_key(|report| report.offset).map(|report| Name::clone(&report.state));
        let published = Published {
            state: self.mask.as_ref().map(|mask| Name::clone(&mask.state)).or_else(|| behind.clone()),
            behind,
            mask: self.mask.clone(),
            since_ms: 1_000,
            cause: if self.mask.is_some() { Cause::Override } else { Cause::Vote },
            revision: self.revision,
        };
        let votes = Votes { weights, live: self.reports.len() as i64 };
        ObjectView { object: name.into(), partition, published: published.into(), rule: "latest".into(), votes }
    }

    fn reports(&self) -> Vec<ReportView> {
        let view = |(agent, report): (&String, &Report)| ReportView { agent: agent.as_str().into(), report: report.clone(), weight: 1 };
        self.reports.iter().map(view).collect()
    }

    fn explain(&self, name: &str, partition: Partition) -> Explanation {
        let object = self.view(name, partition);
        Explanation {
            verdict: object.published.behind.clone(),
            object,
            reports: self.reports(),
            prefix: String::new(),
            rule_text: "the newest report's state".into(),
            min_reports: 1,
            on_empty: OnEmpty::Remove,
            why: "the newest report says so".into(),
        }
    }
}
