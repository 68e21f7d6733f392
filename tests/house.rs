//! The whole house on the embedded log: what comes out is what the reference says, whatever the batches, workers, restarts and failures.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use statehouse::{
    board::PartitionStanding,
    house::HouseError,
    log::{
        Checkpoint, Committer, Log, LogError, Polled, Progress, Source, Start, TransactError, Transaction, partitioner::murmur2_partition,
    },
    metrics::Staleness,
};
use statehouse_dataflows::vocabulary::{Offset, Partition};

#[path = "support/world.rs"]
mod world;

use world::{PATIENCE, Told, World, config, expected, random};

type History = BTreeMap<(Partition, Offset), Told>;

fn tell(world: &World, told: &[Told], history: &mut History) {
    let places = world.told(told);
    history.extend(places.into_iter().zip(told.iter().cloned()));
}

#[test]
fn reports_in_changes_out() {
    // workers, records per epoch at most
    for (workers, max_records) in [(1, 100_000), (2, 7), (3, 1), (2, 100_000)] {
        let directory = tempfile::tempdir().unwrap();
        let settings = format!("workers = {workers}\n[commit]\nmax_records = {max_records}\n[local]\npartitions = 3");
        let world = World::start(&config(directory.path(), &settings));
        let mut random = random(workers * 1_000 + max_records);
        let told: Vec<_> = (0..600).map(|_| Told::random(&mut random)).collect();
        let mut history = History::new();
        tell(&world, &told, &mut history);
        let expected = expected(&world.plan, &history);
        assert!(expected.len() > 100, "much happens: {}", expected.len());
        assert_eq!(world.sink(), expected, "{workers} workers, {max_records} records per epoch");
        world.stop().unwrap();
    }
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = random(7);
    let mut history = History::new();
    let mut before = None;
    for workers in [1, 3, 2, 1] {
        let world = World::start(&config(directory.path(), &format!("workers = {workers}\n[local]\npartitions = 2")));
        let objects = || (0..30).map(|n| world.object(&format!("site-{n}"))).collect::<Vec<_>>();
        let all = || (objects(), (0..30).map(|n| world.reports(&format!("site-{n}"))).collect::<Vec<_>>(), world.summary());
        if let Some(before) = before {
            assert_eq!(all(), before, "everything is there again, with {workers} workers");
        }
        assert_eq!(world.sink(), expected(&world.plan, &history), "nothing is published again");
        let told: Vec<_> = (0..200).map(|_| Told::random(&mut random)).collect();
        tell(&world, &told, &mut history);
        assert_eq!(world.sink(), expected(&world.plan, &history), "with {workers} workers");
        before = Some(all());
        world.stop().unwrap();
    }
}

#[test]
fn a_changed_rule_is_applied_once_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(&config(directory.path(), "[[rule]]\nrule = \"majority\""));
    world.told(&[Told::report("o", "a", "up"), Told::report("o", "b", "down"), Told::report("o", "c", "up"), Told::report("p", "a", "up")]);
    world.stop().unwrap();
    for _ in 0..2 {
        let world = World::start(&config(directory.path(), "[[rule]]\nrule = \"any\"\npriority = [\"down\"]\notherwise = \"up\""));
        world.eventually("the new rule shows", || world.object("o").unwrap().published.state.as_deref() == Some("down"));
        let changes = world.sink();
        let last = changes.last().unwrap();
        assert_eq!((changes.len(), last.0.as_str(), last.1.as_deref(), last.3.as_str()), (3, "o", Some("down"), "rule"));
        world.stop().unwrap();
    }
}

#[test]
fn an_override_ends_by_the_wall_clock() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(&config(directory.path(), ""));
    let pin = br#"{"type":"override","state":"pinned","for":"60s"}"#.to_vec();
    world.told(&[Told::report("o", "a", "up")]);
    world.append(&[("o".to_owned(), Some(pin))]).remove(0).unwrap();
    world.eventually("it is pinned", || world.object("o").unwrap().published.state.as_deref() == Some("pinned"));
    world.clock.forward(50_000);
    world.told(&[Told::report("p", "a", "up")]);
    assert_eq!(world.object("o").unwrap().published.state.as_deref(), Some("pinned"), "not yet");
    world.clock.forward(11_000);
    world.eventually("the override ends", || world.object("o").unwrap().published.state.as_deref() == Some("up"));
    let last = world.sink().pop().unwrap();
    assert_eq!(last, ("o".into(), Some("up".into()), Some("pinned".into()), "override".into(), None), "a tick caused it");
    world.stop().unwrap();
}

#[test]
fn an_override_that_ends_while_the_house_is_down_ends_when_it_is_up() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(&config(directory.path(), ""));
    let pin = br#"{"type":"override","state":"pinned","for":"200ms"}"#.to_vec();
    world.append(&[("o".to_owned(), Some(pin))]).remove(0).unwrap();
    world.stop().unwrap();
    let world = World::start(&config(directory.path(), ""));
    world.eventually("the override ends", || world.object("o").is_none_or(|object| object.published.state.is_none()));
    let changes = world.sink();
    assert_eq!(changes.iter().map(|change| change.1.as_deref()).collect::<Vec<_>>(), [Some("pinned"), None]);
    world.stop().unwrap();
}

#[test]
fn rejects_are_kept_as_they_came() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(&config(directory.path(), "workers = 2"));
    let bad = [("o", "not json"), ("p", r#"{"agent":"a"}"#)].map(|(object, value)| (object.to_owned(), Some(value.as_bytes().to_vec())));
    world.append(&bad).into_iter().for_each(|place| _ = place.unwrap());
    world.told(&[Told::report("o", "a", "up")]);
    let kept: Vec<_> = world.rejects().into_iter().map(|reject| (reject.offset, reject.reason, reject.key, reject.value)).collect();
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let expected = [(0, "not_json", bytes("o"), bytes("not json")), (1, "no_state", bytes("p"), bytes(r#"{"agent":"a"}"#))];
    assert_eq!(kept, expected);
    assert_eq!(world.sink().len(), 1, "the good record counts");
    world.stop().unwrap();
}

#[test]
fn a_reject_stops_a_house_that_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(&config(directory.path(), "workers = 2\n[source]\non_reject = \"stop\""));
    world.told(&[Told::report("o", "a", "up")]);
    let answer = world.append(&[("p".to_owned(), Some(b"not json".to_vec()))]).remove(0);
    assert!(answer.is_err(), "it is not in the log: {answer:?}");
    world.eventually("everybody sees it", || world.house.standing().borrow().stopping);
    world.eventually("what is still answered is marked as stale", || world.house.standing().borrow().stale_since_ms.is_some());
    let (sink, rejects) = (world.sink().len(), world.rejects().len());
    let error = world.ended().unwrap_err();
    assert!(matches!(error, HouseError::Rejected { partition: 0, offset: 1, reason: "not_json", .. }), "{error}");
    assert!(error.to_string().contains("offset 1 of test-reports, partition 0"), "{error}");
    assert_eq!((sink, rejects), (1, 0), "nothing from it on is committed");
}

#[test]
fn the_lag_is_noted_and_goes_when_all_is_read() {
    /// Nothing is ever read to its end.
    struct Endless(Box<dyn Source>);
    impl Source for Endless {
        fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
            self.0.poll(wait)
        }
        fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
            self.0.begin(partition, offset)
        }
        fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
            self.0.suspend(partition)
        }
        fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError> {
            self.0.release(partitions)
        }
        fn hold(&mut self, hold: bool) -> Result<(), LogError> {
            self.0.hold(hold)
        }
        fn end(&self, partition: Partition) -> Option<Offset> {
            self.0.end(partition).map(|end| end + 1_000)
        }
        fn leave(&mut self) {
            self.0.leave();
        }
    }
    for (endless, expected) in [(true, 1_000), (false, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let wrap = |log: Log| if endless { Log { source: Box::new(Endless(log.source)), ..log } } else { log };
        let world = World::start_with(&config(directory.path(), ""), wrap);
        world.told(&[Told::report("o", "a", "up")]);
        let line = format!("statehouse_source_lag_records{{partition=\"0\"}} {expected}\n");
        world.eventually(&line, || world.metrics.scrape(None, Staleness::default()).contains(&line));
        world.stop().unwrap();
    }
}

/// How a transaction goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It never reaches the log.
    Lost,
    /// It does, and nobody hears of it.
    Unheard,
}

/// A committer with faults at some of its transactions.
struct Faulty {
    inner: Box<dyn Committer>,
    /// The next transactions' faults.
    faults: Arc<Mutex<Vec<Option<Fault>>>>,
}

impl Committer for Faulty {
    fn transact(&mut self, transaction: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
        let fault = self.faults.lock().unwrap().pop().flatten();
        match fault {
            None => self.inner.transact(transaction),
            Some(Fault::Lost) => Err(TransactError::Failed("told to".into())),
            Some(Fault::Unheard) => {
                self.inner.transact(transaction)?;
                Err(TransactError::Maybe("told to".into()))
            }
        }
    }

    fn recover(&mut self, keep_trying: &dyn Fn() -> bool) -> Result<(), LogError> {
        self.inner.recover(keep_trying)
    }
}

#[test]
fn a_failed_transaction_costs_a_restore_and_nothing_else() {
    for (seed, workers) in [(1, 1), (2, 2), (3, 3)] {
        let directory = tempfile::tempdir().unwrap();
        let faults = Arc::new(Mutex::new(Vec::new()));
        let settings = format!("workers = {workers}\n[commit]\nmax_records = 40\n[local]\npartitions = 2");
        let wrap = |log: Log| Log { committer: Box::new(Faulty { inner: log.committer, faults: Arc::clone(&faults) }), ..log };
        let world = World::start_with(&config(directory.path(), &settings), wrap);
        let mut random = random(seed);
        let mut history = History::new();
        let mut refused = 0;
        for _ in 0..15 {
            let fault = [None, Some(Fault::Lost), Some(Fault::Unheard)][random(3) as usize];
            *faults.lock().unwrap() = [vec![fault], vec![None; random(3) as usize]].concat();
            let told: Vec<_> = (0..100).map(|_| Told::random(&mut random)).collect();
            let records: Vec<_> = told.iter().map(|told| (told.object.clone(), told.value())).collect();
            for (told, place) in told.into_iter().zip(world.append(&records)) {
                match place {
                    Ok(place) => assert!(history.insert(place, told).is_none(), "seed {seed}: {place:?} is given once"),
                    Err(_) => refused += 1,
                }
            }
        }
        faults.lock().unwrap().clear();
        // A transaction that nobody hears of has answered its writes before it fails: what comes in between may still be refused.
        let end = Told::report("end", "a", "up");
        let place = world.taken(&end);
        assert!(history.insert(place, end).is_none(), "seed {seed}: {place:?} is given once");
        assert!(refused > 0 && history.len() > 200, "seed {seed}: both happen ({refused} refused, {} not)", history.len());
        assert_eq!(world.sink(), expected(&world.plan, &history), "seed {seed}");
        world.stop().unwrap();
    }
}

/// A source that refuses what it is told to.
struct Reluctant {
    inner: Box<dyn Source>,
    /// What is still to be refused, last first.
    refusals: Arc<Mutex<Vec<&'static str>>>,
}

impl Reluctant {
    fn agrees_to(&self, what: &'static str) -> Result<(), LogError> {
        let mut refusals = self.refusals.lock().unwrap();
        if refusals.last() != Some(&what) {
            return Ok(());
        }
        refusals.pop();
        Err(LogError::Unavailable(format!("{what} is refused: told to")))
    }
}

impl Source for Reluctant {
    fn poll(&mut self, wait: Duration) -> Result<Polled, LogError> {
        self.agrees_to("poll")?;
        self.inner.poll(wait)
    }
    fn begin(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        self.agrees_to("begin")?;
        self.inner.begin(partition, offset)
    }
    fn suspend(&mut self, partition: Partition) -> Result<(), LogError> {
        self.agrees_to("suspend")?;
        self.inner.suspend(partition)
    }
    fn release(&mut self, partitions: &[Partition]) -> Result<(), LogError> {
        self.inner.release(partitions)
    }
    fn hold(&mut self, hold: bool) -> Result<(), LogError> {
        self.agrees_to("hold")?;
        self.inner.hold(hold)
    }
    fn leave(&mut self) {
        self.inner.leave();
    }
}

#[test]
fn what_the_source_refuses_costs_a_restore_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let refusals = Arc::new(Mutex::new(vec!["begin"]));
    let settings = "workers = 2\n[commit]\nmax_records = 40\n[local]\npartitions = 2";
    let wrap = |log: Log| Log { source: Box::new(Reluctant { inner: log.source, refusals: Arc::clone(&refusals) }), ..log };
    let world = World::start_with(&config(directory.path(), settings), wrap);
    let mut random = random(11);
    let mut history = History::new();
    // What is left when the last one is refused first: the others follow upon it.
    for refused in [["begin", "poll"].as_slice(), &["suspend", "poll"], &["hold", "poll"], &["poll", "begin", "poll"]] {
        *refusals.lock().unwrap() = refused.to_vec();
        let told: Vec<_> = (0..100).map(|_| Told::random(&mut random)).collect();
        let records: Vec<_> = told.iter().map(|told| (told.object.clone(), told.value())).collect();
        for (told, place) in told.into_iter().zip(world.append(&records)) {
            let Ok(place) = place else { continue };
            assert!(history.insert(place, told).is_none(), "{place:?} is given once");
        }
        world.eventually("everything was refused once", || {
            let end = Told::report("end", "a", "up");
            history.insert(world.taken(&end), end);
            refusals.lock().unwrap().is_empty()
        });
    }
    world.ready();
    assert_eq!(world.sink(), expected(&world.plan, &history));
    world.stop().unwrap();
}

/// Partition 1 can't be read before it is let.
struct Gated {
    checkpoint: Box<dyn Checkpoint>,
    gate: mpsc::Receiver<()>,
}

impl Checkpoint for Gated {
    fn progress(&mut self, partition: Partition) -> Result<Option<(Offset, Progress)>, LogError> {
        self.checkpoint.progress(partition)
    }
    fn start_offset(&mut self, partition: Partition, start: Start) -> Result<Offset, LogError> {
        self.checkpoint.start_offset(partition, start)
    }
    fn read(
        &mut self,
        partition: Partition,
        from: Offset,
        each: &mut dyn FnMut(Offset, &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, LogError> {
        if partition == 1 {
            self.gate.recv_timeout(PATIENCE).expect("it is let in time");
        }
        self.checkpoint.read(partition, from, each)
    }
}

#[test]
fn a_live_partition_goes_on_while_another_is_restored() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "workers = 2\n[local]\npartitions = 2");
    let (mut random, mut history) = (random(11), History::new());
    let mut told = |count| (0..count).map(|_| Told::random(&mut random)).collect::<Vec<_>>();
    let world = World::start(&config);
    tell(&world, &told(200), &mut history);
    world.stop().unwrap();
    let (let_in, gate) = mpsc::channel();
    let gated = |log: Log| Log { checkpoint: Box::new(Gated { checkpoint: log.checkpoint, gate }), ..log };
    let world = World::start_unready(&config, gated).unwrap();
    let mut on_0 = told(200);
    on_0.retain(|told| murmur2_partition(told.object.as_bytes(), 2) == 0);
    tell(&world, &on_0, &mut history);
    assert_eq!(world.house.standing().borrow().partitions[&1], PartitionStanding::Restoring, "all of it was applied meanwhile");
    let_in.send(()).unwrap();
    world.ready();
    assert!(world.house.standing().borrow().restores.is_empty(), "over");
    tell(&world, &told(200), &mut history);
    assert_eq!(world.sink(), expected(&world.plan, &history));
    world.stop().unwrap();
}

#[test]
fn a_panic_ends_the_house_and_is_told() {
    struct Panicking;
    impl Committer for Panicking {
        fn transact(&mut self, _: Transaction) -> Result<Vec<(Partition, Offset)>, TransactError> {
            panic!("told to")
        }
        fn recover(&mut self, _: &dyn Fn() -> bool) -> Result<(), LogError> {
            Ok(())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let world = World::start_unready(&config(directory.path(), ""), |log| Log { committer: Box::new(Panicking), ..log }).unwrap();
    let error = world.ended().unwrap_err();
    assert!(matches!(&error, HouseError::Panicked(thread) if thread == "commit"), "{error}");
}
