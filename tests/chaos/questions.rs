//! Who asks over HTTP: all instances about all objects, all the time, and one that watches which instance answers for each partition.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use statehouse::log::partitioner::murmur2_partition;
use statehouse_dataflows::vocabulary::{Millis, Partition};
use ureq::{Agent, http::Response};

use super::{
    answers::{Answer, What},
    dice::Dice,
    instances::{Instances, Life, now_ms},
    workload::object,
};

/// A paused instance leaves questions without an answer. Longer than a pause ends after, so that some are asked of it before and answered
/// after.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Between two questions of one who asks.
const PACE: Duration = Duration::from_millis(30);
/// The same of who watches.
const WATCH_PACE: Duration = Duration::from_millis(40);
const WATCH_PATIENCE: Duration = Duration::from_millis(400);

fn agent(patience: Duration) -> Agent {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(Some(patience)).build().into()
}

/// Asks this slot's instance, whoever it is, until it is over.
pub(crate) fn ask(
    instances: &Instances,
    slot: usize,
    (partitions, objects): (Partition, u64),
    mut dice: Dice,
    to: (&AtomicBool, Sender<Answer>),
) {
    let (over, answers) = to;
    let agent = agent(PATIENCE);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        let Some(life) = instances.life(slot).filter(|life| life.killed_ms().is_none()) else { continue };
        // Mostly of those that are spoken of most.
        let number = if dice.roll(2) == 0 { dice.roll(objects / 100 + 1) } else { dice.roll(objects) };
        let object = object(number);
        let Some(instance) = id(&agent, &life) else { continue };
        let reports = dice.roll(4) == 0;
        let page = dice.roll(20) == 0;
        let path = match (page, reports) {
            (true, _) => format!("objects?limit=20&prefix=site-{}", dice.roll(objects)),
            (_, true) => format!("objects/{object}/reports"),
            (_, false) => format!("objects/{object}"),
        };
        let sent_ms = now_ms();
        let Some((status, heads, value)) = get(&agent, &life, &path) else { continue };
        let received_ms = now_ms();
        let one = |object: String, partition: Partition, what| Answer {
            partition,
            position: heads.position.get(&partition).copied(),
            object,
            lag_ms: heads.lag_ms,
            sent_ms,
            received_ms,
            instance: instance.clone(),
            what,
        };
        let partition = murmur2_partition(object.as_bytes(), partitions);
        let sent: Vec<Answer> = match (status, page) {
            (200, true) => {
                let items = value["items"].as_array().cloned().unwrap_or_default().into_iter();
                items
                    .filter_map(|item| {
                        Some(one(item["object"].as_str()?.to_owned(), item["partition"].as_i64()? as Partition, What::Object(item)))
                    })
                    .collect()
            }
            (200, false) if reports => vec![one(object, partition, What::Reports(value))],
            (200, false) => vec![one(object, partition, What::Object(value))],
            (404, false) => vec![one(object, partition, What::NotKnown)],
            _ => Vec::new(),
        };
        for answer in sent {
            if answers.send(answer).is_err() {
                return;
            }
        }
    }
}

/// What an instance calls itself in what it commits, too.
fn id(agent: &Agent, life: &Life) -> Option<String> {
    if let Some(known) = life.id.get() {
        return Some(known.clone());
    }
    let (_, _, value) = get(agent, life, "instances")?;
    let here = value["here"].as_str().filter(|here| !here.is_empty())?; // it may not be open yet
    Some(life.id.get_or_init(|| here.to_owned()).clone())
}

struct Heads {
    position: BTreeMap<Partition, i64>,
    lag_ms: Option<Millis>,
}

fn get(agent: &Agent, life: &Life, path: &str) -> Option<(u16, Heads, Value)> {
    let mut answer = agent.get(format!("http://{}/v1/{path}", life.address)).call().ok()?;
    let heads = Heads { position: position(&answer), lag_ms: header(&answer, "statehouse-lag-ms").and_then(|text| text.parse().ok()) };
    let body = answer.body_mut().read_to_string().ok()?;
    Some((answer.status().as_u16(), heads, serde_json::from_str(&body).ok()?))
}

fn header<T>(answer: &Response<T>, name: &str) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn position<T>(answer: &Response<T>) -> BTreeMap<Partition, i64> {
    let text = header(answer, "statehouse-position").unwrap_or_default();
    let pair = |pair: &str| pair.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    text.split(',').filter_map(pair).collect()
}

/// Who answered last for a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) slot: usize,
    pub(crate) life: usize,
    /// When it answered first, without another in between.
    pub(crate) since_ms: Millis,
    /// When it answered last.
    pub(crate) heard_ms: Millis,
}

/// Watches who answers for what.
#[derive(Default)]
pub(crate) struct Watcher {
    owners: Mutex<BTreeMap<Partition, Owner>>,
}

impl Watcher {
    /// Asks on until it is over.
    pub(crate) fn watch(&self, instances: &Instances, (partitions, objects): (Partition, u64), over: &AtomicBool) {
        let agent = agent(WATCH_PATIENCE);
        let probe = |partition| (0..objects).map(object).find(|name| murmur2_partition(name.as_bytes(), partitions) == partition);
        let probes: Vec<String> = (0..partitions).map(|partition| probe(partition).expect("many objects have one")).collect();
        while !over.load(Ordering::Relaxed) {
            for (partition, probe) in (0..).zip(&probes) {
                self.look(&agent, instances, (partition, probe));
            }
            thread::sleep(WATCH_PACE);
        }
    }

    /// By partition: who answered last.
    pub(crate) fn owners(&self) -> BTreeMap<Partition, Owner> {
        self.lock().clone()
    }

    fn look(&self, agent: &Agent, instances: &Instances, (partition, probe): (Partition, &str)) {
        let known = self.lock().get(&partition).copied();
        let mut awake: Vec<(usize, Arc<Life>)> = instances.awake();
        awake.sort_by_key(|(_, life)| known.is_none_or(|known| known.life != life.number));
        for (slot, life) in awake {
            // A stale answer is one of who may have lost it.
            let Some((200 | 404, heads, _)) = get(agent, &life, &format!("objects/{probe}")) else { continue };
            if heads.lag_ms.is_some() || life.killed_ms().is_some() || life.is_paused() {
                continue;
            }
            let heard_ms = now_ms();
            let since_ms = known.filter(|known| known.life == life.number).map_or(heard_ms, |known| known.since_ms);
            self.lock().insert(partition, Owner { slot, life: life.number, since_ms, heard_ms });
            return;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
