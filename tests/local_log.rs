//! The embedded log's ordinary life: writes in, epochs committed, writes acknowledged, everything there again after a restart; and what it
//! refuses. What a failing disk does to it stands in `local_log_faults.rs`.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use statehouse::{
    config::LocalConfig,
    log::{
        AppendError, Checkpoint, Log, LogError, Part, Polled, Progress, RejectRecord, SinkRecord, Start, Transaction,
        local::{LocalReader, open, open_readable, open_with},
    },
};

#[path = "support/disk.rs"]
mod disk;

type Answer = Result<(i32, i64), AppendError>;

fn config(path: &Path) -> LocalConfig {
    LocalConfig { path: path.to_owned(), partitions: 1, keep_records: 1000, queue_records: 1000 }
}

/// A log on a disk of its own, one partition, begun at 0; and a clock that stands at what the test says.
struct House {
    log: Log,
    reader: LocalReader,
    now_ms: Arc<AtomicI64>,
    answers: Arc<Mutex<Vec<(&'static str, Answer)>>>,
}

impl House {
    fn new(change: impl FnOnce(&mut LocalConfig)) -> Self {
        let disk = disk::Disk::default();
        let mut config = config(Path::new("in-memory"));
        change(&mut config);
        let now_ms = Arc::new(AtomicI64::new(1_000));
        let clock = now_ms.clone();
        let (log, reader) = open_with(move || Ok(disk.backend()), &config, "test", Arc::new(move || clock.load(Ordering::SeqCst))).unwrap();
        let mut house = Self { log, reader, now_ms, answers: Arc::default() };
        assert!(matches!(house.poll(), Polled::Assigned(all) if all == (0..config.partitions).collect::<Vec<_>>()));
        house.log.source.begin(0, 0).unwrap();
        house
    }

    fn poll(&mut self) -> Polled {
        self.log.source.poll(Duration::ZERO).unwrap()
    }

    fn append(&self, key: &'static str, value: Option<&str>) {
        let answers = self.answers.clone();
        let done = Box::new(move |answer| answers.lock().unwrap().push((key, answer)));
        self.log.appender.append(key.as_bytes(), value.map(str::as_bytes), done);
    }

    fn answers(&self) -> Vec<(&'static str, Answer)> {
        std::mem::take(&mut self.answers.lock().unwrap())
    }

    /// Polls until nothing comes; returns the keys that came.
    fn drain(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            match self.poll() {
                Polled::Records(batch) => {
                    let key = |key: std::ops::Range<usize>| String::from_utf8(batch.bytes[key].to_vec()).unwrap();
                    keys.extend(batch.records.iter().map(|record| key(record.key.clone().unwrap())));
                }
                Polled::CaughtUp(_) => {}
                Polled::Idle => return keys,
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    fn commit(&mut self, next_offset: i64) {
        self.log.committer.transact(Transaction { parts: vec![part(next_offset)] }).unwrap();
    }
}

fn part(next_offset: i64) -> Part {
    let progress = Progress::default();
    Part { partition: 0, next_offset, progress, pieces: Vec::new(), changes: Vec::new(), rejects: Vec::new() }
}

fn change(key: &str, value: Option<&str>) -> SinkRecord {
    let headers = if value.is_none() { vec![("statehouse-cause", "purge".to_owned())] } else { Vec::new() };
    SinkRecord { key: key.into(), value: value.map(|value| value.as_bytes().to_vec()), headers }
}

fn reject(offset: i64) -> RejectRecord {
    RejectRecord { offset, timestamp_ms: 7, key: None, value: Some(b"{".to_vec()), reason: "not_json", detail: "ends early".into() }
}

fn pieces(checkpoint: &mut dyn Checkpoint, from: i64) -> Result<Vec<(i64, Vec<u8>)>, LogError> {
    let mut pieces = Vec::new();
    let broken = checkpoint.read(0, from, &mut |offset, piece| {
        pieces.push((offset, piece.to_vec()));
        ControlFlow::Continue(())
    })?;
    assert!(!broken);
    Ok(pieces)
}

#[test]
fn a_write_is_polled_committed_and_acknowledged() {
    let mut house = House::new(|_| {});
    assert!(matches!(house.poll(), Polled::CaughtUp(0)));
    assert!(matches!(house.poll(), Polled::Idle), "caught up is said once");

    house.append("a", Some("1"));
    house.now_ms.store(2_000, Ordering::SeqCst);
    house.append("b", None);
    let Polled::Records(batch) = house.poll() else { panic!("no records") };
    assert_eq!((batch.partition, batch.bytes.as_slice()), (0, b"a1b".as_slice()));
    let record = |i: usize| {
        let record = &batch.records[i];
        (record.offset, record.timestamp_ms, record.key.clone(), record.value.clone(), record.canonical)
    };
    assert_eq!(record(0), (0, 1_000, Some(0..1), Some(1..2), true));
    assert_eq!(record(1), (1, 2_000, Some(2..3), None, true));
    assert!(matches!(house.poll(), Polled::CaughtUp(0)), "said again after records");
    assert!(house.answers().is_empty(), "nothing is committed yet");

    house.commit(1);
    assert!(matches!(house.answers().as_slice(), [("a", Ok((0, 0)))]), "only what was committed");
    house.commit(1);
    assert!(house.answers().is_empty());
    house.commit(2);
    assert!(matches!(house.answers().as_slice(), [("b", Ok((0, 1)))]));
}

#[test]
fn everything_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let progress = |n| Progress { n, digest: u64::MAX - n, start: 0 };
    let transaction = |next_offset, n| Transaction {
        parts: vec![Part {
            progress: progress(n),
            pieces: vec![vec![n as u8; 5], vec![n as u8; 900_000]],
            changes: vec![change("x", Some("up")), change("y", None)],
            rejects: vec![reject(next_offset - 1)],
            ..part(next_offset)
        }],
    };
    {
        let mut log = open(&config, "test").unwrap();
        assert_eq!(log.checkpoint.progress(0).unwrap(), None);
        assert_eq!(log.checkpoint.start_offset(0, Start::Latest).unwrap(), 0);
        assert_eq!(log.committer.transact(transaction(3, 1)).unwrap(), [(0, 0)]);
        assert_eq!(log.committer.transact(Transaction { parts: vec![part(3)] }).unwrap(), [], "no pieces, no offset");
    }
    let (mut log, reader) = open_readable(&config, "test").unwrap();
    assert_eq!(log.checkpoint.progress(0).unwrap(), Some((3, Progress::default())));
    assert_eq!(log.committer.transact(transaction(9, 2)).unwrap(), [(0, 2)], "offsets go on");
    assert_eq!(log.checkpoint.progress(0).unwrap(), Some((9, progress(2))));
    let read = pieces(&mut *log.checkpoint, 1).unwrap();
    let read: Vec<_> = read.iter().map(|(offset, piece)| (*offset, piece[0], piece.len())).collect();
    assert_eq!(read, [(1, 1, 900_000), (2, 2, 5), (3, 2, 900_000)]);
    assert!(log.checkpoint.read(0, 0, &mut |_, _| ControlFlow::Break(())).unwrap());

    let (x, y) = (change("x", Some("up")), change("y", None));
    assert_eq!(reader.changes(0, 1, 2).unwrap(), [(1, y.clone()), (2, x.clone())]);
    assert_eq!(reader.changes(0, 0, 100).unwrap(), [(0, x.clone()), (1, y.clone()), (2, x), (3, y)]);
    assert_eq!(reader.rejects(0, 0, 100).unwrap(), [(0, reject(2)), (1, reject(8))]);
}

#[test]
fn a_full_queue_refuses_until_writes_are_committed() {
    let mut house = House::new(|config| config.queue_records = 2);
    house.append("a", None);
    house.append("b", None);
    house.append("c", None);
    assert!(matches!(house.answers().as_slice(), [("c", Err(AppendError::Full))]));
    assert_eq!(house.drain(), ["a", "b"]);
    house.append("d", None);
    assert!(matches!(house.answers().as_slice(), [("d", Err(AppendError::Full))]), "handed out is not yet committed");
    house.commit(2);
    house.append("e", None);
    assert!(matches!(house.answers().as_slice(), [("a", Ok(_)), ("b", Ok(_))]));
    assert_eq!(house.drain(), ["e"]);
}

#[test]
fn the_queue_is_bounded_in_bytes_and_so_is_a_record() {
    let house = House::new(|_| {});
    let large = "x".repeat((1 << 20) - 1);
    house.append("tt", Some(&large));
    assert!(matches!(house.answers().as_slice(), [("tt", Err(AppendError::TooLarge { bytes: 1_048_577 }))]));
    for _ in 0..64 {
        house.append("o", Some(&large));
    }
    assert!(house.answers().is_empty());
    house.append("o", None);
    assert!(matches!(house.answers().as_slice(), [("o", Err(AppendError::Full))]));
}

#[test]
fn nothing_is_polled_while_held_or_suspended() {
    let mut house = House::new(|_| {});
    house.log.source.hold(true).unwrap();
    house.append("a", None);
    assert!(matches!(house.poll(), Polled::Idle));
    house.log.source.hold(false).unwrap();
    house.log.source.suspend(0).unwrap();
    assert!(matches!(house.poll(), Polled::Idle));
    house.log.source.begin(0, 40).unwrap();
    assert_eq!(house.drain(), ["a"]);
    house.commit(41);
    assert!(matches!(house.answers().as_slice(), [("a", Ok((0, 40)))]));
}

#[test]
fn after_a_hold_the_end_is_told_anew() {
    let mut house = House::new(|_| {});
    assert!(matches!(house.poll(), Polled::CaughtUp(0)));
    house.log.source.hold(true).unwrap();
    assert!(matches!(house.poll(), Polled::Idle));
    house.log.source.hold(false).unwrap();
    assert!(matches!(house.poll(), Polled::CaughtUp(0)), "nothing came meanwhile");
    assert!(matches!(house.poll(), Polled::Idle));
    house.log.source.hold(true).unwrap();
    house.append("a", None);
    house.log.source.hold(false).unwrap();
    assert!(matches!(house.poll(), Polled::Records(_)), "what waits comes first");
}

#[test]
fn the_end_lies_behind_what_is_queued() {
    let mut house = House::new(|_| {});
    house.append("a", None);
    house.append("b", None);
    assert_eq!(house.log.source.end(0), Some(2), "queued");
    house.drain();
    assert_eq!(house.log.source.end(0), Some(2), "handed out");
    house.log.source.suspend(0).unwrap();
    assert_eq!(house.log.source.end(0), None);
}

#[test]
fn partitions_take_turns_and_each_is_caught_up_on_its_own() {
    let mut house = House::new(|config| config.partitions = 2);
    house.log.source.begin(1, 0).unwrap();
    let zero = ["a", "b", "c", "d"].into_iter().find(|key| (house.log.partition_of)(key.as_bytes()) == 0).unwrap();
    // One partition always has more; the other must be heard all the same.
    let heard = (0..4).any(|_| {
        house.append(zero, None);
        matches!(house.poll(), Polled::CaughtUp(1))
    });
    assert!(heard);
}

#[test]
fn a_waiting_poll_wakes_for_a_write() {
    let mut house = House::new(|_| {});
    assert!(house.drain().is_empty());
    let appender = house.log.appender.clone();
    let writer = thread::spawn(move || appender.append(b"a", None, Box::new(|_| {})));
    assert!(matches!(house.log.source.poll(Duration::from_secs(600)).unwrap(), Polled::Records(_)));
    writer.join().unwrap();
}

#[test]
fn writes_without_a_future_are_answered() {
    let mut house = House::new(|_| {});
    house.append("committed-late", None);
    house.append("never", None);
    assert_eq!(house.drain().len(), 2);
    house.append("queued", None);
    house.log.source.leave();
    assert!(matches!(house.answers().as_slice(), [("queued", Err(AppendError::Failed(_)))]));
    house.append("after", None);
    assert!(matches!(house.answers().as_slice(), [("after", Err(AppendError::Failed(_)))]));
    house.commit(1);
    assert!(matches!(house.answers().as_slice(), [("committed-late", Ok((0, 0)))]));
    let answers = house.answers.clone();
    drop(house);
    assert!(matches!(answers.lock().unwrap().as_slice(), [("never", Err(AppendError::Failed(_)))]));
}

#[test]
fn only_the_newest_records_are_kept() {
    let mut house = House::new(|config| config.keep_records = 3);
    for i in 0..4 {
        let changes = vec![change(&format!("a{i}"), None), change(&format!("b{i}"), None)];
        house.log.committer.transact(Transaction { parts: vec![Part { changes, rejects: vec![reject(i)], ..part(i) }] }).unwrap();
    }
    let changes = house.reader.changes(0, 0, 100).unwrap();
    let changes: Vec<_> = changes.iter().map(|(offset, change)| (*offset, &*change.key)).collect();
    assert_eq!(changes, [(5, "b2"), (6, "a3"), (7, "b3")]);
    let rejects = house.reader.rejects(0, 0, 100).unwrap();
    assert_eq!(rejects.iter().map(|(offset, reject)| (*offset, reject.offset)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn the_checkpoint_is_cut_where_a_restore_begins() {
    let mut house = House::new(|_| {});
    let mut commit = |start, pieces| {
        let part = Part { progress: Progress { n: 1, digest: 0, start }, pieces, ..part(0) };
        house.log.committer.transact(Transaction { parts: vec![part] }).unwrap()
    };
    commit(0, vec![vec![0], vec![1], vec![2]]);
    assert_eq!(commit(2, vec![vec![3]]), [(0, 3)]);
    let checkpoint = &mut *house.log.checkpoint;
    assert_eq!(pieces(checkpoint, 2).unwrap(), [(2, vec![2]), (3, vec![3])]);
    assert_eq!(pieces(checkpoint, 4).unwrap(), [], "the end can be read from");
    for gone in [0, 1, 5, -1] {
        assert!(matches!(pieces(checkpoint, gone), Err(LogError::Corrupt(_))), "{gone}");
    }
}

/// Commits so many epochs of 16 KiB each, of which the newest `kept` are still needed. Returns how large the file became.
fn churn(log: &mut Log, path: &Path, (epochs, kept): (std::ops::Range<i64>, i64)) -> u64 {
    let mut largest = 0;
    for n in epochs {
        let piece: Vec<u8> = (0..16 << 10).map(|at: i64| ((at * 2_654_435_761 + n) >> 7) as u8).collect();
        let progress = Progress { n: n as u64, digest: 0, start: (n - kept).max(0) };
        let transaction = Transaction { parts: vec![Part { progress, pieces: vec![piece], ..part(n) }] };
        log.committer.transact(transaction).unwrap();
        largest = largest.max(path.join("house.redb").metadata().unwrap().len());
    }
    largest
}

#[test]
fn what_no_restore_needs_gives_its_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&config(directory.path()), "test").unwrap();
    let full = churn(&mut log, directory.path(), (1..100, 100));
    let steady = churn(&mut log, directory.path(), (100..600, 100));
    assert!(steady <= 3 * full, "with as much kept the file went from {full} to {steady} bytes");
    let large = churn(&mut log, directory.path(), (600..1_600, 1_600));
    drop(log);
    let mut log = open(&config(directory.path()), "test").unwrap();
    churn(&mut log, directory.path(), (1_600..1_610, 10));
    drop(log);
    let mut log = open(&config(directory.path()), "test").unwrap();
    let small = churn(&mut log, directory.path(), (1_610..1_620, 10));
    assert!(small < large / 4, "with little kept the file went from {large} to {small} bytes");
}

#[test]
fn an_epoch_may_be_much_larger_than_the_cache() {
    let mut house = House::new(|config| config.keep_records = u64::MAX);
    let pieces = (0..80).map(|i| vec![i; 900_000]).collect();
    let changes = (0..100_000).map(|i| change(&format!("object-{i}"), Some(&"v".repeat(300)))).collect();
    house.log.committer.transact(Transaction { parts: vec![Part { pieces, changes, ..part(100_000) }] }).unwrap();
    assert_eq!(house.reader.changes(0, 99_999, 10).unwrap()[0].1.key.as_ref(), "object-99999");
    assert_eq!(self::pieces(&mut *house.log.checkpoint, 79).unwrap()[0].1, vec![79; 900_000]);
}

#[test]
fn readers_work_beside_the_writer() {
    let mut house = House::new(|_| {});
    let (wrote, written) = mpsc::channel::<i64>();
    let reader = house.reader.clone();
    let reading = thread::spawn(move || {
        for count in written {
            let changes = reader.changes(0, 0, 1000).unwrap();
            assert!(changes.len() as i64 >= count && changes.len().is_multiple_of(2), "whole epochs, {count} at least: {}", changes.len());
        }
    });
    for i in 1..=100 {
        let changes = vec![change("a", None), change("b", None)];
        house.log.committer.transact(Transaction { parts: vec![Part { changes, ..part(i) }] }).unwrap();
        wrote.send(2 * i).unwrap();
    }
    drop(wrote);
    reading.join().unwrap();
}

fn refusal<T>(result: Result<T, LogError>) -> String {
    match result {
        Err(LogError::Setting(text)) => text,
        Err(other) => panic!("not a setting: {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn refuses_another_house_and_other_partitions() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&config(directory.path()), "ours").unwrap());
    let text = refusal(open(&config(directory.path()), "theirs"));
    assert!(["local.path", "\"ours\"", "\"theirs\""].iter().all(|part| text.contains(part)), "{text}");
    let text = refusal(open(&LocalConfig { partitions: 3, ..config(directory.path()) }, "ours"));
    assert!(["local.partitions = 3", "local.partitions = 1", "local.path"].iter().all(|part| text.contains(part)), "{text}");
    open(&config(directory.path()), "ours").unwrap();
}

#[test]
fn refuses_a_directory_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let (log, reader) = open_readable(&config(directory.path()), "test").unwrap();
    let text = refusal(open(&config(directory.path()), "test"));
    assert!(text.contains("local.path") && text.contains("in use"), "{text}");
    drop(log);
    refusal(open(&config(directory.path()), "test"));
    drop(reader);
    open(&config(directory.path()), "test").unwrap();
}

#[test]
fn refuses_senseless_settings() {
    let path = tempfile::tempdir().unwrap();
    let config = config(path.path());
    assert!(refusal(open(&LocalConfig { partitions: 0, ..config.clone() }, "test")).contains("local.partitions = 0"));
    assert!(refusal(open(&LocalConfig { queue_records: 0, ..config.clone() }, "test")).contains("local.queue_records = 0"));
    let file = path.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    assert!(refusal(open(&LocalConfig { path: file, ..config }, "test")).contains("a-file"));
}

#[test]
fn refuses_a_file_of_another_program() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("house.redb"), "something else entirely".repeat(1000)).unwrap();
    assert!(matches!(open(&config(directory.path()), "test"), Err(LogError::Corrupt(_))));
}

#[test]
fn a_checkpoint_without_progress_is_no_fresh_house() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(&config(directory.path()), "test").unwrap();
    log.committer.transact(Transaction { parts: vec![Part { pieces: vec![vec![1]], ..part(1) }] }).unwrap();
    drop(log);
    let database = redb::Database::open(directory.path().join("house.redb")).unwrap();
    let writing = database.begin_write().unwrap();
    assert!(writing.delete_table(redb::TableDefinition::<i32, (i64, u64, u64, i64)>::new("progress")).unwrap());
    writing.open_table(redb::TableDefinition::<i32, (i64, u64, u64, i64)>::new("progress")).unwrap();
    writing.commit().unwrap();
    drop(database);
    let mut log = open(&config(directory.path()), "test").unwrap();
    let error = log.checkpoint.progress(0).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(text) if text.contains("no progress")), "{error:?}");
}

#[cfg(unix)]
#[test]
fn others_cannot_look_into_it() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made").join("here");
    let _log = open(&config(&path), "test").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("house.redb"))), (0o700, 0o600));
}
