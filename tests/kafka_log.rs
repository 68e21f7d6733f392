//! The log on a real broker: epochs in and out, what a crash leaves, who may commit, and an outage.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    ops::ControlFlow,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer},
};
use statehouse::{
    config::Config,
    log::{Checkpoint, Log, LogError, Polled, Progress, RejectRecord, SinkRecord, Start, TransactError, Transaction, kafka},
};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;

use broker::{Broker, shared};
use kafka_house::{
    CALM_SESSION, House, PARTITIONS, PATIENCE, SESSION, TRANSACTION_TIMEOUT, append, await_partitions, client, committed, epoch, known,
    open_transaction, part, pieces, poll_until, transactional_ids,
};

/// The year 2100: further ahead than a broker takes a record's time to be.
const FAR_FUTURE_MS: i64 = 4_102_444_800_000;

/// Runs a step and prints how long it took.
fn timed<T>(what: &str, step: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = step();
    println!("{what}: {} ms", began.elapsed().as_millis());
    (result, began.elapsed())
}

/// As after some failovers: the client believes to know all partitions, and would ask nobody for minutes.
#[test]
fn a_client_that_lacks_a_partition_is_replaced() {
    let house = House::new();
    let mut log = house.open();
    assert_eq!(known(|| log.checkpoint.start_offset(0, Start::Earliest)), 0);
    let admin: AdminClient<DefaultClientContext> = client(&house).create().expect("a client");
    let source = house.topic("reports");
    let more = [NewPartitions::new(&source, PARTITIONS as usize + 1)];
    let asked = admin.create_partitions(&more, &AdminOptions::new().operation_timeout(Some(PATIENCE)));
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(asked).expect("asked");
    let mut asked = 0;
    let start = known(|| {
        asked += 1;
        log.checkpoint.start_offset(PARTITIONS, Start::Earliest)
    });
    assert_eq!(start, 0);
    assert!(asked > 1, "the client knew of it at once: this shows nothing");
}

#[test]
fn an_empty_house_is_caught_up_at_once() {
    let house = House::new();
    let (mut log, _) = timed("open", || house.open());
    assert_eq!(log.partitions, PARTITIONS);
    timed("join", || await_partitions(&mut log, 3));
    for partition in 0..PARTITIONS {
        let (progress, _) = timed("progress", || known(|| log.checkpoint.progress(partition)));
        assert_eq!(progress, None);
        for start in [Start::Earliest, Start::Latest, Start::Timestamp(1_763_000_000_000)] {
            let (offset, _) = timed("start", || known(|| log.checkpoint.start_offset(partition, start)));
            assert_eq!(offset, 0, "{start:?}");
        }
        log.source.begin(partition, 0).expect("begun");
    }
    let mut caught_up = BTreeSet::new();
    timed("caught up", || {
        poll_until(&mut log, |polled| {
            match polled {
                Polled::CaughtUp(partition) => drop(caught_up.insert(partition)),
                Polled::Records(batch) => panic!("an empty source has no records: {batch:?}"),
                _ => {}
            }
            caught_up.len() == 3
        });
    });
    assert!(log.committer.transact(Transaction::default()).expect("nothing to do").is_empty());
}

#[test]
fn epochs_come_back() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let mut places = BTreeSet::new();
    for n in 0..50 {
        places.insert(append(&log, &format!("object-{n}"), (n % 10 != 0).then_some("{\"state\":\"x\"}")));
    }
    for partition in 0..PARTITIONS {
        assert_eq!(known(|| log.checkpoint.progress(partition)), None);
        log.source.begin(partition, 0).expect("begun");
    }
    let (mut seen, mut purges) = (BTreeSet::new(), 0);
    poll_until(&mut log, |polled| {
        let Polled::Records(batch) = polled else { return false };
        for record in &batch.records {
            assert!(record.canonical && record.timestamp_ms > 0 && record.agent.is_none());
            let key = str::from_utf8(&batch.bytes[record.key.clone().expect("a key")]).expect("UTF-8");
            assert!(key.starts_with("object-"));
            purges += usize::from(record.value.is_none());
            seen.insert((batch.partition, record.offset));
        }
        seen.len() == 50
    });
    assert_eq!(seen, places, "each record where the write said");
    assert_eq!(purges, 5);
    assert!(places.iter().all(|(partition, _)| (0..PARTITIONS).contains(partition)));
    assert_eq!((log.partition_of)(b"object-1"), append(&log, "object-1", None).0);

    let mut first = epoch(10, 1);
    first.parts[1].pieces.push(b"a second chunk".to_vec());
    first.parts[2].changes.push(SinkRecord { key: "gone".into(), value: None, headers: vec![("statehouse-cause", "purge".into())] });
    first.parts[0].rejects.push(RejectRecord {
        offset: 4,
        timestamp_ms: FAR_FUTURE_MS,
        key: None,
        value: Some(b"not JSON".to_vec()),
        reason: "not_json",
        detail: "expected value at line 1".into(),
    });
    let (firsts, _) = timed("the first transaction", || log.committer.transact(first).expect("committed"));
    assert_eq!(
        firsts.iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([(0, 0), (1, 0), (2, 0)]),
        "the first chunk's place in each"
    );
    timed("ten more", || {
        for n in 2..=11 {
            log.committer.transact(epoch(10 + n, n as u64)).expect("committed");
        }
    });
    eleven_epochs_are_there(&house, &mut log);

    // Another process start finds all of it.
    log.source.leave();
    drop(log);
    let (mut log, _) = timed("open again", || house.open());
    timed("join again", || await_partitions(&mut log, 3));
    assert_eq!(known(|| log.checkpoint.progress(2)), Some((21, Progress { n: 11, digest: 77, start: 0 })));
    log.source.begin(2, 5).expect("begun");
    poll_until(&mut log, |polled| match polled {
        Polled::Records(batch) => {
            assert_eq!((batch.partition, batch.records[0].offset), (2, 5), "read from where it was told");
            true
        }
        _ => false,
    });
}

fn eleven_epochs_are_there(house: &House, log: &mut Log) {
    for partition in 0..PARTITIONS {
        let progress = Progress { n: 11, digest: 77, start: 0 };
        assert_eq!(known(|| log.checkpoint.progress(partition)), Some((21, progress)));
        let pieces = pieces(log, partition);
        let second = if partition == 1 { vec!["a second chunk".to_owned()] } else { vec![] };
        let mut expected = vec![format!("chunk 1 of {partition}")];
        expected.extend(second);
        expected.extend((2..=11).map(|n| format!("chunk {n} of {partition}")));
        assert_eq!(pieces, expected);
    }
    let mut read = 0;
    let broke = log.checkpoint.read(0, 0, &mut |_, _| {
        read += 1;
        if read == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(broke.expect("read") && read == 2, "reading stops when told");

    let sink = committed(house, &house.topic("changes"));
    assert_eq!(sink.len(), 3 * 11 + 1);
    assert!(sink.iter().all(|line| line.key.as_deref() == Some("gone") || line.key == Some(format!("object {}", line.partition))));
    let gone = sink.iter().find(|line| line.value.is_none()).expect("the tombstone");
    assert_eq!(gone.headers, [("statehouse-cause".to_owned(), "purge".to_owned())]);
    let rejects = committed(house, &house.topic("rejects"));
    let [reject] = rejects.as_slice() else { panic!("one reject: {rejects:?}") };
    assert_eq!((reject.partition, reject.key.as_deref()), (0, None));
    assert!(reject.timestamp_ms < FAR_FUTURE_MS, "retention counts from the reject, not from its record");
    assert_eq!(reject.value.as_deref(), Some("not JSON"));
    let source = format!("{}/0/4", house.topic("reports"));
    for (name, value) in [
        ("statehouse-reason", "not_json"),
        ("statehouse-detail", "expected value at line 1"),
        ("statehouse-source", &source),
        ("statehouse-timestamp-ms", &FAR_FUTURE_MS.to_string()),
    ] {
        assert!(reject.headers.contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
}

#[test]
fn holding_and_suspending_stop_records_only() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    for partition in 0..PARTITIONS {
        log.source.begin(partition, 0).expect("begun");
    }
    log.source.hold(true).expect("held");
    let (partition, offset) = append(&log, "one", Some("1"));
    let quiet = Instant::now() + Duration::from_secs(1);
    poll_until(&mut log, |polled| {
        assert!(!matches!(polled, Polled::Records(_)), "nothing comes while held");
        Instant::now() > quiet
    });
    log.source.hold(false).expect("let go");
    let is_it = |polled: &Polled, at: i64| matches!(polled, Polled::Records(batch) if batch.partition == partition && batch.records[0].offset == at);
    poll_until(&mut log, |polled| is_it(&polled, offset));

    // The broker tells an end once; after a hold it is told again, without a broker in it.
    let is_end = |polled: &Polled| matches!(polled, Polled::CaughtUp(at) if *at == partition);
    poll_until(&mut log, |polled| is_end(&polled));
    log.source.hold(true).expect("held");
    log.source.hold(false).expect("let go");
    poll_until(&mut log, |polled| is_end(&polled));

    log.source.suspend(partition).expect("suspended");
    append(&log, "one", Some("2"));
    let quiet = Instant::now() + Duration::from_secs(1);
    poll_until(&mut log, |polled| {
        assert!(!matches!(&polled, Polled::Records(batch) if batch.partition == partition), "nothing comes of a suspended partition");
        Instant::now() > quiet
    });
    log.source.begin(partition, offset).expect("begun");
    poll_until(&mut log, |polled| is_it(&polled, offset));
}

#[test]
fn the_end_is_known_before_and_after_it_is_read() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, PARTITIONS as usize);
    let (partition, _) = append(&log, "o", Some("{}"));
    append(&log, "o", None);
    assert_eq!(log.source.end(partition), None, "not begun");
    log.source.hold(true).expect("held");
    log.source.begin(partition, 0).expect("begun");
    let deadline = Instant::now() + PATIENCE;
    while log.source.end(partition) != Some(2) {
        assert!(matches!(log.source.poll(Duration::from_millis(50)).expect("polled"), Polled::Idle), "nothing is read while held");
        assert!(Instant::now() < deadline, "the end is {:?}", log.source.end(partition));
    }
    log.source.hold(false).expect("not held");
    poll_until(&mut log, |polled| matches!(polled, Polled::CaughtUp(at) if at == partition));
    assert_eq!(log.source.end(partition), Some(2));
    log.source.leave();
}

#[test]
fn an_aborted_epoch_leaves_nothing() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    // Larger than the topic takes, and incompressible: the broker refuses it, when the other partitions' chunks are already there.
    let mut doomed = epoch(1, 1);
    let mut random = 1_u64;
    doomed.parts[2].pieces.push(
        (0..2_000_000)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .collect(),
    );
    let error = log.committer.transact(doomed).expect_err("too large");
    assert!(matches!(error, TransactError::Failed(_)), "{error}");
    assert!(matches!(log.committer.transact(epoch(1, 1)), Err(TransactError::Failed(_))), "only recovery may follow");
    timed("recover", || log.committer.recover(&|| true).expect("recovered"));
    let raw: BaseConsumer = client(&house).set("isolation.level", "read_uncommitted").create().expect("a reader");
    let (_, end) = raw.fetch_watermarks(&house.topic("checkpoint"), 0, PATIENCE).expect("watermarks");
    assert!(end > 0, "the aborted chunk is in the log");
    for partition in 0..PARTITIONS {
        assert_eq!(known(|| log.checkpoint.progress(partition)), None);
        assert!(pieces(&mut log, partition).is_empty());
    }
    let firsts = log.committer.transact(epoch(5, 1)).expect("committed");
    assert!(firsts.iter().any(|(partition, offset)| *partition == 0 && *offset >= end), "after the aborted one");
    assert_eq!(pieces(&mut log, 0), ["chunk 1 of 0"]);
    assert_eq!(committed(&house, &house.topic("changes")).len(), 3);
}

/// Commits one epoch, then opens a transaction with offsets in it under its own transactional id, says so, and waits to be killed.
#[test]
#[ignore = "the other process of a_dead_owners_transaction_is_ended"]
fn dying_owner() {
    let config: Config = toml::from_str(&env::var("STATEHOUSE_TEST_CONFIG").expect("run by another test")).expect("a configuration");
    let house = House {
        name: config.house.clone(),
        brokers: config.kafka.brokers.clone(),
        session: SESSION,
        transaction_timeout: TRANSACTION_TIMEOUT,
        kafka: String::new(),
        properties: String::new(),
    };
    let mut log = kafka::open(&config).expect("an open log");
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(3, 1)).expect("committed");
    let id = transactional_ids(&house).pop().expect("this instance is registered");
    let _open = open_transaction(&house, &id, PARTITIONS);
    println!("open");
    loop {
        log.source.poll(Duration::from_millis(100)).expect("polled");
    }
}

#[test]
fn a_dead_owners_transaction_is_ended() {
    let mut house = House::new();
    house.session = SESSION;
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "dying_owner", "--ignored", "--nocapture"])
        .env("STATEHOUSE_TEST_CONFIG", house.toml())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let opened = lines.map_while(Result::ok).any(|line| line.contains("open"));
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(opened, "the child opened a transaction");

    let killed = Instant::now();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    println!("the dead one's partitions are ours after {} ms", killed.elapsed().as_millis());
    for partition in 0..PARTITIONS {
        let progress = known(|| log.checkpoint.progress(partition));
        assert_eq!(progress, Some((3, Progress { n: 1, digest: 7, start: 0 })), "what was committed, not what was open");
        assert_eq!(pieces(&mut log, partition), [format!("chunk 1 of {partition}")]);
    }
    println!("and restored after {} ms", killed.elapsed().as_millis());
    assert!(killed.elapsed() < TRANSACTION_TIMEOUT / 2, "it waited for the transaction's timeout");
    assert_eq!(transactional_ids(&house), [] as [String; 0], "the dead one's entry is removed");
    log.committer.transact(epoch(4, 2)).expect("committed");
    assert_eq!(transactional_ids(&house).len(), 1);
}

#[test]
fn leaving_cuts_a_restore_short() {
    type Restore = fn(&mut dyn Checkpoint) -> Result<(), LogError>;
    let waiting: [Restore; 2] = [
        |checkpoint| checkpoint.progress(0).map(drop),
        |checkpoint| checkpoint.read(0, 0, &mut |_, _| ControlFlow::Continue(())).map(drop),
    ];
    for restore in waiting {
        let house = House::new();
        let mut log = house.open();
        await_partitions(&mut log, 3);
        // Of nobody who could be found dead.
        let stranger = open_transaction(&house, &format!("{}-stranger", house.name), 1);
        let (done, outcome) = mpsc::channel();
        let mut checkpoint = log.checkpoint;
        thread::spawn(move || done.send(restore(&mut *checkpoint)));
        assert!(outcome.recv_timeout(Duration::from_secs(2)).is_err(), "it waits");
        log.source.leave();
        let (outcome, took) = timed("cut short", || outcome.recv_timeout(PATIENCE).expect("an answer"));
        assert!(matches!(outcome, Err(LogError::Unavailable(_))), "{outcome:?}");
        assert!(took < Duration::from_secs(10), "nobody waits for it any more");
        stranger.abort_transaction(PATIENCE).expect("ended");
    }
}

#[test]
fn who_lost_its_partitions_does_not_commit() {
    let mut house = House::new();
    house.session = SESSION;
    // The first instance will not poll: after this it is out.
    house.properties = format!("'max.poll.interval.ms' = {}", 2 * SESSION.as_millis());
    let mut first = house.open();
    await_partitions(&mut first, 3);
    first.committer.transact(epoch(1, 1)).expect("committed");
    (house.properties, house.session) = (String::new(), CALM_SESSION);
    let mut second = house.open();
    let (_, took) = timed("the second owns all after", || await_partitions(&mut second, 3));
    assert!(took > SESSION / 2, "nobody took them before");
    let error = first.committer.transact(epoch(2, 2)).expect_err("not ours any more");
    assert!(matches!(error, TransactError::Failed(_)), "{error}");
    println!("{error}");
    for partition in 0..PARTITIONS {
        assert_eq!(known(|| second.checkpoint.progress(partition)), Some((1, Progress { n: 1, digest: 7, start: 0 })));
    }
    second.committer.transact(epoch(7, 2)).expect("committed");
    // The first hears of it, lets everything go, and gets its share again.
    let mut given_up = BTreeSet::new();
    let mut shared_again = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while shared_again.is_empty() {
        assert!(Instant::now() < deadline, "the first does not come back");
        match first.source.poll(Duration::from_millis(20)).expect("polled") {
            Polled::Revoked { partitions, .. } => {
                first.source.release(&partitions).expect("released");
                given_up.extend(partitions);
            }
            Polled::Assigned(partitions) => shared_again.extend(partitions),
            _ => {}
        }
        if let Polled::Revoked { partitions, lost } = second.source.poll(Duration::from_millis(20)).expect("polled") {
            assert!(!lost);
            second.source.release(&partitions).expect("released");
        }
    }
    assert_eq!(given_up, (0..PARTITIONS).collect::<BTreeSet<_>>());
    first.committer.recover(&|| true).expect("recovered");
    let again = *shared_again.first().expect("one");
    assert_eq!(known(|| first.checkpoint.progress(again)), Some((7, Progress { n: 2, digest: 14, start: 0 })));
    first.committer.transact(Transaction { parts: vec![part(again, 8, 3)] }).expect("its own again");
}

#[test]
fn partitions_move_when_they_are_let_go() {
    let house = House::new();
    let mut first = house.open();
    await_partitions(&mut first, 3);
    first.committer.transact(epoch(1, 1)).expect("committed");
    let mut second = house.open();
    let began = Instant::now();
    let mut moved = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut owned = BTreeSet::new();
    while owned.is_empty() {
        assert!(Instant::now() < deadline, "nothing moved");
        if let Polled::Revoked { partitions, lost } = first.source.poll(Duration::from_millis(20)).expect("polled") {
            assert!(!lost);
            first.committer.transact(epoch(2, 2)).expect("what is revoked may still be committed");
            first.source.release(&partitions).expect("released");
            moved.extend(partitions);
        }
        if let Polled::Assigned(partitions) = second.source.poll(Duration::from_millis(20)).expect("polled") {
            owned.extend(partitions);
        }
    }
    println!("moved {moved:?} in {} ms", began.elapsed().as_millis());
    assert_eq!(owned, moved.iter().copied().collect::<BTreeSet<_>>(), "only what was let go");
    let given = moved[0];
    assert_eq!(known(|| second.checkpoint.progress(given)), Some((2, Progress { n: 2, digest: 14, start: 0 })));
    let error = first.committer.transact(Transaction { parts: vec![part(given, 3, 3)] }).expect_err("given away");
    assert!(matches!(error, TransactError::Failed(_)), "{error}");
    second.committer.transact(Transaction { parts: vec![part(given, 3, 3)] }).expect("its own");
}

#[test]
fn a_fenced_producer_recovers() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    let id = transactional_ids(&house).pop().expect("registered");
    let rival: BaseProducer = client(&house).set("transactional.id", &id).create().expect("a producer");
    rival.init_transactions(PATIENCE).expect("fenced");
    let error = log.committer.transact(epoch(2, 2)).expect_err("fenced");
    println!("{error}");
    log.committer.recover(&|| true).expect("recovered");
    assert_eq!(known(|| log.checkpoint.progress(0)), Some((1, Progress { n: 1, digest: 7, start: 0 })));
    log.committer.transact(epoch(2, 2)).expect("committed");
    assert_eq!(pieces(&mut log, 1), ["chunk 1 of 1", "chunk 2 of 1"]);
}

#[test]
fn state_without_offsets_is_refused() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    drop(log);
    // The same topics under another group: what expired offsets look like.
    let mut other = house.config();
    other.house = format!("other-{}", house.name);
    for (topic, what) in [
        (&mut other.topics.source, "reports"),
        (&mut other.topics.sink, "changes"),
        (&mut other.topics.checkpoint, "checkpoint"),
        (&mut other.topics.rejects, "rejects"),
    ] {
        *topic = Some(house.topic(what));
    }
    let mut log = kafka::open(&other).expect("an open log");
    await_partitions(&mut log, 3);
    let error = log.checkpoint.progress(0).expect_err("refused");
    assert!(matches!(error, LogError::Corrupt(_)) && error.to_string().contains("offsets.retention.minutes"), "{error}");
}

#[test]
fn a_password_from_a_file_opens_a_scram_listener() {
    let broker = shared();
    let mut house = House::new();
    house.brokers = broker.sasl_address.clone();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] {
        house.properties = format!(
            "'security.protocol' = 'SASL_PLAINTEXT'\n'sasl.mechanism' = '{mechanism}'\n'sasl.username' = '{}'\n'sasl.password' = {{ file = {:?} }}",
            broker::USER,
            broker::password_file()
        );
        let mut log = house.open();
        await_partitions(&mut log, 3);
        log.committer.transact(epoch(1, 1)).expect("committed");
        append(&log, "x", Some("1"));
    }
    house.properties = house.properties.replace(&format!("{{ file = {:?} }}", broker::password_file()), "'wrong'");
    let Err(error) = kafka::open(&house.config()) else { panic!("refused") };
    assert!(matches!(error, LogError::Setting(_)) && error.to_string().contains("refuses the user"), "{error}");
}

#[test]
fn a_killed_broker_is_survived() {
    let broker = Broker::start();
    let mut house = House::on(&broker);
    house.session = SESSION;
    let mut log = house.open();
    await_partitions(&mut log, 3);
    for partition in 0..PARTITIONS {
        log.source.begin(partition, 0).expect("begun");
    }
    let mut caught_up = BTreeSet::new();
    let mut all_caught_up = |polled: &Polled| {
        match polled {
            Polled::CaughtUp(partition) => drop(caught_up.insert(*partition)),
            Polled::Behind(partition) => drop(caught_up.remove(partition)),
            _ => {}
        }
        caught_up.len() == 3
    };
    poll_until(&mut log, |polled| all_caught_up(&polled));
    log.committer.transact(epoch(0, 1)).expect("committed");

    broker.kill();
    let mut behind = BTreeSet::new();
    let (_, took) = timed("all behind after", || {
        poll_until(&mut log, |polled| {
            if let Polled::Behind(partition) = polled {
                behind.insert(partition);
            }
            behind.len() == 3
        });
    });
    assert!(took < Duration::from_secs(10));
    broker.start_again();
    let up = Instant::now();
    // Whatever became of the producer: the one path leads on.
    if log.committer.transact(epoch(0, 2)).is_err() {
        log.committer.recover(&|| up.elapsed() < PATIENCE).expect("recovered");
        println!("commits again after {} ms", up.elapsed().as_millis());
    }
    let n = known(|| log.checkpoint.progress(0)).expect("progress").1.n;
    let place = append(&log, "after", Some("1"));
    let mut owned: BTreeSet<i32> = (0..PARTITIONS).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the record after the outage did not come");
        match log.source.poll(Duration::from_millis(50)).expect("polled") {
            Polled::Records(batch) if (batch.partition, batch.records[0].offset) == place => break,
            Polled::Revoked { partitions, .. } => {
                owned.retain(|partition| !partitions.contains(partition));
                log.source.release(&partitions).expect("released");
            }
            Polled::Assigned(partitions) => {
                for partition in partitions {
                    owned.insert(partition);
                    log.source.begin(partition, 0).expect("begun");
                }
            }
            _ => {}
        }
    }
    println!("records again after {} ms", up.elapsed().as_millis());
    assert_eq!(owned.len(), 3);
    log.committer.transact(epoch(1, n + 1)).expect("committed");
    assert_eq!(pieces(&mut log, 2).len() as u64, n + 1);
}
