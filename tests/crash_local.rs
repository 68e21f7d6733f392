//! The real program on the embedded log, killed (-9) at random moments while clients report over HTTP.
//!
//! Every client has objects of its own and tells one thing at a time, so at a kill at most one thing of each client is in doubt; what the
//! house shows of the object after the restart must be with it or without it, and decides. Everything that was acknowledged must count,
//! and in the end the sink must hold exactly the changes that the reference makes of what counted: none lost, none twice.
//!
//! `STATEHOUSE_CRASHES` (50) and `STATEHOUSE_SEED` (a new one each time) are printed with every failure.

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use statehouse::{config::Config, log::local::open_readable, registry::Registry};
use statehouse_dataflows::{plan::Plan, reference::Reference, vocabulary::Moment};
use ureq::Agent;

#[path = "support/program.rs"]
mod program;
#[path = "support/world.rs"]
mod world;

use program::{Program, agent};
use world::{PATIENCE, Shown, Told, config, random, shown};

const CLIENTS: usize = 8;
const OBJECTS_PER_CLIENT: u64 = 4;

/// What is seen of an object: its state, its override, and each agent's claim. None: not known.
type Seen = Option<(Option<String>, Option<String>, BTreeMap<String, String>)>;

fn see(house: &Program, agent: &Agent, object: &str) -> Seen {
    let mut answer = agent.get(format!("http://{}/v1/objects/{object}/explain", house.address)).call().expect("an answer");
    if answer.status() == 404 {
        return None;
    }
    let text = answer.body_mut().read_to_string().expect("a body");
    assert_eq!(answer.status(), 200, "{text}");
    let view: Value = serde_json::from_str(&text).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let reports = view["reports"].as_array().expect("reports").iter();
    let claims = reports.map(|report| (text(&report["agent"]).expect("an agent"), text(&report["state"]).expect("a state")));
    Some((text(&view["state"]), text(&view["override"]["state"]), claims.collect()))
}

/// One client: what it told, and what the reference makes of what counted.
struct Client {
    number: usize,
    random: Box<dyn FnMut(u64) -> u64 + Send>,
    reference: Reference,
    expected: Vec<Shown>,
    acknowledged: u64,
    in_doubt: Option<Told>,
}

impl Client {
    fn new(number: usize, seed: u64, plan: &Plan) -> Self {
        let random = Box::new(random(seed.wrapping_add(number as u64 + 1)));
        Self { number, random, reference: Reference::new(plan), expected: Vec::new(), acknowledged: 0, in_doubt: None }
    }

    /// Tells one thing after the other until there is no answer.
    fn tell_on(&mut self, agent: &Agent, address: &str, (over, answers): (&AtomicBool, &AtomicU64)) {
        while !over.load(Ordering::Relaxed) {
            let mut told = Told::random(&mut self.random);
            told.object = format!("client-{}-site-{}", self.number, (self.random)(OBJECTS_PER_CLIENT));
            if send(agent, address, &told) {
                self.acknowledged += 1;
                answers.fetch_add(1, Ordering::Relaxed);
                self.counts(&told);
            } else {
                self.in_doubt = Some(told);
                return;
            }
        }
    }

    fn counts(&mut self, told: &Told) {
        let moment = Moment { partition: 0, event: 0, clock_ms: 0, offset: Some(0) };
        for change in self.reference.apply(moment, 0, &told.object, told.event()) {
            let text = |name: Option<&statehouse_dataflows::vocabulary::Name>| name.map(ToString::to_string);
            let (state, previous) = (text(change.state.as_ref()), text(change.previous.as_ref()));
            self.expected.push((told.object.clone(), state, previous, change.cause.as_str().to_owned(), None));
        }
    }

    /// What was in doubt counts if the house shows it; everything must be as the reference has it.
    fn look(&mut self, agent: &Agent, house: &Program, context: &str) {
        if let Some(told) = self.in_doubt.take() {
            let seen = see(house, agent, &told.object);
            if seen != reference_sees(&self.reference, &told.object) {
                self.counts(&told);
            }
        }
        for n in 0..OBJECTS_PER_CLIENT {
            let object = format!("client-{}-site-{n}", self.number);
            assert_eq!(see(house, agent, &object), reference_sees(&self.reference, &object), "{context}: {object} is as it was left");
        }
    }
}

/// Whether it was acknowledged.
fn send(agent: &Agent, address: &str, told: &Told) -> bool {
    let (method, path, body) = told.request();
    let url = format!("http://{address}{path}");
    let sent = if method == "PUT" { agent.put(url).send(&body) } else { agent.delete(url).call() };
    sent.is_ok_and(|answer| answer.status().is_success())
}

fn reference_sees(reference: &Reference, object: &str) -> Seen {
    let key = (object.to_owned(), 0);
    let published = reference.published().remove(&key)?;
    let claims = reference.reports().remove(&key).unwrap_or_default();
    let claims = claims.into_iter().map(|(agent, report)| (agent, report.state.to_string())).collect();
    Some((published.state.map(|state| state.to_string()), published.mask.map(|mask| mask.state.to_string()), claims))
}

fn number(name: &str, otherwise: impl Fn() -> u64) -> u64 {
    env::var(name).map_or_else(|_| otherwise(), |text| text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")))
}

fn write(config: &Config, to: &Path) {
    let local = &config.local;
    let text = format!(
        "house = \"test\"\nworkers = 2\n[local]\npath = {:?}\npartitions = {}\n[http]\nlisten = \"127.0.0.1:0\"\n",
        local.path, local.partitions
    );
    std::fs::write(to, text).expect("the configuration is written");
}

/// The sink's records by object, in order; without offsets, as the reference doesn't know them.
fn by_object(shown: impl IntoIterator<Item = Shown>) -> BTreeMap<String, Vec<Shown>> {
    let mut objects: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
    for (object, state, previous, cause, _) in shown {
        objects.entry(object.clone()).or_default().push((object, state, previous, cause, None));
    }
    objects
}

#[test]
fn no_kill_loses_or_repeats_anything() {
    let crashes = number("STATEHOUSE_CRASHES", || 50);
    let seed = number("STATEHOUSE_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64));
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "[local]\npartitions = 3");
    let plan = config.plan(&Registry::new()).unwrap();
    let file = directory.path().join("statehouse.toml");
    write(&config, &file);
    let agent = agent();
    let mut random = random(seed);
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(number, seed, &plan)).collect();
    for crash in 0..crashes {
        let context = format!("STATEHOUSE_SEED={seed} after crash {crash}");
        if random(4) == 0 {
            Program::serve_shortly(&file, Duration::from_millis(random(60)));
            continue;
        }
        let mut house = Program::serve(&file);
        house.wait_until_ready(&agent);
        let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
        // So many answers, however long the machine takes for them, and then at any moment of what comes next.
        let (wanted, moment) = (random(100), Duration::from_millis(random(15)));
        clients.iter_mut().for_each(|client| client.look(&agent, &house, &context));
        thread::scope(|scope| {
            for client in &mut clients {
                let (agent, address, watch) = (&agent, house.address.clone(), (&over, &answers));
                scope.spawn(move || client.tell_on(agent, &address, watch));
            }
            let begun = Instant::now();
            while answers.load(Ordering::Relaxed) < wanted {
                assert!(begun.elapsed() < PATIENCE, "{context}: {} of {wanted} answers", answers.load(Ordering::Relaxed));
                thread::sleep(Duration::from_micros(200));
            }
            thread::sleep(moment);
            house.kill();
            over.store(true, Ordering::Relaxed);
        });
    }
    let house = Program::serve(&file);
    house.wait_until_ready(&agent);
    clients.iter_mut().for_each(|client| client.look(&agent, &house, &format!("STATEHOUSE_SEED={seed} in the end")));
    house.terminate();
    let (_log, reader) = open_readable(&config.local, &config.house).unwrap();
    let records = (0..3).flat_map(|partition| reader.changes(partition, 0, usize::MAX).unwrap());
    let sink = by_object(records.map(|(_, record)| shown(&record)));
    let expected = by_object(clients.iter().flat_map(|client| client.expected.clone()));
    let acknowledged: u64 = clients.iter().map(|client| client.acknowledged).sum();
    let changes: usize = sink.values().map(Vec::len).sum();
    println!("{crashes} crashes, {acknowledged} acknowledged, {changes} changes, seed {seed}");
    assert!(acknowledged > crashes * 10 && changes as u64 > crashes, "much happens: {acknowledged} acknowledged, {changes} changes");
    for (object, expected) in &expected {
        assert_eq!(sink.get(object), Some(expected), "STATEHOUSE_SEED={seed}: changes of {object}");
    }
    assert_eq!(sink.len(), expected.len(), "STATEHOUSE_SEED={seed}");
}
