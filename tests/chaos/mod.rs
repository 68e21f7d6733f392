//! A house of three instances on three brokers under a steady load, disturbed in every way that is at hand, and what an independent
//! verifier finds of it: shared by the short form (`tests/chaos.rs`) and the long one (`benches/chaos.rs`, run by `scripts/chaos`).
//!
//! `faults` does the harm, `workload` reports, `questions` ask; `readers` feed what they see to the `judge`, which is pure and knows the
//! reference, and compares with it the `sink` and the `answers`.
//!
//! Known limitation: brokers, instances and verifier share one machine and one clock.
#![allow(dead_code, reason = "each form uses its part")]

pub(crate) mod answers;
pub(crate) mod dice;
pub(crate) mod faults;
pub(crate) mod instances;
pub(crate) mod judge;
pub(crate) mod questions;
pub(crate) mod readers;
pub(crate) mod sink;
pub(crate) mod told;
pub(crate) mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use statehouse::{config::Config, registry::Registry};
use statehouse_dataflows::vocabulary::{Millis, Partition};

use self::{
    dice::Dice,
    faults::{Done, Faults, Kill, Schedule},
    instances::Instances,
    judge::{Findings, Judge, Seen},
    questions::Watcher,
    readers::{Read, Tail, Tidings},
    workload::Workload,
};
use crate::{cluster::Cluster, proxy::Proxy};

pub(crate) const PARTITIONS: Partition = 6;
pub(crate) const INSTANCES: usize = 3;
const BROKERS: usize = 3;
/// How long the brokers wait for a dead instance.
pub(crate) const SESSION_MS: Millis = 3_000;

/// What a run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) schedule: Schedule,
    pub(crate) workload: Workload,
    /// Whether to keep all that was seen.
    pub(crate) keep: bool,
}

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) findings: Findings,
    pub(crate) kept: Vec<Seen>,
    pub(crate) done: Done,
    pub(crate) told_per_s: u64,
    pub(crate) config: Config,
    /// Logs of everybody. Removed by [`Outcome::tidy`].
    pub(crate) directory: PathBuf,
}

/// Ends all who work until it is over, however the function is left.
struct Ends<'a>(&'a [&'a AtomicBool]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|over| over.store(true, Ordering::SeqCst));
    }
}

/// Runs a house and everything that is done to it.
pub(crate) fn run(options: &Options) -> Outcome {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", options.seed));
    let _of_an_earlier_run = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    let proxies: Vec<Proxy> = (0..BROKERS).map(|_| Proxy::listen()).collect();
    let ports: Vec<u16> = proxies.iter().map(Proxy::port).collect();
    let cluster = Cluster::start(directory.join("brokers"), &ports);
    proxies.iter().zip(&cluster.routes).for_each(|(proxy, route)| proxy.forward_to(&route.to_string()));
    let (config, file) = configure(&directory, &cluster.addresses, options.seed);
    let through = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    // The first instance goes through the proxies.
    let brokers = (0..INSTANCES).map(|slot| if slot == 0 { through.clone() } else { cluster.addresses.clone() }).collect();
    let instances = Instances::new(&directory, &file, brokers);
    (0..INSTANCES).for_each(|slot| instances.start(slot));

    let plan = config.plan(&Registry::new()).expect("a plan");
    let (dice, watcher, tail) = (Dice::new(options.seed), Watcher::default(), Tail::default());
    let (over, ending, told) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let (answers, answered) = mpsc::channel();
    let world = (PARTITIONS, options.workload.objects);
    let (done, read, told_per_s) = thread::scope(|scope| {
        let ends = Ends(&[&over, &ending]);
        let tidings = Tidings { answers: answered, ending: Arc::clone(&ending), keep: options.keep };
        let reader = scope.spawn(|| readers::read(&config, Judge::new(&plan, PARTITIONS), &{ tidings }));
        scope.spawn(|| tail.follow(&config, &over));
        scope.spawn(|| watcher.watch(&instances, world, &over));
        let begun = Instant::now();
        let producer = scope.spawn(|| options.workload.tell(&config, dice.part(1), (&over, &told)));
        for slot in 0..INSTANCES {
            let (instances, over, answers, dice) = (&instances, &over, answers.clone(), dice.part(2 + slot as u64));
            scope.spawn(move || questions::ask(instances, slot, world, dice, (over, answers)));
        }
        let mut faults = Faults::new((&cluster, &proxies), (&instances, &watcher, &tail), &config, dice.part(99));
        let done = faults.run(&options.schedule, &directory);
        over.store(true, Ordering::SeqCst);
        let told_per_s = (told.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()) as u64;
        producer.join().expect("the producer did not panic");
        drop(ends);
        (done, reader.join().expect("the reader did not panic"), told_per_s)
    });
    let Read { judge, kept, committed } = read;
    let mut done = done;
    done.kills.iter_mut().for_each(|kill| kill.open = tail.was_open(kill.at_ms, &kill.partitions, &committed));
    done.troubles.extend(instances.ended().iter().map(|slot| format!("the instance in slot {slot} ended by itself")));
    if done.troubles.is_empty() {
        instances.awake().iter().for_each(|(_, life)| life.terminate());
    }
    cluster.keep_logs(&directory);
    Outcome { findings: judge.finish(), kept, done, told_per_s, config, directory }
}

fn configure(directory: &Path, brokers: &str, seed: u64) -> (Config, PathBuf) {
    let toml = format!(
        "house = \"chaos-{seed}\"\nlog = \"kafka\"\nworkers = 1\n[http]\nlisten = \"127.0.0.1:0\"\nroute = \"local\"\n[commit]\nmin_interval_ms = 20\n\
         [kafka]\nbrokers = \"{brokers}\"\npartitions = {PARTITIONS}\nreplication_factor = 3\nsession_timeout_ms = {SESSION_MS}\n\
         [[rule]]\nrule = \"majority\"\n"
    );
    let file = directory.join("statehouse.toml");
    fs::write(&file, &toml).expect("the configuration is written");
    (Config::parse(&toml).expect("a valid configuration"), file)
}

impl Outcome {
    /// What is not as it must be, in sentences: of the house, not of how it was disturbed.
    pub(crate) fn wrongs(&self) -> Vec<String> {
        let mut wrongs = self.done.troubles.clone();
        if !self.findings.is_clean() {
            wrongs.push(format!("{} chunks are wrong", self.findings.wrong_chunks));
            wrongs.extend(self.findings.said.clone());
        }
        wrongs
    }

    /// Seconds from a kill to the answers of the next owner, over the kills that nothing else disturbed.
    pub(crate) fn takeover_s(&self, share: f64) -> f64 {
        let calm = self.done.kills.iter().filter(|kill| !kill.disturbed);
        let mut took: Vec<Millis> = calm.filter_map(|kill| kill.took_ms).collect();
        took.sort_unstable();
        let at = ((took.len() as f64 * share).ceil() as usize).clamp(1, took.len().max(1)) - 1;
        took.get(at).map_or(f64::NAN, |took_ms| *took_ms as f64 / 1_000.0)
    }

    pub(crate) fn count(&self, what: impl Fn(&Kill) -> bool) -> usize {
        self.done.kills.iter().filter(|kill| what(kill)).count()
    }

    /// Two lines: more of what was found, and the numbers that count.
    pub(crate) fn lines(&self) -> [String; 2] {
        let (found, done) = (&self.findings, &self.done);
        let more = format!(
            "records={} records_per_s={} changes={} rejects={} chunks={} wrong_chunks={} handovers={} answers={} stale_answers={} \
             disturbed_kills={} takeover_p50_s={:.1} takeover_max_s={:.1} faults_by_kind={:?}",
            found.records,
            self.told_per_s,
            found.changes,
            found.rejects,
            found.chunks,
            found.wrong_chunks,
            found.handovers,
            found.answers,
            found.stale_answers,
            self.count(|kill| kill.disturbed),
            self.takeover_s(0.5),
            self.takeover_s(1.0),
            done.by_kind,
        );
        let last = format!(
            "kills={} takeovers={} open_transactions={} faults={} objects={} lost={} repeated={} wrong_answers={} takeover_p99_s={:.1}",
            done.kills.len(),
            self.count(|kill| kill.taken_over),
            self.count(|kill| kill.open),
            done.by_kind.values().sum::<u64>(),
            found.objects,
            found.lost,
            found.repeated,
            found.wrong_answers,
            self.takeover_s(0.99),
        );
        [more, last]
    }

    /// All was well: nobody needs the logs.
    pub(crate) fn tidy(&self) {
        let _left_behind = fs::remove_dir_all(&self.directory);
    }
}

/// The judgement of what was seen once, after it was changed.
pub(crate) fn judge_again(config: &Config, seen: impl IntoIterator<Item = Seen>) -> Findings {
    let plan = config.plan(&Registry::new()).expect("a plan");
    let mut judge = Judge::new(&plan, config.kafka.partitions);
    seen.into_iter().for_each(|seen| judge.see(seen));
    judge.finish()
}

/// How long to wait for something before the run has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
