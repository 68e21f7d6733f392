//! The whole program on a real Kafka: the reference workload from the topic's beginning until everything is committed, then a restart with
//! everything to restore; and the proof that the sink holds, object by object, exactly the changes that the reference makes of the source.
//!
//! Starts a broker of its own (`scripts/kafka`) on the same machine, whose share of the processors is not counted. `kills` kill -9 fall
//! evenly over the run, the program starting again at once each time; their run counts from the first record, too, so it holds the waits
//! for the dead instance's session. Prints one line of numbers, one with the processor time by thread, and the program's warnings if there
//! are any.
//!
//! `cargo bench --bench kafka -- [reports] [objects] [agents] [kills] [workers]`

#[path = "../tests/support/broker.rs"]
mod broker;
#[path = "../tests/support/program.rs"]
mod program;
#[path = "../tests/support/sink.rs"]
mod sink;
#[path = "workload.rs"]
mod workload;

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
use workload::{CHANGES, DEFAULT_SHAPE};

const PARTITIONS: i32 = 4;
/// Without progress for so long, the run has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory is settled after so long without input.
const SETTLING: Duration = Duration::from_secs(3);

fn main() {
    let numbers: Vec<u64> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let shape = (number(0, 4_000_000), number(1, 200_000) as i32, number(2, 5) as i32);
    let (kills, workers) = (number(3, 0), number(4, 2));
    let broker = Broker::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (config, file) = configure(directory.path(), &broker.address, workers);
    let source = config.topics().source;
    broker.create_topic(&source, PARTITIONS);
    broker.fill(&source, shape);

    let mut bench = Bench { agent: agent(), file, watch: Watch::new(&config), reports: shape.0 as i64, used: Used::default() };
    let (program, run) = bench.ingest(kills);
    let restart = bench.restart(program);
    let (reports, used) = (shape.0 as f64, &bench.used);
    let published = sink::published(&config);
    println!(
        "kafka reports={} objects={} agents={} kills={kills} workers={workers} reports_per_s={:.0} cpu_us_per_report={:.2} \
         commit_p50_ms={:.1} commit_p99_ms={:.1} epochs={} resident_mb={:.0} peak_mb={:.0} checkpoint_bytes_per_report={:.2} \
         restart_s={:.2} restore_s={:.2} restored_resident_mb={:.0} restored_peak_mb={:.0} changes={} complaints={}",
        shape.0,
        shape.1,
        shape.2,
        reports / run.seconds,
        used.cpu_seconds * 1e6 / reports,
        used.commit_ms(0.50),
        used.commit_ms(0.99),
        used.sum("statehouse_transactions_total"),
        run.memory.resident_mb,
        run.memory.peak_mb,
        used.sum("statehouse_checkpoint_bytes_total") / reports,
        restart.seconds,
        restart.restore_seconds,
        restart.memory.resident_mb,
        restart.memory.peak_mb,
        sink::count(&published),
        used.complaints.len(),
    );
    let threads = used.threads.iter().map(|(name, seconds)| format!(" {name}={:.2}", seconds * 1e6 / reports));
    println!("  cpu_us_per_report by thread:{}", threads.collect::<String>());
    used.complaints.iter().for_each(|line| println!("  {line}"));
    sink::compare(&published, &sink::expected(&config), "the house is wrong");
    if shape == DEFAULT_SHAPE {
        assert_eq!(sink::count(&published), CHANGES, "the house is wrong");
    }
}

fn configure(directory: &Path, brokers: &str, workers: u64) -> (Config, PathBuf) {
    let toml = format!(
        "house = \"bench\"\nlog = \"kafka\"\nworkers = {workers}\n[http]\nlisten = \"127.0.0.1:0\"\n[kafka]\nbrokers = \"{brokers}\"\n\
         partitions = {PARTITIONS}\nsession_timeout_ms = 3000\n[[rule]]\nrule = \"majority\"\n"
    );
    let file = directory.join("statehouse.toml");
    fs::write(&file, &toml).expect("the configuration is written");
    (Config::parse(&toml).expect("a valid configuration"), file)
}

struct Bench {
    agent: Agent,
    file: PathBuf,
    watch: Watch,
    reports: i64,
    used: Used,
}

struct Run {
    /// From the first record to everything committed.
    seconds: f64,
    memory: Memory,
}

struct Restart {
    /// From the process's start to its being ready.
    seconds: f64,
    /// The part in which partitions were restored.
    restore_seconds: f64,
    memory: Memory,
}

impl Bench {
    fn ingest(&mut self, kills: u64) -> (Program, Run) {
        let mut program = Program::serve(&self.file);
        program.wait_until_ready(&self.agent);
        let begun = Instant::now();
        for kill in 1..=kills {
            self.wait_until_committed(&mut program, self.reports * kill as i64 / (kills + 1) as i64);
            self.used.by(&program, &self.agent);
            program.kill();
            program = Program::serve(&self.file);
        }
        self.wait_until_committed(&mut program, self.reports);
        let seconds = begun.elapsed().as_secs_f64();
        self.used.by(&program, &self.agent);
        thread::sleep(SETTLING);
        let memory = Memory::of(&program);
        (program, Run { seconds, memory })
    }

    /// An orderly one, so that no dead instance has to be waited for.
    fn restart(&mut self, program: Program) -> Restart {
        program.terminate();
        let begun = Instant::now();
        let program = Program::serve(&self.file);
        program.wait_until_ready(&self.agent);
        let seconds = begun.elapsed().as_secs_f64();
        let restore_seconds = Used::scrape(&program, &self.agent)["statehouse_restore_duration_seconds_sum"];
        thread::sleep(SETTLING);
        self.used.complain(&program);
        let memory = Memory::of(&program);
        program.terminate();
        Restart { seconds, restore_seconds, memory }
    }

    fn wait_until_committed(&self, program: &mut Program, records: i64) {
        let (mut committed, mut heard) = (0, Instant::now());
        while committed < records {
            assert!(program.runs(), "the program ended: {:?}", program.complaints());
            assert!(heard.elapsed() < PATIENCE, "stuck at {committed} of {records}: {:?}", program.complaints());
            thread::sleep(Duration::from_millis(10));
            if let Some(now) = self.watch.committed().filter(|now| *now != committed) {
                (committed, heard) = (now, Instant::now());
            }
        }
    }
}

/// What the run's processes used and counted, together.
#[derive(Default)]
struct Used {
    cpu_seconds: f64,
    /// Seconds of processor time by name of thread.
    threads: BTreeMap<String, f64>,
    metrics: BTreeMap<String, f64>,
    complaints: Vec<String>,
}

impl Used {
    fn by(&mut self, program: &Program, agent: &Agent) {
        for (name, value) in Self::scrape(program, agent) {
            *self.metrics.entry(name).or_default() += value;
        }
        let process = PathBuf::from(format!("/proc/{}", program.id()));
        self.cpu_seconds += cpu_seconds(&process);
        for thread in fs::read_dir(process.join("task")).expect("it runs") {
            let thread = thread.expect("it runs").path();
            let name = fs::read_to_string(thread.join("comm")).expect("a name");
            *self.threads.entry(name.trim().to_owned()).or_default() += cpu_seconds(&thread);
        }
        self.complain(program);
    }

    fn complain(&mut self, program: &Program) {
        // A single broker can't have replicas; the program is right to say so.
        self.complaints.extend(program.complaints().into_iter().filter(|line| !line.contains("min.insync.replicas")));
    }

    fn scrape(program: &Program, agent: &Agent) -> BTreeMap<String, f64> {
        let mut answer = agent.get(format!("http://{}/metrics", program.address)).call().expect("metrics");
        let text = answer.body_mut().read_to_string().expect("text");
        let numbers = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().ok()));
        numbers.filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Over all labels.
    fn sum(&self, metric: &str) -> f64 {
        self.metrics.iter().filter(|(name, _)| name.split('{').next() == Some(metric)).map(|(_, value)| value).sum()
    }

    /// A quantile of the time that commits took, taken to be spread evenly within each bucket of the histogram.
    fn commit_ms(&self, quantile: f64) -> f64 {
        let bound = |name: &str| match name.strip_prefix("statehouse_transaction_duration_seconds_bucket{le=\"")?.strip_suffix("\"}")? {
            "+Inf" => None,
            seconds => seconds.parse::<f64>().ok(),
        };
        let mut buckets: Vec<_> = self.metrics.iter().filter_map(|(name, count)| Some((bound(name)?, *count))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = quantile * self.sum("statehouse_transaction_duration_seconds_count");
        let (mut from, mut below) = (0.0, 0.0);
        for (to, count) in buckets {
            if count >= wanted {
                return 1000.0 * (from + (to - from) * (wanted - below) / (count - below));
            }
            (from, below) = (to, count);
        }
        f64::INFINITY
    }
}

struct Memory {
    resident_mb: f64,
    peak_mb: f64,
}

impl Memory {
    fn of(program: &Program) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", program.id())).expect("it runs");
        let mb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
        };
        Self { resident_mb: mb("VmRSS:"), peak_mb: mb("VmHWM:") }
    }
}

/// User and system, of a process or a thread, since its start.
fn cpu_seconds(of: &Path) -> f64 {
    let stat = fs::read_to_string(of.join("stat")).expect("it runs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect(); // from the third on
    let ticks = |at: usize| fields[at - 3].parse::<f64>().expect("a number");
    (ticks(14) + ticks(15)) / 100.0
}
