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

/// Says so when it is dropped, also by a failing test: whoever goes on until then must not hold it up.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

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

    fn sum(&self, of: &[Program], name: &str) -> f64 {
        of.iter().map(|program| self.metric(program, name)).sum()
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
        self.wait_for("a copy of every partition", || self.sum(programs, "statehouse_copies") as usize == copies * PARTITIONS);
    }

    /// Waits until nobody commits anything any more: no slices either.
    fn wait_until_idle(&self, programs: &[Program]) {
        let written = || self.sum(programs, "statehouse_checkpoint_bytes_total");
        let (mut last, mut since) = (written(), Instant::now());
        self.wait_for("the house to be idle", || {
            let now = written();
            if now.to_bits() != last.to_bits() {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(1)
        });
    }

    /// Asks for an object: the status, and for how long the answer has been stale, if it is.
    fn ask(&self, of: &Program, name: &str) -> (u16, Option<u64>) {
        let answer = self.agent.get(format!("http://{}/v1/objects/{name}", of.address)).call().expect("an answer");
        let lag = answer.headers().get("statehouse-lag-ms").map(|lag| lag.to_str().expect("text").parse().expect("a number"));
        (answer.status().as_u16(), lag)
    }

    /// How many partitions have no owner that this instance knows of.
    fn without_owner(&self, of: &Program) -> usize {
        let mut answer = self.agent.get(format!("http://{}/v1/instances", of.address)).call().expect("an answer");
        let value: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string().expect("text")).expect("JSON");
        value["without_owner"].as_array().expect("a list").len()
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
        let _until_here = Over(&over);
        scope.spawn(|| house.report_while(|_| !over.load(Ordering::Relaxed)));
        for nth in 0..3 {
            house.wait_for_copies(&programs, 2);
            programs.remove(nth).terminate();
            programs.insert(nth, Program::serve(&same));
            programs[nth].wait_until_ready(&house.agent);
        }
    });
    Watch::new(&house.config).wait_until_applied();
    house.check_sink();

    // An epoch that is in flight as the group changes is refused, and what was owned before is restored: only while nothing is committed
    // nothing is. There is nobody but those who have copies.
    house.wait_for_copies(&programs, 2);
    house.wait_until_idle(&programs);
    let old = programs.remove(0);
    let counted = || ["statehouse_takeovers_total", "statehouse_restores_total"].map(|name| house.sum(&programs, name));
    let [taken_over, restored] = counted();
    old.terminate();
    house.wait_for("a takeover from a copy", || counted()[0] > taken_over);
    for program in &programs {
        house.wait_for("everybody to know who owns what", || house.without_owner(program) == 0);
    }
    assert_eq!(counted()[1].to_bits(), restored.to_bits(), "STATEHOUSE_SEED={}: and nothing was restored", house.seed);
    programs.insert(0, Program::serve(&same));
    programs[0].wait_until_ready(&house.agent);

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
