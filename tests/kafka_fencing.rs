//! Who may commit, and what a restore may believe: the traps of Kafka's transactions. Each test shows first, with an ordinary client, that
//! the trap is there with this broker and this client, so that nobody takes what avoids it for needless; and then what our log does.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as Place, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};
use statehouse::{
    config::Config,
    log::{Log, LogError, Part, Polled, Progress, Tail, Tailed, TransactError, Transaction, kafka},
};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;

use kafka_house::{
    CALM_SESSION, House, PARTITIONS, PATIENCE, SESSION, append, await_partitions, client, committed, epoch, known, open_transaction, part,
    pieces, transactional_ids,
};

/// For a raw client's call that is to fail.
const SHORT: Duration = Duration::from_secs(1);

fn at(offset: i64, n: u64) -> Option<(i64, Progress)> {
    Some((offset, Progress { n, digest: 7 * n, start: 0 }))
}

/// An epoch in which nothing happened.
fn silent(next_offset: i64, n: u64) -> Transaction {
    let parts = epoch(next_offset, n).parts.into_iter();
    Transaction { parts: parts.map(|part| Part { pieces: vec![], changes: vec![], ..part }).collect() }
}

/// An ordinary member of this group, which reads the house's source.
fn member(house: &House, group: &str) -> BaseConsumer {
    let mut config = client(house);
    config.set("group.id", group).set("partition.assignment.strategy", "cooperative-sticky").set("heartbeat.interval.ms", "300");
    let member: BaseConsumer = config.set("enable.auto.commit", "false").create().expect("a consumer");
    member.subscribe(&[&house.topic("reports")]).expect("subscribed");
    member
}

/// An ordinary producer that has started transactions.
fn producer(house: &House, id: &str) -> BaseProducer {
    let producer: BaseProducer = client(house).set("transactional.id", format!("{}-{id}", house.name)).create().expect("a producer");
    producer.init_transactions(PATIENCE).expect("started");
    producer
}

fn partitions_of(member: &BaseConsumer) -> Vec<i32> {
    let assigned = member.assignment().expect("an assignment");
    assigned.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect()
}

fn offset_of(house: &House, partition: i32, offset: i64) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&house.topic("reports"), partition, Place::Offset(offset)).expect("an offset");
    list
}

/// Commits an offset in a transaction with nothing else in it.
fn commit_offset(producer: &BaseProducer, offsets: &TopicPartitionList, membership: &ConsumerGroupMetadata) -> Result<(), KafkaError> {
    producer.begin_transaction().expect("begun");
    match producer.send_offsets_to_transaction(offsets, membership, PATIENCE) {
        Ok(()) => producer.commit_transaction(PATIENCE),
        refused => {
            producer.abort_transaction(PATIENCE).expect("aborted");
            refused
        }
    }
}

/// What a client of this isolation says is committed for a partition.
fn ask_offset(house: &House, isolation: &str, partition: i32) -> Result<Place, KafkaError> {
    let reader: BaseConsumer = client(house).set("group.id", &house.name).set("isolation.level", isolation).create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition(&house.topic("reports"), partition);
    // The first try may find no connection yet.
    let deadline = Instant::now() + SHORT;
    loop {
        match reader.committed_offsets(list.clone(), SHORT) {
            Ok(list) => return Ok(list.elements()[0].offset()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

/// Where a checkpoint partition ends for a client of this isolation.
fn end(house: &House, isolation: &str, partition: i32) -> i64 {
    let reader: BaseConsumer = client(house).set("isolation.level", isolation).create().expect("a consumer");
    reader.fetch_watermarks(&house.topic("checkpoint"), partition, PATIENCE).expect("watermarks").1
}

fn refusal(outcome: Result<Vec<(i32, i64)>, TransactError>) -> String {
    match outcome {
        Err(TransactError::Failed(why)) => why,
        other => panic!("it must be refused for certain: {other:?}"),
    }
}

#[test]
fn without_an_offset_nothing_is_fenced() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    // The trap: in another group, whose generation moves on.
    let group = format!("{}-raw", house.name);
    let first = member(&house, &group);
    let deadline = Instant::now() + PATIENCE;
    while partitions_of(&first).len() < PARTITIONS as usize {
        assert!(Instant::now() < deadline, "the first does not join");
        first.poll(Duration::from_millis(20));
    }
    let outdated = first.group_metadata().expect("a membership");
    let second = member(&house, &group);
    while partitions_of(&second).is_empty() {
        assert!(Instant::now() < deadline, "the second gets nothing");
        first.poll(Duration::from_millis(20));
        second.poll(Duration::from_millis(20));
    }
    let raw = producer(&house, "raw");
    commit_offset(&raw, &TopicPartitionList::new(), &outdated).expect("THE TRAP: an outdated member commits, as it commits no offset");
    let error = commit_offset(&raw, &offset_of(&house, 0, 5), &outdated).expect_err("with an offset its generation is looked at");
    assert!(error.to_string().contains("generation"), "{error}");

    // Ours: an epoch without any output still commits each partition's offset; one without partitions commits nothing and is nobody's.
    assert!(log.committer.transact(Transaction::default()).expect("nothing to do").is_empty());
    assert_eq!(transactional_ids(&house), [] as [String; 0]);
    log.committer.transact(epoch(1, 1)).expect("committed");
    log.committer.transact(silent(1, 1)).expect("committed");
    log.committer.transact(silent(4, 1)).expect("committed");
    for partition in 0..PARTITIONS {
        assert_eq!(known(|| log.checkpoint.progress(partition)), at(4, 1), "{partition}");
    }
}

#[test]
fn who_never_joined_commits_unfenced() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    let raw = open_transaction(&house, &format!("{}-raw", house.name), 1);
    raw.commit_transaction(PATIENCE).expect("THE TRAP: generation -1 passes, though the group has a member and a generation");
    assert_eq!(ask_offset(&house, "read_committed", 0).expect("known"), Place::Offset(99));
    let error = log.checkpoint.progress(0).expect_err("nothing of this house");
    assert!(matches!(&error, LogError::Corrupt(why) if why.contains("is not of this house")), "{error}");

    // Ours: one that has not joined commits nothing, and neither does one that has left.
    let mut late = house.open();
    assert!(refusal(late.committer.transact(epoch(2, 2))).contains("not ours"));
    log.source.leave();
    let why = refusal(log.committer.transact(epoch(2, 2)));
    assert!(why.contains("not ours"), "{why}");
    assert_eq!(ask_offset(&house, "read_committed", 1).expect("known"), Place::Offset(1));
}

#[test]
fn a_member_commits_what_another_owns() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    let raw_member = member(&house, &house.name);
    let deadline = Instant::now() + PATIENCE;
    let mut ours: Vec<_> = (0..PARTITIONS).collect();
    while partitions_of(&raw_member).is_empty() {
        assert!(Instant::now() < deadline, "it gets nothing");
        raw_member.poll(Duration::from_millis(20));
        if let Polled::Revoked { partitions, .. } = log.source.poll(Duration::from_millis(20)).expect("polled") {
            ours.retain(|partition| !partitions.contains(partition));
            log.source.release(&partitions).expect("released");
        }
    }
    let (kept, given) = (ours[0], partitions_of(&raw_member)[0]);
    let raw = producer(&house, "raw");
    let membership = raw_member.group_metadata().expect("a membership");
    commit_offset(&raw, &offset_of(&house, kept, 99), &membership).expect("THE TRAP: a member commits what another owns");
    assert_eq!(ask_offset(&house, "read_committed", kept).expect("known"), Place::Offset(99));

    // Ours, of the same generation and a member like that one: what is not ours is not even sent to be committed.
    let error = refusal(log.committer.transact(Transaction { parts: vec![part(given, 2, 2)] }));
    assert!(error.contains(&format!("partition {given} is not ours")), "{error}");
    log.committer.recover(&|| true).expect("recovered");
    log.committer.transact(Transaction { parts: vec![part(kept, 2, 2)] }).expect("its own, as of the generation of now");
    assert_eq!(ask_offset(&house, "read_committed", given).expect("known"), Place::Offset(1));
    assert_eq!(ask_offset(&house, "read_committed", kept).expect("known"), Place::Offset(2));
}

#[test]
fn a_tail_comes_to_the_end_though_no_record_is_there() {
    let house = House::new();
    let mut config = house.config();
    config.standby.copies = 1;
    let mut log = kafka::open(&config).expect("an open log");
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    let mut tail = log.standby.take().expect("copies are wanted").tail;
    tail.follow(0).expect("followed");
    let mut offsets = Vec::new();
    let mut come_to = |tail: &mut dyn Tail, end: i64| {
        let deadline = Instant::now() + PATIENCE;
        while tail.place(0) != Some(end) {
            assert!(Instant::now() < deadline, "it must come to {end}, and is at {:?}", tail.place(0));
            tail.poll(SHORT, &mut |tailed| {
                if let Tailed::Record(_, offset, _) = tailed {
                    offsets.push(offset);
                }
            });
        }
        offsets.clone()
    };
    let committed_end = end(&house, "read_committed", 0);
    let records = come_to(&mut *tail, committed_end);
    assert!(records.last().is_some_and(|last| last + 1 < committed_end), "THE TRAP: the end of the transaction is no record: {records:?}");
    let stranger = producer(&house, "stranger");
    stranger.begin_transaction().expect("begun");
    let topic = house.topic("checkpoint");
    stranger.send(BaseRecord::<(), _>::to(&topic).payload("never committed").partition(0)).expect("sent");
    stranger.flush(PATIENCE).expect("delivered");
    stranger.abort_transaction(PATIENCE).expect("aborted");
    let aborted_end = end(&house, "read_committed", 0);
    assert!(aborted_end > committed_end, "THE TRAP: it has grown by what is never committed");
    assert_eq!(come_to(&mut *tail, aborted_end), records);
}

#[test]
fn the_stable_end_lies_before_what_is_committed() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let stranger = producer(&house, "stranger");
    stranger.begin_transaction().expect("begun");
    let topic = house.topic("checkpoint");
    stranger.send(BaseRecord::<(), _>::to(&topic).payload("an open chunk").partition(0)).expect("sent");
    stranger.flush(PATIENCE).expect("delivered");
    log.committer.transact(epoch(1, 1)).expect("committed");
    let (stable, true_end) = (end(&house, "read_committed", 0), end(&house, "read_uncommitted", 0));
    assert_eq!(stable, 0, "THE TRAP: to a reader of what is committed the partition ends before the committed chunk");
    assert!(true_end > 1, "{true_end}");

    // Ours: the restore knows what must be there, and waits for it.
    let Log { mut checkpoint, source, .. } = log;
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        let mut read = Vec::new();
        let complete = checkpoint.read(0, 0, &mut |_, chunk| {
            read.push(String::from_utf8_lossy(chunk).into_owned());
            std::ops::ControlFlow::Continue(())
        });
        done.send((complete, read)).expect("the test waits");
    });
    assert!(outcome.recv_timeout(SHORT).is_err(), "it must not end before the open transaction does");
    stranger.abort_transaction(PATIENCE).expect("aborted");
    let (complete, read) = outcome.recv_timeout(PATIENCE).expect("an answer");
    assert!(!complete.expect("read"), "to the end");
    assert_eq!(read, ["chunk 1 of 0"]);
    drop(source);
}

#[test]
fn offsets_that_are_pending_are_waited_for() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    log.committer.transact(epoch(1, 1)).expect("committed");
    // Of nobody who could be found dead.
    let stranger = open_transaction(&house, &format!("{}-stranger", house.name), 1);
    let answer = ask_offset(&house, "read_uncommitted", 0).expect("known");
    assert_eq!(answer, Place::Offset(1), "THE TRAP: without asking for stable offsets what may be outdated any moment is answered at once");
    let error = ask_offset(&house, "read_committed", 0).expect_err("nobody knows it yet");
    assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::OperationTimedOut), "{error}");

    let Log { mut checkpoint, source, .. } = log;
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(checkpoint.progress(0)));
    assert!(outcome.recv_timeout(2 * SHORT).is_err(), "it must not be known before the open transaction ends");
    stranger.abort_transaction(PATIENCE).expect("aborted");
    assert_eq!(outcome.recv_timeout(PATIENCE).expect("an answer").expect("known"), at(1, 1));
    drop(source);
}

#[test]
fn an_abort_fails_when_nobody_takes_receipts() {
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let raw = producer(&house, "raw");
    raw.begin_transaction().expect("begun");
    let topic = house.topic("changes");
    for n in 0..100 {
        raw.send(BaseRecord::to(&topic).key("o").payload(&format!("{n}")).partition(0)).expect("sent");
    }
    let error = raw.abort_transaction(SHORT).expect_err("THE TRAP: an abort waits for receipts that nobody takes");
    println!("{error}");
    drop(raw);

    // Ours: receipts are taken all the time, and nothing is aborted: a producer that failed is left, and the next one's start ends its
    // transaction, with records on their way.
    let mut doomed = epoch(1, 1);
    let many: Vec<_> = (0..20_000).flat_map(|_| part(1, 1, 1).changes).collect();
    doomed.parts[1].changes = many;
    doomed.parts.push(part(PARTITIONS, 1, 1)); // which is nobody's
    refusal(log.committer.transact(doomed));
    let began = Instant::now();
    log.committer.recover(&|| true).expect("recovered");
    println!("recovered in {} ms", began.elapsed().as_millis());
    log.committer.transact(epoch(2, 1)).expect("committed");
    assert_eq!(committed(&house, &house.topic("changes")).len(), 3, "nothing of what failed");
    assert_eq!(pieces(&mut log, 1), ["chunk 1 of 1"]);
}

#[test]
fn each_start_registers_an_id_of_its_own_before_it_writes() {
    let house = House::new();
    let mut ids = Vec::new();
    for n in 1..=2 {
        let mut log = house.open();
        await_partitions(&mut log, 3);
        // Ends the one before, which has left.
        let expected = (n > 1).then(|| at(1, 1)).flatten();
        assert_eq!(known(|| log.checkpoint.progress(0)), expected);
        log.committer.transact(epoch(n, n as u64)).expect("committed");
        let [id] = transactional_ids(&house).try_into().expect("one lives");
        ids.push(id);
        log.source.leave();
    }
    assert_ne!(ids[0], ids[1]);

    // Nowhere to register: nothing is written.
    let house = House::new();
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let admin: AdminClient<DefaultClientContext> = client(&house).create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let deleted = runtime.block_on(admin.delete_topics(&[&house.topic("instances")], &AdminOptions::new())).expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let why = refusal(log.committer.transact(epoch(1, 1)));
    println!("{why}");
    for partition in 0..PARTITIONS {
        assert_eq!(end(&house, "read_uncommitted", partition), 0, "{partition}");
    }
}

/// Commits epoch after epoch, says so, and is stopped and resumed meanwhile; says what it was refused, and ends.
#[test]
#[ignore = "the other process of a_sleeper_commits_nothing"]
fn sleeper() {
    let config: Config = toml::from_str(&env::var("STATEHOUSE_TEST_CONFIG").expect("run by another test")).expect("a configuration");
    let mut log = kafka::open(&config).expect("an open log");
    await_partitions(&mut log, 3);
    for n in 1.. {
        // Every other epoch is without output: it must be fenced as well.
        let transaction = if n % 2 == 0 { silent(n, n as u64 - 1) } else { epoch(n, n as u64) };
        if let Err(error) = log.committer.transact(transaction) {
            println!("refused after {}: {error}", n - 1);
            return;
        }
        println!("committed {n}");
        log.source.poll(Duration::ZERO).expect("polled");
    }
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("kill runs").success());
}

#[test]
fn a_sleeper_commits_nothing() {
    let mut house = House::new();
    house.session = SESSION;
    let mut sleeper = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "sleeper", "--ignored", "--nocapture"])
        .env("STATEHOUSE_TEST_CONFIG", house.toml())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(sleeper.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("committed 20")), "it commits");
    signal(&sleeper, "STOP");
    let slept = Instant::now();
    house.session = CALM_SESSION;
    let mut log = house.open();
    await_partitions(&mut log, 3);
    let (next, progress) = known(|| log.checkpoint.progress(0)).expect("progress");
    println!("the sleeper's partitions are known {} ms after it fell asleep, at {next} {progress}", slept.elapsed().as_millis());
    assert!(next >= 20, "what was told as committed is");
    let n = progress.n + 2;
    log.committer.transact(epoch(next + 1, n)).expect("committed");

    signal(&sleeper, "CONT");
    let refused = lines.find(|line| line.contains("refused after")).expect("it is refused");
    println!("{refused}");
    sleeper.wait().expect("it ends");
    log.committer.transact(epoch(next + 2, n + 2)).expect("committed");
    for partition in 0..PARTITIONS {
        assert_eq!(known(|| log.checkpoint.progress(partition)), at(next + 2, n + 2));
        let mut expected: Vec<_> = (1..=progress.n).filter(|n| n % 2 == 1).collect();
        expected.extend([n, n + 2]);
        let expected: Vec<_> = expected.into_iter().map(|n| format!("chunk {n} of {partition}")).collect();
        assert_eq!(pieces(&mut log, partition), expected, "nothing of the sleeper's after it fell asleep");
    }
    append(&log, "o", None);
}

#[test]
fn a_session_that_the_brokers_do_not_take_is_refused() {
    let mut house = House::new();
    house.session = Duration::from_secs(150); // the broker's bound is two minutes
    let mut log = house.open();
    let error = first_error(&mut log);
    let said = error.to_string();
    assert!(matches!(error, LogError::Setting(_)) && said.starts_with("kafka.session_timeout_ms = 150000: "), "{said}");
}

#[test]
fn a_group_of_another_kind_is_refused() {
    let house = House::new();
    house.open().source.leave(); // it made the topics
    let mut config = client(&house);
    config.set("group.id", &house.name).set("partition.assignment.strategy", "range");
    let other: BaseConsumer = config.create().expect("a consumer");
    other.subscribe(&[&house.topic("reports")]).expect("subscribed");
    let deadline = Instant::now() + PATIENCE;
    while partitions_of(&other).is_empty() {
        assert!(Instant::now() < deadline, "it does not join");
        other.poll(Duration::from_millis(20));
    }
    let mut log = house.open();
    let error = first_error(&mut log);
    assert!(matches!(&error, LogError::Setting(why) if why.contains(&house.name)), "{error}");
}

fn first_error(log: &mut Log) -> LogError {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "it waits for ever");
        if let Err(error) = log.source.poll(Duration::from_millis(50)) {
            return error;
        }
    }
}
