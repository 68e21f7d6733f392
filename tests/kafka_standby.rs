//! Warm copies on a real Kafka: several of the real program in one house, killed (-9) and restarted under load.
//!
//! What must hold: every object is answered all the time by who has a copy, marked as stale where it is one; partitions are taken over from
//! copies, not restored; and the sink holds, object by object, exactly the changes that the reference makes of the source.
//!
//! `STATEHOUSE_SEED` (a new one each time) is printed with every failure.

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::config::Config;
use tempfile::TempDir;
use ureq::Agent;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/program.rs"]
mod program;
#[path = "support/sink.rs"]
mod sink;

use broker::shared;
use program::{Program, agent};
use sink::Watch;

const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: usize = 4;
const OBJECTS: u64 = 1_000;

/// A house for several instances, and its configuration files.
struct House {
    config: Config,
    directory: TempDir,
    toml: String,
    seed: u64,
    agent: Agent,
}

impl House {
    fn new(story: &str, copies: usize) -> Self {
        let seed = env::var("STATEHOUSE_SEED").map_or_else(
            |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
            |text| text.parse().expect("STATEHOUSE_SEED is a number"),
        );
        let toml = format!(
            "house = \"{story}-{seed}\"\nlog = \"kafka\"\nworkers = 2\n[http]\nlisten = \"127.0.0.1:0\"\nroute = \"local\"\n[standby]\ncopies = {copies}\n\
             [kafka]\nbrokers = \"{}\"\npartitions = {PARTITIONS}\nsession_timeout_ms = 6000\n",
            shared().address
        );
        let config = Config::parse(&toml).unwrap();
        Self { config, directory: tempfile::tempdir().unwrap(), toml, seed, agent: agent() }
    }

    /// The configuration with more in it, as a file.
    fn file(&self, name: &str, more: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        std::fs::write(&file, format!("{}{more}", self.toml)).unwrap();
        file
    }

    /// Sends so many reports, with some pauses.
    fn report(&self, reports: u64) {
        self.report_while(|sent| sent < reports);
    }

    fn report_while(&self, more: impl Fn(u64) -> bool) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.config.kafka.brokers).set("partitioner", "murmur2_random").set("linger.ms", "5");
        let producer: BaseProducer = config.create().expect("a producer");
        let mut random = random(self.seed);
        let topic = self.config.topics().source;
        for n in (0..).take_while(|sent| more(*sent)) {
            let (object, agent) = (object(if n < OBJECTS { n } else { random(OBJECTS) }), random(3));
            let state = ["normal", "under_attack"][random(2) as usize];
            let value = format!(r#"{{"agent":"agent-{agent}","state":"{state}","ts":{n}}}"#);
            let mut record = BaseRecord::to(&topic).key(&object).payload(&value);
            while let Err((_, again)) = producer.send(record) {
                producer.poll(Duration::from_millis(10)); // its queue is full
                record = again;
            }
            if n % 20 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        producer.flush(PATIENCE).expect("everything is delivered");
    }

    fn metric(&self, of: &Program, name: &str) -> f64 {
        let mut answer = self.agent.get(format!("http://{}/metrics", of.address)).call().expect("metrics");
        let text = answer.body_mut().read_to_string().expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    fn takeovers(&self, of: &[Program]) -> f64 {
        of.iter().map(|program| self.metric(program, "statehouse_takeovers_total")).sum()
    }

    fn wait_for(&self, what: &str, mut come: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !come() {
            assert!(begun.elapsed() < PATIENCE, "STATEHOUSE_SEED={}: {what} did not come", self.seed);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every partition has its owner and this many copies.
    fn wait_for_copies(&self, programs: &[Program], copies: usize) {
        self.wait_for("a copy of every partition", || {
            let whole: f64 = programs.iter().map(|program| self.metric(program, "statehouse_copies")).sum();
            whole as usize == copies * PARTITIONS
        });
    }

    /// Asks for an object: the status, and for how long the answer has been stale, if it is.
    fn ask(&self, of: &Program, name: &str) -> (u16, Option<u64>) {
        let answer = self.agent.get(format!("http://{}/v1/objects/{name}", of.address)).call().expect("an answer");
        let lag = answer.headers().get("statehouse-lag-ms").map(|lag| lag.to_str().expect("text").parse().expect("a number"));
        (answer.status().as_u16(), lag)
    }

    fn check_sink(&self) {
        let (expected, published) = (sink::expected(&self.config), sink::published(&self.config));
        sink::compare(&published, &expected, &format!("STATEHOUSE_SEED={}", self.seed));
    }
}

fn object(nth: u64) -> String {
    format!("site-{nth}")
}

fn random(mut state: u64) -> impl FnMut(u64) -> u64 {
    state |= 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    }
}

#[test]
fn a_killed_owner_is_answered_for_and_taken_over_from_copies() {
    let house = House::new("takeover", 1);
    let file = house.file("statehouse.toml", "");
    let mut programs = Vec::new();
    for _ in 0..2 {
        let program = Program::serve(&file);
        program.wait_until_ready(&house.agent);
        programs.push(program);
    }
    house.report(10_000);
    let watch = Watch::new(&house.config);
    watch.wait_until_applied();
    house.wait_for_copies(&programs, 1);
    let names: Vec<_> = (0..OBJECTS).step_by(20).map(object).collect();
    house.wait_for("every object at both", || programs.iter().all(|of| names.iter().all(|name| house.ask(of, name).0 == 200)));
    for name in &names {
        let stale = programs.iter().filter(|of| house.ask(of, name).1.is_some()).count();
        assert_eq!(stale, 1, "{name} is answered by its owner, and by a copy that says so");
    }
    let mut victim = programs.pop().expect("two");
    let heir = programs.pop().expect("two");
    let restores = house.metric(&heir, "statehouse_restores_total");
    victim.kill();
    let mut waiting: BTreeMap<_, _> = names.iter().map(|name| (name, 0_u32)).collect();
    house.wait_for("the heir to own everything", || {
        waiting.retain(|name, asked| {
            let (status, lag) = house.ask(&heir, name);
            *asked += 1;
            assert_eq!(status, 200, "STATEHOUSE_SEED={}: {name} is answered all the time", house.seed);
            lag.is_some()
        });
        waiting.is_empty()
    });
    let taken_over = house.metric(&heir, "statehouse_takeovers_total");
    assert!(taken_over >= 1.0, "from copies");
    assert_eq!(house.metric(&heir, "statehouse_restores_total"), restores, "and nothing was restored");
    house.report(3_000);
    watch.wait_until_applied();
    heir.terminate();
    house.check_sink();
}

#[test]
fn a_rolling_restart_under_load_loses_nothing_and_a_changed_rule_counts_in_the_end() {
    let house = House::new("rolling", 2);
    let same = house.file("same.toml", "");
    let changed = house.file("changed.toml", "[[rule]]\nrule = \"any\"\npriority = [\"under_attack\"]\notherwise = \"normal\"\n");
    let mut programs: Vec<_> = (0..3).map(|_| Program::serve(&same)).collect();
    programs.iter().for_each(|program| program.wait_until_ready(&house.agent));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| house.report_while(|sent| sent < 500_000 && !over.load(Ordering::Relaxed)));
        for nth in 0..3 {
            house.wait_for_copies(&programs, 2);
            // Gone before its successor is there, so that its partitions can go to none but those who have the copies.
            let before = house.takeovers(&programs[..nth]) + house.takeovers(&programs[nth + 1..]);
            programs.remove(nth).terminate();
            house.wait_for("a takeover from a copy", || house.takeovers(&programs) > before);
            programs.insert(nth, Program::serve(&same));
            programs[nth].wait_until_ready(&house.agent);
        }
        over.store(true, Ordering::Relaxed);
    });
    Watch::new(&house.config).wait_until_applied();
    house.check_sink();

    for nth in 0..3 {
        house.wait_for_copies(&programs, 2);
        let old = std::mem::replace(&mut programs[nth], Program::serve(&changed));
        old.terminate();
        programs[nth].wait_until_ready(&house.agent);
    }
    let config = Config::parse(&std::fs::read_to_string(&changed).unwrap()).unwrap();
    let last = |changes: sink::Changes| -> BTreeMap<String, Option<String>> {
        changes.into_iter().map(|(object, changes)| (object, changes.last().expect("one").0.clone())).collect()
    };
    let expected = last(sink::expected(&config));
    house.wait_for("every object under the new rule", || last(sink::published(&config)) == expected);
    programs.into_iter().for_each(Program::terminate);
    assert_eq!(last(sink::published(&config)), expected, "and it stays so");
}
