//! What is done to the house, in a seeded order: one thing after the other, each healed before the next, and some at once.

use std::{
    collections::BTreeMap,
    fmt,
    fs::OpenOptions,
    io::Write,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    metadata::MetadataTopic,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::config::Config;
use statehouse_dataflows::vocabulary::{Millis, Partition};

use super::{
    PARTITIONS, PATIENCE, SESSION_MS,
    dice::Dice,
    instances::{Instances, Life, now_ms},
    questions::{Owner, Watcher},
    readers::Tail,
    workload::object,
};
use crate::{
    cluster::Cluster,
    proxy::{Proxy, Way},
};

/// The kinds of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An instance is killed; it is started again when another has taken over.
    Kill,
    /// The same, started again at once.
    KillAndRestart,
    /// An instance is killed while something else is wrong.
    KillDisturbed,
    /// An instance is stopped for longer than its session, and goes on.
    PauseInstance,
    KillBroker,
    PauseBroker,
    RollingRestart,
    /// Connections between an instance and the brokers are cut or go dead.
    Proxy,
    /// A stranger's transaction stays open on one of the topics.
    ForeignTransaction,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How much harm, in which order.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    /// Just these.
    These(Vec<Fault>),
    /// So many kills, with everything else in between, within the time.
    Kills(usize, Duration),
}

/// A kill of an instance that owned partitions.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    pub(crate) at_ms: Millis,
    pub(crate) partitions: Vec<Partition>,
    /// Whether something else was wrong meanwhile.
    pub(crate) disturbed: bool,
    /// From the kill until all its partitions were answered for again.
    pub(crate) took_ms: Option<Millis>,
    /// Whether all of them were, then, by other instances.
    pub(crate) taken_over: bool,
    /// Whether it left a transaction open.
    pub(crate) open: bool,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) kills: Vec<Kill>,
    pub(crate) by_kind: BTreeMap<Fault, u64>,
    /// What did not heal.
    pub(crate) troubles: Vec<String>,
}

/// Does it.
pub(crate) struct Faults<'a> {
    cluster: &'a Cluster,
    proxies: &'a [Proxy],
    instances: &'a Instances,
    watcher: &'a Watcher,
    tail: &'a Tail,
    config: &'a Config,
    client: BaseConsumer,
    dice: Dice,
    foreign: usize,
    done: Done,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(
        (cluster, proxies): (&'a Cluster, &'a [Proxy]),
        (instances, watcher, tail): (&'a Instances, &'a Watcher, &'a Tail),
        config: &'a Config,
        dice: Dice,
    ) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.kafka.brokers).set("log_level", "2");
        let client = client.create().expect("a client");
        Self { cluster, proxies, instances, watcher, tail, config, client, dice, foreign: 0, done: Done::default() }
    }

    /// Does what the schedule says, and ends with everything healed.
    pub(crate) fn run(&mut self, schedule: &Schedule, directory: &Path) -> Done {
        let mut log = OpenOptions::new().create(true).append(true).open(directory.join("chaos.log")).expect("a log");
        let (begun, mut next) = (Instant::now(), 0);
        let mut outcome = self.heal("the start");
        while outcome.is_ok()
            && let Some(fault) = self.next(schedule, next, begun)
        {
            next += 1;
            *self.done.by_kind.entry(fault).or_default() += 1;
            let at_ms = now_ms();
            outcome = self.act(fault);
            let kill = if fault <= Fault::KillDisturbed { self.done.kills.last() } else { None };
            let line = format!("{at_ms} {next} {fault}: {outcome:?} {kill:?}");
            writeln!(log, "{line}").expect("the log is written");
            println!("{line}");
        }
        self.done.troubles.extend(outcome.err());
        self.done.clone()
    }

    fn next(&mut self, schedule: &Schedule, next: usize, begun: Instant) -> Option<Fault> {
        let (kills, within) = match schedule {
            Schedule::These(faults) => return faults.get(next).copied(),
            Schedule::Kills(kills, within) => (*kills, *within),
        };
        if self.done.kills.len() >= kills || begun.elapsed() > within {
            return None;
        }
        // Each kind once in the first forty, then as they fall.
        let others =
            [Fault::PauseInstance, Fault::Proxy, Fault::ForeignTransaction, Fault::KillBroker, Fault::PauseBroker, Fault::RollingRestart];
        if next % 6 == 5 && next / 6 < others.len() {
            return Some(others[next / 6]);
        }
        Some(match self.dice.roll(100) {
            0..4 => Fault::PauseInstance,
            4..8 => Fault::Proxy,
            8..11 => Fault::ForeignTransaction,
            11..13 => Fault::KillBroker,
            13..14 => Fault::PauseBroker,
            14..24 => Fault::KillDisturbed,
            24..38 => Fault::KillAndRestart,
            _ => Fault::Kill,
        })
    }

    fn act(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill => self.kill(false, false)?,
            Fault::KillAndRestart => self.kill(true, false)?,
            Fault::KillDisturbed => self.kill_disturbed()?,
            Fault::PauseInstance => self.pause_instance(),
            Fault::KillBroker => {
                let broker = self.broker();
                self.cluster.kill(broker);
                self.sleep(1_000, 4_000);
                self.cluster.start_again(broker);
            }
            Fault::PauseBroker => {
                let broker = self.broker();
                self.cluster.pause(broker);
                self.sleep(2_000, 6_000);
                self.cluster.go_on(broker);
            }
            Fault::RollingRestart => {
                for broker in 1..=self.cluster.count() {
                    self.cluster.restart(broker);
                    self.await_replicas()?;
                }
            }
            Fault::Proxy => {
                self.disturb_route();
                self.sleep(1_000, 6_000);
                mend(self.proxies);
            }
            Fault::ForeignTransaction => {
                let (open, commits) = self.open_foreign();
                self.sleep(1_000, 4_000);
                close(&open, commits)?;
            }
        }
        self.heal(&fault.to_string())
    }

    /// kill -9 of an instance that owns something, most likely in the middle of a transaction.
    fn kill(&mut self, restarts: bool, disturbed: bool) -> Result<(), String> {
        let Some((slot, life, partitions)) = self.victim() else { return Err("no instance owns anything".to_owned()) };
        self.tail.kill(&life, &partitions, Duration::from_secs(5));
        let at_ms = life.killed_ms().expect("it was killed");
        if restarts {
            self.instances.start(slot);
        }
        let owners = self.wait(&format!("the takeover from instance {}", life.number), |owners, _| {
            partitions
                .iter()
                .all(|partition| owners.get(partition).is_some_and(|owner| owner.life != life.number && owner.heard_ms > at_ms))
        });
        let took = |owners: &BTreeMap<Partition, Owner>| partitions.iter().map(|partition| owners[partition].since_ms).max();
        let (took_ms, taken_over) = match &owners {
            Ok(owners) => {
                let by_others = partitions.iter().all(|partition| owners[partition].slot != slot);
                (took(owners).map(|last_ms| last_ms - at_ms), by_others)
            }
            Err(_) => (None, false),
        };
        self.done.kills.push(Kill { at_ms, partitions, disturbed, took_ms, taken_over, open: false });
        owners?;
        if !restarts {
            self.instances.start(slot);
        }
        Ok(())
    }

    fn kill_disturbed(&mut self) -> Result<(), String> {
        match self.dice.roll(3) {
            0 => {
                self.disturb_route();
                self.sleep(0, 2_000);
                let at = Instant::now();
                let proxies = self.proxies;
                thread::scope(|scope| {
                    // Who reaches some brokers and not others may hold partitions that it can do nothing for as long as that lasts.
                    scope.spawn(move || {
                        thread::sleep(Duration::from_secs(5).saturating_sub(at.elapsed()));
                        mend(proxies);
                    });
                    self.kill(false, true)
                })
            }
            1 => {
                let (open, commits) = self.open_foreign();
                self.sleep(0, 500);
                let at = Instant::now();
                thread::scope(|scope| {
                    // Whoever takes over may have to wait for it.
                    let ends = scope.spawn(|| {
                        thread::sleep(Duration::from_secs(4).saturating_sub(at.elapsed()));
                        close(&open, commits)
                    });
                    let outcome = self.kill(false, true);
                    ends.join().expect("it does not panic").and(outcome)
                })
            }
            _ => {
                let broker = self.broker();
                self.cluster.pause(broker);
                self.sleep(0, 1_000);
                let at = Instant::now();
                let cluster = self.cluster;
                thread::scope(|scope| {
                    scope.spawn(move || {
                        thread::sleep(Duration::from_secs(5).saturating_sub(at.elapsed()));
                        cluster.go_on(broker);
                    });
                    self.kill(false, true)
                })
            }
        }
    }

    /// Longer than its session: another takes over, and it wakes as a zombie.
    fn pause_instance(&mut self) {
        let Some((_, life, _)) = self.victim() else { return };
        life.pause();
        self.sleep(SESSION_MS as u64 + 1_500, 4_000);
        life.go_on();
    }

    fn victim(&mut self) -> Option<(usize, Arc<Life>, Vec<Partition>)> {
        let owners = self.watcher.owners();
        let mut having: Vec<(usize, Arc<Life>, Vec<Partition>)> = Vec::new();
        for (slot, life) in self.instances.awake() {
            let its = owners.iter().filter(|(_, owner)| owner.life == life.number).map(|(partition, _)| *partition);
            let its: Vec<Partition> = its.collect();
            if !its.is_empty() {
                having.push((slot, life, its));
            }
        }
        let at = self.dice.roll(having.len().max(1) as u64) as usize;
        having.into_iter().nth(at)
    }

    fn broker(&mut self) -> usize {
        self.dice.roll(self.cluster.count() as u64) as usize + 1
    }

    fn disturb_route(&mut self) {
        let way = [Way::Cut, Way::Swallow, Way::SwallowAnswers][self.dice.roll(3) as usize];
        // Of one broker, or of all.
        let all = self.dice.roll(2) == 0;
        let one = self.dice.roll(self.proxies.len() as u64) as usize;
        self.proxies.iter().enumerate().filter(|(at, _)| all || *at == one).for_each(|(_, proxy)| proxy.set(way));
    }

    /// A record of a stranger's transaction in one of the topics, and whether that is to be committed.
    fn open_foreign(&mut self) -> (BaseProducer, bool) {
        self.foreign += 1;
        let topics = self.config.topics();
        let (topic, commits) = [(&topics.source, true), (&topics.source, false), (&topics.sink, false), (&topics.checkpoint, false)]
            [self.dice.roll(4) as usize];
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.config.kafka.brokers).set("transactional.id", format!("stranger-{}", self.foreign));
        client.set("partitioner", "murmur2_random").set("log_level", "2");
        let producer: BaseProducer = client.create().expect("a producer");
        producer.init_transactions(PATIENCE).expect("started");
        producer.begin_transaction().expect("begun");
        let object = object(self.dice.roll(100));
        let value = r#"{"agent":"stranger","state":"normal"}"#;
        producer.send(BaseRecord::to(topic).key(&object).payload(value)).expect("room");
        producer.flush(PATIENCE).expect("delivered");
        (producer, commits)
    }

    /// Waits until all replicas are in sync, every partition is answered for, and nobody ended who should not have.
    fn heal(&mut self, after: &str) -> Result<(), String> {
        self.await_replicas()?;
        let healed = self.wait(&format!("all to be well after {after}"), |owners, instances| {
            let awake = instances.awake();
            let calm = |owner: &Owner| now_ms() - owner.heard_ms < 1_000 && now_ms() - owner.since_ms > 700;
            let lives = |owner: &Owner| awake.iter().any(|(_, life)| life.number == owner.life);
            let each = awake.iter().all(|(_, life)| owners.values().any(|owner| owner.life == life.number));
            owners.len() == PARTITIONS as usize && owners.values().all(|owner| calm(owner) && lives(owner)) && each
        });
        healed.map(|_| ())
    }

    fn wait(
        &self,
        what: &str,
        is_so: impl Fn(&BTreeMap<Partition, Owner>, &Instances) -> bool,
    ) -> Result<BTreeMap<Partition, Owner>, String> {
        let begun = Instant::now();
        loop {
            let owners = self.watcher.owners();
            if is_so(&owners, self.instances) {
                return Ok(owners);
            }
            if let Some(slot) = self.instances.ended().first() {
                return Err(format!("the instance in slot {slot} ended by itself, while waiting for {what}"));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("waited in vain for {what}; who answered last: {owners:?}; now {}", now_ms()));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn await_replicas(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let metadata = self.client.fetch_metadata(None, Duration::from_secs(5));
            let whole = metadata.is_ok_and(|metadata| {
                let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
                metadata.brokers().len() == self.cluster.count()
                    && partitions
                        .into_iter()
                        .all(|partition| partition.isr().len() == partition.replicas().len() && partition.leader() >= 0)
            });
            if whole {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err("replicas did not come into sync".to_owned());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn sleep(&mut self, least_ms: u64, more_ms: u64) {
        let more_ms = self.dice.roll(more_ms);
        thread::sleep(Duration::from_millis(least_ms + more_ms));
    }
}

fn mend(proxies: &[Proxy]) {
    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
}

fn close(foreign: &BaseProducer, commits: bool) -> Result<(), String> {
    let outcome = if commits { foreign.commit_transaction(PATIENCE) } else { foreign.abort_transaction(PATIENCE) };
    outcome.map_err(|error| format!("the stranger's transaction does not end: {error}"))
}
