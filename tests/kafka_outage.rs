//! Brokers that are gone: for a moment, for longer than every timeout, killed, stopped, cut off, or there and silent. Nothing of the house
//! ends or hangs, answers stay at the last committed epoch and say how old they are, and after it everything goes on by itself.
//!
//! Each test has the one broker for itself and reaches it through a proxy. `STATEHOUSE_OUTAGES` is how many short outages the program
//! meets at the end (3 unless set), `STATEHOUSE_SEED` which; it is printed with every failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    ops::ControlFlow,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::{
    config::Config,
    log::{Log, LogError, Polled, TransactError},
};
use ureq::Agent;

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;
#[path = "support/program.rs"]
mod program;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/sink.rs"]
mod sink;

use broker::Broker;
use kafka_house::{House, PARTITIONS, PATIENCE, append, await_partitions, epoch, known, pieces, poll_until};
use program::{Program, agent};
use proxy::{Proxy, Way};
use sink::Watch;

/// Short, so that an outage outlasts them soon.
const SESSION: Duration = Duration::from_secs(3);
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(2);
const SOCKET_TIMEOUT: Duration = Duration::from_secs(1);
/// After the house has noticed that the brokers are gone, they stay away for so long: past every timeout of that.
const AWAY: Duration = Duration::from_secs(5);
/// What memory may grow by from the first recovery on; a partition's queue or an epoch is far larger than what a leak of a client would be,
/// so only many outages tell much.
const GROWTH_KIB_MAX: u64 = 64 << 10;

/// What the client names its connections' threads.
const CONNECTION: &str = "rdk:broker";
/// How many connections a client has at most, with one broker: that one, those that it was told of at the start, and the coordinators.
const CONNECTIONS_MAX: usize = 4;

struct Site {
    broker: Broker,
    proxy: Proxy,
}

/// The broker behind its proxy, for one test at a time.
fn site() -> (&'static Site, MutexGuard<'static, ()>) {
    static SITE: OnceLock<Site> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = SITE.get_or_init(|| {
        let proxy = Proxy::listen();
        let broker = Broker::start_behind(proxy.port());
        proxy.forward_to(broker.behind_address.as_ref().expect("a listener behind the proxy"));
        Site { broker, proxy }
    });
    site.proxy.delay(0);
    site.proxy.set(Way::Open); // whatever a failed test left
    (site, turn)
}

impl Site {
    /// A house whose clients pass through the proxy.
    fn house(&self) -> House {
        let mut house = House::on(&self.broker);
        house.brokers.clone_from(&self.proxy.address);
        house.transaction_timeout = TRANSACTION_TIMEOUT;
        house.properties = format!("'socket.timeout.ms' = {}", SOCKET_TIMEOUT.as_millis());
        house
    }
}

/// Starts over until epoch `n + 1` is committed, where `n` is what is committed; the group may have to be joined again meanwhile.
fn commit_next(log: &mut Log) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        log.committer.recover(&|| Instant::now() < deadline).expect("recovered");
        match log.source.poll(Duration::from_millis(50)).expect("polled") {
            Polled::Revoked { partitions, .. } => log.source.release(&partitions).expect("released"),
            Polled::Assigned(_) => {}
            _ => {
                let outcome = log.checkpoint.progress(0);
                if let Ok(progress) = outcome {
                    let n = progress.map_or(0, |(_, progress)| progress.n) + 1;
                    if log.committer.transact(epoch(n as i64, n)).is_ok() {
                        return n;
                    }
                }
            }
        }
        assert!(Instant::now() < deadline, "nothing is committed any more");
    }
}

/// Kinds of requests, in the order in which a transaction sends them, by their API keys; and whether what was asked is then surely committed.
const STEPS: [(&str, i16, bool); 4] =
    [("AddPartitionsToTxn", 24, false), ("AddOffsetsToTxn", 25, false), ("TxnOffsetCommit", 28, false), ("EndTxn", 26, true)];

#[test]
fn a_commit_that_hangs_is_given_up() {
    let (site, _turn) = site();
    let house = site.house();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    let mut n = 1;
    for way in [Way::Swallow, Way::Cut] {
        site.proxy.set(way);
        let began = Instant::now();
        let error = log.committer.transact(epoch(n as i64 + 1, n + 1)).expect_err("nobody answers");
        println!("{way:?}: given up after {} ms: {error}", began.elapsed().as_millis());
        let outcome = log.committer.recover(&|| false);
        assert!(matches!(outcome, Err(LogError::Unavailable(_))), "there is nobody to start over with, and it says so: {outcome:?}");
        site.proxy.set(Way::Open);
        let began = Instant::now();
        let next = commit_next(&mut log);
        println!("{way:?}: commits again after {} ms", began.elapsed().as_millis());
        assert_eq!(next, n + 1, "{way:?}: nothing came through");
        n = next;
    }
    for (step, api_key, is_committed) in STEPS {
        site.proxy.swallow_answers_from(api_key);
        let began = Instant::now();
        let error = log.committer.transact(epoch(n as i64 + 1, n + 1)).expect_err("nobody answers");
        println!("{step}: given up after {} ms: {error}", began.elapsed().as_millis());
        site.proxy.set(Way::Open);
        let began = Instant::now();
        let next = commit_next(&mut log);
        println!("{step}: commits again after {} ms", began.elapsed().as_millis());
        let is_maybe = matches!(error, TransactError::Maybe(_));
        assert!(is_maybe || !is_committed, "{step}: nobody knows: {error}");
        // Who was given up in the middle of a call may wake up before its successor fences it, and commit after all.
        let (least, most) = (n + 1 + u64::from(is_committed), n + 1 + u64::from(is_maybe));
        assert!((least..=most).contains(&next), "{step}: {next} after {n}");
        n = next;
    }
    let expected: Vec<_> = (1..=n).map(|n| format!("chunk {n} of 1")).collect();
    assert_eq!(pieces(&mut log, 1), expected, "each once");
}

#[test]
fn brokers_far_away_are_reached_in_the_end() {
    let (site, _turn) = site();
    let mut house = site.house();
    house.transaction_timeout = Duration::from_secs(20);
    house.properties = String::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    site.proxy.delay(500); // a second for a question and its answer, and a start asks some, one after the other
    let outcome = log.committer.recover(&|| false);
    assert!(matches!(outcome, Err(LogError::Unavailable(_))), "one try is too short: {outcome:?}");
    let began = Instant::now();
    log.committer.recover(&|| began.elapsed() < PATIENCE).expect("recovered");
    println!("recovered in {} ms", began.elapsed().as_millis());
    site.proxy.delay(0);
    log.committer.transact(epoch(1, 1)).expect("committed");
}

#[test]
fn a_restore_that_hangs_is_told_and_asked_again() {
    let (site, _turn) = site();
    let house = site.house();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    assert!(known(|| log.checkpoint.progress(0)).is_some());
    assert_eq!(pieces(&mut log, 0), ["chunk 1 of 0"]);
    site.proxy.set(Way::Swallow);
    let error = log.checkpoint.read(0, 0, &mut |_, _| panic!("nothing comes through")).expect_err("nobody answers");
    assert!(matches!(error, LogError::Unavailable(_)), "{error}");
    site.proxy.set(Way::Open);
    let read = known(|| {
        let mut read = 0;
        log.checkpoint.read(0, 0, &mut |_, _| {
            read += 1;
            ControlFlow::Continue(())
        })?;
        Ok(read)
    });
    assert_eq!(read, 1);
    // The committed offset is asked for until it is known.
    site.proxy.set(Way::Swallow);
    let Log { mut checkpoint, source, .. } = log;
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(known(|| checkpoint.progress(1))));
    assert!(outcome.recv_timeout(2 * SOCKET_TIMEOUT).is_err(), "nobody answers");
    site.proxy.set(Way::Open);
    let progress = outcome.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(progress.map(|(offset, progress)| (offset, progress.n)), Some((1, 1)));
    drop(source);
}

#[test]
fn partitions_whose_fetches_hang_are_behind() {
    let (site, _turn) = site();
    let house = site.house();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    for partition in 0..PARTITIONS {
        log.source.begin(partition, 0).expect("begun");
    }
    let mut caught_up = BTreeSet::new();
    let mut follow = |polled: Polled, count: usize| {
        match polled {
            Polled::CaughtUp(partition) => drop(caught_up.insert(partition)),
            Polled::Behind(partition) => drop(caught_up.remove(&partition)),
            _ => {}
        }
        caught_up.len() == count
    };
    for way in [Way::Swallow, Way::Cut] {
        poll_until(&mut log, |polled| follow(polled, 3));
        site.proxy.set(way);
        let began = Instant::now();
        poll_until(&mut log, |polled| follow(polled, 0));
        println!("{way:?}: all behind after {} ms", began.elapsed().as_millis());
        site.proxy.set(Way::Open);
    }
    poll_until(&mut log, |polled| follow(polled, 3));
    let place = append(&log, "o", Some("1"));
    poll_until(&mut log, |polled| matches!(polled, Polled::Records(batch) if (batch.partition, batch.records[0].offset) == place));
}

/// Reports about 300 times a second, not through the proxy, until told to stop.
fn report(brokers: &str, topic: &str, over: &AtomicBool) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("partitioner", "murmur2_random").set("enable.idempotence", "true");
    let producer: BaseProducer = config.create().expect("a producer");
    let mut n: u64 = 0;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..15 {
            n += 1;
            let state = ["normal", "under_attack"][(n / 7 % 2) as usize];
            let (object, value) = (format!("site-{}", n % 50), format!(r#"{{"agent":"agent-{}","state":"{state}"}}"#, n % 3));
            producer.send(BaseRecord::to(topic).key(&object).payload(&value)).expect("its queue has room");
        }
        producer.poll(Duration::from_millis(50));
    }
    producer.flush(PATIENCE).expect("everything is delivered");
}

/// The program, and what is asked of it.
struct Served {
    program: Program,
    agent: Agent,
}

impl Served {
    fn get(&self, path: &str) -> (u16, Option<u64>, String) {
        let mut answer = self.agent.get(format!("http://{}{path}", self.program.address)).call().expect("it answers");
        let age = answer.headers().get("statehouse-lag-ms").map(|age| age.to_str().expect("text").parse().expect("milliseconds"));
        (answer.status().as_u16(), age, answer.body_mut().read_to_string().expect("text"))
    }

    fn ready(&self) {
        self.program.wait_until_ready(&self.agent);
    }

    /// Waits until it is ready and stays so: it may hear only after an outage that the group was lost in it, and restores once more. In an
    /// outage in the middle of that there would be nothing to answer from.
    fn settled(&self) {
        self.ready();
        let mut since = Instant::now();
        let deadline = since + PATIENCE;
        while since.elapsed() < SESSION {
            assert!(Instant::now() < deadline, "it does not come to rest");
            if self.get("/readyz").0 != 200 {
                since = Instant::now();
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What must hold from the moment on at which the house has noticed.
    fn is_stale_and_says_so(&self, what: &str) {
        assert_eq!(self.get("/livez").0, 200, "{what}");
        let (status, _, why) = self.get("/readyz");
        assert!(status == 503 && why.contains("[-]log failed: stale for "), "{what}: {status} {why}");
        let (status, age_ms, object) = self.get("/v1/objects/site-0");
        assert!(status == 200 && age_ms.is_some(), "{what}: an answer, and that it is stale: {status} {age_ms:?} {object}");
        let metrics = self.get("/metrics").2;
        assert!(metrics.lines().any(|line| line == "statehouse_stale 1"), "{what}: {metrics}");
    }

    /// Waits until the house notices, and goes on looking until the brokers have been away for long.
    fn stale_for(&self, what: &str, long: Duration) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/readyz").0 == 200 {
            assert!(Instant::now() < deadline, "{what}: it does not notice");
            thread::sleep(Duration::from_millis(20));
        }
        let noticed = Instant::now();
        while noticed.elapsed() < long {
            self.is_stale_and_says_so(what);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Its memory in KiB.
    fn kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Each of its threads' names.
    fn thread_names(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.program.id())).expect("it runs");
        // One that ended meanwhile has no name any more.
        let names = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    /// How many threads it has of each name, but those of [`Served::connections`].
    fn threads(&self) -> BTreeMap<String, usize> {
        let mut threads = BTreeMap::new();
        for name in self.thread_names().into_iter().filter(|name| !name.starts_with(CONNECTION)) {
            *threads.entry(name).or_default() += 1;
        }
        threads
    }

    /// How many connections its clients have or try to have: a thread each. After an outage they look for more of the brokers for a while.
    fn connections(&self) -> usize {
        self.thread_names().iter().filter(|name| name.starts_with(CONNECTION)).count()
    }
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
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
fn the_program_outlives_every_outage() {
    let (site, _turn) = site();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = from_env("STATEHOUSE_SEED").unwrap_or_else(now);
    let toml = format!(
        "house = \"outage-{seed}\"\nlog = \"kafka\"\nworkers = 2\n[http]\nlisten = \"127.0.0.1:0\"\n[kafka]\nbrokers = \"{}\"\npartitions = 4\n\
         session_timeout_ms = {}\ntransaction_timeout_ms = {}\n[kafka.properties]\n\"socket.timeout.ms\" = {}\n",
        site.proxy.address,
        SESSION.as_millis(),
        TRANSACTION_TIMEOUT.as_millis(),
        SOCKET_TIMEOUT.as_millis()
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("statehouse.toml");
    fs::write(&file, &toml).unwrap();
    let mut config = Config::parse(&toml).unwrap();
    config.kafka.brokers.clone_from(&site.broker.address); // who verifies does not pass through the proxy
    let mut served = Served { program: Program::serve(&file), agent: agent() };
    served.ready();
    let (source, over) = (config.topics().source, AtomicBool::new(false));
    thread::scope(|scope| {
        let stop = StopOnDrop(&over);
        scope.spawn(|| report(&site.broker.address, &source, &over));
        while served.get("/v1/objects/site-0").0 != 200 {
            thread::sleep(Duration::from_millis(20)); // until it is reported on
        }
        long_outages(site, &served);
        short_outages(site, &served, seed);
        drop(stop);
    });
    Watch::new(&config).wait_until_applied();
    assert!(served.program.runs());
    let Served { program, .. } = served;
    program.terminate();
    let (expected, published) = (sink::expected(&config), sink::published(&config));
    println!("{} objects, {} changes, seed {seed}", published.len(), sink::count(&published));
    sink::compare(&published, &expected, &format!("STATEHOUSE_SEED={seed}"));
    assert!(sink::count(&expected) > 1_000, "much happens");
}

/// Also a test that fails lets the reporter end.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn long_outages(site: &Site, served: &Served) {
    let (proxy, broker) = (&site.proxy, &site.broker);
    let open = || proxy.set(Way::Open);
    let outages: [(&str, &dyn Fn(), &dyn Fn()); 3] = [
        ("half-open", &|| proxy.set(Way::Swallow), &open),
        ("a broker that stands still", &|| broker.pause(), &|| broker.resume()),
        ("a killed broker", &|| broker.kill(), &|| broker.start_again()),
    ];
    for (what, begin, end) in outages {
        served.settled();
        begin();
        served.stale_for(what, AWAY);
        end();
        let ended = Instant::now();
        served.ready();
        println!("{what}: ready again after {} ms; {} KiB, {:?}", ended.elapsed().as_millis(), served.kib(), served.threads());
    }
}

/// Nobody is asked in these: the house may or may not notice. What must not grow are its threads and its memory.
fn short_outages(site: &Site, served: &Served, seed: u64) {
    served.settled();
    let (threads, kib) = (served.threads(), served.kib());
    let mut random = random(seed);
    for nth in 1..=from_env("STATEHOUSE_OUTAGES").unwrap_or(3) {
        let way = [Way::Swallow, Way::SwallowAnswers, Way::Cut][random(3) as usize];
        site.proxy.delay(random(2) * 50);
        site.proxy.set(way);
        let ms = 100 + random(3_000);
        thread::sleep(Duration::from_millis(ms));
        site.proxy.set(Way::Open);
        let ended = Instant::now();
        served.ready();
        println!(
            "{nth}: {way:?} for {ms} ms, ready again after {} ms; {} KiB, {:?}",
            ended.elapsed().as_millis(),
            served.kib(),
            served.threads()
        );
    }
    site.proxy.delay(0);
    let deadline = Instant::now() + PATIENCE;
    while served.threads() != threads || served.connections() > threads["rdk:main"] * CONNECTIONS_MAX {
        let (now, connections) = (served.threads(), served.connections());
        assert!(Instant::now() < deadline, "STATEHOUSE_SEED={seed}: threads stay:\n{threads:?} before,\n{now:?} and {connections} now");
        thread::sleep(Duration::from_millis(100));
    }
    let grown_kib = served.kib().saturating_sub(kib);
    assert!(grown_kib < GROWTH_KIB_MAX, "STATEHOUSE_SEED={seed}: {kib} KiB before, {grown_kib} more now");
}
