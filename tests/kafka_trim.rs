//! What no restore needs any more, on a real broker: its records go, and a restore from the committed start goes well all the same.

use std::{
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer};
use statehouse::log::{LogError, Part, Progress, Transaction, Trims};

#[path = "support/broker.rs"]
mod broker;
#[path = "support/kafka_house.rs"]
mod kafka_house;

use kafka_house::{House, PATIENCE, await_partitions, client, known, part};

#[test]
fn what_no_restore_needs_is_deleted_and_the_rest_restores() {
    let house = House { kafka: "trim_interval_ms = 100".to_owned(), ..House::new() };
    let mut log = house.open();
    await_partitions(&mut log, 3);
    known(|| log.checkpoint.progress(0)); // as every restore begins
    let mut places = Vec::new();
    for n in 1..=10 {
        let start = places.iter().rev().nth(3).copied().unwrap_or(0);
        let progress = Progress { n, digest: 7 * n, start };
        let transaction = Transaction { parts: vec![Part { progress, ..part(0, n as i64, n) }] };
        let placed = log.committer.transact(transaction).expect("committed");
        places.push(placed[0].1);
    }
    let start = places[5];
    assert_eq!(log.committer.trim(&[(0, start)]), Trims::default(), "it is done in a while");
    let reader: BaseConsumer = client(&house).create().expect("a reader");
    let low = |partition| reader.fetch_watermarks(&house.topic("checkpoint"), partition, PATIENCE).expect("watermarks").0;
    let deadline = Instant::now() + PATIENCE;
    let mut trims = Trims::default();
    while (low(0), trims.done) != (start, 1) {
        assert!(Instant::now() < deadline, "the first record is at {}, not at {start}; {trims:?}", low(0));
        thread::sleep(Duration::from_millis(20));
        let more = log.committer.trim(&[]);
        (trims.done, trims.failed) = (trims.done + more.done, trims.failed + more.failed);
    }
    assert_eq!((low(1), trims.failed), (0, 0), "nothing else was asked for");
    drop(log);

    let mut log = house.open();
    await_partitions(&mut log, 3);
    let (offset, progress) = known(|| log.checkpoint.progress(0)).expect("progress");
    assert_eq!((offset, progress), (10, Progress { n: 10, digest: 70, start }));
    let mut chunks = Vec::new();
    let mut read = |from, chunks: &mut Vec<String>| {
        log.checkpoint.read(0, from, &mut |_, chunk| {
            chunks.push(String::from_utf8_lossy(chunk).into_owned());
            ControlFlow::Continue(())
        })
    };
    assert!(!known(|| read(progress.start, &mut chunks)));
    assert_eq!(chunks, (6..=10).map(|n| format!("chunk {n} of 0")).collect::<Vec<_>>());
    let Err(LogError::Corrupt(said)) = read(start - 1, &mut chunks) else { panic!("what is gone can't be read") };
    assert!(said.contains("is not there any more"), "{said}");
}
