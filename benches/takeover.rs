//! How long objects are without an owner: several instances of the program on a real Kafka, of which one is killed (-9), and then, with all of them
//! there again, one is stopped in order. Measured is the time until the last of its partitions is answered, not as stale, by another.
//!
//! Starts a broker of its own (`scripts/kafka`) on the same machine. A kill is noticed after the session timeout, counted from the last
//! heartbeat that the brokers had; `over_session_s` is what comes on top, and `proven_s` the mean of what it takes to prove a copy. Prints one line of numbers and the instances' warnings if there are any.
//!
//! `cargo bench --bench takeover -- [instances] [partitions] [copies] [reports] [objects] [agents] [workers]`

#[path = "../tests/support/broker.rs"]
mod broker;
#[path = "../tests/support/program.rs"]
mod program;
#[path = "../tests/support/sink.rs"]
mod sink;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use broker::Broker;
use program::{Program, agent};
use sink::Watch;
use statehouse::config::Config;
use ureq::Agent;

const SESSION: Duration = Duration::from_secs(10);
/// Without an answer for so long, the run has failed.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// Between two questions for the same object.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Copies and instances are settled after so long without a change.
const SETTLING: Duration = Duration::from_secs(5);

fn main() {
    let numbers: Vec<u64> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (instances, partitions, copies) = (number(0, 2) as usize, number(1, 4) as i32, number(2, 1) as usize);
    let shape = (number(3, 4_000_000), number(4, 200_000) as i32, number(5, 5) as i32);
    let broker = Broker::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (config, file) = configure(directory.path(), &broker.address, (partitions, copies, number(6, 1)));
    let source = config.topics().source;
    broker.create_topic(&source, partitions);
    broker.fill(&source, shape);

    let mut house = House { agent: agent(), file, programs: Vec::new(), copies_of_all: copies.min(instances - 1) * partitions as usize };
    house.fill_up(instances);
    wait_until_applied(&Watch::new(&config));
    let kill_s = house.take_over(|mut victim| victim.kill());
    house.fill_up(instances);
    let stop_s = house.take_over(Program::terminate);
    println!(
        "takeover instances={instances} partitions={partitions} copies={copies} reports={} objects={} agents={} kill_s={kill_s:.2} \
         over_session_s={:.2} stop_s={stop_s:.2} from_copies={} proven_s={:.2} restored={}",
        shape.0,
        shape.1,
        shape.2,
        kill_s - SESSION.as_secs_f64(),
        house.sum("statehouse_takeovers_total"),
        house.sum("statehouse_takeover_duration_seconds_sum") / house.sum("statehouse_takeovers_total").max(1.0),
        house.sum("statehouse_restores_total"),
    );
    for line in house.programs.iter().flat_map(Program::complaints).filter(|line| !line.contains("min.insync.replicas")) {
        println!("  {line}");
    }
}

fn wait_until_applied(watch: &Watch) {
    let (begun, end) = (Instant::now(), watch.end());
    while watch.committed() != Some(end) {
        assert!(begun.elapsed() < PATIENCE, "stuck at {:?} of {end}", watch.committed());
        thread::sleep(Duration::from_millis(100));
    }
}

fn configure(directory: &Path, brokers: &str, (partitions, copies, workers): (i32, usize, u64)) -> (Config, PathBuf) {
    let toml = format!(
        "house = \"bench\"\nlog = \"kafka\"\nworkers = {workers}\n[http]\nlisten = \"127.0.0.1:0\"\nroute = \"local\"\n[standby]\ncopies = {copies}\n[kafka]\n\
         brokers = \"{brokers}\"\npartitions = {partitions}\nsession_timeout_ms = {}\n",
        SESSION.as_millis()
    );
    let file = directory.join("statehouse.toml");
    fs::write(&file, &toml).expect("the configuration is written");
    (Config::parse(&toml).expect("a valid configuration"), file)
}

struct House {
    agent: Agent,
    file: PathBuf,
    programs: Vec<Program>,
    copies_of_all: usize,
}

impl House {
    /// So many instances, each with partitions, and all copies.
    fn fill_up(&mut self, instances: usize) {
        while self.programs.len() < instances {
            let program = Program::serve(&self.file);
            program.wait_until_ready(&self.agent);
            self.programs.push(program);
        }
        let begun = Instant::now();
        while self.sum("statehouse_copies") as usize != self.copies_of_all {
            assert!(begun.elapsed() < PATIENCE, "there are {} copies", self.sum("statehouse_copies"));
            thread::sleep(ASK_EVERY);
        }
        thread::sleep(SETTLING);
    }

    /// Ends the last instance; seconds until all that it answered is answered by the others.
    fn take_over(&mut self, end: impl FnOnce(Program) + Send) -> f64 {
        let victim = self.programs.pop().expect("several");
        let mut probes = self.probes(&victim);
        assert!(!probes.is_empty(), "it owned something");
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| end(victim));
            while !probes.is_empty() {
                assert!(begun.elapsed() < PATIENCE, "nobody owns {probes:?}");
                probes.retain(|_, name| !self.programs.iter().any(|of| self.owned(of, name).is_some()));
                thread::sleep(ASK_EVERY);
            }
            begun.elapsed().as_secs_f64()
        })
    }

    /// By partition that it owns: an object.
    fn probes(&self, of: &Program) -> BTreeMap<String, String> {
        let names = (0..2_000).map(|nth| format!("site-{nth:08}.example.com"));
        let owned = names.filter_map(|name| Some((self.owned(of, &name)?, name)));
        owned.collect()
    }

    /// The partition of the object, if this instance answers for it, and not as stale.
    fn owned(&self, of: &Program, name: &str) -> Option<String> {
        let answer = self.agent.get(format!("http://{}/v1/objects/{name}", of.address)).call().ok()?;
        let is_live = answer.status() == 200 && answer.headers().get("statehouse-lag-ms").is_none();
        let position = answer.headers().get("statehouse-position")?.to_str().ok()?;
        is_live.then(|| position.split(':').next().map(str::to_owned)).flatten()
    }

    fn sum(&self, metric: &str) -> f64 {
        let of = |program: &Program| {
            let mut answer = self.agent.get(format!("http://{}/metrics", program.address)).call().expect("metrics");
            let text = answer.body_mut().read_to_string().expect("text");
            let value = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse::<f64>().ok());
            value.unwrap_or_default()
        };
        self.programs.iter().map(of).sum()
    }
}
